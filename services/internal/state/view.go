package state

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

const (
	viewBatch    = 500                    // events applied in one step
	idleMin      = 25 * time.Millisecond  // first look at the stream's end after the last event
	idleMax      = 500 * time.Millisecond // slowest pace of looking
	retryMax     = 2 * time.Second        // slowest pace of trying again after an error
	evictedEvery = 5 * time.Second        // how often it is asked whether Redis evicted keys
	rebuildPause = time.Minute            // least time between two rebuilds because of that
)

// position is how far a view has been applied: one hash in Redis, changed only
// together with the view's own keys.
type position struct {
	generation string // of the fold: a new one each time it starts again
	phase      string // "clearing": old keys are being deleted; "folding"
	sequence   uint64 // everything up to here is applied
	applied    uint64 // the last event that was applied
	id         string // of that event
	moved      time.Time
	began      time.Time
	evicted    int64 // keys that Redis had evicted when the fold began
}

// errRestart: the position was changed by somebody else; read it and begin there.
var errRestart = errors.New("the view's position was changed")

// follower applies one view in one process.
type follower struct {
	store *Store
	log   Log
	view  View
	key   string // of the position
	at    position
	nudge <-chan struct{}
	idle  time.Duration
	asked time.Time
}

// Follow keeps the view up to date until ctx ends. Several processes may follow one
// view; each event is applied once. A flushed Redis is folded again from the start.
// Errors of Redis and of the log are logged and tried again; a view whose Apply
// breaks its contract is an error.
func (s *Store) Follow(ctx context.Context, log Log, v View) error {
	f := &follower{store: s, log: log, view: v, key: positionPrefix + v.Name, nudge: s.nudged(v.Name)}
	failures := 0
	for ctx.Err() == nil {
		err := f.session(ctx)
		var broken *brokenView
		switch {
		case ctx.Err() != nil:
		case errors.As(err, &broken):
			return fmt.Errorf("follow view %s: %w", v.Name, err)
		case errors.Is(err, errRestart): // from the start, at once
		default:
			if failures++; failures == 1 {
				s.log.Warn("view does not follow; trying again", zap.String("view", v.Name), zap.Error(err))
			}
			_ = sleep(ctx, min(50*time.Millisecond<<min(failures, 6), retryMax)) // the loop looks at ctx
			continue
		}
		failures = 0
	}
	return nil
}

// brokenView is a programming error in a View.
type brokenView struct{ reason string }

func (e *brokenView) Error() string { return e.reason }

