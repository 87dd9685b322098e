package engine

import (
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/detect"
)

// Suspect is what an alert would be about.
type Suspect struct {
	Tenant   string
	Detector string
	Identity string
	Value    string
	Severity events.Severity
	Time     time.Time // event time
}

// suppress answers for a finding that analysts said to expect: the fact that no alert was
// raised, once per hour of event time. It is kept apart from the incidents, and so raises
// no risk, asks for nothing, and hides no other finding of the same detector.
func (e *Engine) suppress(p *identity, info *detect.Info, f *detect.Finding, s subject, sev events.Severity) ([]Output, bool) {
	if e.opts.Expected == nil {
		return nil, false
	}
	mark, ok := e.opts.Expected(Suspect{Tenant: s.tenant, Detector: info.ID, Identity: s.name(), Value: detect.Clip(f.Value, 1000), Severity: sev, Time: s.time})
	if !ok {
		return nil, false
	}
	c, first := p.collect("expected "+info.ID, sev, s.time, []string{s.id})
	if !first {
		return nil, true
	}
	a := e.alert(info, f, s, c, sev)
	return []Output{{ID: events.DeterministicID("suppressed", a.Alert, mark, string(sev)), Tenant: s.tenant, Time: s.time,
		Payload: events.AlertSuppressed{Alert: a.Alert, Expected: mark, Detector: a.Detector, Identity: a.Identity, Value: a.Value,
			Severity: sev, Explanation: a.Explanation, Evidence: a.Evidence}}}, true
}
