package detect

import (
	"fmt"

	"github.com/lanyard-nhi/lanyard/events"
)

// crossTenantInfo documents D05.
var crossTenantInfo = Info{
	ID: "D05", Name: "cross_tenant",
	Catches:     "an identity that reaches a resource of another tenant without a trust record between the two",
	Fields:      []string{"identity_tenant", "resource_tenant", "outcome", "trust.declared", "revocation.accepted of a trust"},
	Method:      "identity tenant differs from resource tenant, and no trust record in either direction was in force at the time of the use",
	Explanation: "{identity} of tenant {a} reached {resource} of tenant {b}; there is no trust record between them",
	Severity:    events.SeverityHigh,
	References:  []string{"NHI8", "T1199"},
	Response:    RespondRevoke,
}

// crossTenant is D05. A resource without a tenant is not foreign.
func crossTenant(in *Input, _ *State) *Finding {
	a := in.Activity
	own, other := in.IdentityTenant(), a.ResourceTenant
	if other == "" || other == own || a.IdentityTenant == "" && !in.Facts.Known(other) {
		return nil // names of two different kinds cannot be compared
	}
	if _, ok := in.Facts.TrustAt(own, other, in.Time); ok {
		return nil
	}
	if _, ok := in.Facts.TrustAt(other, own, in.Time); ok {
		return nil
	}
	sev, how, resp := events.SeverityHigh, "reached", RespondAlert
	if !in.Succeeded() {
		sev, how = events.SeverityMedium, "tried to reach"
	} else if in.Facts.Known(own) && in.Facts.Known(other) {
		resp = RespondRevoke
	}
	return &Finding{
		Severity: sev,
		Explanation: fmt.Sprintf("%s of tenant %s %s %s of tenant %s with %s at %s; there was no trust record between the two tenants",
			clip(a.Identity), clip(own), how, clip(object(a)), clip(other), clip(a.Action), stamp(in.Time)),
		Value:     "resource tenant " + clip(other),
		Baseline:  "identity tenant " + clip(own) + " and the tenants it has a trust record with",
		Count:     1,
		Threshold: 1,
		Response:  resp,
	}
}
