package detect

import (
	"fmt"

	"github.com/lanyard-nhi/lanyard/events"
)

// humanUseInfo documents D16.
var humanUseInfo = Info{
	ID: "D16", Name: "human_use",
	Catches:     "a person at the keyboard of a non-human identity: a console login or another interactive session",
	Fields:      []string{"interactive", "action", "outcome", "identity_kind"},
	Method:      "a successful action that the record calls interactive, or a console sign-in",
	Explanation: "console login by {identity}, registered or recorded as {kind}",
	Severity:    events.SeverityMedium,
	References:  []string{"NHI10", "T1078.004"},
	Response:    RespondAlert,
}

// humanUse is D16.
func humanUse(in *Input, _ *State) *Finding {
	a := in.Activity
	console := in.Tags&TagConsole != 0
	if !in.Succeeded() || !a.Interactive && !console {
		return nil
	}
	what := "interactive use"
	if console {
		what = "console login"
	}
	kind := string(a.IdentityKind)
	if in.Reg != nil {
		kind = string(in.Reg.Kind)
	}
	if kind == "" {
		kind = "non-human identity"
	}
	return &Finding{
		Severity: events.SeverityMedium,
		Explanation: fmt.Sprintf("%s by %s, registered or recorded as %s, with %s at %s from %s; no person should act as it",
			what, clip(a.Identity), clip(kind), clip(a.Action), stamp(in.Time), network(a)),
		Value:     what,
		Baseline:  "no interactive use of a non-human identity",
		Count:     1,
		Threshold: 1,
		Response:  RespondAlert,
	}
}
