package bus

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
	"go.uber.org/zap"
)

// commit stores a group and answers its callers; it returns how many messages the
// server took together, 0 when something went wrong. When the server refuses an
// atomic batch for what one of its parts holds, each goes on its own.
func (m *committer) commit(group []*pending, atomic bool) int {
	if len(group) == 1 {
		group[0].finish(m.alone(group[0]))
		return 0
	}
	if !atomic {
		return m.pipeline(group)
	}
	last, err := m.atomic(func() []*nats.Msg {
		var all []*nats.Msg
		for _, p := range group {
			all = append(all, p.messages()...)
		}
		return all
	})
	var refused *jetstream.APIError
	switch {
	case err == nil:
		n := 0
		for i := len(group) - 1; i >= 0; i-- {
			group[i].finish(last, nil)
			last -= uint64(len(group[i].items))
			n += len(group[i].items)
		}
		return n
	case errors.As(err, &refused):
		m.split(group)
	default:
		for _, p := range group {
			p.finish(0, err)
		}
	}
	return 0
}

// pipeline publishes single messages without waiting in between. What the server
// does not simply take goes on its own.
func (m *committer) pipeline(group []*pending) int {
	acks := make([]jetstream.PubAckFuture, len(group))
	for i, p := range group {
		acks[i], _ = m.c.js.PublishMsgAsync(p.messages()[0]) // nil when it failed
	}
	over := m.c.patience.over()
	var again []*pending
	for i, p := range group {
		if acks[i] == nil {
			again = append(again, p)
			continue
		}
		select {
		case ack := <-acks[i].Ok():
			p.finish(ack.Sequence, nil)
		case <-acks[i].Err(): //nolint:errcheck // refused: it goes again on its own, and that answer counts
			again = append(again, p)
		case <-over:
			again = append(again, p)
		case <-m.c.gone:
			p.finish(0, fmt.Errorf("%w: %w", ErrUnknownOutcome, nats.ErrConnectionClosed))
		}
	}
	if len(again) > 0 {
		m.each(again)
		return 0
	}
	m.c.noteAnswer()
	return len(group)
}

// split stores the batches of a refused group on their own: single messages without
// a condition without waiting in between, since the server itself answers for those
// that it has, and the others a few at once. Their order does not matter: who wants
// one waits for the answer before the next call.
func (m *committer) split(group []*pending) {
	var singles, others []*pending
	for _, p := range group {
		if len(p.items) == 1 && p.expect == nil {
			singles = append(singles, p)
		} else {
			others = append(others, p)
		}
	}
	m.pipeline(singles)
	m.each(others)
}

// each stores batches on their own, a few at once.
func (m *committer) each(group []*pending) {
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxSplit)
	for _, p := range group {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			p.finish(m.alone(p))
		})
	}
	wg.Wait()
}

// messages are fresh NATS messages of the batch; the first carries the condition.
func (p *pending) messages() []*nats.Msg {
	msgs := make([]*nats.Msg, len(p.items))
	for i, it := range p.items {
		msgs[i] = it.message()
	}
	if p.expect != nil {
		expectHeaders(msgs[0].Header, p.expect.Filter, p.expect.Sequence)
	}
	return msgs
}

func expectHeaders(h nats.Header, filter string, seq uint64) {
	h[jetstream.ExpectedLastSubjSeqHeader] = []string{strconv.FormatUint(seq, 10)}
	h[jetstream.ExpectedLastSubjSeqSubjHeader] = []string{filter}
}

// alone stores one batch and resolves what the server says about it.
func (m *committer) alone(p *pending) (uint64, error) {
	for range m.c.t.attempts { // each turn, less is missing
		seq, err := m.send(p)
		var refused *jetstream.APIError
		if err == nil || !errors.As(err, &refused) {
			return seq, err
		}
		switch refused.ErrorCode {
		case codeBatchDuplicate, jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant:
		default:
			return 0, err
		}
		if p.expect == nil && len(p.items) > 1 {
			return m.rest(p.items)
		}
		conflict := refused.ErrorCode != codeBatchDuplicate
		found := m.logged(p, conflict)
		rest, err := m.missing(p.items, found)
		switch {
		case err != nil:
			return 0, err
		case len(rest) == 0: // stored before: the same answer again
			last := p.items[len(p.items)-1]
			if seq, ok := found[last.id]; ok {
				return seq, nil
			}
			return m.sequenceOf(last)
		case conflict:
			return 0, ErrConflict
		}
		p = &pending{items: rest, expect: p.expect}
	}
	return 0, ErrUnknownOutcome
}

func (m *committer) send(p *pending) (uint64, error) {
	if len(p.items) > 1 {
		return m.atomic(p.messages)
	}
	ack, err := m.single(func() *nats.Msg { return p.messages()[0] })
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}

// single publishes one message.
func (m *committer) single(msg func() *nats.Msg) (*jetstream.PubAck, error) {
	return retry(m.c, func(ctx context.Context) (*jetstream.PubAck, error) {
		return m.c.js.PublishMsg(ctx, msg(), jetstream.WithRetryAttempts(0), jetstream.WithExpectStream(m.stream))
	})
}

