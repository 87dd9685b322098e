package evaluate

import (
	"testing"
	"time"
)

// TestOwnCopy computes every row on the small copy of the data in testdata. Gates that
// need the whole data are held by make evaluate; here they must be computed, and those
// on attacks and agents must be met.
func TestOwnCopy(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	rep, err := Run(t.Context(), Options{Dir: "testdata", Now: func() time.Time { at = at.Add(time.Millisecond); return at }})
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]Row{}
	for _, r := range rep.Rows {
		if _, ok := seen[r.Metric]; ok {
			t.Errorf("%s is there twice", r.Metric)
		}
		seen[r.Metric] = r
		if r.Value == nil && r.Why == "" {
			t.Errorf("%s has neither a value nor a reason", r.Metric)
		}
		if r.Gate != nil {
			t.Logf("%-44s value %v gate %s %g ok %v n %d", r.Metric, value(r), r.Direction, *r.Gate, r.OK, r.N)
		}
	}
	for _, m := range []string{"techniques.found", "techniques.wrong_entity", "agents.hijack_recall", "bots.all_per_1k_days", "bots.automatic_revocations"} {
		if !seen[m].OK {
			t.Errorf("%s: %+v", m, seen[m])
		}
	}
}

func value(r Row) float64 {
	if r.Value == nil {
		return -1
	}
	return *r.Value
}

func TestWilson(t *testing.T) {
	for _, c := range []struct {
		hits, n   int
		low, high float64
	}{{0, 10, 0, 0.27753}, {10, 10, 0.72247, 1}, {34, 35, 0.85467, 0.99494}, {50, 100, 0.40383, 0.59617}} {
		if lo, hi := wilson(c.hits, c.n); lo != c.low || hi != c.high {
			t.Errorf("%d of %d: %g to %g, want %g to %g", c.hits, c.n, lo, hi, c.low, c.high)
		}
	}
}

func TestGates(t *testing.T) {
	if r := number("x", 1, 1).gated(atMost, 1); !r.OK {
		t.Error("a value at its gate is refused")
	}
	if r := share("x", 1, 2).gated(atLeast, 0.51); r.OK {
		t.Error("a value below its gate is accepted")
	}
	if r := missing("x", "why").gated(atMost, 1); r.OK {
		t.Error("what was not computed is accepted")
	}
}

func TestUnknownMetric(t *testing.T) {
	if _, err := Run(t.Context(), Options{Dir: "testdata", Only: "nothing", Now: func() time.Time { return time.Time{} }}); err == nil {
		t.Error("an unknown metric is accepted")
	}
	if _, err := Run(t.Context(), Options{Dir: "no/such/directory", Now: time.Now}); err == nil {
		t.Error("a missing directory is accepted")
	}
}
