// Package ledger is revocation's own view of the log: every revocation, what holds
// each handle, and who revoked how much lately. It lives in memory and is folded
// from the log at start, so that a revoke needs no Redis. What it decides is
// appended under the condition that the log has not moved on. Only revocation
// imports it.
package ledger

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/accept"
)

// Log is what the ledger needs of the bus.
type Log interface {
	Append(ctx context.Context, b bus.Batch) (bus.Ack, error)
	Read(ctx context.Context, stream, filter string, from uint64) iter.Seq2[bus.Stored, error]
	Follow(ctx context.Context, stream string, filters []string, from uint64, f func(bus.Stored) error) error
	LastSequence(ctx context.Context, stream, filter string) (uint64, error)
}

// ErrUnknown: the log knows no such revocation.
var ErrUnknown = errors.New("no such revocation")

// filter matches every event about revocations.
var filter = events.LogSubject("*", "revocation", "*", "*")

// keepStates is how many complete revocations are kept in memory with their
// receipts; older ones are read from the log when asked for.
const keepStates = 512

// Ledger is safe for concurrent use.
type Ledger struct {
	log Log
	now func() time.Time

	mu       sync.Mutex
	states   map[string]*entry // open ones, and the newest complete ones
	complete []string          // ids in states that are complete, oldest first
	sums     map[string]Summary
	order    []string                   // ids in sums, as accepted
	handles  map[string]string          // handle -> the newest revocation accepted for it
	uses     map[string][]use           // requester, and "tenant/" for all of a tenant
	proposed map[string]accept.Proposal // what waits for a second person, by id
	lifts    map[string]string          // id of a lifting request -> the freeze it ended
	seq      uint64
	watchers map[string][]chan struct{}
	target   uint64
	aimed    bool
	ready    chan struct{}
}

// entry is a state with the lock that guards it.
type entry struct {
	mu    sync.Mutex
	state *State
}

type use struct {
	at    time.Time
	broad bool
}

// New makes a ledger; Run fills it.
func New(log Log, now func() time.Time) *Ledger {
	return &Ledger{log: log, now: now, states: map[string]*entry{}, sums: map[string]Summary{}, handles: map[string]string{},
		uses: map[string][]use{}, proposed: map[string]accept.Proposal{}, lifts: map[string]string{}, watchers: map[string][]chan struct{}{}, ready: make(chan struct{})}
}

// Run follows the log until ctx ends.
func (l *Ledger) Run(ctx context.Context) error {
	last, err := l.log.LastSequence(ctx, bus.StreamLog, filter)
	if err != nil {
		return fmt.Errorf("find end of log: %w", err)
	}
	l.mu.Lock()
	if !l.aimed {
		l.target, l.aimed = last, true
	}
	from := l.seq + 1
	l.arrive()
	l.mu.Unlock()
	return l.log.Follow(ctx, bus.StreamLog, []string{filter}, from, l.Apply)
}

// Ready is closed when everything that was on the log at start is folded.
func (l *Ledger) Ready() <-chan struct{} { return l.ready }

// arrive closes ready once the target is reached. l.mu is held.
func (l *Ledger) arrive() {
	if !l.aimed || l.seq < l.target {
		return
	}
	select {
	case <-l.ready:
	default:
		close(l.ready)
	}
}

// Apply folds one stored event. It is called for what the log holds, in order, and
// for this process's own appends as soon as they are stored.
func (l *Ledger) Apply(st bus.Stored) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := l.fold(st); err != nil {
		return fmt.Errorf("fold revocation event %d: %w", st.Sequence, err)
	}
	l.seq = max(l.seq, st.Sequence)
	l.arrive()
	return nil
}

