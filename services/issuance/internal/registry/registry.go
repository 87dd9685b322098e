package registry

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// Source is the CloudEvents source of everything that issuance states.
const Source = "/lanyard/issuance"

// Entities is what the registry needs of state.Entities.
type Entities interface {
	Load(ctx context.Context, tenant, entity string) (Identity, uint64, error)
	Decide(ctx context.Context, tenant, entity string, decide func(Identity) ([]events.Event, error)) (Identity, bus.Ack, error)
}

// Candidates is what the registry needs of Index.
type Candidates interface {
	CatchUp(ctx context.Context) error
	Group(ctx context.Context, tenant string, kind lineage.Kind, id string) ([]string, error)
	All(ctx context.Context, tenant string) ([]string, error)
	Resolve(ctx context.Context, handle string) (events.Target, bool, error)
}

// Mortality tells which handles are dead.
type Mortality interface {
	Dead(now time.Time, handles ...lineage.Handle) (lineage.Handle, string, bool)
	Ready() <-chan struct{}
}

// Reader reads what is on the log.
type Reader interface {
	Read(ctx context.Context, stream, filter string, from uint64) iter.Seq2[bus.Stored, error]
}

// Registry handles declarations and what ends identities.
type Registry struct {
	Identities Entities
	Index      Candidates
	Dead       Mortality
	Log        Reader
	Namer      *lineage.Namer
	Now        func() time.Time
	// Grace is how long identities go on after their owner departed; rotation says when
	// it is over. 0: they freeze at once.
	Grace time.Duration
}

// parallel is how many identities one event changes at a time.
const parallel = 16

// Handlers is the registry's part of issuance's handler table. The events they emit
// are appended under a condition and not returned.
func (r *Registry) Handlers() []bus.Handler {
	return []bus.Handler{
		bus.On(r.identityDeclared, events.TypeIdentityRegistered, events.TypeIdentityReinstated),
		bus.On(r.ownerDeparted, events.TypeIdentityRegistered, events.TypeIdentityFrozen, events.TypeAnomalyDetected),
		bus.On(r.ownerOverdue, events.TypeIdentityFrozen),
		bus.On(r.featureDisabled, events.TypeIdentityFrozen),
		bus.On(r.taskEnded, events.TypeTaskClosed, events.TypeRevocationRequested),
		bus.On(r.revocationRefused, events.TypeTaskClosed, events.TypeRevocationRequested),
		bus.On(r.revocationAccepted, events.TypeIdentityRevoked, events.TypeIdentityFrozen),
		bus.On(r.revocationLifted, events.TypeIdentityReinstated),
	}
}

func (r *Registry) identityDeclared(ctx context.Context, cause events.Event, p events.IdentityDeclared) ([]events.Event, error) {
	_, err := r.Register(ctx, cause, p.Registration)
	return nil, err
}

// Register enters a declaration in the registry. It is idempotent. An error that
// wraps ErrIncomplete, ErrEnded or ErrDeadHandle is permanent.
func (r *Registry) Register(ctx context.Context, cause events.Event, reg events.Registration) (Identity, error) {
	tenant := events.Tenant(cause)
	alive, err := r.alive(ctx, tenant)
	if err != nil {
		return Identity{}, err
	}
	s, err := r.decide(ctx, tenant, reg.Identity, cause, func(s Identity) ([]events.Payload, error) {
		return Declare(s, reg, alive)
	})
	if errors.Is(err, ErrIncomplete) || errors.Is(err, ErrEnded) || errors.Is(err, ErrDeadHandle) {
		return s, bus.Permanent(err)
	}
	return s, err
}

// Settled reports whether a declaration would change nothing, and what is registered.
func (r *Registry) Settled(ctx context.Context, tenant string, reg events.Registration) (Identity, bool, error) {
	alive, err := r.alive(ctx, tenant)
	if err != nil {
		return Identity{}, false, err
	}
	s, _, err := r.Identities.Load(ctx, tenant, reg.Identity)
	if err != nil {
		return s, false, fmt.Errorf("load identity %s: %w", reg.Identity, err)
	}
	change, err := Declare(s, reg, alive)
	return s, err == nil && len(change) == 0, nil
}

// alive answers for a tenant once the revocations of the past are known.
func (r *Registry) alive(ctx context.Context, tenant string) (Alive, error) {
	select {
	case <-r.Dead.Ready():
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the revocations of the past: %w", ctx.Err())
	}
	now := r.Now()
	return func(kind lineage.Kind, id string) error {
		if _, rev, dead := r.Dead.Dead(now, r.Namer.Name(lineage.KindTenant, tenant, tenant), r.Namer.Name(kind, tenant, id)); dead {
			return fmt.Errorf("%s %s or its tenant is under revocation %s", kind, id, rev)
		}
		return nil
	}, nil
}

func (r *Registry) featureDisabled(ctx context.Context, cause events.Event, p events.FeatureDisabled) ([]events.Event, error) {
	return nil, r.each(ctx, cause, events.Target{Kind: string(lineage.KindFeature), Tenant: events.Tenant(cause), ID: p.Feature},
		func(s Identity) []events.Payload { return disable(s, p) })
}

