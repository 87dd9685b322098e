package bench

import "testing"

// TestCascade runs the suite with small loads; its figures are printed, not judged.
func TestCascade(t *testing.T) {
	rows, err := Cascade(t.Context(), Options{Rounds: 2, Dir: t.TempDir(), Short: true, Progress: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	if len(rows) != 1 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, r := range rows {
		t.Logf("%+v", r)
		if r.Value <= 0 || r.Limit <= 0 {
			t.Errorf("%s is %v of %v", r.Metric, r.Value, r.Limit)
		}
	}
}
