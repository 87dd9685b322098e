package state

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// memoryLog is a Log in memory that checks, on every call, what state may count on
// and what it must keep to. It can be told to misbehave in the ways the real one can.
type memoryLog struct {
	t testing.TB

	mu      sync.Mutex
	stored  []message
	ids     map[string]uint64 // source and id: sequence
	changed chan struct{}     // closed and replaced when something is stored
	lag     int               // newest messages that Read does not show yet
	lose    int               // acknowledgements to lose: stored, but ErrUnknownOutcome
	before  func()            // called at the start of Append, outside the lock
	reads   int
}

type message struct {
	subject    string
	event      events.Event
	unreadable bool
}

func newMemoryLog(t testing.TB) *memoryLog {
	return &memoryLog{t: t, ids: map[string]uint64{}, changed: make(chan struct{})}
}

func (l *memoryLog) Append(ctx context.Context, b bus.Batch) (bus.Ack, error) {
	if f := l.before; f != nil {
		f()
	}
	if err := ctx.Err(); err != nil {
		return bus.Ack{}, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(b.Events) == 0 {
		l.t.Error("Append of an empty batch")
	}
	streams := map[string]bool{}
	var subjects []string
	again := 0
	for _, e := range b.Events {
		s, err := events.Subject(e)
		if err != nil {
			return bus.Ack{}, err
		}
		subjects = append(subjects, s)
		streams[strings.SplitN(s, ".", 3)[1]] = true
		if _, ok := l.ids[eventID(e)]; ok {
			again++
		}
	}
	if len(streams) != 1 {
		l.t.Errorf("Append of one batch to %d streams", len(streams))
	}
	if b.Expect != nil && l.last(b.Expect.Filter) != b.Expect.Sequence {
		return bus.Ack{}, fmt.Errorf("append: %w", bus.ErrConflict)
	}
	if again > 0 {
		l.t.Errorf("Append stores %d of %d events a second time", again, len(b.Events))
	}
	for i, e := range b.Events {
		l.put(message{subject: subjects[i], event: e})
	}
	if l.lose > 0 {
		l.lose--
		return bus.Ack{}, fmt.Errorf("append: %w", bus.ErrUnknownOutcome)
	}
	return bus.Ack{Stream: bus.StreamLog, Sequence: uint64(len(l.stored))}, nil
}

// put stores a message; the caller holds the lock.
func (l *memoryLog) put(m message) {
	l.stored = append(l.stored, m)
	if !m.unreadable {
		l.ids[eventID(m.event)] = uint64(len(l.stored))
	}
	close(l.changed)
	l.changed = make(chan struct{})
}

// poison stores what no version of us can read.
func (l *memoryLog) poison(subject string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.put(message{subject: subject, unreadable: true})
}

func (l *memoryLog) last(filter string) uint64 {
	if filter == ">" {
		return uint64(len(l.stored))
	}
	for i := len(l.stored) - 1; i >= 0; i-- {
		if matches(filter, l.stored[i].subject) {
			return uint64(i + 1)
		}
	}
	return 0
}

func (l *memoryLog) LastSequence(ctx context.Context, _, filter string) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last(filter), ctx.Err()
}

func (l *memoryLog) at(i int) (bus.Stored, bool) {
	m := l.stored[i]
	if m.unreadable {
		return bus.Stored{}, false
	}
	return bus.Stored{Event: m.event.Clone(), Subject: m.subject, Stream: bus.StreamLog, Sequence: uint64(i + 1), Time: time.Unix(int64(i), 0)}, true
}

func (l *memoryLog) Read(ctx context.Context, stream, filter string, from uint64) iter.Seq2[bus.Stored, error] {
	return func(yield func(bus.Stored, error) bool) {
		if from == 0 {
			l.t.Error("Read from sequence 0")
		}
		l.mu.Lock()
		l.reads++
		end := max(len(l.stored)-l.lag, 0)
		if l.lag > 0 {
			l.lag--
		}
		l.mu.Unlock()
		for i := int(from) - 1; i < end; i++ {
			if err := ctx.Err(); err != nil {
				yield(bus.Stored{}, err)
				return
			}
			l.mu.Lock()
			st, ok := l.at(i)
			l.mu.Unlock()
			if ok && matches(filter, st.Subject) && !yield(st, nil) {
				return
			}
		}
	}
}

func (l *memoryLog) Follow(ctx context.Context, stream string, filters []string, from uint64, f func(bus.Stored) error) error {
	for i := int(max(from, 1)) - 1; ; {
		l.mu.Lock()
		changed, end := l.changed, len(l.stored)
		if i > end {
			i = end // the log was replaced
		}
		var st bus.Stored
		ok := false
		if i < end {
			st, ok = l.at(i)
		}
		l.mu.Unlock()
		if i == end {
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		i++
		for _, filter := range filters {
			if ok && matches(filter, st.Subject) {
				if err := f(st); err != nil {
					return err
				}
				break
			}
		}
	}
}

// matches reports whether a NATS filter matches a subject.
func matches(filter, subject string) bool {
	fs, ss := strings.Split(filter, "."), strings.Split(subject, ".")
	for i, f := range fs {
		if f == ">" {
			return len(ss) > i
		}
		if i >= len(ss) || f != "*" && f != ss[i] {
			return false
		}
	}
	return len(fs) == len(ss)
}

func TestMatches(t *testing.T) {
	for _, c := range []struct {
		filter, subject string
		want            bool
	}{
		{"nhi.log.acme.*.*.a", "nhi.log.acme.identity.revoked.a", true},
		{"nhi.log.acme.*.*.a", "nhi.log.acme.identity.revoked.b", false},
		{"nhi.log.acme.*.*.a", "nhi.log.acme.identity.a", false},
		{"nhi.log.>", "nhi.log.acme.identity.revoked.a", true},
		{"nhi.log.>", "nhi.log", false},
		{">", "x", true},
	} {
		if got := matches(c.filter, c.subject); got != c.want {
			t.Errorf("matches(%q, %q) = %v", c.filter, c.subject, got)
		}
	}
}

var errStopped = errors.New("stopped by the test")
