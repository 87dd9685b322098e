package grant

import (
	"fmt"
	"slices"
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
	return nil
}

// ruling is what the policies said of everything that would be granted.
type ruling struct {
	version    string
	scope      []string // what is left of the scope
	reasons    []string // ids of the policies that decided
	exceptions []string // ids of the exceptions it leans on
	maxTTL     time.Duration
	context    *events.DecisionContext
}

// rule asks set for each scope and audience of g. What was asked for is granted whole
// or not at all; when no scope was asked for, those are left that every audience allows.
func (d decision) rule(set *policy.Set, s registry.Identity, g Granted, exceptions []policy.Exception) (ruling, *Error) {
	r := ruling{version: set.Version(), context: d.context(s, g)}
	q := set.Ask(policy.Facts{Tenant: d.ref.Tenant, Identity: d.ref.Identity, Task: d.request.Task, Time: d.now,
		Context: *r.context, Exceptions: exceptions})
	var denied, denials []string
	for _, scope := range g.Scope {
		var of ruling
		allowed := true
		for _, audience := range g.Audience {
			v := q.Decide(scope, audience)
			if !v.Allowed {
				allowed = false
				denied = append(denied, v.Reasons...)
				denials = append(denials, fmt.Sprintf("scope %s for %s: %s", clip(scope), clip(audience), v.Why))
				continue
			}
			of.reasons, of.exceptions = append(of.reasons, v.Reasons...), append(of.exceptions, v.Exceptions...)
			of.maxTTL = shorter(of.maxTTL, v.MaxTTL)
		}
		if allowed {
			r.scope = append(r.scope, scope)
			r.reasons, r.exceptions = append(r.reasons, of.reasons...), append(r.exceptions, of.exceptions...)
			r.maxTTL = shorter(r.maxTTL, of.maxTTL)
		}
	}
	if len(r.scope) == 0 || !r.context.OpenScope && len(denials) > 0 {
		return r, &Error{Code: InvalidScope, Reason: "denied by policy: " + few(denials) + ". Ask for less, or ask an operator for an exception",
			policy: r.version, reasons: unique(denied), context: r.context}
	}
	r.reasons, r.exceptions = unique(r.reasons), unique(r.exceptions)
	return r, nil
}

// context is what the log keeps of a decision.
func (d decision) context(s registry.Identity, g Granted) *events.DecisionContext {
	reg := s.Registration
	c := &events.DecisionContext{Kind: reg.Kind, Owner: reg.Owner, Feature: reg.Feature, IdentityPurpose: reg.Purpose, Backend: reg.Backend,
		Vendor: reg.Vendor, VendorManaged: reg.VendorManaged, Risk: s.Risk, Grant: shortGrant(d.request.Grant), Purpose: d.request.Purpose,
		Environment: d.request.Environment, Sensitivity: d.request.Sensitivity,
		Attestation: events.Attestation{Issuer: d.attested.Issuer, Subject: d.attested.Subject}, Claims: d.attested.Claims, Depth: g.Depth,
		TTLSeconds: int64(d.request.Ask.TTL / time.Second), OpenScope: len(d.request.Ask.Scope) == 0, Scope: g.Scope, Audience: g.Audience}
	if d.parent != nil {
		c.From = &events.Party{Tenant: d.parent.Claims.Tenant, Identity: d.parent.Claims.Subject}
	}
	return c
}

// shortGrant is the name by which policies and records know a grant type.
func shortGrant(urn string) string { return urn[strings.LastIndexByte(urn, ':')+1:] }

func shorter(a, b time.Duration) time.Duration {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

func unique(list []string) []string {
	slices.Sort(list)
	return slices.Compact(list)
}

// few is the first of many denials, within what an event may hold.
func few(denials []string) string {
	const most, size = 3, 700
	text := strings.Join(denials[:min(most, len(denials))], "; ")
	if len(text) > size {
		text = strings.ToValidUTF8(text[:size], "") + "..."
	}
	if n := len(denials) - most; n > 0 {
		text += fmt.Sprintf("; and %d more", n)
	}
	return text
}
