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
	StreamLease   = "NHI_LEASE"
	StreamSnap    = "NHI_SNAP"
)

// Errors that callers act on.
var (
	// ErrConflict: the log moved on since the state was read. Read again and decide again.
	ErrConflict = errors.New("the log has moved on")
	// ErrUnknownOutcome: the server did not answer in time. Publishing again with the
	// same events is safe; report "pending", never "failed".
	ErrUnknownOutcome = errors.New("the server did not answer; the outcome is not known yet")
	// ErrReplayed: a dead letter was put back before. If it was in vain, there is a
	// newer dead letter to replay.
	ErrReplayed = errors.New("the dead letter was replayed before")
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
	CAFile         string                     // TLS; outside loopback TLS is always used, with the system's roots when this is empty
	MonitorURL     string                     // HTTP monitoring endpoint, to read the server's sync setting
	SystemSeed     []byte                     // nkey seed of a system-account user, the other way to read it
	// ServerSyncAlways answers for a server in the same process. It goes before
	// the two other ways.
	ServerSyncAlways func() bool
	Log              *zap.Logger
	Metrics          prometheus.Registerer
	Now              func() time.Time
}

// Expect makes an append conditional: Sequence must be the last one among the
// subjects that match Filter (0: there is none).
type Expect struct {
	Filter   string
	Sequence uint64
}

// Batch is stored whole or not at all. All its events must belong to one stream. Only
// when a part of a batch without Expect was stored before is the rest stored event by
// event.
type Batch struct {
	Events []events.Event
	Expect *Expect
}

// Ack is the promise that a batch is stored durably.
type Ack struct {
	Stream   string
	Sequence uint64 // of the batch's last event
}

// Stored is an event as it stands in a stream.
type Stored struct {
	Event    events.Event
	Subject  string
	Stream   string
	Sequence uint64
	Time     time.Time // when the server stored it
}

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
	Concurrency int // handlers at once; order per partition key is kept. Default 64.
	// Sweep makes this service also take what no service handles in NHI_IN, so that
	// an unknown type published past the HTTP door ends in the dead letters too.
	// One service of a deployment sets it.
	Sweep     bool
	Exclusive bool // only one process at a time consumes (a lease in NATS); others stand by
	// OnOwn is called when an exclusive runner takes over, before the first message,
	// with the sequence per stream up to which earlier owners have acknowledged.
	OnOwn func(ctx context.Context, acked map[string]uint64) error
}

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
