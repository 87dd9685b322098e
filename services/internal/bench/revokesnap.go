package bench

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/guard/natsfeed"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// lateGuard is a kill feed of many entries with a snapshot of them, on a server of its
// own; its writes are not synced, since nothing of them is measured.
type lateGuard struct {
	server *server.Server
	js     jetstream.JetStream
	signer token.Signer
	public ed25519.PublicKey
	size   int // bytes of the snapshot
	last   uint64
}

// noSnapshots hides what a feed offers beside.
type noSnapshots struct{ guard.Feed }

// revokeLate is the time until a guard that starts with n entries in the kill feed is
// ready, with the snapshot; the limit is the same without.
func revokeLate(ctx context.Context, o Options) ([]Row, error) {
	n := 250_000
	if o.Short {
		n = 20_000
	}
	l := &lateGuard{}
	var a, b []float64
	_, err := withServer(ctx, o, false, func(s *server.Server, c *bus.Conn) (float64, error) {
		nc, err := nats.Connect("", nats.InProcessServer(s))
		if err != nil {
			return 0, fmt.Errorf("connect: %w", err)
		}
		defer nc.Close()
		if l.js, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(4000)); err != nil {
			return 0, err
		}
		l.server = s
		o.Progress("feed.snapshot: writing %d kill entries", n)
		if err := l.write(ctx, c, n); err != nil {
			return 0, err
		}
		beating, stop := context.WithCancel(ctx)
		var wg sync.WaitGroup
		wg.Go(func() { l.beat(beating) })
		defer func() { stop(); wg.Wait() }()
		o.Rounds = 1 // the limit takes long
		a, b, err = Compare(ctx, o, "feed.snapshot_ready", func(ctx context.Context) (float64, error) { return l.ready(ctx, "with", n, true) },
			func(ctx context.Context) (float64, error) { return l.ready(ctx, "without", n, false) })
		return 0, err
	})
	if err != nil {
		return nil, err
	}
	return []Row{Ratio("feed.snapshot_ready", "ms", fmt.Sprintf("the same guard reading all %d entries", n), a, b, 0.5, "max"),
		Absolute("feed.snapshot_bytes_per_handle", "B", []float64{float64(l.size) / float64(n)}, 16, "max")}, nil
}

// write stores n signed entries and the snapshot that a guard which has them would give.
func (l *lateGuard) write(ctx context.Context, c *bus.Conn, n int) error {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	if l.signer, err = token.NewSigner("", private); err != nil {
		return err
	}
	l.public = public
	now := time.Now()
	keep := now.Add(time.Hour)
	dead := make([]guard.Killed, n)
	random := make([]byte, 12*n)
	_, _ = rand.Read(random) // never fails
	g, gctx := errgroup.WithContext(ctx)
	for w := range 8 {
		g.Go(func() error {
			for i := w; i < n && gctx.Err() == nil; i += 8 {
				h := lineage.Handle(random[12*i : 12*i+12])
				binary.BigEndian.PutUint16(h[:], uint16(i)|1) // never the empty handle
				dead[i] = guard.Killed{Handle: h, Keep: uint32(keep.Unix()) + uint32(i%900)}
				data, err := guard.SealEntry(l.signer, guard.Entry{Handle: h, Mode: events.ModeRevoke, Revocation: events.DeterministicID("bench", h.String()),
					Reason: "bench", By: "bench", At: now, Keep: keep, Epoch: 1})
				if err != nil {
					return err
				}
				if _, err := l.js.PublishMsgAsync(&nats.Msg{Subject: natsfeed.StoreRoot + h.String(), Data: data}); err != nil {
					return fmt.Errorf("publish entry: %w", err)
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	select {
	case <-l.js.PublishAsyncComplete():
	case <-ctx.Done():
		return ctx.Err()
	}
	if l.last, err = c.LastSequence(ctx, bus.StreamKill, ">"); err != nil {
		return err
	}
	slices.SortFunc(dead, func(a, b guard.Killed) int { return bytes.Compare(a.Handle[:], b.Handle[:]) })
	head, parts, err := guard.SealSnapshot(l.signer, "bench", guard.Snapshot{Epoch: 1, Sequence: l.last, LastEntry: l.last, At: now, Dead: dead})
	if err != nil {
		return err
	}
	for i, p := range parts {
		l.size += len(p)
		if err := c.Snapshot(ctx, natsfeed.SnapshotPart("bench", i), p, time.Hour); err != nil {
			return err
		}
	}
	l.size += len(head)
	return c.Snapshot(ctx, natsfeed.SnapshotHead, head, time.Hour)
}

// beat keeps the feed alive, as revocation does.
func (l *lateGuard) beat(ctx context.Context) {
	t := time.NewTicker(200 * time.Millisecond)
	defer t.Stop()
	for ctx.Err() == nil {
		data, err := guard.SealHeartbeat(l.signer, guard.Heartbeat{Epoch: 1, Last: l.last, Time: time.Now()})
		if err == nil {
			_, _ = l.js.Publish(ctx, natsfeed.StoreRoot+guard.HeartbeatName, data) // the next one follows
		}
		select {
		case <-ctx.Done():
		case <-t.C:
		}
	}
}

// ready starts a guard and returns how many milliseconds it took until it was ready.
func (l *lateGuard) ready(ctx context.Context, point string, n int, snapshot bool) (float64, error) {
	feed, done, err := bus.DialFeed(ctx, bus.Config{InProcess: l.server, Name: point})
	if err != nil {
		return 0, err
	}
	defer done()
	cfg := guard.Config{Point: point, Tenant: benchTenant, Issuer: revokeIssuer, Audience: revokeIssuer, Keys: token.NewKeySet(l.signer.Key()), FeedKey: l.public, Feed: noSnapshots{feed}}
	if snapshot {
		cfg.Feed = feed
	}
	g, err := guard.New(cfg)
	if err != nil {
		return 0, err
	}
	run, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer func() { cancel(); wg.Wait() }()
	start := time.Now()
	wg.Go(func() { _ = g.Run(run) })
	select {
	case <-g.Ready():
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-time.After(2 * time.Minute):
		return 0, errors.New("the guard is not ready: " + g.Status().Problem)
	}
	took := ms(time.Since(start))
	if held := g.Status().Entries; held < n*99/100 { // a few handles of the bench may be the same
		return 0, fmt.Errorf("the guard holds %d of %d entries", held, n)
	}
	return took, nil
}
