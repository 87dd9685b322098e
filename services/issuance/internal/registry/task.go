package registry

import (
	"context"
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

// CloseTask is what the end of a task leads to: the statement that nothing is issued for
// it, and the request to revoke what was. The same cause leads to the same events, and a
// second end of the same task changes nothing.
func (r *Registry) CloseTask(cause events.Event, p events.TaskEnded) ([]events.Event, error) {
	now, tenant := r.Now().UTC(), events.Tenant(cause)
	requested, err := events.EndOfTask(cause, p, now)
	if err != nil {
		return nil, bus.Permanent(err)
	}
	closed, err := events.New(events.Origin{Source: Source, Tenant: tenant, Time: now, Cause: &cause}, events.TaskClosed{Task: p.Task, Handle: r.Namer.Name(lineage.KindTask, tenant, p.Task).String(),
		Revocation: events.RevocationOf(requested), Reason: p.Reason, By: p.By, ClosedAt: now, ReusableAt: now.Add(TaskRest)})
	if err != nil {
		return nil, bus.Permanent(err)
	}
	return []events.Event{closed, requested}, nil
}
