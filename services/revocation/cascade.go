package revocation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/cascade"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/closure"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/ledger"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/secrets"
	"go.uber.org/zap"
)

// errCleanup: guards refuse the subtree and managed secrets of it may still be alive.
var errCleanup = errors.New("managed secrets of the subtree are not ended yet")

const (
	// cleanEvery is the time between two looks for secrets that are due.
	cleanEvery = 100 * time.Millisecond
	// cleanWait and cleanMax bound the time between two passes over what is left of a
	// revocation.
	cleanWait, cleanMax = 250 * time.Millisecond, 30 * time.Second
	// cleanGroup is how many fresh secrets are compared at once.
	cleanGroup = 200
)

// cleaner ends the managed secrets of dead subtrees.
type cleaner struct {
	r           *revoker
	index       *secrets.Index
	engine      *cascade.Engine
	downstreams map[string]config.Downstream
	closers     []io.Closer

	mu    sync.Mutex
	works map[string]*work // by revocation that is open
	told  sync.Map         // revocation and downstream whose first stuck secret raised an alert
}

// work is where one revocation stands in this process.
type work struct {
	busy, complete bool
	tries          int
	next           time.Time
}

// openCleaner makes the cleaner of r with the configured downstreams.
func openCleaner(r *revoker, env service.Env) (*cleaner, error) {
	c := &cleaner{r: r, index: secrets.New(env.State, env.Bus), downstreams: map[string]config.Downstream{}, works: map[string]*work{}}
	for _, d := range env.Config.Revocation.Downstreams {
		c.downstreams[d.Name] = d
	}
	lines, closers, err := connect(env.Config, env.Now)
	c.closers = closers
	if err != nil {
		return nil, errors.Join(err, c.close())
	}
	jwk, err := r.signer.Key().JWK()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make key of receipts: %w", err), c.close())
	}
	sign := func(p events.ReceiptSigned) (events.ReceiptSigned, error) { return guard.SignReceipt(r.signer, p) }
	c.engine = cascade.New(cascade.Config{Index: c.index, Log: env.Bus, Downstreams: lines, Sign: sign, Key: string(jwk),
		Now: env.Now, Logger: env.Log, Stuck: c.stuck})
	return c, nil
}

func (c *cleaner) close() error {
	var errs []error
	for _, x := range c.closers {
		errs = append(errs, x.Close())
	}
	return errors.Join(errs...)
}

func (c *cleaner) tasks() []service.Task {
	return []service.Task{{Name: "secrets", Run: c.index.Run}, {Name: "cascade", Run: c.run}}
}

// run looks for due secrets until ctx ends, and waits then for what is under way.
func (c *cleaner) run(ctx context.Context) error {
	if err := c.r.ready(ctx); err != nil {
		return nil // ctx ended
	}
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { _ = c.r.every(cleanEvery, c.late)(ctx) })
	return c.r.every(cleanEvery, func(ctx context.Context) error {
		c.look(ctx, &all)
		return nil
	})(ctx)
}

// look starts a pass over every open revocation that is due for one.
func (c *cleaner) look(ctx context.Context, all *sync.WaitGroup) {
	now, open := c.r.now(), c.r.ledger.Unfinished(c.r.now())
	c.mu.Lock()
	defer c.mu.Unlock()
	kept := make(map[string]*work, len(open))
	for _, id := range open {
		w := c.works[id]
		if w == nil {
			w = &work{}
		}
		kept[id] = w
		if w.busy || w.complete || now.Before(w.next) {
			continue
		}
		w.busy = true
		all.Go(func() { c.pass(ctx, id, w) })
	}
	c.works = kept
}

// job is what a revocation asks for; ok is false when there is nothing to end for it.
func (c *cleaner) job(ctx context.Context, id string) (j cascade.Job, ok bool, err error) {
	err = c.r.ledger.Inspect(ctx, id, func(s *ledger.State) {
		if s.Accepted != nil && s.Accepted.Mode == events.ModeRevoke {
			j, ok = cascade.Job{Revocation: id, Tenant: s.Tenant, Cause: s.Cause(), Accepted: *s.Accepted}, true
		}
	})
	return j, ok, err
}

func (c *cleaner) pass(ctx context.Context, id string, w *work) {
	var left int64
	j, ok, err := c.job(ctx, id)
	if err == nil && ok {
		left, err = c.engine.Pass(ctx, j)
	}
	c.mu.Lock()
	w.busy = false
	w.complete = err == nil && left == 0
	if w.complete {
		w.tries = 0
	} else {
		w.next = c.r.now().Add(min(cleanWait<<min(w.tries, 10), cleanMax))
		w.tries++
	}
	complete := w.complete
	c.mu.Unlock()
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		c.r.log.Warn("cascade was broken off; it goes on where it was", zap.String("revocation", id), zap.Error(err))
	}
	if complete && ok {
		if err := c.r.tryClose(ctx, id); err != nil && !errors.Is(err, errCleanup) {
			c.r.log.Warn("revocation cannot be closed yet", zap.String("revocation", id), zap.Error(err))
		}
	}
}

