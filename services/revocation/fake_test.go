package revocation

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// clock is a clock that stands until it is moved.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func newClock() *clock { return &clock{at: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)} }

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) move(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// message is one stored message of the memory bus.
type message struct {
	stream, subject, id string
	seq                 uint64
	data                []byte // of the kill feed
	event               events.Event
	at, gone            time.Time // gone: zero for ever
}

// memory is a bus in memory with the promises of the real one: expected sequences,
// message ids, last-per-subject on the kill feed, whole batches. Everything in it
// survives a "crash" of the service. It checks its own invariants at every write.
type memory struct {
	t     testing.TB
	clock *clock

	mu      sync.Mutex
	streams map[string][]message
	seqs    map[string]uint64
	changed chan struct{}
	// step is called before and after each durable write with its name; an error is
	// what the caller gets, whether the write happened or not. Set it with onStep. The
	// calls are one at a time, under stepping, and must not write themselves.
	step     func(name string, after bool) error
	stepping sync.Mutex
	unsafe   error
	killed   map[string]string // handle -> revocation that killed it: for ever
	ids      map[string]uint64 // message id -> sequence
}

func newMemory(t testing.TB, c *clock) *memory {
	return &memory{t: t, clock: c, streams: map[string][]message{}, seqs: map[string]uint64{}, changed: make(chan struct{}), killed: map[string]string{}, ids: map[string]uint64{}}
}

func match(filter, subject string) bool {
	if filter == ">" || filter == subject {
		return true
	}
	f, s := strings.Split(filter, "."), strings.Split(subject, ".")
	for i, tok := range f {
		if tok == ">" {
			return len(s) > i
		}
		if i >= len(s) || tok != "*" && tok != s[i] {
			return false
		}
	}
	return len(f) == len(s)
}

// onStep sets step.
func (m *memory) onStep(f func(name string, after bool) error) {
	m.stepping.Lock()
	defer m.stepping.Unlock()
	m.step = f
}

func (m *memory) stepped(name string, after bool) error {
	m.stepping.Lock()
	defer m.stepping.Unlock()
	if m.step == nil {
		return nil
	}
	return m.step(name, after)
}

// do is one durable write with its two steps.
func (m *memory) do(name string, write func() error) error {
	if err := m.stepped(name, false); err != nil {
		return err
	}
	if err := m.write(write); err != nil {
		return err
	}
	return m.stepped(name, true)
}

func (m *memory) write(write func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := write(); err != nil {
		return err
	}
	close(m.changed)
	m.changed = make(chan struct{})
	return nil
}

func (m *memory) lastLocked(stream, filter string) uint64 {
	var last uint64
	for _, x := range m.streams[stream] {
		if match(filter, x.subject) && m.live(x) {
			last = x.seq
		}
	}
	return last
}

func (m *memory) live(x message) bool { return x.gone.IsZero() || m.clock.now().Before(x.gone) }

var streamOf = map[events.Channel]string{events.ChannelIn: bus.StreamIn, events.ChannelLog: bus.StreamLog, events.ChannelAlert: bus.StreamAlert,
	events.ChannelReceipt: bus.StreamReceipt, events.ChannelGuard: bus.StreamGuard}

func (m *memory) put(e events.Event) (uint64, error) {
	subject, err := events.Subject(e)
	if err != nil {
		return 0, err
	}
	b, err := events.Encode(e)
	if err != nil {
		return 0, err
	}
	if e, err = events.Decode(b); err != nil {
		return 0, fmt.Errorf("what was encoded cannot be decoded: %w", err)
	}
	if err := events.Validate(e); err != nil {
		m.t.Errorf("an invalid event was published: %v", err)
	}
	info, _ := events.Lookup(e.Type())
	stream := streamOf[info.Channel]
	if stream != bus.StreamGuard {
		if seq, twice := m.ids[stream+e.Source()+e.ID()]; twice {
			return seq, nil
		}
	}
	m.seqs[stream]++
	m.ids[stream+e.Source()+e.ID()] = m.seqs[stream]
	m.streams[stream] = append(m.streams[stream], message{stream: stream, subject: subject, seq: m.seqs[stream], event: e, at: m.clock.now()})
	return m.seqs[stream], nil
}

func (m *memory) Append(_ context.Context, b bus.Batch) (bus.Ack, error) {
	var ack bus.Ack
	err := m.do("append "+short(b.Events[0]), func() error {
		if b.Expect != nil && m.lastLocked(bus.StreamLog, b.Expect.Filter) != b.Expect.Sequence {
			return bus.ErrConflict
		}
		for _, e := range b.Events {
			seq, err := m.put(e)
			if err != nil {
				return err
			}
			ack = bus.Ack{Stream: bus.StreamLog, Sequence: seq}
		}
		return nil
	})
	return ack, err
}

func short(e events.Event) string {
	return strings.TrimSuffix(strings.TrimPrefix(e.Type(), "dev.lanyard.revocation."), ".v1")
}

func (m *memory) Publish(_ context.Context, es ...events.Event) error {
	return m.do("publish "+short(es[0]), func() error { return m.putAll(es) })
}

func (m *memory) putAll(es []events.Event) error {
	for _, e := range es {
		if _, err := m.put(e); err != nil {
			return err
		}
	}
	return nil
}

func (m *memory) Kill(_ context.Context, name string, data []byte, id string, expect *uint64, ttl time.Duration) (uint64, error) {
	var seq uint64
	step := "kill"
	if name == guard.HeartbeatName { // no step of a request
		step = "heartbeat"
	}
	err := m.do(step, func() error {
		subject := "nhi.kill." + name
		if id != "" {
			for _, x := range m.streams[bus.StreamKill] {
				if x.id == id {
					seq = x.seq
					return nil
				}
			}
		}
		if expect != nil && m.lastLocked(bus.StreamKill, subject) != *expect {
			return bus.ErrConflict
		}
		m.checkFinal(name, data)
		m.streams[bus.StreamKill] = slices.DeleteFunc(m.streams[bus.StreamKill], func(x message) bool { return x.subject == subject })
		m.seqs[bus.StreamKill]++
		seq = m.seqs[bus.StreamKill]
		x := message{stream: bus.StreamKill, subject: subject, id: id, seq: seq, data: data, at: m.clock.now()}
		if ttl > 0 {
			x.gone = x.at.Add(ttl)
		}
		m.streams[bus.StreamKill] = append(m.streams[bus.StreamKill], x)
		return nil
	})
	return seq, err
}

// checkFinal is the invariant "a revoke is final": nothing ever follows it on its
// handle but itself.
func (m *memory) checkFinal(name string, data []byte) {
	if name == guard.HeartbeatName {
		return
	}
	e, err := guard.OpenEntry(data, feedKey.public)
	if err != nil {
		m.t.Errorf("a kill entry that no guard understands: %v", err)
		return
	}
	if by, dead := m.killed[name]; dead && (e.Mode != events.ModeRevoke || e.Revocation != by) {
		m.t.Errorf("%s by %s follows the revoke %s of the same handle", e.Mode, e.Revocation, by)
	}
	if e.Mode == events.ModeRevoke {
		m.killed[name] = e.Revocation
	}
}

func (m *memory) stored(x message) bus.Stored {
	return bus.Stored{Event: x.event, Subject: x.subject, Stream: x.stream, Sequence: x.seq, Time: x.at}
}

func (m *memory) Read(_ context.Context, stream, filter string, from uint64) iter.Seq2[bus.Stored, error] {
	m.mu.Lock()
	all := slices.Clone(m.streams[stream])
	m.mu.Unlock()
	return func(yield func(bus.Stored, error) bool) {
		for _, x := range all {
			if x.seq >= from && match(filter, x.subject) && x.data == nil && !yield(m.stored(x), nil) {
				return
			}
		}
	}
}

func (m *memory) Follow(ctx context.Context, stream string, filters []string, from uint64, f func(bus.Stored) error) error {
	for {
		m.mu.Lock()
		all, changed := slices.Clone(m.streams[stream]), m.changed
		m.mu.Unlock()
		for _, x := range all {
			if x.seq < from || !slices.ContainsFunc(filters, func(s string) bool { return match(s, x.subject) }) {
				continue
			}
			if err := f(m.stored(x)); err != nil {
				return err
			}
			from = x.seq + 1
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (m *memory) LastSequence(_ context.Context, stream, filter string) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.lastLocked(stream, filter), nil
}

func (m *memory) SyncAlways(context.Context) error { return m.unsafe }

// size is the number of messages in a stream, and deaths the number of handles that were revoked.
func (m *memory) size(stream string) (messages, deaths int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.streams[stream]), len(m.killed)
}

// all is every event of a stream whose type ends so.
func (m *memory) all(stream, verb string) []events.Event {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []events.Event
	for _, x := range m.streams[stream] {
		if strings.HasSuffix(x.event.Type(), "."+verb+".v1") {
			out = append(out, x.event)
		}
	}
	return out
}

// feed is the kill feed of a memory as a guard follows it.
type feed struct{ m *memory }

func (f feed) Subscribe(ctx context.Context, deliver func(guard.Message)) error {
	last, err := f.m.LastSequence(ctx, bus.StreamKill, ">")
	if err != nil {
		return err
	}
	go func() {
		for {
			f.m.mu.Lock()
			all, changed := slices.Clone(f.m.streams[bus.StreamKill]), f.m.changed
			f.m.mu.Unlock()
			for _, x := range all {
				if x.seq > last {
					deliver(guard.Message{Sequence: x.seq, Subject: x.subject, Data: x.data})
					last = x.seq
				}
			}
			select {
			case <-ctx.Done():
				return
			case <-changed:
			}
		}
	}()
	return nil
}

func (f feed) Fill(_ context.Context, from uint64, deliver func(guard.Message) error) (uint64, error) {
	f.m.mu.Lock()
	all, last := slices.Clone(f.m.streams[bus.StreamKill]), f.m.seqs[bus.StreamKill]
	f.m.mu.Unlock()
	for _, x := range all {
		if x.seq < from || !f.m.live(x) {
			continue
		}
		if err := deliver(guard.Message{Sequence: x.seq, Subject: x.subject, Data: x.data}); err != nil {
			return 0, err
		}
	}
	return last, nil
}

func (f feed) Answer(ctx context.Context, e events.Event) error { return f.m.Publish(ctx, e) }

var errCrash = errors.New("the process died here")
