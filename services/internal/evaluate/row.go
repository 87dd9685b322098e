package evaluate

import "math"

// Row is one line of the table. Value is nil when it could not be computed; Why then
// says so, and OK is false. Gate is nil for a row that informs only.
type Row struct {
	Metric     string   `json:"metric"`
	Value      *float64 `json:"value"`
	Gate       *float64 `json:"gate"`
	Direction  string   `json:"direction,omitempty"` // "min": value >= gate; "max": value <= gate
	OK         bool     `json:"ok"`
	N          int      `json:"n"` // what the value was counted over
	WilsonLow  *float64 `json:"wilson_low"`
	WilsonHigh *float64 `json:"wilson_high"`
	Why        string   `json:"why,omitempty"`
}

// Directions of a gate.
const (
	atLeast = "min"
	atMost  = "max"
)

// Report is everything that one run found.
type Report struct {
	Rows     []Row    `json:"rows"`
	Ablation []Change `json:"ablation,omitempty"`
}

// number makes a row of a figure that is not a share.
func number(metric string, value float64, n int) Row {
	v := round(value)
	return Row{Metric: metric, Value: &v, N: n, OK: true}
}

// share makes a row of hits out of n, with its Wilson interval at 95 %.
func share(metric string, hits, n int) Row {
	if n == 0 {
		return missing(metric, "there is no case of it in the data")
	}
	r := number(metric, float64(hits)/float64(n), n)
	lo, hi := wilson(hits, n)
	r.WilsonLow, r.WilsonHigh = &lo, &hi
	return r
}

// missing makes a row that could not be computed.
func missing(metric, why string) Row { return Row{Metric: metric, Why: why} }

// gated holds the row to a gate.
func (r Row) gated(direction string, gate float64) Row {
	r.Gate, r.Direction = &gate, direction
	r.OK = r.Value != nil && (direction == atLeast && *r.Value >= gate || direction == atMost && *r.Value <= gate)
	return r
}

// because adds what a reader of the row should know.
func (r Row) because(why string) Row {
	if r.Value != nil {
		r.Why = why
	}
	return r
}

// wilson is the Wilson score interval of hits out of n at 95 % (Wilson 1927).
func wilson(hits, n int) (low, high float64) {
	const z = 1.959964
	p, m := float64(hits)/float64(n), float64(n)
	mid := p + z*z/(2*m)
	half := z * math.Sqrt(p*(1-p)/m+z*z/(4*m*m))
	return round(max((mid-half)/(1+z*z/m), 0)), round(min((mid+half)/(1+z*z/m), 1))
}

func round(x float64) float64 { return math.Round(x*1e5) / 1e5 }
