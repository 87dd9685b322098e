package revocation

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/accept"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/drill"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/ledger"
	"go.uber.org/zap"
)

// canary is the identity that drills are done with, and the feature it belongs to.
const canary = "lanyard-drill"

const (
	drillEvery = 10 * time.Second      // how often it is looked what is due
	drillLook  = 2 * time.Millisecond  // how often the canary is tried while it dies
	drillMint  = 20 * time.Second      // for a canary credential
	drillLost  = 2 * time.Minute       // beyond the objective: then a drill's process is dead
	drillQueue = 16                    // drills that wait
	drillSoon  = 50 * time.Millisecond // between two tries to mint
)

// errBusy: too many drills wait.
var errBusy = errors.New("too many drills wait; ask again in a minute")

// prober is the process's own guard, as the canary meets it.
type prober interface {
	Check(ctx context.Context, r guard.Request) (token.Claims, error)
}

// minter gets a canary credential from the public token endpoint.
type minter interface {
	Mint(ctx context.Context, tenant, task string) (string, error)
}

// drills prove that the kill switch works: they mint a canary, revoke it by the door
// that everybody uses, and see that every enforcement point refuses it.
type drills struct {
	*revoker
	book    *drill.Book
	probe   prober
	mint    minter
	conf    config.Drills
	queue   chan started
	born    time.Time
	metrics *drillMetrics
}

// started is a drill that is on the log and not yet done.
type started struct {
	tenant string
	cause  events.Event
	events.DrillStarted
}

func newDrills(r *revoker, env service.Env, mint minter, probe prober) (*drills, error) {
	d := &drills{revoker: r, book: drill.New(r.bus), probe: probe, mint: mint, conf: env.Config.Revocation.Drills,
		queue: make(chan started, drillQueue), born: r.now()}
	var err error
	d.metrics, err = newDrillMetrics(env.Metrics, d.book, r.now)
	return d, err
}

// openDrills makes the drills that use the public token endpoint.
func openDrills(r *revoker, env service.Env) (*drills, error) {
	key, err := canarySigner(r.signer)
	if err != nil {
		return nil, err
	}
	return newDrills(r, env, endpoint{client: env.Outbound, issuer: r.issuer, signer: key, now: env.Now, rand: env.Rand}, env.Guard)
}

func (d *drills) tasks() []service.Task {
	return []service.Task{{Name: "drill book", Run: d.book.Run}, {Name: "drills", Run: d.run}}
}

// run does the drills that were asked for and those that are due, one at a time.
func (d *drills) run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-d.book.Ready():
	}
	if err := d.ready(ctx); err != nil {
		return nil
	}
	tick := time.NewTicker(drillEvery)
	defer tick.Stop()
	for {
		d.due(ctx)
		select {
		case <-ctx.Done():
			return nil
		case s := <-d.queue:
			d.do(ctx, s)
		case <-tick.C:
		}
	}
}

// due begins what is due, ends on paper what died with its process, and tells the SOC
// which switches were not proven for too long.
func (d *drills) due(ctx context.Context) {
	now := d.now()
	for _, lost := range d.book.Unfinished(now.Add(-d.objective - drillLost)) {
		s := started{lost.Tenant, lost.Cause, lost.Started}
		d.finish(ctx, s, events.DrillFinished{Outcome: events.DrillNotRun, Reason: "the process that ran it stopped"})
	}
	every := time.Duration(d.conf.Every)
	if every <= 0 {
		return
	}
	for _, tenant := range d.conf.Tenants {
		st := d.book.Status(tenant)
		if st.Due(every, now) {
			last := "never"
			if st.Last != nil {
				last = st.Last.Started.Drill
			}
			// Every replica finds the same drill due; one of them begins it.
			s, err := d.begin(ctx, tenant, events.DeterministicID("drill", tenant, last), "schedule")
			switch {
			case errors.Is(err, bus.ErrConflict):
			case err != nil:
				d.log.Warn("drill could not begin", zap.String("tenant", tenant), zap.Error(err))
			default:
				d.do(ctx, s)
			}
		}
		if st = d.book.Status(tenant); st.Overdue(every, d.born, d.now()) {
			d.overdueProof(ctx, st, every)
		}
	}
}

