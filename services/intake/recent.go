package intake

import (
	"sync"

	"github.com/lanyard-nhi/lanyard/events"
)

// recentMax is how many events of each of two generations are remembered, in about
// 6 MB.
const recentMax = 1 << 15

// recent remembers events that the bus has acknowledged, so that a repeat costs no
// store: audit logs are doubled by up to a fifth, and a sender that lost an answer
// sends all its events again. It is only a short cut; the bus itself stores no event
// twice, which holds for what other processes have stored too.
type recent struct {
	mu       sync.Mutex
	max      int
	now, old map[string]struct{}
}

func newRecent(n int) *recent {
	return &recent{max: n, now: map[string]struct{}{}, old: map[string]struct{}{}}
}

// key identifies an event: its id is unique within tenant and source only.
func key(e events.Event) string {
	return events.DeterministicID(events.Tenant(e), e.Source(), e.ID())
}

// unseen is es without what is known to be stored and without repeats among them,
// in order.
func (r *recent) unseen(es []events.Event) []events.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	here := make(map[string]struct{}, len(es))
	out := make([]events.Event, 0, len(es))
	for _, e := range es {
		k := key(e)
		_, a := r.now[k]
		_, b := r.old[k]
		_, c := here[k]
		if !a && !b && !c {
			here[k] = struct{}{}
			out = append(out, e)
		}
	}
	return out
}

// stored remembers es, which the bus has acknowledged.
func (r *recent) stored(es []events.Event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range es {
		if len(r.now) >= r.max {
			r.old, r.now = r.now, make(map[string]struct{}, r.max)
		}
		r.now[key(e)] = struct{}{}
	}
}
