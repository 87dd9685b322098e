// Package review decides live credentials again when what they were decided over has
// changed: the risk of an identity, its registration, the policies, or an exception that
// ended. What would not be granted now ends by a revocation of that credential's handle.
// Only issuance imports it.
//
// It keeps nothing: the log has every credential with the context of its decision, and
// none lives longer than the longest life, so the last minutes of the log are all there
// is to look at.
package review

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/policy"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/registry"
)

// Caps on what one change ends. The credentials of an identity beyond perIdentity end by
// one freeze of the identity; what exceeds perChange is left to its own expiry and said
// in the log.
const (
	perIdentity = 64
	perChange   = 1024
	maxLoaded   = 4096 // identities remembered while the policies' change is reviewed

	patience = 5 * time.Second // for this process to read policies that were activated
)

// by is who asks for the revocations.
const by = "issuance/policy"

// Policies tells which set is in force; Know waits for an activation.
type Policies interface {
	Active() *policy.Set
	Know(ctx context.Context, version string, at time.Time) error
}

// History is what was issued.
type History interface {
	SequenceAt(ctx context.Context, stream, filter string, t time.Time) (uint64, error)
	Read(ctx context.Context, stream, filter string, from uint64) iter.Seq2[bus.Stored, error]
}

// Loader reads one identity as the log has it.
type Loader interface {
	Load(ctx context.Context, tenant, entity string) (registry.Identity, uint64, error)
}

// Ledger tells what has ended already, and which exceptions are in force.
type Ledger interface {
	Dead(now time.Time, handles ...lineage.Handle) (lineage.Handle, string, bool)
	Exceptions(now time.Time, tenant, identity, feature string) []events.ExceptionGranted
}

// Reviewer is the handlers and what they stand on. All fields are required.
type Reviewer struct {
	Policies Policies
	History  History
	Loader   Loader
	Ledger   Ledger
	Namer    *lineage.Namer
	MaxTTL   time.Duration // no credential lives longer
	Log      *zap.Logger
	Now      func() time.Time
}

// Handlers is the reviewer's part of issuance's handler table.
func (r *Reviewer) Handlers() []bus.Handler {
	return []bus.Handler{
		bus.On(r.riskChanged, events.TypeRevocationRequested),
		bus.On(r.identityRegistered, events.TypeRevocationRequested),
		bus.On(r.policyActivated, events.TypeRevocationRequested),
		bus.On(r.exceptionEnded, events.TypeRevocationRequested),
	}
}

var errNotRead = errors.New("the policies in force have not been read yet")

// riskChanged freezes what the identity may not hold at its new risk: risk falls again.
func (r *Reviewer) riskChanged(ctx context.Context, cause events.Event, p events.RiskChanged) ([]events.Event, error) {
	return r.begin(cause, events.ModeFreeze, "").review(ctx, events.LogSubject(events.Tenant(cause), "credential", "issued", p.Identity))
}

// identityRegistered revokes what the identity may not hold by its new registration.
func (r *Reviewer) identityRegistered(ctx context.Context, cause events.Event, p events.IdentityRegistered) ([]events.Event, error) {
	return r.begin(cause, events.ModeRevoke, "").review(ctx, events.LogSubject(events.Tenant(cause), "credential", "issued", p.Identity))
}

// policyActivated revokes what nobody may hold by the new policies.
func (r *Reviewer) policyActivated(ctx context.Context, cause events.Event, p events.PolicyActivated) ([]events.Event, error) {
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := r.Policies.Know(waiting, p.Version, cause.Time()); err != nil {
		return nil, err
	}
	return r.begin(cause, events.ModeRevoke, "").review(ctx, events.LogSubject("*", "credential", "issued", "*"))
}

// exceptionEnded revokes what leant on the exception and may not be held without it. An
// exception that expires by itself leaves what leant on it to its own expiry.
func (r *Reviewer) exceptionEnded(ctx context.Context, cause events.Event, p events.ExceptionEnded) ([]events.Event, error) {
	return r.begin(cause, events.ModeRevoke, p.Exception).review(ctx, events.LogSubject(events.Tenant(cause), "credential", "issued", "*"))
}

// round is one review.
type round struct {
	*Reviewer
	ended  string // exception that has ended, though the ledger may not know yet; "" for none
	set    *policy.Set
	now    time.Time
	mode   events.Mode
	cause  events.Event
	loaded map[registry.Ref]registry.Identity
	ends   map[registry.Ref][]end
	total  int
	missed int
}

// end is a credential that ends.
type end struct {
	credential string
	expires    time.Time
	why        string
}

func (r *Reviewer) begin(cause events.Event, mode events.Mode, ended string) *round {
	return &round{Reviewer: r, ended: ended, set: r.Policies.Active(), now: r.Now(), mode: mode, cause: cause,
		loaded: map[registry.Ref]registry.Identity{}, ends: map[registry.Ref][]end{}}
}

// review decides the live credentials at filter again.
func (n *round) review(ctx context.Context, filter string) ([]events.Event, error) {
	if n.set == nil {
		return nil, errNotRead
	}
	from, err := n.History.SequenceAt(ctx, bus.StreamLog, filter, n.now.Add(-n.MaxTTL-time.Minute)) // clocks differ a little
	if err != nil || from == 0 {
		return nil, err
	}
	for s, err := range n.History.Read(ctx, bus.StreamLog, filter, from) {
		if err != nil {
			return nil, fmt.Errorf("read live credentials: %w", err)
		}
		p, err := events.As[events.CredentialIssued](s.Event)
		if err != nil {
			continue
		}
		if err := n.credential(ctx, registry.Ref{Tenant: events.Tenant(s.Event), Identity: p.Identity}, p); err != nil {
			return nil, err
		}
	}
	if n.missed > 0 {
		n.Log.Error("more credentials would end by the change than one change may end; the rest ends by itself",
			zap.String("cause", n.cause.ID()), zap.Int("left", n.missed), zap.Duration("within", n.MaxTTL))
	}
	return n.requests()
}

