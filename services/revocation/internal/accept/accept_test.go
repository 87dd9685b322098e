package accept

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"pgregory.net/rapid"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func TestDecide(t *testing.T) {
	limits := Limits{Breadth: 50, Cap: 10, FreezeTTL: time.Hour}
	identity := Thing{Kind: lineage.KindIdentity, Tenant: "acme", ID: "bot"}
	thing := func(k lineage.Kind) Thing { return Thing{Kind: k, Tenant: "acme", ID: "x"} }
	foreign := Thing{Kind: lineage.KindIdentity, Tenant: "globex", ID: "bot"}
	trust := Thing{Kind: lineage.KindTrust, Tenant: "acme", ID: "acme->globex"}
	frozen := &Holder{Revocation: "f", Mode: events.ModeFreeze, Until: new(now.Add(time.Minute))}
	revoked := &Holder{Revocation: "r", Mode: events.ModeRevoke}
	ask := func(f func(*Request)) Request {
		r := Request{Revocation: "new", Tenant: "acme", RevocationRequested: events.RevocationRequested{Mode: events.ModeRevoke, RequestedBy: "ana"}}
		if f != nil {
			f(&r)
		}
		return r
	}
	operator := func(r *Request) { r.Tenant = SystemTenant }
	mode := func(m events.Mode) func(*Request) { return func(r *Request) { r.Mode = m } }
	known := func(t Thing, f func(*Facts)) Facts {
		x := Facts{Thing: t, Known: true, LiveKnown: true, Live: 1}
		if f != nil {
			f(&x)
		}
		return x
	}
	for _, c := range []struct {
		name     string
		req      Request
		facts    Facts
		code     string
		existing string
	}{
		{"own identity", ask(nil), known(identity, nil), "", ""},
		{"operator, any tenant", ask(operator), known(foreign, nil), "", ""},
		{"other tenant's", ask(nil), known(foreign, nil), CodeForbidden, ""},
		{"other tenant's, not known", ask(nil), Facts{Thing: foreign}, CodeForbidden, ""},
		{"key by a tenant", ask(func(r *Request) { r.Confirm = 1 }), known(Thing{Kind: lineage.KindKey, ID: "k1"}, nil), CodeForbidden, ""},
		{"not known", ask(nil), Facts{Thing: identity}, CodeUnknownTarget, ""},
		{"bare handle not known", ask(nil), Facts{}, CodeUnknownTarget, ""},
		{"already revoked", ask(nil), known(identity, func(f *Facts) { f.Holder = revoked }), CodeAlreadyRevoked, "r"},
		{"own kill entry, redelivered", ask(func(r *Request) { r.Revocation = "r" }), known(identity, func(f *Facts) { f.Holder = revoked; f.Live = 1000 }), "", ""},
		{"freeze of a revoked handle", ask(mode(events.ModeFreeze)), known(identity, func(f *Facts) { f.Holder = revoked }), CodeAlreadyRevoked, "r"},
		{"revoke replaces a freeze", ask(nil), known(identity, func(f *Facts) { f.Holder = frozen }), "", ""},
		{"freeze", ask(mode(events.ModeFreeze)), known(identity, nil), "", ""},
		{"lift", ask(mode(events.ModeLift)), known(identity, func(f *Facts) { f.Holder = frozen }), "", "f"},
		{"lift of what is free", ask(mode(events.ModeLift)), known(identity, nil), CodeNotFrozen, ""},
		{"lift of what is revoked", ask(mode(events.ModeLift)), known(identity, func(f *Facts) { f.Holder = revoked }), CodeNotFrozen, "r"},
		{"lift completed after a crash", ask(mode(events.ModeLift)), known(identity, func(f *Facts) { f.Ending = "f" }), "", "f"},
		{"lift of another tenant's", ask(mode(events.ModeLift)), known(foreign, func(f *Facts) { f.Holder = frozen }), CodeForbidden, ""},
		{"trust, by the tenant that receives", ask(func(r *Request) { r.Tenant = "globex" }), known(trust, nil), "", ""},
		{"trust, by a third tenant", ask(func(r *Request) { r.Tenant = "lobex" }), known(trust, nil), CodeForbidden, ""},
		{"trust, frozen by the tenant that receives", ask(func(r *Request) { r.Tenant, r.Mode = "globex", events.ModeFreeze }), known(trust, nil), CodeForbidden, ""},
		{"trust, lifted by the tenant that receives", ask(func(r *Request) { r.Tenant, r.Mode = "globex", events.ModeLift }), known(trust, func(f *Facts) { f.Holder = frozen }), CodeForbidden, ""},
		{"identity with a trust's name", ask(func(r *Request) { r.Tenant = "globex" }), known(Thing{Kind: lineage.KindIdentity, Tenant: "acme", ID: "acme->globex"}, nil), CodeForbidden, ""},
		{"unsafe server", ask(nil), known(identity, func(f *Facts) { f.Unsafe = errors.New("mend it so") }), CodeUnsafe, ""},
		{"wide needs confirm", ask(nil), known(identity, func(f *Facts) { f.Live = 51 }), CodeConfirm, ""},
		{"at the breadth", ask(nil), known(identity, func(f *Facts) { f.Live = 50 }), "", ""},
		{"wide, confirmed", ask(func(r *Request) { r.Confirm = 51 }), known(identity, func(f *Facts) { f.Live = 51 }), "", ""},
		{"wide, confirmed as something else", ask(func(r *Request) { r.Confirm = 3 }), known(identity, func(f *Facts) { f.Live = 51 }), CodeConfirm, ""},
		{"tenant needs confirm", ask(nil), known(thing(lineage.KindTenant), nil), CodeConfirm, ""},
		{"owner needs confirm", ask(nil), known(thing(lineage.KindOwner), nil), CodeConfirm, ""},
		{"feature needs confirm", ask(nil), known(thing(lineage.KindFeature), nil), CodeConfirm, ""},
		{"domain needs confirm", ask(operator), known(Thing{Kind: lineage.KindDomain, ID: "i"}, nil), CodeConfirm, ""},
		{"key needs confirm", ask(operator), known(Thing{Kind: lineage.KindKey, ID: "k"}, nil), CodeConfirm, ""},
		{"bare handle needs confirm", ask(operator), known(Thing{}, nil), CodeConfirm, ""},
		{"tenant, confirmed", ask(func(r *Request) { r.Confirm = 1 }), known(thing(lineage.KindTenant), nil), "", ""},
		{"tenant with nothing alive, confirmed", ask(func(r *Request) { r.Confirm = 1 }), known(thing(lineage.KindTenant), func(f *Facts) { f.Live = 0 }), "", ""},
		{"graph lost, narrow", ask(nil), known(identity, func(f *Facts) { f.LiveKnown = false }), "", ""},
		{"graph lost, broad", ask(func(r *Request) { r.Confirm = 1 }), known(thing(lineage.KindOwner), func(f *Facts) { f.LiveKnown = false }), CodeConfirm, ""},
		{"below the cap", ask(nil), known(identity, func(f *Facts) { f.Broad, f.TenantBroad = 9, 39 }), "", ""},
		{"at the cap", ask(nil), known(identity, func(f *Facts) { f.Broad = 10 }), CodeCap, ""},
		{"tenant at the cap", ask(nil), known(identity, func(f *Facts) { f.TenantBroad = 40 }), CodeCap, ""},
		{"leaf is free", ask(nil), known(thing(lineage.KindTask), func(f *Facts) { f.Broad, f.All, f.TenantBroad = 99, 99, 99 }), "", ""},
		{"credential is free", ask(nil), known(thing(lineage.KindCredential), func(f *Facts) { f.Broad = 99 }), "", ""},
		{"delegation is free", ask(nil), known(thing(lineage.KindDelegation), func(f *Facts) { f.Broad = 99 }), "", ""},
		{"automatic leaf is not", ask(func(r *Request) { r.Automatic = true }), known(thing(lineage.KindTask), func(f *Facts) { f.All = 10 }), CodeCap, ""},
		{"automatic below", ask(func(r *Request) { r.Automatic = true }), known(thing(lineage.KindTask), func(f *Facts) { f.All = 9 }), "", ""},
		{"lift is not capped", ask(mode(events.ModeLift)), known(identity, func(f *Facts) { f.Holder, f.Broad = frozen, 99 }), "", "f"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := Decide(c.req, c.facts, limits, now)
			if v.Code != c.code || v.Existing != c.existing {
				t.Fatalf("got %q, existing %q; want %q, %q (%s)", v.Code, v.Existing, c.code, c.existing, v.Reason)
			}
			if (v.Confirm > 0) != (c.code == CodeConfirm && c.facts.LiveKnown) || v.Confirm > 0 && !Confirmed(v.Confirm, c.facts.Live) {
				t.Errorf("asks to confirm %d of %d", v.Confirm, c.facts.Live)
			}
			if v.Code != "" && v.Reason == "" {
				t.Error("refused without a reason")
			}
			if v.Code == "" && c.req.Mode == events.ModeFreeze && (v.Until == nil || !v.Until.Equal(now.Add(time.Hour))) {
				t.Errorf("freeze until %v", v.Until)
			}
		})
	}
	v := Decide(ask(nil), known(identity, func(f *Facts) { f.Unsafe = errors.New("put sync_interval: always") }), limits, now)
	if !strings.Contains(v.Reason, "sync_interval: always") {
		t.Errorf("the refusal does not say how to mend it: %s", v.Reason)
	}
	limits.AllowUnsafe = true
	if v := Decide(ask(nil), known(identity, func(f *Facts) { f.Unsafe = errors.New("x") }), limits, now); v.Code != "" {
		t.Errorf("unsafe server refused though allowed: %s", v.Code)
	}
}

