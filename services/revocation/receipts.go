package revocation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/closure"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/ledger"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/presence"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// errReceipt: a receipt does not belong to the revocation it names.
var errReceipt = errors.New("receipt does not match its revocation")

const (
	// guardWait is how long a receipt waits for its guard's presence, which travels
	// in another stream.
	guardWait = 2 * time.Second
	// parkTime is how long receipts wait for their revocation to be on the log.
	parkTime = 30 * time.Second
	// receiptGroup is the most receipts that are put on the log in one append.
	receiptGroup = 500
)

// receipt handles receipt.signed: a genuine receipt is handed to the batcher, and
// goes on the log with others of the same revocation. The event is settled before
// that, because the receipts are durable in their own stream, keyed by revocation,
// and are read again from there at start and before a lease is said to have ended.
func (r *revoker) receipt(ctx context.Context, cause events.Event, p events.ReceiptSigned) ([]events.Event, error) {
	if r.recorded(ctx, p) {
		return nil, nil // a repeat; its guard may be gone by now
	}
	key, err := r.genuine(ctx, cause, p)
	if err != nil {
		return nil, bus.Permanent(err)
	}
	if r.ledger.Known(p.Revocation) {
		var err error
		if look := r.ledger.Inspect(ctx, p.Revocation, func(s *ledger.State) { _, err = matches(s, p) }); look != nil {
			return nil, look
		}
		if err != nil {
			return nil, bus.Permanent(err)
		}
	}
	r.receipts.add(proven{p, key}, r.now())
	return nil, nil
}

// recorded reports whether this very receipt is on the log already.
func (r *revoker) recorded(ctx context.Context, p events.ReceiptSigned) (found bool) {
	if !r.ledger.Known(p.Revocation) {
		return false
	}
	err := r.ledger.Inspect(ctx, p.Revocation, func(s *ledger.State) {
		a, ok := s.Answers[p.Point]
		found = ok && a.Receipt != "" && a.Receipt == p.JWS
	})
	return found && err == nil
}

// proven is a receipt whose signature holds.
type proven struct {
	events.ReceiptSigned
	key string // that it holds with, a JWK
}

// genuine checks the signature, waiting a while for the guard to be known.
func (r *revoker) genuine(ctx context.Context, cause events.Event, p events.ReceiptSigned) (key string, err error) {
	wait, cancel := context.WithTimeout(ctx, guardWait)
	defer cancel()
	for {
		changed := r.table.Watch()
		key, err := r.table.Verify(events.Tenant(cause), p)
		if err == nil || !errors.Is(err, presence.ErrUnknownGuard) {
			return key, err
		}
		select {
		case <-changed:
		case <-wait.Done():
			return "", err
		}
	}
}

// matches decides whether p answers the kill entry of s. stale means that it
// answers a later entry of the same handle, which says nothing about this one.
func matches(s *ledger.State, p events.ReceiptSigned) (stale bool, err error) {
	a := s.Accepted
	switch {
	case a == nil:
		return true, nil
	case p.Handle != a.Handle:
		return false, fmt.Errorf("%w: it is about handle %s, the revocation about %s", errReceipt, p.Handle, a.Handle)
	case p.Epoch > a.Epoch, p.Epoch == a.Epoch && p.Sequence > a.Sequence:
		// The entry was put back after the feed had lost it, or a freeze was lifted:
		// only a revoke still means the same.
		return a.Mode != events.ModeRevoke, nil
	case p.Epoch != a.Epoch, p.Sequence != a.Sequence:
		return false, fmt.Errorf("%w: it answers entry %d of epoch %d, the revocation is entry %d of epoch %d",
			errReceipt, p.Sequence, p.Epoch, a.Sequence, a.Epoch)
	}
	return false, nil
}

// batcher gathers receipts per revocation.
type batcher struct {
	mu      sync.Mutex
	pending map[string]*parcel
	kick    chan struct{}
}

// parcel is what waits for one revocation.
type parcel struct {
	since    time.Time
	receipts []proven
}

func newBatcher() *batcher {
	return &batcher{pending: map[string]*parcel{}, kick: make(chan struct{}, 1)}
}

func (b *batcher) add(p proven, now time.Time) {
	b.mu.Lock()
	c, ok := b.pending[p.Revocation]
	if !ok {
		c = &parcel{since: now}
		b.pending[p.Revocation] = c
	}
	c.receipts = append(c.receipts, p)
	b.mu.Unlock()
	b.wake()
}

func (b *batcher) wake() {
	select {
	case b.kick <- struct{}{}:
	default:
	}
}

// take removes up to receiptGroup receipts of every revocation that is known.
func (b *batcher) take(known func(string) bool, now time.Time) (groups map[string][]proven, dropped map[string]int, parked bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	groups, dropped = map[string][]proven{}, map[string]int{}
	for id, c := range b.pending {
		switch {
		case known(id):
			n := min(len(c.receipts), receiptGroup)
			groups[id] = c.receipts[:n:n]
			if c.receipts = c.receipts[n:]; len(c.receipts) == 0 {
				delete(b.pending, id)
			}
		case now.Sub(c.since) > parkTime:
			dropped[id] = len(c.receipts)
			delete(b.pending, id)
		default:
			parked = true
		}
	}
	return groups, dropped, parked
}

