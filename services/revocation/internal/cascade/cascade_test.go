package cascade_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/connector"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/cascade"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/secrets"
	"go.uber.org/zap"
)

// world is a log, an index folded from it, and a system with accounts, in memory.
type world struct {
	mu      sync.Mutex
	log     []bus.Stored
	crash   int // so many appends fail from now on
	records []secrets.Record
	cursor  map[string]int
	alive   map[string]bool
	acts    int
	running int
	most    int
	sticky  bool // accounts survive their end
}

func newWorld(n int) *world {
	w := &world{cursor: map[string]int{}, alive: map[string]bool{}}
	for i := range n {
		h := fmt.Sprintf("%016d", i)
		w.records = append(w.records, secrets.Record{Tenant: "acme", SecretTracked: events.SecretTracked{Secret: "s" + h, Handle: h, Downstream: "saas", Account: h, Owner: "team"}})
		w.alive[h] = true
	}
	return w
}

// Append keeps the promise of the bus: a condition on the entity's last sequence.
func (w *world) Append(_ context.Context, b bus.Batch) (bus.Ack, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.crash > 0 {
		w.crash--
		return bus.Ack{}, errors.New("the process died here")
	}
	var last uint64
	for _, st := range w.log {
		if st.Event.Subject() == b.Events[0].Subject() {
			last = st.Sequence
		}
	}
	if last != b.Expect.Sequence {
		return bus.Ack{}, bus.ErrConflict
	}
	w.log = append(w.log, bus.Stored{Event: b.Events[0], Sequence: uint64(len(w.log) + 1)})
	return bus.Ack{Sequence: uint64(len(w.log))}, nil
}

// Read answers with what the filter matches.
func (w *world) Read(_ context.Context, _, filter string, _ uint64) iter.Seq2[bus.Stored, error] {
	w.mu.Lock()
	defer w.mu.Unlock()
	log := slices.Clone(w.log)
	return func(yield func(bus.Stored, error) bool) {
		for _, st := range log {
			if events.EntityFilter("acme", st.Event.Subject()) == filter && !yield(st, nil) {
				return
			}
		}
	}
}

func (w *world) Settle(context.Context) error { return nil }
func (w *world) Downstreams(context.Context, string) ([]string, error) {
	return []string{"saas"}, nil
}
func (w *world) Slice(_ context.Context, _, _ string, slice int) ([]secrets.Record, error) {
	if slice != 1 {
		return nil, nil
	}
	return w.records, nil
}

func (w *world) of(kind string) map[string]int {
	out := map[string]int{}
	for _, st := range w.log {
		if st.Event.Type() == kind {
			out[st.Event.Subject()]++
		}
	}
	return out
}

func (w *world) Done(_ context.Context, revocation string, handles ...string) (map[string]events.RevocationEnforced, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	done, out := w.of(events.TypeRevocationEnforced), map[string]events.RevocationEnforced{}
	for _, h := range handles {
		if done[revocation+"/"+h] > 0 {
			out[h] = events.RevocationEnforced{}
		}
	}
	return out, nil
}

func (w *world) IsStuck(_ context.Context, revocation, handle string) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.of(events.TypeRevocationStuck)[revocation+"/"+handle] > 0, nil
}
func (w *world) Checkpoint(_ context.Context, revocation, _ string) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cursor[revocation], nil
}
func (w *world) SetCheckpoint(_ context.Context, revocation, _ string, slice int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cursor[revocation] = slice
	return nil
}

// Describe, End and Verify make it a connector.
func (w *world) Describe() connector.Description { return connector.Description{Kind: "memory"} }
func (w *world) End(_ context.Context, t connector.Target) (connector.Result, error) {
	w.mu.Lock()
	w.running++
	w.most = max(w.most, w.running)
	w.acts++
	was := w.alive[t.Account]
	w.alive[t.Account] = w.sticky
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.running--
		w.mu.Unlock()
	}()
	if was {
		return connector.Result{Outcome: connector.Enforced}, nil
	}
	return connector.Result{Outcome: connector.AlreadyDead}, nil
}
func (w *world) Verify(_ context.Context, t connector.Target) (connector.Status, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return connector.Status{Dead: !w.alive[t.Account]}, nil
}

