package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// SubscriberConfig says how topics become consumers.
type SubscriberConfig struct {
	// Consumer names the stream and the durable consumer of a topic.
	Consumer func(topic string) (stream string, cfg jetstream.ConsumerConfig)
	// Key is what order is kept by: messages of one key are handled one after the other.
	Key func(m jetstream.Msg) string
	// Message makes the Watermill message; its context is set by the subscriber.
	Message func(ctx context.Context, m jetstream.Msg, meta *jetstream.MsgMetadata) *message.Message
	Lanes   int           // messages handed out at once
	Grace   time.Duration // how long Close waits for messages that were handed out
	// May reports whether messages may still be handed out. Optional.
	May func() bool
}

// Subscriber is a Watermill subscriber over durable JetStream pull consumers. It
// keeps a window of messages in flight and settles each on its own: an acked
// message is acknowledged, a nacked one comes again after a delay that grows with
// its deliveries. While a message is held the server is told so.
type Subscriber struct {
	c   *Conn
	cfg SubscriberConfig

	mu     sync.Mutex
	closed bool
	subs   map[*subscription]struct{}
}

// NewSubscriber makes a subscriber.
func NewSubscriber(c *Conn, cfg SubscriberConfig) *Subscriber {
	return &Subscriber{c: c, cfg: cfg, subs: make(map[*subscription]struct{})}
}

// Subscribe makes or updates the topic's consumer and hands out its messages until
// ctx ends or the subscriber is closed. Then the channel is closed.
func (s *Subscriber) Subscribe(ctx context.Context, topic string) (<-chan *message.Message, error) {
	sub := &subscription{
		s: s, topic: topic, out: make(chan *message.Message, max(s.cfg.Lanes, 1)), closing: make(chan struct{}), gone: make(chan struct{}),
	}
	sub.lanes = lanes{most: max(s.cfg.Lanes, 1), handle: sub.handOut, keys: make(map[string]*lane)}
	sub.held = held{grace: s.c.t.ackWait, keys: make(map[string][]heldMessage)}
	sub.ctx, sub.cancel = context.WithCancel(context.WithoutCancel(ctx))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, errors.New("subscribe: the subscriber is closed")
	}
	consume, err := sub.consume(ctx)
	if err != nil {
		return nil, fmt.Errorf("subscribe %s: %w", topic, err)
	}
	s.subs[sub] = struct{}{}
	go sub.supervise(ctx, consume)
	return sub.out, nil
}

// Close stops pulling, waits for the messages that were handed out, gives the rest
// back to the server and closes the channels.
func (s *Subscriber) Close() error {
	s.mu.Lock()
	s.closed = true
	subs := make([]*subscription, 0, len(s.subs))
	for sub := range s.subs {
		subs = append(subs, sub)
	}
	s.mu.Unlock()
	for _, sub := range subs {
		sub.stop()
	}
	for _, sub := range subs {
		<-sub.gone
	}
	return nil
}

// subscription is one topic.
type subscription struct {
	s       *Subscriber
	topic   string
	out     chan *message.Message
	closing chan struct{} // closed: no message is handed out any more
	once    sync.Once
	gone    chan struct{} // closed: out is closed

	ctx    context.Context // of messages; ends after the grace period
	cancel context.CancelFunc
	lanes  lanes
	held   held
}

func (sub *subscription) stop() { sub.once.Do(func() { close(sub.closing) }) }

func (sub *subscription) stopping() bool {
	select {
	case <-sub.closing:
		return true
	default:
		return sub.s.cfg.May != nil && !sub.s.cfg.May()
	}
}

// consume makes the consumer and pulls from it.
func (sub *subscription) consume(ctx context.Context) (jetstream.ConsumeContext, error) {
	stream, cfg := sub.s.cfg.Consumer(sub.topic)
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	cons, err := sub.s.c.js.CreateOrUpdateConsumer(ctx, stream, cfg)
	if err != nil {
		return nil, fmt.Errorf("make consumer %s of %s: %w", cfg.Durable, stream, err)
	}
	return cons.Consume(sub.receive, jetstream.PullMaxMessages(sub.s.c.t.maxPending),
		jetstream.ConsumeErrHandler(func(_ jetstream.ConsumeContext, err error) {
			sub.s.c.log.Debug("consumer reported an error", zap.String("stream", stream), zap.String("consumer", cfg.Durable), zap.Error(err))
		}))
}

// receive puts a message into the lane of its key.
func (sub *subscription) receive(m jetstream.Msg) {
	if sub.stopping() {
		sub.giveBack(m)
		return
	}
	sub.lanes.push(sub.s.cfg.Key(m), m)
}

