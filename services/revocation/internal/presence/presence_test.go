package presence

import (
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

func TestExpected(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	guard := func(lease, stale float64, change ...func(*Guard)) Guard {
		g := Guard{Seen: at, fresh: at, GuardAttached: events.GuardAttached{LeaseSeconds: lease, StaleSeconds: stale, Fresh: true}}
		for _, f := range change {
			f(&g)
		}
		return g
	}
	closed := func(g *Guard) { g.Fresh = false }
	never := func(g *Guard) { g.Fresh, g.fresh = false, time.Time{} }
	left := func(g *Guard) { g.Detached = true }
	for name, c := range map[string]struct {
		g     Guard
		until time.Duration // expected up to and including this after it was seen; -1: never
		lease time.Duration // how long a revocation accepted then waits for it
	}{
		"fresh":                     {guard(15, 0), 31 * time.Second, 16 * time.Second},
		"long lease":                {guard(60, 0), 76 * time.Second, 61 * time.Second},
		"short lease":               {guard(10, 0), 30 * time.Second, 11 * time.Second},
		"closed":                    {guard(15, 0, closed), 16 * time.Second, 16 * time.Second},
		"serves stale":              {guard(15, 300), 331 * time.Second, 316 * time.Second},
		"serves stale, no lease":    {guard(15, 300, closed), 331 * time.Second, 316 * time.Second},
		"serves stale, never fresh": {guard(15, 300, never), -1, 0},
		"left in good order":        {guard(15, 300, left), -1, 0},
	} {
		if got := c.g.expected(at.Add(max(c.until, 0))); got != (c.until >= 0) {
			t.Errorf("%s: expected after %s: %v", name, c.until, got)
		}
		if c.g.expected(at.Add(c.until + 1)) {
			t.Errorf("%s: still expected after %s", name, c.until)
		}
		if c.until >= 0 && c.g.lease() != c.lease {
			t.Errorf("%s: waited for %s, want %s", name, c.g.lease(), c.lease)
		}
	}
}
