package bench

import "testing"

// TestRevoke runs the suite with small loads; its figures are printed, not judged.
func TestRevoke(t *testing.T) {
	rows, err := Revoke(t.Context(), Options{Rounds: 1, Dir: t.TempDir(), Short: true, Progress: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 9 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, r := range rows {
		t.Logf("%+v", r)
		if r.Value <= 0 {
			t.Errorf("%s is %v", r.Metric, r.Value)
		}
	}
}
