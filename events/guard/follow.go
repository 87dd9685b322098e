package guard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

const (
	queueLength = 16 << 10 // messages that wait while a fill runs; more are filled later
	fillBatch   = 512      // messages verified at once
	fillRounds  = 5        // fills in a row before live messages get their turn
	retryMin    = 100 * time.Millisecond
	retryMax    = 5 * time.Second
)

// errBehind: the feed holds less than this guard has seen of it.
var errBehind = errors.New("the kill feed was rolled back or lags behind what this guard has seen")

// arrival is a message that came by push, with the time of its receipt.
type arrival struct {
	item
	boot    time.Duration
	wall    time.Time
	outcome events.ReceiptOutcome // of a revoke, which took effect at once
}

// Run follows the feed, answers with receipts and states its presence until ctx
// ends. Before it caught up for the first time the guard denies everything, and
// after Run has returned it does so again.
func (g *Guard) Run(ctx context.Context) error {
	if !g.running.CompareAndSwap(false, true) {
		return errors.New("run guard: it runs already")
	}
	defer g.running.Store(false)
	arrivals := make(chan arrival, queueLength)
	if err := retry(ctx, func() error {
		err := g.cfg.Feed.Subscribe(ctx, func(m Message) { g.arrive(m, arrivals) })
		if err != nil {
			g.trouble("subscribe to the kill feed: " + err.Error())
		}
		return err
	}); err != nil {
		return nil // ctx ended
	}
	var wg sync.WaitGroup
	synced := make(chan struct{})
	wg.Go(func() { g.follow(ctx, arrivals, synced) })
	wg.Go(func() { g.answer(ctx) })
	wg.Go(func() { g.watchdog(ctx) })
	wg.Go(func() { g.attendance(ctx, synced) })
	wg.Wait()
	g.leave(ctx)
	return nil
}

