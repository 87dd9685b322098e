package grant

import (
	"fmt"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/policy"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/registry"
)

// InvariantsVersion stands, in records, for what no policy can allow: identities that
// are not active or not answered for, bad proofs, dead lineages, widening.
const InvariantsVersion = "invariants/1"

// Policies is what a Minter needs of the policies.
type Policies interface {
	// Active is the set in force now, nil while it is not known.
	Active() *policy.Set
}

// admit is what every identity must meet before policies are asked: it is active,
// answered for, proves itself as declared, and acts in a named task.
func (d decision) admit(s registry.Identity) *Error {
	name := clip(d.ref.Identity)
	switch status := s.Status(d.now); status {
	case registry.StatusActive:
	case registry.StatusUnknown:
		return refuse(UnauthorizedClient, "identity %s is not registered: declare it first", name)
	default:
		return refuse(UnauthorizedClient, "identity %s is %s: %s", name, status, s.Why(d.now))
	}
	reg := s.Registration
	switch {
	case !s.Attests(d.attested.Issuer, d.attested.Subject):
		return refuse(UnauthorizedClient, "identity %s no longer proves itself by this attestation: declare it again", name)
	case reg.Owner == "" || reg.Feature == "" || reg.Purpose == "":
		return refuse(UnauthorizedClient, "identity %s lacks owner, feature or purpose: declare it again", name)
	case d.request.Task == "":
		return refuse(InvalidRequest, "task is missing: name the piece of work the credential is for")
	}
	return d.admitLaunch(s)
}

// ruling is what the policies said of everything that would be granted, over context.
type ruling struct {
	policy.Ruling
	version string
	context *events.DecisionContext
}

// rule asks set for each scope and audience of g.
func (d decision) rule(set *policy.Set, s registry.Identity, g Granted, exceptions []policy.Exception) (ruling, *Error) {
	c := d.context(s, g)
	q := set.Ask(policy.Facts{Tenant: d.ref.Tenant, Identity: d.ref.Identity, Task: d.request.Task, Time: d.now, Context: *c, Exceptions: exceptions})
	r := ruling{q.Rule(g.Scope, g.Audience, c.OpenScope), set.Version(), c}
	if r.Granted() {
		return r, nil
	}
	return r, &Error{Code: InvalidScope, Reason: "denied by policy: " + few(r.Denials) + ". Ask for less, or ask an operator for an exception",
		policy: r.version, reasons: r.Reasons, context: c}
}

// context is what the log keeps of a decision.
func (d decision) context(s registry.Identity, g Granted) *events.DecisionContext {
	reg := s.Registration
	c := &events.DecisionContext{Kind: reg.Kind, Owner: reg.Owner, Feature: reg.Feature, IdentityPurpose: reg.Purpose, Backend: reg.Backend,
		Vendor: reg.Vendor, VendorManaged: reg.VendorManaged, Risk: s.RiskAt(d.now), Grant: shortGrant(d.request.Grant), Purpose: d.request.Purpose,
		Environment: d.request.Environment, Sensitivity: d.request.Sensitivity,
		Attestation: events.Attestation{Issuer: d.attested.Issuer, Subject: d.attested.Subject}, Claims: d.attested.Claims, LaunchedBy: d.launchedBy(), Depth: g.Depth,
		TTLSeconds: int64(d.request.Ask.TTL / time.Second), OpenScope: len(d.request.Ask.Scope) == 0, Scope: g.Scope, Audience: g.Audience}
	if d.parent != nil {
		c.Width = d.width
		c.From = &events.Party{Tenant: d.parent.Claims.Tenant, Identity: d.parent.Claims.Subject}
	}
	return c
}

// shortGrant is the name by which policies and records know a grant type.
func shortGrant(urn string) string { return urn[strings.LastIndexByte(urn, ':')+1:] }

// few is the first of many denials, within what an event may hold.
func few(denials []policy.Denial) string {
	const most, size = 3, 700
	var list []string
	for _, d := range denials[:min(most, len(denials))] {
		list = append(list, fmt.Sprintf("scope %s for %s: %s", clip(d.Scope), clip(d.Audience), d.Why))
	}
	text := strings.Join(list, "; ")
	if len(text) > size {
		text = strings.ToValidUTF8(text[:size], "") + "..."
	}
	if n := len(denials) - most; n > 0 {
		text += fmt.Sprintf("; and %d more", n)
	}
	return text
}
