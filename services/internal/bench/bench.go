// Package bench measures Lanyard against the limit of what it stands on. Ours and
// the limit run alternately in the same run; figures are medians. Only cmd/lanyard
// imports it.
package bench

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
)

// Row is one figure.
type Row struct {
	Metric    string  `json:"metric"`
	Value     float64 `json:"value"`
	Min       float64 `json:"min"`
	Max       float64 `json:"max"`
	Unit      string  `json:"unit"`
	Limit     float64 `json:"limit"`
	LimitName string  `json:"limit_name"`
	Ratio     float64 `json:"ratio"`     // value / limit; 0 when there is no limit
	Target    float64 `json:"target"`    // what ratio (or value, without a limit) is compared with
	Direction string  `json:"direction"` // "min": at least the target; "max": at most
	OK        bool    `json:"ok"`
}

// Report is what `lanyard bench --json` prints.
type Report struct {
	Machine  map[string]any    `json:"machine"`
	Versions map[string]string `json:"versions"`
	Rows     []Row             `json:"rows"`
}

// Options of a bench.
type Options struct {
	Rounds int    // rounds of ours and limit, default 5
	Dir    string // scratch directory for servers' files; made and removed by the caller
	Short  bool   // smaller loads, for CI
	// Progress gets one line per round; never nil.
	Progress func(format string, args ...any)
}

// Suite measures one area.
type Suite func(ctx context.Context, o Options) ([]Row, error)

// Compare runs ours and limit alternately, rounds times each, and returns the
// figures of both in the order measured.
func Compare(ctx context.Context, o Options, name string, ours, limit func(context.Context) (float64, error)) (a, b []float64, err error) {
	for i := range max(o.Rounds, 1) {
		runtime.GC()
		x, err := ours(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("measure %s: %w", name, err)
		}
		runtime.GC()
		y, err := limit(ctx)
		if err != nil {
			return nil, nil, fmt.Errorf("measure limit of %s: %w", name, err)
		}
		o.Progress("%s round %d: ours %.4g, limit %.4g", name, i+1, x, y)
		a, b = append(a, x), append(b, y)
	}
	return a, b, nil
}

// Ratio makes a row that compares the medians' ratio with target.
func Ratio(metric, unit, limitName string, ours, limit []float64, target float64, direction string) Row {
	r := Row{Metric: metric, Unit: unit, LimitName: limitName, Target: target, Direction: direction,
		Value: Median(ours), Min: slices.Min(ours), Max: slices.Max(ours), Limit: Median(limit)}
	if r.Limit != 0 {
		r.Ratio = r.Value / r.Limit
	}
	r.OK = holds(r.Ratio, target, direction)
	return r
}

// Absolute makes a row that compares the median itself with target.
func Absolute(metric, unit string, ours []float64, target float64, direction string) Row {
	r := Row{Metric: metric, Unit: unit, Target: target, Direction: direction,
		Value: Median(ours), Min: slices.Min(ours), Max: slices.Max(ours)}
	r.OK = holds(r.Value, target, direction)
	return r
}

func holds(v, target float64, direction string) bool {
	if direction == "max" {
		return v <= target
	}
	return v >= target
}

// Median of v; 0 when it is empty.
func Median(v []float64) float64 { return Quantile(v, 0.5) }

// Quantile q of v by the nearest rank; 0 when it is empty.
func Quantile(v []float64, q float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Clone(v)
	slices.Sort(s)
	i := int(q * float64(len(s)-1))
	if q == 0.5 && len(s)%2 == 0 {
		return (s[len(s)/2-1] + s[len(s)/2]) / 2
	}
	return s[i]
}

// Describe fills machine and versions.
func Describe() Report {
	r := Report{
		Machine:  map[string]any{"cpus": runtime.NumCPU(), "gomaxprocs": runtime.GOMAXPROCS(0), "os": runtime.GOOS, "arch": runtime.GOARCH},
		Versions: map[string]string{"go": runtime.Version()},
		Rows:     []Row{},
	}
	if bi, ok := debug.ReadBuildInfo(); ok {
		for _, m := range bi.Deps {
			switch m.Path {
			case "github.com/nats-io/nats-server/v2", "github.com/nats-io/nats.go", "github.com/ThreeDotsLabs/watermill",
				"github.com/redis/go-redis/v9", "github.com/cloudevents/sdk-go/v2":
				r.Versions[m.Path] = m.Version
			}
		}
	}
	return r
}
