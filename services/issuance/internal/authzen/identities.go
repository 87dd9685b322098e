package authzen

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/grant"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/registry"
)

// Types that Identities knows. A subject's id is "<tenant>/<identity>"; an audience's
// is where a credential would be used.
const (
	TypeIdentity = "identity"
	TypeAudience = "audience"
)

// Reasons of denials that no policy made.
const (
	ReasonType     = "subject_type_unknown"
	ReasonUnknown  = "identity_unknown"
	ReasonInactive = "identity_" // and its status
	ReasonDead     = "under_revocation"
)

// Policy is one version of the policies. Its methods are pure.
type Policy interface {
	Version() string
	Decide(q Question) (Verdict, error)
}

// Question is what a Policy decides over: an identity that is registered, active and
// under no revocation.
type Question struct {
	Tenant       string
	Registration events.Registration
	Risk         string // of the identity; empty: nothing is known
	Evaluation   Evaluation
	Now          time.Time
}

// Verdict is a Policy's decision; the zero value denies. Reasons is the ids of the
// policies that decided, Exceptions those of exceptions without which it would be denied.
type Verdict struct {
	Allowed    bool
	Reasons    []string
	Exceptions []string
}

// Loader reads one identity as the log has it.
type Loader interface {
	Load(ctx context.Context, tenant, entity string) (registry.Identity, uint64, error)
}

// Inventory lists identities; both lists are sorted.
type Inventory interface {
	CatchUp(ctx context.Context) error
	Tenants(ctx context.Context) ([]string, error)
	All(ctx context.Context, tenant string) ([]string, error)
}

// Ledger is what the log says of dead handles.
type Ledger interface {
	IsReady() bool
	Dead(now time.Time, handles ...lineage.Handle) (lineage.Handle, string, bool)
}

// KillSet is this process's guard, which hears of revocations first.
type KillSet interface {
	Dead(lin []lineage.Handle) (guard.Entry, bool)
	Status() guard.Status
}

// Identities decides about the identities of the registry. All fields are required.
type Identities struct {
	Policy    func() Policy // the version in force; nil while it is not known
	Loader    Loader
	Inventory Inventory
	Ledger    Ledger
	KillSet   KillSet
	Namer     *lineage.Namer
	Now       func() time.Time
}

// ErrNotCurrent means that revocations or policies may have been missed, so nothing is
// permitted.
var ErrNotCurrent = errors.New("revocations or policies are not current")

// Open gives what the caller in ctx may ask, by the policies in force now. A caller
// learns nothing about another tenant's identities: each is denied without a reason,
// whether it exists or not. Operators may ask about all.
func (i *Identities) Open(ctx context.Context) (View, error) {
	c, ok := service.Caller(ctx)
	switch {
	case !ok:
		return nil, errors.New("open policies: the request has no caller")
	case !i.Ledger.IsReady():
		return nil, fmt.Errorf("read revocations of the past: %w", ErrNotCurrent)
	case !i.KillSet.Status().Fresh:
		return nil, fmt.Errorf("follow kill feed: %w", ErrNotCurrent)
	}
	p := i.Policy()
	if p == nil {
		return nil, fmt.Errorf("read policies: %w", ErrNotCurrent)
	}
	return &view{i, p, c.Tenant, service.Operator(c), map[registry.Ref]registry.Identity{}}, nil
}

// view is Identities for one request. It loads an identity once.
type view struct {
	*Identities
	policy   Policy
	tenant   string
	operator bool
	loaded   map[registry.Ref]registry.Identity
}

// ref reads the id of a subject; ok is false for one that the caller may not ask about.
func (v *view) ref(id string) (r registry.Ref, ok bool) {
	r.Tenant, r.Identity, ok = strings.Cut(id, "/")
	return r, ok && (r.Tenant == v.tenant || v.operator) && events.ValidTenant(r.Tenant)
}

func (v *view) load(ctx context.Context, r registry.Ref) (registry.Identity, error) {
	if s, ok := v.loaded[r]; ok || r.Identity == "" || r.Identity == "*" { // neither is the id of one
		return s, nil
	}
	s, _, err := v.Loader.Load(ctx, r.Tenant, r.Identity)
	if err == nil {
		v.loaded[r] = s
	}
	return s, err
}

