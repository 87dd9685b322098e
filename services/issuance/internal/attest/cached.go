package attest

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"
)

// cached is a value that somebody else publishes: a key set, a bundle. It is read
// again when it is older than asked for, when it does not hold what a token names
// (though not more often than retryAfter, whatever strangers send), and at once when
// changed reports so. While it cannot be read, the last good value counts for
// staleAfter.
type cached[T any] struct {
	// read gets the value that is held and returns its successor.
	read    func(ctx context.Context, held T) (T, error)
	changed func() bool // may be nil
	name    string      // whose it is, for the log
	now     func() time.Time
	log     *zap.Logger

	mu      sync.RWMutex
	value   T
	fetched time.Time // when value was read; zero: never

	reading sync.Mutex // held while reading; guards tried and failure
	tried   time.Time
	failure error
}

// get is the value if it is not older than every and good says yes, else what reading
// it again gives. ok reports that the value counts and is good. Without ok, err says why
// it could not be read, or is nil when it could.
func (c *cached[T]) get(ctx context.Context, every func(T) time.Duration, good func(T) bool) (v T, ok bool, err error) {
	v, fetched, age := c.load()
	ok = !fetched.IsZero() && age < staleAfter && good(v)
	changed := c.changed != nil && c.changed()
	if ok && age < every(v) && !changed {
		return v, true, nil
	}
	err = c.refresh(ctx, fetched, !ok || changed, changed)
	v, fetched, age = c.load()
	ok = !fetched.IsZero() && age < staleAfter && good(v)
	return v, ok, err
}

func (c *cached[T]) load() (v T, fetched time.Time, age time.Duration) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.value, c.fetched, c.now().Sub(c.fetched)
}

// refresh reads the value again unless somebody did since held or, without at once,
// tried just now. Without wait it leaves the work to whoever is at it already.
func (c *cached[T]) refresh(ctx context.Context, held time.Time, wait, atOnce bool) error {
	if wait {
		c.reading.Lock()
	} else if !c.reading.TryLock() {
		return nil
	}
	defer c.reading.Unlock()
	value, fetched, _ := c.load()
	if fetched.After(held) {
		return nil
	}
	now := c.now()
	if !atOnce && !c.tried.IsZero() && now.Sub(c.tried) < retryAfter {
		return c.failure
	}
	c.tried = now
	before := c.failure
	// It is read for everybody: whoever asked first and left must not fail the others.
	value, c.failure = c.read(context.WithoutCancel(ctx), value)
	if c.failure != nil {
		if before == nil {
			c.log.Warn("trusted keys could not be read; the last good ones count for a while", zap.String("of", c.name), zap.Duration("at_most", staleAfter), zap.Error(c.failure))
		}
		return c.failure
	}
	if before != nil {
		c.log.Info("trusted keys are read again", zap.String("of", c.name))
	}
	c.mu.Lock()
	c.value, c.fetched = value, now
	c.mu.Unlock()
	return nil
}