// atomic publishes messages whole or not at all and returns the sequence of the last.
func (m *committer) atomic(msgs func() []*nats.Msg) (uint64, error) {
	return retry(m.c, func(ctx context.Context) (uint64, error) {
		ack, err := jetstreamext.PublishMsgBatch(ctx, m.c.js, msgs(), jetstreamext.BatchFlowControl{AckTimeout: m.c.t.attempt})
		if err != nil {
			return 0, err
		}
		return ack.Sequence, nil
	})
}

// retry calls publish until the server answers. The message ids make repeats harmless.
func retry[T any](c *Conn, publish func(ctx context.Context) (T, error)) (T, error) {
	var none T
	var err error
	for n := range c.t.attempts {
		if n > 0 && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, nats.ErrTimeout) {
			time.Sleep(c.t.attempt / 8) // no leader, too many batches: the answer came at once
		}
		var v T
		ctx, cancel := context.WithTimeout(context.Background(), c.t.attempt)
		v, err = publish(ctx)
		cancel()
		var refused *jetstream.APIError
		switch {
		case err == nil:
			c.noteAnswer()
			return v, nil
		case errors.As(err, &refused) && !transient(refused):
			c.noteAnswer()
			return none, err
		case errors.Is(err, nats.ErrConnectionClosed):
			return none, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
		case errors.Is(err, nats.ErrMaxPayload):
			return none, err
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
			c.noteTimeout()
		}
	}
	return none, fmt.Errorf("%w (%d attempts): %w", ErrUnknownOutcome, c.t.attempts, err)
}

// transient reports whether the server may answer otherwise when asked again.
func transient(e *jetstream.APIError) bool {
	switch e.ErrorCode {
	case codeBatchIncomplete, codeTooManyBatches, codeDuplicateConflict:
		return true
	}
	return e.Code >= 500
}

// rest stores the items of an unconditional batch of which some are stored already,
// message by message; the server answers for those that it has. The batch is not
// whole until the last is stored, as it was not when this began.
func (m *committer) rest(items []item) (uint64, error) {
	parts := make([]*pending, len(items))
	for i, it := range items {
		parts[i] = &pending{items: []item{it}, done: make(chan struct{})}
	}
	m.pipeline(parts)
	for _, p := range parts {
		if p.err != nil {
			return 0, p.err
		}
	}
	return parts[len(parts)-1].seq, nil
}

// logged looks for a conditional batch in what is stored under its condition and
// returns the sequences of its messages by id. That is one read, where asking costs
// much for each message. What it does not find may be stored all the same: a follower
// may lag, and a batch may hold more than its condition is about. After a conflict it
// reads only what is newer than the condition says.
func (m *committer) logged(p *pending, conflict bool) map[string]uint64 {
	found := make(map[string]uint64)
	if p.expect == nil || len(p.items) == 1 {
		return found
	}
	from := uint64(1)
	if conflict {
		from = p.expect.Sequence + 1
	}
	ids := make(map[string]bool, len(p.items))
	for _, it := range p.items {
		ids[it.id] = true
	}
	ctx, cancel := context.WithTimeout(context.Background(), m.c.t.attempt)
	defer cancel()
	for msg, err := range m.c.raw(ctx, m.stream, p.expect.Filter, from) {
		if err != nil {
			m.c.log.Debug("cannot look for a batch in its stream", zap.String("stream", m.stream), zap.Error(err))
			break
		}
		if id := msg.Header.Get(jetstream.MsgIDHeader); ids[id] {
			found[id] = msg.Sequence
		}
	}
	return found
}

// missing are the items that are neither among found nor stored otherwise, in order.
func (m *committer) missing(items []item, found map[string]uint64) ([]item, error) {
	stored, errs := make([]bool, len(items)), make([]error, len(items))
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxSplit)
	for i, it := range items {
		if _, stored[i] = found[it.id]; stored[i] {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			stored[i], errs[i] = m.has(it)
		})
	}
	wg.Wait()
	var rest []item
	for i, it := range items {
		if errs[i] != nil {
			return nil, errs[i]
		}
		if !stored[i] {
			rest = append(rest, it)
		}
	}
	return rest, nil
}

// has reports whether an item is stored. It asks by publishing it with a condition
// that cannot hold, as an atomic batch of one: there the server looks at the id first,
// so it answers "duplicate" or "wrong last sequence" and stores nothing
// (checkMsgHeadersPreClusteredProposal in nats-server). A plain publish checks in the
// other order when the stream is not replicated.
func (m *committer) has(it item) (bool, error) {
	_, err := m.atomic(func() []*nats.Msg {
		msg := it.message()
		expectHeaders(msg.Header, it.subject, impossible)
		return []*nats.Msg{msg}
	})
	var refused *jetstream.APIError
	switch {
	case errors.As(err, &refused):
		return refused.ErrorCode == codeBatchDuplicate, nil
	case err == nil:
		return false, fmt.Errorf("probe %s: the server stored a message against its condition", it.id)
	}
	return false, err
}

// impossible is a sequence that no stream reaches.
const impossible = 1<<63 - 1

// sequenceOf is the sequence of a stored item, which the server tells whoever
// publishes it again.
func (m *committer) sequenceOf(it item) (uint64, error) {
	ack, err := m.single(it.message)
	if err != nil {
		return 0, err
	}
	return ack.Sequence, nil
}
