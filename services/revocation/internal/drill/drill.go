// Package drill keeps what drills have shown: when the kill switch of each tenant was
// last proven, how fast each enforcement point is, which drills are due. It is folded
// from the log. Only revocation imports it.
package drill

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// Keep is how many drills of a tenant are remembered; the log has all of them.
const Keep = 200

// Log is what a book needs of the bus.
type Log interface {
	Read(ctx context.Context, stream, filter string, from uint64) iter.Seq2[bus.Stored, error]
	Follow(ctx context.Context, stream string, filters []string, from uint64, f func(bus.Stored) error) error
	LastSequence(ctx context.Context, stream, filter string) (uint64, error)
}

// filter matches every event about drills.
var filter = events.LogSubject("*", "drill", "*", "*")

// Drill is one drill. Finished is nil while it runs, or when its process died.
type Drill struct {
	Tenant   string                `json:"tenant"`
	Started  events.DrillStarted   `json:"started"`
	Finished *events.DrillFinished `json:"finished"`

	Cause events.Event `json:"-"` // that it started
}

// Percentiles of latencies, in milliseconds (nearest rank).
type Percentiles struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50_ms"`
	P95   float64 `json:"p95_ms"`
	P99   float64 `json:"p99_ms"`
}

// Point is what the remembered drills say about one enforcement point.
type Point struct {
	Point string `json:"point"`
	Percentiles
	Missed int `json:"missed"` // drills that it did not answer
}

// Status of one tenant's kill switch.
type Status struct {
	Tenant     string      `json:"tenant"`
	Drills     int         `json:"drills"`      // remembered
	LastProven *time.Time  `json:"last_proven"` // null: never
	ProvenMS   float64     `json:"proven_ms"`   // from request to closure, that time
	Last       *Drill      `json:"last"`
	Refused    Percentiles `json:"refused"` // from request until the canary was refused
	Closed     Percentiles `json:"closed"`  // from request to closure
	Points     []Point     `json:"points"`
}

// Book is safe for concurrent use.
type Book struct {
	log Log

	mu      sync.Mutex
	drills  map[string][]*Drill // by tenant, as started
	proven  map[string]events.DrillFinished
	seq     uint64
	target  uint64
	aimed   bool
	ready   chan struct{}
	changed chan struct{}
}

// New makes a book; Run fills it.
func New(log Log) *Book {
	return &Book{log: log, drills: map[string][]*Drill{}, proven: map[string]events.DrillFinished{}, ready: make(chan struct{}), changed: make(chan struct{})}
}

// Run follows the log until ctx ends. When it fails it may be called again.
func (b *Book) Run(ctx context.Context) error {
	last, err := b.log.LastSequence(ctx, bus.StreamLog, filter)
	if err != nil {
		return fmt.Errorf("find last drill: %w", err)
	}
	b.mu.Lock()
	if !b.aimed {
		b.target, b.aimed = last, true
	}
	b.arriveLocked()
	from := b.seq + 1
	b.mu.Unlock()
	return b.log.Follow(ctx, bus.StreamLog, []string{filter}, from, b.apply)
}

func (b *Book) arriveLocked() {
	if b.seq < b.target {
		return
	}
	select {
	case <-b.ready:
	default:
		close(b.ready)
	}
}

// Ready is closed when the book holds what the log held at the start.
func (b *Book) Ready() <-chan struct{} { return b.ready }

func (b *Book) apply(st bus.Stored) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	tenant := events.Tenant(st.Event)
	if p, err := events.As[events.DrillStarted](st.Event); err == nil && b.findLocked(tenant, p.Drill) == nil {
		all := append(b.drills[tenant], &Drill{Tenant: tenant, Started: p, Cause: st.Event})
		if len(all) > Keep {
			all = slices.Delete(all, 0, len(all)-Keep)
		}
		b.drills[tenant] = all
	}
	if p, err := events.As[events.DrillFinished](st.Event); err == nil {
		if d := b.findLocked(tenant, p.Drill); d != nil && d.Finished == nil {
			d.Finished = &p
		}
		if p.Outcome == events.DrillProven && !p.FinishedAt.Before(b.proven[tenant].FinishedAt) {
			b.proven[tenant] = p
		}
	}
	b.seq = st.Sequence
	b.arriveLocked()
	close(b.changed)
	b.changed = make(chan struct{})
	return nil
}

func (b *Book) findLocked(tenant, id string) *Drill {
	for _, d := range b.drills[tenant] {
		if d.Started.Drill == id {
			return d
		}
	}
	return nil
}

// Get finds a drill by its id, and a channel that is closed when the book changes.
func (b *Book) Get(tenant, id string) (d Drill, changed <-chan struct{}, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if found := b.findLocked(tenant, id); found != nil {
		return *found, b.changed, true
	}
	return Drill{}, b.changed, false
}

