// Package bus is the only package that talks to NATS and Watermill. It connects a
// process under its own NATS user, provisions the streams, runs the handler tables
// of services on Watermill's Router, and publishes the events that handlers
// return, durably and in groups.
//
// Services import it for Handler, On and the log; nothing outside services does.
package bus

import (
	"context"
	"errors"
	"iter"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// The streams. See Provision for their settings.
const (
	StreamIn      = "NHI_IN"
	StreamLog     = "NHI_LOG"
	StreamKill    = "NHI_KILL"
	StreamAlert   = "NHI_ALERT"
	StreamReceipt = "NHI_RECEIPT"
	StreamGuard   = "NHI_GUARD"
	StreamTimer   = "NHI_TIMER"
	StreamDead    = "NHI_DEAD"
)

// Errors that callers act on.
var (
	// ErrConflict: the log moved on since the state was read. Read again and decide again.
	ErrConflict = errors.New("the log has moved on")
	// ErrUnknownOutcome: the server did not answer in time. Publishing again with the
	// same events is safe; report "pending", never "failed".
	ErrUnknownOutcome = errors.New("the server did not answer; the outcome is not known yet")
	// ErrUnsafeServer: the server does not sync every write, so nothing can be promised.
	ErrUnsafeServer = errors.New("the NATS server may lose acknowledged writes")
)

// Config of a connection.
type Config struct {
	URL            string                     // ignored when InProcess is set
	InProcess      nats.InProcessConnProvider // embedded server
	Name           string                     // shown in the server's connection list: the service's name
	NkeySeed       []byte                     // seed of the process's NATS user; empty: none
	User, Password string                     // alternative to NkeySeed
	CAFile         string                     // TLS; required outside loopback unless AllowPlaintext
	MonitorURL     string                     // HTTP monitoring endpoint, to read the server's sync setting
	SystemSeed     []byte                     // nkey seed of a system-account user, the other way to read it
	Log            *zap.Logger
	Metrics        prometheus.Registerer
	Now            func() time.Time
}

// Conn is the connection of one process. It is safe for concurrent use.
type Conn struct{}

// Connect connects and waits for the server, with retries, until ctx ends.
func Connect(ctx context.Context, cfg Config) (*Conn, error) { panic("being built") }

// Close drains and closes the connection. Runners must have ended before.
func (c *Conn) Close() error { panic("being built") }

// Options of Provision.
type Options struct {
	Replicas int // 1 or 3
}

// Provision creates or updates every stream. It is idempotent and refuses to
// weaken a stream.
func Provision(ctx context.Context, c *Conn, o Options) error { panic("being built") }

// SyncAlways reports whether the server is known to sync every write before it
// acknowledges (sync_interval: always). The error says how to mend it and wraps
// ErrUnsafeServer.
func (c *Conn) SyncAlways(ctx context.Context) error { panic("being built") }

// Expect makes an append conditional: Sequence must be the last one among the
// subjects that match Filter (0: there is none).
type Expect struct {
	Filter   string
	Sequence uint64
}

// Batch is stored whole or not at all. All its events must belong to one stream.
type Batch struct {
	Events []events.Event
	Expect *Expect
}

// Ack is the promise that a batch is stored durably.
type Ack struct {
	Stream   string
	Sequence uint64 // of the batch's last event
}

// Append stores a batch durably. Concurrent calls share one atomic publish (group
// commit). It returns ErrConflict when Expect does not hold and ErrUnknownOutcome
// when the server did not answer after retries with the same message ids.
func (c *Conn) Append(ctx context.Context, b Batch) (Ack, error) { panic("being built") }

// Publish appends events without a condition, each to its own stream.
func (c *Conn) Publish(ctx context.Context, es ...events.Event) error { panic("being built") }

// Stored is an event as it stands in a stream.
type Stored struct {
	Event    events.Event
	Subject  string
	Stream   string
	Sequence uint64
	Time     time.Time // when the server stored it
}

// Read yields the stored events of a stream that match filter, in order, from
// sequence from up to the last one stored when Read was called. Undecodable
// messages are skipped (they are in the dead-letter stream). It uses batched direct
// gets: a follower may lag, so decisions must be guarded by Expect.
func (c *Conn) Read(ctx context.Context, stream, filter string, from uint64) iter.Seq2[Stored, error] {
	panic("being built")
}

// Follow calls f for every stored event that matches filters, in order, from
// sequence from and then as they arrive, until ctx ends or f fails. It leaves
// nothing on the server.
func (c *Conn) Follow(ctx context.Context, stream string, filters []string, from uint64, f func(Stored) error) error {
	panic("being built")
}

// LastSequence is the sequence of the last message that matches filter in stream, 0
// when there is none. With filter ">" it is the stream's last sequence.
func (c *Conn) LastSequence(ctx context.Context, stream, filter string) (uint64, error) {
	panic("being built")
}

// Kill publishes one signed message on the kill feed at nhi.kill.<name> and returns
// its sequence. expect, when not nil, is the last sequence on that subject; ttl > 0
// lets the server drop it after that time. ErrConflict and ErrUnknownOutcome as Append.
func (c *Conn) Kill(ctx context.Context, name string, data []byte, id string, expect *uint64, ttl time.Duration) (uint64, error) {
	panic("being built")
}

// Schedule sets a durable timer: the TimerDue event is delivered to its handler
// at DueAt (whole seconds, never early by more than 1 s). Setting it again moves it.
func (c *Conn) Schedule(ctx context.Context, e events.Event) error { panic("being built") }

// Cancel removes a timer that has not fired.
func (c *Conn) Cancel(ctx context.Context, tenant, timer string) error { panic("being built") }

// Permanent marks an error that no retry can mend: the message goes to the
// dead-letter stream at once.
func Permanent(err error) error { panic("being built") }

// Handler is one row of a service's handler table.
type Handler struct {
	Type  string   // event type it consumes
	Emits []string // event types it may return
	Do    func(ctx context.Context, cause events.Event) ([]events.Event, error)
}

// On makes a row from a typed function. The function returns the events it decides
// and never publishes; it may be called again with the same cause and must then
// return the same events. emits lists the types it may return; anything else is a
// programming error and dead-letters the cause.
func On[P events.Payload](fn func(ctx context.Context, cause events.Event, p P) ([]events.Event, error), emits ...string) Handler {
	var zero P
	return Handler{
		Type:  zero.EventType(),
		Emits: emits,
		Do: func(ctx context.Context, cause events.Event) ([]events.Event, error) {
			p, err := events.As[P](cause)
			if err != nil {
				return nil, Permanent(err)
			}
			return fn(ctx, cause, p)
		},
	}
}

// Spec is what a Runner runs: the handler table of one service.
type Spec struct {
	Service     string // durable consumer name
	Handlers    []Handler
	Concurrency int  // handlers at once; order per partition key is kept. Default 64.
	Exclusive   bool // only one process at a time consumes (a lease in NATS); others stand by
	// OnOwn is called when an exclusive runner takes over, before the first message,
	// with the sequence per stream up to which earlier owners have acknowledged.
	OnOwn func(ctx context.Context, acked map[string]uint64) error
}

// Run consumes until ctx ends, then stops pulling, lets running handlers finish,
// naks the rest and returns.
func (c *Conn) Run(ctx context.Context, s Spec) error { panic("being built") }

// Dead is a dead letter.
type Dead struct {
	Sequence uint64    `json:"sequence"`
	Stream   string    `json:"stream"`   // where it came from
	Subject  string    `json:"subject"`  // its original subject
	Original uint64    `json:"original"` // its original sequence
	Service  string    `json:"service"`  // whose consumer gave up
	Code     string    `json:"code"`     // see events.Code
	Reason   string    `json:"reason"`
	Attempts uint64    `json:"attempts"`
	At       time.Time `json:"at"`
	Data     []byte    `json:"data"`
	Replayed bool      `json:"replayed"`
}

// DeadLetters yields the dead letters from a sequence on.
func (c *Conn) DeadLetters(ctx context.Context, from uint64) iter.Seq2[Dead, error] {
	panic("being built")
}

// Bury stores a dead letter for something that was refused before the bus (intake).
func (c *Conn) Bury(ctx context.Context, d Dead) error { panic("being built") }

// Replay puts a dead letter back where it came from, with a new message id, for the
// service that gave up on it, and marks it replayed.
func (c *Conn) Replay(ctx context.Context, sequence uint64) error { panic("being built") }
