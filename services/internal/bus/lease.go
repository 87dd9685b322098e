package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
	"go.uber.org/zap"
)

var errLeaseLost = errors.New("another process has taken over")

// lease is the right of one process to run an exclusive service. It is a message on
// nhi.lease.<service> that the server drops after a time; it is taken and renewed
// under the condition that it has not changed. Its holder stops by its own clock
// before the server lets another process have it.
type lease struct {
	c       *Conn
	subject string
	owner   string

	mu    sync.Mutex
	seq   uint64
	until time.Time // by the monotonic clock and, without it, by the wall clock
}

type leaseState struct {
	Owner    string `json:"owner"`
	Released bool   `json:"released,omitempty"`
}

// valid reports whether the lease is certainly still held. The monotonic clock does
// not count suspended time and the wall clock may be set, so both must agree.
func (l *lease) valid() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	return now.Before(l.until) && now.Round(0).Before(l.until.Round(0))
}

// acquire waits until the lease is free and takes it.
func (c *Conn) acquire(ctx context.Context, service string) (*lease, error) {
	l := &lease{c: c, subject: "nhi.lease." + events.Token(service), owner: c.cfg.Name + " " + nuid.Next()}
	for {
		free, seq, err := l.look(ctx)
		if err == nil && free {
			err = l.write(ctx, seq, leaseState{Owner: l.owner})
			if err == nil {
				return l, nil
			}
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, ErrConflict) {
			c.log.Warn("cannot take the lease yet", zap.String("service", service), zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(c.t.leasePoll):
		}
	}
}

// look reports whether the lease is free, and the sequence to take it at.
func (l *lease) look(ctx context.Context) (bool, uint64, error) {
	m, err := l.c.lastMessage(ctx, StreamLease, l.subject)
	if err != nil {
		return false, 0, err
	}
	if m == nil {
		return true, 0, nil
	}
	var s leaseState
	if err := json.Unmarshal(m.Data, &s); err != nil {
		return false, 0, fmt.Errorf("read lease: %w", err)
	}
	return s.Released, m.Sequence, nil
}

// write replaces the lease when its last sequence is seq.
func (l *lease) write(ctx context.Context, seq uint64, s leaseState) error {
	b, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encode lease: %w", err)
	}
	sent := time.Now()
	ack, err := l.c.store(ctx, []item{{stream: StreamLease, subject: l.subject, id: nuid.Next(), data: b,
		header: nats.Header{jetstream.MsgTTLHeader: {wholeSeconds(l.c.t.leaseTTL)}}}}, &Expect{Filter: l.subject, Sequence: seq})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq = ack.Sequence
	// The server counts from when it stored the message, which is later than sent.
	l.until = sent.Add(l.c.t.leaseTTL - l.c.t.leaseTTL/10)
	if s.Released {
		l.until = sent
	}
	return nil
}

// keep renews the lease until ctx ends, and calls lost when it could not in time.
func (l *lease) keep(ctx context.Context, lost context.CancelCauseFunc) {
	tick := time.NewTicker(l.c.t.leaseRenew)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		l.mu.Lock()
		seq, left := l.seq, time.Until(l.until)
		l.mu.Unlock()
		rctx, cancel := context.WithTimeout(ctx, max(left, 0))
		err := l.write(rctx, seq, leaseState{Owner: l.owner})
		cancel()
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, ErrConflict) || !l.valid() {
			lost(errLeaseLost)
			return
		}
		if err != nil {
			l.c.log.Warn("cannot renew the lease", zap.String("subject", l.subject), zap.Error(err))
		}
	}
}

// release lets another process have it at once.
func (l *lease) release() {
	if !l.valid() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), l.c.t.attempt)
	defer cancel()
	l.mu.Lock()
	seq := l.seq
	l.mu.Unlock()
	if err := l.write(ctx, seq, leaseState{Owner: l.owner, Released: true}); err != nil {
		l.c.log.Debug("cannot release the lease", zap.String("subject", l.subject), zap.Error(err))
	}
}

// runExclusive runs while this process holds the lease, and stands by while not.
func (r *runner) runExclusive(ctx context.Context) error {
	for {
		l, err := r.c.acquire(ctx, r.spec.Service)
		if err != nil {
			return nil // ctx ended while standing by
		}
		r.c.log.Info("took over an exclusive service", zap.String("service", r.spec.Service))
		err = r.own(ctx, l)
		switch {
		case errors.Is(err, errLeaseLost):
			r.c.log.Warn("lost an exclusive service; standing by", zap.String("service", r.spec.Service))
		case err != nil, ctx.Err() != nil:
			return err
		}
	}
}

// own runs one term of ownership. The lease is kept until running handlers ended.
func (r *runner) own(ctx context.Context, l *lease) error {
	keeping, stopKeeping := context.WithCancel(context.WithoutCancel(ctx))
	term, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		l.keep(keeping, lost)
	}()
	err := r.term(term, l)
	stopKeeping()
	<-kept
	if errors.Is(context.Cause(term), errLeaseLost) {
		return errLeaseLost
	}
	l.release()
	return err
}

func (r *runner) term(ctx context.Context, l *lease) error {
	acked, err := r.takeOver(ctx)
	if err != nil {
		return err
	}
	if r.spec.OnOwn != nil {
		if err := r.spec.OnOwn(ctx, acked); err != nil {
			return fmt.Errorf("take over: %w", err)
		}
	}
	mine, err := newRunner(r.c, r.spec)
	if err != nil {
		return err
	}
	mine.lease = l
	return mine.serve(ctx)
}

// takeOver makes every consumer begin right after what was acknowledged without a
// gap, so that what an earlier owner left half done comes first and in order. What
// it had acknowledged beyond a gap comes again.
func (r *runner) takeOver(ctx context.Context) (map[string]uint64, error) {
	acked := make(map[string]uint64, len(r.filters))
	for _, stream := range slices.Sorted(maps.Keys(r.filters)) {
		_, cfg := r.consumer(stream)
		cons, err := r.c.js.CreateOrUpdateConsumer(ctx, stream, cfg)
		if err != nil {
			return nil, fmt.Errorf("make consumer %s of %s: %w", cfg.Durable, stream, err)
		}
		info := cons.CachedInfo()
		acked[stream] = info.AckFloor.Stream
		if info.NumAckPending == 0 && info.Delivered.Stream == info.AckFloor.Stream {
			continue
		}
		s, err := r.c.js.Stream(ctx, stream)
		if err != nil {
			return nil, fmt.Errorf("look at stream %s: %w", stream, err)
		}
		if _, err := s.ResetConsumerToSequence(ctx, cfg.Durable, info.AckFloor.Stream+1); err != nil {
			return nil, fmt.Errorf("set consumer %s of %s back (without an answer, see that the NATS user may publish to %s): %w",
				cfg.Durable, stream, "$JS.API.CONSUMER.RESET."+stream+"."+cfg.Durable, err)
		}
	}
	return acked, nil
}
