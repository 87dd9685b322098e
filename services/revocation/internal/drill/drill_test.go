package drill

import (
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func stored(t *testing.T, seq uint64, tenant string, p events.Payload) bus.Stored {
	t.Helper()
	e, err := events.New(events.Origin{Source: "/test", Tenant: tenant, Time: noon}, p)
	if err != nil {
		t.Fatal(err)
	}
	return bus.Stored{Event: e, Sequence: seq, Stream: bus.StreamLog}
}

func TestStatus(t *testing.T) {
	b := New(nil)
	seq := uint64(0)
	put := func(tenant string, p events.Payload) {
		seq++
		if err := b.apply(stored(t, seq, tenant, p)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range Keep + 10 {
		id := events.DeterministicID("d", noon.Add(time.Duration(i)).String())
		at := noon.Add(time.Duration(i) * time.Minute)
		put("acme", events.DrillStarted{Drill: id, By: "schedule", StartedAt: at})
		f := events.DrillFinished{Drill: id, Outcome: events.DrillProven, StartedAt: at, FinishedAt: at.Add(time.Second), RefusedMS: float64(i), ClosedMS: float64(2 * i),
			Points: []events.DrillPoint{{Point: "gate", Outcome: events.ReceiptEnforced, LatencyMS: float64(i)}}}
		if i == Keep+9 {
			f.Outcome, f.Points[0].Outcome = events.DrillNotClosed, ""
		}
		put("acme", f)
		put("acme", f) // twice is once
	}
	put("acme", events.DrillStarted{Drill: "lost", StartedAt: noon.Add(300 * time.Minute)})
	s := b.Status("acme")
	last := noon.Add((Keep+8)*time.Minute + time.Second)
	if s.Drills != Keep || s.LastProven == nil || !s.LastProven.Equal(last) || s.ProvenMS != 2*(Keep+8) {
		t.Errorf("status %+v", s)
	}
	// 11 to 209 of them are remembered, the last of which the point did not answer.
	if p := s.Points[0]; p.Point != "gate" || p.Count != 198 || p.Missed != 1 || p.P50 != 109 || p.P95 != 199 || p.P99 != 207 {
		t.Errorf("point %+v", p)
	}
	if s.Closed.Count != 198 || s.Refused.Count != 199 {
		t.Errorf("closed %+v, refused %+v", s.Closed, s.Refused)
	}
	if got := b.Unfinished(noon.Add(301 * time.Minute)); len(got) != 1 || got[0].Started.Drill != "lost" {
		t.Errorf("unfinished %+v", got)
	}
	if got := b.Unfinished(noon.Add(299 * time.Minute)); len(got) != 0 {
		t.Errorf("unfinished too early %+v", got)
	}
}

func TestDue(t *testing.T) {
	finished := func(o events.DrillOutcome) *Drill {
		return &Drill{Started: events.DrillStarted{StartedAt: noon}, Finished: &events.DrillFinished{Outcome: o}}
	}
	for name, c := range map[string]struct {
		last  *Drill
		every time.Duration
		after time.Duration
		want  bool
	}{
		"never":             {nil, time.Hour, 0, true},
		"no schedule":       {nil, 0, 0, false},
		"too early":         {finished(events.DrillProven), time.Hour, 59 * time.Minute, false},
		"due":               {finished(events.DrillProven), time.Hour, time.Hour, true},
		"failed, too early": {finished(events.DrillNotClosed), time.Hour, 5 * time.Minute, false},
		"failed, again":     {finished(events.DrillNotRun), time.Hour, 6 * time.Minute, true},
		"runs":              {&Drill{Started: events.DrillStarted{StartedAt: noon}}, time.Hour, 30 * time.Minute, false},
	} {
		if got := (Status{Last: c.last}).Due(c.every, noon.Add(c.after)); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestOverdue(t *testing.T) {
	proven := noon.Add(-24 * time.Hour)
	for name, c := range map[string]struct {
		last  *time.Time
		every time.Duration
		after time.Duration
		want  bool
	}{
		"fresh start":       {nil, 24 * time.Hour, time.Hour, false},
		"never, for long":   {nil, 24 * time.Hour, 27 * time.Hour, true},
		"within a tenth":    {&proven, 24 * time.Hour, 2 * time.Hour, false},
		"beyond":            {&proven, 24 * time.Hour, 3 * time.Hour, true},
		"without a period":  {&proven, 0, 300 * time.Hour, false},
		"proven since then": {&noon, 24 * time.Hour, 26 * time.Hour, false},
	} {
		if got := (Status{LastProven: c.last}).Overdue(c.every, noon, noon.Add(c.after)); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestJudge(t *testing.T) {
	point := func(o events.ReceiptOutcome) []events.DrillPoint {
		return []events.DrillPoint{{Point: "gate", Outcome: o}}
	}
	for name, c := range map[string]struct {
		refused, closed bool
		points          []events.DrillPoint
		want            events.DrillOutcome
	}{
		"proven":         {true, true, point(events.ReceiptEnforced), events.DrillProven},
		"dead already":   {true, true, point(events.ReceiptAlreadyDead), events.DrillProven},
		"silent":         {true, true, point(""), events.DrillNotClosed},
		"lease ran out":  {true, true, point(events.ReceiptLeaseExpired), events.DrillNotClosed},
		"unreachable":    {true, true, point(events.ReceiptUnreachable), events.DrillNotClosed},
		"still accepted": {false, true, point(events.ReceiptEnforced), events.DrillNotClosed},
		"not closed":     {true, false, point(events.ReceiptEnforced), events.DrillNotClosed},
	} {
		got, why := Judge(c.refused, c.closed, c.points)
		if got != c.want || (why == "") != (got == events.DrillProven) {
			t.Errorf("%s: %s, %q", name, got, why)
		}
	}
}

func TestSlowest(t *testing.T) {
	var points []events.DrillPoint
	for i := range 300 {
		points = append(points, events.DrillPoint{Point: "p", Outcome: events.ReceiptEnforced, LatencyMS: float64(i)})
	}
	points[7].Outcome, points[7].LatencyMS = "", 0
	got := Slowest(points)
	if len(got) != events.MaxDrillPoints || got[0].Outcome != "" || got[1].LatencyMS != 299 || got[255].LatencyMS != 45 {
		t.Errorf("%d points, first %+v, then %+v, last %+v", len(got), got[0], got[1], got[255])
	}
}