// retry calls f until it succeeds, with growing pauses, or returns ctx's error.
func retry(ctx context.Context, f func() error) error {
	for pause := retryMin; ; pause = min(pause*2, retryMax) {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if f() == nil {
			return nil
		}
		if err := wait(ctx, pause); err != nil {
			return err
		}
	}
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// arrive takes a pushed message. A revoke takes effect here, before its place in
// the sequence is looked at: to refuse early is never wrong. When the queue is full
// the message is left to the next fill.
func (g *Guard) arrive(m Message, queue chan<- arrival) {
	a := arrival{item: decode(m, g.cfg.FeedKey), boot: g.cfg.Boot(), wall: g.cfg.Now()}
	if a.entry != nil && a.entry.Mode == events.ModeRevoke {
		a.outcome = g.apply(*a.entry)
	}
	select {
	case queue <- a:
	default:
	}
}

// follow brings the guard up to date and keeps it there. synced is closed when the
// first attempt to catch up has ended.
func (g *Guard) follow(ctx context.Context, queue <-chan arrival, synced chan<- struct{}) {
	var once sync.Once
	first := func() { once.Do(func() { close(synced) }) }
	defer first()
	catchUp := func() bool {
		return retry(ctx, func() error {
			err := g.resync(ctx, queue)
			if err != nil {
				g.trouble(err.Error())
			}
			first()
			return err
		}) == nil
	}
	for ok := catchUp(); ok; {
		select {
		case <-ctx.Done():
			return
		case a := <-queue:
			again, err := g.step(ctx, a)
			if err != nil {
				g.trouble(err.Error())
			}
			if again {
				g.leaseEnd.Store(0)
				g.sweepWatches()
				ok = catchUp()
			}
		}
	}
}

// trouble states what keeps the guard from being fresh.
func (g *Guard) trouble(what string) { g.update(func(p *position) { p.problem = what }) }

// step takes one arrival in its place. again asks for a resync: the stream is not
// the one that was followed so far. An error leaves the position where it was; the
// next message that arrives tries again.
func (g *Guard) step(ctx context.Context, a arrival) (again bool, err error) {
	p := g.position()
	if a.beat != nil && (a.beat.Epoch > p.state.Epoch || p.fresh && a.beat.Epoch == p.state.Epoch) {
		return true, nil // a new epoch, or the first that this guard learns
	}
	if !a.of(p.state.Epoch) {
		// Forged, broken or from a stream that is over. The stream is asked what stands
		// there, if anything: this must not take the place of what belongs there.
		g.update(func(p *position) { p.ignored++ })
		if a.seq <= p.applied {
			return false, nil
		}
		_, err := g.fill(ctx, p.applied+1, nil)
		return errors.Is(err, errBehind), err
	}
	switch {
	case a.seq == p.applied+1:
		answer := g.take(a)
		g.update(func(p *position) { p.advance(a.seq) })
		g.answers.add(answer...)
	case a.entry != nil && a.seq <= p.applied && a.seq > max(p.lastEntry, p.filledTo):
		// Something else was taken for this entry.
		_, err := g.fill(ctx, a.seq, nil)
		return errors.Is(err, errBehind), err
	case a.seq <= p.applied:
		// Seen, or the stream went back. A later heartbeat with an earlier sequence
		// makes that worth a look.
		if a.beat == nil || a.seq == p.applied || !a.beat.Time.After(p.beatTime) {
			return false, nil
		}
		_, err := g.fill(ctx, p.applied+1, nil)
		return errors.Is(err, errBehind), err
	default: // a gap
		settled, err := g.fill(ctx, p.applied+1, nil)
		if err != nil {
			return errors.Is(err, errBehind), fmt.Errorf("fill a gap of the kill feed: %w", err)
		}
		if !settled || g.position().applied < a.seq {
			return false, nil // the next message goes on
		}
	}
	if a.beat != nil {
		return false, g.beat(ctx, a)
	}
	return false, nil
}

// take applies an entry and returns what is to be recorded and answered once the position covers it.
func (g *Guard) take(a arrival) []pending {
	if a.entry == nil {
		return nil
	}
	e := *a.entry
	if a.outcome == "" {
		a.outcome = g.apply(e)
	}
	first := false
	g.update(func(p *position) {
		p.lastEntry = max(p.lastEntry, a.seq)
		first = p.fresh // what was there before this guard needs no answer
	})
	if first {
		return nil
	}
	return []pending{{entry: e, seq: a.seq, data: a.data, outcome: a.outcome, applied: a.wall}}
}

// beat renews the lease. A heartbeat counts from its receipt, but from no later than
// a second after its signed time: a feed that is delayed cannot prove freshness.
func (g *Guard) beat(ctx context.Context, a arrival) error {
	p := g.position()
	b := *a.beat
	switch {
	case b.Time.After(a.wall.Add(g.cfg.Lease)):
		g.update(func(p *position) { p.ignored++ })
		return fmt.Errorf("heartbeat is signed %s ahead of this guard's clock", b.Time.Sub(a.wall).Round(time.Second))
	case b.Last > max(p.lastEntry, p.filledTo):
		// Its sender has seen an entry that this guard has not. Either it has gone
		// since, which a fill over it shows, or there is something to apply.
		settled, err := g.fill(ctx, p.lastEntry+1, nil)
		if err != nil {
			return fmt.Errorf("fill up to an entry that a heartbeat names: %w", err)
		}
		if !settled || b.Last > g.position().filledTo {
			return fmt.Errorf("heartbeat names entry %d, which the kill feed does not hold", b.Last)
		}
	}
	late := max(0, a.wall.Sub(b.Time.Add(skew)))
	end := g.capLease(int64(a.boot - late + g.cfg.Lease))
	g.update(func(p *position) {
		if b.Time.After(p.beatTime) {
			p.beatTime = b.Time
		}
		p.beatBoot, p.beaten, p.problem = a.boot, true, ""
		if late > 0 {
			p.problem = fmt.Sprintf("heartbeats arrive %s late, or the clocks differ", late.Round(time.Millisecond))
		}
	})
	if end > g.leaseEnd.Load() {
		g.leaseEnd.Store(end)
	}
	if g.leased() && !g.attached.Load() {
		select {
		case g.attend <- struct{}{}:
		default:
		}
	}
	return nil
}
