package bus

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/nats-io/nats.go/jetstream"
)

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
		if early := time.Until(p.DueAt); early > time.Second {
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

// A timer that has fired goes after a while; one that is set stays.
func TestFiredTimersGo(t *testing.T) {
	c := testBus(t, func(_ *Config, tm *timing) { tm.dueKeep = time.Second })
	timer := func(id string, due time.Time) events.Event {
		return made(t, "acme", "timer-"+id, events.TimerDue{Timer: id, Kind: "credential.expiry", Ref: "jti", Owner: "agent", DueAt: due})
	}
	for _, e := range []events.Event{timer("later", time.Now().Add(time.Hour)), timer("past", time.Now().Add(-time.Hour))} {
		if err := c.Schedule(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	state := func() jetstream.StreamState {
		s, err := c.js.Stream(t.Context(), StreamTimer)
		if err != nil {
			t.Fatal(err)
		}
		return s.CachedInfo().State
	}
	eventually(t, "fired and gone", func() bool { st := state(); return st.LastSeq == 3 && st.Msgs == 1 })
	if n, err := c.LastSequence(t.Context(), StreamTimer, "nhi.timer.set.acme.later"); err != nil || n != 1 {
		t.Errorf("the timer that is set is at %d, %v", n, err)
	}
}

// By default a service may be away for as long as for what products publish.
func TestFiredTimersWait(t *testing.T) {
	c := testBus(t)
	due := time.Now().Add(-time.Hour)
	if err := c.Schedule(t.Context(), made(t, "acme", "timer", events.TimerDue{Timer: "past", Kind: "credential.expiry", Ref: "jti", Owner: "agent", DueAt: due})); err != nil {
		t.Fatal(err)
	}
	eventually(t, "fired", func() bool {
		for m, err := range c.raw(t.Context(), StreamTimer, "nhi.timer.due.*.*", 1) {
			if err != nil {
				t.Fatal(err)
			}
			if got := m.Header.Get(jetstream.MsgTTLHeader); got != (7 * day).String() {
				t.Fatalf("a fired timer is kept for %q", got)
			}
			return true
		}
		return false
	})
}
