package bus

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	maxGroup      = 1000    // messages per atomic batch, the server's default limit
	maxGroupBytes = 4 << 20 // data per atomic batch
	maxCommits    = 2       // commits of one stream under way at once
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

	mu     sync.Mutex
	queue  []*pending
	queued int           // messages in queue
	busy   int           // commits under way
	recent int           // batches in the group taken last
	want   chan struct{} // closed when wanted messages wait; nil when nobody waits for that
	wanted int
	costs  costs
}

func (m *committer) add(p *pending) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.queue = append(m.queue, p)
	m.queued += len(p.items)
	if m.want != nil && m.queued >= m.wanted {
		close(m.want)
		m.want, m.wanted = nil, 0
	}
	// A second commit beside one under way pays only for a large group, or when
	// there is nothing to group.
	if m.busy == 0 || m.busy < maxCommits && (m.recent <= 1 || m.queued >= maxGroup/2) {
		m.busy++
		go m.work()
	}
}

// direct publishes a single message in its caller's goroutine: when nothing else is
// under way, or when that is the cheaper way for many too. It reports whether p is
// answered; otherwise it must be added.
func (m *committer) direct(ctx context.Context, p *pending) bool {
	if len(p.items) > 1 {
		return false
	}
	m.mu.Lock()
	idle := m.busy == 0
	if !idle && !m.costs.direct(time.Now()) {
		m.mu.Unlock()
		return false
	}
	if idle {
		m.busy, m.recent = 1, 1
	}
	m.mu.Unlock()
	if idle {
		defer m.next()
	}
	ack, err := m.c.js.PublishMsgAsync(p.messages()[0])
	if err != nil {
		return false
	}
	select {
	case a := <-ack.Ok():
		p.seq = a.Sequence
		m.c.noteAnswer()
	case <-ack.Err(): //nolint:errcheck // refused: the group publishes it again, and that answer counts
		return false
	case <-m.c.gone:
		p.err = fmt.Errorf("%w: %w", ErrUnknownOutcome, nats.ErrConnectionClosed)
	case <-m.c.patience.over():
		m.c.noteTimeout()
		return false
	case <-ctx.Done():
		p.err = fmt.Errorf("%w: %w", ErrUnknownOutcome, ctx.Err())
	}
	return true
}

// next lets what came meanwhile go.
func (m *committer) next() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.queue) > 0 {
		go m.work()
		return
	}
	m.busy--
}

// withdraw takes p out of the queue, unless it was sent already.
func (m *committer) withdraw(p *pending) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if p.taken {
		return false
	}
	i := slices.Index(m.queue, p)
	if i < 0 {
		return false
	}
	m.queue = slices.Concat(m.queue[:i], m.queue[i+1:])
	m.queued -= len(p.items)
	return true
}

// work commits until the queue is empty.
func (m *committer) work() {
	for {
		group, atomic := m.take()
		if group == nil {
			return
		}
		start := time.Now()
		messages := m.commit(group, atomic)
		now := time.Now()
		m.mu.Lock()
		m.costs.note(atomic, messages, now.Sub(start), now)
		m.mu.Unlock()
		if atomic && len(group) > 1 {
			m.regroup(messages, now.Sub(start)/4)
		}
	}
}

// regroup waits after a group for its callers to come back, so that what they bring
// goes together too: until as many messages wait as it had, but not long.
func (m *committer) regroup(messages int, most time.Duration) {
	m.mu.Lock()
	if messages == 0 || m.queued >= messages || m.want != nil {
		m.mu.Unlock()
		return
	}
	want := make(chan struct{})
	m.want, m.wanted = want, messages
	m.mu.Unlock()
	timer := time.NewTimer(most)
	defer timer.Stop()
	select {
	case <-want:
	case <-timer.C:
	}
	m.mu.Lock()
	m.want = nil
	m.mu.Unlock()
}

// take takes the next group and decides how it is sent. It is nil when there is
// nothing left, and then the caller must end.
func (m *committer) take() (group []*pending, atomic bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := groupSize(m.queue)
	if n == 0 {
		m.queue = nil
		m.busy--
		return nil, false
	}
	messages, whole := 0, false
	for _, p := range m.queue[:n] {
		messages += len(p.items)
		whole = whole || len(p.items) > 1
	}
	atomic = whole
	if !whole {
		var most int
		atomic, most = m.costs.choose(messages, time.Now())
		n = min(n, most)
	}
	group = m.queue[:n:n]
	m.queue = m.queue[n:]
	for _, p := range group {
		p.taken = true
		m.queued -= len(p.items)
	}
	m.recent = n
	return group, atomic
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