// credential decides one credential again.
func (n *round) credential(ctx context.Context, ref registry.Ref, p events.CredentialIssued) error {
	if p.Context == nil || !n.now.Before(p.ExpiresAt) || n.ended != "" && !slices.Contains(p.Exceptions, n.ended) {
		return nil
	}
	if _, _, dead := n.Ledger.Dead(n.now, n.Namer.Name(lineage.KindCredential, ref.Tenant, p.Credential),
		n.Namer.Name(lineage.KindIdentity, ref.Tenant, ref.Identity)); dead {
		return nil
	}
	s, err := n.load(ctx, ref)
	if err != nil || s.Registration == nil {
		return err
	}
	why := n.why(ref, s, p)
	switch {
	case why == "":
	case n.total >= perChange:
		n.missed++
	default:
		n.total++
		n.ends[ref] = append(n.ends[ref], end{p.Credential, p.ExpiresAt, why})
	}
	return nil
}

func (n *round) load(ctx context.Context, ref registry.Ref) (registry.Identity, error) {
	if s, ok := n.loaded[ref]; ok {
		return s, nil
	}
	s, _, err := n.Loader.Load(ctx, ref.Tenant, ref.Identity)
	if err != nil {
		return s, fmt.Errorf("load identity %s: %w", ref.Identity, err)
	}
	if len(n.loaded) >= maxLoaded {
		clear(n.loaded)
	}
	n.loaded[ref] = s
	return s, nil
}

// why says why the credential would not be granted now; "" when it would. What was said
// of the task stays as it was said; what the registry knows is as of now.
func (n *round) why(ref registry.Ref, s registry.Identity, p events.CredentialIssued) string {
	reg := s.Registration
	for _, scope := range p.Scope {
		if !slices.Contains(reg.Scopes, scope) {
			return "the registration has no scope " + scope + " any more"
		}
	}
	for _, a := range p.Audience {
		if !slices.Contains(reg.Audiences, a) {
			return "the registration has no audience " + a + " any more"
		}
	}
	c := *p.Context
	c.Kind, c.Owner, c.Feature, c.IdentityPurpose, c.Backend, c.Vendor, c.VendorManaged, c.Risk = reg.Kind, reg.Owner, reg.Feature, reg.Purpose, reg.Backend, reg.Vendor, reg.VendorManaged, s.RiskAt(n.now)
	f := policy.Facts{Tenant: ref.Tenant, Identity: ref.Identity, Task: p.Task, Time: n.now, Context: c}
	for _, x := range n.Ledger.Exceptions(n.now, ref.Tenant, ref.Identity, reg.Feature) {
		if x.Exception != n.ended {
			f.Exceptions = append(f.Exceptions, policy.Exception{ID: x.Exception, Policy: x.Policy, Scopes: x.Scopes, Audiences: x.Audiences})
		}
	}
	now := n.set.Ask(f).Rule(p.Scope, p.Audience, false)
	switch {
	case len(p.Scope) > 0 && !now.Granted():
		return fmt.Sprintf("scope %s for %s: %s", now.Denials[0].Scope, now.Denials[0].Audience, now.Denials[0].Why)
	case now.MaxTTL > 0 && n.now.Sub(p.IssuedAt) >= now.MaxTTL:
		return fmt.Sprintf("policies let it live %s only", now.MaxTTL)
	}
	return ""
}

// requests asks for the ends, one for each credential, or one freeze for an identity
// that has too many.
func (n *round) requests() ([]events.Event, error) {
	var out []events.Event
	for ref, ends := range n.ends {
		if len(ends) > perIdentity {
			last := slices.MaxFunc(ends, func(a, b end) int { return a.expires.Compare(b.expires) })
			ends = []end{{"", last.expires, fmt.Sprintf("%d of its credentials; %s", len(ends), ends[0].why)}}
		}
		for _, e := range ends {
			request := events.RevocationRequested{Mode: n.mode, Target: events.Target{Kind: string(lineage.KindCredential), Tenant: ref.Tenant, ID: e.credential},
				Reason: clip("no longer allowed by policy " + n.set.Version() + ": " + e.why), RequestedBy: by, Evidence: []string{n.cause.ID()}}
			if e.credential == "" {
				request.Mode, request.Target.Kind, request.Target.ID = events.ModeFreeze, string(lineage.KindIdentity), ref.Identity
			}
			if request.Mode == events.ModeFreeze {
				request.TTLSeconds = int64(e.expires.Sub(n.now)/time.Second) + 1
			}
			ev, err := events.New(events.Origin{Source: registry.Source, Tenant: ref.Tenant, Time: n.cause.Time(), Cause: &n.cause,
				Discriminator: ref.Tenant + "/" + ref.Identity}, request)
			if err != nil {
				return nil, err
			}
			out = append(out, ev)
		}
	}
	slices.SortFunc(out, func(a, b events.Event) int { return strings.Compare(a.ID(), b.ID()) })
	return out, nil
}

// clip keeps a reason within what an event may hold.
func clip(s string) string {
	const most = 480
	if len(s) <= most {
		return s
	}
	for i := range s {
		if i > most-4 {
			return s[:i] + "..."
		}
	}
	return s
}
