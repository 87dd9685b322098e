package guard

import (
	"container/heap"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
)

// watchTick is how often the open watches are held against the clocks at least, while
// there are any: timers do not count suspend, the lease does.
const watchTick = time.Second

// Watch ties something open, such as a stream or a session, to the life of the
// credential that was allowed to open it. The context that it returns ends, with the
// *Denial as its cause (context.Cause), when a handle of the lineage is revoked or
// frozen, when the token expires, and when the guard can no longer know. It has ended
// already when one of these is true now. Config.Denied is told once for each
// credential whose watches end at once, with their number in Denial.Cut.
//
// Revokes end it before the guard signs its receipt. A watch costs about a kilobyte;
// beginning and ending one takes time in proportion to the depth of the lineage. Call
// cancel when what was open is closed.
func (g *Guard) Watch(parent context.Context, d Decision) (ctx context.Context, cancel context.CancelFunc) {
	ctx, end := context.WithCancelCause(parent)
	w := &watch{decision: d, end: end, links: make([]link, len(d.Claims.Lineage)),
		expires: time.Unix(d.Claims.Expires, 0).Add(g.cfg.Leeway), at: -1}
	w.forget = context.AfterFunc(ctx, func() { g.watches.remove(w) })
	if g.watches.add(w) {
		g.wakeWatchdog()
	}
	if ctx.Err() != nil {
		g.watches.remove(w) // it may have been removed before it was there
	}
	// Entered first and looked at afterwards: a revoke in between finds it there.
	if denial := g.ended(d); denial != nil {
		g.cut([]*watch{w}, func(*watch) *Denial { return denial })
	}
	return ctx, func() { end(context.Canceled) }
}

// ended is why something that d allowed may not go on, nil when it may.
func (g *Guard) ended(d Decision) *Denial {
	now := g.cfg.Now()
	if e, dead := g.set.find(d.Claims.Lineage, now); dead {
		return revoked(e, nil)
	}
	if !now.Add(-g.cfg.Leeway).Before(time.Unix(d.Claims.Expires, 0)) {
		return expired()
	}
	_, denial := g.know(d.footing(), 0)
	return denial
}

func expired() *Denial { return &Denial{Code: CodeExpired, Reason: "the token has expired"} }

// cut ends watches. Those that ended meanwhile are left alone.
func (g *Guard) cut(all []*watch, why func(*watch) *Denial) {
	told := map[string]*Denial{}
	for _, w := range all {
		if !g.watches.remove(w) {
			continue
		}
		w.forget()
		d := why(w)
		claims := w.decision.Claims
		d.Claims, d.Cut = &claims, 1
		w.end(d)
		if first, ok := told[claims.ID]; ok {
			first.Cut++
			continue
		}
		again := *d // who asks for the cause may read d from now on
		told[claims.ID] = &again
	}
	if g.cfg.Denied == nil {
		return
	}
	for _, d := range told {
		g.cfg.Denied(*d)
	}
}

// apply takes an entry into account: in the set, and by ending what is open under its handle.
func (g *Guard) apply(e Entry) events.ReceiptOutcome {
	outcome := g.set.apply(e)
	if e.Mode == events.ModeLift {
		return outcome
	}
	if open := g.watches.under(e.Handle); len(open) > 0 {
		if by, dead := g.set.find([]lineage.Handle{e.Handle}, g.cfg.Now()); dead {
			g.cut(open, func(*watch) *Denial { return revoked(by, nil) })
		}
	}
	return outcome
}

// sweepWatches ends what has expired, and everything when the guard cannot know. It
// returns when to look again; 0: when told to.
func (g *Guard) sweepWatches() time.Duration {
	now := g.cfg.Now()
	g.cut(g.watches.expired(now), func(*watch) *Denial { return expired() })
	first, open := g.watches.next()
	if !open {
		return 0
	}
	next := min(watchTick, first.Sub(now))
	for _, on := range g.watches.footings() {
		_, _, left, d := g.stand(on)
		if d != nil {
			g.cut(g.watches.on(on), func(*watch) *Denial { c := *d; return &c })
			continue
		}
		next = min(next, left)
	}
	return max(next, time.Nanosecond)
}

