package grant

import (
	"time"

	"github.com/lanyard-nhi/lanyard/services/issuance/internal/attest"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/registry"
)

// Policy decides whether a request may be granted at all. It can only forbid: what
// is granted is bounded by Narrow in any case, and nothing is granted under a dead
// handle whatever the policy says. Decide must be pure.
type Policy interface {
	Decide(q Query) Verdict
}

// Query is what a policy decides over.
type Query struct {
	Tenant   string
	Identity registry.Identity // who will hold the credential, folded from the log
	Name     string            // its id
	Attested attest.Attested
	Request  Request // Proof and Parent are blank
	Parent   *Parent // nil for the first grant
	Now      time.Time
}

// Verdict is a policy's decision. The zero value denies.
type Verdict struct {
	Allowed bool
	Code    string // OAuth error code of a denial
	Reason  string // for people: what is wrong and what to do
	Version string // of the policy that decided
}

// Builtin is the policy of an installation that has no other: an identity that is
// active, answered for, and proves itself as declared may act in a named task.
type Builtin struct{}

// BuiltinVersion is the version that Builtin states. InvariantsVersion stands for
// what no policy can allow: bad proofs, dead lineages, widening.
const (
	BuiltinVersion    = "builtin/1"
	InvariantsVersion = "invariants/1"
)

// Decide implements Policy.
func (Builtin) Decide(q Query) Verdict {
	deny := func(code, format string, args ...any) Verdict {
		e := refuse(code, format, args...)
		return Verdict{Code: e.Code, Reason: e.Reason, Version: BuiltinVersion}
	}
	switch status := q.Identity.Status(q.Now); status {
	case registry.StatusActive:
	case registry.StatusUnknown:
		return deny(UnauthorizedClient, "identity %s is not registered: declare it first", clip(q.Name))
	default:
		return deny(UnauthorizedClient, "identity %s is %s: %s", clip(q.Name), status, q.Identity.Why(q.Now))
	}
	reg := q.Identity.Registration
	switch {
	case !q.Identity.Attests(q.Attested.Issuer, q.Attested.Subject):
		return deny(UnauthorizedClient, "identity %s no longer proves itself by this attestation: declare it again", clip(q.Name))
	case reg.Owner == "" || reg.Feature == "" || reg.Purpose == "":
		return deny(UnauthorizedClient, "identity %s lacks owner, feature or purpose: declare it again", clip(q.Name))
	case q.Request.Task == "":
		return deny(InvalidRequest, "task is missing: name the piece of work the credential is for")
	}
	return Verdict{Allowed: true, Version: BuiltinVersion}
}
