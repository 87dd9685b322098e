// Package rotation owns due dates: it states when a credential has expired, when a task
// gave no sign of life for too long and when the grace of a departed owner is over, and
// it takes the issuer's signing key through its rotations. Every due date is a durable
// timer on the bus, so none is lost in a restart.
//
// Its door is New; only compositions (cmd and the all-in-one) import it.
package rotation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/internal/state"
	"github.com/lanyard-nhi/lanyard/services/rotation/internal/stages"
	"go.uber.org/zap"
)

const (
	source = "/lanyard/rotation" // of the service's events

	defaultPeriod  = 720 * time.Hour
	defaultPrepare = 10 * time.Minute
	defaultMaxTTL  = 15 * time.Minute
	skew           = time.Minute // of verifiers' clocks, part of the default overlap
	minDeadline    = time.Minute // least time that issuance is given to prepare a key

	kindExpiry = "credential.expiry"
	timerName  = "rotation-" + stages.SigningKey // the one timer of the signing key

	catchUp = 30 * time.Second // how often it is checked that no due date was missed
)

// timers is what rotation needs of the bus besides the log.
type timers interface {
	Schedule(ctx context.Context, e events.Event) error
	Cancel(ctx context.Context, tenant, timer string) error
	Read(ctx context.Context, stream, filter string, from uint64) iter.Seq2[bus.Stored, error]
}

type rotator struct {
	timers timers
	keys   *state.Entities[stages.State]
	config stages.Config
	grace  time.Duration // after the departure of an owner
	now    func() time.Time
	log    *zap.Logger
}

// New builds the service.
func New(env service.Env) (service.Service, error) {
	r := &rotator{
		timers: env.Bus,
		keys:   state.NewEntities(env.Bus, env.State, "rotation", stages.Fold),
		config: pace(env.Config),
		grace:  time.Duration(env.Config.Issuance.OwnerGrace),
		now:    env.Now,
		log:    env.Log,
	}
	stated := []string{events.TypeRotationScheduled, events.TypeRotationActivated, events.TypeRotationRetired, events.TypeRotationFailed}
	return service.Service{
		Name:      "rotation",
		Exclusive: true,
		Handlers: []bus.Handler{
			bus.On(r.issued),
			bus.On(r.due, events.TypeCredentialExpired, events.TypeTaskEnded, events.TypeOwnerOverdue),
			bus.On(r.heartbeat),
			bus.On(r.closed),
			bus.On(r.departed),
			bus.On(r.prepared),
			bus.On(r.failed),
		},
		Tasks: []service.Task{{Name: "catch-up", Run: r.catchUp}},
		// Stages are appended on the condition that the object has not moved on, not
		// returned by handlers; timers are set beside them.
		Publishes: append(stated, events.TypeTimerDue),
		Reads:     []string{bus.StreamTimer},
		HTTP:      r.http(env),
	}, nil
}

// pace reads the configuration and its defaults.
func pace(c config.Config) stages.Config {
	p := stages.Config{
		Period:  cmp.Or(time.Duration(c.Rotation.SigningKeyPeriod), defaultPeriod),
		Prepare: cmp.Or(time.Duration(c.Rotation.Prepare), defaultPrepare),
		Overlap: cmp.Or(time.Duration(c.Rotation.Overlap), cmp.Or(time.Duration(c.Issuance.MaxTTL), defaultMaxTTL)+skew),
	}
	p.Deadline = max(p.Prepare, minDeadline)
	return p
}

// issued sets the timer of a credential's end, and of its task's when that must give signs
// of life. Setting it again changes nothing.
func (r *rotator) issued(ctx context.Context, cause events.Event, p events.CredentialIssued) ([]events.Event, error) {
	if err := r.begun(ctx, events.Tenant(cause), p); err != nil {
		return nil, err
	}
	return nil, r.setExpiry(ctx, events.Tenant(cause), p.Credential, p.Identity, p.ExpiresAt)
}

func (r *rotator) setExpiry(ctx context.Context, tenant, credential, identity string, at time.Time) error {
	due := events.TimerDue{Timer: credential, Kind: kindExpiry, Ref: credential, Owner: identity, DueAt: at.UTC()}
	e, err := events.New(events.Origin{Source: source, Tenant: tenant, Time: at}, due)
	if err != nil {
		return bus.Permanent(err)
	}
	return r.timers.Schedule(ctx, e)
}

// due takes a timer that fired. One that fired early is set again.
func (r *rotator) due(ctx context.Context, cause events.Event, p events.TimerDue) ([]events.Event, error) {
	switch p.Kind {
	case kindExpiry:
		return r.expire(ctx, cause, p)
	case kindHeartbeat:
		return r.silent(ctx, cause, p)
	case kindGrace:
		return r.overdue(ctx, cause, p)
	case stages.KindStart, stages.KindDeadline, stages.KindActivate, stages.KindRetire:
		if events.Tenant(cause) != service.SystemTenant || p.Timer != timerName {
			return nil, bus.Permanent(fmt.Errorf("timer %s of tenant %s: only %s has timers of kind %s", p.Timer, events.Tenant(cause), service.SystemTenant, p.Kind))
		}
		return nil, r.advance(ctx, stages.Timer{Kind: p.Kind, Ref: p.Ref, At: p.DueAt})
	}
	return nil, bus.Permanent(fmt.Errorf("timer %s is of unknown kind %q", p.Timer, p.Kind))
}

