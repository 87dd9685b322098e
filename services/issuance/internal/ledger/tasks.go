package ledger

import (
	"slices"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
)

// rest is a task that ended not long ago.
type rest struct {
	handle     lineage.Handle
	revocation string // the one that is asked for now
	earlier    []string
	until      time.Time
}

// maxEarlier is how many revocations of one task are told from those of people.
const maxEarlier = 16

// tasks are those whose ids rest after their end. It holds no more than what ended within
// the rest: the oldest leave as new ones come.
type tasks struct {
	resting map[lineage.Handle]*rest
	order   []*rest // as they were closed
}

// closed lets the id of a task rest. The revocation that ends the task's credentials then
// need not be remembered for ever.
func (l *Ledger) closed(p events.TaskClosed) {
	h, err := lineage.Parse(p.Handle)
	if err != nil {
		return
	}
	t := &l.tasks
	for len(t.order) > 0 && !p.ClosedAt.Before(t.order[0].until) {
		if was := t.order[0]; t.resting[was.handle] == was {
			delete(t.resting, was.handle)
		}
		t.order = t.order[1:]
	}
	if t.resting == nil {
		t.resting = map[lineage.Handle]*rest{}
	}
	if was, ok := t.resting[h]; ok && p.ClosedAt.Before(was.until) { // it was closed before: the rest goes on
		if was.revocation != p.Revocation && !slices.Contains(was.earlier, p.Revocation) && len(was.earlier) < maxEarlier {
			was.earlier = append(was.earlier, was.revocation)
			was.revocation = p.Revocation
		}
	} else {
		r := &rest{handle: h, revocation: p.Revocation, until: p.ReusableAt}
		t.resting[h] = r
		t.order = append(t.order, r)
	}
	if f := l.handles[h]; f.killed == p.Revocation {
		f.killed = ""
		if l.handles[h] = f; f == (fate{}) {
			delete(l.handles, h)
		}
	}
}

// endsTask reports whether a revocation only carries out the end of a task.
func (l *Ledger) endsTask(h lineage.Handle, revocation string) bool {
	r, ok := l.tasks.resting[h]
	return ok && (r.revocation == revocation || slices.Contains(r.earlier, revocation))
}

// Resting is how many ids of tasks that ended are remembered.
func (l *Ledger) Resting() int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.tasks.resting)
}
