package rules

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// Bounds of a rule's state.
const (
	maxGroups  = 10_000
	maxBuckets = 8  // hours of a group that have raised an alert
	maxValues  = 8  // values an alert names
	maxIDs     = 64 // events an alert names
)

// entry is one event that matched.
type entry struct {
	at    int64 // event time, nanoseconds
	id    string
	value string // Distinct only
	mask  uint32 // steps that it matches
}

func (a entry) compare(b entry) int {
	return cmp.Or(cmp.Compare(a.at, b.at), strings.Compare(a.id, b.id))
}

// group is what is kept of one combination of values of the fields of group_by. Entries
// are in order of event time, so that the order of arrival does not matter.
type group struct {
	entries []entry
	values  map[string]int // how many entries have each value; Distinct only
	fired   []int64        // buckets, oldest first
}

// insert adds e and drops what no window can reach any more and what is over limit,
// oldest first. It returns e's place, -1 when e is known already or too old.
func (g *group) insert(e entry, keep time.Duration, limit int) int {
	i, known := slices.BinarySearchFunc(g.entries, e, entry.compare)
	if known {
		return -1
	}
	g.entries = slices.Insert(g.entries, i, e)
	newest := g.entries[len(g.entries)-1].at
	drop := max(0, len(g.entries)-limit)
	for drop < len(g.entries) && newest-g.entries[drop].at > int64(keep) {
		drop++
	}
	if g.values != nil {
		g.values[e.value]++
		for _, old := range g.entries[:drop] {
			if g.values[old.value]--; g.values[old.value] == 0 {
				delete(g.values, old.value)
			}
		}
	}
	if drop > 0 {
		g.entries = slices.Delete(g.entries, 0, drop)
	}
	return max(i-drop, -1)
}

// fire reports whether the bucket has not raised an alert yet, and notes that it does.
func (g *group) fire(bucket int64) bool {
	if slices.Contains(g.fired, bucket) {
		return false
	}
	g.fired = append(g.fired, bucket)
	slices.Sort(g.fired)
	if len(g.fired) > maxBuckets {
		g.fired = slices.Delete(g.fired, 0, 1)
	}
	return true
}

// reach is the entries that can share a window with entry i: [lo, hi).
func (g *group) reach(i int, within time.Duration) (lo, hi int) {
	at := g.entries[i].at
	lo, _ = slices.BinarySearchFunc(g.entries, at-int64(within), func(e entry, t int64) int { return cmp.Compare(e.at, t) })
	hi, _ = slices.BinarySearchFunc(g.entries, at+int64(within)+1, func(e entry, t int64) int { return cmp.Compare(e.at, t) })
	return lo, hi
}

// find looks for a window around entry i that fulfils the rule: entries [lo, hi).
func (g *group) find(r *Rule, i int) (lo, hi int, ok bool) {
	a, b := g.reach(i, r.Within)
	switch r.Kind {
	case Count:
		return g.many(r, i, a, b)
	case Distinct:
		if len(g.values) < r.AtLeast {
			return 0, 0, false
		}
		return g.different(r, i, a, b)
	}
	for lo := a; lo <= i; lo++ {
		end := g.end(lo, b, r.Within)
		if end <= i {
			continue
		}
		if n := steps(r, g.entries[lo:end]); n > 0 {
			return lo, lo + n, true
		}
	}
	return 0, 0, false
}

// end is the end of the window that begins with entry lo.
func (g *group) end(lo, limit int, within time.Duration) int {
	end := lo
	for end < limit && g.entries[end].at-g.entries[lo].at <= int64(within) {
		end++
	}
	return end
}

// many looks for at_least entries with i among them in one window.
func (g *group) many(r *Rule, i, a, b int) (lo, hi int, ok bool) {
	for lo := max(a, i-r.AtLeast+1); lo <= i && lo+r.AtLeast <= b; lo++ {
		if g.entries[lo+r.AtLeast-1].at-g.entries[lo].at <= int64(r.Within) {
			return lo, g.end(lo, b, r.Within), true
		}
	}
	return 0, 0, false
}

// different looks for at_least values in one window, in one pass over what i can reach.
func (g *group) different(r *Rule, i, a, b int) (lo, hi int, ok bool) {
	seen := make(map[string]int, r.AtLeast)
	lo = a
	for hi := a; hi < b; hi++ {
		seen[g.entries[hi].value]++
		for g.entries[hi].at-g.entries[lo].at > int64(r.Within) {
			v := g.entries[lo].value
			if seen[v]--; seen[v] == 0 {
				delete(seen, v)
			}
			lo++
		}
		if lo > i {
			break
		}
		if hi >= i && len(seen) >= r.AtLeast {
			return lo, hi + 1, true
		}
	}
	return 0, 0, false
}

// steps reports how many of the entries of one window it takes to go through all steps, 0
// when all are not enough.
func steps(r *Rule, w []entry) int {
	if r.Kind == Sequence {
		step := 0
		for i, e := range w {
			if i == 0 && e.mask&1 == 0 {
				return 0
			}
			if e.mask&(1<<step) != 0 {
				if step++; step == len(r.steps) {
					return i + 1
				}
			}
		}
		return 0
	}
	var all uint32
	for i, e := range w {
		if all |= e.mask; all == 1<<len(r.steps)-1 {
			return i + 1
		}
	}
	return 0
}

// bucketOf numbers the stretch of event time in which one group raises one alert: an
// hour, or the rule's window when that is longer.
func (r *Rule) bucketOf(at int64) int64 {
	n := int64(max(time.Hour, r.Within))
	b := at / n
	if at%n < 0 {
		b--
	}
	return b
}
