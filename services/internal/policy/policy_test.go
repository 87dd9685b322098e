package policy

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
)

func parse(t testing.TB, texts ...string) *Set {
	t.Helper()
	var files []File
	for i, text := range texts {
		files = append(files, File{string(rune('a'+i)) + ".cedar", text})
	}
	s, err := Parse(files)
	require.NoError(t, err)
	return s
}

// bot is a first grant to acme/bot.
func bot(change ...func(*Facts)) Facts {
	f := Facts{Tenant: "acme", Identity: "bot", Task: "t-1", Time: time.Date(2026, 11, 24, 3, 0, 0, 0, time.UTC),
		Context: events.DecisionContext{Kind: events.KindAgent, Owner: "ana", Feature: "reports", IdentityPurpose: "nightly report", Grant: "jwt-bearer",
			Environment: "production", Attestation: events.Attestation{Issuer: "https://idp.example", Subject: "wl/bot"}}}
	for _, c := range change {
		c(&f)
	}
	return f
}

const permitAll = `@id("all") permit (principal, action, resource);`

func TestDefaultPermits(t *testing.T) {
	s, err := Parse(Default())
	require.NoError(t, err)
	v := s.Ask(bot()).Decide("read", "https://a.example")
	require.Equal(t, Verdict{Allowed: true, Version: s.Version(), Reasons: []string{"registered"}}, v)
	require.Regexp(t, `^cedar/[0-9a-f]{16}$`, s.Version())
}

// TestConditions: every fact reaches the policies under the name that the schema gives
// it.
func TestConditions(t *testing.T) {
	delegated := func(f *Facts) {
		f.Context.Depth, f.Context.From = 2, &events.Party{Tenant: "globex", Identity: "boss"}
	}
	for _, c := range []struct {
		when   string
		facts  Facts
		permit bool
	}{
		{`principal == Lanyard::Identity::"acme/bot"`, bot(), true},
		{`principal in Lanyard::Tenant::"acme"`, bot(), true},
		{`principal in Lanyard::Owner::"acme/ana" && principal in Lanyard::Feature::"acme/reports"`, bot(), true},
		{`principal in Lanyard::Tenant::"globex"`, bot(), false},
		{`resource == Lanyard::Audience::"https://a.example" && context.scope == "read"`, bot(), true},
		{`principal.tenant == "acme" && principal.name == "bot" && principal.kind == "agent" && principal.owner == "ana"`, bot(), true},
		{`principal.feature == "reports" && principal.purpose like "nightly *" && principal.backend == "" && !principal.vendor_managed`, bot(), true},
		{`principal.risk == "low"`, bot(), true},
		{`["high", "critical"].contains(principal.risk)`, bot(func(f *Facts) { f.Context.Risk = "high" }), true},
		{`context.task == "t-1" && context.environment == "production" && context.data_sensitivity == "" && context.purpose == ""`, bot(), true},
		{`context.attestation.issuer == "https://idp.example" && context.attestation.subject == "wl/bot"`, bot(), true},
		{`context.grant == "jwt-bearer" && context.depth == 0 && context.from.tenant == "" && context.ttl_seconds == 0`, bot(), true},
		{`context.launched_by.issuer == "https://people.example" && context.launched_by.subject == "ana"`, bot(func(f *Facts) {
			f.Context.LaunchedBy = &events.Attestation{Issuer: "https://people.example", Subject: "ana"}
		}), true},
		{`context.launched_by.subject == ""`, bot(), true},
		{`context.width == 3`, bot(func(f *Facts) { f.Context.Width = 3 }), true},
		{`context.depth <= 2 && context.from.tenant == "globex" && context.from.identity == "boss"`, bot(delegated), true},
		{`context.time.toTime() < duration("6h")`, bot(), true},
		{`context.workload.hasTag("ref") && context.workload.getTag("ref") == "refs/heads/main"`, bot(func(f *Facts) {
			f.Context.Claims = map[string]string{"ref": "refs/heads/main"}
		}), true},
		{`context.workload.hasTag("ref") && context.workload.getTag("ref") == "refs/heads/main"`, bot(), false},
		{`context.workload == Lanyard::Workload::"https://idp.example wl/bot"`, bot(), true},
		{`context.time < datetime("2026-11-24")`, bot(), false},
	} {
		s := parse(t, `@id("p") permit (principal, action, resource) when { `+c.when+` };`)
		require.Equal(t, c.permit, s.Ask(c.facts).Decide("read", "https://a.example").Allowed, c.when)
	}
}

