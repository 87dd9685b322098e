package stages

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

var (
	t0  = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	cfg = Config{Period: 720 * time.Hour, Prepare: 10 * time.Minute, Overlap: 16 * time.Minute, Deadline: 10 * time.Minute}
)

func in(d time.Duration) time.Time { return t0.Add(d) }

func stored(t testing.TB, at time.Time, p events.Payload) bus.Stored {
	t.Helper()
	e, err := events.New(events.Origin{Source: "/test", Tenant: "lanyard", Time: at}, p)
	if err != nil {
		t.Fatal(err)
	}
	return bus.Stored{Event: e, Stream: bus.StreamLog}
}

func named(id string) events.Rotation {
	return events.Rotation{Rotation: id, Object: SigningKey, KeyID: "new", Previous: "old", PublicJWK: "{}", Reason: "why"}
}

// rotation is a state with one rotation in it, which has come to stage.
func rotation(stage Stage) State {
	s := State{Count: 1, Current: Rotation{ID: "r1", Stage: stage, Reason: "why", ScheduledAt: t0}}
	if stage != Scheduled {
		s.Current.KeyID, s.Current.Previous, s.Current.PublicJWK = "new", "old", "{}"
	}
	if stage == Activated || stage == Retired {
		s.Current.ActivatedAt, s.Anchor, s.InUse = t0, t0, "new"
	}
	if stage == Retired || stage == Failed {
		s.Current.EndedAt, s.Anchor = t0, t0
	}
	return s
}

func TestNext(t *testing.T) {
	timer := func(kind, ref string, at time.Time) Timer { return Timer{kind, ref, at} }
	for _, c := range []struct {
		name  string
		state State
		now   time.Time
		fired Timer
		want  string // event type, "" for nothing
	}{
		{"never rotated, no timer", State{}, in(10000 * time.Hour), Timer{}, ""},
		{"never rotated, timer", State{}, in(time.Hour), timer(KindStart, "", in(time.Hour)), events.TypeRotationScheduled},
		{"never rotated, timer fired early", State{}, in(time.Hour), timer(KindStart, "", in(time.Hour+time.Millisecond)), ""},
		{"never rotated, timer of a rotation", State{}, in(time.Hour), timer(KindStart, "r0", in(0)), ""},
		{"retired, period not over", rotation(Retired), in(cfg.Period - 1), Timer{}, ""},
		{"retired, period over", rotation(Retired), in(cfg.Period), Timer{}, events.TypeRotationScheduled},
		{"failed, period not over", rotation(Failed), in(cfg.Period - 1), Timer{}, ""},
		{"failed, period over", rotation(Failed), in(cfg.Period), Timer{}, events.TypeRotationScheduled},
		{"retired, old retire timer", rotation(Retired), in(time.Hour), timer(KindRetire, "r1", in(0)), ""},
		{"scheduled, in time", rotation(Scheduled), in(cfg.Deadline - 1), Timer{}, ""},
		{"scheduled, deadline over", rotation(Scheduled), in(cfg.Deadline), Timer{}, events.TypeRotationFailed},
		{"scheduled, stale start timer", rotation(Scheduled), in(time.Second), timer(KindStart, "", in(0)), ""},
		{"prepared, no timer", rotation(Prepared), in(10000 * time.Hour), Timer{}, ""},
		{"prepared, timer", rotation(Prepared), in(time.Hour), timer(KindActivate, "r1", in(time.Hour)), events.TypeRotationActivated},
		{"prepared, timer fired early", rotation(Prepared), in(time.Hour - time.Millisecond), timer(KindActivate, "r1", in(time.Hour)), ""},
		{"prepared, timer of another rotation", rotation(Prepared), in(time.Hour), timer(KindActivate, "r0", in(0)), ""},
		{"prepared, deadline timer comes late", rotation(Prepared), in(time.Hour), timer(KindDeadline, "r1", in(0)), ""},
		{"activated, overlap not over", rotation(Activated), in(cfg.Overlap - 1), Timer{}, ""},
		{"activated, overlap not over, timer says so", rotation(Activated), in(cfg.Overlap - 1), timer(KindRetire, "r1", in(0)), ""},
		{"activated, overlap over", rotation(Activated), in(cfg.Overlap), Timer{}, events.TypeRotationRetired},
		{"activated, activation timer repeated", rotation(Activated), in(time.Second), timer(KindActivate, "r1", in(0)), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			if p := Next(c.state, cfg, c.now, c.fired); p != nil {
				got = p.EventType()
				if p.Entity() != SigningKey {
					t.Errorf("entity %q", p.Entity())
				}
			}
			if got != c.want {
				t.Errorf("Next = %q, want %q", got, c.want)
			}
		})
	}
}

func TestStagesCarryTheKeys(t *testing.T) {
	p, ok := Next(rotation(Prepared), cfg, in(time.Hour), Timer{KindActivate, "r1", in(time.Hour)}).(events.RotationActivated)
	want := named("r1")
	want.At = in(time.Hour)
	if !ok || p.Rotation != want {
		t.Errorf("activated = %+v, want %+v", p.Rotation, want)
	}
	q, ok := Next(rotation(Activated), cfg, in(20*time.Minute), Timer{}).(events.RotationRetired)
	want.At = in(cfg.Overlap)
	if !ok || q.Rotation != want {
		t.Errorf("retired = %+v, want %+v", q.Rotation, want)
	}
}

