package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/nats-io/nats-server/v2/server"
	"go.opentelemetry.io/otel"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace/noop"
)

// emitter answers every call with one fact and counts.
func emitter(count *atomic.Int64) Handler {
	return On(func(_ context.Context, cause events.Event, p events.ToolCalled) ([]events.Event, error) {
		count.Add(1)
		e, err := caused(cause, p.Identity)
		return []events.Event{e}, err
	}, events.TypeRiskChanged)
}

// Runners come and go while events arrive: each cause has its fact, once.
func TestShutdownUnderLoadLosesNothing(t *testing.T) {
	c := testBus(t)
	const n = 1500
	published := make(chan error, 1)
	go func() {
		for i := 0; i < n; i += 50 {
			var es []events.Event
			for j := i; j < i+50; j++ {
				es = append(es, called(t, "acme", fmt.Sprint("agent-", j%30), j))
			}
			if err := c.Publish(t.Context(), es...); err != nil {
				published <- err
				return
			}
		}
		published <- nil
	}()
	var handled atomic.Int64
	for round := int64(1); round <= 5; round++ {
		stop := start(t, c, Spec{Service: "restless", Handlers: []Handler{emitter(&handled)}})
		eventually(t, "some handled", func() bool { return handled.Load() >= round*100 })
		stop()
	}
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	stopped := handled.Load()
	if n := len(read(t, c, StreamLog, ">")); int64(n) != stopped {
		t.Errorf("%d facts stored when the runner had ended, %d events handled", n, stopped)
	}
	start(t, c, Spec{Service: "restless", Handlers: []Handler{emitter(&handled)}})
	eventually(t, "all settled", func() bool { return unsettled(t, c, StreamIn, "restless") == 0 })
	causes := map[string]int{}
	for _, s := range read(t, c, StreamLog, ">") {
		causes[events.Extension(s.Event, events.ExtCausation)]++
	}
	if len(causes) != n {
		t.Errorf("%d causes have facts, want %d", len(causes), n)
	}
	for id, k := range causes {
		if k != 1 {
			t.Errorf("%s has %d facts", id, k)
		}
	}
}

// A handler that does not end is told to after the grace period, and its message
// comes again.
func TestShutdownGrace(t *testing.T) {
	c := testBus(t, func(_ *Config, tm *timing) { tm.grace = 100 * time.Millisecond })
	if err := c.Publish(t.Context(), called(t, "acme", "agent", 1), called(t, "acme", "agent", 2)); err != nil {
		t.Fatal(err)
	}
	began := make(chan struct{}, 2)
	stop := start(t, c, Spec{Service: "slow", Handlers: []Handler{On(func(ctx context.Context, _ events.Event, _ events.ToolCalled) ([]events.Event, error) {
		began <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	})}})
	<-began
	stop()
	if len(began) != 0 {
		t.Error("the second event was handed out while shutting down")
	}
	if d := deadLetters(t, c); len(d) != 0 {
		t.Errorf("buried: %+v", d)
	}
	var handled atomic.Int64
	start(t, c, Spec{Service: "slow", Handlers: []Handler{emitter(&handled)}})
	eventually(t, "both handled", func() bool { return handled.Load() == 2 })
}

