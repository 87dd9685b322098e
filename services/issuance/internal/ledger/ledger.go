// Package ledger remembers, from the log, which handles are dead, which tasks ended not
// long ago, which tenants trust each other and which exceptions to policy were granted.
// Only issuance imports it.
//
// It is folded into memory straight from the log and lives nowhere else, so no lost
// cache can bring a dead handle back. It grows with revocations and exceptions, not with
// issuance, and by the day with tasks that end. Before it has caught up with the log's end at start it answers nothing.
package ledger

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// Log is what a Ledger needs of the bus.
type Log interface {
	Follow(ctx context.Context, stream string, filters []string, from uint64, f func(bus.Stored) error) error
	LastSequence(ctx context.Context, stream, filter string) (uint64, error)
}

// Filters are the subjects a Ledger folds.
func Filters() []string {
	return []string{
		events.LogSubject("*", "revocation", "accepted", "*"),
		events.LogSubject("*", "revocation", "lifted", "*"),
		events.LogSubject("*", "trust", "declared", "*"),
		events.LogSubject("*", "exception", "*", "*"),
		events.LogSubject("*", "task", "closed", "*"),
	}
}

// Ledger is safe for concurrent use. The zero value is not ready.
type Ledger struct {
	mu         sync.RWMutex
	handles    map[lineage.Handle]fate
	trusts     map[string]events.TrustDeclared
	exceptions exceptions
	tasks      tasks
	sequence   uint64        // applied up to here
	moved      chan struct{} // closed and replaced when sequence grows

	ready chan struct{}
	once  sync.Once
}

type fate struct {
	killed string // id of the revocation that ended it for good
	freeze string // id of the freeze in force
	until  time.Time
}

// New makes an empty ledger; Run fills it.
func New() *Ledger {
	return &Ledger{handles: map[lineage.Handle]fate{}, trusts: map[string]events.TrustDeclared{}, moved: make(chan struct{}), ready: make(chan struct{})}
}

// Run folds the log until ctx ends. It may be called again after it failed.
func (l *Ledger) Run(ctx context.Context, log Log) error {
	var last uint64
	for _, f := range Filters() {
		n, err := log.LastSequence(ctx, bus.StreamLog, f)
		if err != nil {
			return fmt.Errorf("read end of the log: %w", err)
		}
		last = max(last, n)
	}
	l.mu.RLock()
	from := l.sequence + 1
	l.mu.RUnlock()
	if from > last {
		l.once.Do(func() { close(l.ready) })
	}
	err := log.Follow(ctx, bus.StreamLog, Filters(), from, func(s bus.Stored) error {
		l.Apply(s)
		if s.Sequence >= last {
			l.once.Do(func() { close(l.ready) })
		}
		return nil
	})
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("follow revocations, trusts, exceptions and tasks: %w", err)
}

// Ready is closed when everything that was on the log at start has been applied.
func (l *Ledger) Ready() <-chan struct{} { return l.ready }

// IsReady reports whether Ready is closed.
func (l *Ledger) IsReady() bool {
	select {
	case <-l.ready:
		return true
	default:
		return false
	}
}

// Apply folds one stored event. Applying it again changes nothing.
func (l *Ledger) Apply(s bus.Stored) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.Sequence <= l.sequence {
		return
	}
	l.sequence = s.Sequence
	close(l.moved)
	l.moved = make(chan struct{})
	switch s.Event.Type() {
	case events.TypeRevocationAccepted:
		if p, err := events.As[events.RevocationAccepted](s.Event); err == nil {
			l.accepted(p)
		}
	case events.TypeRevocationLifted:
		if p, err := events.As[events.RevocationLifted](s.Event); err == nil {
			l.lifted(p.Handle)
		}
	case events.TypeTrustDeclared:
		if p, err := events.As[events.TrustDeclared](s.Event); err == nil {
			l.trusts[events.Tenant(s.Event)+" "+p.To] = p
		}
	case events.TypeTaskClosed:
		if p, err := events.As[events.TaskClosed](s.Event); err == nil {
			l.closed(p)
		}
	case events.TypeExceptionGranted:
		if p, err := events.As[events.ExceptionGranted](s.Event); err == nil {
			l.exceptions.granted(events.Tenant(s.Event), p)
		}
	case events.TypeExceptionEnded:
		if p, err := events.As[events.ExceptionEnded](s.Event); err == nil {
			l.exceptions.ended(events.Tenant(s.Event), p.Exception)
		}
	}
}

func (l *Ledger) accepted(p events.RevocationAccepted) {
	h, err := lineage.Parse(p.Handle)
	if err != nil {
		return
	}
	f := l.handles[h]
	switch p.Mode {
	case events.ModeRevoke:
		if l.endsTask(h, p.Revocation) {
			return
		}
		if f.killed == "" {
			f.killed = p.Revocation
		}
	case events.ModeFreeze:
		f.freeze, f.until = p.Revocation, time.Time{}
		if p.Until != nil {
			f.until = *p.Until
		}
	case events.ModeLift:
		l.lifted(p.Handle)
		return
	}
	l.handles[h] = f
}

// lifted ends a freeze; a kill stays.
func (l *Ledger) lifted(handle string) {
	h, err := lineage.Parse(handle)
	if err != nil {
		return
	}
	f := l.handles[h]
	if f.killed == "" {
		delete(l.handles, h)
		return
	}
	l.handles[h] = fate{killed: f.killed}
}

// Dead is the first of the handles that is revoked, frozen at now, or names a task that
// ended not long ago, and the id of the revocation that did it.
func (l *Ledger) Dead(now time.Time, handles ...lineage.Handle) (h lineage.Handle, revocation string, dead bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	for _, h := range handles {
		if r, ok := l.tasks.resting[h]; ok && now.Before(r.until) {
			return h, r.revocation, true
		}
		f, ok := l.handles[h]
		switch {
		case !ok:
		case f.killed != "":
			return h, f.killed, true
		case f.freeze != "" && (f.until.IsZero() || now.Before(f.until)):
			return h, f.freeze, true
		}
	}
	return lineage.Handle{}, "", false
}

// Trust is the latest trust record by which from lets to receive delegations.
func (l *Ledger) Trust(from, to string) (events.TrustDeclared, bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	t, ok := l.trusts[from+" "+to]
	return t, ok
}

// Wait returns when everything up to sequence has been applied.
func (l *Ledger) Wait(ctx context.Context, sequence uint64) error {
	for {
		l.mu.RLock()
		at, moved := l.sequence, l.moved
		l.mu.RUnlock()
		if at >= sequence {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return fmt.Errorf("wait for the ledger: %w", ctx.Err())
		}
	}
}

// Sequence is the log sequence up to which the ledger has been applied.
func (l *Ledger) Sequence() uint64 {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.sequence
}

// Size is how many handles are dead.
func (l *Ledger) Size() int {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return len(l.handles)
}