func TestWake(t *testing.T) {
	set := Timer{KindActivate, "r1", in(time.Minute)}
	for _, c := range []struct {
		name  string
		state State
		set   Timer
		want  Timer
	}{
		{"never rotated", State{}, Timer{}, Timer{KindStart, "", in(cfg.Period)}},
		{"never rotated, timer set", State{}, Timer{KindStart, "", in(time.Hour)}, Timer{KindStart, "", in(time.Hour)}},
		{"scheduled", rotation(Scheduled), Timer{KindStart, "", in(0)}, Timer{KindDeadline, "r1", in(cfg.Deadline)}},
		{"prepared", rotation(Prepared), Timer{KindDeadline, "r1", in(cfg.Deadline)}, Timer{KindActivate, "r1", in(cfg.Prepare)}},
		{"prepared, timer set", rotation(Prepared), set, set},
		{"activated", rotation(Activated), set, Timer{KindRetire, "r1", in(cfg.Overlap)}},
		{"retired", rotation(Retired), Timer{}, Timer{KindStart, "r1", in(cfg.Period)}},
		{"failed", rotation(Failed), set, Timer{KindStart, "r1", in(cfg.Period)}},
	} {
		if got := Wake(c.state, cfg, t0, c.set); got != c.want {
			t.Errorf("%s: Wake = %+v, want %+v", c.name, got, c.want)
		}
	}
}

func TestFold(t *testing.T) {
	var s State
	step := func(at time.Duration, p events.Payload, want Stage, inUse string) {
		t.Helper()
		if s = Fold(s, stored(t, in(at), p)); s.Current.Stage != want || s.InUse != inUse {
			t.Fatalf("after %s: %s, %q in use; want %s, %q", p.EventType(), s.Current.Stage, s.InUse, want, inUse)
		}
	}
	r1, r2, r3 := named("r1"), named("r2"), named("r3")
	step(0, events.RotationActivated{Rotation: r1}, "", "")
	step(0, events.RotationScheduled{Rotation: r1}, Scheduled, "")
	step(1, events.RotationScheduled{Rotation: r2}, Scheduled, "") // one at a time
	step(1, events.RotationRetired{Rotation: r1}, Scheduled, "")   // no stage is left out
	step(2, events.RotationPrepared{Rotation: r2}, Scheduled, "")  // of another rotation
	step(2, events.RotationPrepared{Rotation: r1}, Prepared, "")
	step(3, events.RotationActivated{Rotation: r1}, Activated, "new")
	step(4, events.RotationPrepared{Rotation: r1}, Activated, "new") // repeated
	step(5, events.RotationRetired{Rotation: r1}, Retired, "new")
	step(6, events.RotationFailed{Rotation: r1}, Retired, "new")    // too late to fail
	step(6, events.RotationScheduled{Rotation: r1}, Retired, "new") // no id twice
	step(7, events.RotationScheduled{Rotation: r2}, Scheduled, "new")
	step(8, events.RotationFailed{Rotation: r2}, Failed, "new")
	step(9, events.RotationPrepared{Rotation: r2}, Failed, "new") // too late
	r3.KeyID, r3.Previous = "newer", "new"
	step(10, events.RotationScheduled{Rotation: r3}, Scheduled, "new")
	step(11, events.RotationPrepared{Rotation: r3}, Prepared, "new")
	step(12, events.RotationActivated{Rotation: r3}, Activated, "newer")
	step(13, events.RotationFailed{Rotation: r3}, Failed, "new") // issuance could not activate it
	if s.Count != 3 || len(s.Past) != 2 || s.Past[0].ID != "r2" || s.Past[0].Error != "why" || !s.Anchor.Equal(in(13)) {
		t.Errorf("at the end: %+v", s)
	}
	other := named("x")
	other.Object = "database-role"
	before := s
	for _, p := range []events.Payload{events.RotationScheduled{Rotation: other}, events.IdentityRevoked{}} {
		if s = Fold(s, stored(t, t0, p)); !cmp.Equal(before, s) {
			t.Errorf("%s of something else changed the state", p.EventType())
		}
	}
	for i := range 50 {
		r := named(strings.Repeat("i", i+1))
		s = Fold(Fold(s, stored(t, t0, events.RotationScheduled{Rotation: r})), stored(t, t0, events.RotationFailed{Rotation: r}))
	}
	if len(s.Past) != kept-1 {
		t.Errorf("%d past rotations are kept, want %d", len(s.Past), kept-1)
	}
}

func TestStart(t *testing.T) {
	for _, stage := range []Stage{Scheduled, Prepared, Activated} {
		if p := Start(rotation(stage), t0, "x"); p != nil {
			t.Errorf("a second rotation was started while one is %s", stage)
		}
	}
	seen := map[string]bool{}
	for _, s := range []State{{}, rotation(Retired), {Count: 2}} {
		p, ok := Start(s, t0, "x").(events.RotationScheduled)
		if !ok || seen[p.Rotation.Rotation] {
			t.Errorf("Start(%+v) = %+v", s, p)
		}
		seen[p.Rotation.Rotation] = true
	}
}

func TestEarly(t *testing.T) {
	for _, c := range []struct {
		name  string
		state State
		fired Timer
		want  bool
	}{
		{"no timer", rotation(Prepared), Timer{}, false},
		{"in time", rotation(Prepared), Timer{KindActivate, "r1", t0}, false},
		{"early", rotation(Prepared), Timer{KindActivate, "r1", in(time.Millisecond)}, true},
		{"early, but of another rotation", rotation(Prepared), Timer{KindActivate, "r0", in(time.Hour)}, false},
		{"early, but of a past stage", rotation(Activated), Timer{KindActivate, "r1", in(time.Hour)}, false},
	} {
		if got := Early(c.state, c.fired, t0); got != c.want {
			t.Errorf("%s: Early = %v", c.name, got)
		}
	}
}
