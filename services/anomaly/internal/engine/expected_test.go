package engine

import (
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// TestExpectedIsSuppressedAndRecorded: what is expected raises no alert, no risk and no
// request, is recorded once an hour, and hides nothing else of the same detector.
func TestExpectedIsSuppressedAndRecorded(t *testing.T) {
	e := New(Options{AutoRevoke: true, Expected: func(s Suspect) (string, bool) {
		return "mark", s.Identity == "bot" && s.Detector == "D26" && s.Severity != events.SeverityCritical
	}})
	use := func(id, who string, after time.Duration) []Output {
		return e.Activity(Meta{ID: id, Source: "t", Tenant: "acme", Time: t0.Add(after)}, &events.Activity{Identity: who, Action: "cloudtrail:StopLogging",
			Destination: "cloudtrail", Outcome: events.OutcomeSuccess})
	}
	out := use("e1", "bot", 0)
	if len(out) != 1 {
		t.Fatalf("%d outputs, want the record: %+v", len(out), out)
	}
	p, ok := out[0].Payload.(events.AlertSuppressed)
	if !ok || p.Expected != "mark" || p.Detector != "D26" || p.Identity != "bot" || len(p.Evidence) != 1 || p.Evidence[0] != "e1" {
		t.Errorf("%+v", out[0])
	}
	if out := use("e2", "bot", time.Minute); len(out) != 0 {
		t.Errorf("a second record within the hour: %+v", out)
	}
	if out := use("e3", "bot", time.Hour); len(out) != 1 {
		t.Errorf("no record in the next hour: %+v", out)
	}
	for _, o := range use("e4", "other", 0) {
		if _, ok := o.Payload.(events.AlertSuppressed); ok {
			t.Errorf("nobody expects this: %+v", o)
		}
	}
}
