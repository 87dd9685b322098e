package evaluate

import (
	"reflect"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/services/anomaly"
)

// TestVariants changes every threshold down and up, one at a time.
func TestVariants(t *testing.T) {
	vs := variants()
	if n := reflect.TypeFor[anomaly.Thresholds]().NumField(); len(vs) != 2*n {
		t.Errorf("%d variants of %d thresholds", len(vs), n)
	}
	for _, v := range vs {
		if v.to == anomaly.DefaultThresholds() {
			t.Errorf("%s changes nothing", v.name)
		}
	}
}

// TestAblation switches off what finds hijacked agents and sees the gate break.
func TestAblation(t *testing.T) {
	rep, err := Run(t.Context(), Options{Dir: "testdata", Only: "agents.hijack_recall", Ablate: true, Now: func() time.Time { return time.Time{} }})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range rep.Ablation {
		if c.Without == "D13 off" && c.Metric == "agents.hijack_recall" && c.Breaks {
			return
		}
	}
	t.Errorf("nothing breaks without D13: %+v", rep.Ablation)
}
