package guard

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

const (
	answerBatch   = 256             // receipts behind one write of the state file
	answerAtOnce  = 8               // deliveries in flight
	answerTimeout = 5 * time.Second // of one delivery
	journalMin    = 4096            // lines before the journal is rewritten
)

// pending is an entry that is applied, and not yet recorded and answered.
type pending struct {
	entry   Entry
	seq     uint64
	data    []byte // signed entry; nil when it is recorded
	outcome events.ReceiptOutcome
	applied time.Time
}

// answers is the queue of pending receipts.
type answers struct {
	mu    sync.Mutex
	items []pending
	wake  chan struct{}
}

func newAnswers() answers { return answers{wake: make(chan struct{}, 1)} }

func (q *answers) add(p ...pending) {
	if len(p) == 0 {
		return
	}
	q.mu.Lock()
	q.items = append(q.items, p...)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// next waits for the next receipts to sign; nil when ctx ended.
func (q *answers) next(ctx context.Context) []pending {
	for {
		q.mu.Lock()
		n := min(len(q.items), answerBatch)
		batch := slices.Clone(q.items[:n])
		if q.items = q.items[n:]; len(q.items) == 0 {
			q.items = nil
		}
		q.mu.Unlock()
		if n > 0 {
			return batch
		}
		select {
		case <-ctx.Done():
			return nil
		case <-q.wake:
		}
	}
}

// putBack returns receipts that could not be delivered.
func (q *answers) putBack(p []pending) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = append(slices.Clone(p), q.items...)
}

// answer signs and delivers receipts until ctx ends. The journal holds an entry
// before its receipt is signed, so a receipt stays true over a restart whatever the
// feed looks like then.
func (g *Guard) answer(ctx context.Context) {
	pause := retryMin
	for {
		batch := g.answers.next(ctx)
		if batch == nil {
			return
		}
		failed, err := g.deliver(ctx, batch)
		what := ""
		if err != nil {
			what = "receipts cannot be delivered: " + err.Error()
		}
		g.update(func(p *position) { p.answering = what })
		if err == nil {
			pause = retryMin
			continue
		}
		g.answers.putBack(failed)
		if wait(ctx, pause) != nil {
			return
		}
		pause = min(pause*2, retryMax)
	}
}

// deliver returns the receipts that have to be tried again.
func (g *Guard) deliver(ctx context.Context, batch []pending) (failed []pending, err error) {
	p := g.position()
	if err := g.record(p.state, batch); err != nil {
		return batch, err
	}
	errs := make([]error, len(batch))
	slots := make(chan struct{}, answerAtOnce)
	var wg sync.WaitGroup
	for i, a := range batch {
		// An entry beyond the position belongs to an epoch that is over, one past its
		// retention interests nobody, and a lift ends what was answered already.
		if a.seq > p.state.Sequence || g.cfg.Now().After(a.entry.Keep) || a.entry.Mode == events.ModeLift {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = g.send(ctx, p.state.Epoch, a)
		})
	}
	wg.Wait()
	var answered uint64
	for i, a := range batch {
		if errs[i] != nil {
			failed, err = append(failed, a), errs[i]
		} else if failed == nil && a.seq <= p.state.Sequence {
			answered = a.seq
		}
	}
	g.update(func(p *position) { p.state.Answered = max(p.state.Answered, answered) })
	return failed, err
}

func (g *Guard) send(ctx context.Context, epoch uint64, a pending) error {
	r, err := SignReceipt(g.signer, events.ReceiptSigned{
		Revocation: a.entry.Revocation, Handle: a.entry.Handle.String(), Point: g.cfg.Point,
		Outcome: a.outcome, Epoch: epoch, Sequence: a.seq, AppliedAt: a.applied,
	})
	if err != nil {
		return err
	}
	// Answering twice, after a restart, yields the event a second time, not another.
	id := events.DeterministicID("receipt", g.cfg.Point, a.entry.Revocation, r.Handle,
		strconv.FormatUint(epoch, 10), strconv.FormatUint(a.seq, 10))
	return g.state(ctx, id, r)
}

// state delivers an event of this guard.
func (g *Guard) state(ctx context.Context, id string, p events.Payload) error {
	e, err := events.New(events.Origin{
		Source: "/lanyard/guard/" + url.PathEscape(g.cfg.Point), Tenant: g.cfg.Tenant, Time: g.cfg.Now(), ID: id,
	}, p)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	if err := g.cfg.Feed.Answer(ctx, e); err != nil {
		return fmt.Errorf("deliver %s: %w", p.EventType(), err)
	}
	return nil
}