// Evaluate implements View.
func (v *view) Evaluate(ctx context.Context, e Evaluation) (Decision, error) {
	if e.Subject.Type != TypeIdentity {
		return invariant(ReasonType), nil
	}
	r, ok := v.ref(e.Subject.ID)
	if !ok {
		return Decision{}, nil
	}
	s, err := v.load(ctx, r)
	if err != nil {
		return Decision{}, err
	}
	now := v.Now()
	switch status := s.Status(now); status {
	case registry.StatusActive:
	case registry.StatusUnknown:
		return invariant(ReasonUnknown), nil
	default:
		return invariant(ReasonInactive + string(status)), nil
	}
	if v.dead(r, s.Registration, now) {
		return invariant(ReasonDead), nil
	}
	d, err := v.policy.Decide(Question{r.Tenant, *s.Registration, s.RiskAt(now), e, now})
	if err != nil {
		return Decision{}, fmt.Errorf("decide by policy %s: %w", v.policy.Version(), err)
	}
	out := Decision{d.Allowed, map[string]any{"policy_version": v.policy.Version(), "reasons": append([]string{}, d.Reasons...)}}
	if len(d.Exceptions) > 0 {
		out.Context["exceptions"] = d.Exceptions
	}
	return out, nil
}

func invariant(reason string) Decision {
	return Decision{Context: map[string]any{"policy_version": grant.InvariantsVersion, "reasons": []string{reason}}}
}

// dead reports whether something that all of r's credentials would hang from is revoked
// or frozen. An identity with several attestations lives while one of them can vouch.
func (v *view) dead(r registry.Ref, reg *events.Registration, now time.Time) bool {
	if v.anyDead(now,
		v.Namer.Name(lineage.KindTenant, r.Tenant, r.Tenant),
		v.Namer.Name(lineage.KindOwner, r.Tenant, reg.Owner),
		v.Namer.Name(lineage.KindFeature, r.Tenant, reg.Feature),
		v.Namer.Name(lineage.KindIdentity, r.Tenant, r.Identity)) {
		return true
	}
	for _, a := range reg.Attestation {
		if !v.anyDead(now, v.Namer.Name(lineage.KindDomain, "", a.Issuer), v.Namer.Name(lineage.KindWorkload, r.Tenant, a.Issuer+" "+a.Subject)) {
			return false
		}
	}
	return len(reg.Attestation) > 0
}

// anyDead asks the feed, which hears of a revocation first, and the log, which never
// forgets one.
func (v *view) anyDead(now time.Time, lin ...lineage.Handle) bool {
	if _, dead := v.KillSet.Dead(lin); dead {
		return true
	}
	_, _, dead := v.Ledger.Dead(now, lin...)
	return dead
}

// Subjects implements View: the identities of the caller's tenant, to operators of all.
func (v *view) Subjects(ctx context.Context, q Evaluation, after string, n int) ([]string, error) {
	if q.Subject.Type != TypeIdentity {
		return nil, nil
	}
	if err := v.Inventory.CatchUp(ctx); err != nil {
		return nil, err
	}
	tenants := []string{v.tenant}
	if v.operator {
		var err error
		if tenants, err = v.Inventory.Tenants(ctx); err != nil {
			return nil, err
		}
	}
	var all []string
	for _, t := range tenants {
		ids, err := v.Inventory.All(ctx, t)
		if err != nil {
			return nil, err
		}
		for _, id := range ids {
			all = append(all, t+"/"+id)
		}
	}
	return above(all, after, n), nil
}

// Resources implements View: the audiences that the subject's registration names. What
// it does not name is never granted.
func (v *view) Resources(ctx context.Context, q Evaluation, after string, n int) ([]string, error) {
	if q.Resource.Type != TypeAudience {
		return nil, nil
	}
	reg, err := v.registration(ctx, q)
	return above(reg.Audiences, after, n), err
}

// Actions implements View: the scopes that the subject's registration names.
func (v *view) Actions(ctx context.Context, q Evaluation, after string, n int) ([]string, error) {
	reg, err := v.registration(ctx, q)
	return above(reg.Scopes, after, n), err
}

// registration is that of q's subject, empty when there is none that the caller may see.
func (v *view) registration(ctx context.Context, q Evaluation) (events.Registration, error) {
	r, ok := v.ref(q.Subject.ID)
	if !ok || q.Subject.Type != TypeIdentity {
		return events.Registration{}, nil
	}
	s, err := v.load(ctx, r)
	if err != nil || s.Registration == nil {
		return events.Registration{}, err
	}
	return *s.Registration, nil
}

// above is the n lowest of list that are above after, sorted and each once.
func above(list []string, after string, n int) []string {
	list = slices.Compact(slices.Sorted(slices.Values(list)))
	i, found := slices.BinarySearch(list, after)
	if found {
		i++
	}
	return list[i:min(len(list), i+n)]
}
