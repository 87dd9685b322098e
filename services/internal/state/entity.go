package state

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// ErrUnreadable: the log holds a message about the entity that this version cannot
// read, so nothing may be decided about it. It is in the dead-letter stream.
var ErrUnreadable = errors.New("the log holds a message about this entity that cannot be read")

// ErrLagging: the log has not shown yet what it is known to hold. Try again.
var ErrLagging = errors.New("the log does not show its newest messages yet")

const (
	memoryFolds = 4096 // folds kept in process, per kind of entity
	saveEvery   = 8    // events folded before Redis is given the fold again
	decideTries = 32   // attempts of one decision
	readTries   = 6    // attempts of one read of a log that lags
)

// Entities keeps the folded state S of each entity (an identity, a revocation):
// the events at events.EntityFilter(tenant, entity) in the log, folded in order.
// Redis caches the fold with the sequence it includes; a missing or stale cache is
// mended from the log. While Redis is down, the log alone is read.
type Entities[S any] struct {
	log    Log
	store  *Store
	name   string
	fold   func(S, bus.Stored) S
	memory *lru
	locks  locks
}

// NewEntities makes the entities of one kind. fold must be pure and total: it sees
// every log event about the entity, with Stored.Time zero (use the event's time). S
// is stored as JSON and must survive that. Change name (say "identity/2") when fold
// or S changes.
func NewEntities[S any](log Log, store *Store, name string, fold func(S, bus.Stored) S) *Entities[S] {
	e := &Entities[S]{log: log, store: store, name: name, fold: fold, memory: newLRU(memoryFolds), locks: locks{held: map[string]*lock{}}}
	store.mu.Lock()
	defer store.mu.Unlock()
	store.purge = append(store.purge, e.memory.clear)
	return e
}

// subject is one entity: where its events are and where its fold is cached.
type subject struct {
	tenant, entity string
	filter         string
	key            string
}

func (e *Entities[S]) subject(tenant, entity string) (subject, error) {
	if !events.ValidTenant(tenant) {
		return subject{}, fmt.Errorf("%w: %q", events.ErrBadTenant, tenant)
	}
	if entity == "" {
		return subject{}, errors.New("an entity needs an id")
	}
	if entity == "*" {
		return subject{}, errors.New(`"*" is not the id of one entity`)
	}
	return subject{tenant, entity, events.EntityFilter(tenant, entity), entityPrefix + e.name + ":" + tenant + ":" + events.Token(entity)}, nil
}

// Load is the state as of the log's end (or later than when it was called) and the
// sequence of the last event folded into it.
func (e *Entities[S]) Load(ctx context.Context, tenant, entity string) (S, uint64, error) {
	var zero S
	sub, err := e.subject(tenant, entity)
	if err != nil {
		return zero, 0, fmt.Errorf("load %s: %w", e.name, err)
	}
	s, f, err := e.load(ctx, sub)
	if err != nil {
		return zero, 0, fmt.Errorf("load %s %s/%s: %w", e.name, tenant, entity, err)
	}
	return s, f.sequence, nil
}

// load takes the newest cached fold and folds the rest of the log into it.
func (e *Entities[S]) load(ctx context.Context, sub subject) (S, fold, error) {
	var zero S
	from, source := e.cached(ctx, sub)
	replace := ""
	for attempt := 0; ; attempt++ {
		s, to, err := e.read(ctx, sub, from)
		switch {
		case err == nil:
			e.store.metrics.loads.WithLabelValues(e.name, source).Inc()
			e.keep(sub, to, replace)
			return s, to, nil
		case errors.Is(err, errForeign):
			e.store.metrics.mended.WithLabelValues(e.name).Inc()
			e.memory.drop(sub.key)
			replace, from, source = from.id, fold{unsaved: -1}, "log"
		case errors.Is(err, ErrLagging) && attempt < readTries:
			if err := backoff(ctx, attempt); err != nil {
				return zero, fold{}, err
			}
		default:
			return zero, fold{}, err
		}
	}
}