// Tenants that ever had a drill, sorted.
func (b *Book) Tenants() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.drills))
}

// Unfinished are the drills that began before at and have not ended.
func (b *Book) Unfinished(at time.Time) []Drill {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Drill
	for _, tenant := range slices.Sorted(maps.Keys(b.drills)) {
		for _, d := range b.drills[tenant] {
			if d.Finished == nil && d.Started.StartedAt.Before(at) {
				out = append(out, *d)
			}
		}
	}
	return out
}

// Status of a tenant's kill switch.
func (b *Book) Status(tenant string) Status {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Status{Tenant: tenant, Drills: len(b.drills[tenant]), Points: []Point{}}
	if p, ok := b.proven[tenant]; ok {
		s.LastProven, s.ProvenMS = &p.FinishedAt, p.ClosedMS
	}
	var refused, closed []float64
	points, missed := map[string][]float64{}, map[string]int{}
	for _, d := range b.drills[tenant] {
		f := d.Finished
		if f == nil || f.Outcome == events.DrillNotRun {
			continue
		}
		refused = append(refused, f.RefusedMS)
		if f.Outcome == events.DrillProven {
			closed = append(closed, f.ClosedMS)
		}
		for _, p := range f.Points {
			if p.Outcome == events.ReceiptEnforced || p.Outcome == events.ReceiptAlreadyDead {
				points[p.Point] = append(points[p.Point], p.LatencyMS)
			} else {
				missed[p.Point]++
			}
		}
	}
	if n := len(b.drills[tenant]); n > 0 {
		last := *b.drills[tenant][n-1]
		s.Last = &last
	}
	s.Refused, s.Closed = percentiles(refused), percentiles(closed)
	for name := range missed {
		points[name] = append(points[name], nil...)
	}
	for name, ms := range points {
		s.Points = append(s.Points, Point{name, percentiles(ms), missed[name]})
	}
	slices.SortFunc(s.Points, func(x, y Point) int { return cmp.Compare(x.Point, y.Point) })
	return s
}

func percentiles(ms []float64) Percentiles {
	p := Percentiles{Count: len(ms)}
	if len(ms) == 0 {
		return p
	}
	slices.Sort(ms)
	rank := func(q float64) float64 { return ms[max(int(math.Ceil(q*float64(len(ms))))-1, 0)] }
	p.P50, p.P95, p.P99 = rank(0.50), rank(0.95), rank(0.99)
	return p
}

// Due reports whether a drill is to begin now: none began within the period. After one
// that has proven nothing it is tried again sooner, after a tenth of the period.
func (s Status) Due(every time.Duration, now time.Time) bool {
	switch {
	case every <= 0:
		return false
	case s.Last == nil:
		return true
	case s.Last.Finished != nil && s.Last.Finished.Outcome != events.DrillProven:
		every /= 10
	}
	return now.Sub(s.Last.Started.StartedAt) >= every
}

// Overdue reports whether the switch was not proven within the period and a tenth,
// counted from since when it was never proven.
func (s Status) Overdue(every time.Duration, since, now time.Time) bool {
	if s.LastProven != nil {
		since = *s.LastProven
	}
	return every > 0 && now.Sub(since) > every+every/10
}

// Judge says what a drill has shown. refused: this service's own guard refuses the
// canary; closed: the revocation is closed.
func Judge(refused, closed bool, points []events.DrillPoint) (events.DrillOutcome, string) {
	for _, p := range points {
		switch p.Outcome {
		case events.ReceiptEnforced, events.ReceiptAlreadyDead:
		case events.ReceiptLeaseExpired:
			return events.DrillNotClosed, p.Point + " did not answer; it refuses everything since its lease ran out"
		case "":
			return events.DrillNotClosed, p.Point + " did not answer"
		default:
			return events.DrillNotClosed, p.Point + " answered " + string(p.Outcome)
		}
	}
	switch {
	case !refused:
		return events.DrillNotClosed, "the canary is still accepted here"
	case !closed:
		return events.DrillNotClosed, "the revocation was not closed in time"
	}
	return events.DrillProven, ""
}

// Slowest sorts points, those that did not answer first, then the slowest, and cuts
// the list to what an event may hold.
func Slowest(points []events.DrillPoint) []events.DrillPoint {
	slices.SortFunc(points, func(x, y events.DrillPoint) int {
		if (x.Outcome == "") != (y.Outcome == "") {
			if x.Outcome == "" {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(y.LatencyMS, x.LatencyMS), cmp.Compare(x.Point, y.Point))
	})
	return points[:min(len(points), events.MaxDrillPoints)]
}
