package bus

import (
	"context"
	"fmt"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/nats-io/nats.go"
)

// PublisherConfig says how Watermill messages become NATS messages.
type PublisherConfig struct {
	// Route is where a message is stored, under which id and with which headers.
	Route func(topic string, m *message.Message) (stream, subject, id string, header nats.Header, err error)
	// May reports whether anything may still be published. Optional.
	May func() error
}

// Publisher is a Watermill publisher: Publish returns when its messages are durable.
// Messages of one stream that are published together, or by several callers at
// once, share one atomic publish.
type Publisher struct {
	c   *Conn
	cfg PublisherConfig
}

// NewPublisher makes a publisher.
func NewPublisher(c *Conn, cfg PublisherConfig) *Publisher { return &Publisher{c: c, cfg: cfg} }

// Publish stores messages in order. When it fails some may be stored; publishing
// them again is safe.
func (p *Publisher) Publish(topic string, messages ...*message.Message) error {
	if len(messages) == 0 {
		return nil
	}
	items := make([]item, len(messages))
	for i, m := range messages {
		stream, subject, id, header, err := p.cfg.Route(topic, m)
		if err != nil {
			return fmt.Errorf("publish to %s: %w", topic, err)
		}
		items[i] = item{stream: stream, subject: subject, id: id, data: m.Payload, header: header}
	}
	if p.cfg.May != nil {
		if err := p.cfg.May(); err != nil {
			return fmt.Errorf("publish to %s: %w", topic, err)
		}
	}
	// Not under the messages' context: what a handler decided is published even
	// while its process shuts down.
	return p.c.storeAll(context.WithoutCancel(messages[0].Context()), items)
}

// Close does nothing: a publisher has nothing of its own. Watermill's Router closes
// publishers while handlers may still run.
func (p *Publisher) Close() error { return nil }
