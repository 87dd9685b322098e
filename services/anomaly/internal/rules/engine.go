package rules

import (
	"container/list"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// Finding is a rule that was fulfilled.
type Finding struct {
	Rule     *Rule
	Event    Event // the one with which it was
	Count    int64
	Values   []string // what was seen: distinct values, or actions; at most 8
	Evidence []string // event ids, in order of event time; at most 64, the newest
	First    time.Time
	Last     time.Time
	Group    []string // "field=value"
	Bucket   time.Time
	Message  string
	HeldBack bool // it is the last that the rule raises in this hour, whatever comes
}

// state is what one rule remembers.
type state struct {
	mu      sync.Mutex
	groups  map[string]*list.Element
	lru     *list.List // of *kept, most recent first
	raised  map[hourKey]int
	evicted int64
	held    int64
}

type kept struct {
	key string
	group
}

// hourKey counts alerts per tenant and hour of event time.
type hourKey struct {
	tenant string
	hour   int64
}

// running is a rule with its state.
type running struct {
	rule  *Rule
	state *state
}

// set is the rules in force, and never changes.
type set struct {
	version string
	rules   []running
}

// Engine judges events by the rules in force. It is safe for concurrent use.
type Engine struct {
	swap sync.Mutex
	set  atomic.Pointer[set]
}

// NewEngine returns an engine with the rules.
func NewEngine(rules []*Rule) *Engine {
	e := &Engine{}
	e.set.Store(&set{})
	e.Replace(rules)
	return e
}

// Replace puts rules in force. What rules that stay the same remember stays; an event that
// is being judged meanwhile is judged by the old ones or by the new ones, never by none.
func (e *Engine) Replace(rules []*Rule) {
	e.swap.Lock()
	defer e.swap.Unlock()
	old := map[string]*state{}
	for _, r := range e.set.Load().rules {
		old[r.rule.Hash] = r.state
	}
	next := &set{version: Version(rules)}
	for _, r := range rules {
		s := old[r.Hash]
		if s == nil {
			s = &state{groups: map[string]*list.Element{}, lru: list.New(), raised: map[hourKey]int{}}
		}
		next.rules = append(next.rules, running{r, s})
	}
	e.set.Store(next)
}

// Version names a set of rules by what they decide.
func Version(rules []*Rule) string {
	hashes := make([]string, 0, len(rules))
	for _, r := range rules {
		hashes = append(hashes, r.Hash)
	}
	slices.Sort(hashes)
	return "rules/" + events.DeterministicID(hashes...)[:16]
}

// Status is a rule in force with what it remembers.
type Status struct {
	Rule     *Rule
	Groups   int
	Evicted  int64 // groups that made room for others
	HeldBack int64 // alerts over the rule's limit per hour
}

// Status lists the rules in force.
func (e *Engine) Status() (version string, out []Status) {
	s := e.set.Load()
	for _, r := range s.rules {
		r.state.mu.Lock()
		out = append(out, Status{r.rule, len(r.state.groups), r.state.evicted, r.state.held})
		r.state.mu.Unlock()
	}
	return s.version, out
}

// Judge gives an event to every rule. Which findings a set of events leads to does not
// depend on their order as long as none is later than ten minutes.
func (e *Engine) Judge(ev Event) []Finding {
	var out []Finding
	for _, r := range e.set.Load().rules {
		if mask := r.rule.match(&ev); mask != 0 {
			if f := r.state.add(r.rule, &ev, mask); f != nil {
				out = append(out, *f)
			}
		}
	}
	return out
}

// limit is the most entries that a group of the rule keeps.
func (r *Rule) limit() int {
	if r.Kind == Sequence || r.Kind == AnyOrder {
		return 64 * len(r.steps)
	}
	if r.AtLeast == 1 {
		return 32
	}
	return 2*r.AtLeast + 64
}

func (s *state) add(r *Rule, ev *Event, mask uint32) *Finding {
	names := make([]string, len(r.GroupBy))
	for i, f := range r.GroupBy {
		names[i] = f + "=" + clip(r.table.text(ev, f), 256)
	}
	x := entry{at: ev.Time.UnixNano(), id: ev.ID, mask: mask}
	if r.Kind == Distinct {
		x.value = clip(r.table.text(ev, r.Of), 256)
	} else {
		x.value = clip(ev.Activity.Action, 128)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.group(ev.Tenant + "\x00" + strings.Join(names, "\x00"))
	if r.Kind == Distinct && g.values == nil {
		g.values = map[string]int{}
	}
	i := g.insert(x, r.Within+lateness, r.limit())
	if i < 0 {
		return nil
	}
	lo, hi, ok := g.find(r, i)
	if !ok {
		return nil
	}
	bucket := r.bucketOf(g.entries[hi-1].at)
	if !g.fire(bucket) {
		return nil
	}
	f := r.finding(ev, g.entries[lo:hi], names, bucket)
	more, last := s.room(r, ev)
	if !more {
		s.held++
		return nil
	}
	f.HeldBack = last
	f.Message = r.render(f)
	if last {
		f.Message += "; it is the last alert of this rule in this hour, further ones are only counted"
	}
	return f
}

// room reports whether the rule may raise one more alert for the tenant in this hour of
// event time, and whether that is the last one.
func (s *state) room(r *Rule, ev *Event) (more, last bool) {
	k := hourKey{ev.Tenant, ev.Time.Unix() / 3600}
	if s.raised[k] >= r.PerHour {
		return false, false
	}
	if len(s.raised) > 4096 {
		for old := range s.raised {
			if old.hour < k.hour-48 {
				delete(s.raised, old)
			}
		}
	}
	s.raised[k]++
	return true, s.raised[k] == r.PerHour
}

// group finds or makes a group; the least recently used one makes room.
func (s *state) group(key string) *group {
	if el, ok := s.groups[key]; ok {
		s.lru.MoveToFront(el)
		return &el.Value.(*kept).group
	}
	if len(s.groups) >= maxGroups {
		old := s.lru.Back()
		s.lru.Remove(old)
		delete(s.groups, old.Value.(*kept).key)
		s.evicted++
	}
	k := &kept{key: key}
	s.groups[key] = s.lru.PushFront(k)
	return &k.group
}

// finding says what the entries of a window show.
func (r *Rule) finding(ev *Event, w []entry, names []string, bucket int64) *Finding {
	f := &Finding{Rule: r, Event: *ev, Count: int64(len(w)), Group: names,
		First: time.Unix(0, w[0].at).UTC(), Last: time.Unix(0, w[len(w)-1].at).UTC(),
		Bucket: time.Unix(0, bucket*int64(max(time.Hour, r.Within))).UTC()}
	distinct := map[string]struct{}{}
	for _, e := range w {
		if _, ok := distinct[e.value]; !ok && e.value != "" {
			distinct[e.value] = struct{}{}
			if len(f.Values) < maxValues {
				f.Values = append(f.Values, e.value)
			}
		}
		f.Evidence = append(f.Evidence, e.id)
	}
	if r.Kind == Distinct {
		f.Count = int64(len(distinct))
	}
	if len(f.Evidence) > maxIDs {
		f.Evidence = f.Evidence[len(f.Evidence)-maxIDs:]
	}
	return f
}
