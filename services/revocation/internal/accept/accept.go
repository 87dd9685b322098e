// Package accept decides whether a revocation may be carried out. Everything in it
// is pure: what it must know comes in as Facts. Only revocation imports it.
package accept

import (
	"fmt"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
)

// Codes of refusals; see events.RevocationRefused.
const (
	CodeUnknownTarget  = "unknown_target"
	CodeForbidden      = "forbidden"
	CodeConfirm        = "confirm_required"
	CodeCap            = "cap_exceeded"
	CodeAlreadyRevoked = "already_revoked"
	CodeNotFrozen      = "not_frozen"
	CodeUnsafe         = "unsafe_server"
)

// CodeApproval is a verdict that is no refusal: the request waits for a second
// person.
const CodeApproval = "approval_required"

// Window is the time over which requesters' revocations are counted.
const Window = 10 * time.Minute

// TenantShare is how many requesters' caps all requesters of a tenant may use
// together in one Window.
const TenantShare = 4

// SystemTenant is the tenant whose requests may name any target.
const SystemTenant = "lanyard"

// Request is a revocation.requested with what its sender cannot choose.
type Request struct {
	Revocation string // its id
	Tenant     string // of the subject or the authenticated caller: the authority
	ApprovedBy string // the second person, of a request that was proposed
	events.RevocationRequested
}

// Thing is a named target.
type Thing struct {
	Handle lineage.Handle
	Kind   lineage.Kind // "" when only the handle is known
	Tenant string       // "" for things of no tenant
	ID     string
}

// Target is t as it is written in events.
func (t Thing) Target() events.Target {
	return events.Target{Handle: t.Handle.String(), Kind: string(t.Kind), Tenant: t.Tenant, ID: t.ID}
}

// Holder is the revocation that a handle is under.
type Holder struct {
	Revocation string
	Mode       events.Mode // revoke or freeze
	Until      *time.Time  // end of a freeze
}

// Facts are what is known when a request is decided.
type Facts struct {
	Thing Thing
	Known bool // the target exists, or nobody can tell now
	// Live is the number of live credentials under the handle; LiveKnown is false
	// when the graph cannot be read.
	Live      int64
	LiveKnown bool
	Tenants   []string // in which they live
	Holder    *Holder  // nil: the handle is free
	// Ending is a freeze whose end is in the kill feed but not on the log yet.
	Ending string
	// Broad and All are the requester's revocations accepted within Window: those of
	// handles other than leaves, and all. TenantBroad and TenantAll are the tenant's.
	Broad, All, TenantBroad, TenantAll int
	Unsafe                             error // why the server's word is no promise
}

// Limits come from the configuration.
type Limits struct {
	Breadth     int64
	Cap         int
	FreezeTTL   time.Duration
	AllowUnsafe bool
}

// Verdict is the decision. An empty Code means: carry it out.
type Verdict struct {
	Code     string
	Reason   string
	Existing string     // already_revoked: the revocation that holds; lift: the freeze to end
	Until    *time.Time // end of the freeze
	Confirm  int64      // confirm_required: what to confirm; 0: nobody can tell now
}

// Decide decides req. It is pure.
func Decide(req Request, f Facts, l Limits, now time.Time) Verdict {
	if v := authority(req, f); v.Code != "" {
		return v
	}
	if req.Mode == events.ModeLift {
		return lift(f)
	}
	h := f.Holder
	switch {
	case h != nil && h.Revocation == req.Revocation:
		return Verdict{Until: h.Until} // its own entry: the rest is to be completed
	case h != nil && h.Mode == events.ModeRevoke:
		return Verdict{Code: CodeAlreadyRevoked, Existing: h.Revocation,
			Reason: "the handle is already revoked by " + h.Revocation}
	case f.Unsafe != nil && !l.AllowUnsafe:
		return Verdict{Code: CodeUnsafe, Reason: "nothing can be promised: " + f.Unsafe.Error()}
	}
	wide := breadth(req, f, l)
	if wide.Code != "" && !req.Approval {
		return wide
	}
	if v := runaway(req, f, l); v.Code != "" {
		return v
	}
	if wide.Code != "" {
		return Verdict{Code: CodeApproval, Reason: "a second person has to approve it"}
	}
	if req.Mode != events.ModeFreeze {
		return Verdict{}
	}
	ttl := time.Duration(req.TTLSeconds) * time.Second
	if ttl <= 0 {
		ttl = l.FreezeTTL
	}
	until := now.Add(ttl).UTC()
	return Verdict{Until: &until}
}

// authority: callers of the system tenant may name any target, others only
// targets of their own tenant. A trust between two tenants either of them may revoke,
// but only the one that gave it may freeze it, lest one lifts what the other froze.
func authority(req Request, f Facts) Verdict {
	receiver := req.Mode == events.ModeRevoke && f.Thing.Kind == lineage.KindTrust && strings.HasSuffix(f.Thing.ID, "->"+req.Tenant)
	if req.Tenant != SystemTenant && f.Thing.Tenant != req.Tenant && !receiver && (f.Known || f.Thing.Tenant != "") {
		return Verdict{Code: CodeForbidden, Reason: "requests of tenant " + req.Tenant + " may name targets of that tenant only"}
	}
	if !f.Known {
		return Verdict{Code: CodeUnknownTarget, Reason: "no " + describe(f.Thing) + " is known; check the spelling and the tenant"}
	}
	return Verdict{}
}