func (w *world) engine() *cascade.Engine {
	return cascade.New(cascade.Config{Index: w, Log: w, Key: "{}", Now: time.Now, Logger: zap.NewNop(),
		Downstreams: []cascade.Downstream{{Name: "saas", Connector: w, Concurrency: 4, Timeout: 10 * time.Second, Wait: time.Millisecond}},
		Sign:        func(p events.ReceiptSigned) (events.ReceiptSigned, error) { p.JWS = "a.b.c"; return p, nil },
		Stuck:       func(context.Context, cascade.Job, events.RevocationStuck) {}})
}

func job(t *testing.T) cascade.Job {
	t.Helper()
	a := events.RevocationAccepted{Revocation: "rev", Mode: events.ModeRevoke, Handle: "AAAAAAAAAAAAAAAA", AcceptedAt: time.Now().Add(-time.Minute)}
	e, err := events.New(events.Origin{Source: "/test", Tenant: "acme", Time: time.Now(), Discriminator: "x"}, a)
	if err != nil {
		t.Fatal(err)
	}
	return cascade.Job{Revocation: "rev", Tenant: "acme", Cause: e, Accepted: a}
}

// receipts fails unless each of n secrets has exactly one.
func (w *world) receipts(t *testing.T, n int) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	got := w.of(events.TypeRevocationEnforced)
	for entity, times := range got {
		if times != 1 {
			t.Errorf("%s has %d receipts", entity, times)
		}
	}
	if len(got) != n {
		t.Errorf("%d secrets have a receipt, want %d", len(got), n)
	}
}

func TestCrashBetweenActAndReceipt(t *testing.T) {
	w := newWorld(1)
	w.crash = 1
	if left, err := w.engine().Pass(t.Context(), job(t)); err != nil || left != 1 {
		t.Fatalf("the pass that dies: %d left, %v; want 1", left, err)
	}
	if w.alive[w.records[0].Handle] {
		t.Fatal("it did not act before it died")
	}
	w.receipts(t, 0)
	if left, err := w.engine().Pass(t.Context(), job(t)); err != nil || left != 0 {
		t.Fatalf("the pass after the start: %d left, %v", left, err)
	}
	w.receipts(t, 1)
	acts := w.acts
	if left, err := w.engine().Pass(t.Context(), job(t)); err != nil || left != 0 || w.acts != acts {
		t.Errorf("a pass over what is done: %d left, %v, %d more acts", left, err, w.acts-acts)
	}
	w.receipts(t, 1)
}

func TestTwoProcessesMakeOneReceiptEach(t *testing.T) {
	w := newWorld(200)
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			if left, err := w.engine().Pass(t.Context(), job(t)); err != nil || left != 0 {
				t.Errorf("%d left, %v", left, err)
			}
		})
	}
	all.Wait()
	w.receipts(t, 200)
	if w.most > 8 {
		t.Errorf("%d acts at once, want at most 4 per process", w.most)
	}
}

func TestNoSuccessWithoutProof(t *testing.T) {
	w := newWorld(1)
	w.sticky = true
	if left, err := w.engine().Pass(t.Context(), job(t)); err != nil || left != 1 {
		t.Fatalf("%d left, %v; want 1", left, err)
	}
	w.receipts(t, 0)
	if n := len(w.of(events.TypeRevocationStuck)); n != 1 {
		t.Errorf("%d stuck, want 1", n)
	}
	w.sticky = false
	if left, err := w.engine().Pass(t.Context(), job(t)); err != nil || left != 0 {
		t.Fatalf("after it gave way: %d left, %v", left, err)
	}
	w.receipts(t, 1)
}
