package rotation

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
)

// living is a rotator whose clock the test sets, on a real server.
type living struct {
	*world
	r  *rotator
	at time.Time
}

func newLiving(t *testing.T, grace time.Duration) *living {
	w := newWorld(t)
	l := &living{world: w, at: time.Now().UTC().Truncate(time.Second).Add(time.Hour)}
	w.env.Config.Issuance.OwnerGrace = config.Duration(grace)
	l.r = &rotator{timers: w.bus, grace: grace, log: w.env.Log, now: func() time.Time { return l.at }}
	return l
}

func (l *living) event(p events.Payload) events.Event {
	l.t.Helper()
	e, err := events.New(events.Origin{Source: "/test", Tenant: "acme", Time: l.at}, p)
	if err != nil {
		l.t.Fatal(err)
	}
	return e
}

func (l *living) issued(span int64, parent string) {
	l.t.Helper()
	p := events.CredentialIssued{Credential: "c1", Identity: "bot", Task: "t-1", Parent: parent, IssuedAt: l.at, ExpiresAt: l.at.Add(time.Hour), HeartbeatSeconds: span}
	if _, err := l.r.issued(l.t.Context(), l.event(p), p); err != nil {
		l.t.Fatal(err)
	}
}

func (l *living) beat() {
	l.t.Helper()
	p := events.TaskHeartbeat{Task: "t-1"}
	if out, err := l.r.heartbeat(l.t.Context(), l.event(p), p); err != nil || len(out) != 0 {
		l.t.Fatal(out, err)
	}
}

// set is the timer that is set, the zero time when none is.
func (l *living) set(name string) events.TimerDue {
	l.t.Helper()
	t, _, err := l.r.timer(context.Background(), "acme", name)
	if err != nil {
		l.t.Fatal(err)
	}
	return t
}

func (l *living) fire(t events.TimerDue) []events.Event {
	l.t.Helper()
	out, err := l.r.due(l.t.Context(), l.event(t), t)
	if err != nil {
		l.t.Fatal(err)
	}
	return out
}

func TestHeartbeats(t *testing.T) {
	l := newLiving(t, 0)
	name, start := taskTimer("t-1"), l.at
	expect := func(what string, after time.Duration) {
		t.Helper()
		if got := l.set(name); !got.DueAt.Equal(start.Add(after)) {
			t.Errorf("%s: due %s after the start, want %s", what, got.DueAt.Sub(start), after)
		}
	}
	l.issued(0, "")
	l.issued(60, "parent")
	l.beat()
	if got := l.set(name); !got.DueAt.IsZero() {
		t.Errorf("a task without a duty has a timer: %+v", got)
	}
	l.issued(60, "")
	expect("issued", 60*time.Second)
	l.at = start.Add(50 * time.Second)
	l.beat()
	expect("heartbeat", 110*time.Second)
	l.at = start
	l.issued(60, "")
	l.beat()
	expect("what is heard again or late moves nothing back", 110*time.Second)
	l.at = start.Add(55 * time.Second)
	l.issued(60, "")
	expect("a credential is a sign of life", 115*time.Second)

	due := l.set(name)
	moved := due
	moved.DueAt = due.DueAt.Add(-5 * time.Second)
	l.at = moved.DueAt.Add(time.Second)
	if out := l.fire(moved); len(out) != 0 {
		t.Error("a timer that was moved while it fired ends the task")
	}
	if err := l.bus.Cancel(t.Context(), "acme", name); err != nil { // it fires: the server removes it
		t.Fatal(err)
	}
	l.at = due.DueAt.Add(-time.Second)
	if out := l.fire(due); len(out) != 0 || l.set(name).DueAt.IsZero() {
		t.Error("fired early: it ended the task or was not set again")
	}
	if err := l.bus.Cancel(t.Context(), "acme", name); err != nil {
		t.Fatal(err)
	}
	l.at = due.DueAt.Add(time.Minute)
	if out := l.fire(due); len(out) != 0 {
		t.Error("rotation was away, and the task ends for it")
	}
	if got := l.set(name).DueAt; !got.Equal(l.at.Add(60 * time.Second)) {
		t.Errorf("after rotation was away it is due %s from now, want 60s", got.Sub(l.at))
	}
	due = l.set(name)
	if err := l.bus.Cancel(t.Context(), "acme", name); err != nil {
		t.Fatal(err)
	}
	l.at = due.DueAt.Add(time.Second)
	out := l.fire(due)
	if len(out) != 1 {
		t.Fatalf("silence ended nothing: %v", out)
	}
	ended, err := events.As[events.TaskEnded](out[0])
	if err != nil || ended.Task != "t-1" || !strings.Contains(ended.Reason, "for 1m0s") || events.Validate(out[0]) != nil {
		t.Errorf("%+v, %v, %v", ended, err, events.Validate(out[0]))
	}
	if again := l.fire(due); len(again) != 1 || again[0].ID() == "" {
		t.Errorf("a repetition says something else: %v", again)
	}

	l.at = l.at.Add(time.Hour)
	l.issued(60, "")
	p := events.TaskClosed{Task: "t-1"}
	if _, err := l.r.closed(t.Context(), l.event(p), p); err != nil {
		t.Fatal(err)
	}
	if got := l.set(name); !got.DueAt.IsZero() {
		t.Errorf("a task that ended has a timer: %+v", got)
	}
}

