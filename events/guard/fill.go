package guard

import (
	"context"
	"fmt"
	"runtime"
	"sync"

	"github.com/lanyard-nhi/lanyard/events/lineage"
)

// sight is what a resync has met: the newest heartbeat, the sequence of every
// handle's entry, and what is to be answered if the feed may be trusted.
type sight struct {
	beat   *arrival
	last   map[lineage.Handle]uint64
	answer []pending
}

func (s *sight) note(a arrival) {
	if a.beat != nil {
		s.beat = &a
	}
	if a.entry != nil {
		s.last[a.entry.Handle] = a.seq
	}
}

// resync reads the whole feed from its beginning and decides whether it may be
// trusted: it must not be older than what this guard has seen before.
func (g *Guard) resync(ctx context.Context) error {
	g.update(func(p *position) {
		p.trusted = false
		p.applied, p.lastEntry, p.filledTo, p.newest = 0, 0, 0, nil
	})
	seen := &sight{last: map[lineage.Handle]uint64{}}
	settled, err := g.fill(ctx, 1, seen)
	if err != nil {
		return fmt.Errorf("read the kill feed: %w", err)
	}
	p := g.position()
	epoch := p.state.Epoch
	if seen.beat != nil {
		epoch = seen.beat.beat.Epoch
	}
	if err := g.notOlder(p, epoch, seen); err != nil {
		return err
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

// notOlder compares the feed with what this guard has seen of it, in this run or
// before a restart.
func (g *Guard) notOlder(p position, epoch uint64, seen *sight) error {
	switch m := p.state.Newest; {
	case epoch < p.state.Epoch:
		return fmt.Errorf("%w: it is of epoch %d, this guard has seen epoch %d", errBehind, epoch, p.state.Epoch)
	case epoch > p.state.Epoch:
		return nil
	case p.applied < p.state.Sequence:
		return fmt.Errorf("%w: it ends at %d, this guard has seen %d", errBehind, p.applied, p.state.Sequence)
	case m != nil && seen.last[m.Handle] < m.Sequence && !g.set.holds(m.Handle) && !g.cfg.Now().After(m.Keep):
		return fmt.Errorf("%w: the entry at %d is gone", errBehind, m.Sequence)
	}
	return nil
}

// trust takes the feed as read so far for the state. An epoch counts only once it is
// stored: what it ended must not come back after a restart.
func (g *Guard) trust(epoch uint64) error {
	var store bool
	g.update(func(p *position) {
		if epoch != p.state.Epoch {
			p.state.Epoch, p.state.Sequence, p.state.Answered, p.state.Newest = epoch, 0, 0, nil
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
				if seen != nil {
					seen.note(a)
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