func TestForbidWinsAndSaysWhy(t *testing.T) {
	s := parse(t, permitAll, `
@id("no-prod") @reason("production needs a person")
forbid (principal, action, resource) when { context.environment == "production" };
@id("no-writes")
forbid (principal in Lanyard::Tenant::"acme", action, resource) when { context.scope == "write" };`)
	q := s.Ask(bot())
	v := q.Decide("write", "https://a.example")
	require.False(t, v.Allowed)
	require.Equal(t, []string{"no-prod", "no-writes"}, v.Reasons)
	require.Equal(t, "policy no-writes forbids it; production needs a person (policy no-prod)", v.Why)
	nobody := parse(t, `@id("p") permit (principal == Lanyard::Identity::"acme/other", action, resource);`).Ask(bot()).Decide("read", "x")
	require.Equal(t, "no policy permits it", nobody.Why)
	require.Empty(t, nobody.Reasons)
}

func TestShortestTTLCounts(t *testing.T) {
	s := parse(t, permitAll,
		`@id("a") @max_ttl("4m") permit (principal, action, resource);`,
		`@id("b") @max_ttl("2m") permit (principal in Lanyard::Tenant::"acme", action, resource);`,
		`@id("c") @max_ttl("1s") permit (principal in Lanyard::Tenant::"globex", action, resource);`)
	require.Equal(t, 2*time.Minute, s.Ask(bot()).Decide("read", "x").MaxTTL)
}

func TestExceptions(t *testing.T) {
	s := parse(t, permitAll, `
@id("no-prod") forbid (principal, action, resource) when { context.environment == "production" };
@id("no-dumps") forbid (principal, action, resource) when { context.scope == "dump" };
@id("never") @exceptions("never") forbid (principal, action, resource) when { context.scope == "root" };`)
	for _, c := range []struct {
		scope string
		have  []Exception
		lean  []string
		allow bool
	}{
		{"read", nil, nil, false},
		{"read", []Exception{{ID: "e1", Policy: "no-prod"}, {ID: "e0", Policy: "no-dumps"}}, []string{"e1"}, true},
		{"dump", []Exception{{ID: "e1", Policy: "no-prod"}}, nil, false},
		{"dump", []Exception{{ID: "e1", Policy: "no-prod"}, {ID: "e0", Policy: "no-dumps"}}, []string{"e0", "e1"}, true},
		{"dump", []Exception{{ID: "e1", Policy: "no-prod", Scopes: []string{"dump"}}, {ID: "e0", Policy: "no-dumps", Audiences: []string{"y", "x"}}}, []string{"e0", "e1"}, true},
		{"dump", []Exception{{ID: "e1", Policy: "no-prod", Scopes: []string{"read"}}, {ID: "e0", Policy: "no-dumps"}}, nil, false},
		{"dump", []Exception{{ID: "e1", Policy: "no-prod"}, {ID: "e0", Policy: "no-dumps", Audiences: []string{"y"}}}, nil, false},
		{"root", []Exception{{ID: "e1", Policy: "no-prod"}, {ID: "e2", Policy: "never"}}, nil, false},
		{"read", []Exception{{ID: "e1", Policy: "all"}}, nil, false},
	} {
		v := s.Ask(bot(func(f *Facts) { f.Exceptions = c.have })).Decide(c.scope, "x")
		require.Equal(t, c.allow, v.Allowed, "%s %v", c.scope, c.have)
		require.Equal(t, c.lean, v.Exceptions, "%s %v", c.scope, c.have)
	}
	unneeded := parse(t, permitAll).Ask(bot(func(f *Facts) { f.Exceptions = []Exception{{ID: "e1", Policy: "all"}} })).Decide("read", "x")
	require.True(t, unneeded.Allowed)
	require.Empty(t, unneeded.Exceptions, "what was allowed anyway leans on nothing")
	nothing := parse(t, `@id("f") forbid (principal, action, resource);`).Ask(bot(func(f *Facts) { f.Exceptions = []Exception{{ID: "e1", Policy: "f"}} })).Decide("read", "x")
	require.False(t, nothing.Allowed, "an exception permits nothing by itself")
}