// late compares secrets that were folded lately with the handles that were dead then,
// and ends those that were placed under one. The order of the log decides: what was
// tracked before a revocation is found by its pass.
func (c *cleaner) late(ctx context.Context) error {
	ids, err := c.index.Fresh(ctx, cleanGroup)
	if err != nil || len(ids) == 0 {
		return err
	}
	records, err := c.index.Records(ctx, ids...)
	if err != nil {
		return err
	}
	var errs []error
	for _, rec := range records {
		if err := c.compare(ctx, rec); err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, c.index.Compared(ctx, rec.Handle))
	}
	return errors.Join(errs...)
}

// compare ends rec under every revocation that it was placed under.
func (c *cleaner) compare(ctx context.Context, rec secrets.Record) error {
	dead, err := c.index.Dead(ctx, append([]string{rec.Handle}, rec.Lineage...)...)
	if err != nil {
		return err
	}
	for _, id := range dead {
		j, ok, err := c.job(ctx, id)
		if err != nil {
			return err
		}
		if ok {
			if err := c.engine.Secret(ctx, j, rec); err != nil {
				return fmt.Errorf("end secret placed under a dead lineage: %w", err)
			}
		}
	}
	return nil
}

// toll is the proof that every secret under a revoked handle has ended, by point. The
// error wraps errCleanup while one may be alive.
func (c *cleaner) toll(ctx context.Context, a events.RevocationAccepted) (map[string]closure.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, graphWait)
	defer cancel()
	if any, err := c.index.Any(ctx); err != nil || !any {
		return nil, err
	}
	if err := c.index.Settle(ctx); err != nil {
		return nil, err
	}
	count, err := c.index.CountByDownstream(ctx, a.Handle)
	if err != nil {
		return nil, err
	}
	if len(count) == 0 {
		return c.answers(ctx, a.Revocation)
	}
	c.mu.Lock()
	w := c.works[a.Revocation]
	complete := w != nil && w.complete
	c.mu.Unlock()
	if !complete {
		return nil, fmt.Errorf("%w: %s", errCleanup, c.left(ctx, a.Revocation, count))
	}
	out, err := c.answers(ctx, a.Revocation)
	if err != nil {
		return nil, err
	}
	now := c.r.now()
	err = c.index.Walk(ctx, a.Handle, func(page []secrets.Record) error {
		for _, r := range page {
			if answer, ok := out[cascade.Point(r)]; !ok || !answer.Settled(now) {
				return fmt.Errorf("%w: %s", errCleanup, cascade.Point(r))
			}
		}
		return nil
	})
	if errors.Is(err, errCleanup) { // a secret came, or one goes on until a time
		c.mu.Lock()
		w.complete = false
		c.mu.Unlock()
	}
	return out, err
}

// left says in words what is waited for.
func (c *cleaner) left(ctx context.Context, revocation string, count map[string]int64) string {
	stuck, err := c.index.Stuck(ctx, revocation)
	if err != nil {
		return err.Error()
	}
	text := fmt.Sprintf("%d stuck", len(stuck))
	for name, n := range count {
		text += fmt.Sprintf(", %d in %s", n, name)
	}
	return text
}

// answers is the receipts of secrets under a revocation, by point. A secret that was
// ended and is no longer tracked keeps its receipt: a proof must not change later.
func (c *cleaner) answers(ctx context.Context, revocation string) (map[string]closure.Answer, error) {
	done, err := c.index.Receipts(ctx, revocation)
	if err != nil {
		return nil, err
	}
	out := make(map[string]closure.Answer, len(done))
	for point, e := range done {
		out[point] = closure.Answer{RevocationEnforced: e, Until: closure.Until(e)}
	}
	return out, nil
}

// proofs is the answers of secrets that a closed revocation was closed with.
func (c *cleaner) proofs(ctx context.Context, closed events.RevocationClosed) (map[string]closure.Answer, error) {
	if any, err := c.index.Any(ctx); err != nil || !any {
		return map[string]closure.Answer{}, err
	}
	if err := c.index.Settle(ctx); err != nil {
		return nil, err
	}
	out, err := c.answers(ctx, closed.Revocation)
	maps.DeleteFunc(out, func(_ string, a closure.Answer) bool { return a.AppliedAt.After(closed.ClosedAt) })
	return out, err
}

// stuck tells the SOC of the first secret of a downstream that cannot be ended.
func (c *cleaner) stuck(ctx context.Context, j cascade.Job, k events.RevocationStuck) {
	name := k.Point[:len(k.Point)-len(k.Secret)]
	if _, told := c.told.LoadOrStore(j.Revocation+" "+name, true); told {
		return
	}
	text := fmt.Sprintf("Revocation %s cannot end %s, which %s answers for: %s. To do: %s. It is tried again until it is done.",
		j.Revocation, k.Point, k.Owner, k.Reason, k.Compensation)
	err := c.r.alert(ctx, alert{tenant: j.Tenant, id: "stuck:" + j.Revocation + ":" + name, name: "secret_stuck", severity: events.SeverityHigh,
		identity: j.Accepted.Handle, explanation: text, evidence: []string{j.Cause.ID()}, seen: j.Accepted.AcceptedAt, cause: &j.Cause})
	if err != nil {
		c.told.Delete(j.Revocation + " " + name)
		c.r.log.Warn("alert of a stuck secret is not sent", zap.String("revocation", j.Revocation), zap.Error(err))
	}
}
