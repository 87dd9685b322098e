package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

func TestExclusiveHandOver(t *testing.T) {
	s := testServer(t)
	short := func(_ *Config, tm *timing) {
		tm.leaseTTL, tm.leaseRenew, tm.leasePoll = 2*time.Second, 300*time.Millisecond, 50*time.Millisecond
	}
	one, two := testConn(t, s, short), testConn(t, s, short)
	if err := Provision(t.Context(), one, Options{}); err != nil {
		t.Fatal(err)
	}
	type took struct {
		who   string
		acked uint64
	}
	owners := make(chan took, 10)
	var mu sync.Mutex
	var handledBy []string
	spec := func(who string, fail *atomic.Bool) Spec {
		return Spec{Service: "solo", Exclusive: true,
			OnOwn: func(_ context.Context, acked map[string]uint64) error {
				owners <- took{who, acked[StreamIn]}
				return nil
			},
			Handlers: []Handler{On(func(_ context.Context, _ events.Event, p events.ToolCalled) ([]events.Event, error) {
				if fail.Load() && p.Count >= 3 {
					return nil, errors.New("cannot")
				}
				mu.Lock()
				defer mu.Unlock()
				handledBy = append(handledBy, fmt.Sprint(who, p.Count))
				return nil, nil
			})}}
	}
	var fail, never atomic.Bool
	fail.Store(true)
	stopOne := start(t, one, spec("one-", &fail))
	if o := <-owners; o != (took{"one-", 0}) {
		t.Fatalf("first owner: %+v", o)
	}
	start(t, two, spec("two-", &never))
	for i := 1; i <= 5; i++ { // one handles 1 and 2 and fails at the rest
		if err := one.Publish(t.Context(), called(t, "acme", fmt.Sprint("agent-", i), i)); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "one acknowledged two", func() bool {
		cons, err := one.js.Consumer(t.Context(), StreamIn, "solo")
		return err == nil && cons.CachedInfo().AckFloor.Stream == 2 && cons.CachedInfo().NumAckPending == 3
	})
	if len(owners) != 0 {
		t.Fatal("two owners at once")
	}
	stopOne() // in order: the lease is released
	if o := <-owners; o != (took{"two-", 2}) {
		t.Fatalf("second owner: %+v", o)
	}
	eventually(t, "all handled", func() bool { return unsettled(t, two, StreamIn, "solo") == 0 })
	mu.Lock()
	want := []string{"one-1", "one-2", "two-3", "two-4", "two-5"}
	got := slices.Clone(handledBy)
	mu.Unlock()
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("handled: %v, want %v", got, want)
	}

	// The owner is cut off: it stops by itself, and the other takes over.
	three := testConn(t, s, short)
	start(t, three, spec("three-", &never))
	two.nc.Close()
	if o := <-owners; o.who != "three-" {
		t.Fatalf("third owner: %+v", o)
	}
	if err := three.Publish(t.Context(), called(t, "acme", "agent", 6)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the third owner handles", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return slices.Contains(handledBy, "three-6")
	})
}

// A clean stop releases the lease: a stand-by need not wait until it runs out.
func TestCleanStopReleasesTheLease(t *testing.T) {
	s := testServer(t)
	long := func(_ *Config, tm *timing) {
		tm.leaseTTL, tm.leaseRenew, tm.leasePoll = time.Hour, time.Minute, 10*time.Millisecond
	}
	one, two := testConn(t, s, long), testConn(t, s, long)
	if err := Provision(t.Context(), one, Options{}); err != nil {
		t.Fatal(err)
	}
	owners := make(chan string, 2)
	spec := func(who string) Spec {
		return Spec{Service: "solo", Exclusive: true, OnOwn: func(context.Context, map[string]uint64) error { owners <- who; return nil },
			Handlers: []Handler{On(func(context.Context, events.Event, events.ToolCalled) ([]events.Event, error) { return nil, nil })}}
	}
	stop := start(t, one, spec("one"))
	if o := <-owners; o != "one" {
		t.Fatal(o)
	}
	start(t, two, spec("two"))
	stop()
	select {
	case o := <-owners:
		if o != "two" {
			t.Errorf("taken over by %s", o)
		}
	case <-time.After(20 * time.Second):
		t.Error("nobody takes over after a clean stop")
	}
}

