package stages

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"pgregory.net/rapid"
)

// ring has the rules of the key ring, in memory.
type ring struct {
	active, prepared string
	retiring         []string
	made             map[string]string // rotation: kid
}

func (r *ring) accepted() []string {
	out := []string{r.active}
	if r.prepared != "" {
		out = append(out, r.prepared)
	}
	return append(out, r.retiring...)
}

// world is rotation and issuance around one log, with a clock, one durable timer and
// everything that can go wrong between them.
type world struct {
	t       *rapid.T
	now     time.Time
	log     []bus.Stored
	state   State
	set     Timer   // the durable timer; zero: none
	due     []Timer // fired, to be delivered, perhaps more than once
	seen    int     // events that rotation's handlers have had
	ring    ring
	handled int  // events that issuance has had
	up      bool // issuance runs: it mints and handles events
	failing bool // it cannot make keys
	tokens  map[string]time.Time
}

func (w *world) append(p events.Payload) {
	id := fmt.Sprint(p.EventType(), len(w.log))
	e, err := events.New(events.Origin{Source: "/test", Tenant: "lanyard", Time: w.now, ID: id}, p)
	if err != nil {
		w.t.Fatal(err)
	}
	st := bus.Stored{Event: e, Stream: bus.StreamLog, Sequence: uint64(len(w.log) + 1)}
	w.log = append(w.log, st)
	w.state = Fold(w.state, st)
}

// advance is what the service does at every occasion; it may crash before the timer
// is set.
func (w *world) advance(fired Timer, crash bool) {
	if p := Next(w.state, cfg, w.now, fired); p != nil {
		w.append(p)
	}
	if crash {
		return
	}
	if Early(w.state, fired, w.now) {
		fired.At = w.now.Add(time.Second)
		w.set = fired
		return
	}
	w.set = Wake(w.state, cfg, w.now, w.set)
}

// issuance handles one event, perhaps one that it had before.
func (w *world) issuance(st bus.Stored) {
	stage, r := read(st.Event)
	switch stage {
	case Scheduled:
		if w.failing {
			w.append(events.RotationFailed{Rotation: r})
			return
		}
		kid, ok := w.ring.made[r.Rotation]
		if !ok {
			if kid = w.ring.prepared; kid == "" {
				kid = fmt.Sprint("key", len(w.ring.made)+1)
			}
			w.ring.prepared, w.ring.made[r.Rotation] = kid, kid
		}
		if !slices.Contains(w.ring.accepted(), kid) {
			w.append(events.RotationFailed{Rotation: r})
			return
		}
		r.KeyID = kid
		if w.ring.active != kid {
			r.Previous = w.ring.active
		}
		w.append(events.RotationPrepared{Rotation: r})
	case Activated:
		switch r.KeyID {
		case w.ring.active:
		case w.ring.prepared:
			w.ring.retiring = append(w.ring.retiring, w.ring.active)
			w.ring.active, w.ring.prepared = r.KeyID, ""
		default:
			w.append(events.RotationFailed{Rotation: r})
		}
	case Retired:
		if r.Previous == w.ring.active {
			w.append(events.RotationFailed{Rotation: r})
			return
		}
		w.ring.retiring = slices.DeleteFunc(w.ring.retiring, func(k string) bool { return k == r.Previous })
	}
}

func (w *world) catchUpIssuance() {
	for w.up && w.handled < len(w.log) {
		w.issuance(w.log[w.handled])
		w.handled++
	}
}

// pass lets time go by, in steps that fit issuance's lag into the overlap's reserve.
// The timer fires, at whole seconds and up to a quarter of a second early.
func (w *world) pass(d time.Duration) {
	for d > 0 {
		w.catchUpIssuance()
		step := min(d, 30*time.Second)
		if w.handled == len(w.log) {
			step = d
		}
		if w.set.Kind != "" {
			at := w.set.At.Truncate(time.Second)
			if at.Before(w.set.At) {
				at = at.Add(time.Second)
			}
			early := at.Add(-250 * time.Millisecond)
			if !w.now.Add(step).Before(early) {
				step = max(early.Sub(w.now), 0)
				w.due = append(w.due, w.set)
				w.set = Timer{}
			}
		}
		w.now = w.now.Add(step)
		d -= step
		if len(w.due) > 0 && step == 0 {
			return // the timer is delivered in its own action
		}
	}
}

func (w *world) deliver(again bool) {
	if len(w.due) == 0 {
		return
	}
	i := rapid.IntRange(0, len(w.due)-1).Draw(w.t, "which timer")
	fired := w.due[i]
	if !again {
		w.due = slices.Delete(w.due, i, i+1)
	}
	w.advance(fired, rapid.Bool().Draw(w.t, "crash"))
}

