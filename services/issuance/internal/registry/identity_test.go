package registry

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

var t0 = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func registration() events.Registration {
	return events.Registration{Identity: "agent-1", Kind: events.KindAgent, Owner: "alice", Feature: "search",
		Purpose: "answers questions", KillSwitch: "identity", Scopes: []string{"read"}, Audiences: []string{"https://api"},
		Attestation: []events.Attestation{{Issuer: "https://idp", Subject: "agent-1"}}}
}

func allAlive(lineage.Kind, string) error { return nil }

// foldAll applies payloads as the log would.
func foldAll(t testing.TB, s Identity, payloads ...events.Payload) Identity {
	t.Helper()
	for _, p := range payloads {
		e, err := events.New(events.Origin{Source: "/test", Tenant: "acme", Time: t0}, p)
		if err != nil {
			t.Fatal(err)
		}
		s = Fold(s, bus.Stored{Event: e})
	}
	return s
}

func change(rev, by string) events.IdentityChange {
	return events.IdentityChange{Identity: "agent-1", Reason: "because", By: by, Revocation: rev}
}

func TestDeclare(t *testing.T) {
	active := foldAll(t, Identity{}, events.IdentityRegistered{Registration: registration()})
	edit := func(f func(*events.Registration)) events.Registration { r := registration(); f(&r); return r }
	dead := errors.New("owner bob is under revocation r9")
	for _, c := range []struct {
		name  string
		state Identity
		reg   events.Registration
		want  []string // event types
		err   error
	}{
		{"first", Identity{}, registration(), []string{events.TypeIdentityRegistered}, nil},
		{"again", active, registration(), nil, nil},
		{"changed", active, edit(func(r *events.Registration) { r.Scopes = nil }), []string{events.TypeIdentityRegistered}, nil},
		{"no owner", Identity{}, edit(func(r *events.Registration) { r.Owner = "" }), nil, ErrIncomplete},
		{"no feature", Identity{}, edit(func(r *events.Registration) { r.Feature = "" }), nil, ErrIncomplete},
		{"no purpose", Identity{}, edit(func(r *events.Registration) { r.Purpose = "" }), nil, ErrIncomplete},
		{"no kill switch", Identity{}, edit(func(r *events.Registration) { r.KillSwitch = "" }), nil, ErrIncomplete},
		{"unknown kind", Identity{}, edit(func(r *events.Registration) { r.Kind = "bot" }), nil, ErrIncomplete},
		{"a workload", Identity{}, edit(func(r *events.Registration) { r.Kind = events.KindWorkload }), []string{events.TypeIdentityRegistered}, nil},
		{"an api key", Identity{}, edit(func(r *events.Registration) { r.Kind = events.KindAPIKey }), []string{events.TypeIdentityRegistered}, nil},
		{"a third party's app", Identity{}, edit(func(r *events.Registration) {
			r.Kind, r.Vendor, r.GrantedScopes, r.ConsentedBy = events.KindOAuthApp, "Notetaker", []string{"files.read"}, "ana"
		}), []string{events.TypeIdentityRegistered}, nil},
		{"a third party's app of no vendor", Identity{}, edit(func(r *events.Registration) { r.Kind, r.DataReached = events.KindOAuthApp, []string{"mail"} }), nil, ErrIncomplete},
		{"vendor managed", Identity{}, edit(func(r *events.Registration) {
			r.Kind, r.Vendor, r.VendorManaged, r.Unknowns = events.KindServiceAccount, "CRM", true, []string{"its secret"}
		}), []string{events.TypeIdentityRegistered}, nil},
		{"vendor managed, all known", Identity{}, edit(func(r *events.Registration) {
			r.Kind, r.Vendor, r.VendorManaged = events.KindServiceAccount, "CRM", true
		}), nil, ErrIncomplete},
		{"vendor managed agent", Identity{}, edit(func(r *events.Registration) { r.Vendor, r.VendorManaged, r.Unknowns = "CRM", true, []string{"all"} }), nil, ErrIncomplete},
		{"only the consent changed", active, edit(func(r *events.Registration) { r.Vendor, r.ConsentedBy = "CRM", "ana" }), []string{events.TypeIdentityRegistered}, nil},
		{"revoked", foldAll(t, active, events.IdentityRevoked{IdentityChange: change("r1", "")}), registration(), nil, ErrEnded},
		{"retired", foldAll(t, active, events.IdentityRetired{IdentityChange: change("", "ops")}), registration(), nil, ErrEnded},
		{"dead owner", Identity{}, edit(func(r *events.Registration) { r.Owner = "bob" }), nil, ErrDeadHandle},
		{"frozen, same owner", foldAll(t, active, events.IdentityFrozen{IdentityChange: change("", "owner:alice")}), registration(), nil, nil},
		{"frozen, new owner", foldAll(t, active, events.IdentityFrozen{IdentityChange: change("", "owner:alice")}),
			edit(func(r *events.Registration) { r.Owner = "carol" }), []string{events.TypeIdentityRegistered, events.TypeIdentityReinstated}, nil},
		{"frozen by a revocation, new owner", foldAll(t, active, events.IdentityFrozen{IdentityChange: change("r1", "ir")}),
			edit(func(r *events.Registration) { r.Owner = "carol" }), []string{events.TypeIdentityRegistered}, nil},
	} {
		got, err := Declare(c.state, c.reg, func(k lineage.Kind, id string) error {
			if k == lineage.KindOwner && id == "bob" {
				return dead
			}
			return nil
		})
		require.ErrorIs(t, err, c.err, c.name)
		var types []string
		for _, p := range got {
			types = append(types, p.EventType())
		}
		require.Equal(t, c.want, types, c.name)
	}
}