// An owner that may not set its consumer back says so, names what it lacks, and gives
// the lease up.
func TestResetNotPermitted(t *testing.T) {
	const reset = "$JS.API.CONSUMER.RESET.NHI_IN.solo"
	users := []*server.User{{Username: "all", Password: "all"}, {Username: "some", Password: "some",
		Permissions: &server.Permissions{Publish: &server.SubjectPermission{Allow: []string{">"}, Deny: []string{reset}}}}}
	s := testServer(t, func(o *server.Options) { o.Users = users })
	user := func(name string) func(*Config, *timing) {
		return func(cfg *Config, _ *timing) { cfg.User, cfg.Password = name, name }
	}
	all := testConn(t, s, user("all"))
	core, logged := observer.New(zap.WarnLevel)
	some := testConn(t, s, user("some"), func(cfg *Config, _ *timing) { cfg.Log = zap.New(core) })
	if err := Provision(t.Context(), all, Options{}); err != nil {
		t.Fatal(err)
	}
	if err := all.Publish(t.Context(), called(t, "acme", "agent", 1)); err != nil {
		t.Fatal(err)
	}
	// An earlier owner was delivered something and has not acknowledged it.
	spec := Spec{Service: "solo", Exclusive: true, Handlers: []Handler{On(func(context.Context, events.Event, events.ToolCalled) ([]events.Event, error) { return nil, nil })}}
	r, err := newRunner(all, spec)
	if err != nil {
		t.Fatal(err)
	}
	_, cfg := r.consumer(StreamIn)
	cons, err := all.js.CreateOrUpdateConsumer(t.Context(), StreamIn, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := cons.Next(); err != nil {
		t.Fatal(err)
	}
	if err := some.Run(t.Context(), spec); err == nil || !strings.Contains(err.Error(), reset) {
		t.Errorf("run: %v, want an error that names %s", err, reset)
	}
	if n := logged.FilterMessage("nats reported an error").FilterFieldKey("error").Len(); n == 0 {
		t.Errorf("the refusal is not logged: %v", logged.All())
	}
	if _, err := all.acquire(t.Context(), "solo"); err != nil {
		t.Errorf("the lease after the failure: %v", err)
	}
}

func TestLease(t *testing.T) {
	c := testBus(t, func(_ *Config, tm *timing) { tm.leasePoll = 10 * time.Millisecond })
	l, err := c.acquire(t.Context(), "svc")
	if err != nil || !l.valid() {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := c.acquire(ctx, "svc"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a second owner: %v", err)
	}
	// Somebody took it meanwhile: the next renewal finds out.
	stale := &lease{c: c, subject: l.subject, owner: "stale", seq: l.seq, until: l.until}
	if err := l.write(t.Context(), l.seq, leaseState{Owner: l.owner}); err != nil {
		t.Fatal(err)
	}
	if err := stale.write(t.Context(), stale.seq, leaseState{Owner: "stale"}); !errors.Is(err, ErrConflict) {
		t.Errorf("a stale owner renewed: %v", err)
	}
	r := &runner{c: c, lease: &lease{until: time.Now().Add(-time.Second)}}
	if r.may() || !errors.Is(r.mayPublish(), errLeaseLost) {
		t.Error("an owner whose lease has run out may still publish")
	}
	l.release()
	if l.valid() {
		t.Error("valid after release")
	}
	if _, err := c.acquire(t.Context(), "svc"); err != nil {
		t.Errorf("after the release: %v", err)
	}
}

func TestOnOwnFails(t *testing.T) {
	c := testBus(t)
	bad := errors.New("no checkpoint")
	s := Spec{Service: "solo", Exclusive: true, OnOwn: func(context.Context, map[string]uint64) error { return bad },
		Handlers: []Handler{On(func(context.Context, events.Event, events.ToolCalled) ([]events.Event, error) { return nil, nil })}}
	if err := c.Run(t.Context(), s); !errors.Is(err, bad) {
		t.Errorf("run: %v", err)
	}
}
