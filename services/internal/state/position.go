package state

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

// position reads a view's position; the zero position when there is none.
func (s *Store) position(ctx context.Context, view string) (position, error) {
	v, err := s.client.HMGet(ctx, positionPrefix+view, s.scripts.fields...).Result()
	if err != nil {
		return position{}, fmt.Errorf("read the position of view %s: %w", view, err)
	}
	field := func(i int) string {
		if t, ok := v[i].(string); ok {
			return t
		}
		return ""
	}
	number := func(i int) int64 {
		n, perr := strconv.ParseInt(field(i), 10, 64)
		if perr != nil && field(i) != "" {
			err = perr
		}
		return n
	}
	p := position{
		generation: field(0),
		phase:      field(1),
		sequence:   uint64(number(2)),
		applied:    uint64(number(3)),
		id:         field(4),
		evicted:    number(7),
	}
	if p.generation != "" {
		p.moved, p.began = time.UnixMilli(number(5)).UTC(), time.UnixMilli(number(6)).UTC()
	}
	if err != nil {
		return position{}, fmt.Errorf("read the position of view %s: %w", view, err)
	}
	return p, nil
}

// Position is the sequence up to which the view has been applied, and when it last
// moved; 0 and the zero time when it has not begun.
func (s *Store) Position(ctx context.Context, view string) (uint64, time.Time, error) {
	p, err := s.position(ctx, view)
	return p.sequence, p.moved, err
}

// Wait returns when the view has applied everything up to sequence. It fails when
// ctx ends before, saying how far the view is.
func (s *Store) Wait(ctx context.Context, view string, sequence uint64) error {
	nudge := s.nudged(view)
	pause := time.Millisecond
	for {
		at, err := s.position(ctx, view)
		if err == nil && at.sequence >= sequence {
			return nil
		}
		if pause > 2*time.Millisecond {
			select {
			case nudge <- struct{}{}:
			default:
			}
		}
		if ended := sleep(ctx, pause); ended != nil {
			if err == nil {
				err = ended
			}
			return fmt.Errorf("wait for view %s to reach %d, is at %d: %w", view, sequence, at.sequence, err)
		}
		pause = min(2*pause, 20*time.Millisecond)
	}
}

// nudged is the channel that wakes a view's follower in this process, so that a
// waiter does not wait for its next look at the stream's end.
func (s *Store) nudged(view string) chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.nudges[view]
	if !ok {
		c = make(chan struct{}, 1)
		s.nudges[view] = c
	}
	return c
}
