package revocation

import (
	"context"
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/guard/natsfeed"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"go.uber.org/zap"
)

// countedFeed notes from where it is read.
type countedFeed struct {
	*natsfeed.Feed
	mu    sync.Mutex
	froms []uint64
}

func (f *countedFeed) Fill(ctx context.Context, from uint64, deliver func(guard.Message) error) (uint64, error) {
	f.mu.Lock()
	f.froms = append(f.froms, from)
	f.mu.Unlock()
	return f.Feed.Fill(ctx, from, deliver)
}

func (f *countedFeed) first() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.froms) == 0 {
		return 0
	}
	return f.froms[0]
}

// TestSnapshotOverNATS: once the kill feed is large, a guard that starts late reads the
// snapshot over NATS and the tail only, and refuses all the same.
func TestSnapshotOverNATS(t *testing.T) {
	p := newPlant(t)
	p.start("service-revocation")
	signer, err := p.ring.FeedSigner()
	if err != nil {
		t.Fatal(err)
	}
	const n = snapshotMin + 10
	number := func(i int) (h lineage.Handle) {
		binary.BigEndian.PutUint32(h[4:], uint32(i)+1)
		return h
	}
	kill := func(i int) {
		now := time.Now()
		data, err := guard.SealEntry(signer, guard.Entry{Handle: number(i), Mode: events.ModeRevoke, Revocation: "r", Reason: "x", By: "x", At: now, Keep: now.Add(time.Hour), Epoch: 1})
		if err == nil {
			_, err = p.env.Bus.Kill(context.Background(), number(i).String(), data, "", nil, time.Hour)
		}
		if err != nil {
			t.Error(err)
		}
	}
	var wg sync.WaitGroup
	for w := range 64 {
		wg.Go(func() {
			for i := w; i < n; i += 64 {
				kill(i)
			}
		})
	}
	wg.Wait()
	own := p.env.Guard
	until(t, "the own guard holds all", func() bool { return own.Status().Entries == n && own.Status().Fresh })
	stored := map[string]int{}
	s := &snapshots{signer: signer, guard: own, now: time.Now, rand: p.env.Rand, log: zap.NewNop(),
		store: func(ctx context.Context, name string, data []byte, ttl time.Duration) error {
			stored[name] = len(data)
			return p.env.Bus.Snapshot(ctx, name, data, ttl)
		}}
	for range 2 { // the second finds nothing to do
		if err := s.publish(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(stored) != 2 || s.count != n {
		t.Fatalf("stored %v, %d handles", stored, s.count)
	}
	kill(n)
	raw, done, err := bus.DialFeed(t.Context(), bus.Config{InProcess: p.server, Name: "late"})
	if err != nil {
		t.Fatal(err)
	}
	defer done()
	public, err := p.ring.FeedPublic()
	if err != nil {
		t.Fatal(err)
	}
	counted := &countedFeed{Feed: raw}
	late, err := guard.New(guard.Config{Point: "late", Tenant: "acme", Issuer: issuer, Audience: issuer, Keys: token.NewKeySet(p.issuer.Key()), FeedKey: public, Feed: counted})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	wg.Go(func() { _ = late.Run(ctx) })
	defer func() { cancel(); wg.Wait() }()
	until(t, "the late guard is fresh", func() bool { return late.Status().Fresh })
	if late.Status().Entries != n+1 || counted.first() <= n {
		t.Errorf("%d entries, the feed was read from %d", late.Status().Entries, counted.first())
	}
	for _, i := range []int{0, n / 2, n} {
		if _, dead := late.Dead([]lineage.Handle{number(i)}); !dead {
			t.Errorf("handle %d is not refused", i)
		}
	}
}

func TestSnapshotDue(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	last := guard.Snapshot{Epoch: 1, Sequence: 100, At: now}
	for name, c := range map[string]struct {
		count int
		g     guard.Status
		after time.Duration
		want  bool
	}{
		"small":         {0, guard.Status{Fresh: true, Epoch: 1, Sequence: 200, Entries: snapshotMin - 1}, 0, false},
		"first":         {0, guard.Status{Fresh: true, Epoch: 1, Sequence: 200, Entries: snapshotMin}, 0, true},
		"not fresh":     {0, guard.Status{Epoch: 1, Sequence: 200, Entries: snapshotMin}, 0, false},
		"nothing new":   {10_000, guard.Status{Fresh: true, Epoch: 1, Sequence: 100, Entries: 10_000}, time.Hour, false},
		"a little more": {10_000, guard.Status{Fresh: true, Epoch: 1, Sequence: 200, Entries: 10_999}, time.Minute, false},
		"a tenth more":  {10_000, guard.Status{Fresh: true, Epoch: 1, Sequence: 200, Entries: 11_000}, time.Minute, true},
		"old":           {10_000, guard.Status{Fresh: true, Epoch: 1, Sequence: 200, Entries: 10_000}, snapshotAge, true},
		"another epoch": {10_000, guard.Status{Fresh: true, Epoch: 2, Sequence: 100, Entries: 10_000}, time.Minute, true},
	} {
		s := &snapshots{last: last, count: c.count}
		if got := s.due(c.g, now.Add(c.after)); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
