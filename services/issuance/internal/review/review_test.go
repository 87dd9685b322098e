package review

import (
	"context"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/policy"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/registry"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// world is what a Reviewer stands on, in memory.
type world struct {
	t          *testing.T
	set        *policy.Set
	known      string // version of the latest activation
	issued     []events.CredentialIssued
	identity   registry.Identity
	dead       map[lineage.Handle]bool
	exceptions []events.ExceptionGranted
	namer      *lineage.Namer
}

func (w *world) Active() *policy.Set { return w.set }

func (w *world) Know(_ context.Context, version string, _ time.Time) error {
	if w.known != version {
		return errNotRead
	}
	return nil
}

func (w *world) Load(context.Context, string, string) (registry.Identity, uint64, error) {
	return w.identity, 1, nil
}

func (w *world) SequenceAt(_ context.Context, _, _ string, at time.Time) (uint64, error) {
	require.Equal(w.t, noon.Add(-16*time.Minute), at)
	return 1, nil
}

func (w *world) Read(context.Context, string, string, uint64) iter.Seq2[bus.Stored, error] {
	return func(yield func(bus.Stored, error) bool) {
		for _, p := range w.issued {
			e, err := events.New(events.Origin{Source: "/test", Tenant: "acme", Time: p.IssuedAt}, p)
			if !yield(bus.Stored{Event: e}, err) {
				return
			}
		}
	}
}

func (w *world) Dead(_ time.Time, handles ...lineage.Handle) (lineage.Handle, string, bool) {
	for _, h := range handles {
		if w.dead[h] {
			return h, "rev", true
		}
	}
	return lineage.Handle{}, "", false
}

func (w *world) Exceptions(time.Time, string, string, string) []events.ExceptionGranted {
	return w.exceptions
}

func newWorld(t *testing.T, text string) (*world, *Reviewer) {
	t.Helper()
	set, err := policy.Parse([]policy.File{{Name: "a.cedar", Text: `@id("all") permit (principal, action, resource);` + text}})
	require.NoError(t, err)
	namer, err := lineage.NewNamer(make([]byte, 32))
	require.NoError(t, err)
	w := &world{t: t, set: set, dead: map[lineage.Handle]bool{}, namer: namer, identity: registry.Identity{Registration: &events.Registration{
		Identity: "bot", Kind: events.KindAgent, Owner: "ana", Feature: "f", Scopes: []string{"read", "write"}, Audiences: []string{"x"}}}}
	return w, &Reviewer{Policies: w, History: w, Loader: w, Ledger: w, Namer: namer, MaxTTL: 15 * time.Minute, Log: zap.NewNop(), Now: func() time.Time { return noon }}
}

// live is a credential that was issued a minute ago and lives four more.
func live(id string, scope ...string) events.CredentialIssued {
	return events.CredentialIssued{Credential: id, Identity: "bot", Task: "t", Scope: scope, Audience: []string{"x"},
		IssuedAt: noon.Add(-time.Minute), ExpiresAt: noon.Add(4 * time.Minute), Context: &events.DecisionContext{Kind: events.KindAgent, Environment: "production"}}
}

func (w *world) cause(p events.Payload) events.Event {
	e, err := events.New(events.Origin{Source: "/test", Tenant: "acme", Time: noon, Discriminator: "x"}, p)
	require.NoError(w.t, err)
	return e
}

// ended is "mode kind id" of what is asked for.
func ended(t *testing.T, out []events.Event) []string {
	t.Helper()
	list := []string{}
	for _, e := range out {
		require.NoError(t, events.Validate(e))
		p, err := events.As[events.RevocationRequested](e)
		require.NoError(t, err)
		list = append(list, fmt.Sprintf("%s %s %s", p.Mode, p.Target.Kind, p.Target.ID))
	}
	return list
}

func TestRiskFreezesWhatItForbids(t *testing.T) {
	w, r := newWorld(t, `@id("no-writes") forbid (principal, action, resource) when { principal.risk == "high" && context.scope == "write" };`)
	over, old := live("over", "write"), live("old", "write")
	over.ExpiresAt, old.Context = noon, nil
	w.issued = []events.CredentialIssued{live("reads", "read"), live("writes", "write"), live("both", "read", "write"), over, old, live("dead", "write")}
	w.dead[w.namer.Name(lineage.KindCredential, "acme", "dead")] = true
	p := events.RiskChanged{Identity: "bot", Level: "high", Previous: "low", Reason: "test"}
	out, err := r.riskChanged(t.Context(), w.cause(p), p)
	require.NoError(t, err)
	require.Empty(t, out, "the registry says low still")

	w.identity.Risk, w.identity.RiskSince = "high", noon
	out, err = r.riskChanged(t.Context(), w.cause(p), p)
	require.NoError(t, err)
	require.ElementsMatch(t, []string{"freeze credential writes", "freeze credential both"}, ended(t, out))
	again, err := r.riskChanged(t.Context(), w.cause(p), p)
	require.NoError(t, err)
	require.Equal(t, out, again, "the same cause asks for the same")
	asked, err := events.As[events.RevocationRequested](out[0])
	require.NoError(t, err)
	require.Equal(t, int64(241), asked.TTLSeconds)
	require.Contains(t, asked.Reason, "policy no-writes forbids it")

	w.exceptions = []events.ExceptionGranted{{Exception: "e", Policy: "no-writes"}}
	out, err = r.riskChanged(t.Context(), w.cause(p), p)
	require.NoError(t, err)
	require.Empty(t, out)
}

func TestRegistrationAndPoliciesRevoke(t *testing.T) {
	w, r := newWorld(t, `@id("no-sales") forbid (principal in Lanyard::Feature::"acme/sales", action, resource);`)
	w.issued = []events.CredentialIssued{live("reads", "read"), live("writes", "write")}
	registered := func() []string {
		p := events.IdentityRegistered{Registration: *w.identity.Registration}
		out, err := r.identityRegistered(t.Context(), w.cause(p), p)
		require.NoError(t, err)
		return ended(t, out)
	}
	require.Empty(t, registered())
	w.identity.Registration.Scopes = []string{"read"}
	require.Equal(t, []string{"revoke credential writes"}, registered())
	w.identity.Registration.Feature = "sales"
	require.ElementsMatch(t, []string{"revoke credential reads", "revoke credential writes"}, registered())
	w.identity.Registration.Feature, w.identity.Registration.Audiences = "f", nil
	require.Len(t, registered(), 2)

	w, r = newWorld(t, `@id("short") @max_ttl("1m") permit (principal, action, resource);`)
	young := live("young", "read")
	young.IssuedAt = noon.Add(-30 * time.Second)
	w.issued = []events.CredentialIssued{young, live("old", "read")}
	p := events.PolicyActivated{Version: w.set.Version(), Parts: 1, Policies: 2, By: "op"}
	_, err := r.policyActivated(t.Context(), w.cause(p), p)
	require.ErrorIs(t, err, errNotRead, "tried again when this process has them")
	w.known = p.Version
	out, err := r.policyActivated(t.Context(), w.cause(p), p)
	require.NoError(t, err)
	require.Equal(t, []string{"revoke credential old"}, ended(t, out))
	w.set = nil
	_, err = r.policyActivated(t.Context(), w.cause(p), p)
	require.ErrorIs(t, err, errNotRead)
}

// TestCaps: many credentials of one identity end by one freeze of it.
func TestCaps(t *testing.T) {
	w, r := newWorld(t, `@id("none") forbid (principal, action, resource);`)
	for i := range perIdentity + 1 {
		w.issued = append(w.issued, live(fmt.Sprint("c", i), "read"))
	}
	p := events.RiskChanged{Identity: "bot", Level: "high", Reason: "test"}
	out, err := r.riskChanged(t.Context(), w.cause(p), p)
	require.NoError(t, err)
	require.Equal(t, []string{"freeze identity bot"}, ended(t, out))
	w.issued = w.issued[1:]
	out, err = r.riskChanged(t.Context(), w.cause(p), p)
	require.NoError(t, err)
	require.Len(t, out, perIdentity)
	for i := range perChange {
		w.issued = append(w.issued, live(fmt.Sprint("d", i), "read"))
	}
	_, err = r.riskChanged(t.Context(), w.cause(p), p)
	require.NoError(t, err)
}

// TestEndedExceptionRevokesWhatLeantOnIt: the others stay, and so does what another
// exception allows.
func TestEndedExceptionRevokesWhatLeantOnIt(t *testing.T) {
	w, r := newWorld(t, `@id("no-writes") forbid (principal, action, resource) when { context.scope == "write" };`)
	leant, other := live("leant", "write"), live("other", "write")
	leant.Exceptions, other.Exceptions = []string{"e1"}, []string{"e2"}
	w.issued = []events.CredentialIssued{leant, other, live("reads", "read")}
	w.exceptions = []events.ExceptionGranted{{Exception: "e1", Policy: "no-writes"}} // the ledger is behind
	p := events.ExceptionEnded{Exception: "e1", By: "op", Reason: "done", EndedAt: noon}
	out, err := r.exceptionEnded(t.Context(), w.cause(p), p)
	require.NoError(t, err)
	require.Equal(t, []string{"revoke credential leant"}, ended(t, out))
	w.exceptions = append(w.exceptions, events.ExceptionGranted{Exception: "e3", Policy: "no-writes"})
	out, err = r.exceptionEnded(t.Context(), w.cause(p), p)
	require.NoError(t, err)
	require.Empty(t, out)
}
