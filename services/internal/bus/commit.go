package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/synadia-io/orbit.go/jetstreamext"
)

const (
	maxGroup      = 1000    // messages per atomic batch, the server's default limit
	maxGroupBytes = 4 << 20 // data per atomic batch
	maxCommits    = 2       // atomic batches of one stream under way at once
	maxSplit      = 8       // batches of a refused group under way at once
)

// Error codes of nats-server (jetstream_errors_generated.go) that nats.go has no name for.
const (
	codeDuplicateConflict jetstream.ErrorCode = 10158 // the id is under way on a cluster
	codeBatchDuplicate    jetstream.ErrorCode = 10201 // the batch holds an id that is stored
	codeBatchIncomplete   jetstream.ErrorCode = 10176 // messages of the batch were lost, nothing is stored
	codeTooManyBatches    jetstream.ErrorCode = 10210
)

// pending is a caller's batch on its way.
type pending struct {
	items  []item
	expect *Expect
	taken  bool // by a commit; under the committer's lock
	done   chan struct{}
	seq    uint64
	err    error
}

func (p *pending) finish(seq uint64, err error) {
	p.seq, p.err = seq, err
	close(p.done)
}

// committer groups what callers want stored in one stream. What comes while a
// commit is under way waits and goes together in the next; what comes alone goes at
// once. It has goroutines only while there is work.
type committer struct {
	c      *Conn
	stream string

	mu      sync.Mutex
	queue   []*pending
	commits int
}

func (m *committer) add(p *pending) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.queue = append(m.queue, p)
	if m.commits < maxCommits {
		m.commits++
		go m.work()
	}
}

// withdraw takes p out of the queue, unless it was sent already.
func (m *committer) withdraw(p *pending) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.taken {
		return false
	}
	for i, q := range m.queue {
		if q == p {
			m.queue = append(m.queue[:i], m.queue[i+1:]...)
			return true
		}
	}
	return false
}

func (m *committer) work() {
	for {
		m.mu.Lock()
		n := groupSize(m.queue)
		if n == 0 {
			m.queue = nil
			m.commits--
			m.mu.Unlock()
			return
		}
		group := m.queue[:n:n]
		m.queue = m.queue[n:]
		for _, p := range group {
			p.taken = true
		}
		m.mu.Unlock()
		m.commit(group)
	}
}

// groupSize is how many batches from the head of the queue may share one atomic
// publish. The server checks all expectations of a publish against what is stored
// before it, and refuses ids that appear twice; so a batch whose expectation is
// about a subject that the group already writes, or whose id the group already
// holds, waits for the next one.
func groupSize(queue []*pending) int {
	if len(queue) <= 1 {
		return len(queue)
	}
	var count, size int
	ids := make(map[string]struct{}, len(queue))
	written := make(map[string][]string) // subjects by their last token
	for n, p := range queue {
		count += len(p.items)
		for _, it := range p.items {
			size += len(it.data)
		}
		if n > 0 && (count > maxGroup || size > maxGroupBytes) {
			return n
		}
		if p.expect != nil && writes(written, p.expect.Filter) {
			return n
		}
		for _, it := range p.items {
			if _, ok := ids[it.id]; ok {
				return n // only reached with n > 0: a batch holds no id twice
			}
		}
		for _, it := range p.items {
			ids[it.id] = struct{}{}
			last := lastToken(it.subject)
			written[last] = append(written[last], it.subject)
		}
	}
	return len(queue)
}

func lastToken(s string) string { return s[strings.LastIndexByte(s, '.')+1:] }

// writes reports whether any subject matches filter.
func writes(written map[string][]string, filter string) bool {
	last := lastToken(filter)
	if last != "*" && last != ">" {
		for _, s := range written[last] {
			if matches(filter, s) {
				return true
			}
		}
		return false
	}
	for _, subjects := range written {
		for _, s := range subjects {
			if matches(filter, s) {
				return true
			}
		}
	}
	return false
}

// commit stores a group and answers its callers. When the server refuses the group
// for what one of its batches holds, each goes on its own.
func (m *committer) commit(group []*pending) {
	if len(group) == 1 {
		group[0].finish(m.alone(group[0]))
		return
	}
	msgs := func() []*nats.Msg {
		var all []*nats.Msg
		for _, p := range group {
			all = append(all, p.messages()...)
		}
		return all
	}
	last, err := m.atomic(msgs)
	var refused *jetstream.APIError
	switch {
	case err == nil:
		for i := len(group) - 1; i >= 0; i-- {
			group[i].finish(last, nil)
			last -= uint64(len(group[i].items))
		}
	case errors.As(err, &refused):
		m.split(group)
	default:
		for _, p := range group {
			p.finish(0, err)
		}
	}
}

// split stores each batch of a refused group on its own, a few at once. Those
// without a condition need not keep an order, since their callers wait for
// each other's answers if they do.
func (m *committer) split(group []*pending) {
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
	h[jetstream.ExpectedLastSubjSeqHeader] = []string{fmt.Sprint(seq)}
	h[jetstream.ExpectedLastSubjSeqSubjHeader] = []string{filter}
}

// alone stores one batch and resolves what the server says about it.
func (m *committer) alone(p *pending) (uint64, error) {
	for {
		seq, err := m.send(p)
		var refused *jetstream.APIError
		if err == nil || !errors.As(err, &refused) {
			return seq, err
		}
		switch refused.ErrorCode {
		case codeBatchDuplicate, codeDuplicateConflict, jetstream.JSErrCodeStreamWrongLastSequence, jetstream.JSErrCodeStreamWrongLastSequenceConstant:
		default:
			return 0, err
		}
		rest, err := m.missing(p.items)
		switch {
		case err != nil:
			return 0, err
		case len(rest) == 0: // stored before: the same answer again
			return m.sequenceOf(p.items[len(p.items)-1])
		case refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence, refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant:
			return 0, ErrConflict
		}
		p = &pending{items: rest, expect: p.expect}
	}
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
		case errors.Is(err, nats.ErrConnectionClosed), errors.Is(err, nats.ErrMaxPayload):
			return none, err
		case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
			c.noteTimeout()
		}
	}
	return none, fmt.Errorf("%w (%d attempts): %w", ErrUnknownOutcome, c.t.attempts, err)
}

// transient reports whether the server may answer otherwise when asked again.
func transient(e *jetstream.APIError) bool {
	return e.Code >= 500 || e.ErrorCode == codeBatchIncomplete || e.ErrorCode == codeTooManyBatches
}

// missing are the items that are not stored. It asks by publishing each with a
// condition that cannot hold, as an atomic batch of one: there the server looks at
// the id first, so it answers "duplicate" or "wrong last sequence" and stores
// nothing (checkMsgHeadersPreClusteredProposal in nats-server). A plain publish
// checks in the other order when the stream is not replicated.
func (m *committer) missing(items []item) ([]item, error) {
	var rest []item
	for _, it := range items {
		_, err := m.atomic(func() []*nats.Msg {
			msg := it.message()
			expectHeaders(msg.Header, it.subject, impossible)
			return []*nats.Msg{msg}
		})
		var refused *jetstream.APIError
		switch {
		case errors.As(err, &refused) && refused.ErrorCode == codeBatchDuplicate:
		case errors.As(err, &refused):
			rest = append(rest, it)
		case err == nil:
			return nil, fmt.Errorf("probe %s: the server stored a message against its condition", it.id)
		default:
			return nil, err
		}
	}
	return rest, nil
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