func (r *Registry) revocationAccepted(ctx context.Context, cause events.Event, p events.RevocationAccepted) ([]events.Event, error) {
	target, err := r.target(ctx, p)
	if err != nil {
		return nil, err
	}
	return nil, r.each(ctx, cause, target, func(s Identity) []events.Payload {
		if !under(s, target) {
			return nil
		}
		c := events.IdentityChange{Identity: s.Registration.Identity, Reason: p.Reason, By: p.By, Revocation: p.Revocation, Until: p.Until}
		switch p.Mode {
		case events.ModeRevoke:
			c.Until = nil
			return revoke(s, c)
		case events.ModeFreeze:
			return freeze(s, c)
		}
		return nil
	})
}

func (r *Registry) revocationLifted(ctx context.Context, cause events.Event, p events.RevocationLifted) ([]events.Event, error) {
	filter := events.LogSubject(events.Tenant(cause), "revocation", "accepted", p.Revocation)
	for stored, err := range r.Log.Read(ctx, bus.StreamLog, filter, 1) {
		if err != nil {
			return nil, fmt.Errorf("read revocation %s: %w", p.Revocation, err)
		}
		accepted, err := events.As[events.RevocationAccepted](stored.Event)
		if err != nil || accepted.Mode != events.ModeFreeze {
			continue
		}
		target, err := r.target(ctx, accepted)
		if err != nil {
			return nil, err
		}
		if err := r.each(ctx, cause, target, func(s Identity) []events.Payload {
			if s.Registration == nil {
				return nil
			}
			return reinstate(s, events.IdentityChange{Identity: s.Registration.Identity, Reason: p.Reason, By: p.By, Revocation: p.Revocation})
		}); err != nil {
			return nil, err
		}
	}
	return nil, nil
}

// target is what a revocation is about; a bare handle is looked up.
func (r *Registry) target(ctx context.Context, p events.RevocationAccepted) (events.Target, error) {
	if p.Target.Kind != "" && p.Target.ID != "" {
		return p.Target, nil
	}
	if err := r.Index.CatchUp(ctx); err != nil {
		return events.Target{}, err
	}
	t, _, err := r.Index.Resolve(ctx, p.Handle)
	return t, err
}

// under reports whether the identity is under the target now, whatever the index said.
func under(s Identity, t events.Target) bool {
	if s.Registration == nil {
		return false
	}
	switch lineage.Kind(t.Kind) {
	case lineage.KindOwner:
		return s.Registration.Owner == t.ID
	case lineage.KindFeature:
		return s.Registration.Feature == t.ID
	}
	return true
}

// each decides for every identity under a target of kind identity, owner, feature or
// tenant; other kinds have none.
func (r *Registry) each(ctx context.Context, cause events.Event, t events.Target, f func(Identity) []events.Payload) error {
	ids, err := r.candidates(ctx, t)
	if err != nil {
		return err
	}
	g, ctx := group(ctx)
	for _, id := range ids {
		g.Go(func() error {
			_, err := r.decide(ctx, t.Tenant, id, cause, func(s Identity) ([]events.Payload, error) { return f(s), nil })
			return err
		})
	}
	return g.Wait()
}

func group(ctx context.Context) (*errgroup.Group, context.Context) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	return g, ctx
}

func (r *Registry) candidates(ctx context.Context, t events.Target) ([]string, error) {
	kind := lineage.Kind(t.Kind)
	switch kind {
	case lineage.KindIdentity:
		return []string{t.ID}, nil
	case lineage.KindOwner, lineage.KindFeature, lineage.KindTenant:
	default:
		return nil, nil
	}
	if err := r.Index.CatchUp(ctx); err != nil {
		return nil, err
	}
	if kind == lineage.KindTenant {
		return r.Index.All(ctx, t.Tenant)
	}
	return r.Index.Group(ctx, t.Tenant, kind, t.ID)
}

// decide appends what f decides about one identity, as effects of cause.
func (r *Registry) decide(ctx context.Context, tenant, id string, cause events.Event, f func(Identity) ([]events.Payload, error)) (Identity, error) {
	now := r.Now()
	s, _, err := r.Identities.Decide(ctx, tenant, id, func(s Identity) ([]events.Event, error) {
		if slices.Contains(s.Causes, cause.ID()) {
			return nil, nil
		}
		payloads, err := f(s)
		if err != nil {
			return nil, err
		}
		out := make([]events.Event, 0, len(payloads))
		for i, p := range payloads {
			e, err := events.New(events.Origin{Source: Source, Tenant: tenant, Time: now, Cause: &cause,
				Discriminator: fmt.Sprint(i)}, p)
			if err != nil {
				return nil, err
			}
			out = append(out, e)
		}
		return out, nil
	})
	if err != nil {
		return s, fmt.Errorf("decide about identity %s: %w", id, err)
	}
	return s, nil
}