func TestGrace(t *testing.T) {
	l := newLiving(t, 24*time.Hour)
	depart := func() {
		t.Helper()
		p := events.OwnerDeparted{Owner: "ana"}
		if out, err := l.r.departed(t.Context(), l.event(p), p); err != nil || len(out) != 0 {
			t.Fatal(out, err)
		}
	}
	first := l.at
	depart()
	l.at = first.Add(time.Hour)
	depart()
	due := l.set(ownerTimer("ana"))
	if !due.DueAt.Equal(first.Add(24 * time.Hour)) {
		t.Errorf("due %s after the first departure, want 24h", due.DueAt.Sub(first))
	}
	l.at = due.DueAt.Add(-time.Second)
	if out := l.fire(due); len(out) != 0 {
		t.Error("fired early: it states something")
	}
	l.at = due.DueAt.Add(48 * time.Hour) // rotation was away: the grace is over all the same
	out := l.fire(due)
	if len(out) != 1 || events.Validate(out[0]) != nil {
		t.Fatal(out)
	}
	if p, err := events.As[events.OwnerOverdue](out[0]); err != nil || p.Owner != "ana" {
		t.Errorf("%+v, %v", p, err)
	}

	none := newLiving(t, 0)
	p := events.OwnerDeparted{Owner: "ana"}
	if out, err := none.r.departed(t.Context(), none.event(p), p); err != nil || len(out) != 0 || !none.set(ownerTimer("ana")).DueAt.IsZero() {
		t.Errorf("without a grace a timer is set: %v %v", out, err)
	}
}

// TestSilenceEndsATask is the whole way on a real server: a credential is issued, nothing
// is heard, and the task ends by itself.
func TestSilenceEndsATask(t *testing.T) {
	w := newWorld(t)
	w.run()
	now := time.Now()
	e, err := events.New(events.Origin{Source: "/lanyard/issuance", Tenant: "acme", Time: now},
		events.CredentialIssued{Credential: "c1", Identity: "bot", Task: "t-1", IssuedAt: now, ExpiresAt: now.Add(time.Hour), HeartbeatSeconds: 1,
			Audience: []string{}, Scope: []string{}, Lineage: []string{}, Names: []events.Named{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.bus.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	w.eventually("the task ends", func() bool {
		n, err := w.bus.LastSequence(context.Background(), bus.StreamIn, "nhi.in.acme.task.ended")
		return err == nil && n > 0
	})
}