// expire states that a credential has reached its end. The id of the fact derives
// from the credential, so stating it again is the same fact.
func (r *rotator) expire(ctx context.Context, cause events.Event, p events.TimerDue) ([]events.Event, error) {
	tenant := events.Tenant(cause)
	if r.now().Before(p.DueAt) {
		// A later second, since setting a timer to the same time is a repetition.
		return nil, r.setExpiry(ctx, tenant, p.Ref, p.Owner, p.DueAt.Add(time.Second))
	}
	e, err := events.New(events.Origin{Source: source, Tenant: tenant, Time: p.DueAt, Cause: &cause,
		ID: events.DeterministicID("credential.expired", tenant, p.Owner, p.Ref)},
		events.CredentialExpired{Credential: p.Ref, Identity: p.Owner, ExpiredAt: p.DueAt})
	if err != nil {
		return nil, bus.Permanent(err)
	}
	return []events.Event{e}, nil
}

// prepared and failed come from issuance; what follows may need another timer.
func (r *rotator) prepared(ctx context.Context, cause events.Event, _ events.RotationPrepared) ([]events.Event, error) {
	return nil, r.moved(ctx, cause)
}

func (r *rotator) failed(ctx context.Context, cause events.Event, p events.RotationFailed) ([]events.Event, error) {
	if cause.Source() != source {
		r.log.Error("rotation failed", zap.String("rotation", p.Rotation.Rotation), zap.String("reason", p.Reason))
	}
	return nil, r.moved(ctx, cause)
}

func (r *rotator) moved(ctx context.Context, cause events.Event) error {
	if events.Tenant(cause) != service.SystemTenant || cause.Subject() != stages.SigningKey {
		return nil
	}
	return r.advance(ctx, stages.Timer{})
}

// advance states what is due and sets the timer of what comes next. It may be called
// at any time, by any process: the log decides.
func (r *rotator) advance(ctx context.Context, fired stages.Timer) error {
	now := r.now()
	s, _, err := r.keys.Decide(ctx, service.SystemTenant, stages.SigningKey, func(s stages.State) ([]events.Event, error) {
		return r.state(s, stages.Next(s, r.config, now, fired), now)
	})
	if err != nil {
		return err
	}
	if stages.Early(s, fired, now) {
		fired.At = now.Add(time.Second)
		return r.set(ctx, fired)
	}
	return r.arm(ctx, s)
}

// state makes the event of a stage. Its id derives from the rotation and the stage.
func (r *rotator) state(s stages.State, p events.Payload, now time.Time) ([]events.Event, error) {
	if p == nil {
		return nil, nil
	}
	rotation := s.Current.ID
	if p, ok := p.(events.RotationScheduled); ok {
		rotation = p.Rotation.Rotation
	}
	e, err := events.New(events.Origin{Source: source, Tenant: service.SystemTenant, Time: now,
		ID: events.DeterministicID(source, rotation, p.EventType())}, p)
	if err != nil {
		return nil, err
	}
	if rotation == s.Current.ID && s.Current.Correlation != "" {
		e.SetExtension(events.ExtCorrelation, s.Current.Correlation)
	}
	return []events.Event{e}, nil
}

// arm sets the one timer of the signing key, unless it is set as it should be.
func (r *rotator) arm(ctx context.Context, s stages.State) error {
	set, err := r.armed(ctx)
	if err != nil {
		return err
	}
	now := r.now()
	want := stages.Wake(s, r.config, now, set)
	if want.Same(set) && want.At.Equal(set.At) {
		return nil
	}
	return r.set(ctx, want)
}

// set sets the timer. It is another message than the one that may have fired, as the
// bus would drop a repetition.
func (r *rotator) set(ctx context.Context, t stages.Timer) error {
	now := r.now()
	due := events.TimerDue{Timer: timerName, Kind: t.Kind, Ref: t.Ref, Owner: stages.SigningKey, DueAt: t.At.UTC()}
	e, err := events.New(events.Origin{Source: source, Tenant: service.SystemTenant, Time: now, Discriminator: now.Format(time.RFC3339Nano)}, due)
	if err != nil {
		return err
	}
	return r.timers.Schedule(ctx, e)
}

// armed is the timer that is set, the zero Timer when none is.
func (r *rotator) armed(ctx context.Context) (stages.Timer, error) {
	var t stages.Timer
	subject := "nhi.timer.set." + service.SystemTenant + "." + events.Token(timerName)
	for st, err := range r.timers.Read(ctx, bus.StreamTimer, subject, 1) {
		if err != nil {
			return t, fmt.Errorf("read the timer that is set: %w", err)
		}
		p, err := events.As[events.TimerDue](st.Event)
		if err != nil {
			return t, err
		}
		t = stages.Timer{Kind: p.Kind, Ref: p.Ref, At: p.DueAt}
	}
	return t, nil
}

// catchUp finds what was missed: at the start, and now and then.
func (r *rotator) catchUp(ctx context.Context) error {
	tick := time.NewTicker(catchUp)
	defer tick.Stop()
	for {
		err := r.advance(ctx, stages.Timer{})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && !errors.Is(err, bus.ErrUnknownOutcome):
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
