// Package raw is the simplest honest programs over JetStream that do what the bus
// does, without what the bus adds: the limit that benches compare the bus with.
// Only package bench imports it.
package raw

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

// Client is a plain JetStream client.
type Client struct {
	nc *nats.Conn
	js jetstream.JetStream
}

// Dial connects in process.
func Dial(server nats.InProcessConnProvider) (*Client, error) {
	nc, err := nats.Connect("", nats.InProcessServer(server))
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	js, err := jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4000))
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("open jetstream: %w", err)
	}
	return &Client{nc, js}, nil
}

// Close closes the connection.
func (c *Client) Close() { c.nc.Close() }

// Message is what is published.
type Message struct {
	Subject string
	Data    []byte
}

func (m Message) msg(id string) *nats.Msg {
	return &nats.Msg{Subject: m.Subject, Data: m.Data, Header: nats.Header{
		"Content-Type": {"application/cloudevents+json"}, jetstream.MsgIDHeader: {id}}}
}

// consumer has the same settings as the bus's.
func (c *Client) consumer(ctx context.Context, stream, filter string) (jetstream.Consumer, error) {
	cons, err := c.js.CreateOrUpdateConsumer(ctx, stream, jetstream.ConsumerConfig{Durable: "raw", FilterSubjects: []string{filter},
		AckPolicy: jetstream.AckExplicitPolicy, AckWait: 30 * time.Second, MaxDeliver: -1, MaxAckPending: 2000})
	if err != nil {
		return nil, fmt.Errorf("make consumer: %w", err)
	}
	return cons, nil
}

// Hop consumes n messages, publishes one for each without waiting, and acknowledges
// each when its publish was acknowledged. It returns how long that took after the
// first warm ones.
func (c *Client) Hop(ctx context.Context, stream, filter string, n, warm int, out func(i int) Message) (time.Duration, error) {
	cons, err := c.consumer(ctx, stream, filter)
	if err != nil {
		return 0, err
	}
	type hop struct {
		cause jetstream.Msg
		ack   jetstream.PubAckFuture
		err   error
	}
	hops := make(chan hop, 4000)
	prefix := nuid.Next() + "-"
	count := 0
	start := time.Now()
	consuming, err := cons.Consume(func(m jetstream.Msg) {
		ack, err := c.js.PublishMsgAsync(out(count).msg(prefix + strconv.Itoa(count)))
		count++
		hops <- hop{m, ack, err}
	}, jetstream.PullMaxMessages(2000))
	if err != nil {
		return 0, fmt.Errorf("consume: %w", err)
	}
	defer consuming.Stop()
	for i := range n {
		if i == warm {
			start = time.Now()
		}
		select {
		case h := <-hops:
			if h.err != nil {
				return 0, fmt.Errorf("publish: %w", h.err)
			}
			select {
			case <-h.ack.Ok():
			case err := <-h.ack.Err():
				return 0, fmt.Errorf("publish: %w", err)
			}
			if err := h.cause.Ack(); err != nil {
				return 0, fmt.Errorf("acknowledge: %w", err)
			}
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	if err := c.nc.Flush(); err != nil {
		return 0, fmt.Errorf("flush: %w", err)
	}
	return time.Since(start), nil
}

// Batches publishes n messages in atomic batches, one after the other.
func (c *Client) Batches(ctx context.Context, n, size int, out func(i int) Message) (time.Duration, error) {
	prefix := nuid.Next() + "-"
	start := time.Now()
	for i := 0; i < n; {
		msgs := make([]*nats.Msg, 0, size)
		for ; i < n && len(msgs) < size; i++ {
			msgs = append(msgs, out(i).msg(prefix+strconv.Itoa(i)))
		}
		if _, err := jetstreamext.PublishMsgBatch(ctx, c.js, msgs); err != nil {
			return 0, fmt.Errorf("publish batch: %w", err)
		}
	}
	return time.Since(start), nil
}

// Latency publishes n messages at a steady pace and returns the time from before
// each publish to when it was consumed, in milliseconds.
func (c *Client) Latency(ctx context.Context, stream, filter string, n int, pace time.Duration, out func(i int) Message) ([]float64, error) {
	cons, err := c.consumer(ctx, stream, filter)
	if err != nil {
		return nil, err
	}
	arrived := make(chan time.Time, n)
	consuming, err := cons.Consume(func(m jetstream.Msg) {
		arrived <- time.Now()
		_ = m.Ack()
	}, jetstream.PullMaxMessages(2000))
	if err != nil {
		return nil, fmt.Errorf("consume: %w", err)
	}
	defer consuming.Stop()
	prefix := nuid.Next() + "-"
	return Paced(ctx, n, pace, arrived, func(i int) error {
		_, err := c.js.PublishMsg(ctx, out(i).msg(prefix+strconv.Itoa(i)))
		return err
	})
}

// Paced publishes one message after the other and waits for each to arrive.
func Paced(ctx context.Context, n int, pace time.Duration, arrived <-chan time.Time, publish func(i int) error) ([]float64, error) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	ms := make([]float64, 0, n)
	for i := range n {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		start := time.Now()
		if err := publish(i); err != nil {
			return nil, fmt.Errorf("publish: %w", err)
		}
		select {
		case at := <-arrived:
			ms = append(ms, float64(at.Sub(start))/float64(time.Millisecond))
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return ms, nil
}
