package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// TaskRest is how long the id of a task that ended names nothing else. Within it nothing
// is issued for the id; after it the id may name another piece of work, so that neither
// the ledger nor the names of periodic work run out.
const TaskRest = 24 * time.Hour

func (r *Registry) taskEnded(_ context.Context, cause events.Event, p events.TaskEnded) ([]events.Event, error) {
	return r.CloseTask(cause, p)
}

// revocationRefused asks again, confirmed, when the end of a task or a token that its
// holder revoked reaches more credentials than a request may without: neither is a slip of
// the hand.
func (r *Registry) revocationRefused(ctx context.Context, cause events.Event, p events.RevocationRefused) ([]events.Event, error) {
	tenant := events.Tenant(cause)
	if p.Confirm < 1 || p.Target.Tenant != tenant {
		return nil, nil
	}
	switch lineage.Kind(p.Target.Kind) {
	case lineage.KindCredential:
		if p.Revocation != events.RevocationID(tenant, TokenRevocation(tenant, p.Target.ID)) {
			return nil, nil
		}
		requested, err := r.confirmed(cause, p, "its holder revoked the token (RFC 7009); confirmed, as much was derived from it")
		if err != nil {
			return nil, bus.Permanent(err)
		}
		return []events.Event{requested}, nil
	case lineage.KindTask:
		ours, err := r.endsTask(ctx, tenant, p.Target.ID, p.Revocation)
		if err != nil || !ours {
			return nil, err
		}
		requested, err := r.confirmed(cause, p, "task ended; confirmed, as it has many credentials")
		if err != nil {
			return nil, bus.Permanent(err)
		}
		return r.closed(events.Origin{Source: Source, Tenant: tenant, Time: requested.Time(), Cause: &cause}, requested,
			events.TaskEnded{Task: p.Target.ID, Reason: "task ended", By: p.By})
	}
	return nil, nil
}

// confirmed is the request that was refused, with the number that it must state.
func (r *Registry) confirmed(cause events.Event, p events.RevocationRefused, reason string) (events.Event, error) {
	tenant := events.Tenant(cause)
	return events.New(events.Origin{Source: Source, Tenant: tenant, Time: r.Now().UTC(), Cause: &cause, ID: events.ConfirmedRequest(tenant, p.Revocation)},
		events.RevocationRequested{Mode: p.Mode, Confirm: p.Confirm, RequestedBy: p.By, Reason: reason,
			Target: events.Target{Kind: p.Target.Kind, Tenant: tenant, ID: p.Target.ID}})
}

// TokenRevocation is the id of the request to revoke a credential that its holder makes by
// RFC 7009, so that asking twice is asking once.
func TokenRevocation(tenant, jti string) string {
	return events.DeterministicID("token-revocation", tenant, jti)
}

// endsTask reports whether a revocation was asked for because the task ended.
func (r *Registry) endsTask(ctx context.Context, tenant, task, revocation string) (bool, error) {
	for stored, err := range r.Log.Read(ctx, bus.StreamLog, events.LogSubject(tenant, "task", "closed", task), 1) {
		if err != nil {
			return false, fmt.Errorf("read the end of task %s: %w", task, err)
		}
		if p, err := events.As[events.TaskClosed](stored.Event); err == nil && p.Revocation == revocation {
			return true, nil
		}
	}
	return false, nil
}

// CloseTask is what the end of a task leads to: the statement that nothing is issued for
// it, and the request to revoke what was. The same cause leads to the same events, and a
// second end of the same task changes nothing.
func (r *Registry) CloseTask(cause events.Event, p events.TaskEnded) ([]events.Event, error) {
	now, tenant := r.Now().UTC(), events.Tenant(cause)
	requested, err := events.EndOfTask(cause, p, now)
	if err != nil {
		return nil, bus.Permanent(err)
	}
	return r.closed(events.Origin{Source: Source, Tenant: tenant, Time: now, Cause: &cause}, requested, p)
}

// closed states the end of a task that a request carries out, before the request.
func (r *Registry) closed(origin events.Origin, requested events.Event, p events.TaskEnded) ([]events.Event, error) {
	e, err := events.New(origin, events.TaskClosed{Task: p.Task, Handle: r.Namer.Name(lineage.KindTask, origin.Tenant, p.Task).String(),
		Revocation: events.RevocationOf(requested), Reason: p.Reason, By: p.By, ClosedAt: origin.Time, ReusableAt: origin.Time.Add(TaskRest)})
	if err != nil {
		return nil, bus.Permanent(err)
	}
	return []events.Event{e, requested}, nil
}
