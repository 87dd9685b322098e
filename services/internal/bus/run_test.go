package bus

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/lanyard-nhi/lanyard/events"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/ats.init.0.func1"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).startGoRoutine"))
}

func TestHandlerEventsAreDurable(t *testing.T) {
	c := testBus(t)
	var in []events.Event
	for i := range 300 {
		in = append(in, called(t, "acme", fmt.Sprint("agent-", i%7), i))
	}
	if err := c.Publish(t.Context(), in...); err != nil {
		t.Fatal(err)
	}
	start(t, c, Spec{Service: "demo", Handlers: []Handler{On(func(_ context.Context, cause events.Event, p events.ToolCalled) ([]events.Event, error) {
		e, err := caused(cause, p.Identity)
		return []events.Event{e}, err
	}, events.TypeRiskChanged)}})
	eventually(t, "all causes settled", func() bool { return unsettled(t, c, StreamIn, "demo") == 0 })
	out := read(t, c, StreamLog, "nhi.log.>")
	if len(out) != len(in) {
		t.Fatalf("%d events in the log, want %d", len(out), len(in))
	}
	for _, s := range out {
		if events.Extension(s.Event, events.ExtCausation) == "" || s.Stream != StreamLog || s.Sequence == 0 {
			t.Fatalf("stored event is incomplete: %+v", s)
		}
	}
}

func TestOrderPerKey(t *testing.T) {
	c := testBus(t)
	var mu sync.Mutex
	seen := map[string][]int64{}
	const agents, each = 20, 40
	for i := range each {
		var in []events.Event
		for a := range agents {
			in = append(in, called(t, "acme", fmt.Sprint("agent-", a), i*1000+a))
		}
		if err := c.Publish(t.Context(), in...); err != nil {
			t.Fatal(err)
		}
	}
	var running, most atomic.Int64
	start(t, c, Spec{Service: "order", Handlers: []Handler{On(func(_ context.Context, _ events.Event, p events.ToolCalled) ([]events.Event, error) {
		most.Store(max(most.Load(), running.Add(1)))
		defer running.Add(-1)
		mu.Lock()
		defer mu.Unlock()
		seen[p.Identity] = append(seen[p.Identity], p.Count)
		return nil, nil
	})}})
	eventually(t, "all settled", func() bool { return unsettled(t, c, StreamIn, "order") == 0 })
	mu.Lock()
	defer mu.Unlock()
	if len(seen) != agents {
		t.Fatalf("saw %d agents, want %d", len(seen), agents)
	}
	for agent, counts := range seen {
		if len(counts) != each {
			t.Errorf("%s was handled %d times, want %d", agent, len(counts), each)
		}
		for i := 1; i < len(counts); i++ {
			if counts[i] <= counts[i-1] {
				t.Errorf("%s: %d handled after %d", agent, counts[i], counts[i-1])
			}
		}
	}
}

func TestRedeliveryIsIdempotent(t *testing.T) {
	c := testBus(t)
	if err := c.Publish(t.Context(), called(t, "acme", "agent", 1)); err != nil {
		t.Fatal(err)
	}
	var tries atomic.Int64
	start(t, c, Spec{Service: "again", Handlers: []Handler{On(func(ctx context.Context, cause events.Event, p events.ToolCalled) ([]events.Event, error) {
		e, err := caused(cause, p.Identity)
		if err != nil {
			return nil, err
		}
		if tries.Add(1) < 4 { // the event got out, then the process failed
			if err := c.Publish(ctx, e); err != nil {
				return nil, err
			}
			return nil, errors.New("not yet")
		}
		return []events.Event{e}, nil
	}, events.TypeRiskChanged)}})
	eventually(t, "settled", func() bool { return unsettled(t, c, StreamIn, "again") == 0 })
	if n := tries.Load(); n != 4 {
		t.Errorf("%d tries, want 4", n)
	}
	if n := len(read(t, c, StreamLog, ">")); n != 1 {
		t.Errorf("%d events in the log, want 1", n)
	}
}