// fold applies st to its state and to the indices. l.mu is held.
func (l *Ledger) fold(st bus.Stored) error {
	id, tenant := st.Event.Subject(), events.Tenant(st.Event)
	if strings.Contains(id, "/") {
		return nil // about one managed secret; there may be a million of them
	}
	e, ok := l.states[id]
	if !ok {
		if sum, old := l.sums[id]; old { // complete and let go of
			return l.late(st, sum)
		}
		e = &entry{state: &State{ID: id, Tenant: tenant}}
		l.states[id] = e
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.state
	if s.Tenant != tenant {
		return nil // ids hold the tenant, so this is nobody's revocation
	}
	fresh := s.Accepted == nil
	before := s.Sequence
	if err := s.Apply(st); err != nil {
		return err
	}
	if s.Sequence == before {
		return nil
	}
	l.index(s, fresh)
	return nil
}

// late folds an event about a revocation that is no longer held with its receipts.
func (l *Ledger) late(st bus.Stored, sum Summary) error {
	if st.Event.Type() == events.TypeRevocationLifted {
		p, err := events.As[events.RevocationLifted](st.Event)
		if err != nil {
			return err
		}
		sum.Lifted, sum.Status = &p, StatusLifted
		l.sums[sum.ID] = sum
		l.lifts[events.Extension(st.Event, events.ExtCausation)] = sum.ID
	}
	l.wake(sum.ID)
	return nil
}

// index brings the indices up to date with s. l.mu is held.
func (l *Ledger) index(s *State, fresh bool) {
	if s.Accepted != nil {
		l.sums[s.ID] = s.summary()
		if fresh {
			l.order = append(l.order, s.ID)
			if old, ok := l.sums[l.handles[s.Accepted.Handle]]; !ok || old.Accepted.Mode != events.ModeRevoke {
				l.handles[s.Accepted.Handle] = s.ID
			}
			broad := !accept.Leaf(lineage.Kind(s.Accepted.Target.Kind))
			for _, k := range []string{useKey(s.Tenant, s.Accepted.By), useKey(s.Tenant, "")} {
				l.uses[k] = append(prune(l.uses[k], l.now()), use{s.Accepted.AcceptedAt, broad})
			}
		}
	}
	if s.LiftedBy != "" {
		l.lifts[s.LiftedBy] = s.ID
	}
	if s.Status() == StatusProposed {
		l.proposed[s.ID] = accept.Proposal{Tenant: s.Tenant, RevocationProposed: *s.Proposed}
	} else {
		delete(l.proposed, s.ID)
	}
	if !s.Open() && !slices.Contains(l.complete, s.ID) && (s.Closed != nil || s.Refused != nil) {
		l.complete = append(l.complete, s.ID)
		if len(l.complete) > keepStates {
			delete(l.states, l.complete[0])
			l.complete = slices.Delete(l.complete, 0, 1)
		}
	}
	l.wake(s.ID)
}

func (l *Ledger) wake(id string) {
	for _, c := range l.watchers[id] {
		close(c)
	}
	delete(l.watchers, id)
}

// Watch is closed when anything about the revocation is folded after the call.
func (l *Ledger) Watch(id string) <-chan struct{} {
	c := make(chan struct{})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watchers[id] = append(l.watchers[id], c)
	return c
}

// Unwatch forgets a channel of Watch.
func (l *Ledger) Unwatch(id string, c <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w := slices.DeleteFunc(l.watchers[id], func(x chan struct{}) bool { return x == c })
	if len(w) == 0 {
		delete(l.watchers, id)
		return
	}
	l.watchers[id] = w
}

// Inspect calls look with a revocation's state, from memory or from the log. look
// must be quick and must not keep or change it. The error wraps ErrUnknown when
// there is no such revocation.
func (l *Ledger) Inspect(ctx context.Context, id string, look func(*State)) error {
	l.mu.Lock()
	e := l.states[id]
	l.mu.Unlock()
	if e == nil {
		s, err := l.read(ctx, id)
		if err != nil {
			return err
		}
		e = &entry{state: s}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state.Sequence == 0 {
		return fmt.Errorf("find revocation %s: %w", id, ErrUnknown)
	}
	look(e.state)
	return nil
}

// Get is a copy of a revocation's state. The error wraps ErrUnknown when there is none.
func (l *Ledger) Get(ctx context.Context, id string) (*State, error) {
	var s *State
	err := l.Inspect(ctx, id, func(st *State) { s = st.Clone() })
	return s, err
}

// Peek is a copy of a revocation's state when it is in memory, nil otherwise.
func (l *Ledger) Peek(id string) *State {
	l.mu.Lock()
	e := l.states[id]
	l.mu.Unlock()
	if e == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.state.Sequence == 0 {
		return nil
	}
	return e.state.Clone()
}

// Known reports whether the log states that the revocation was accepted.
func (l *Ledger) Known(id string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, ok := l.sums[id]
	return ok
}

// Target is what the newest revocation of a handle names it.
func (l *Ledger) Target(handle string) (events.Target, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s, ok := l.sums[l.handles[handle]]
	return s.Accepted.Target, ok
}

// read folds one revocation from the log.
func (l *Ledger) read(ctx context.Context, id string) (*State, error) {
	s := &State{ID: id}
	for st, err := range l.log.Read(ctx, bus.StreamLog, events.LogSubject("*", "revocation", "*", id), 1) {
		if err != nil {
			return nil, fmt.Errorf("read revocation %s: %w", id, err)
		}
		if s.Tenant == "" {
			s.Tenant = events.Tenant(st.Event)
		}
		if events.Tenant(st.Event) != s.Tenant {
			continue
		}
		if err := s.Apply(st); err != nil {
			return nil, fmt.Errorf("read revocation %s: %w", id, err)
		}
	}
	return s, nil
}

// Holder is the revocation that holds a handle now and the sequence of its kill
// entry; nil when the log knows none. pending is a freeze that is accepted and
// whose end is not on the log yet.
func (l *Ledger) Holder(handle string, now time.Time) (h *accept.Holder, sequence uint64, pending *Summary) {
	l.mu.Lock()
	defer l.mu.Unlock()
	sum, ok := l.sums[l.handles[handle]]
	if !ok {
		return nil, 0, nil
	}
	s := State{ID: sum.ID, Accepted: &sum.Accepted, Lifted: sum.Lifted}
	if sum.Accepted.Mode == events.ModeFreeze && sum.Lifted == nil {
		pending = &sum
	}
	return s.holder(now), sum.Accepted.Sequence, pending
}

// LiftedBy is the freeze that a lifting request ended, "" when it ended none.
func (l *Ledger) LiftedBy(request string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lifts[request]
}

// Used counts the revocations of a requester (by), or with by "" of a tenant,
// accepted within accept.Window before now: those of anything but leaves, and all.
func (l *Ledger) Used(tenant, by string, now time.Time) (broad, all int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	k := useKey(tenant, by)
	kept := prune(l.uses[k], now)
	if len(kept) == 0 {
		delete(l.uses, k)
		return 0, 0
	}
	l.uses[k] = kept
	for _, u := range kept {
		if u.broad {
			broad++
		}
	}
	return broad, len(kept)
}

func useKey(tenant, by string) string { return tenant + "/" + by }

func prune(uses []use, now time.Time) []use {
	return slices.DeleteFunc(uses, func(u use) bool { return now.Sub(u.at) >= accept.Window })
}

// List is the accepted revocations, newest first, of one tenant's log ("": all),
// at most limit.
func (l *Ledger) List(tenant string, limit int) []Summary {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []Summary
	for i := len(l.order) - 1; i >= 0 && len(out) < limit; i-- {
		if s := l.sums[l.order[i]]; tenant == "" || s.Tenant == tenant {
			out = append(out, s)
		}
	}
	return out
}

// Proposed is what waits for a second person's approval, of one tenant's log ("":
// all), oldest first.
func (l *Ledger) Proposed(tenant string) []accept.Proposal {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := []accept.Proposal{}
	for _, p := range l.proposed {
		if tenant == "" || p.Tenant == tenant {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b accept.Proposal) int {
		return cmp.Or(a.ProposedAt.Compare(b.ProposedAt), strings.Compare(a.Revocation, b.Revocation))
	})
	return out
}

// Unfinished is the ids of revocations that wait for guards, and of freezes whose
// time has run out at now and whose end is not on the log, in order.
func (l *Ledger) Unfinished(now time.Time) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []string
	for _, s := range l.sums {
		ended := s.Accepted.Until != nil && !now.Before(*s.Accepted.Until) && s.Lifted == nil
		if s.Closed == nil || ended {
			out = append(out, s.ID)
		}
	}
	slices.SortFunc(out, func(a, b string) int {
		return cmp.Or(l.sums[a].Accepted.AcceptedAt.Compare(l.sums[b].Accepted.AcceptedAt), strings.Compare(a, b))
	})
	return out
}