func (w *world) handle(crash bool) {
	for ; w.seen < len(w.log); w.seen++ {
		if s, _ := read(w.log[w.seen].Event); s == Prepared || s == Failed {
			w.advance(Timer{}, crash)
		}
	}
}

// check holds the promise: what was signed and has not expired is accepted, and there
// is a key to sign with.
func (w *world) check() {
	ok := w.ring.accepted()
	if w.ring.active == "" {
		w.t.Fatal("there is no signing key")
	}
	for kid, exp := range w.tokens {
		if w.now.Before(exp) && !slices.Contains(ok, kid) {
			w.t.Fatalf("a token of %s lives until %s, but at %s only %v are accepted", kid, exp, w.now, ok)
		}
	}
	if len(w.ring.retiring) > 1 {
		w.t.Fatalf("%d predecessors are accepted", len(w.ring.retiring))
	}
}

// TestNeverWithoutKey takes random steps with crashes, lost and repeated timers, late
// and failing issuance. At every moment every live token's key is accepted; once
// everything has been delivered and time has passed, exactly one key is.
func TestNeverWithoutKey(t *testing.T) {
	const ttl = 15 * time.Minute
	rapid.Check(t, func(t *rapid.T) {
		w := &world{t: t, now: t0, up: true, ring: ring{active: "key0", made: map[string]string{}}, tokens: map[string]time.Time{}}
		mint := func() {
			if w.up {
				w.tokens[w.ring.active] = w.now.Add(ttl)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"":        func(*rapid.T) { w.check() },
			"mint":    func(*rapid.T) { mint() },
			"seconds": func(t *rapid.T) { w.pass(time.Duration(rapid.IntRange(1, 5000).Draw(t, "ms")) * time.Millisecond) },
			"minutes": func(t *rapid.T) { w.pass(time.Duration(rapid.IntRange(1, 30).Draw(t, "min")) * time.Minute) },
			"days":    func(t *rapid.T) { w.pass(time.Duration(rapid.IntRange(1, 40).Draw(t, "days")) * 24 * time.Hour) },
			"timer":   func(t *rapid.T) { w.deliver(rapid.Bool().Draw(t, "again")) },
			"handle":  func(t *rapid.T) { w.handle(rapid.Bool().Draw(t, "crash")) },
			"restart": func(*rapid.T) { w.advance(Timer{}, false) },
			"lost":    func(*rapid.T) { w.set, w.due = Timer{}, nil },
			"ask": func(*rapid.T) {
				if p := Start(w.state, w.now, "asked"); p != nil {
					w.append(p)
				}
			},
			"issuance stops":   func(*rapid.T) { w.up = false },
			"issuance starts":  func(*rapid.T) { w.up = true; w.catchUpIssuance() },
			"issuance repeats": func(t *rapid.T) { w.repeat(t) },
			"issuance fails":   func(t *rapid.T) { w.failing = rapid.Bool().Draw(t, "fails") },
		})
		w.settle(mint)
	})
}

// repeat has issuance handle an event again that it had before, if it is still the
// newest of its rotation: the bus keeps the order of an object's events.
func (w *world) repeat(t *rapid.T) {
	if !w.up || w.handled == 0 {
		return
	}
	if st := w.log[w.handled-1]; w.handled == len(w.log) {
		if s, r := read(st.Event); s == Activated || s == Retired && r.Previous != w.ring.active {
			w.issuance(st)
		}
	}
}

// settle lets everything be delivered and one more rotation succeed.
func (w *world) settle(mint func()) {
	w.up, w.failing = true, false
	w.catchUpIssuance()
	before := w.state.Count
	for range 2000 {
		mint()
		w.catchUpIssuance()
		for len(w.due) > 0 {
			fired := w.due[0]
			w.due = w.due[1:]
			w.advance(fired, false)
		}
		w.catchUpIssuance()
		w.handle(false)
		w.advance(Timer{}, false)
		w.catchUpIssuance()
		w.check()
		if w.state.Count > before && w.state.Current.Stage == Retired {
			if got := w.ring.accepted(); len(got) != 1 || got[0] != w.state.InUse {
				w.t.Fatalf("after the overlap %v are accepted, in use is %s", got, w.state.InUse)
			}
			return
		}
		if w.set.Kind == "" {
			w.t.Fatal("no timer is set")
		}
		w.pass(max(min(w.set.At.Sub(w.now), math.MaxInt64), time.Second))
	}
	w.t.Fatalf("no rotation came to its end: %+v", w.state.Current)
}
