// Package cascade ends the managed secrets of a dead subtree through connectors, one
// receipt per revocation and secret. Only revocation imports it.
//
// The accepted revocation on the log is the intent. A secret without a receipt is due;
// it is ended, the connector proves it, and then the receipt is put on the log under
// the condition that there is none. A crash anywhere is resumed by looking again for
// what has no receipt.
package cascade

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"sync/atomic"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/failsafe-go/failsafe-go/retrypolicy"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/connector"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/secrets"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// Source of the events.
const source = "/lanyard/revocation"

// Log is what the cascade needs of the bus.
type Log interface {
	Append(ctx context.Context, b bus.Batch) (bus.Ack, error)
	Read(ctx context.Context, stream, filter string, from uint64) iter.Seq2[bus.Stored, error]
}

// Index finds secrets and what became of them.
type Index interface {
	Settle(ctx context.Context) error
	Downstreams(ctx context.Context, handle string) ([]string, error)
	Slice(ctx context.Context, handle, downstream string, slice int) ([]secrets.Record, error)
	Done(ctx context.Context, revocation string, handles ...string) (map[string]events.RevocationEnforced, error)
	IsStuck(ctx context.Context, revocation, handle string) (bool, error)
	Checkpoint(ctx context.Context, revocation, downstream string) (int, error)
	SetCheckpoint(ctx context.Context, revocation, downstream string, slice int) error
}

// Downstream is a system with its connector and limits.
type Downstream struct {
	Name         string
	Connector    connector.Connector
	Concurrency  int           // acts at once
	Timeout      time.Duration // of one try of End and Verify together
	StuckAfter   time.Duration // after accept, what is not ended is stuck
	Compensation string        // what a person can do instead
	Wait         time.Duration // first wait between tries; a circuit stays open for ten of them
}

// Config of New.
type Config struct {
	Index       Index
	Log         Log
	Downstreams []Downstream
	Sign        func(events.ReceiptSigned) (events.ReceiptSigned, error)
	Key         string // public JWK of the signature
	Now         func() time.Time
	Logger      *zap.Logger
	// Stuck is told of every secret that is put on the log as stuck.
	Stuck func(ctx context.Context, j Job, k events.RevocationStuck)
}

// Job is one revocation whose secrets have to be ended.
type Job struct {
	Revocation string
	Tenant     string // in whose log it stands
	Cause      events.Event
	Accepted   events.RevocationAccepted
}

// Engine drives connectors. It is safe for concurrent use.
type Engine struct {
	cfg   Config
	lines map[string]*line
}

// line is the way to one downstream.
type line struct {
	Downstream
	slots   chan struct{}
	breaker circuitbreaker.CircuitBreaker[done]
	policy  failsafe.Executor[done]
}

// done is a proven end.
type done struct {
	outcome events.ReceiptOutcome
	until   *time.Time
	detail  string
}

// New makes an engine.
func New(c Config) *Engine {
	e := &Engine{cfg: c, lines: map[string]*line{}}
	for _, d := range c.Downstreams {
		e.lines[d.Name] = newLine(d)
	}
	return e
}

func newLine(d Downstream) *line {
	passing := func(_ done, err error) bool {
		return err != nil && !connector.Final(err) && !errors.Is(err, context.Canceled)
	}
	l := &line{Downstream: d, slots: make(chan struct{}, d.Concurrency)}
	l.breaker = circuitbreaker.NewBuilder[done]().HandleIf(passing).WithFailureThreshold(5).WithSuccessThreshold(1).
		WithDelay(10 * d.Wait).Build()
	retry := retrypolicy.NewBuilder[done]().HandleIf(passing).AbortOnErrors(circuitbreaker.ErrOpen).
		WithBackoff(d.Wait, 8*d.Wait).WithJitterFactor(0.3).WithMaxRetries(2).ReturnLastFailure().Build()
	l.policy = failsafe.With[done](retry, l.breaker)
	return l
}

// Describe is what each configured downstream can do, by name.
func (e *Engine) Describe() map[string]connector.Description {
	out := map[string]connector.Description{}
	for name, l := range e.lines {
		out[name] = l.Connector.Describe()
	}
	return out
}

// Pass ends what is due of a job, a slice of secrets at a time, and counts what is
// left. With none left it was complete as of the log's end when it began.
func (e *Engine) Pass(ctx context.Context, j Job) (left int64, err error) {
	if err := e.cfg.Index.Settle(ctx); err != nil {
		return 0, err
	}
	names, err := e.cfg.Index.Downstreams(ctx, j.Accepted.Handle)
	if err != nil {
		return 0, err
	}
	var all errgroup.Group
	var count atomic.Int64
	for _, name := range names {
		all.Go(func() error {
			n, err := e.downstream(ctx, j, name)
			count.Add(n)
			return err
		})
	}
	err = all.Wait()
	return count.Load(), err
}