// watchdog holds the open watches against the clocks until ctx ends. Revokes and
// freezes do not wait for it.
func (g *Guard) watchdog(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-g.watches.wake:
		}
		if next := g.sweepWatches(); next > 0 {
			timer.Reset(next)
		}
	}
}

func (g *Guard) wakeWatchdog() {
	select {
	case g.watches.wake <- struct{}{}:
	default:
	}
}

// watch is one open thing.
type watch struct {
	decision Decision
	expires  time.Time
	end      context.CancelCauseFunc
	forget   func() bool // stops the removal at the context's end
	links    []link      // one per handle of the lineage; nil once removed
	at       int         // place in the heap
}

// link is the place of a watch among all that are open under one handle.
type link struct {
	w          *watch
	prev, next *link
}

// watches is what is open, by handle and by expiry. It is safe for concurrent use.
type watches struct {
	mu      sync.Mutex
	handles map[lineage.Handle]*link
	byEnd   expiries
	counts  map[footing]int // of what is open
	wake    chan struct{}
}

func newWatches() watches {
	return watches{handles: map[lineage.Handle]*link{}, counts: map[footing]int{}, wake: make(chan struct{}, 1)}
}

// add enters w. soonest: the watchdog has to look earlier than it meant to.
func (s *watches) add(w *watch) (soonest bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, h := range w.decision.Claims.Lineage {
		l := &w.links[i]
		l.w, l.next = w, s.handles[h]
		if l.next != nil {
			l.next.prev = l
		}
		s.handles[h] = l
	}
	heap.Push(&s.byEnd, w)
	s.counts[w.decision.footing()]++
	return w.at == 0 || s.counts[w.decision.footing()] == 1
}

// remove takes w out and reports whether it was in.
func (s *watches) remove(w *watch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.at < 0 {
		return false
	}
	heap.Remove(&s.byEnd, w.at)
	on := w.decision.footing()
	if s.counts[on]--; s.counts[on] == 0 {
		delete(s.counts, on)
	}
	for i, h := range w.decision.Claims.Lineage {
		l := &w.links[i]
		if l.next != nil {
			l.next.prev = l.prev
		}
		switch {
		case l.prev != nil:
			l.prev.next = l.next
		case l.next != nil:
			s.handles[h] = l.next
		default:
			delete(s.handles, h)
		}
	}
	w.links = nil
	return true
}

// under is what is open under a handle.
func (s *watches) under(h lineage.Handle) []*watch {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*watch
	for l := s.handles[h]; l != nil; l = l.next {
		out = append(out, l.w)
	}
	return out
}

// expired is what expired at now.
func (s *watches) expired(now time.Time) []*watch {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*watch
	for len(s.byEnd) > 0 && !now.Before(s.byEnd[0].expires) {
		// They stay entered, behind all others, until they are cut.
		w := s.byEnd[0]
		w.expires = farAway
		heap.Fix(&s.byEnd, 0)
		out = append(out, w)
	}
	return out
}

// farAway is later than any expiry (token times end at 2^40 seconds).
var farAway = time.Unix(1<<41, 0)

// next is when the first expires; false when nothing is open.
func (s *watches) next() (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.byEnd) == 0 {
		return time.Time{}, false
	}
	return s.byEnd[0].expires, true
}

// footings is on what the open things stand.
func (s *watches) footings() []footing {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.counts))
}

// on is what stands on one footing.
func (s *watches) on(f footing) []*watch {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*watch
	for _, w := range s.byEnd {
		if w.decision.footing() == f {
			out = append(out, w)
		}
	}
	return out
}

// expiries is a heap, the first to expire on top.
type expiries []*watch

func (h expiries) Len() int           { return len(h) }
func (h expiries) Less(i, j int) bool { return h[i].expires.Before(h[j].expires) }
func (h expiries) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].at, h[j].at = i, j
}

// Push implements heap.Interface.
func (h *expiries) Push(x any) {
	w := x.(*watch)
	w.at = len(*h)
	*h = append(*h, w)
}

// Pop implements heap.Interface.
func (h *expiries) Pop() any {
	last := len(*h) - 1
	w := (*h)[last]
	(*h)[last], *h = nil, (*h)[:last]
	w.at = -1
	return w
}
