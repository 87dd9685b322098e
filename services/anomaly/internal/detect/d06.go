package detect

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// delegationInfo documents D06.
var delegationInfo = Info{
	ID: "D06", Name: "delegation_violation",
	Catches:     "a delegation that is deeper, wider in scope or longer lived than its parent allows, that returns to an identity already in the chain, or that crosses tenants without a trust record",
	Fields:      []string{"delegation", "delegation_depth", "scopes", "parent_scopes", "delegation.created", "trust.declared"},
	Method:      "depth > policy or trust record; scope not a subset of the parent's (and of the trust record's); expiry after the parent's; an identity twice in one chain; tenants differ and no trust record was in force",
	Explanation: "{child} is at depth {d} (limit {D}) under {root}; scope {s} is not held by {parent}",
	Severity:    events.SeverityHigh,
	References:  []string{"NHI5", "NHI9", "T1548.005"},
	Response:    RespondRevoke,
}

// delegatedUse is D06 on the chain that a use shows.
func delegatedUse(in *Input, _ *State) *Finding {
	a := in.Activity
	if len(a.Delegation) == 0 && a.DelegationDepth == 0 {
		return nil
	}
	depth := max(len(a.Delegation), a.DelegationDepth)
	self := events.Party{Tenant: in.IdentityTenant(), Identity: a.Identity}
	limit := in.Facts.Config.MaxDepth
	var wrong []string
	if depth > limit {
		wrong = append(wrong, fmt.Sprintf("it is at depth %d (limit %d)", depth, limit))
	}
	if p, ok := twice(self, a.Delegation); ok {
		wrong = append(wrong, fmt.Sprintf("%s of tenant %s is twice in the chain", clip(p.Identity), clip(p.Tenant)))
	}
	if extra := beyond(a.Scopes, a.ParentScopes); len(a.ParentScopes) > 0 && len(extra) > 0 {
		wrong = append(wrong, fmt.Sprintf("scope %s is not held by its parent", clip(strings.Join(extra, " "))))
	}
	if len(wrong) == 0 {
		return nil
	}
	root := events.Party{Identity: "an unrecorded principal"}
	if n := len(a.Delegation); n > 0 {
		root = a.Delegation[n-1]
	}
	return violation(a.Identity, root.Identity, wrong, limit)
}

// Delegated is D06 on a delegation of the log. tenant is the receiving tenant.
func Delegated(f *Facts, tenant string, t time.Time, p *events.DelegationCreated) *Finding {
	limit := f.Config.MaxDepth
	var wrong []string
	if p.From.Tenant != "" && p.From.Tenant != tenant {
		tr, ok := f.TrustAt(p.From.Tenant, tenant, t)
		switch {
		case !ok:
			wrong = append(wrong, fmt.Sprintf("no trust record from tenant %s to tenant %s was in force", clip(p.From.Tenant), clip(tenant)))
		default:
			if tr.MaxDepth > 0 && tr.MaxDepth < limit {
				limit = tr.MaxDepth
			}
			if extra := beyond(p.Scope, tr.Scopes); len(tr.Scopes) > 0 && len(extra) > 0 {
				wrong = append(wrong, fmt.Sprintf("scope %s is more than the trust record %s allows", clip(strings.Join(extra, " ")), clip(tr.ID)))
			}
		}
	}
	if p.Depth > limit {
		wrong = append(wrong, fmt.Sprintf("it is at depth %d (limit %d)", p.Depth, limit))
	}
	if extra := beyond(p.Scope, p.Parents); len(extra) > 0 {
		wrong = append(wrong, fmt.Sprintf("scope %s is not held by its parent", clip(strings.Join(extra, " "))))
	}
	if !p.ParentExp.IsZero() && p.ExpiresAt.After(p.ParentExp.Add(time.Second)) {
		wrong = append(wrong, fmt.Sprintf("it expires at %s, after its parent (%s)", stamp(p.ExpiresAt), stamp(p.ParentExp)))
	}
	if p.From.Tenant == tenant && p.From.Identity == p.Identity && p.Depth > 0 {
		wrong = append(wrong, "it delegates to itself")
	}
	if len(wrong) == 0 {
		return nil
	}
	v := violation(p.Identity, p.From.Identity, wrong, limit)
	v.Credential = p.Credential
	return v
}

func violation(child, root string, wrong []string, limit int) *Finding {
	return &Finding{
		Severity:    events.SeverityHigh,
		Explanation: fmt.Sprintf("%s acts for %s, but %s", clip(child), clip(root), strings.Join(wrong, "; ")),
		Value:       strings.Join(wrong, "; "),
		Baseline:    fmt.Sprintf("depth at most %d, scope and expiry within the parent's, a trust record where tenants differ", limit),
		Count:       int64(len(wrong)),
		Threshold:   1,
		Response:    RespondRevoke,
	}
}

// twice finds a party that is in the chain more than once. The acting identity
// itself may be named as the nearest actor.
func twice(self events.Party, chain []events.Party) (events.Party, bool) {
	if len(chain) > 0 && chain[0] == self {
		chain = chain[1:]
	}
	for i, p := range chain {
		if p == self || slices.Contains(chain[:i], p) {
			return p, true
		}
	}
	return events.Party{}, false
}

// beyond lists what of child is not in parent.
func beyond(child, parent []string) []string {
	var out []string
	for _, s := range child {
		if !slices.Contains(parent, s) {
			out = append(out, s)
		}
	}
	return out
}