// flight is how many secrets of one revocation and downstream are under way at once:
// those that wait for their turn, and those whose receipt is on its way to the log.
// Receipts that are under way together are stored together.
const flight = 256

// downstream ends what is due in one downstream. It stops early when the circuit is
// open: whatever it left is counted by the next pass. A slice starts while secrets of
// those before it are still under way, so that the downstream never waits for us.
func (e *Engine) downstream(ctx context.Context, j Job, name string) (int64, error) {
	from, err := e.cfg.Index.Checkpoint(ctx, j.Revocation, name)
	if err != nil {
		return 0, err
	}
	p := &pass{e: e, job: j, line: e.lines[name], flight: make(chan struct{}, flight)}
	started := make(chan *page, secrets.Slices)
	ended := make(chan error, 1)
	go func() { ended <- p.collect(ctx, name, started) }()
	for i := from; i < secrets.Slices && err == nil; i++ {
		var records []secrets.Record
		if records, err = e.cfg.Index.Slice(ctx, j.Accepted.Handle, name, i); err != nil || len(records) == 0 {
			continue
		}
		pg := &page{slice: i}
		err = p.start(ctx, pg, records)
		pg.whole = err == nil
		started <- pg
		if p.left.Load() > 0 && p.line != nil && p.line.breaker.IsOpen() {
			break
		}
	}
	close(started)
	err = errors.Join(err, <-ended)
	return p.left.Load(), errors.Join(err, ctx.Err())
}

// pass is the work on one revocation in one downstream.
type pass struct {
	e      *Engine
	job    Job
	line   *line // nil when none is configured
	flight chan struct{}
	left   atomic.Int64
}

// page is the secrets of one slice that are under way.
type page struct {
	slice int
	whole bool // every due one was started
	all   sync.WaitGroup
}

// start starts what is due of a page and waits only for room.
func (p *pass) start(ctx context.Context, pg *page, records []secrets.Record) error {
	handles := make([]string, len(records))
	for i, r := range records {
		handles[i] = r.Handle
	}
	settled, err := p.e.cfg.Index.Done(ctx, p.job.Revocation, handles...)
	if err != nil {
		return err
	}
	for _, r := range records {
		if _, ok := settled[r.Handle]; ok {
			continue
		}
		if err := take(ctx, p.flight); err != nil {
			return err
		}
		pg.all.Go(func() {
			defer func() { <-p.flight }()
			if p.e.secret(ctx, p.job, p.line, r) != nil {
				p.left.Add(1)
			}
		})
	}
	return nil
}

// collect waits for the pages in their order and moves the checkpoint past those
// that are done.
func (p *pass) collect(ctx context.Context, name string, started <-chan *page) (err error) {
	whole := true
	for pg := range started {
		pg.all.Wait()
		whole = whole && pg.whole && p.left.Load() == 0 && err == nil
		if whole {
			err = p.e.cfg.Index.SetCheckpoint(ctx, p.job.Revocation, name, pg.slice+1)
		}
	}
	return err
}

// take takes a place and waits for it no longer than ctx.
func take(ctx context.Context, places chan<- struct{}) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case places <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Secret ends one secret, unless the log has its receipt.
func (e *Engine) Secret(ctx context.Context, j Job, r secrets.Record) error {
	settled, err := e.cfg.Index.Done(ctx, j.Revocation, r.Handle)
	if err != nil {
		return err
	}
	if _, ok := settled[r.Handle]; ok {
		return nil
	}
	return e.secret(ctx, j, e.lines[r.Downstream], r)
}

// errNoDownstream: nothing is configured of that name.
var errNoDownstream = errors.New("no downstream of this name is configured")

// errAlive: the connector has acted and the account is still alive.
var errAlive = errors.New("it was ended and is alive all the same")

// secret acts, proves, and puts the receipt on the log. The downstream's turn ends
// with the proof: the next one does not wait for the log.
func (e *Engine) secret(ctx context.Context, j Job, l *line, r secrets.Record) error {
	var d done
	err := error(connector.Refused("find downstream", errNoDownstream))
	if l != nil {
		t := connector.Target{Request: events.DeterministicID("cascade", j.Revocation, r.Handle), Revocation: j.Revocation,
			Reason: j.Accepted.Reason, Tenant: r.Tenant, Secret: r.Secret, Account: r.Account}
		d, err = l.turn(ctx, t)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		e.failed(ctx, j, l, r, err)
		return err
	}
	if err := e.receipt(ctx, j, r, d); err != nil {
		e.cfg.Logger.Warn("receipt of a secret is not on the log; it is ended again", zap.String("revocation", j.Revocation), zap.String("secret", r.Handle), zap.Error(err))
		return err
	}
	return nil
}

// turn waits for a slot and ends an account in it, with retries.
func (l *line) turn(ctx context.Context, t connector.Target) (done, error) {
	if err := take(ctx, l.slots); err != nil {
		return done{}, err
	}
	defer func() { <-l.slots }()
	return l.policy.WithContext(ctx).Get(func() (done, error) { return l.act(ctx, t) })
}

