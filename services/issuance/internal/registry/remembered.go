package registry

import (
	"context"
	"errors"
	"sync"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// Appender stores a batch under a condition.
type Appender interface {
	Append(ctx context.Context, b bus.Batch) (bus.Ack, error)
	Publish(ctx context.Context, es ...events.Event) error
}

// Remembered decides over the state that this process saw last, without reading the
// log again. It may be out of date, but then the append's condition does not hold and
// the decision is made anew over what the log says; so is every decision that would
// refuse or do nothing. That saves the hot path of issuance two round trips.
type Remembered struct {
	entities Entities
	log      Appender

	mu    sync.Mutex
	known map[Ref]*memory
}

// memory is the state of one identity up to sequence; turn holds a token while nobody
// decides about it.
type memory struct {
	turn     chan struct{}
	state    Identity
	sequence uint64 // 0: nothing is remembered
}

const maxRemembered = 1 << 16

// Remember makes a Remembered over entities, whose Fold must be Fold.
func Remember(entities Entities, log Appender) *Remembered {
	return &Remembered{entities: entities, log: log, known: map[Ref]*memory{}}
}

// Load implements Entities; it always reads the log.
func (r *Remembered) Load(ctx context.Context, tenant, entity string) (Identity, uint64, error) {
	return r.entities.Load(ctx, tenant, entity)
}

// Decide implements Entities. All log events must be about the identity.
func (r *Remembered) Decide(ctx context.Context, tenant, entity string, decide func(Identity) ([]events.Event, error)) (Identity, bus.Ack, error) {
	m := r.of(Ref{tenant, entity})
	select {
	case <-m.turn:
	case <-ctx.Done():
		return Identity{}, bus.Ack{}, ctx.Err()
	}
	defer func() { m.turn <- struct{}{} }()
	if m.sequence > 0 {
		s, ack, err := r.fromMemory(ctx, tenant, entity, m, decide)
		if !errors.Is(err, errAgain) {
			return s, ack, err
		}
	}
	s, ack, err := r.entities.Decide(ctx, tenant, entity, decide)
	if m.sequence = 0; err == nil {
		m.state, m.sequence = s, ack.Sequence
	}
	return s, ack, err
}

// errAgain: what is remembered does not decide it.
var errAgain = errors.New("decide again")

func (r *Remembered) fromMemory(ctx context.Context, tenant, entity string, m *memory, decide func(Identity) ([]events.Event, error)) (Identity, bus.Ack, error) {
	decided, err := decide(m.state)
	if err != nil {
		return m.state, bus.Ack{}, errAgain
	}
	var logged, others []events.Event
	for _, e := range decided {
		if info, ok := events.Lookup(e.Type()); ok && info.Channel == events.ChannelLog {
			logged = append(logged, e)
		} else {
			others = append(others, e)
		}
	}
	if len(logged) == 0 {
		return m.state, bus.Ack{}, errAgain
	}
	ack, err := r.log.Append(ctx, bus.Batch{Events: logged, Expect: &bus.Expect{Filter: events.EntityFilter(tenant, entity), Sequence: m.sequence}})
	if err != nil {
		m.sequence = 0
		if errors.Is(err, bus.ErrConflict) {
			err = errAgain
		}
		return m.state, bus.Ack{}, err
	}
	for _, e := range logged {
		m.state = Fold(m.state, bus.Stored{Event: e})
	}
	m.sequence = ack.Sequence
	if len(others) > 0 {
		err = r.log.Publish(ctx, others...)
	}
	return m.state, ack, err
}

// of is the memory of one identity. When too many are remembered, all are forgotten;
// who holds one keeps it until its turn ends.
func (r *Remembered) of(ref Ref) *memory {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.known[ref]
	if m == nil {
		if len(r.known) >= maxRemembered {
			clear(r.known)
		}
		m = &memory{turn: make(chan struct{}, 1)}
		m.turn <- struct{}{}
		r.known[ref] = m
	}
	return m
}
