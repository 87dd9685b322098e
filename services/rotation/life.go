package rotation

import (
	"context"
	"fmt"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// Timers of tasks that must give signs of life, and of owners that departed.
const (
	kindHeartbeat = "task.heartbeat"
	kindGrace     = "owner.grace"
)

// late is how long after its time a timer that fires says nothing about heartbeats: then
// rotation itself was away, and heartbeats wait to be read.
const late = 10 * time.Second

// Names of timers; ids of tasks and owners may be too long for one.
func taskTimer(task string) string   { return "task-" + events.DeterministicID(task) }
func ownerTimer(owner string) string { return "owner-" + events.DeterministicID(owner) }

// begun sets the timer of a task that must give signs of life: a credential that is
// issued for it is one.
func (r *rotator) begun(ctx context.Context, tenant string, p events.CredentialIssued) error {
	if p.HeartbeatSeconds <= 0 || p.Parent != "" || p.Task == "" {
		return nil
	}
	return r.alive(ctx, tenant, events.TimerDue{Timer: taskTimer(p.Task), Kind: kindHeartbeat, Ref: p.Task, Owner: p.Identity,
		EverySeconds: p.HeartbeatSeconds}, p.IssuedAt)
}

// heartbeat moves the timer of a task, when it has one.
func (r *rotator) heartbeat(ctx context.Context, cause events.Event, p events.TaskHeartbeat) ([]events.Event, error) {
	tenant := events.Tenant(cause)
	set, ok, err := r.timer(ctx, tenant, taskTimer(p.Task))
	if err != nil || !ok {
		return nil, err
	}
	return nil, r.alive(ctx, tenant, set, cause.Time())
}

// alive sets a timer to its span after a sign of life. It never moves one back, as signs
// may come late or twice.
func (r *rotator) alive(ctx context.Context, tenant string, t events.TimerDue, seen time.Time) error {
	if now := r.now(); seen.After(now) {
		seen = now
	}
	due := seen.Add(time.Duration(t.EverySeconds) * time.Second).UTC().Truncate(time.Second)
	set, ok, err := r.timer(ctx, tenant, t.Timer)
	if err != nil || ok && !due.After(set.DueAt) {
		return err
	}
	t.DueAt = due
	return r.schedule(ctx, tenant, t)
}

// silent ends a task that gave no sign of life. When rotation was away it could not have
// heard one, so the task has its span again.
func (r *rotator) silent(ctx context.Context, cause events.Event, p events.TimerDue) ([]events.Event, error) {
	tenant, now := events.Tenant(cause), r.now()
	span := time.Duration(p.EverySeconds) * time.Second
	switch set, ok, err := r.timer(ctx, tenant, p.Timer); {
	case err != nil:
		return nil, err
	case ok && set.DueAt.After(p.DueAt):
		return nil, nil // it was moved while this one fired
	case now.Before(p.DueAt):
		p.DueAt = p.DueAt.Add(time.Second)
		return nil, r.schedule(ctx, tenant, p)
	case now.Sub(p.DueAt) > late:
		p.DueAt = now.Add(span).UTC().Truncate(time.Second)
		return nil, r.schedule(ctx, tenant, p)
	}
	return one(events.New(events.Origin{Source: source, Tenant: tenant, Time: p.DueAt, Cause: &cause}, events.TaskEnded{Task: p.Ref, By: "rotation",
		Reason: fmt.Sprintf("no sign of life of it for %s", span)}))
}

// closed removes the timer of a task that has ended.
func (r *rotator) closed(ctx context.Context, cause events.Event, p events.TaskClosed) ([]events.Event, error) {
	tenant, name := events.Tenant(cause), taskTimer(p.Task)
	if _, ok, err := r.timer(ctx, tenant, name); err != nil || !ok {
		return nil, err
	}
	return nil, r.timers.Cancel(ctx, tenant, name)
}

// departed sets the timer of the grace that an owner's identities have.
func (r *rotator) departed(ctx context.Context, cause events.Event, p events.OwnerDeparted) ([]events.Event, error) {
	if r.grace <= 0 {
		return nil, nil // issuance freezes at once
	}
	tenant, due := events.Tenant(cause), cause.Time().Add(r.grace).UTC()
	set, ok, err := r.timer(ctx, tenant, ownerTimer(p.Owner))
	if err != nil || ok && !due.Before(set.DueAt) {
		return nil, err // who departs twice has no more grace for it
	}
	return nil, r.schedule(ctx, tenant, events.TimerDue{Timer: ownerTimer(p.Owner), Kind: kindGrace, Ref: p.Owner, Owner: p.Owner, DueAt: due})
}

// overdue states that the grace is over.
func (r *rotator) overdue(ctx context.Context, cause events.Event, p events.TimerDue) ([]events.Event, error) {
	if r.now().Before(p.DueAt) {
		p.DueAt = p.DueAt.Add(time.Second)
		return nil, r.schedule(ctx, events.Tenant(cause), p)
	}
	return one(events.New(events.Origin{Source: source, Tenant: events.Tenant(cause), Time: p.DueAt, Cause: &cause}, events.OwnerOverdue{Owner: p.Ref}))
}

func one(e events.Event, err error) ([]events.Event, error) {
	if err != nil {
		return nil, bus.Permanent(err)
	}
	return []events.Event{e}, nil
}

// schedule sets a timer; setting it again to the same time changes nothing.
func (r *rotator) schedule(ctx context.Context, tenant string, t events.TimerDue) error {
	e, err := events.New(events.Origin{Source: source, Tenant: tenant, Time: t.DueAt}, t)
	if err != nil {
		return bus.Permanent(err)
	}
	return r.timers.Schedule(ctx, e)
}

// timer is the timer that is set, if one is.
func (r *rotator) timer(ctx context.Context, tenant, name string) (t events.TimerDue, ok bool, err error) {
	for st, err := range r.timers.Read(ctx, bus.StreamTimer, "nhi.timer.set."+tenant+"."+events.Token(name), 1) {
		if err != nil {
			return t, false, fmt.Errorf("read the timer %s: %w", name, err)
		}
		if t, err = events.As[events.TimerDue](st.Event); err != nil {
			return t, false, err
		}
		ok = true
	}
	return t, ok, nil
}