// TestFailedForbidForbids: an evaluation that overflows must not open what it guards.
func TestFailedForbidForbids(t *testing.T) {
	const overflow = `when { context.depth + 9223372036854775807 > 0 && context.ttl_seconds * 9223372036854775807 > 0 }`
	f := bot(func(f *Facts) { f.Context.Depth, f.Context.TTLSeconds = 1, 60 })
	v := parse(t, permitAll, `@id("f") forbid (principal, action, resource) `+overflow+`;`).Ask(f).Decide("read", "x")
	require.False(t, v.Allowed)
	require.Equal(t, []string{"f"}, v.Reasons)
	require.Contains(t, v.Why, "policy f could not be evaluated")
	require.True(t, parse(t, permitAll, `@id("p") permit (principal, action, resource) `+overflow+`;`).Ask(f).Decide("read", "x").Allowed)
}

func TestParseRefuses(t *testing.T) {
	for text, want := range map[string]string{
		`permit (principal, action, resource);`: `a.cedar:1: the policy has no id`,
		permitAll + "\n" + permitAll:            `a.cedar:2: @id("all") is the id of the policy at a.cedar:1 too`,
		"\n\n" + `@id("x") permit (principal, action, resource) when { principal.rsk == "low" };`:  "a.cedar:3: policy x: attribute `rsk`",
		`@id("x") permit (principal, action, resource) when { context.depth == "1" };`:             `a.cedar:1: policy x: `,
		`@id("x") permit (principal is Lanyard::Person, action, resource);`:                        `Lanyard::Person`,
		`@id("x") permit (principal, action == Lanyard::Action::"read", resource);`:                `Lanyard::Action::"read"`,
		`@id("x") permit (principal in Lanyard::Audience::"https://a.example", action, resource);`: `a.cedar:1: policy x: `,
		`@id("x") @max_tll("1m") permit (principal, action, resource);`:                            `@max_tll means nothing here`,
		`@id("x") @max_ttl("1h") permit (principal, action, resource);`:                            `whole seconds from 1s to 15m0s`,
		`@id("x") @max_ttl("1m") forbid (principal, action, resource);`:                            `@max_ttl is for permits`,
		`@id("x") @exceptions("always") forbid (principal, action, resource);`:                     `can only be "never"`,
		`@id("x") @exceptions("never") permit (principal, action, resource);`:                      `can only be "never"`,
		`@id("x y") permit (principal, action, resource);`:                                         `@id("x y")`,
		`@id("x") @reason("") permit (principal, action, resource);`:                               `@reason needs`,
		`@id("x") permit (principal, action, resource)`:                                            `a.cedar:1`,
		``:     `no policies`,
		"\xff": `not UTF-8`,
	} {
		_, err := Parse([]File{{"a.cedar", text}})
		require.ErrorIs(t, err, ErrInvalid, text)
		require.ErrorContains(t, err, want, text)
	}
	for _, name := range []string{"", "a.txt", "../a.cedar", ".cedar", strings.Repeat("a", 80) + ".cedar"} {
		_, err := Parse([]File{{name, permitAll}})
		require.ErrorContains(t, err, "file name", name)
	}
	_, err := Parse([]File{{"a.cedar", permitAll}, {"a.cedar", permitAll}})
	require.ErrorContains(t, err, "there twice")
	_, err = Parse(make([]File, MaxFiles+1))
	require.ErrorContains(t, err, "257 files")
}

// TestVersionIsTheContent: the order of files does not matter, everything else does.
func TestVersionIsTheContent(t *testing.T) {
	a, b := File{"a.cedar", permitAll}, File{"b.cedar", `@id("b") permit (principal, action, resource);`}
	require.Equal(t, Version([]File{a, b}), Version([]File{b, a}))
	for _, other := range [][]File{{a}, {b}, {{"b.cedar", a.Text}, {"a.cedar", b.Text}}, {a, {"b.cedar", b.Text + "\n"}}, {{"a.cedar", a.Text + "b.cedar"}, {"", b.Text}}} {
		require.NotEqual(t, Version([]File{a, b}), Version(other))
	}
}
