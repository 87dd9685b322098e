package bus

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/lanyard-nhi/lanyard/events"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// Codes of dead letters beside those of events.Code, which say what is wrong with the
// message itself.
const (
	codePermanent = "permanent" // the handler says that no retry can mend it
	codeExhausted = "exhausted" // the handler failed too often
)

// origin is where a delivered message first stood. For a replayed dead letter that
// is not where it is consumed from.
type origin struct {
	stream, subject string
	sequence        uint64
	attempts        uint64
	retry           uint64 // sequence of the replay, 0 when there is none
}

// handle is the whole way of one message: open, call the handler, hand its events
// to the Router to publish. An error makes the message come again.
func (r *runner) handle(stream string, wm *message.Message) ([]*message.Message, error) {
	ctx := wm.Context()
	d, ok := ctx.Value(deliveryKey{}).(*delivery)
	if !ok {
		return nil, errors.New("handle: not a delivery")
	}
	m := d.msg
	from, err := whence(stream, d)
	if err != nil {
		return nil, r.bury(ctx, from, r.other, events.Code(err), err, m.Data())
	}
	cause, err := open(from.stream, from.subject, m.Headers(), m.Data())
	if err != nil {
		return nil, r.bury(ctx, from, r.other, events.Code(err), err, m.Data())
	}
	row, ok := r.handlers[cause.Type()]
	if !ok {
		return nil, nil
	}
	if from.attempts > 1 {
		row.metrics.redelivered.Inc()
	}
	produced, err := r.call(ctx, row, cause)
	if err == nil {
		r.settled(from)
		row.metrics.handled.Inc()
		return produced, nil
	}
	return nil, r.failed(ctx, from, row, cause, err, m.Data())
}

// whence reads the origin of a message.
func whence(stream string, m *delivery) (origin, error) {
	from := origin{stream: stream, subject: m.msg.Subject(), sequence: m.meta.Sequence.Stream, attempts: m.meta.NumDelivered}
	if stream != StreamDead {
		return from, nil
	}
	d, err := deadOf(m.msg.Headers(), nil)
	if err != nil {
		return from, err
	}
	return origin{stream: d.Stream, subject: d.Subject, sequence: d.Original, attempts: m.meta.NumDelivered, retry: m.meta.Sequence.Stream}, nil
}

// call runs the handler under a span and encodes what it returns.
func (r *runner) call(ctx context.Context, row handlerRow, cause events.Event) (produced []*message.Message, err error) {
	if tp := extension(cause, events.ExtTraceparent); tp != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": tp})
	}
	ctx, span := r.c.tracer.Start(ctx, r.spec.Service+" "+row.Type, trace.WithSpanKind(trace.SpanKindConsumer))
	if span.IsRecording() {
		span.SetAttributes(attribute.String("messaging.system", "nats"), attribute.String("cloudevents.event_id", cause.ID()),
			attribute.String("cloudevents.event_source", cause.Source()), attribute.String("cloudevents.event_type", cause.Type()),
			attribute.String("lanyard.tenant", events.Tenant(cause)))
	}
	start := time.Now()
	defer func() {
		row.metrics.seconds.Observe(time.Since(start).Seconds())
		if p := recover(); p != nil {
			r.c.log.Error("handler panicked", zap.String("type", row.Type), zap.Any("panic", p), zap.ByteString("stack", debug.Stack()))
			produced, err = nil, fmt.Errorf("handler of %s panicked: %v", row.Type, p)
		}
		if err != nil {
			span.SetStatus(codes.Error, err.Error())
		}
		span.End()
	}()
	out, err := row.Do(ctx, cause)
	if err != nil {
		return nil, err
	}
	produced = make([]*message.Message, 0, len(out))
	for _, e := range out {
		if !slices.Contains(row.Emits, e.Type()) {
			return nil, Permanent(fmt.Errorf("handler of %s returned %s, which its row does not declare", row.Type, e.Type()))
		}
		it, err := newItem(e)
		if err != nil {
			return nil, Permanent(fmt.Errorf("handler of %s returned an event that cannot be stored: %w", row.Type, err))
		}
		produced = append(produced, newProduced(ctx, it))
	}
	return produced, nil
}

// failed decides what becomes of a message whose handler failed: it comes again, or
// it is buried when no retry can mend it or enough were made. A revocation is
// retried for ever.
func (r *runner) failed(ctx context.Context, from origin, row handlerRow, cause events.Event, err error, data []byte) error {
	if ctx.Err() != nil || !r.may() {
		return err // the process stops; that says nothing about the message
	}
	var permanent *permanentError
	if errors.As(err, &permanent) {
		return r.bury(ctx, from, row.metrics, codePermanent, err, data)
	}
	tries := r.tried(from)
	if tries >= r.c.t.tries && !strings.HasPrefix(row.Type, events.TypePrefix+"revocation.") {
		from.attempts = max(from.attempts, tries)
		return r.bury(ctx, from, row.metrics, codeExhausted, fmt.Errorf("gave up after %d attempts: %w", tries, err), data)
	}
	r.c.log.Warn("handler failed; the event comes again", zap.String("service", r.spec.Service), zap.String("type", row.Type),
		zap.String("id", cause.ID()), zap.String("tenant", events.Tenant(cause)), zap.Uint64("attempt", tries), zap.Error(err))
	return err
}

func (o origin) key() string {
	return o.stream + " " + strconv.FormatUint(o.sequence, 10) + " " + strconv.FormatUint(o.retry, 10)
}

// tried counts a failed attempt. The server's count of deliveries is not used: it
// also counts deliveries that were given back.
func (r *runner) tried(o origin) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.tries) > 4*r.c.t.maxPending {
		clear(r.tries) // another process settled them
	}
	r.tries[o.key()]++
	return r.tries[o.key()]
}

func (r *runner) settled(o origin) {
	if o.attempts <= 1 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.tries, o.key())
}

// bury puts a message into the dead letters. Only when that is durable is the
// message settled: an error makes it come again.
func (r *runner) bury(ctx context.Context, from origin, m handlerMetrics, code string, cause error, data []byte) error {
	d := Dead{Stream: from.stream, Subject: from.subject, Original: from.sequence, Service: r.spec.Service, Code: code,
		Reason: cause.Error(), Attempts: from.attempts, At: r.c.cfg.Now(), Data: data}
	if err := r.c.bury(context.WithoutCancel(ctx), d, from.retry); err != nil {
		return fmt.Errorf("bury: %w", err)
	}
	r.settled(origin{stream: from.stream, sequence: from.sequence, retry: from.retry, attempts: 2})
	m.dead.Inc()
	r.c.log.Warn("event buried", zap.String("service", r.spec.Service), zap.String("stream", from.stream), zap.Uint64("sequence", from.sequence),
		zap.String("subject", from.subject), zap.String("code", code), zap.Error(cause))
	return nil
}
