package detect

import (
	"fmt"
	"slices"
	"time"
)

// Limits of what is kept per identity. Together they stay below MaxBytes.
const (
	MaxBytes      = 8 << 10 // hard cap of one identity's state, see State.Bytes
	maxActions    = 32
	maxTasks      = 10
	maxTaskValues = 64 // over all tasks of one identity
	maxSteps      = 6
	maxIDs        = 4  // event ids kept as evidence per collector
	maxIDLen      = 64 // longer event ids are not kept in state
	quarantine    = 24 * time.Hour
)

// State is what is kept of one identity. The zero value is an identity never seen.
// It must only be changed by one goroutine at a time.
type State struct {
	Uses    int64 // activities seen
	Actions Set   // actions seen, by Hash
	tasks   []task
	denied  *Window // D20
	secrets *Window // D23, secrets
	objects *Window // D23, other resources
	spawned *Window // D28
	steps   []step  // D24
	facets  [dims]facet
	session *session // D10 to D13
	rhythm  *rhythm  // D17 and D21
	repeat  *repeat  // D22
	places  *places  // D14
}

// Seen notes that the action was used. trusted is false for an action that an alert
// was raised about: it becomes usual only when it is used again a day later.
func (s *State) Seen(in *Input, trusted bool) {
	s.Uses++
	h := Hash(in.Activity.Action)
	if s.Actions.find(h) < 0 && in.Activity.Tool == "" {
		in.Facts.peerTook(in, dimAction, h)
	}
	if trusted {
		s.Actions.Learn(h, in.Time, maxActions)
	} else {
		s.Actions.Hold(h, in.Time, maxActions)
	}
}

// past says, for an explanation, what is remembered of an action that is not usual.
func (s *State) past(action string) string {
	if i := s.Actions.find(Hash(action)); i >= 0 {
		v := s.Actions[i]
		return fmt.Sprintf("its %d earlier uses of it began at %s, less than a day before, and raised an alert", v.n, stamp(time.Unix(int64(v.first), 0)))
	}
	return fmt.Sprintf("it is not among the %d actions remembered of it (%d earlier uses)", len(s.Actions), s.Uses)
}

// Bytes estimates the memory of the state, from above.
func (s *State) Bytes() int {
	n := 160 + cap(s.Actions)*16 + cap(s.tasks)*64
	for _, t := range s.tasks {
		n += cap(t.values) * 16
	}
	for _, w := range []*Window{s.denied, s.secrets, s.objects, s.spawned} {
		n += w.bytes()
	}
	for d := range s.facets {
		n += 40 + cap(s.facets[d].values)*16
	}
	if c := s.session; c != nil {
		n += 160 + (cap(c.seen)+cap(c.said))*4 + cap(c.ids)*16
		for _, id := range c.ids {
			n += len(id)
		}
	}
	n += s.rhythm.bytes() + s.repeat.bytes() + s.places.bytes()
	n += cap(s.steps) * 48
	for _, st := range s.steps {
		n += len(st.id)
	}
	return n
}

// Hash is FNV-1a over the parts, 32 bits: the name of a value within one identity.
func Hash(parts ...string) uint32 {
	h := uint32(2166136261)
	for _, p := range parts {
		for i := 0; i < len(p); i++ {
			h = (h ^ uint32(p[i])) * 16777619
		}
		h = (h ^ 0xFF) * 16777619
	}
	return h
}

// value is one thing seen, with event times in seconds since 1970.
type value struct {
	hash        uint32
	first, last int32Time
	n           uint16
	held        bool // an alert was raised about it
}

// int32Time is seconds since 1970, clamped to what 32 bits hold.
type int32Time uint32

func seconds(t time.Time) int32Time {
	switch s := t.Unix(); {
	case s < 0:
		return 0
	case s > 1<<32-1:
		return 1<<32 - 1
	default:
		return int32Time(s)
	}
}

// time is the time again, in whole seconds.
func (t int32Time) time() time.Time { return time.Unix(int64(t), 0).UTC() }

// Set is a small exact set of values, least recently used out first.
type Set []value

func (s Set) find(h uint32) int {
	for i := range s {
		if s[i].hash == h {
			return i
		}
	}
	return -1
}

// Usual reports whether h is part of the baseline at t: seen without an alert, or
// first alerted about at least a day before t.
func (s Set) Usual(h uint32, t time.Time) bool {
	i := s.find(h)
	if i < 0 {
		return false
	}
	return !s[i].held || time.Duration(int64(seconds(t))-int64(s[i].first))*time.Second >= quarantine
}

// Learn admits h.
func (s *Set) Learn(h uint32, t time.Time, limit int) { s.add(h, t, limit, false) }

// Hold notes h without admitting it.
func (s *Set) Hold(h uint32, t time.Time, limit int) { s.add(h, t, limit, true) }

func (s *Set) add(h uint32, t time.Time, limit int, held bool) {
	at := seconds(t)
	if i := s.find(h); i >= 0 {
		v := &(*s)[i]
		v.first, v.last = min(v.first, at), max(v.last, at)
		if v.n < 1<<16-1 {
			v.n++
		}
		if !held && v.held && time.Duration(int64(at)-int64(v.first))*time.Second >= quarantine {
			v.held = false
		}
		return
	}
	v := value{hash: h, first: at, last: at, n: 1, held: held}
	if len(*s) < limit {
		if len(*s) == cap(*s) { // doubling would waste what the cap is about
			grown := make(Set, len(*s), min(len(*s)+1+min(len(*s)/2, 3), limit))
			copy(grown, *s)
			*s = grown
		}
		*s = append(*s, v)
		return
	}
	oldest := 0
	for i := range *s {
		if (*s)[i].last < (*s)[oldest].last {
			oldest = i
		}
	}
	if oldest < len(*s) {
		(*s)[oldest] = v
	}
}

// Trim frees at least need bytes, if it can, least telling state first: habits of
// objects read, places, the older half of context values, then tasks least recently
// used.
func (s *State) Trim(need int) {
	target := s.Bytes() - need
	for _, drop := range []func(){
		func() { s.places = nil },
		func() { s.objects = nil },
		s.halve,
		func() { s.repeat = nil },
		func() { s.spawned = nil },
		s.halve,
		func() { s.secrets = nil },
		func() { s.tasks = nil },
	} {
		if s.Bytes() <= target {
			return
		}
		drop()
	}
}

// halve forgets the older half of the values of every dimension but actions.
func (s *State) halve() {
	for d := range s.facets {
		v := s.facets[d].values
		if len(v) < 2 {
			continue
		}
		order := slices.Clone(v)
		slices.SortStableFunc(order, func(a, b value) int { return int(int64(b.last) - int64(a.last)) })
		s.facets[d].values = slices.Clone(order[:len(order)/2])
	}
}
