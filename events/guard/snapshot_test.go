package guard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
)

var errNoPart = errors.New("no such part")

func (f *memFeed) SnapshotHead(context.Context) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.head, nil
}

func (f *memFeed) SnapshotChunk(_ context.Context, id string, n int) ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, ok := f.parts[fmt.Sprint(id, n)]
	if !ok {
		return nil, errNoPart
	}
	return b, nil
}

// publish makes w's guard's set the feed's snapshot.
func (w *world) publish(change func(*Snapshot)) {
	w.t.Helper()
	s, ok := w.g.Snapshot()
	if !ok {
		w.t.Fatalf("no snapshot: %+v", w.g.Status())
	}
	if change != nil {
		change(&s)
	}
	head, parts, err := SealSnapshot(w.keys.feed, "s1", s)
	if err != nil {
		w.t.Fatalf("seal: %v", err)
	}
	w.feed.head, w.feed.parts = head, map[string][]byte{}
	for n, p := range parts {
		w.feed.parts[fmt.Sprint("s1", n)] = p
	}
}

func (w *world) enter(n uint64, mode events.Mode, epoch uint64) {
	e := Entry{Handle: handle(n), Mode: mode, Revocation: fmt.Sprint("r", n), Reason: "leaked", By: "alice", At: w.now, Keep: w.now.Add(20 * time.Minute), Epoch: epoch}
	if mode == events.ModeFreeze {
		until := w.now.Add(time.Hour)
		e.Until = &until
	}
	w.feed.send(e.Handle.String(), w.keys.entry(w.t, w.keys.feed, e))
}

func (w *world) pulse(epoch uint64) {
	w.feed.send(HeartbeatName, w.keys.beat(w.t, w.keys.feed, Heartbeat{Epoch: epoch, Last: w.feed.last, Time: w.now}))
}

// another is a second guard on the same feed, later.
func (w *world) another(kept memory) *world {
	o := &world{t: w.t, keys: w.keys, feed: w.feed, kept: kept, now: w.now, boot: w.boot}
	w.feed.froms = nil
	o.start()
	o.settle()
	return o
}

// late is a world whose feed holds kills, a freeze and a lifted one, and a snapshot of
// them; after which comes a tail.
func late(t *testing.T, n uint64) *world {
	w := newWorld(t, newKeyring(t), "")
	w.pulse(1)
	w.settle()
	for i := range n {
		w.enter(i+1, events.ModeRevoke, 1)
		if len(w.queue) > 1000 {
			w.settle()
		}
	}
	w.enter(100_001, events.ModeFreeze, 1)
	w.enter(100_002, events.ModeFreeze, 1)
	w.enter(100_003, events.ModeFreeze, 1)
	w.enter(100_003, events.ModeLift, 1)
	w.pulse(1)
	w.settle()
	w.publish(nil)
	w.enter(100_004, events.ModeRevoke, 1)
	w.enter(100_002, events.ModeLift, 1)
	w.enter(100_005, events.ModeFreeze, 1)
	w.pulse(1)
	w.settle()
	if w.err != nil {
		t.Fatal(w.err)
	}
	return w
}

// same fails unless o refuses what w refuses, and is fresh.
func (w *world) same(o *world) {
	w.t.Helper()
	if o.err != nil || !o.g.Status().Fresh {
		w.t.Fatalf("late guard: %v, %+v", o.err, o.g.Status())
	}
	dead, frozen := w.g.set.copy(w.now)
	dead2, frozen2 := o.g.set.copy(o.now)
	if !reflect.DeepEqual(dead, dead2) || !reflect.DeepEqual(frozen, frozen2) {
		w.t.Fatalf("late guard holds %d dead and %d frozen, want %d and %d", len(dead2), len(frozen2), len(dead), len(frozen))
	}
}