// act ends an account and proves it. Without proof there is no success.
func (l *line) act(ctx context.Context, t connector.Target) (done, error) {
	ctx, cancel := context.WithTimeout(ctx, l.Timeout)
	defer cancel()
	res, err := l.Connector.End(ctx, t)
	if err != nil {
		return done{}, err
	}
	if res.Outcome == connector.UnsupportedUntil {
		until := res.Until.UTC()
		return done{events.ReceiptUnsupportedUntil, &until, res.Detail}, nil
	}
	st, err := l.Connector.Verify(ctx, t)
	switch {
	case err != nil:
		return done{}, fmt.Errorf("prove the end: %w", err)
	case st.Dead:
		return done{events.ReceiptOutcome(res.Outcome), nil, st.Detail}, nil
	case !st.Until.IsZero():
		until := st.Until.UTC()
		return done{events.ReceiptUnsupportedUntil, &until, st.Detail}, nil
	}
	return done{}, connector.Unreachable("prove the end", errAlive)
}

// Point names a secret among what has to answer.
func Point(r secrets.Record) string { return r.Downstream + "/" + r.Handle }

// receipt signs and stores what was proven, once per revocation and secret.
func (e *Engine) receipt(ctx context.Context, j Job, r secrets.Record, d done) error {
	a, now := j.Accepted, e.cfg.Now().UTC()
	signed, err := e.cfg.Sign(events.ReceiptSigned{Revocation: j.Revocation, Handle: a.Handle, Point: Point(r), Outcome: d.outcome,
		Epoch: a.Epoch, Sequence: a.Sequence, AppliedAt: now, Until: d.until})
	if err != nil {
		return fmt.Errorf("sign receipt: %w", err)
	}
	return e.append(ctx, j, events.RevocationEnforced{Revocation: j.Revocation, Point: signed.Point, Outcome: d.outcome, AppliedAt: now,
		LatencyMS: max(0, float64(now.Sub(a.AcceptedAt))/1e6), Receipt: signed.JWS, Key: e.cfg.Key, Secret: r.Handle}, now)
}

// append stores p unless the secret's history under the revocation has what p says
// already.
func (e *Engine) append(ctx context.Context, j Job, p events.Payload, now time.Time) error {
	ev, err := events.New(events.Origin{Source: source, Tenant: j.Tenant, Time: now, Cause: &j.Cause}, p)
	if err != nil {
		return err
	}
	filter := events.EntityFilter(j.Tenant, p.Entity())
	for at, wait := uint64(0), time.Millisecond; ; wait = min(2*wait, time.Second) {
		_, err := e.cfg.Log.Append(ctx, bus.Batch{Events: []events.Event{ev}, Expect: &bus.Expect{Filter: filter, Sequence: at}})
		if !errors.Is(err, bus.ErrConflict) {
			return err
		}
		for st, err := range e.cfg.Log.Read(ctx, bus.StreamLog, filter, 1) {
			if err != nil {
				return fmt.Errorf("read what became of secret: %w", err)
			}
			if st.Event.Type() == p.EventType() || st.Event.Type() == events.TypeRevocationEnforced {
				return nil
			}
			at = st.Sequence
		}
		if !pause(ctx, wait) { // a read may lag behind the conflict
			return ctx.Err()
		}
	}
}

// pause waits; false means that ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// failed puts a secret on the log as stuck when only a person can help, or when it
// takes too long. It is tried again all the same.
func (e *Engine) failed(ctx context.Context, j Job, l *line, r secrets.Record, why error) {
	compensation, limit := "configure the downstream, or end the account there by hand and say so with 'lanyard secret untrack'", time.Duration(0)
	if l != nil {
		compensation, limit = l.Compensation, l.StuckAfter
	}
	e.cfg.Logger.Warn("secret is not ended; it is tried again", zap.String("revocation", j.Revocation), zap.String("downstream", r.Downstream),
		zap.String("secret", r.Handle), zap.Error(why))
	now := e.cfg.Now()
	if !connector.Final(why) && now.Sub(j.Accepted.AcceptedAt) < limit {
		return
	}
	if told, err := e.cfg.Index.IsStuck(ctx, j.Revocation, r.Handle); told || err != nil {
		return
	}
	k := events.RevocationStuck{Revocation: j.Revocation, Point: Point(r), Owner: r.Owner, Reason: clip(why.Error()), Compensation: compensation, Secret: r.Handle}
	if err := e.append(ctx, j, k, now.UTC()); err != nil {
		e.cfg.Logger.Warn("stuck secret is not on the log", zap.String("revocation", j.Revocation), zap.Error(err))
		return
	}
	e.cfg.Stuck(ctx, j, k)
}

// clip bounds a text for an event.
func clip(s string) string {
	if len(s) > 512 {
		return s[:512]
	}
	return s
}
