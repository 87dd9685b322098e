package grant

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

var t0 = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

var limits = Limits{Now: t0, TTL: 5 * time.Minute, MaxTTL: 15 * time.Minute, MaxDepth: 2}

func TestNarrow(t *testing.T) {
	identity := Ceiling{Name: "identity a", Scope: []string{"read", "write"}, Audience: []string{"https://a", "https://b"}}
	parent := Ceiling{Name: "the subject_token", Scope: []string{"read"}, Audience: []string{"https://a"}, Expires: t0.Add(time.Minute)}
	trust := Ceiling{Name: "trust x->y", Scope: []string{"read"}, AnyAudience: true, MaxDepth: 1}
	for _, c := range []struct {
		name     string
		ask      Ask
		depth    int
		ceilings []Ceiling
		want     Granted
		code     string
		text     string
	}{
		{"as asked", Ask{Scope: []string{"read"}, Audience: []string{"https://b"}}, 0, []Ceiling{identity},
			Granted{Scope: []string{"read"}, Audience: []string{"https://b"}, Expires: t0.Add(5 * time.Minute)}, "", ""},
		{"scope left out is all that is allowed", Ask{Audience: []string{"https://a"}}, 1, []Ceiling{identity, parent, trust},
			Granted{Scope: []string{"read"}, Audience: []string{"https://a"}, Expires: t0.Add(time.Minute), Depth: 1}, "", ""},
		{"the only audience", Ask{}, 1, []Ceiling{identity, parent},
			Granted{Scope: []string{"read"}, Audience: []string{"https://a"}, Expires: t0.Add(time.Minute), Depth: 1}, "", ""},
		{"short life", Ask{Audience: []string{"https://a"}, TTL: 10 * time.Second}, 1, []Ceiling{identity, parent},
			Granted{Scope: []string{"read"}, Audience: []string{"https://a"}, Expires: t0.Add(10 * time.Second), Depth: 1}, "", ""},
		{"several audiences to choose from", Ask{}, 0, []Ceiling{identity}, Granted{}, InvalidTarget, "name the audience, one or more of: https://a, https://b"},
		{"scope of nobody", Ask{Scope: []string{"admin"}, Audience: []string{"https://a"}}, 0, []Ceiling{identity}, Granted{}, InvalidScope, "scope admin is not among those of identity a: read, write"},
		{"wider than the parent", Ask{Scope: []string{"write"}, Audience: []string{"https://a"}}, 1, []Ceiling{identity, parent}, Granted{}, InvalidScope, "of the subject_token: read"},
		{"another audience than the parent's", Ask{Audience: []string{"https://b"}}, 1, []Ceiling{identity, parent}, Granted{}, InvalidTarget, "of the subject_token: https://a"},
		{"ttl beyond the parent", Ask{Audience: []string{"https://a"}, TTL: 2 * time.Minute}, 1, []Ceiling{identity, parent}, Granted{}, InvalidRequest, "ttl of 2m0s would outlive the subject_token, which ends in 1m0s"},
		{"ttl above the ceiling", Ask{Audience: []string{"https://a"}, TTL: time.Hour}, 0, []Ceiling{identity}, Granted{}, InvalidRequest, "above the ceiling of 15m0s"},
		{"parent about to end", Ask{Audience: []string{"https://a"}}, 1, []Ceiling{identity, {Name: "p", Scope: []string{"read"}, Audience: []string{"https://a"}, Expires: t0.Add(500 * time.Millisecond)}}, Granted{}, InvalidGrant, "less than a second"},
		{"too deep", Ask{Audience: []string{"https://a"}}, 3, []Ceiling{identity}, Granted{}, InvalidRequest, "would be 3 long, at most 2"},
		{"too deep for the trust", Ask{Audience: []string{"https://a"}}, 2, []Ceiling{identity, parent, trust}, Granted{}, InvalidRequest, "would be 2 long, trust x->y allows 1"},
		{"nothing in common", Ask{Audience: []string{"https://a"}}, 1, []Ceiling{identity, {Name: "p", Scope: []string{"other"}, AnyAudience: true}}, Granted{}, InvalidScope, "no scope is allowed by all of"},
		{"no ceiling", Ask{}, 0, nil, Granted{}, InvalidScope, "no scope"},
	} {
		got, e := Narrow(c.ask, c.depth, c.ceilings, limits)
		if c.code == "" {
			require.Nil(t, e, c.name)
			require.Equal(t, c.want, got, c.name)
			continue
		}
		require.NotNil(t, e, c.name)
		require.Equal(t, c.code, e.Code, c.name)
		require.Contains(t, e.Reason, c.text, c.name)
	}
}

