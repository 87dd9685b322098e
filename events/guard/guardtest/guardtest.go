// Package guardtest is a whole deployment in memory for tests of what stands behind a
// guard: an issuer, a kill feed that beats, and one guard that runs. Tests of products
// import it.
package guardtest

import (
	"context"
	"crypto/ed25519"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// Issuer and Audience of the tokens.
const (
	Issuer   = "https://issuer.example"
	Audience = "https://resource.example"
)

// beatInterval is shorter than in a deployment: tests start guards often.
const beatInterval = 100 * time.Millisecond

// World is the deployment.
type World struct {
	Guard *guard.Guard

	t      testing.TB
	now    func() time.Time
	issuer token.Signer
	signer token.Signer // of the feed
	feed   feed
}

// Start runs a deployment until the test ends and waits until its guard may say yes.
func Start(t testing.TB, change ...func(*guard.Config)) *World {
	t.Helper()
	w := &World{t: t, now: time.Now, issuer: signer(t), signer: signer(t)}
	cfg := guard.Config{
		Point: "test", Tenant: "acme", Issuer: Issuer, Audience: Audience, Keys: token.NewKeySet(w.issuer.Key()),
		FeedKey: w.signer.Key().Public.(ed25519.PublicKey), Feed: &w.feed,
	}
	for _, f := range change {
		f(&cfg)
	}
	g, err := guard.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.Guard = g
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { w.beat(ctx) })
	wg.Go(func() {
		if err := g.Run(ctx); err != nil {
			t.Errorf("run guard: %v", err)
		}
	})
	t.Cleanup(func() { stop(); wg.Wait() })
	select {
	case <-g.Ready():
	case <-time.After(time.Minute):
		t.Fatal("the guard is not ready after a minute: " + g.Status().Problem)
	}
	return w
}

func signer(t testing.TB) token.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := token.NewSigner("", private)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Handle is the n-th handle.
func Handle(n byte) lineage.Handle { return lineage.Handle{1, n} }

// Token is an access token of agent-1 in tenant acme for five minutes, whose lineage is
// a root that all share and Handle(n).
func (w *World) Token(n byte, scope string, change ...func(*token.Claims)) string {
	w.t.Helper()
	now := w.now()
	c := token.Claims{Issuer: Issuer, Subject: "agent-1", Audience: token.Strings{Audience}, ClientID: "agent-1",
		IssuedAt: now.Unix(), Expires: now.Add(5 * time.Minute).Unix(), ID: "jti-" + Handle(n).String(), Scope: scope,
		Tenant: "acme", Task: "task-1", Lineage: []lineage.Handle{Handle(0), Handle(n)}}
	for _, f := range change {
		f(&c)
	}
	raw, err := w.issuer.Sign(token.TypAccess, c)
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

// Revoke ends Handle(n) for good. When it returns the guard refuses it.
func (w *World) Revoke(n byte) {
	w.t.Helper()
	now := w.now()
	raw, err := guard.SealEntry(w.signer, guard.Entry{Handle: Handle(n), Mode: events.ModeRevoke, Revocation: "rev-" + Handle(n).String(),
		Reason: "leaked", By: "alice", At: now, Keep: now.Add(time.Hour), Epoch: 1})
	if err != nil {
		w.t.Fatal(err)
	}
	w.feed.send(Handle(n).String(), raw)
}

// Silence stops the heartbeats, or lets them go on.
func (w *World) Silence(quiet bool) {
	w.feed.mu.Lock()
	defer w.feed.mu.Unlock()
	w.feed.quiet = quiet
}

func (w *World) beat(ctx context.Context) {
	tick := time.NewTicker(beatInterval)
	defer tick.Stop()
	for {
		if !w.feed.silent() {
			raw, err := guard.SealHeartbeat(w.signer, guard.Heartbeat{Epoch: 1, Time: w.now()})
			if err != nil {
				w.t.Errorf("beat: %v", err)
				return
			}
			w.feed.send(guard.HeartbeatName, raw)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// feed is a kill feed in memory: one message per subject, sequences that only grow.
type feed struct {
	mu     sync.Mutex
	stored []guard.Message
	last   uint64
	push   func(guard.Message)
	quiet  bool
}

func (f *feed) silent() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.quiet
}

func (f *feed) send(name string, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	m := guard.Message{Sequence: f.last, Subject: "nhi.kill." + name, Data: data}
	f.stored = slices.DeleteFunc(f.stored, func(o guard.Message) bool { return o.Subject == m.Subject })
	f.stored = append(f.stored, m)
	if f.push != nil {
		f.push(m)
	}
}

// Subscribe implements guard.Feed.
func (f *feed) Subscribe(_ context.Context, push func(guard.Message)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.push = push
	return nil
}

// Fill implements guard.Feed.
func (f *feed) Fill(_ context.Context, from uint64, take func(guard.Message) error) (uint64, error) {
	f.mu.Lock()
	stored, last := slices.Clone(f.stored), f.last
	f.mu.Unlock()
	for _, m := range stored {
		if m.Sequence >= from {
			if err := take(m); err != nil {
				return 0, err
			}
		}
	}
	return last, nil
}

// Answer implements guard.Feed.
func (f *feed) Answer(context.Context, events.Event) error { return nil }