// record makes the entries durable.
func (g *Guard) record(now persisted, batch []pending) error {
	var lines []line
	for _, a := range batch {
		switch {
		case a.data == nil:
		case a.seq <= now.Sequence:
			lines = append(lines, line{now.Epoch, a.seq, a.data})
		default: // of an epoch that is over; its sequence means nothing now
			lines = append(lines, line{0, 0, a.data})
		}
	}
	g.saving.Lock()
	defer g.saving.Unlock()
	if err := g.keeper.record(lines); err != nil {
		return err
	}
	for i := range batch {
		batch[i].data = nil
	}
	g.update(func(p *position) { p.journal += len(lines) })
	return nil
}

// tidy rewrites the journal when most of it is past its retention.
func (g *Guard) tidy(now time.Time) error {
	if n := g.position().journal; n < journalMin || n < 4*g.set.size() {
		return nil
	}
	kept := 0
	g.saving.Lock()
	defer g.saving.Unlock()
	err := g.keeper.compact(func(l line) bool {
		e, err := OpenEntry(l.data, g.cfg.FeedKey)
		live := err == nil && !now.After(e.Keep)
		if live {
			kept++
		}
		return live
	})
	if err == nil {
		g.update(func(p *position) { p.journal = kept })
	}
	return err
}

// persist stores the position.
func (g *Guard) persist() error {
	g.saving.Lock()
	defer g.saving.Unlock()
	s := g.position().state
	if err := g.keeper.save(s); err != nil {
		return err
	}
	g.update(func(p *position) { p.savedEpoch = s.Epoch })
	return nil
}

// attendance states the guard's presence, at once when its lease becomes valid,
// stores its position and drops entries past their retention, until ctx ends. It
// waits for the first attempt to catch up: nobody should expect receipts for what
// was there before.
func (g *Guard) attendance(ctx context.Context, synced <-chan struct{}) {
	select {
	case <-ctx.Done():
		return
	case <-synced:
	}
	pause := retryMin
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.attend:
		case <-next.C:
		}
		// Retention ends by both clocks: ours, by which tokens expire here, and the
		// senders', so that a jump of ours cannot bring anything back.
		over := earlier(g.cfg.Now(), g.position().beatTime)
		g.set.sweep(over)
		err := errors.Join(g.tidy(over), g.persist(), g.present(ctx))
		if ctx.Err() != nil {
			return
		}
		what := ""
		if err != nil {
			what = err.Error()
			next.Reset(min(pause, g.cfg.Presence))
			pause = min(pause*2, retryMax)
		} else {
			next.Reset(g.cfg.Presence)
			pause = retryMin
		}
		g.update(func(p *position) { p.attending = what })
	}
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// leave states that the guard stopped in good order. From before that on it refuses
// everything, so nobody has to wait for its receipts.
func (g *Guard) leave(ctx context.Context) {
	g.leaseEnd.Store(0)
	g.attached.Store(false)
	g.sweepWatches()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	err := g.persist()
	if err == nil {
		a := g.presence()
		a.Detached = true
		err = g.state(ctx, "", a)
	}
	g.update(func(p *position) {
		p.problem = "stopped"
		if err != nil {
			p.attending = err.Error()
		}
	})
}

// present states the presence until it says what is true of the lease.
func (g *Guard) present(ctx context.Context) error {
	for {
		boot := g.cfg.Boot()
		a := g.presence()
		if err := g.state(ctx, "", a); err != nil {
			return err
		}
		g.told(a, boot)
		if a.Fresh {
			g.opened.Do(func() { close(g.ready) })
		}
		if g.leased() == a.Fresh {
			return nil
		}
	}
}

func (g *Guard) presence() events.GuardAttached {
	p := g.position()
	a := events.GuardAttached{
		Point: g.cfg.Point, Audience: g.cfg.Audience, PublicJWK: g.jwk, LeaseSeconds: g.cfg.Lease.Seconds(),
		Epoch: p.state.Epoch, Sequence: p.applied, Fresh: g.leased(), KeyIDs: []string{}, StaleSeconds: g.staleSeconds(), At: g.cfg.Now().UTC(),
	}
	if k, ok := g.cfg.Keys.(interface{ KeyIDs() []string }); ok {
		a.KeyIDs = append(a.KeyIDs, k.KeyIDs()...)
	}
	return a
}