// cached is the newest fold known without reading the log.
func (e *Entities[S]) cached(ctx context.Context, sub subject) (fold, string) {
	if f, ok := e.memory.get(sub.key); ok {
		return f, "memory"
	}
	f := fold{unsaved: -1}
	err := e.store.try(ctx, func(ctx context.Context) error {
		v, err := e.store.client.HMGet(ctx, sub.key, "sequence", "id", "state").Result()
		if err != nil && strings.HasPrefix(err.Error(), "WRONGTYPE") {
			return nil // somebody else wrote there; it will be overwritten
		}
		if err != nil {
			return err
		}
		sequence, ok1 := v[0].(string)
		id, ok2 := v[1].(string)
		state, ok3 := v[2].(string)
		if n, err := strconv.ParseUint(sequence, 10, 64); err == nil && ok1 && ok2 && ok3 && n > 0 {
			f = fold{sequence: n, id: id, state: json.RawMessage(state)}
		}
		return nil
	})
	if err == nil && f.sequence > 0 {
		return f, "redis"
	}
	return f, "log"
}

// errForeign: a cached fold does not fit the log.
var errForeign = errors.New("the cached fold is not one of this log")

// read folds the log into a cached fold. The last event of the cached fold is read
// again: when it is not there, the fold is not one of this log.
func (e *Entities[S]) read(ctx context.Context, sub subject, from fold) (S, fold, error) {
	var s S
	if from.sequence > 0 {
		if err := json.Unmarshal(from.state, &s); err != nil {
			return s, fold{}, errForeign
		}
	}
	to, known := from, from.sequence == 0
	for st, err := range e.log.Read(ctx, bus.StreamLog, sub.filter, max(from.sequence, 1)) {
		switch {
		case err != nil:
			return s, fold{}, fmt.Errorf("read the log: %w", err)
		case !known:
			if st.Sequence != from.sequence || eventID(st.Event) != from.id {
				return s, fold{}, errForeign
			}
			known = true
		case st.Sequence <= to.sequence:
			return s, fold{}, fmt.Errorf("read the log: sequence %d came after %d", st.Sequence, to.sequence)
		default:
			s = e.foldOne(s, st, &to)
		}
	}
	if !known {
		last, err := e.log.LastSequence(ctx, bus.StreamLog, sub.filter)
		if err != nil {
			return s, fold{}, fmt.Errorf("read the log's end: %w", err)
		}
		if last < from.sequence {
			return s, fold{}, errForeign
		}
		return s, fold{}, ErrLagging
	}
	if to.sequence == from.sequence {
		return s, from, nil
	}
	state, err := json.Marshal(s)
	if err != nil {
		return s, fold{}, fmt.Errorf("encode state: %w", err)
	}
	to.state = state
	return s, to, nil
}

func (e *Entities[S]) foldOne(s S, st bus.Stored, to *fold) S {
	st.Time = time.Time{} // the same fold however an event was learned
	to.sequence, to.id = st.Sequence, eventID(st.Event)
	if to.unsaved >= 0 {
		to.unsaved++
	}
	return e.fold(s, st)
}

// keep caches a fold: in process always, in Redis when it would save much reading.
func (e *Entities[S]) keep(sub subject, f fold, replace string) {
	if f.sequence == 0 {
		return
	}
	if (f.unsaved < 0 || f.unsaved >= saveEvery || replace != "") &&
		e.store.saver.add(save{key: sub.key, fold: f, replace: replace}) {
		f.unsaved = 0
	}
	e.memory.put(sub.key, f)
}

func eventID(e events.Event) string { return e.Source() + " " + e.ID() }

