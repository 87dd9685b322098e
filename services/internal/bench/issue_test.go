package bench_test

import (
	"testing"

	"github.com/lanyard-nhi/lanyard/services/internal/bench"
)

func TestIssue(t *testing.T) {
	rows, err := bench.Issue(t.Context(), bench.Options{Rounds: 1, Dir: t.TempDir(), Short: true, Progress: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"issue.throughput", "issue.throughput_vs_recorded", "issue.http", "issue.http_vs_records", "issue.latency_p99_half_load", "policy.decision_p99", "policy.decision_p99_vs_noise", "issue.memory_per_token"}
	if len(rows) != len(want) {
		t.Fatalf("%d rows, want %d", len(rows), len(want))
	}
	for i, r := range rows {
		if r.Metric != want[i] || r.Value <= 0 && r.Unit != "B" {
			t.Errorf("row %d: %+v", i, r)
		}
		t.Logf("%s: %.4g %s (limit %.4g, ratio %.2f)", r.Metric, r.Value, r.Unit, r.Limit, r.Ratio)
	}
}
