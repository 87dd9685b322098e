package policies

import (
	"context"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/policy"
)

// past is a History in memory.
type past []events.Payload

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func (p past) SequenceAt(context.Context, string, string, time.Time) (uint64, error) { return 1, nil }

func (p past) Read(_ context.Context, _, filter string, _ uint64) iter.Seq2[bus.Stored, error] {
	return func(yield func(bus.Stored, error) bool) {
		for i, payload := range p {
			info, _ := events.Lookup(payload.EventType())
			if filter != events.LogSubject("*", info.Noun, info.Verb, "*") {
				continue
			}
			e, err := events.New(events.Origin{Source: "/test", Tenant: "acme", Time: noon.Add(time.Duration(i) * time.Minute)}, payload)
			if !yield(bus.Stored{Event: e, Sequence: uint64(i + 1)}, err) {
				return
			}
		}
	}
}

func over(open bool, scope ...string) *events.DecisionContext {
	return &events.DecisionContext{Kind: events.KindAgent, Owner: "ana", Feature: "f", OpenScope: open, Scope: scope, Audience: []string{"x"}}
}

func issued(identity string, open bool, granted []string, scope ...string) events.CredentialIssued {
	return events.CredentialIssued{Identity: identity, Scope: granted, Context: over(open, scope...), Policy: "cedar/1",
		IssuedAt: noon, ExpiresAt: noon.Add(5 * time.Minute)}
}

func replayed(t *testing.T, text string, h past, x Exceptions) *replay {
	t.Helper()
	if x == nil {
		x = func(time.Time, string, string, string) []events.ExceptionGranted { return nil }
	}
	r := newReplay(set(t, policy.File{Name: "a.cedar", Text: text}), x, noon, noon.Add(-time.Hour))
	require.NoError(t, r.run(t.Context(), h, func(Totals) {}))
	return r
}

func TestReplay(t *testing.T) {
	const text = `@id("all") permit (principal, action, resource);
@id("short") @max_ttl("1m") permit (principal == Lanyard::Identity::"acme/brief", action, resource);
@id("no-writes") forbid (principal, action, resource) when { context.scope == "write" };`
	h := past{
		issued("bot", false, []string{"write"}, "write"),
		issued("bot", false, []string{"write"}, "write"),
		issued("bot", true, []string{"read"}, "read", "write"), // the same then and now
		issued("both", false, []string{"read", "write"}, "read", "write"),
		issued("brief", false, []string{"read"}, "read"),
		events.CredentialDenied{Identity: "poor", Policy: "cedar/1", Context: over(false, "read")},
		events.CredentialDenied{Identity: "bad", Policy: "invariants/1"},
		events.CredentialIssued{Identity: "old", Policy: "builtin/1", Scope: []string{"read"}},
	}
	r := replayed(t, text, h, nil)
	require.Equal(t, Totals{Version: r.set.Version(), Since: noon.Add(-time.Hour), Decisions: 6, Same: 2, Gaining: 1, Losing: 3, Shorter: 1, Changes: 4,
		NotReplayed: map[string]int{NoPolicy: 1, NoContext: 1}}, r.totals)
	var got []Change
	for _, c := range r.list() {
		got = append(got, *c)
	}
	at := func(i int) time.Time { return noon.Add(time.Duration(i) * time.Minute) }
	require.Equal(t, []Change{
		{Lose, "acme", "bot", "write", "x", 2, at(0), at(1), []string{"no-writes"}},
		{Lose, "acme", "both", "read", "x", 1, at(3), at(3), []string{"no-writes"}}, // asked together, so lost together
		{Lose, "acme", "both", "write", "x", 1, at(3), at(3), []string{"no-writes"}},
		{Gain, "acme", "poor", "read", "x", 1, at(5), at(5), []string{"all"}},
	}, got)

	lifted := replayed(t, text, h, func(_ time.Time, tenant, identity, feature string) []events.ExceptionGranted {
		require.Equal(t, "acme f", tenant+" "+feature)
		return []events.ExceptionGranted{{Exception: "e", Policy: "no-writes", Identity: identity}}
	})
	require.Zero(t, lifted.totals.Losing)
}

// TestReplayIsBounded: what is not listed is counted.
func TestReplayIsBounded(t *testing.T) {
	var h past
	for i := range maxChanges + 7 {
		h = append(h, issued(fmt.Sprint("bot-", i), false, []string{"read"}, "read"))
	}
	r := replayed(t, `@id("none") forbid (principal, action, resource);`, h, nil)
	require.Len(t, r.list(), maxChanges)
	require.Equal(t, 7, r.totals.Unlisted)
	require.Equal(t, len(h), r.totals.Losing)
}