// begin puts the intent on the log. The error wraps bus.ErrConflict when another
// process has begun this drill.
func (d *drills) begin(ctx context.Context, tenant, id, by string) (started, error) {
	s := started{tenant: tenant, DrillStarted: events.DrillStarted{Drill: id, By: by, Task: "drill-" + id, StartedAt: d.now().UTC()}}
	e, err := events.New(events.Origin{Source: source, Tenant: tenant, Time: s.StartedAt, Discriminator: id}, s.DrillStarted)
	if err != nil {
		return s, err
	}
	s.cause = e
	if _, err := d.bus.Append(ctx, bus.Batch{Events: []events.Event{e}, Expect: &bus.Expect{Filter: events.EntityFilter(tenant, id), Sequence: 0}}); err != nil {
		return s, fmt.Errorf("begin drill: %w", err)
	}
	return s, nil
}

// ask begins a drill and leaves it to the task.
func (d *drills) ask(ctx context.Context, tenant, by string) (started, error) {
	if len(d.queue) == cap(d.queue) {
		return started{}, errBusy
	}
	var b [16]byte
	if _, err := io.ReadFull(d.rand, b[:]); err != nil {
		return started{}, fmt.Errorf("make drill id: %w", err)
	}
	s, err := d.begin(ctx, tenant, hex.EncodeToString(b[:]), by)
	if err != nil {
		return s, err
	}
	select {
	case d.queue <- s:
		return s, nil
	default:
		d.finish(ctx, s, events.DrillFinished{Outcome: events.DrillNotRun, Reason: errBusy.Error()})
		return s, errBusy
	}
}

// do is one drill, from the intent on.
func (d *drills) do(ctx context.Context, s started) {
	f := d.perform(ctx, s)
	if ctx.Err() != nil {
		return // the next start ends it on paper
	}
	d.finish(ctx, s, f)
	d.metrics.observe(s.tenant, f)
	if f.Outcome == events.DrillProven {
		return
	}
	err := d.alert(ctx, alert{detector: "DRL", tenant: s.tenant, id: "drill:" + s.Drill, name: "kill_switch_not_proven", severity: events.SeverityHigh, identity: canary,
		explanation: fmt.Sprintf("Drill %s has not proven the kill switch (%s): %s.", s.Drill, f.Outcome, f.Reason), evidence: []string{s.cause.ID()}, seen: s.StartedAt,
		cause: &s.cause, command: "lanyard drill status --tenant " + s.tenant})
	if err != nil {
		d.log.Warn("alert of a drill could not be sent", zap.String("drill", s.Drill), zap.Error(err))
	}
}

func (d *drills) finish(ctx context.Context, s started, f events.DrillFinished) {
	f.Drill, f.StartedAt, f.FinishedAt = s.Drill, s.StartedAt, d.now().UTC()
	if f.Points == nil {
		f.Points = []events.DrillPoint{}
	}
	e, err := events.New(events.Origin{Source: source, Tenant: s.tenant, Time: f.FinishedAt, Cause: &s.cause}, f)
	if err == nil {
		_, err = d.bus.Append(ctx, bus.Batch{Events: []events.Event{e}})
	}
	if err != nil && ctx.Err() == nil {
		d.log.Warn("result of a drill is not on the log", zap.String("drill", s.Drill), zap.Error(err))
	}
}

// perform mints a canary, sees that it is accepted, revokes it, and sees that it is
// refused everywhere.
func (d *drills) perform(ctx context.Context, s started) events.DrillFinished {
	notRun := func(format string, args ...any) events.DrillFinished {
		text := fmt.Sprintf(format, args...)
		return events.DrillFinished{Outcome: events.DrillNotRun, Reason: text[:min(len(text), 1000)]}
	}
	raw, err := d.minted(ctx, s)
	if err != nil {
		return notRun("no canary: %v", err)
	}
	claims, err := d.accepted(ctx, raw)
	if err != nil {
		return notRun("the canary is refused before it is revoked: %v", err)
	}
	p := events.RevocationRequested{Mode: events.ModeRevoke, Target: events.Target{Kind: "task", Tenant: s.tenant, ID: s.Task},
		Reason: "drill " + s.Drill, RequestedBy: canary}
	e, err := events.New(events.Origin{Source: source, Tenant: s.tenant, Time: d.now(), Cause: &s.cause}, p)
	if err != nil {
		return notRun("no request: %v", err)
	}
	begun := d.now()
	since := func() float64 { return float64(d.now().Sub(begun)) / 1e6 }
	if err := d.bus.Publish(ctx, e); err != nil {
		return notRun("the request is not durable: %v", err)
	}
	res, err := d.accept(ctx, e, accept.Request{Revocation: ID(s.tenant, e.ID()), Tenant: s.tenant, RevocationRequested: p})
	switch {
	case err != nil:
		return notRun("not accepted: %v", err)
	case res.Code != "" || res.Pending:
		return notRun("not accepted: %s %s", res.Code, res.Reason)
	}
	f := events.DrillFinished{Revocation: res.ID, Credential: claims.ID, AcceptedMS: since()}
	d.watch(ctx, raw, &f, since)
	return f
}