// session applies events from the position in Redis on, until something fails.
func (f *follower) session(ctx context.Context) error {
	if err := f.ready(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	from := f.at.sequence + 1
	check := f.view.Stream == bus.StreamLog && f.at.applied > 0
	if check {
		from = f.at.applied
	}
	arrived := make(chan bus.Stored, 2*viewBatch)
	ended := make(chan error, 1)
	go func() {
		ended <- f.log.Follow(ctx, f.view.Stream, f.view.Filters, from, func(st bus.Stored) error {
			select {
			case arrived <- st:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	err := f.loop(ctx, arrived, ended, check)
	cancel()
	for {
		select {
		case <-arrived:
		case last := <-ended:
			if err == nil {
				err = last
			}
			return err
		}
	}
}

func (f *follower) loop(ctx context.Context, arrived <-chan bus.Stored, ended chan error, check bool) error {
	f.idle = idleMin
	timer := time.NewTimer(f.idle)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-ended:
			ended <- nil // session waits for it
			return fmt.Errorf("follow the stream: %w", err)
		case st := <-arrived:
			if check {
				check = false
				if st.Sequence != f.at.applied || eventID(st.Event) != f.at.id {
					return f.restart(ctx, "the log is not the one that was folded")
				}
				continue
			}
			if err := f.apply(ctx, collect(st, arrived)); err != nil {
				return err
			}
			f.idle = idleMin
		case <-f.nudge:
			if err := f.look(ctx); err != nil {
				return err
			}
		case <-timer.C:
			if err := f.look(ctx); err != nil {
				return err
			}
			f.idle = min(2*f.idle, idleMax)
		}
		timer.Reset(f.idle)
	}
}

// collect takes what has arrived, up to one batch.
func collect(first bus.Stored, arrived <-chan bus.Stored) []bus.Stored {
	batch := []bus.Stored{first}
	for len(batch) < viewBatch {
		select {
		case st := <-arrived:
			batch = append(batch, st)
		default:
			return batch
		}
	}
	return batch
}

// ready reads the position; a view without one, or one of another log, is cleared.
func (f *follower) ready(ctx context.Context) error {
	for {
		now := f.store.now().UnixMilli()
		if err := f.store.scripts.begin.Run(ctx, f.store.client, []string{f.key}, rand.Text(), now).Err(); err != nil {
			return fmt.Errorf("begin the position: %w", err)
		}
		at, err := f.store.position(ctx, f.view.Name)
		if err != nil {
			return err
		}
		f.at = at
		switch at.phase {
		case "clearing":
			if err := f.clear(ctx); err != nil {
				return err
			}
		case "folding":
			same, err := f.sameLog(ctx)
			if err != nil {
				return err
			}
			if same {
				return nil
			}
			if err := f.restart(ctx, "the log is shorter than what was folded"); !errors.Is(err, errRestart) {
				return err
			}
		}
	}
}

// sameLog reports whether the stream can be the one that was folded: it is not
// shorter. In the log, where nothing is ever deleted, this goes for the filters too.
func (f *follower) sameLog(ctx context.Context) (bool, error) {
	last, err := f.log.LastSequence(ctx, f.view.Stream, ">")
	if err != nil {
		return false, fmt.Errorf("read the stream's end: %w", err)
	}
	if last < f.at.sequence {
		return false, nil
	}
	if f.view.Stream != bus.StreamLog || f.at.applied == 0 {
		return true, nil
	}
	matched, err := f.lastMatch(ctx)
	return matched >= f.at.applied, err
}

// lastMatch is the sequence of the last message that the view wants.
func (f *follower) lastMatch(ctx context.Context) (uint64, error) {
	var last uint64
	for _, filter := range f.view.Filters {
		n, err := f.log.LastSequence(ctx, f.view.Stream, filter)
		if err != nil {
			return 0, fmt.Errorf("read the end of %s: %w", filter, err)
		}
		last = max(last, n)
	}
	return last, nil
}

// clear deletes the view's keys. Every step checks that the view is still being
// cleared, so a slow process cannot delete what another one folds already.
func (f *follower) clear(ctx context.Context) error {
	f.store.metrics.rebuilt.WithLabelValues(f.view.Name).Inc()
	evicted, err := f.store.evicted(ctx)
	if err != nil {
		return err
	}
	err = f.store.scan(ctx, glob(Prefix(f.view.Name))+"*", func(keys []string) error {
		return f.store.scripts.clear.Run(ctx, f.store.client, append([]string{f.key}, keys...), f.at.generation).Err()
	})
	if err != nil {
		return fmt.Errorf("clear the view: %w", err)
	}
	if err := f.store.scripts.fold.Run(ctx, f.store.client, []string{f.key}, f.at.generation, evicted).Err(); err != nil {
		return fmt.Errorf("end clearing: %w", err)
	}
	return nil
}

// glob quotes what SCAN's MATCH takes for a pattern.
func glob(s string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`).Replace(s)
}

// restart begins the fold again, unless somebody else did already.
func (f *follower) restart(ctx context.Context, why string) error {
	f.store.log.Warn("view is folded again from the start", zap.String("view", f.view.Name), zap.String("reason", why))
	now := f.store.now().UnixMilli()
	err := f.store.scripts.reset.Run(ctx, f.store.client, []string{f.key}, f.at.generation, rand.Text(), now).Err()
	if err != nil {
		return fmt.Errorf("begin again: %w", err)
	}
	return errRestart
}

// apply executes the writes of a batch and moves the position, in one step, if the
// position is still where this follower believes it is.
func (f *follower) apply(ctx context.Context, batch []bus.Stored) error {
	for {
		batch = slices.DeleteFunc(batch, func(st bus.Stored) bool { return st.Sequence <= f.at.sequence })
		if len(batch) == 0 {
			return nil
		}
		last := batch[len(batch)-1]
		moved, err := f.move(ctx, last.Sequence, &last, batch)
		if err != nil {
			return err
		}
		if moved {
			f.store.metrics.applied.WithLabelValues(f.view.Name).Add(float64(len(batch)))
			return nil
		}
	}
}

// move runs the apply script. It reports false when another follower was faster; the
// position is then the one that it left.
func (f *follower) move(ctx context.Context, to uint64, last *bus.Stored, batch []bus.Stored) (bool, error) {
	args := []any{f.at.generation, f.at.sequence, to, f.store.now().UnixMilli(), f.at.applied, ""}
	if last != nil {
		args[4], args[5] = last.Sequence, eventID(last.Event)
	}
	p := f.store.client.Pipeline()
	for _, st := range batch {
		f.view.Apply(p, st)
	}
	for _, cmd := range p.Cmds() {
		if err := f.allowed(cmd); err != nil {
			return false, err
		}
		args = append(append(args, len(cmd.Args())), cmd.Args()...)
	}
	p.Discard()
	r, err := f.store.scripts.apply.Run(ctx, f.store.client, []string{f.key}, args...).Slice()
	if err != nil {
		return false, fmt.Errorf("apply events: %w", err)
	}
	code, at, refused, err := reply(r)
	switch {
	case err != nil:
		return false, err
	case code == 0, code == 2 && at < f.at.sequence:
		return false, errRestart
	case code == 2:
		f.at.sequence = at
		return false, nil
	}
	if refused != "" {
		f.store.metrics.refused.WithLabelValues(f.view.Name).Inc()
		f.store.log.Error("redis refused a write of a view", zap.String("view", f.view.Name), zap.Uint64("sequence", to), zap.String("reason", refused))
	}
	f.at.sequence = to
	if last != nil {
		f.at.applied, f.at.id = last.Sequence, eventID(last.Event)
	}
	f.store.metrics.position.WithLabelValues(f.view.Name).Set(float64(to))
	return true, nil
}

// allowed checks the contract of Apply.
func (f *follower) allowed(cmd redis.Cmder) error {
	args := cmd.Args()
	if len(args) < 2 {
		return &brokenView{fmt.Sprintf("Apply queued %q, which writes no key", cmd.Name())}
	}
	if key, ok := args[1].(string); !ok || !strings.HasPrefix(key, Prefix(f.view.Name)) {
		return &brokenView{fmt.Sprintf("Apply queued %q for a key that does not begin with %q", cmd.Name(), Prefix(f.view.Name))}
	}
	return nil
}

// reply reads what the apply script returns: what happened (0: another generation,
// 1: applied, 2: another sequence), the sequence, and the first refused write.
func reply(r []any) (code int64, at uint64, refused string, err error) {
	if len(r) == 3 {
		c, ok1 := r[0].(int64)
		s, ok2 := r[1].(string)
		e, ok3 := r[2].(string)
		at, err := strconv.ParseUint(s, 10, 64)
		if ok1 && ok2 && ok3 && err == nil {
			return c, at, e, nil
		}
	}
	return 0, 0, "", fmt.Errorf("apply events: redis answered %v", r)
}

// look is what a follower does when nothing arrives: see whether the position was
// changed by others, and move it to the stream's end when nothing up to there is for
// this view. The stream's end is read before the ends of the filters, so whatever is
// before it is counted in them.
func (f *follower) look(ctx context.Context) error {
	at, err := f.store.position(ctx, f.view.Name)
	if err != nil {
		return err
	}
	if at.generation != f.at.generation || at.phase != "folding" || at.sequence < f.at.sequence {
		return errRestart
	}
	f.at.sequence, f.at.applied, f.at.id = at.sequence, at.applied, at.id
	if err := f.notEvicted(ctx); err != nil {
		return err
	}
	last, err := f.log.LastSequence(ctx, f.view.Stream, ">")
	if err != nil {
		return fmt.Errorf("read the stream's end: %w", err)
	}
	if last < f.at.sequence {
		return f.restart(ctx, "the stream is shorter than what was folded")
	}
	if last == f.at.sequence {
		return nil
	}
	matched, err := f.lastMatch(ctx)
	if err != nil || matched > f.at.sequence {
		return err // what is missing will arrive
	}
	_, err = f.move(ctx, last, nil, nil)
	return err
}

// notEvicted starts again when Redis has thrown away keys to make room: some may
// have been the view's.
func (f *follower) notEvicted(ctx context.Context) error {
	now := f.store.now()
	if now.Sub(f.asked) < evictedEvery {
		return nil
	}
	f.asked = now
	n, err := f.store.evicted(ctx)
	if err != nil {
		return err
	}
	switch {
	case n == f.at.evicted:
		return nil
	case n < f.at.evicted: // Redis was restarted and counts from 0
		f.at.evicted = n
		return f.store.scripts.evict.Run(ctx, f.store.client, []string{f.key}, f.at.generation, n).Err()
	case now.Sub(f.at.began) < rebuildPause:
		return nil
	}
	return f.restart(ctx, "redis evicted keys; set its maxmemory-policy to noeviction")
}

// evicted is how many keys Redis has evicted since it started.
func (s *Store) evicted(ctx context.Context) (int64, error) {
	info, err := s.client.Info(ctx, "stats").Result()
	if err != nil {
		return 0, fmt.Errorf("ask redis for its statistics: %w", err)
	}
	for line := range strings.Lines(info) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "evicted_keys:"); ok {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read redis statistics: %w", err)
			}
			return n, nil
		}
	}
	return 0, nil // the embedded server never evicts
}