// Decide loads, calls decide, and appends the events it returns under the condition
// that nothing about the entity was appended meanwhile; on a conflict it loads and
// decides again. No events means nothing to do: the Ack then names the sequence
// the state includes. decide must be pure. It returns the state after the append.
//
// Events returned by decide that do not belong to the log are published afterwards,
// in the same order. A crash may come between: a handler that must not lose them
// returns them itself.
//
// Events about other entities may be among those for the log; they are stored in the
// same batch, but what is known of those entities is not part of the condition.
//
// The condition is the last sequence of the very fold that decide has seen. A fold is
// a prefix of the log without gaps, so if the condition holds, decide has seen
// everything.
func (e *Entities[S]) Decide(ctx context.Context, tenant, entity string, decide func(S) ([]events.Event, error)) (S, bus.Ack, error) {
	var zero S
	sub, err := e.subject(tenant, entity)
	if err != nil {
		return zero, bus.Ack{}, fmt.Errorf("decide %s: %w", e.name, err)
	}
	unlock, err := e.locks.lock(ctx, sub.key)
	if err != nil {
		return zero, bus.Ack{}, fmt.Errorf("decide %s %s/%s: %w", e.name, tenant, entity, err)
	}
	defer unlock()
	still, before := 0, uint64(0) // conflicts in a row without a new event in the fold
	for attempt := 0; ; attempt++ {
		s, f, err := e.load(ctx, sub)
		if err != nil {
			return zero, bus.Ack{}, fmt.Errorf("decide %s %s/%s: %w", e.name, tenant, entity, err)
		}
		if attempt > 0 && f.sequence == before {
			still++
		} else {
			still, before = 0, f.sequence
		}
		if still >= 3 {
			if err := e.readable(ctx, sub, f); err != nil {
				return s, bus.Ack{}, fmt.Errorf("decide %s %s/%s: %w", e.name, tenant, entity, err)
			}
		}
		decided, err := decide(s)
		if err != nil {
			return s, bus.Ack{}, err
		}
		logged, others := split(decided)
		ack := bus.Ack{Stream: bus.StreamLog, Sequence: f.sequence}
		if len(logged) > 0 {
			ack, err = e.log.Append(ctx, bus.Batch{Events: logged, Expect: &bus.Expect{Filter: sub.filter, Sequence: f.sequence}})
		}
		switch {
		case err == nil:
			if s, err = e.after(sub, s, f, logged, ack); err != nil {
				return s, ack, fmt.Errorf("decide %s %s/%s: %w", e.name, tenant, entity, err)
			}
			return s, ack, e.publish(ctx, others)
		case !errors.Is(err, bus.ErrConflict) || attempt+1 >= decideTries:
			return s, bus.Ack{}, fmt.Errorf("decide %s %s/%s: %w", e.name, tenant, entity, err)
		}
		e.store.metrics.conflicts.WithLabelValues(e.name).Inc()
		if err := backoff(ctx, attempt); err != nil {
			return s, bus.Ack{}, fmt.Errorf("decide %s %s/%s: %w", e.name, tenant, entity, err)
		}
	}
}

// readable says why a decision conflicts though the fold does not grow: the log's
// last message about the entity is one that Read does not show.
func (e *Entities[S]) readable(ctx context.Context, sub subject, f fold) error {
	last, err := e.log.LastSequence(ctx, bus.StreamLog, sub.filter)
	if err != nil {
		return fmt.Errorf("read the log's end: %w", err)
	}
	if last <= f.sequence {
		return nil
	}
	_, again, err := e.load(ctx, sub)
	if err != nil {
		return err
	}
	if again.sequence < last {
		return fmt.Errorf("%w: sequence %d", ErrUnreadable, last)
	}
	return nil
}

// after is the state with the events just appended. They are contiguous in the
// stream and the acknowledgement names the last one.
func (e *Entities[S]) after(sub subject, s S, f fold, logged []events.Event, ack bus.Ack) (S, error) {
	if len(logged) == 0 {
		return s, nil
	}
	for i, ev := range logged {
		if events.Tenant(ev) != sub.tenant || ev.Subject() != sub.entity {
			continue
		}
		at, err := events.Subject(ev)
		if err != nil {
			return s, err
		}
		s = e.foldOne(s, bus.Stored{Event: ev, Subject: at, Stream: bus.StreamLog, Sequence: ack.Sequence - uint64(len(logged)-1-i)}, &f)
	}
	state, err := json.Marshal(s)
	if err != nil {
		return s, fmt.Errorf("encode state: %w", err)
	}
	f.state = state
	e.keep(sub, f, "")
	return s, nil
}

// split parts the events of the log from the others, each in order.
func split(es []events.Event) (logged, others []events.Event) {
	for _, ev := range es {
		if info, ok := events.Lookup(ev.Type()); ok && info.Channel != events.ChannelLog {
			others = append(others, ev)
			continue
		}
		logged = append(logged, ev)
	}
	return logged, others
}

func (e *Entities[S]) publish(ctx context.Context, es []events.Event) error {
	for _, ev := range es {
		if _, err := e.log.Append(ctx, bus.Batch{Events: []events.Event{ev}}); err != nil {
			return fmt.Errorf("publish %s after the decision: %w", ev.Type(), err)
		}
	}
	return nil
}

// backoff waits a random time below 1, 2, 4, ... 64 ms, or until ctx ends.
func backoff(ctx context.Context, attempt int) error {
	limit := time.Millisecond << min(attempt, 6)
	return sleep(ctx, time.Duration(1+rand.Int64N(int64(limit))))
}
