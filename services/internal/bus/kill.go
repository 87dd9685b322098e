package bus

import (
	"context"
	"fmt"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Kill publishes one signed message on the kill feed at nhi.kill.<name> and returns
// its sequence. expect, when not nil, is the last sequence on that subject; ttl > 0
// lets the server drop it after that time (whole seconds, rounded up). ErrConflict
// and ErrUnknownOutcome as Append.
func (c *Conn) Kill(ctx context.Context, name string, data []byte, id string, expect *uint64, ttl time.Duration) (uint64, error) {
	it := item{stream: StreamKill, subject: "nhi.kill." + events.Token(name), id: id, data: data}
	if ttl > 0 {
		it.header = nats.Header{jetstream.MsgTTLHeader: {wholeSeconds(ttl)}}
	}
	var e *Expect
	if expect != nil {
		e = &Expect{Filter: it.subject, Sequence: *expect}
	}
	ack, err := c.store(ctx, []item{it}, e)
	if err != nil {
		return 0, fmt.Errorf("publish kill entry: %w", err)
	}
	return ack.Sequence, nil
}

// Snapshot stores one part of a snapshot of the kill feed at nhi.snap.<name>, which the
// server drops after ttl. What was there is replaced.
func (c *Conn) Snapshot(ctx context.Context, name string, data []byte, ttl time.Duration) error {
	it := item{stream: StreamSnap, subject: "nhi.snap." + events.Token(name), data: data, header: nats.Header{jetstream.MsgTTLHeader: {wholeSeconds(ttl)}}}
	if _, err := c.store(ctx, []item{it}, nil); err != nil {
		return fmt.Errorf("store snapshot of the kill feed: %w", err)
	}
	return nil
}

func wholeSeconds(d time.Duration) string {
	return ((d + time.Second - 1) / time.Second * time.Second).String()
}