// TestSnapshot: a guard that starts late takes the snapshot and reads only the tail, and
// refuses exactly what one that has seen everything refuses.
func TestSnapshot(t *testing.T) {
	n := uint64(2000)
	w := late(t, n)
	o := w.another(memory{})
	if len(w.feed.froms) == 0 || w.feed.froms[0] < n {
		t.Errorf("it reads the feed from %v", w.feed.froms)
	}
	w.same(o)
	for _, c := range []struct {
		n    uint64
		want string
	}{{1, CodeRevoked}, {n, CodeRevoked}, {n + 1, ""}, {100_001, CodeFrozen}, {100_002, ""}, {100_003, ""}, {100_004, CodeRevoked}, {100_005, CodeFrozen}} {
		if got := o.check(w.keys.token(t, handle(c.n), w.now)); got != c.want {
			t.Errorf("handle %d: %q, want %q", c.n, got, c.want)
		}
	}
	size := len(w.feed.head)
	for _, p := range w.feed.parts {
		size += len(p)
	}
	t.Logf("%d handles in %d bytes", n, size)
	w.enter(7_000_000, events.ModeRevoke, 1)
	o.settle()
	if got := o.check(w.keys.token(t, handle(7_000_000), w.now)); got != CodeRevoked {
		t.Errorf("what came after the start: %q", got)
	}
}

// TestSnapshotOfNoUse: whatever is wrong with a snapshot, the feed itself is read.
func TestSnapshotOfNoUse(t *testing.T) {
	for name, spoil := range map[string]func(*world){
		"none":           func(w *world) { w.feed.head = nil },
		"a missing part": func(w *world) { delete(w.feed.parts, "s11") },
		"a changed part": func(w *world) { w.feed.parts["s10"][5] ^= 1 },
		"parts swapped": func(w *world) {
			w.feed.parts["s10"], w.feed.parts["s11"] = w.feed.parts["s11"], w.feed.parts["s10"]
		},
		"a changed header": func(w *world) { w.feed.head[len(w.feed.head)/2] ^= 1 },
		"a stranger's": func(w *world) {
			s, _ := w.g.Snapshot()
			s.Dead = nil
			w.feed.head, _, _ = SealSnapshot(w.keys.stranger, "s1", s)
		},
		"an entry": func(w *world) { w.feed.head = w.feed.stored[0].Data },
		"of a stream that is over": func(w *world) {
			w.publish(func(s *Snapshot) { s.Epoch, s.Dead = 7, s.Dead[:10] })
			w.pulse(1)
		},
		"of a longer stream": func(w *world) {
			w.publish(func(s *Snapshot) { s.Sequence, s.Dead = 1_000_000, s.Dead[:10] })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := late(t, 200)
			spoil(w)
			o := w.another(memory{})
			w.same(o)
			if f := w.feed.froms; !slices.Contains(f, 1) {
				t.Errorf("it reads the feed from %v", f)
			}
		})
	}
}

// TestSnapshotAndReceipts: what a guard has not answered before a restart it answers
// from the feed, snapshot or not.
func TestSnapshotAndReceipts(t *testing.T) {
	w := newWorld(t, newKeyring(t), "")
	w.pulse(1)
	w.settle()
	o := w.another(memory{})
	_ = w.feed.Subscribe(t.Context(), func(m Message) { w.g.arrive(m, w.queue) }) // o is down from here on
	w.enter(1, events.ModeRevoke, 1)
	w.pulse(1)
	w.settle()
	w.publish(nil)
	w.enter(2, events.ModeRevoke, 1)
	w.pulse(1)
	w.settle()
	before := len(w.feed.receipts(t))
	again := w.another(o.kept)
	if f := w.feed.froms; len(f) == 0 || f[0] != 1 {
		t.Errorf("it reads the feed from %v", f)
	}
	again.answer()
	if got := len(w.feed.receipts(t)) - before; got != 2 {
		t.Errorf("%d receipts, want 2", got)
	}
}

// TestColumns: packing loses nothing, and a part that does not fit is refused.
func TestColumns(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	part := make([]Killed, 1000)
	for i := range part {
		var h lineage.Handle
		binary.BigEndian.PutUint64(h[:8], uint64(i)<<40|rng.Uint64()>>24)
		part[i] = Killed{h, uint32(1_800_000_000 + i)}
	}
	packed, err := pack(columns(part))
	if err != nil {
		t.Fatal(err)
	}
	body, err := unpack(packed)
	if err != nil {
		t.Fatal(err)
	}
	got, err := uncolumns(body, len(part))
	if err != nil || !reflect.DeepEqual(got, part) {
		t.Errorf("unpacked differs (%v)", err)
	}
	if _, err := uncolumns(body, 999); !errors.Is(err, ErrSnapshot) {
		t.Errorf("another count: %v", err)
	}
	large, err := pack(make([]byte, maxChunk+1))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unpack(large); !errors.Is(err, ErrSnapshot) {
		t.Errorf("a part of %d bytes: %v", maxChunk+1, err)
	}
}