func TestTwoRunnersShareOneConsumer(t *testing.T) {
	s := testServer(t)
	one, two := testConn(t, s), testConn(t, s)
	if err := Provision(t.Context(), one, Options{}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	seen := map[string][]string{}
	spec := func(who string) Spec {
		return Spec{Service: "pair", Handlers: []Handler{On(func(_ context.Context, cause events.Event, _ events.ToolCalled) ([]events.Event, error) {
			mu.Lock()
			defer mu.Unlock()
			seen[cause.ID()] = append(seen[cause.ID()], who)
			return nil, nil
		})}}
	}
	start(t, one, spec("one"))
	stopTwo := start(t, two, spec("two"))
	i := 0
	publish := func() {
		var es []events.Event
		for range 100 {
			es = append(es, called(t, "acme", fmt.Sprint("agent-", i), i))
			i++
		}
		if err := one.Publish(t.Context(), es...); err != nil {
			t.Fatal(err)
		}
	}
	both := func() bool {
		mu.Lock()
		defer mu.Unlock()
		who := map[string]bool{}
		for _, s := range seen {
			who[s[0]] = true
		}
		return len(who) == 2
	}
	for range 50 {
		publish()
		if both() {
			break
		}
	}
	if !both() {
		t.Error("one runner did everything")
	}
	stopTwo()
	publish()
	eventually(t, "all settled", func() bool { return unsettled(t, one, StreamIn, "pair") == 0 })
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != i {
		t.Errorf("%d events handled, want %d", len(seen), i)
	}
	for id, who := range seen {
		if len(who) != 1 {
			t.Errorf("%s was handled by %v", id, who)
		}
	}
}

// The order of a key holds over failures and redeliveries.
func TestOrderOverRedeliveries(t *testing.T) {
	c := testBus(t)
	const each = 15
	var es []events.Event
	for i := range each {
		for a := range 4 {
			es = append(es, called(t, "acme", fmt.Sprint("agent-", a), i*10+a))
		}
	}
	if err := c.Publish(t.Context(), es...); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	failed, seen := map[int64]int{}, map[string][]int64{}
	start(t, c, Spec{Service: "shaky", Handlers: []Handler{On(func(_ context.Context, _ events.Event, p events.ToolCalled) ([]events.Event, error) {
		mu.Lock()
		defer mu.Unlock()
		if p.Count%30 < 3 && failed[p.Count] < 2 {
			failed[p.Count]++
			return nil, errors.New("shaky")
		}
		seen[p.Identity] = append(seen[p.Identity], p.Count)
		return nil, nil
	})}})
	eventually(t, "all settled", func() bool { return unsettled(t, c, StreamIn, "shaky") == 0 })
	mu.Lock()
	defer mu.Unlock()
	for a := range 4 {
		counts := seen[fmt.Sprint("agent-", a)]
		if len(counts) != each || !slices.IsSorted(counts) {
			t.Errorf("agent-%d: handled in the order %v", a, counts)
		}
	}
}

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

func TestTimers(t *testing.T) {
	c := testBus(t)
	now := time.Now()
	timer := func(id string, due time.Time) events.Event {
		return made(t, "acme", "timer-"+id+due.String(), events.TimerDue{Timer: id, Kind: "credential.expiry", Ref: "jti", Owner: "agent", DueAt: due})
	}
	type firing struct {
		timer string
		at    time.Time
	}
	fired := make(chan firing, 10)
	start(t, c, Spec{Service: "clock", Handlers: []Handler{On(func(_ context.Context, _ events.Event, p events.TimerDue) ([]events.Event, error) {
		fired <- firing{p.Timer, time.Now()}
		if early := p.DueAt.Sub(time.Now()); early > time.Second {
			t.Errorf("%s fired %v early", p.Timer, early)
		}
		return nil, nil
	})}})
	for _, e := range []events.Event{
		timer("past", now.Add(-time.Hour)), timer("soon", now.Add(2*time.Second)), timer("cancelled", now.Add(2*time.Second)),
		timer("moved", now.Add(time.Second)), timer("moved", now.Add(4*time.Second)), timer("later", now.Add(time.Hour)),
		timer("past", now.Add(-time.Hour)), // set again after a crash
	} {
		if err := c.Schedule(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.Cancel(t.Context(), "acme", "cancelled"); err != nil {
		t.Fatal(err)
	}
	if err := c.Cancel(t.Context(), "acme", "never set"); err != nil {
		t.Errorf("cancel of a timer that is not set: %v", err)
	}
	for _, bad := range [][2]string{{"ACME", "x"}, {"acme", ""}} {
		if c.Cancel(t.Context(), bad[0], bad[1]) == nil {
			t.Errorf("cancelled %v", bad)
		}
	}
	if err := c.Schedule(t.Context(), called(t, "acme", "agent", 1)); err == nil {
		t.Error("scheduled what is no timer")
	}
	var order []string
	for len(order) < 3 {
		select {
		case f := <-fired:
			order = append(order, f.timer)
		case <-time.After(15 * time.Second):
			t.Fatalf("fired only %v", order)
		}
	}
	if want := []string{"past", "soon", "moved"}; !slices.Equal(order, want) {
		t.Errorf("fired %v, want %v", order, want)
	}
	eventually(t, "settled", func() bool { return unsettled(t, c, StreamTimer, "clock") == 0 })
	if n, err := c.LastSequence(t.Context(), StreamTimer, "nhi.timer.set.acme.cancelled"); err != nil || n != 0 {
		t.Errorf("the cancelled timer is still at %d, %v", n, err)
	}
	if n, err := c.LastSequence(t.Context(), StreamTimer, "nhi.timer.set.acme.later"); err != nil || n == 0 {
		t.Errorf("the later timer is gone: %v", err)
	}
}

// The server is stopped and started on the same files while a runner works.
func TestServerRestart(t *testing.T) {
	dir := t.TempDir()
	run := func(port int) *server.Server {
		s, err := server.NewServer(&server.Options{ServerName: "test", JetStream: true, StoreDir: dir, SyncAlways: true, Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true})
		if err != nil {
			t.Fatal(err)
		}
		s.Start()
		if !s.ReadyForConnections(10 * time.Second) {
			t.Fatal("the server does not get ready")
		}
		return s
	}
	stop := func(s *server.Server) { s.Shutdown(); s.WaitForShutdown() }
	s := run(-1)
	port := 0
	if _, err := fmt.Sscanf(s.ClientURL(), "nats://127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	c := testConn(t, nil, func(cfg *Config, tm *timing) {
		cfg.InProcess, cfg.URL = nil, s.ClientURL()
		tm.attempt, tm.ackWait = 500*time.Millisecond, 2*time.Second
	})
	if err := Provision(t.Context(), c, Options{}); err != nil {
		t.Fatal(err)
	}
	var handled atomic.Int64
	start(t, c, Spec{Service: "sturdy", Handlers: []Handler{emitter(&handled)}})
	const n = 600
	published := make(chan error, 1)
	go func() {
		for i := range n {
			e := called(t, "acme", fmt.Sprint("agent-", i%9), i)
			err := c.Publish(t.Context(), e)
			for errors.Is(err, ErrUnknownOutcome) { // what a caller does: the same again
				err = c.Publish(t.Context(), e)
			}
			if err != nil {
				published <- err
				return
			}
		}
		published <- nil
	}()
	for _, k := range []int64{100, 300} {
		eventually(t, "some handled", func() bool { return handled.Load() >= k })
		stop(s)
		s = run(port)
	}
	defer func() { stop(s) }()
	if err := <-published; err != nil {
		t.Fatal(err)
	}
	eventually(t, "all settled", func() bool { return unsettled(t, c, StreamIn, "sturdy") == 0 })
	causes := map[string]int{}
	for _, s := range read(t, c, StreamLog, ">") {
		causes[events.Extension(s.Event, events.ExtCausation)]++
	}
	if len(causes) != n {
		t.Errorf("%d causes have facts, want %d", len(causes), n)
	}
	for id, k := range causes {
		if k != 1 {
			t.Errorf("%s has %d facts", id, k)
		}
	}
}

func TestTrace(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	otel.SetTracerProvider(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	defer otel.SetTracerProvider(noop.NewTracerProvider())
	c := testBus(t)
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	e, err := events.New(events.Origin{Source: "/test", Tenant: "acme", Time: testTime, Traceparent: parent}, events.ToolCalled{Activity: events.Activity{
		Identity: "agent", Action: "read", Outcome: events.OutcomeSuccess, Destination: "mail"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	var handled atomic.Int64
	start(t, c, Spec{Service: "traced", Handlers: []Handler{emitter(&handled)}})
	eventually(t, "a span", func() bool { return len(spans.Ended()) > 0 })
	s := spans.Ended()[0]
	if s.SpanContext().TraceID().String() != "0af7651916cd43dd8448eb211c80319c" || s.Parent().SpanID().String() != "b7ad6b7169203331" || s.Name() != "traced "+events.TypeToolCalled {
		t.Errorf("span %s of trace %s under %s", s.Name(), s.SpanContext().TraceID(), s.Parent().SpanID())
	}
	eventually(t, "the fact", func() bool { return len(read(t, c, StreamLog, ">")) == 1 })
	if got := events.Extension(read(t, c, StreamLog, ">")[0].Event, events.ExtTraceparent); got != parent {
		t.Errorf("the fact carries %q", got)
	}
}