// gather puts receipts on the log, group by group, until ctx ends.
func (r *revoker) gather(ctx context.Context) error {
	if err := r.ready(ctx); err != nil {
		return nil // ctx ended
	}
	for {
		groups, dropped, parked := r.receipts.take(r.ledger.Known, r.now())
		for id, n := range dropped {
			r.log.Warn("receipts of a revocation that is not on the log", zap.String("revocation", id), zap.Int("receipts", n))
		}
		var each errgroup.Group
		each.SetLimit(16)
		for id, rs := range groups {
			each.Go(func() error {
				if err := r.enforced(ctx, id, rs); err != nil && ctx.Err() == nil {
					r.log.Warn("receipts could not be put on the log; they are read again", zap.String("revocation", id), zap.Error(err))
					r.recovered.Delete(id)
				}
				return nil
			})
		}
		_ = each.Wait()
		if len(groups) > 0 {
			continue
		}
		if err := r.receipts.wait(ctx, parked); err != nil {
			return nil
		}
	}
}

// wait returns when there may be something to take: at the next add, or soon when
// receipts are parked.
func (b *batcher) wait(ctx context.Context, parked bool) error {
	var soon <-chan time.Time
	if parked {
		t := time.NewTimer(2 * time.Millisecond)
		defer t.Stop()
		soon = t.C
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-b.kick:
	case <-soon:
	}
	return nil
}

// enforced puts genuine receipts of one revocation on the log, and in the same
// batch closes it when they are the last ones. Receipts that are on the log are
// skipped.
func (r *revoker) enforced(ctx context.Context, id string, rs []proven) error {
	now := r.now()
	var tenant string
	var open bool
	left := map[string]bool{}
	err := r.ledger.Inspect(ctx, id, func(s *ledger.State) {
		tenant, open = s.Tenant, s.Open()
		for _, g := range s.Missing(now) {
			left[g.Point] = true
		}
	})
	if err != nil {
		return err
	}
	for _, p := range rs {
		delete(left, p.Point)
	}
	var toll *census // needed when these may be the last
	if open && len(left) == 0 {
		if toll, err = r.census(ctx, id); err != nil && !errors.Is(err, errCleanup) {
			r.log.Warn("descendants cannot be counted; the revocation stays open", zap.String("revocation", id), zap.Error(err))
		}
	}
	return r.ledger.Decide(ctx, tenant, id, func(s *ledger.State) ([]events.Event, error) {
		es, fresh, err := r.enforcement(s, rs)
		if err != nil || toll == nil {
			return es, err
		}
		answers := maps.Clone(s.Answers)
		if answers == nil {
			answers = map[string]closure.Answer{}
		}
		maps.Copy(answers, fresh)
		closed, err := r.closing(s, answers, *toll, now)
		return append(es, closed...), err
	})
}

func (r *revoker) tenant(ctx context.Context, id string) (string, error) {
	var tenant string
	err := r.ledger.Inspect(ctx, id, func(s *ledger.State) { tenant = s.Tenant })
	return tenant, err
}

// enforcement is the events that state what rs add to s, and the answers in them.
func (r *revoker) enforcement(s *ledger.State, rs []proven) (es []events.Event, fresh map[string]closure.Answer, err error) {
	fresh = map[string]closure.Answer{}
	for _, p := range rs {
		stale, err := matches(s, p.ReceiptSigned)
		if err != nil {
			r.log.Warn("receipt refused", zap.String("revocation", s.ID), zap.String("point", p.Point), zap.Error(err))
		}
		if stale || err != nil {
			continue
		}
		a := closure.Answer{RevocationEnforced: events.RevocationEnforced{Revocation: s.ID, Point: p.Point, Outcome: p.Outcome,
			AppliedAt: p.AppliedAt.UTC(), LatencyMS: max(0, float64(p.AppliedAt.Sub(s.Accepted.AcceptedAt))/1e6), Receipt: p.JWS, Key: p.key}, Until: p.Until}
		old, ok := s.Answers[p.Point]
		if n, twice := fresh[p.Point]; twice {
			old, ok = n, true
		}
		if ok && !ledger.Supersedes(old, a) {
			continue
		}
		fresh[p.Point] = a
		e, err := enforcedEvent(s, a.RevocationEnforced)
		if err != nil {
			return nil, nil, err
		}
		es = append(es, e)
	}
	return es, fresh, nil
}

// enforcedEvent states one answer. Its id derives from the acceptance, the point
// and the outcome, so every process makes the same one.
func enforcedEvent(s *ledger.State, p events.RevocationEnforced) (events.Event, error) {
	cause := s.Cause()
	return events.New(events.Origin{Source: source, Tenant: s.Tenant, Time: p.AppliedAt, Cause: &cause,
		Discriminator: p.Point + "\x00" + string(p.Outcome)}, p)
}

// recover reads the stored receipts of one revocation again.
func (r *revoker) recover(ctx context.Context, id string) error {
	var rs []proven
	for st, err := range r.bus.Read(ctx, bus.StreamReceipt, "nhi.receipt.*."+events.Token(id)+".*", 1) {
		if err != nil {
			return fmt.Errorf("read receipts of %s: %w", id, err)
		}
		p, err := events.As[events.ReceiptSigned](st.Event)
		if err != nil {
			continue
		}
		if key, err := r.table.Verify(events.Tenant(st.Event), p); err == nil {
			rs = append(rs, proven{p, key})
		}
	}
	for len(rs) > 0 {
		n := min(len(rs), receiptGroup)
		if err := r.enforced(ctx, id, rs[:n]); err != nil {
			return err
		}
		rs = rs[n:]
	}
	return nil
}