// giveBack lets another process have the message at once.
func (sub *subscription) giveBack(m jetstream.Msg) {
	if err := m.Nak(); err != nil {
		sub.s.c.log.Debug("cannot give a message back", zap.Error(err))
	}
}

// supervise ends the subscription in order, and begins again when the server ended
// the consumer.
func (sub *subscription) supervise(ctx context.Context, consume jetstream.ConsumeContext) {
	alive := time.NewTicker(sub.s.c.t.ackWait / 3)
	defer alive.Stop()
	for {
		select {
		case <-ctx.Done():
			sub.stop()
		case <-sub.closing:
		case <-alive.C:
			sub.lanes.inProgress()
			continue
		case <-consume.Closed():
			consume = sub.again(ctx)
			continue
		}
		break
	}
	sub.end(consume, alive.C)
}

// again makes the consumer anew, with back-off, until the subscription or the
// connection ends.
func (sub *subscription) again(ctx context.Context) jetstream.ConsumeContext {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		select {
		case <-ctx.Done():
			return closedConsume{}
		case <-sub.closing:
			return closedConsume{}
		case <-time.After(wait):
		}
		if sub.s.c.nc.IsClosed() {
			sub.stop()
			return closedConsume{}
		}
		sub.s.c.log.Warn("consumer ended; making it again", zap.String("topic", sub.topic))
		consume, err := sub.consume(ctx)
		if err == nil {
			return consume
		}
		sub.s.c.log.Warn("cannot make the consumer again", zap.String("topic", sub.topic), zap.Error(err))
	}
}

// closedConsume stands for a consumer that is not there.
type closedConsume struct{}

func (closedConsume) Stop()                   {}
func (closedConsume) Drain()                  {}
func (closedConsume) Closed() <-chan struct{} { c := make(chan struct{}); close(c); return c }

// end drains what was pulled, waits for what was handed out, and closes the channel.
func (sub *subscription) end(consume jetstream.ConsumeContext, alive <-chan time.Time) {
	consume.Drain()
	grace := time.NewTimer(sub.s.cfg.Grace)
	defer grace.Stop()
	closed := consume.Closed()
	done := make(chan struct{})
	for waiting := true; waiting; {
		select {
		case <-closed:
			closed = nil
			go func() { sub.lanes.wg.Wait(); close(done) }()
		case <-done:
			waiting = false
		case <-alive:
			sub.lanes.inProgress()
		case <-grace.C:
			sub.cancel() // handlers are told, lanes give up
			if closed != nil {
				consume.Stop()
			}
		}
	}
	sub.cancel()
	if err := sub.s.c.nc.FlushTimeout(sub.s.c.t.attempt); err != nil {
		sub.s.c.log.Debug("cannot flush acknowledgements", zap.Error(err))
	}
	close(sub.out)
	sub.s.mu.Lock()
	delete(sub.s.subs, sub)
	sub.s.mu.Unlock()
	close(sub.gone)
}

// handOut gives one message to the reader of the channel and settles it.
func (sub *subscription) handOut(key string, m jetstream.Msg) {
	if sub.stopping() {
		sub.giveBack(m)
		return
	}
	if err := sub.offer(key, m); err != nil {
		sub.s.c.log.Debug("cannot settle a message", zap.Error(err))
	}
}

func (sub *subscription) offer(key string, m jetstream.Msg) error {
	meta, err := m.Metadata()
	if err != nil {
		return fmt.Errorf("read metadata: %w", err)
	}
	sequence := meta.Sequence.Stream
	if delay, ok := sub.held.pass(key, sequence, time.Now()); !ok {
		return m.NakWithDelay(delay)
	}
	ctx := &messageContext{parent: sub.ctx}
	defer ctx.end()
	wm := sub.s.cfg.Message(ctx, m, meta)
	select {
	case sub.out <- wm:
	case <-sub.closing:
		return m.Nak()
	}
	select {
	case <-wm.Acked():
		return m.Ack()
	case <-wm.Nacked():
	case <-sub.ctx.Done():
		select {
		case <-wm.Acked(): // both at once: the handler was done
			return m.Ack()
		default:
		}
	}
	if sub.stopping() {
		return m.Nak()
	}
	delay := sub.s.c.nakDelay(meta.NumDelivered)
	sub.held.back(key, sequence, time.Now().Add(delay))
	return m.NakWithDelay(delay)
}

// nakDelay grows with the deliveries of a message.
func (c *Conn) nakDelay(deliveries uint64) time.Duration {
	d := c.t.nakFirst
	for ; deliveries > 1 && d < c.t.nakMax; deliveries-- {
		d *= 2
	}
	return min(d, c.t.nakMax)
}