// TestRevokeIsFinal: whatever the facts, nothing but the revoke itself acts on a
// revoked handle.
func TestRevokeIsFinal(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		req := Request{Revocation: rapid.SampledFrom([]string{"a", "b"}).Draw(t, "revocation"), Tenant: rapid.SampledFrom([]string{"acme", "lanyard"}).Draw(t, "tenant"),
			RevocationRequested: events.RevocationRequested{Mode: rapid.SampledFrom([]events.Mode{events.ModeRevoke, events.ModeFreeze, events.ModeLift}).Draw(t, "mode"),
				Confirm: rapid.Int64Range(0, 200).Draw(t, "confirm"), Automatic: rapid.Bool().Draw(t, "automatic")}}
		f := Facts{Thing: Thing{Kind: rapid.SampledFrom(lineage.Kinds).Draw(t, "kind"), Tenant: "acme"}, Known: rapid.Bool().Draw(t, "known"),
			Live: rapid.Int64Range(0, 200).Draw(t, "live"), LiveKnown: rapid.Bool().Draw(t, "liveKnown"), Holder: &Holder{Revocation: "held", Mode: events.ModeRevoke}}
		if v := Decide(req, f, Limits{Breadth: 50, Cap: 1000}, now); v.Code == "" {
			t.Fatalf("%s of a revoked handle was allowed", req.Mode)
		}
	})
}

func TestConfirmed(t *testing.T) {
	for _, c := range []struct {
		confirm, live int64
		want          bool
	}{{0, 0, false}, {-1, 0, false}, {1, 0, true}, {41, 41, true}, {41, 60, true}, {41, 200, false}, {1000, 41, false}, {1 << 60, 100, false}, {100_000, 120_000, true}} {
		if got := Confirmed(c.confirm, c.live); got != c.want {
			t.Errorf("Confirmed(%d, %d) = %v", c.confirm, c.live, got)
		}
	}
}