// watch tries the canary until it is refused and waits until the revocation is closed,
// or the objective is over.
func (d *drills) watch(ctx context.Context, raw string, f *events.DrillFinished, since func() float64) {
	ctx, cancel := context.WithTimeout(ctx, d.objective)
	defer cancel()
	tick := time.NewTicker(drillLook)
	defer tick.Stop()
	refused, closed := false, false
	for !refused || !closed {
		changed := d.ledger.Watch(f.Revocation)
		if !refused && d.refuses(ctx, raw) {
			refused, f.RefusedMS = true, since()
		}
		var s *ledger.State
		if s, _ = d.ledger.Get(ctx, f.Revocation); s != nil && s.Closed != nil && !closed {
			closed, f.ClosedMS = true, since()
		}
		if refused && closed {
			d.ledger.Unwatch(f.Revocation, changed)
			break
		}
		look := tick.C
		if refused {
			look = nil
		}
		select {
		case <-changed:
		case <-look:
			d.ledger.Unwatch(f.Revocation, changed)
		case <-ctx.Done():
			d.ledger.Unwatch(f.Revocation, changed)
			d.judge(f, refused, closed)
			return
		}
	}
	d.judge(f, refused, closed)
}

// judge fills in what each point did and what that shows.
func (d *drills) judge(f *events.DrillFinished, refused, closed bool) {
	points := []events.DrillPoint{}
	_ = d.ledger.Inspect(context.Background(), f.Revocation, func(s *ledger.State) { // without a state no point has answered
		if s.Accepted == nil {
			return
		}
		f.Expected = len(s.Accepted.Guards)
		for _, g := range s.Accepted.Guards {
			a := s.Answers[g.Point]
			points = append(points, events.DrillPoint{Point: g.Point, Outcome: a.Outcome, LatencyMS: max(a.LatencyMS, 0)})
		}
	})
	f.Outcome, f.Reason = drill.Judge(refused, closed, points)
	f.Points = drill.Slowest(points)
}

// refuses reports whether this process's own guard refuses the canary as revoked.
func (d *drills) refuses(ctx context.Context, raw string) bool {
	_, err := d.probe.Check(ctx, guard.Request{Token: raw})
	denial, ok := errors.AsType[*guard.Denial](err)
	return ok && denial.Code == guard.CodeRevoked
}

// accepted waits until this process's own guard accepts the canary: it may not know
// the signing key yet.
func (d *drills) accepted(ctx context.Context, raw string) (token.Claims, error) {
	ctx, cancel := context.WithTimeout(ctx, drillMint)
	defer cancel()
	tick := time.NewTicker(drillSoon)
	defer tick.Stop()
	for {
		claims, err := d.probe.Check(ctx, guard.Request{Token: raw})
		if err == nil || ctx.Err() != nil {
			return claims, err
		}
		select {
		case <-ctx.Done():
			return claims, err
		case <-tick.C:
		}
	}
}

// overdueProof tells the SOC that nobody knows whether the switch works.
func (d *drills) overdueProof(ctx context.Context, st drill.Status, every time.Duration) {
	since, last := d.born, "never"
	if st.LastProven != nil {
		since, last = *st.LastProven, st.LastProven.UTC().Format(time.RFC3339)
	}
	id := "drill-overdue:" + st.Tenant + ":" + last
	if _, told := d.alerted.LoadOrStore(id, true); told {
		return
	}
	err := d.alert(ctx, alert{detector: "DRL", tenant: st.Tenant, id: id, name: "kill_switch_unproven", severity: events.SeverityHigh, identity: canary,
		explanation: fmt.Sprintf("The kill switch of %s is to be proven every %s and was last proven: %s.", st.Tenant, every, last), evidence: []string{}, seen: since,
		command: "lanyard drill run --tenant " + st.Tenant})
	if err != nil {
		d.alerted.Delete(id)
		d.log.Warn("alert of an unproven kill switch could not be sent", zap.String("tenant", st.Tenant), zap.Error(err))
	}
}
