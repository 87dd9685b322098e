// Package state is the only package that talks to Redis. It holds projections:
// folded from the log with sequence checks, thrown away at will, rebuilt from the
// log. No decision rests on Redis alone: decisions are appended to the log under
// the condition that the log has not moved on.
package state

import (
	"context"
	"iter"

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

// View is a read model over many entities: an index, a list, a graph.
type View struct {
	// Name of the view. Change it (say "graph/2") when Apply changes: what an older
	// Apply has written is not folded again.
	Name    string
	Stream  string   // which stream it folds
	Filters []string // which subjects
	// Apply queues the writes of one event. They are executed together with the new
	// position, once, in order. Keys must begin with Prefix(Name). Only commands that
	// write one key may be queued: their results are not seen, and scripts,
	// transactions and reads have no place here.
	Apply func(p redis.Pipeliner, s bus.Stored)
}

// The names of Redis keys. Everything Lanyard writes to Redis begins with "lanyard:".
const (
	keyPrefix      = "lanyard:"
	viewPrefix     = keyPrefix + "view:"
	positionPrefix = keyPrefix + "position:"
	entityPrefix   = keyPrefix + "entity:"
)

// Prefix is how a view's keys must begin.
func Prefix(view string) string { return viewPrefix + view + ":" }
