package bus

import (
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/tests"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"context"
)

// TestWatermillSuite runs Watermill's own conformance suite over the publisher and
// the subscriber. Exceptions, each with its reason:
//
//   - ExactlyOnceDelivery: JetStream redelivers what it has no acknowledgement for,
//     so delivery is at least once; effects are made idempotent by event ids.
//   - GuaranteedOrderWithSingleSubscriber: order is kept per key within one process;
//     several processes share a durable consumer and then keep no order between them.
//   - NewSubscriberReceivesOldMessages: a durable consumer is a position, and the
//     next process goes on from it instead of beginning anew.
//   - ContextPreserved: a context does not travel over a network.
//   - RestartServiceCommand: the server is in this process and no command restarts
//     it; TestServerRestart does the same.
func TestWatermillSuite(t *testing.T) {
	c := testBus(t, func(_ *Config, tm *timing) {
		tm.grace, tm.nakFirst, tm.nakMax = 200*time.Millisecond, time.Millisecond, 5*time.Millisecond
	})
	if _, err := c.js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "WM", Subjects: []string{"wm.>"}, AllowAtomicPublish: true}); err != nil {
		t.Fatal(err)
	}
	c.committers["WM"] = &committer{c: c, stream: "WM"}
	group := func(t *testing.T, group string) (message.Publisher, message.Subscriber) {
		return suitePublisher(c), suiteSubscriber(c, group)
	}
	tests.TestPubSub(t, tests.Features{
		ConsumerGroups: true, GuaranteedOrder: true, GuaranteedOrderWithSingleSubscriber: true, Persistent: true,
	}, func(t *testing.T) (message.Publisher, message.Subscriber) { return group(t, "all") }, group)
}

const suiteID = "Suite-Id"

func suitePublisher(c *Conn) message.Publisher {
	return NewPublisher(c, PublisherConfig{Route: func(topic string, m *message.Message) (string, string, string, nats.Header, error) {
		h := nats.Header{suiteID: {m.UUID}}
		for k, v := range m.Metadata {
			h["Suite-"+k] = []string{v}
		}
		return "WM", "wm." + topic, topic + " " + m.UUID, h, nil // the suite publishes one message to several topics
	}})
}

func suiteSubscriber(c *Conn, group string) message.Subscriber {
	return NewSubscriber(c, SubscriberConfig{
		Consumer: func(topic string) (string, jetstream.ConsumerConfig) {
			return "WM", jetstream.ConsumerConfig{Durable: group + "-" + topic, FilterSubject: "wm." + topic, AckPolicy: jetstream.AckExplicitPolicy,
				AckWait: c.t.ackWait, MaxDeliver: -1, MaxAckPending: 100}
		},
		Key: func(m jetstream.Msg) string { return string(m.Data()) },
		Message: func(ctx context.Context, m jetstream.Msg, _ *jetstream.MsgMetadata) *message.Message {
			wm := message.NewMessageWithContext(ctx, m.Headers().Get(suiteID), m.Data())
			for k, v := range m.Headers() {
				if len(k) > 6 && k[:6] == "Suite-" && k != suiteID {
					wm.Metadata[k[6:]] = v[0]
				}
			}
			return wm
		},
		Lanes: 16, Grace: c.t.grace,
	})
}