func describe(t Thing) string {
	if t.Kind == "" {
		return "handle " + t.Handle.String()
	}
	return strings.TrimSpace(fmt.Sprintf("%s %q %s", t.Kind, t.ID, inTenant(t.Tenant)))
}

func inTenant(tenant string) string {
	if tenant == "" {
		return ""
	}
	return "in tenant " + tenant
}

func lift(f Facts) Verdict {
	switch {
	case f.Holder == nil && f.Ending != "":
		return Verdict{Existing: f.Ending}
	case f.Holder == nil:
		return Verdict{Code: CodeNotFrozen, Reason: "the handle is not frozen"}
	case f.Holder.Mode == events.ModeRevoke:
		return Verdict{Code: CodeNotFrozen, Existing: f.Holder.Revocation, Reason: "the handle is revoked by " + f.Holder.Revocation + ", which is final"}
	}
	return Verdict{Existing: f.Holder.Revocation}
}

// Broad reports whether a target of this kind always needs a confirmation.
func Broad(k lineage.Kind) bool {
	switch k {
	case lineage.KindTenant, lineage.KindOwner, lineage.KindFeature, lineage.KindDomain, lineage.KindKey, "":
		return true
	}
	return false
}

// Leaf reports whether revocations of this kind are never capped for people.
func Leaf(k lineage.Kind) bool {
	return k == lineage.KindCredential || k == lineage.KindTask || k == lineage.KindDelegation
}

// NeedsConfirm reports whether a revocation of t with this many live descendants
// needs a confirmation.
func NeedsConfirm(t Thing, live int64, breadth int64) bool {
	return Broad(t.Kind) || live > breadth
}

func breadth(req Request, f Facts, l Limits) Verdict {
	switch {
	case req.ApprovedBy != "":
		return Verdict{} // two people looked at it
	case !f.LiveKnown && !Broad(f.Thing.Kind):
		return Verdict{} // a narrow kind is not held up by a lost read model
	case !f.LiveKnown:
		return Verdict{Code: CodeConfirm, Reason: "the number of live credentials under it cannot be read now; try again in a moment"}
	case !NeedsConfirm(f.Thing, f.Live, l.Breadth) || Confirmed(req.Confirm, f.Live):
		return Verdict{}
	}
	return Verdict{Code: CodeConfirm, Confirm: max(f.Live, 1), Reason: fmt.Sprintf("%d live credentials are under it; preview it and send confirm=%d", f.Live, max(f.Live, 1))}
}

// Confirmed reports whether confirm, a previewed number, still describes live.
// Credentials come and go between preview and confirmation, and an attacker who
// mints must not be able to make every confirmation fail, so it may differ by ten,
// or by half of the larger one. It is at least 1.
func Confirmed(confirm, live int64) bool {
	if confirm < 1 {
		return false
	}
	diff := max(confirm, live) - min(confirm, live)
	return diff <= 10+max(confirm, live)/2
}

// runaway holds whoever revokes too much: people are counted by their revocations
// of anything but leaves, which are always free; detectors by all of theirs.
func runaway(req Request, f Facts, l Limits) Verdict {
	own, all := f.Broad, f.TenantBroad
	switch {
	case req.Automatic:
		own, all = f.All, f.TenantAll
	case Leaf(f.Thing.Kind):
		return Verdict{}
	}
	if own >= l.Cap {
		return Verdict{Code: CodeCap, Reason: fmt.Sprintf("%s made %d revocations in the last 10 minutes, the cap; wait, or let another operator do it", req.RequestedBy, own)}
	}
	if all >= TenantShare*l.Cap {
		return Verdict{Code: CodeCap, Reason: fmt.Sprintf("tenant %s made %d revocations in the last 10 minutes, the cap", req.Tenant, all)}
	}
	return Verdict{}
}

// Proposal is a request that waits for a second person.
type Proposal struct {
	Tenant string // of the request
	events.RevocationProposed
}

// Approve decides whether req, which approves p, makes p be carried out. It is pure.
// People of p's tenant and of the system tenant may approve, but never their own.
func Approve(req Request, p Proposal, now time.Time) Verdict {
	switch {
	case p.Tenant != req.Tenant && req.Tenant != SystemTenant:
		return Verdict{Code: CodeUnknownTarget, Reason: "no proposed revocation " + req.Approves + " is known"}
	case req.Mode != p.Mode:
		return Verdict{Code: CodeForbidden, Reason: fmt.Sprintf("it was proposed to %s, not to %s", p.Mode, req.Mode)}
	case req.Automatic:
		return Verdict{Code: CodeForbidden, Reason: "only a person can approve"}
	case p.Tenant == req.Tenant && p.By == req.RequestedBy:
		return Verdict{Code: CodeForbidden, Reason: req.RequestedBy + " asked for it; somebody else has to approve it"}
	case !now.Before(p.ExpiresAt):
		return Lapsed(p.RevocationProposed)
	}
	return Verdict{}
}

// Lapsed is the verdict on a proposal that nobody approved in time.
func Lapsed(p events.RevocationProposed) Verdict {
	return Verdict{Code: CodeConfirm, Confirm: max(p.Descendants, 1),
		Reason: fmt.Sprintf("nobody approved it within %s; ask again", p.ExpiresAt.Sub(p.ProposedAt))}
}
