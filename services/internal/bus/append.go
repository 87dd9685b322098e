package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/lanyard-nhi/lanyard/events"
)

// Append stores a batch durably. Concurrent calls share one atomic publish (group
// commit). It returns ErrConflict when Expect does not hold and ErrUnknownOutcome
// when the server did not answer after retries with the same message ids.
//
// Appending what is already stored succeeds again, whether or not Expect still
// holds, as long as the stream remembers the message ids (10 minutes).
func (c *Conn) Append(ctx context.Context, b Batch) (Ack, error) {
	items, err := newItems(b.Events)
	if err != nil {
		return Ack{}, fmt.Errorf("append: %w", err)
	}
	if len(items) == 0 {
		return Ack{}, errors.New("append: no events")
	}
	for _, it := range items {
		if it.stream != items[0].stream {
			return Ack{}, fmt.Errorf("append: events of one batch belong to %s and %s", items[0].stream, it.stream)
		}
	}
	return c.store(ctx, items, b.Expect)
}

// Publish appends events without a condition, each to its own stream. Neighbours
// of one stream are stored together.
func (c *Conn) Publish(ctx context.Context, es ...events.Event) error {
	items, err := newItems(es)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	return c.storeAll(ctx, items)
}

func newItems(es []events.Event) ([]item, error) {
	items := make([]item, 0, len(es))
	for _, e := range es {
		it, err := newItem(e)
		if err != nil {
			return nil, err
		}
		items = append(items, it)
	}
	return items, nil
}

// storeAll stores items in order, in runs of one stream that fit an atomic batch.
func (c *Conn) storeAll(ctx context.Context, items []item) error {
	for len(items) > 0 {
		n, size := 0, 0
		for n < len(items) && n < maxGroup && items[n].stream == items[0].stream && (n == 0 || size+len(items[n].data) <= maxGroupBytes) {
			size += len(items[n].data)
			n++
		}
		if _, err := c.store(ctx, items[:n], nil); err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

// store hands items of one stream to its committer and waits.
func (c *Conn) store(ctx context.Context, items []item, expect *Expect) (Ack, error) {
	m, ok := c.committers[items[0].stream]
	if !ok {
		return Ack{}, fmt.Errorf("append to %q: no such stream", items[0].stream)
	}
	if len(items) > maxGroup {
		return Ack{}, fmt.Errorf("append to %s: a batch of %d messages; at most %d are stored together", m.stream, len(items), maxGroup)
	}
	if err := ctx.Err(); err != nil {
		return Ack{}, fmt.Errorf("append to %s: %w", m.stream, err)
	}
	p := &pending{items: dropRepeats(items), expect: expect, done: make(chan struct{})}
	if !m.direct(ctx, p) {
		m.add(p)
		select {
		case <-p.done:
		case <-ctx.Done():
			if m.withdraw(p) {
				return Ack{}, fmt.Errorf("append to %s: %w", m.stream, ctx.Err())
			}
			// It is on its way and the server may yet store it.
			return Ack{}, fmt.Errorf("append to %s: %w: %w", m.stream, ErrUnknownOutcome, ctx.Err())
		}
	}
	if p.err != nil {
		return Ack{}, fmt.Errorf("append to %s: %w", m.stream, p.err)
	}
	return Ack{Stream: m.stream, Sequence: p.seq}, nil
}

// dropRepeats keeps the first of several items with one id: the server refuses an
// atomic batch that holds an id twice.
func dropRepeats(items []item) []item {
	if len(items) == 1 {
		return items
	}
	seen := make(map[string]struct{}, len(items))
	kept := make([]item, 0, len(items))
	for _, it := range items {
		if _, ok := seen[it.id]; ok {
			continue
		}
		seen[it.id] = struct{}{}
		kept = append(kept, it)
	}
	return kept
}
