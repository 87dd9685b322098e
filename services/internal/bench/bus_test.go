package bench_test

import (
	"testing"

	"github.com/lanyard-nhi/lanyard/services/internal/bench"
)

// The suite runs and yields its rows; figures are not asserted.
func TestBus(t *testing.T) {
	rows, err := bench.Bus(t.Context(), bench.Options{Rounds: 1, Dir: t.TempDir(), Short: true, Progress: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"bus.handle_throughput", "bus.handle_throughput_sync_always", "bus.durable_publish", "bus.durable_publish_single", "bus.latency_p99_low_load"}
	if len(rows) != len(want) {
		t.Fatalf("%d rows, want %d", len(rows), len(want))
	}
	for i, r := range rows {
		if r.Metric != want[i] || r.Value <= 0 || r.Limit <= 0 {
			t.Errorf("row %d: %+v", i, r)
		}
		t.Logf("%s: %.4g of %.4g (%s) = %.2f", r.Metric, r.Value, r.Limit, r.LimitName, r.Ratio)
	}
}
