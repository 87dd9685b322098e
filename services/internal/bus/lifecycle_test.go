package bus

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
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

// A router that is told to stop before its handlers run stops at once.
func TestStopWhileStarting(t *testing.T) {
	router, err := message.NewRouter(message.RouterConfig{CloseTimeout: 5 * time.Second}, watermill.NopLogger{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	router.AddPlugin(func(*message.Router) error {
		cancel()
		for range 1000 { // whoever would close the router now gets to it
			runtime.Gosched()
		}
		return nil
	})
	router.AddConsumerHandler("brief", "topic", gochannel.NewGoChannel(gochannel.Config{}, watermill.NopLogger{}), func(*message.Message) error { return nil })
	if err := runRouter(ctx, router); err != nil {
		t.Error(err)
	}
}
