package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Headers of message schedules (ADR-51), for which nats.go has options but no names.
const (
	headerSchedule       = "Nats-Schedule"
	headerScheduleTarget = "Nats-Schedule-Target"
	headerScheduleTTL    = "Nats-Schedule-TTL" // of the message that the schedule makes, not of the schedule
	headerScheduler      = "Nats-Scheduler"
	headerScheduleNext   = "Nats-Schedule-Next"
)

// Schedule sets a durable timer: the TimerDue event is delivered to its handler
// at DueAt (whole seconds, never early by more than 1 s). Setting it again moves it.
// A time that has passed is due at once. A timer that is set stays until it fires or
// is cancelled; one that has fired stays for its handler for 7 days, like what
// products publish.
func (c *Conn) Schedule(ctx context.Context, e events.Event) error {
	p, err := events.As[events.TimerDue](e)
	if err != nil {
		return fmt.Errorf("schedule timer: %w", err)
	}
	it, err := newItem(e)
	if err != nil {
		return fmt.Errorf("schedule timer: %w", err)
	}
	due := p.DueAt.UTC().Truncate(time.Second)
	if due.Before(p.DueAt) {
		due = due.Add(time.Second)
	}
	target := it.subject
	it.subject = timerSet(events.Tenant(e), p.Timer)
	it.id = "timer|" + it.id + "|" + due.Format(time.RFC3339)
	it.header = nats.Header{
		headerContentType: {events.ContentType},
		headerSchedule:    {"@at " + due.Format(time.RFC3339)}, headerScheduleTarget: {target},
		headerScheduleTTL: {wholeSeconds(c.t.dueKeep)},
	}
	if _, err := c.store(ctx, []item{it}, nil); err != nil {
		return fmt.Errorf("schedule timer %s: %w", p.Timer, err)
	}
	return nil
}

// Cancel removes a timer that has not fired.
func (c *Conn) Cancel(ctx context.Context, tenant, timer string) error {
	if !events.ValidTenant(tenant) || timer == "" {
		return errors.New("cancel timer: want a tenant and a timer")
	}
	// Purging a schedule takes a message on another subject; it needs no permission
	// to purge the stream.
	it := item{stream: StreamTimer, subject: "nhi.timer.cancel." + tenant + "." + events.Token(timer),
		id: fmt.Sprintf("cancel|%s|%s|%d", tenant, timer, c.cfg.Now().UnixNano()),
		header: nats.Header{headerScheduler: {timerSet(tenant, timer)}, headerScheduleNext: {"purge"},
			jetstream.MsgTTLHeader: {"60s"}}}
	if _, err := c.store(ctx, []item{it}, nil); err != nil {
		return fmt.Errorf("cancel timer %s: %w", timer, err)
	}
	return nil
}

func timerSet(tenant, timer string) string {
	return "nhi.timer.set." + tenant + "." + events.Token(timer)
}
