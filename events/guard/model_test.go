package guard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"pgregory.net/rapid"
)

const modelHandles = 4

// model is a kill feed, a guard on it and what must be true of it.
type model struct {
	*world
	epoch     uint64
	tokens    []string
	truth     map[lineage.Handle]Entry // newest entry of each handle in the feed
	published map[lineage.Handle]time.Duration
	newest    uint64 // sequence of the newest entry
	revs      int
	revokes   map[string]bool         // revocation ids of mode revoke
	proven    map[lineage.Handle]bool // a receipt or a denial says that it is revoked
	receipted map[lineage.Handle]bool
	leaseCap  time.Duration // no heartbeat justifies a yes from here on
	snapshot  *snapshot
	rolled    bool                    // the feed was cut back in this epoch
	lost      map[lineage.Handle]bool // a rollback lost an entry of it, which the guard may know
	seen      int                     // receipts looked at
}

type snapshot struct {
	stored []Message
	last   uint64
	truth  map[lineage.Handle]Entry
	newest uint64
}

func clone[K comparable, V any](m map[K]V) map[K]V {
	out := make(map[K]V, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// publish stores an entry and pushes it in one of the ways a network has.
func (m *model) publish(t *rapid.T, name string, data []byte) Message {
	msg := m.feed.store(name, data)
	m.deliver(t, msg)
	return msg
}

func (m *model) deliver(t *rapid.T, msg Message) {
	switch rapid.SampledFrom([]string{"once", "once", "once", "lost", "twice", "late"}).Draw(t, "network") {
	case "once":
		m.feed.push(msg)
	case "twice":
		m.feed.push(msg)
		m.feed.push(msg)
	case "late": // after a message that is published behind it
		name := handle(90).String()
		next := m.feed.store(name, []byte("not a token"))
		m.feed.push(next)
		m.feed.push(msg)
	}
}

func (m *model) entry(t *rapid.T, mode events.Mode) {
	h := handle(rapid.Uint64Range(0, modelHandles-1).Draw(t, "handle"))
	if e, ok := m.truth[h]; ok && e.Mode == events.ModeRevoke {
		return // revocation never replaces a kill
	}
	m.revs++
	e := Entry{Handle: h, Mode: mode, Revocation: fmt.Sprintf("rev-%d", m.revs), Reason: "test", By: "alice",
		At: m.now, Keep: m.now.Add(10_000 * time.Hour), Epoch: m.epoch}
	if mode == events.ModeFreeze {
		until := m.now.Add(time.Duration(rapid.IntRange(1, 60).Draw(t, "seconds")) * time.Second)
		e.Until = &until
	}
	msg := m.publish(t, h.String(), m.keys.entry(t, m.keys.feed, e))
	m.truth[h], m.newest = e, msg.Sequence
	if mode == events.ModeRevoke {
		m.published[h], m.revokes[e.Revocation] = m.boot, true
	}
}

// heartbeat publishes one signed at; it justifies a lease from its receipt.
func (m *model) heartbeat(t *rapid.T, signed time.Time, calm bool) {
	data := m.keys.beat(t, m.keys.feed, Heartbeat{Epoch: m.epoch, Last: m.newest, Time: signed})
	msg := m.feed.store(HeartbeatName, data)
	// When it is read from the store later, its signed time and the skew count.
	m.leaseCap = max(m.leaseCap, m.boot-m.now.Sub(signed)+skew+DefaultLease)
	if calm {
		m.feed.push(msg)
	} else {
		m.deliver(t, msg)
	}
}

func (m *model) dead(h lineage.Handle) bool {
	e, ok := m.truth[h]
	return ok && (e.Mode == events.ModeRevoke || e.Mode == events.ModeFreeze && m.now.Before(*e.Until))
}

// invariants hold after every step whatever happened.
func (m *model) invariants(t *rapid.T) {
	for i, raw := range m.tokens {
		h := handle(uint64(i))
		got := m.check(raw)
		if got == CodeRevoked {
			m.proven[h] = true
		}
		if got != "" {
			continue
		}
		if m.proven[h] || m.receipted[h] {
			t.Fatalf("handle %d came back to life (receipted %v)", i, m.receipted[h])
		}
		if m.boot >= m.leaseCap {
			t.Fatalf("handle %d is allowed at %s, the last heartbeat's lease ended at %s", i, m.boot, m.leaseCap)
		}
		if at, ok := m.published[h]; ok && !m.rolled && m.boot-at > DefaultLease+skew {
			t.Fatalf("handle %d is allowed %s after its revocation", i, m.boot-at)
		}
	}
}

// receipts are true from the moment they exist.
func (m *model) receipts(t *rapid.T) {
	m.answer()
	all := m.feed.receipts(t)
	for _, r := range all[m.seen:] {
		h, err := lineage.Parse(r.Handle)
		if err != nil {
			t.Fatalf("receipt: %v", err)
		}
		if m.revokes[r.Revocation] {
			m.receipted[h] = true
			if e, dead := m.g.Dead([]lineage.Handle{h}); !dead || e.Mode != events.ModeRevoke {
				t.Fatalf("receipt for %v, which the guard does not refuse", h)
			}
		}
	}
	m.seen = len(all)
}

func TestGuardModel(t *testing.T) {
	keys := newKeyring(t)
	start := time.Unix(1_800_000_000, 0)
	var tokens []string
	for i := range uint64(modelHandles) {
		tokens = append(tokens, keys.token(t, handle(i), start.Add(-time.Minute)))
	}
	rapid.Check(t, func(t *rapid.T) {
		m := &model{world: newWorld(t, keys, ""), epoch: 1, tokens: tokens, revokes: map[string]bool{}, truth: map[lineage.Handle]Entry{},
			published: map[lineage.Handle]time.Duration{}, proven: map[lineage.Handle]bool{}, receipted: map[lineage.Handle]bool{}, lost: map[lineage.Handle]bool{}}
		t.Repeat(m.actions())
	})
}

func (m *model) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"": m.invariants,
		"revoke": func(t *rapid.T) {
			m.entry(t, events.ModeRevoke)
		},
		"freeze": func(t *rapid.T) { m.entry(t, events.ModeFreeze) },
		"lift":   func(t *rapid.T) { m.entry(t, events.ModeLift) },
		"heartbeat": func(t *rapid.T) {
			m.heartbeat(t, m.now, false)
		},
		"old heartbeat": func(t *rapid.T) {
			m.heartbeat(t, m.now.Add(-time.Duration(rapid.IntRange(1, 60).Draw(t, "age"))*time.Second), false)
		},
		"forged": func(t *rapid.T) {
			h := handle(rapid.Uint64Range(0, modelHandles-1).Draw(t, "handle"))
			until := m.now.Add(time.Hour)
			e := Entry{Handle: h, Mode: events.ModeFreeze, Revocation: "forged", At: m.now, Until: &until, Keep: until}
			msg := Message{Subject: "nhi.kill." + h.String(), Data: m.keys.entry(t, m.keys.stranger, e), Sequence: m.feed.last + 1}
			// It is pushed, not stored: storing would need the feed's own permission.
			m.feed.push(msg)
			beat := m.keys.beat(t, m.keys.stranger, Heartbeat{Epoch: m.epoch + 1, Time: m.now})
			m.feed.push(Message{Subject: "nhi.kill.heartbeat", Data: beat, Sequence: m.feed.last + 1})
		},
		"settle":   func(t *rapid.T) { m.settle() },
		"receipts": m.receipts,
		"advance":  func(t *rapid.T) { m.advance(time.Duration(rapid.IntRange(1, 20_000).Draw(t, "ms")) * time.Millisecond) },
		"restart": func(t *rapid.T) {
			m.start()
			clear(m.proven) // only a receipt is a promise over a restart
		},
		"snapshot": func(*rapid.T) {
			m.snapshot = &snapshot{slices.Clone(m.feed.stored), m.feed.last, clone(m.truth), m.newest}
		},
		"rollback": func(t *rapid.T) {
			s := m.snapshot
			if s == nil || s.last == m.feed.last {
				return
			}
			for h := range m.truth {
				m.lost[h] = true
				if s.truth[h].Mode != events.ModeRevoke {
					delete(m.published, h)
				}
			}
			m.feed.stored, m.feed.last, m.truth, m.newest = slices.Clone(s.stored), s.last, clone(s.truth), s.newest
			m.rolled = true
		},
		"new epoch": func(t *rapid.T) {
			if !m.rolled {
				return
			}
			m.epoch++ // the operator accepts what the feed has become
			m.rolled, m.snapshot = false, nil
		},
		"exact": m.exact,
	}
}

