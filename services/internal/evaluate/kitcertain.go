package evaluate

import (
	"fmt"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly"
)

// seconds is a random time of from to to seconds.
func (t *trial) seconds(from, to int) time.Duration {
	return time.Duration(from+t.rnd.IntN(to-from+1)) * time.Second
}

func success(a *events.Activity) { a.Outcome = events.OutcomeSuccess }

// certainFamilies are the injections that a rule decides.
func certainFamilies() []family {
	return []family{
		{"use_after_revoke", []string{"D01"}, true, func(t *trial) { afterRevoke(t, true) }, func(t *trial) { afterRevoke(t, false) }},
		{"use_after_expiry", []string{"D02"}, true, func(t *trial) { aroundExpiry(t, 61, 120) }, func(t *trial) { aroundExpiry(t, -120, 59) }},
		{"superseded_key", []string{"D03"}, true, func(t *trial) { oldKey(t, 24*3600+60, 72*3600) }, func(t *trial) { oldKey(t, 0, 24*3600-60) }},
		{"token_replay", []string{"D04"}, true, func(t *trial) { secondHolder(t, true) }, func(t *trial) { secondHolder(t, false) }},
		{"cross_tenant", []string{"D05"}, true, func(t *trial) { acrossTenants(t, false) }, func(t *trial) { acrossTenants(t, true) }},
		{"delegation", []string{"D06"}, true, func(t *trial) { delegates(t, true) }, func(t *trial) { delegates(t, false) }},
		{"canary", []string{"D07"}, true, func(t *trial) { decoy(t, "decoy-key") }, func(t *trial) { decoy(t, "other-key") }},
	}
}

// afterRevoke revokes a handle; the use is after it, or before it and delivered late.
func afterRevoke(t *trial, after bool) {
	const handle = "KITKITKITKITKITK"
	t.fact(0, func(g *anomaly.Engine, m anomaly.Meta) []anomaly.Output {
		return g.RevocationAccepted(m, &events.RevocationAccepted{Revocation: m.ID, Mode: events.ModeRevoke, Handle: handle, AcceptedAt: m.Time, By: "ops", Reason: "kit",
			Target: events.Target{Kind: "task", Tenant: "public", ID: "kit"}})
	})
	d := t.seconds(6, 600)
	if !after {
		d = -t.seconds(1, 300)
	}
	u := t.use(d, true, func(a *events.Activity) { success(a); a.Lineage = []string{"ROOTROOTROOTROOT", handle} })
	if !after {
		u.delay = 10 * time.Minute
	}
}

func aroundExpiry(t *trial, from, to int) {
	exp := t.at
	t.use(t.seconds(from, to), true, func(a *events.Activity) { success(a); a.CredentialExp = &exp })
}

func oldKey(t *trial, from, to int) {
	old := t.usual.Credential
	t.fact(0, func(g *anomaly.Engine, m anomaly.Meta) []anomaly.Output {
		g.Activated(m, events.Rotation{Rotation: m.ID, Object: "deploy-key", KeyID: "new", Previous: old, At: m.Time, Reason: "due"})
		return nil
	})
	t.use(t.seconds(from, to), true, success)
}

// secondHolder uses a token from another network: by somebody else, or by the same
// workload behind a changed address.
func secondHolder(t *trial, stolen bool) {
	jti := "jti-" + t.name
	t.use(0, false, func(a *events.Activity) { success(a); a.JTI = jti })
	t.use(t.seconds(30, 1200), true, func(a *events.Activity) {
		success(a)
		a.JTI, a.SourceIP = jti, "203.0.113.9"
		switch {
		case stolen && t.rnd.IntN(3) == 0:
			a.Confirmation = "thief"
			a.Workload, a.UserAgent = "laptop", "curl/8.1"
		case stolen:
			a.Workload, a.UserAgent = "laptop", "curl/8.1"
		}
	})
}

func acrossTenants(t *trial, partner bool) {
	t.fact(-2*time.Minute, func(g *anomaly.Engine, m anomaly.Meta) []anomaly.Output {
		m.Tenant = "partner"
		g.Registered(m, events.Registration{Identity: "them", Owner: "o", Feature: "f", Purpose: "p", Kind: events.KindServiceAccount, KillSwitch: "identity"})
		return nil
	})
	if partner {
		t.fact(-time.Minute, func(g *anomaly.Engine, m anomaly.Meta) []anomaly.Output {
			g.TrustDeclared(m, &events.TrustDeclared{Trust: "public->partner", To: "partner"})
			return nil
		})
	}
	// Facts of the registry reach detection before uses that come minutes later.
	for i := range t.out {
		t.out[i].delay = time.Second
	}
	u := t.use(t.seconds(60, 600), true, func(a *events.Activity) { success(a); a.ResourceTenant = "partner" })
	u.delay = 10 * time.Minute
}

// delegates makes a chain that is too deep, too wide, wider in scope, or closed; or
// one that keeps to the limits.
func delegates(t *trial, wrong bool) {
	chain := func(n int) (out []events.Party) {
		for i := range n {
			out = append(out, events.Party{Tenant: "public", Identity: fmt.Sprint("parent", i)})
		}
		return out
	}
	kind := t.rnd.IntN(3)
	t.use(t.seconds(1, 600), true, func(a *events.Activity) {
		success(a)
		a.Delegation, a.Scopes, a.ParentScopes = chain(1+t.rnd.IntN(4)), []string{"read"}, []string{"read", "write"}
		switch {
		case !wrong:
		case kind == 0:
			a.Delegation = chain(5 + t.rnd.IntN(3))
		case kind == 1:
			a.Scopes = []string{"read", "admin"}
		default:
			a.Delegation = append(a.Delegation[:1], events.Party{Tenant: "public", Identity: a.Identity})
		}
	})
}

func decoy(t *trial, used string) {
	t.fact(-time.Hour, func(g *anomaly.Engine, m anomaly.Meta) []anomaly.Output { g.Decoy(m.Tenant, "decoy-key"); return nil })
	t.out[0].delay = time.Second
	t.use(t.seconds(1, 600), true, func(a *events.Activity) {
		a.Credential = used
		if t.rnd.IntN(2) == 0 {
			a.Outcome = events.OutcomeDenied
		}
	})
}
