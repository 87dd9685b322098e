package detect

import (
	"fmt"

	"github.com/lanyard-nhi/lanyard/events"
)

// trustAddedInfo documents D27.
var trustAddedInfo = Info{
	ID: "D27", Name: "credential_or_trust_added",
	Catches:     "a new key, login, federated credential, trust policy, OAuth grant or hook that an identity adds to another one or to a resource",
	Fields:      []string{"action", "resource", "target", "minted_id", "outcome"},
	Method:      "list of action names; silent when the target is the identity itself (it renews its own key), when the registration declares the action, when a controller of the platform does it, or when it is usual (first alerted about more than a day ago)",
	StateBytes:  16,
	Explanation: "{identity} added a credential to {target}; it is not among the {n} actions remembered of it",
	Severity:    events.SeverityMedium,
	References:  []string{"NHI3", "NHI9", "T1098.001", "T1528"},
	Response:    RespondContain,
}

// trustAdded is D27.
func trustAdded(in *Input, s *State) *Finding {
	a := in.Activity
	if in.Tags&(TagCredential|TagTrust) == 0 || !in.Succeeded() || declared(in) || platform(in.Activity) || s.Actions.Usual(Hash(a.Action), in.Time) {
		return nil
	}
	self := ownTarget(a)
	if self && in.Tags&TagTrust == 0 {
		return nil
	}
	sev, what := events.SeverityMedium, "a credential"
	if in.Tags&TagTrust != 0 {
		sev, what = events.SeverityHigh, "a way in for others"
	}
	minted := ""
	if a.MintedID != "" {
		minted = " (" + clip(a.MintedID) + ")"
	}
	return &Finding{
		Severity: sev,
		Explanation: fmt.Sprintf("%s added %s%s to %s with %s at %s; %s, and no registration names it",
			clip(a.Identity), what, minted, clip(object(a)), clip(a.Action), stamp(in.Time), s.past(a.Action)),
		Value:     clip(a.Action) + " on " + clip(object(a)),
		Baseline:  s.past(a.Action),
		Count:     1,
		Threshold: 1,
		Response:  RespondContain,
	}
}

// ownTarget reports whether an IAM action is about the identity that does it.
func ownTarget(a *events.Activity) bool {
	t := a.Target
	if t == "" {
		t = a.Resource
	}
	if t == "" {
		return false
	}
	return t == a.Identity || principal(t) == principal(a.Identity)
}
