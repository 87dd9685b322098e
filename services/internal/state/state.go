// Package state is the only package that talks to Redis. It holds projections:
// folded from the log with sequence checks, thrown away at will, rebuilt from the
// log. No decision rests on Redis alone: decisions are appended to the log under
// the condition that the log has not moved on.
package state

import (
	"context"
	"iter"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/redis/go-redis/v9"
)

// Log is what state needs of the bus.
type Log interface {
	Append(ctx context.Context, b bus.Batch) (bus.Ack, error)
	Read(ctx context.Context, stream, filter string, from uint64) iter.Seq2[bus.Stored, error]
	Follow(ctx context.Context, stream string, filters []string, from uint64, f func(bus.Stored) error) error
	LastSequence(ctx context.Context, stream, filter string) (uint64, error)
}

// Store is a connection to Redis.
type Store struct{}

// Open connects to a redis:// or rediss:// URL.
func Open(ctx context.Context, url string) (*Store, error) { panic("being built") }

// Close closes the connection.
func (s *Store) Close() error { panic("being built") }

// Client is the Redis client, for views' reads. Writes go through Apply.
func (s *Store) Client() redis.UniversalClient { panic("being built") }

// Rebuild drops every projection. Followers notice and fold the log again.
func (s *Store) Rebuild(ctx context.Context) error { panic("being built") }

// Entities keeps the folded state S of each entity (an identity, a revocation):
// the events at events.EntityFilter(tenant, entity) in the log, folded in order.
// Redis caches the fold with the sequence it includes; a missing or stale cache is
// mended from the log.
type Entities[S any] struct{}

// NewEntities makes the entities of one kind. fold must be pure and total: it sees
// every log event about the entity. S is stored as JSON.
func NewEntities[S any](log Log, store *Store, name string, fold func(S, bus.Stored) S) *Entities[S] {
	panic("being built")
}

// Load is the state as of the log's end (or later than when it was called) and the
// sequence of the last event folded into it.
func (e *Entities[S]) Load(ctx context.Context, tenant, entity string) (S, uint64, error) {
	panic("being built")
}

// Decide loads, calls decide, and appends the events it returns under the condition
// that nothing about the entity was appended meanwhile; on a conflict it loads and
// decides again. No events means nothing to do. decide must be pure. It returns the
// state after the append. Events returned by decide that do not belong to the log
// are published afterwards, in the same order.
func (e *Entities[S]) Decide(ctx context.Context, tenant, entity string, decide func(S) ([]events.Event, error)) (S, bus.Ack, error) {
	panic("being built")
}

// View is a read model over many entities: an index, a list, a graph.
type View struct {
	Name    string
	Stream  string   // which stream it folds
	Filters []string // which subjects
	// Apply queues the writes of one event. They are executed together with the new
	// position, once, in order. Keys must begin with Prefix(Name).
	Apply func(p redis.Pipeliner, s bus.Stored)
}

// Prefix is how a view's keys must begin.
func Prefix(view string) string { return "lanyard:view:" + view + ":" }

// Follow keeps the view up to date until ctx ends. Several processes may follow one
// view; each event is applied once. A flushed Redis is folded again from the start.
func (s *Store) Follow(ctx context.Context, log Log, v View) error { panic("being built") }

// Wait returns when the view has applied everything up to sequence.
func (s *Store) Wait(ctx context.Context, view string, sequence uint64) error { panic("being built") }

// Position is the sequence up to which the view has been applied, and when it last moved.
func (s *Store) Position(ctx context.Context, view string) (uint64, time.Time, error) {
	panic("being built")
}
