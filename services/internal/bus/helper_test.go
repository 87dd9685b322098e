package bus

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/zap"
)

// testServer is bustest.Server, which this package's inner tests cannot import.
func testServer(t testing.TB, change ...func(*server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{ServerName: "test", JetStream: true, StoreDir: t.TempDir(), SyncAlways: true, DontListen: true, NoSigs: true, NoLog: true}
	for _, f := range change {
		f(o)
	}
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatalf("make server: %v", err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not get ready")
	}
	return s
}

func testConn(t testing.TB, s *server.Server, change ...func(*Config, *timing)) *Conn {
	t.Helper()
	cfg := Config{InProcess: s, Name: "test", ServerSyncAlways: func() bool { return true }}
	if testing.Verbose() {
		zc := zap.NewDevelopmentConfig()
		zc.DisableStacktrace = true
		zc.Level.SetLevel(zap.WarnLevel)
		cfg.Log, _ = zc.Build()
	}
	tm := defaultTiming()
	tm.nakFirst, tm.nakMax, tm.grace = 5*time.Millisecond, 50*time.Millisecond, 5*time.Second
	for _, f := range change {
		f(&cfg, &tm)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := connect(ctx, cfg, tm)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// testBus is a connection to a fresh server with every stream.
func testBus(t testing.TB, change ...func(*Config, *timing)) *Conn {
	t.Helper()
	c := testConn(t, testServer(t), change...)
	if err := Provision(t.Context(), c, Options{Replicas: 1}); err != nil {
		t.Fatalf("provision: %v", err)
	}
	return c
}

var testTime = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// called is an activity.tool_called event of an agent.
func called(t testing.TB, tenant, agent string, n int) events.Event {
	t.Helper()
	return made(t, tenant, fmt.Sprint("call-", n), events.ToolCalled{Activity: events.Activity{
		Identity: agent, Action: "read", Outcome: events.OutcomeSuccess, Destination: "mail", Tool: "search", Count: int64(n)}})
}

// risk is a risk.changed event: a fact in the log about an identity.
func risk(t testing.TB, tenant, identity string, n int) events.Event {
	t.Helper()
	return made(t, tenant, fmt.Sprint("risk-", identity, "-", n), events.RiskChanged{Identity: identity, Level: "high", Previous: "low", Reason: fmt.Sprint("reason ", n)})
}

func made(t testing.TB, tenant, id string, p events.Payload) events.Event {
	t.Helper()
	e, err := events.New(events.Origin{Source: "/test", Tenant: tenant, Time: testTime, ID: id}, p)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// caused is the risk.changed event that a tool call leads to.
func caused(cause events.Event, identity string) (events.Event, error) {
	return events.New(events.Origin{Source: "/test/handler", Tenant: events.Tenant(cause), Time: cause.Time(), Cause: &cause},
		events.RiskChanged{Identity: identity, Level: "high", Previous: "low", Reason: "called a tool"})
}

// start runs a spec until the returned function is called, which waits for it.
func start(t testing.TB, c *Conn, s Spec) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx, s) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			if err != nil && !c.nc.IsClosed() {
				t.Errorf("run: %v", err)
			}
		case <-time.After(30 * time.Second):
			t.Error("run does not end")
		}
	}
	t.Cleanup(stop)
	return stop
}

// eventually polls until ok or 20 seconds have passed.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("it never happened: %s", what)
		case <-tick.C:
		}
	}
}

func read(t testing.TB, c *Conn, stream, filter string) []Stored {
	t.Helper()
	var out []Stored
	for s, err := range c.Read(t.Context(), stream, filter, 1) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

func deadLetters(t testing.TB, c *Conn) []Dead {
	t.Helper()
	var out []Dead
	for d, err := range c.DeadLetters(t.Context(), 1) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, d)
	}
	return out
}

// unsettled is how many messages a service's consumer holds unacknowledged or has
// still to deliver. The server lists a consumer a moment before it has counted what
// that is to deliver, with zeros; so a consumer that has not come to the last of its
// messages has something unsettled whatever the counts say.
func unsettled(t testing.TB, c *Conn, stream, service string) uint64 {
	t.Helper()
	cons, err := c.js.Consumer(t.Context(), stream, service)
	if err != nil {
		return 1
	}
	info := cons.CachedInfo()
	n := uint64(info.NumAckPending) + info.NumPending
	for _, filter := range info.Config.FilterSubjects {
		last, err := c.LastSequence(t.Context(), stream, filter)
		if err != nil {
			t.Fatal(err)
		}
		if info.Delivered.Stream < last {
			return max(n, 1)
		}
	}
	return n
}

// raw publishes bytes past every check.
func rawPublish(t testing.TB, c *Conn, subject string, data []byte, opts ...jetstream.PublishOpt) uint64 {
	t.Helper()
	ack, err := c.js.Publish(t.Context(), subject, data, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return ack.Sequence
}
