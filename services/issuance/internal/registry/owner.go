package registry

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// ownerDeparted moves an owner's identities to the successor. Without one that may own
// anything they freeze, at once or after the grace that an alert tells of.
func (r *Registry) ownerDeparted(ctx context.Context, cause events.Event, p events.OwnerDeparted) ([]events.Event, error) {
	tenant := events.Tenant(cause)
	if p.Successor != "" {
		if _, _, dead := r.Dead.Dead(r.Now(), r.Namer.Name(lineage.KindOwner, tenant, p.Successor)); dead {
			p.Successor = "" // nobody to move to
		}
	}
	target := events.Target{Kind: string(lineage.KindOwner), Tenant: tenant, ID: p.Owner}
	if r.Grace <= 0 || p.Successor != "" && p.Successor != p.Owner {
		return nil, r.each(ctx, cause, target, func(s Identity) []events.Payload { return depart(s, p) })
	}
	left, err := r.left(ctx, target, p)
	if err != nil || len(left) == 0 {
		return nil, err
	}
	e, err := events.New(events.Origin{Source: Source, Tenant: tenant, Time: r.Now(), Cause: &cause}, orphaned(cause, p, left, r.Grace))
	if err != nil {
		return nil, bus.Permanent(err)
	}
	return []events.Event{e}, nil
}

// left are the identities that would freeze now.
func (r *Registry) left(ctx context.Context, target events.Target, p events.OwnerDeparted) ([]events.Registration, error) {
	var mu sync.Mutex
	found := map[string]events.Registration{}
	ids, err := r.candidates(ctx, target)
	if err != nil {
		return nil, err
	}
	g, ctx := group(ctx)
	for _, id := range ids {
		g.Go(func() error {
			s, _, err := r.Identities.Load(ctx, target.Tenant, id)
			if err != nil {
				return fmt.Errorf("load identity %s: %w", id, err)
			}
			if len(depart(s, p)) > 0 {
				mu.Lock()
				defer mu.Unlock()
				found[id] = *s.Registration
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	out := make([]events.Registration, 0, len(found))
	for _, id := range ids {
		if reg, ok := found[id]; ok {
			out = append(out, reg)
		}
	}
	return out, nil
}

// orphaned is the alert that nobody answers for identities any more: one for an owner,
// however many there are.
func orphaned(cause events.Event, p events.OwnerDeparted, left []events.Registration, grace time.Duration) events.AnomalyDetected {
	first, at := left[0], cause.Time().UTC()
	return events.AnomalyDetected{Alert: events.DeterministicID("alert", cause.ID(), p.Owner), Detector: "OWN", Name: "owner_departed",
		Severity: events.SeverityMedium, Score: 50, Identity: first.Identity, Owner: p.Owner, Feature: first.Feature, Purpose: first.Purpose,
		Explanation: fmt.Sprintf("Owner %s departed without a successor: %d identities, %s the first, freeze at %s unless somebody else answers for them by then.",
			p.Owner, len(left), first.Identity, at.Add(grace).Format(time.RFC3339)),
		Value: "nobody", Baseline: p.Owner, Count: int64(len(left)), Evidence: []string{cause.ID()}, FirstSeen: at, LastSeen: at,
		References: []string{"NHI1"}, Proposed: events.Proposed{Response: "alert", Command: "lanyard identity list --tenant " + events.Tenant(cause)}}
}

// ownerOverdue freezes what still is the departed owner's.
func (r *Registry) ownerOverdue(ctx context.Context, cause events.Event, p events.OwnerOverdue) ([]events.Event, error) {
	gone := events.OwnerDeparted{Owner: p.Owner, Reason: "nobody else has answered for it since"}
	return nil, r.each(ctx, cause, events.Target{Kind: string(lineage.KindOwner), Tenant: events.Tenant(cause), ID: p.Owner},
		func(s Identity) []events.Payload { return depart(s, gone) })
}