func TestStatus(t *testing.T) {
	until := t0.Add(time.Hour)
	reg := events.IdentityRegistered{Registration: registration()}
	timed := change("r1", "ir")
	timed.Until = &until
	for _, c := range []struct {
		name string
		log  []events.Payload
		at   time.Time
		want Status
	}{
		{"nothing", nil, t0, StatusUnknown},
		{"registered", []events.Payload{reg}, t0, StatusActive},
		{"frozen", []events.Payload{reg, events.IdentityFrozen{IdentityChange: timed}}, t0, StatusFrozen},
		{"freeze over", []events.Payload{reg, events.IdentityFrozen{IdentityChange: timed}}, until, StatusActive},
		{"two freezes, one lifted", []events.Payload{reg, events.IdentityFrozen{IdentityChange: change("r1", "")},
			events.IdentityFrozen{IdentityChange: change("", "feature:search")}, events.IdentityReinstated{IdentityChange: change("r1", "")}}, t0, StatusFrozen},
		{"both lifted", []events.Payload{reg, events.IdentityFrozen{IdentityChange: change("r1", "")}, events.IdentityReinstated{IdentityChange: change("r1", "")}}, t0, StatusActive},
		{"revoked", []events.Payload{reg, events.IdentityRevoked{IdentityChange: change("r1", "")}}, t0, StatusRevoked},
		{"revoked, then everything else", []events.Payload{reg, events.IdentityRevoked{IdentityChange: change("r1", "")}, reg,
			events.IdentityReinstated{IdentityChange: change("r1", "")}, events.IdentityRetired{IdentityChange: change("", "x")}}, t0, StatusRevoked},
		{"retired", []events.Payload{reg, events.IdentityRetired{IdentityChange: change("", "x")}}, t0, StatusRetired},
		{"retired, then revoked", []events.Payload{reg, events.IdentityRetired{IdentityChange: change("", "x")}, events.IdentityRevoked{IdentityChange: change("r", "")}}, t0, StatusRevoked},
	} {
		require.Equal(t, c.want, foldAll(t, Identity{}, c.log...).Status(c.at), c.name)
	}
}

func TestDepartAndDisable(t *testing.T) {
	s := foldAll(t, Identity{}, events.IdentityRegistered{Registration: registration()})
	got := depart(s, events.OwnerDeparted{Owner: "alice"})
	require.Equal(t, []events.Payload{events.IdentityFrozen{IdentityChange: events.IdentityChange{
		Identity: "agent-1", Reason: "owner alice departed", By: "owner:alice"}}}, got)
	require.Empty(t, depart(foldAll(t, s, got...), events.OwnerDeparted{Owner: "alice"}), "frozen once")
	require.Empty(t, depart(s, events.OwnerDeparted{Owner: "bob"}), "the index named one too many")
	moved := foldAll(t, s, depart(s, events.OwnerDeparted{Owner: "alice", Successor: "carol"})...)
	require.Equal(t, "carol", moved.Registration.Owner)
	require.Equal(t, StatusActive, moved.Status(t0))
	require.Equal(t, StatusFrozen, foldAll(t, s, disable(s, events.FeatureDisabled{Feature: "search", By: "pm", Reason: "bad"})...).Status(t0))
	require.Empty(t, disable(s, events.FeatureDisabled{Feature: "other"}))
}

// TestNoResurrection: whatever happens to an identity after its revocation, it stays
// revoked, and no decision wants it otherwise. The state also survives its JSON.
func TestNoResurrection(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := foldAll(t, Identity{}, events.IdentityRegistered{Registration: registration()})
		revoked := false
		for range rapid.IntRange(1, 20).Draw(rt, "steps") {
			rev := rapid.SampledFrom([]string{"r1", "r2"}).Draw(rt, "rev")
			var out []events.Payload
			switch rapid.IntRange(0, 6).Draw(rt, "op") {
			case 0:
				out = revoke(s, change(rev, ""))
				revoked = true
			case 1:
				out = freeze(s, change(rev, ""))
			case 2:
				out = reinstate(s, change(rev, ""))
			case 3:
				r := registration()
				r.Owner = rapid.SampledFrom([]string{"alice", "bob"}).Draw(rt, "owner")
				var err error
				out, err = Declare(s, r, allAlive)
				if revoked && !errors.Is(err, ErrEnded) {
					rt.Fatalf("a revoked identity was declared again: %v", err)
				}
			case 4:
				out = depart(s, events.OwnerDeparted{Owner: "alice"})
			case 5:
				out = disable(s, events.FeatureDisabled{Feature: "search"})
			case 6: // what no decision makes may still stand on a log
				out = []events.Payload{events.IdentityRegistered{Registration: registration()}, events.IdentityReinstated{IdentityChange: change(rev, "")}}
			}
			s = foldAll(t, s, out...)
			b, err := json.Marshal(s)
			if err != nil {
				rt.Fatal(err)
			}
			var back Identity
			if err := json.Unmarshal(b, &back); err != nil {
				rt.Fatal(err)
			}
			if (s.Status(t0) == StatusRevoked) != revoked || back.Status(t0) != s.Status(t0) {
				rt.Fatalf("status %s, revoked %v", s.Status(t0), revoked)
			}
		}
	})
}
