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

// ErrUnreadable: the log does not show everything that it holds about the entity, so
// nothing may be decided about it: either a message that this version cannot read (it
// is in the dead-letter stream), or a replica that lags far behind.
var ErrUnreadable = errors.New("the log holds a message about this entity that cannot be read")

const (
	memoryFolds = 4096 // folds kept in process, per kind of entity
	saveEvery   = 8    // events folded before Redis is given the fold again
	decideTries = 32   // attempts of one decision
	readTries   = 6    // attempts of one read of a log that does not show its end
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

// load takes the newest cached fold and folds the rest of the log into it. A fold
// that is behind the log's end after several reads is returned with behind set.
func (e *Entities[S]) load(ctx context.Context, sub subject) (s S, to fold, err error) {
	from, source := e.cached(ctx, sub)
	replace := ""
	for attempt := 0; ; attempt++ {
		s, to, err = e.read(ctx, sub, from, source == "memory")
		switch {
		case errors.Is(err, errUnverified) && attempt < readTries:
			if err := backoff(ctx, attempt); err != nil {
				return s, fold{}, err
			}
		case errors.Is(err, errForeign), errors.Is(err, errUnverified):
			e.store.metrics.mended.WithLabelValues(e.name).Inc()
			e.memory.drop(sub.key)
			replace, from, source = from.id, fold{unsaved: -1}, "log"
		case err != nil:
			return s, fold{}, err
		case to.behind && attempt < readTries:
			if err := backoff(ctx, attempt); err != nil {
				return s, fold{}, err
			}
		default:
			e.store.metrics.loads.WithLabelValues(e.name, source).Inc()
			e.keep(sub, to, replace)
			return s, to, nil
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

// What can be wrong with a cached fold.
var (
	errForeign    = errors.New("the cached fold is not one of this log")
	errUnverified = errors.New("the log does not show what was folded")
)

// read folds the log into a cached fold. Unless this process has made the fold
// itself (own), its last event is read again: when it is not there, the fold is not
// one of this log. The log's end is asked of the stream's leader first, since the
// messages may come from a replica that lags.
func (e *Entities[S]) read(ctx context.Context, sub subject, from fold, own bool) (s S, to fold, err error) {
	last, err := e.log.LastSequence(ctx, bus.StreamLog, sub.filter)
	if err != nil {
		return s, fold{}, fmt.Errorf("read the log's end: %w", err)
	}
	if last < from.sequence {
		return s, fold{}, errForeign
	}
	if from.sequence > 0 {
		if err := json.Unmarshal(from.state, &s); err != nil {
			return s, fold{}, errForeign
		}
	}
	if last == from.sequence && (own || last == 0) {
		return s, from, nil
	}
	to, known := from, own || from.sequence == 0
	start := from.sequence
	if known {
		start++
	}
	for st, err := range e.log.Read(ctx, bus.StreamLog, sub.filter, start) {
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
		return s, fold{}, errUnverified
	}
	to.behind = to.sequence < last
	if to.sequence == from.sequence {
		return s, to, nil
	}
	if to.state, err = json.Marshal(s); err != nil {
		return s, fold{}, fmt.Errorf("encode state: %w", err)
	}
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
	f.behind = false
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
	for attempt := 0; ; attempt++ {
		s, f, err := e.load(ctx, sub)
		if err != nil {
			return zero, bus.Ack{}, fmt.Errorf("decide %s %s/%s: %w", e.name, tenant, entity, err)
		}
		if f.behind {
			return s, bus.Ack{}, fmt.Errorf("decide %s %s/%s: %w: it is after sequence %d", e.name, tenant, entity, ErrUnreadable, f.sequence)
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
