package detect

import (
	"fmt"

	"github.com/lanyard-nhi/lanyard/events"
)

// evasionInfo documents D26.
var evasionInfo = Info{
	ID: "D26", Name: "defence_evasion",
	Catches:     "logging, a guardrail or a detector that a non-human identity turns off",
	Fields:      []string{"action", "outcome", "resource"},
	Method:      "list of action names of AWS, Azure, GCP, Okta, GitHub and model guardrails; silent when the registration declares the action or it is usual (first alerted about more than a day ago); a denied try is one step lower",
	StateBytes:  16,
	Explanation: "{identity} stopped {trail}",
	Severity:    events.SeverityHigh,
	References:  []string{"NHI6", "T1562.008"},
	Response:    RespondContain,
}

// defenceEvasion is D26.
func defenceEvasion(in *Input, s *State) *Finding {
	a := in.Activity
	if in.Tags&TagEvasion == 0 || a.Outcome == events.OutcomeError || a.Outcome == events.OutcomeThrottled ||
		declared(in) || s.Actions.Usual(Hash(a.Action), in.Time) {
		return nil
	}
	sev, how := events.SeverityHigh, "weakened logging or protection"
	if !in.Succeeded() {
		sev, how = events.SeverityMedium, "tried to weaken logging or protection"
	}
	return &Finding{
		Severity: sev,
		Explanation: fmt.Sprintf("%s %s with %s on %s at %s; %s, and no registration names it",
			clip(a.Identity), how, clip(a.Action), clip(object(a)), stamp(in.Time), s.past(a.Action)),
		Value:     clip(a.Action),
		Baseline:  s.past(a.Action),
		Count:     1,
		Threshold: 1,
		Response:  RespondContain,
	}
}
