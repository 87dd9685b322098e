package bus

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// Permanent marks an error that no retry can mend: the message goes to the
// dead-letter stream at once.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &permanentError{err}
}

type permanentError struct{ err error }

func (e *permanentError) Error() string { return e.err.Error() }
func (e *permanentError) Unwrap() error { return e.err }

// Filters are the subjects per stream that a service consumes, from its handler
// table. Every service also consumes what is replayed for it.
func Filters(s Spec) map[string][]string {
	out := make(map[string][]string)
	for _, h := range s.Handlers {
		info, ok := events.Lookup(h.Type)
		if !ok {
			continue
		}
		stream, filter := channelStream[info.Channel], typeFilter(info)
		if !slices.Contains(out[stream], filter) {
			out[stream] = append(out[stream], filter)
		}
	}
	if s.Sweep {
		out[StreamIn] = []string{"nhi.in.>"}
	}
	if len(out) > 0 {
		out[StreamDead] = []string{retryFilter(s.Service)}
	}
	for _, f := range out {
		slices.Sort(f)
	}
	return out
}

// runner is one run of a handler table.
type runner struct {
	c        *Conn
	spec     Spec
	filters  map[string][]string
	handlers map[string]handlerRow
	other    handlerMetrics // messages that are of no type
	lease    *lease         // nil when not exclusive

	mu    sync.Mutex
	tries map[string]uint64 // failed attempts by stream and sequence, of messages that will come again
}

type handlerRow struct {
	Handler
	metrics handlerMetrics
}

// Run consumes until ctx ends, then stops pulling, lets running handlers finish,
// naks the rest and returns.
func (c *Conn) Run(ctx context.Context, s Spec) error {
	r, err := newRunner(c, s)
	if err != nil {
		return fmt.Errorf("run %s: %w", s.Service, err)
	}
	if len(r.filters) == 0 {
		<-ctx.Done()
		return nil
	}
	if s.Exclusive {
		err = r.runExclusive(ctx)
	} else {
		err = r.serve(ctx)
	}
	if err != nil {
		return fmt.Errorf("run %s: %w", s.Service, err)
	}
	return nil
}

func newRunner(c *Conn, s Spec) (*runner, error) {
	if s.Service == "" || events.Token(s.Service) != s.Service {
		return nil, fmt.Errorf("%q cannot name a consumer", s.Service)
	}
	if s.Concurrency <= 0 {
		s.Concurrency = 64
	}
	r := &runner{c: c, spec: s, filters: Filters(s), handlers: make(map[string]handlerRow), other: c.metrics.of(s.Service, "unknown"), tries: make(map[string]uint64)}
	for _, h := range s.Handlers {
		if _, ok := events.Lookup(h.Type); !ok {
			return nil, fmt.Errorf("handler of %q: %w", h.Type, events.ErrUnknownType)
		}
		if _, ok := r.handlers[h.Type]; ok {
			return nil, fmt.Errorf("two handlers of %s", h.Type)
		}
		r.handlers[h.Type] = handlerRow{Handler: h, metrics: c.metrics.of(s.Service, h.Type)}
	}
	return r, nil
}

// serve runs Watermill's Router over the service's consumers until ctx ends.
func (r *runner) serve(ctx context.Context) error {
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: r.c.t.grace + 10*time.Second}, wmLogger{r.c.log})
	if err != nil {
		return fmt.Errorf("make router: %w", err)
	}
	sub := NewSubscriber(r.c, SubscriberConfig{Consumer: r.consumer, Key: partitionKey, Message: newDelivery, Lanes: r.spec.Concurrency, Grace: r.c.t.grace, May: r.may})
	pub := NewPublisher(r.c, PublisherConfig{Route: routeProduced, May: r.mayPublish})
	for _, stream := range slices.Sorted(maps.Keys(r.filters)) {
		router.AddHandler(r.spec.Service+" "+stream, stream, sub, "events", pub, func(m *message.Message) ([]*message.Message, error) {
			return r.handle(stream, m)
		})
	}
	err = runRouter(ctx, router)
	if cerr := sub.Close(); cerr != nil {
		err = errors.Join(err, cerr)
	}
	return err
}

// runRouter runs the router until ctx ends. Cancelling a Router's context is not an
// orderly stop; closing it is, but only once its handlers run: before that Close waits
// for them under the lock that they need to start.
func runRouter(ctx context.Context, router *message.Router) error {
	var closing error
	ended, done := make(chan struct{}), make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(done)
		select {
		case <-router.Running():
			closing = router.Close()
		case <-ended:
		}
	})
	err := router.Run(context.WithoutCancel(ctx))
	close(ended)
	if !stop() {
		<-done
		err = errors.Join(err, closing)
	}
	return err
}

// may reports whether this process still owns what it consumes.
func (r *runner) may() bool { return r.lease == nil || r.lease.valid() }

func (r *runner) mayPublish() error {
	if !r.may() {
		return errLeaseLost
	}
	return nil
}

func (r *runner) consumer(stream string) (string, jetstream.ConsumerConfig) {
	return stream, jetstream.ConsumerConfig{
		Durable: r.spec.Service, FilterSubjects: r.filters[stream], DeliverPolicy: jetstream.DeliverAllPolicy,
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: r.c.t.ackWait, MaxDeliver: -1, MaxAckPending: r.c.t.maxPending,
	}
}

// partitionKey finds what order is kept by without decoding: the event's partition
// key as it stands in the canonical encoding, else the subject.
func partitionKey(m jetstream.Msg) string {
	const member = `"partitionkey":"`
	data := m.Data()
	i := bytes.Index(data, []byte(member))
	if i < 0 {
		return m.Subject()
	}
	data = data[i+len(member):]
	j := bytes.IndexByte(data, '"')
	if j < 0 {
		return m.Subject()
	}
	return string(data[:j])
}

type deliveryKey struct{}

// delivery is what the handler's side needs of a JetStream message.
type delivery struct {
	msg  jetstream.Msg
	meta *jetstream.MsgMetadata
}

// newDelivery makes the Watermill message of a JetStream message.
func newDelivery(ctx context.Context, m jetstream.Msg, meta *jetstream.MsgMetadata) *message.Message {
	return message.NewMessageWithContext(context.WithValue(ctx, deliveryKey{}, &delivery{m, meta}), "", m.Data())
}

type producedKey struct{}

// newProduced makes the Watermill message of an event that a handler returned.
func newProduced(ctx context.Context, it item) *message.Message {
	return message.NewMessageWithContext(context.WithValue(ctx, producedKey{}, &it), it.id, it.data)
}

func routeProduced(_ string, m *message.Message) (stream, subject, id string, header nats.Header, err error) {
	it, ok := m.Context().Value(producedKey{}).(*item)
	if !ok {
		return "", "", "", nil, errors.New("not an event")
	}
	return it.stream, it.subject, it.id, it.header, nil
}

// wmLogger is Watermill's logger over zap. What Watermill says per message and per
// step is left out: the runner logs each message once, where its way ends.
type wmLogger struct{ log *zap.Logger }
