package guard

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
)

// sight is what a resync has met: the newest heartbeat, and what is to be recorded
// and answered if the feed may be trusted.
type sight struct {
	beat   *arrival
	answer []pending
}

// resync reads the whole feed from its beginning and decides whether it may be
// trusted: it must not be older than what this guard has seen before. What waits in
// the queue is in what is read, or comes from a stream that is over.
func (g *Guard) resync(ctx context.Context, queue <-chan arrival) error {
	for len(queue) > 0 {
		<-queue
	}
	g.update((*position).rewind)
	seen := &sight{}
	from, primed, err := g.prime(ctx)
	if err != nil {
		from = 1 // what cannot be used is as good as none
	}
	settled, err := g.fill(ctx, from, seen)
	if from > 1 && (errors.Is(err, errBehind) || seen.beat != nil && seen.beat.beat.Epoch != primed) {
		g.update((*position).rewind) // the snapshot is of another stream
		seen = &sight{}
		settled, err = g.fill(ctx, 1, seen)
	}
	if err != nil {
		return fmt.Errorf("read the kill feed: %w", err)
	}
	p := g.position()
	epoch := p.state.Epoch
	if seen.beat != nil {
		epoch = seen.beat.beat.Epoch
	}
	// The feed must not be older than what this guard has seen of it, in this run or
	// before a restart. One that was cut back and has grown again is trusted: the
	// journal holds whatever it lacks that was answered for.
	switch {
	case epoch < p.state.Epoch:
		return fmt.Errorf("%w: it is of epoch %d, this guard has seen epoch %d", errBehind, epoch, p.state.Epoch)
	case epoch == p.state.Epoch && p.applied < p.state.Sequence:
		return fmt.Errorf("%w: it ends at %d, this guard has seen %d", errBehind, p.applied, p.state.Sequence)
	}
	if p.fresh && seen.beat == nil {
		g.trouble("no heartbeat yet")
		return nil
	}
	if err := g.trust(epoch); err != nil {
		return err
	}
	for _, a := range seen.answer {
		if a.seq > p.state.Answered || epoch != p.state.Epoch {
			g.answers.add(a)
		}
	}
	if settled && seen.beat != nil {
		return g.beat(ctx, *seen.beat)
	}
	return nil
}

// rewind forgets how far the feed was read.
func (p *position) rewind() {
	p.trusted = false
	p.applied, p.lastEntry, p.filledTo = 0, 0, 0
}

// trust takes the feed as read so far for the state. An epoch counts only once it is
// stored: what it ended must not come back after a restart.
func (g *Guard) trust(epoch uint64) error {
	var store bool
	g.update(func(p *position) {
		if epoch != p.state.Epoch {
			p.state.Epoch, p.state.Sequence, p.state.Answered = epoch, 0, 0
		}
		if p.fresh {
			p.state.Answered, p.fresh = p.applied, false
		}
		p.trusted = true
		p.advance(p.applied)
		p.problem = "no heartbeat yet"
		store = p.savedEpoch != epoch
	})
	if !store {
		return nil
	}
	if err := g.persist(); err != nil {
		g.update(func(p *position) { p.trusted = false })
		return err
	}
	return nil
}

// fill reads the stored messages from a sequence on, again until nothing new comes.
// settled reports that it got there: only then may a heartbeat renew the lease.
// While one page is read an entry may be superseded and move behind it, so a single
// pass proves less than its last sequence says. seen is nil outside a resync.
func (g *Guard) fill(ctx context.Context, from uint64, seen *sight) (settled bool, err error) {
	for range fillRounds {
		n := 0
		var answer []pending
		batch := make([]Message, 0, fillBatch)
		flush := func() {
			for _, a := range g.decodeAll(batch) {
				if seen != nil && a.beat != nil {
					seen.beat = &a
				}
				if a.entry == nil && a.beat == nil {
					g.update(func(p *position) { p.ignored++ })
				}
				answer = append(answer, g.take(a)...)
			}
			batch = batch[:0]
		}
		last, err := g.cfg.Feed.Fill(ctx, from, func(m Message) error {
			n++
			if batch = append(batch, m); len(batch) == fillBatch {
				flush()
			}
			return ctx.Err()
		})
		flush()
		if err != nil {
			return false, err
		}
		if last+1 < from {
			return false, fmt.Errorf("%w: it ends at %d", errBehind, last)
		}
		g.update(func(p *position) {
			p.advance(last)
			p.filledTo = max(p.filledTo, last)
		})
		if seen != nil {
			seen.answer = append(seen.answer, answer...)
		} else {
			g.answers.add(answer...)
		}
		if n == 0 {
			return true, nil
		}
		from = last + 1
	}
	return false, nil
}

// decodeAll verifies messages on all processors and keeps their order.
func (g *Guard) decodeAll(batch []Message) []arrival {
	out := make([]arrival, len(batch))
	boot, wall := g.cfg.Boot(), g.cfg.Now()
	workers := min(runtime.GOMAXPROCS(0), (len(batch)+15)/16)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(batch); i += workers {
				out[i] = arrival{item: decode(batch[i], g.cfg.FeedKey), boot: boot, wall: wall}
			}
		})
	}
	wg.Wait()
	return out
}
