package bench

import "testing"

func TestVerifyRuns(t *testing.T) {
	rows, err := Verify(t.Context(), Options{Rounds: 1, Short: true, Dir: t.TempDir(), Progress: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"verify.cold": true, "verify.cold.eddsa": true, "guard.bytes_per_handle": true, "verify.warm": true}
	for _, r := range rows {
		if !want[r.Metric] || r.Value <= 0 {
			t.Errorf("row %+v", r)
		}
		delete(want, r.Metric)
	}
	if len(want) > 0 {
		t.Errorf("missing %v", want)
	}
}
