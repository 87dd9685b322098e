package detect

import (
	"fmt"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// revokeSkew is how much the clocks of a resource and of revocation may differ.
const revokeSkew = 5 * time.Second

// useAfterRevokeInfo documents D01.
var useAfterRevokeInfo = Info{
	ID: "D01", Name: "use_after_revoke",
	Catches:     "a credential or identity that is used after it was revoked, frozen or retired",
	Fields:      []string{"lineage", "credential", "identity", "outcome", "revocation.accepted", "revocation.lifted", "identity.revoked", "identity.frozen", "identity.retired"},
	Method:      "use.time > revoke time + 5 s, both event times; a use before the revoke that arrives late is silent, and a revoke that arrives after the use is applied to the last 8,192 uses",
	StateBytes:  0,
	Explanation: "{what} of {identity} was {revoked} at {t1} by {who}; {action} on {destination} {succeeded|was denied} {dt} later from {network}",
	Severity:    events.SeverityCritical,
	References:  []string{"NHI1", "T1078.004", "T1550.001"},
	Response:    RespondRevoke,
}

// useAfterRevoke is D01. The facts know every revocation with its time, so the
// decision does not depend on what arrived first.
func useAfterRevoke(in *Input, _ *State) *Finding {
	i, ok := endedUse(in)
	if !ok {
		return nil
	}
	a := in.Activity
	sev, how := events.SeverityMedium, "was denied"
	switch a.Outcome {
	case events.OutcomeSuccess:
		sev, how = events.SeverityCritical, "succeeded"
	case events.OutcomeError, events.OutcomeThrottled:
		how = "was tried"
	}
	verb := "revoked"
	if i.Freeze {
		verb = "frozen"
	}
	by := i.By
	if by == "" {
		by = "an unrecorded requester"
	}
	dt := in.Time.Sub(i.From)
	return &Finding{
		Severity: sev,
		Explanation: fmt.Sprintf("%s of %s was %s at %s by %s; %s on %s %s %s later from %s",
			clip(i.What), clip(a.Identity), verb, stamp(i.From), clip(by), clip(a.Action), clip(a.Destination), how,
			dt.Round(time.Millisecond), network(a)),
		Value:     fmt.Sprintf("used at %s, %.3f s after the end", stamp(in.Time), dt.Seconds()),
		Baseline:  fmt.Sprintf("no use later than %s plus 5 s", stamp(i.From)),
		Count:     int64(dt/time.Second) + 1,
		Threshold: revokeSkew.Seconds(),
		Response:  RespondRevoke,
	}
}

// endedUse finds what of the input's credential, lineage or identity had ended.
func endedUse(in *Input) (Interval, bool) {
	a, f := in.Activity, in.Facts
	if len(f.ended) == 0 {
		return Interval{}, false
	}
	for _, h := range a.Lineage {
		if i, ok := f.Ended(HandleName(h), in.Time, revokeSkew); ok {
			return i, true
		}
	}
	tenant := in.IdentityTenant()
	names := [...]Name{{"credential", tenant, a.Credential}, {"identity", tenant, a.Identity}, {"tenant", tenant, tenant},
		{}, {}, {}, {}, {}}
	if !in.Foreign() {
		names[3], names[4] = Name{"credential", in.Tenant, a.Credential}, Name{"identity", in.Tenant, a.Identity}
	}
	if r := in.Reg; r != nil {
		names[5], names[6], names[7] = Name{"identity", in.Tenant, r.Identity}, Name{"owner", in.Tenant, r.Owner}, Name{"feature", in.Tenant, r.Feature}
	}
	for _, n := range names {
		if n.ID == "" {
			continue
		}
		if i, ok := f.Ended(n, in.Time, revokeSkew); ok {
			return i, true
		}
	}
	return Interval{}, false
}
