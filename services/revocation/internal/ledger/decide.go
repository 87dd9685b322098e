package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// Decide calls decide with the state of a revocation and appends the events it
// returns under the condition that nothing about it was appended meanwhile; on a
// conflict it reads the log and decides again. No events means nothing to do.
// decide must be pure and must not keep the state.
func (l *Ledger) Decide(ctx context.Context, tenant, id string, decide func(*State) ([]events.Event, error)) error {
	e, err := l.entry(ctx, tenant, id)
	if err != nil {
		return err
	}
	for wait := time.Millisecond; ; wait = min(2*wait, time.Second) {
		e.mu.Lock()
		sequence := e.state.Sequence
		es, err := decide(e.state)
		e.mu.Unlock()
		if err != nil || len(es) == 0 {
			return err
		}
		ack, err := l.log.Append(ctx, bus.Batch{Events: es,
			Expect: &bus.Expect{Filter: events.EntityFilter(tenant, id), Sequence: sequence}})
		if err == nil {
			return l.applyOwn(e, es, ack)
		}
		if !errors.Is(err, bus.ErrConflict) {
			return fmt.Errorf("append to revocation %s: %w", id, err)
		}
		if err := l.reload(ctx, e, id); err != nil {
			return err
		}
		if err := pause(ctx, wait); err != nil {
			return fmt.Errorf("append to revocation %s: %w", id, err)
		}
	}
}

// pause waits, as a direct get may lag behind the conflict it explains.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// entry is the entry of a revocation, read from the log when it is known but no
// longer held, and made when it is new.
func (l *Ledger) entry(ctx context.Context, tenant, id string) (*entry, error) {
	l.mu.Lock()
	e, ok := l.states[id]
	_, old := l.sums[id]
	if !ok && !old {
		e = &entry{state: &State{ID: id, Tenant: tenant}}
		l.states[id] = e
		ok = true
	}
	l.mu.Unlock()
	if ok {
		return e, nil
	}
	s, err := l.read(ctx, id)
	if err != nil {
		return nil, err
	}
	return &entry{state: s}, nil
}

// reload folds the log again and takes the result when it is newer.
func (l *Ledger) reload(ctx context.Context, e *entry, id string) error {
	fresh, err := l.read(ctx, id)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	if fresh.Sequence > e.state.Sequence {
		first := e.state.Accepted == nil
		*e.state = *fresh
		l.index(e.state, first)
	}
	return nil
}

// applyOwn folds what was just appended, without waiting for it to come back.
func (l *Ledger) applyOwn(e *entry, es []events.Event, ack bus.Ack) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.mu.Lock()
	defer e.mu.Unlock()
	first := e.state.Accepted == nil
	for i, ev := range es {
		st := bus.Stored{Event: ev, Stream: ack.Stream, Sequence: ack.Sequence - uint64(len(es)-1-i)}
		if err := e.state.Apply(st); err != nil {
			return fmt.Errorf("fold own event: %w", err)
		}
	}
	l.index(e.state, first)
	return nil
}