// exact: when the network is calm and a heartbeat went through, the guard says
// exactly what the feed says, and it is fresh.
func (m *model) exact(t *rapid.T) {
	m.heartbeat(t, m.now, true)
	m.settle()
	m.heartbeat(t, m.now, true)
	m.settle()
	if m.rolled {
		return // it may rightly refuse everything
	}
	if m.err != nil || !m.g.fresh() {
		t.Fatalf("not fresh on a calm feed: %v, %+v", m.err, m.g.Status())
	}
	for i, raw := range m.tokens {
		h := handle(uint64(i))
		if got, want := m.check(raw), m.dead(h); (got != "") != want && (!m.lost[h] || want && m.truth[h].Mode == events.ModeRevoke) {
			t.Fatalf("handle %d: check says %q, the feed says dead %v", i, got, want)
		}
	}
}

// TestRollback walks through the ways a feed can go back, each of which must be
// refused until it holds again what the guard answered for.
func TestRollback(t *testing.T) {
	keys := newKeyring(t)
	setup := func(t *testing.T) (*world, string, *snapshot) {
		w := newWorld(t, keys, filepath.Join(t.TempDir(), "guard.json"))
		raw := keys.token(t, handle(1), w.now)
		beat(w, 1, 0)
		w.settle()
		if got := w.check(raw); got != "" {
			t.Fatalf("before: %q, %v", got, w.err)
		}
		s := &snapshot{stored: slices.Clone(w.feed.stored), last: w.feed.last}
		m := w.feed.send(handle(1).String(), keys.entry(t, keys.feed, kill(w, 1, "r1")))
		beat(w, 1, m.Sequence)
		w.settle()
		w.answer()
		if got := w.check(raw); got != CodeRevoked {
			t.Fatalf("after the revoke: %q", got)
		}
		if err := w.g.persist(); err != nil {
			t.Fatal(err)
		}
		if n := len(w.feed.receipts(t)); n != 1 {
			t.Fatalf("%d receipts", n)
		}
		return w, raw, s
	}
	rollback := func(w *world, s *snapshot) { w.feed.stored, w.feed.last = slices.Clone(s.stored), s.last }

	t.Run("shorter at restart", func(t *testing.T) {
		w, raw, s := setup(t)
		rollback(w, s)
		w.start()
		beat(w, 1, 0)
		w.settle()
		if got := w.check(raw); got != CodeStale || !errors.Is(w.err, errBehind) {
			t.Errorf("got %q, %v", got, w.err)
		}
		if p := w.g.Status().Problem; p == "" {
			t.Error("no problem is stated")
		}
	})
	t.Run("grown past its old length", func(t *testing.T) {
		w, raw, s := setup(t)
		rollback(w, s)
		w.start()
		for range 20 {
			beat(w, 1, 0)
		}
		w.settle()
		if got := w.check(raw); got != CodeRevoked {
			t.Errorf("got %q, %v", got, w.err)
		}
	})
	t.Run("while running", func(t *testing.T) {
		w, raw, s := setup(t)
		other := keys.token(t, handle(2), w.now)
		rollback(w, s)
		w.advance(time.Second)
		beat(w, 1, 0)
		w.settle()
		if got := w.check(other); got != CodeStale {
			t.Errorf("an unrelated token: %q", got)
		}
		for range 20 {
			beat(w, 1, 0)
			w.settle()
		}
		if got := w.check(raw); got == "" {
			t.Error("came back to life")
		}
	})
	t.Run("older epoch", func(t *testing.T) {
		w, raw, _ := setup(t)
		beat(w, 2, 2)
		w.settle()
		w.settle()
		if got := w.check(raw); got != CodeRevoked || w.g.Status().Epoch != 2 {
			t.Fatalf("new epoch: %q, %+v", got, w.g.Status())
		}
		w.start()
		beat(w, 1, 2)
		w.settle()
		if got := w.check(raw); got != CodeStale || !errors.Is(w.err, errBehind) {
			t.Errorf("got %q, %v", got, w.err)
		}
	})
	t.Run("newer epoch on a new stream", func(t *testing.T) {
		w, raw, _ := setup(t)
		w.feed.stored, w.feed.last = nil, 0
		w.start()
		beat(w, 2, 0)
		w.settle()
		if got := w.check(raw); got != CodeRevoked {
			t.Errorf("got %q, %v", got, w.err)
		}
	})
	t.Run("state of another point", func(t *testing.T) {
		w, _, _ := setup(t)
		b, err := os.ReadFile(w.file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(w.file, []byte(strings.Replace(string(b), `"orders"`, `"other"`, 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := w.g.cfg
		if _, err := New(cfg); err == nil {
			t.Error("started on another point's state")
		}
		if err := os.WriteFile(w.file, b[:len(b)/2], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(cfg); err == nil {
			t.Error("started on half a state file")
		}
	})
}

func kill(w *world, n uint64, rev string) Entry {
	return Entry{Handle: handle(n), Mode: events.ModeRevoke, Revocation: rev, Reason: "leaked", By: "alice",
		At: w.now, Keep: w.now.Add(20 * time.Minute), Epoch: 1}
}

func beat(w *world, epoch, last uint64) {
	w.feed.send(HeartbeatName, w.keys.beat(w.t, w.keys.feed, Heartbeat{Epoch: epoch, Last: last, Time: w.now}))
}
