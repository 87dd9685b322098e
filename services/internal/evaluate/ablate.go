package evaluate

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/services/anomaly"
)

// Change is what one ablation did to one gated metric.
type Change struct {
	Without string  `json:"without"` // "D13 off", "SurpriseAlert +25 %"
	Metric  string  `json:"metric"`
	From    float64 `json:"from"`
	To      float64 `json:"to"`
	Breaks  bool    `json:"breaks"` // the gate was met and is missed now
}

// slow are metrics that an ablation leaves out: they measure the machine.
func slow(metric string) bool { return metric == "memory" || metric == "speed" }

// ablation computes the gated metrics again with every detector off in turn, and with
// every threshold a quarter lower and higher, and lists what moved.
func ablation(ctx context.Context, r *run, full Report) ([]Change, error) {
	base := map[string]Row{}
	for _, row := range full.Rows {
		if row.Gate != nil && row.Value != nil {
			base[row.Metric] = row
		}
	}
	var out []Change
	try := func(name string, t tuning) error {
		r.tuning = t
		defer func() { r.tuning = tuning{} }()
		for _, m := range metrics() {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if slow(m.name) || !anyOf(base, m.name) {
				continue
			}
			rows, err := m.rowsOf(r)
			if err != nil {
				return fmt.Errorf("evaluate %s with %s: %w", m.name, name, err)
			}
			for _, row := range rows {
				was, ok := base[row.Metric]
				if ok && row.Value != nil && *row.Value != *was.Value {
					out = append(out, Change{name, row.Metric, *was.Value, *row.Value, was.OK && !row.OK})
				}
			}
		}
		return nil
	}
	for _, d := range anomaly.Catalog() {
		if err := try(d.ID+" off", tuning{disabled: []string{d.ID}}); err != nil {
			return out, err
		}
	}
	for _, v := range variants() {
		if err := try(v.name, tuning{thresholds: &v.to}); err != nil {
			return out, err
		}
	}
	return out, nil
}

func anyOf(base map[string]Row, group string) bool {
	for m := range base {
		if strings.HasPrefix(m, group+".") {
			return true
		}
	}
	return false
}

// variant is the thresholds with one of them changed.
type variant struct {
	name string
	to   anomaly.Thresholds
}

// variants changes every threshold by a quarter, down and up. A whole number changes
// by one at least.
func variants() []variant {
	var out []variant
	for i := range reflect.TypeFor[anomaly.Thresholds]().NumField() {
		for _, by := range []float64{-0.25, 0.25} {
			c := anomaly.DefaultThresholds()
			f := reflect.ValueOf(&c).Elem().Field(i)
			switch v := f.Interface().(type) {
			case float64:
				f.SetFloat(v * (1 + by))
			case time.Duration:
				f.SetInt(int64(float64(v) * (1 + by)))
			case int:
				step := max(1, int(float64(v)*0.25))
				if by < 0 {
					step = -step
				}
				f.SetInt(int64(v + step))
			default:
				continue
			}
			out = append(out, variant{fmt.Sprintf("%s %+.0f %%", reflect.TypeFor[anomaly.Thresholds]().Field(i).Name, 100*by), c})
		}
	}
	return out
}