// TestNarrowNeverWidens: whatever is asked, what is granted is a subset of what was
// asked and of every ceiling in every dimension.
func TestNarrowNeverWidens(t *testing.T) {
	words := []string{"a", "b", "c", "d"}
	set := rapid.Custom(func(t *rapid.T) []string {
		return rapid.SliceOfNDistinct(rapid.SampledFrom(words), 0, 4, rapid.ID).Draw(t, "set")
	})
	wide := rapid.OneOf(set, rapid.Just(words), rapid.Just(words), rapid.Just(words)) // narrow ones alone would refuse nearly everything
	granted := 0
	rapid.Check(t, func(t *rapid.T) {
		ask := Ask{Scope: set.Draw(t, "scope"), Audience: set.Draw(t, "audience"),
			TTL: time.Duration(rapid.OneOf(rapid.Just(0), rapid.IntRange(0, 1200)).Draw(t, "ttl")) * time.Second}
		var ceilings []Ceiling
		for range rapid.IntRange(1, 3).Draw(t, "ceilings") {
			c := Ceiling{Scope: wide.Draw(t, "cs"), Audience: wide.Draw(t, "ca"), AnyAudience: rapid.Bool().Draw(t, "any"), MaxDepth: rapid.IntRange(0, 3).Draw(t, "cd")}
			if rapid.Bool().Draw(t, "ends") {
				c.Expires = t0.Add(time.Duration(rapid.IntRange(-60, 1200).Draw(t, "end")) * time.Second)
			}
			ceilings = append(ceilings, c)
		}
		depth := rapid.IntRange(0, 4).Draw(t, "depth")
		g, e := Narrow(ask, depth, ceilings, limits)
		if e != nil {
			return
		}
		granted++
		subset := func(a, b []string) bool {
			return !slices.ContainsFunc(a, func(s string) bool { return !slices.Contains(b, s) })
		}
		check := func(ok bool, what string) {
			if !ok {
				t.Fatalf("%s: granted %+v for %+v under %+v", what, g, ask, ceilings)
			}
		}
		check(len(g.Scope) > 0 && len(g.Audience) > 0, "empty")
		check(len(ask.Scope) == 0 || subset(g.Scope, ask.Scope) && subset(ask.Scope, g.Scope), "not what was asked")
		check(len(ask.Audience) == 0 || subset(g.Audience, ask.Audience), "other audience than asked")
		check(g.Expires.After(t0) && !g.Expires.After(t0.Add(limits.MaxTTL)), "life")
		check(ask.TTL == 0 || !g.Expires.After(t0.Add(ask.TTL)), "longer than asked")
		check(g.Depth == depth && depth <= limits.MaxDepth, "depth")
		for _, c := range ceilings {
			check(subset(g.Scope, c.Scope), "scope")
			check(c.AnyAudience || subset(g.Audience, c.Audience), "audience")
			check(c.Expires.IsZero() || !g.Expires.After(c.Expires), "time")
			check(c.MaxDepth == 0 || g.Depth <= c.MaxDepth, "depth of ceiling")
		}
	})
	require.NotZero(t, granted, "the generator must reach grants")
}
