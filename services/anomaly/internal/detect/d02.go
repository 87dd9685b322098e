package detect

import (
	"fmt"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// expirySkew is how far the clocks of issuer and resource may differ.
const expirySkew = 60 * time.Second

// useAfterExpiryInfo documents D02.
var useAfterExpiryInfo = Info{
	ID: "D02", Name: "use_after_expiry",
	Catches:     "a resource that accepts a credential after its expiry",
	Fields:      []string{"credential_exp", "outcome", "destination"},
	Method:      "successful use.time > credential_exp + 60 s",
	Explanation: "the credential of {identity} expired {dt} before this use; {destination} accepted it",
	Severity:    events.SeverityHigh,
	References:  []string{"NHI7", "T1550.001"},
	Response:    RespondRevoke,
}

// useAfterExpiry is D02.
func useAfterExpiry(in *Input, _ *State) *Finding {
	a := in.Activity
	if a.CredentialExp == nil || !in.Succeeded() || !in.Time.After(a.CredentialExp.Add(expirySkew)) {
		return nil
	}
	dt := in.Time.Sub(*a.CredentialExp)
	return &Finding{
		Severity: events.SeverityHigh,
		Explanation: fmt.Sprintf("the credential of %s expired %s before this use (at %s); %s accepted %s with it",
			clip(a.Identity), dt.Round(time.Millisecond), stamp(*a.CredentialExp), clip(a.Destination), clip(a.Action)),
		Value:     fmt.Sprintf("used %.0f s after its expiry", dt.Seconds()),
		Baseline:  "no use later than the expiry plus 60 s",
		Count:     int64(dt/time.Second) + 1,
		Threshold: expirySkew.Seconds(),
		Response:  RespondRevoke,
	}
}
