package bus

import (
	"context"
	"sync"
	"time"
)

// messageContext is the context of one message: it ends when the message is settled
// or when the grace period of a shutdown is over. Most handlers never wait for that,
// so it enters itself into its parent only when somebody asks for Done.
type messageContext struct {
	parent context.Context

	mu     sync.Mutex
	inner  context.Context // nil until somebody asks for Done
	cancel context.CancelFunc
	ended  bool
}

// end is called when the message is settled.
func (c *messageContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.cancel != nil {
		c.cancel()
	}
}

// Deadline implements context.Context.
func (c *messageContext) Deadline() (time.Time, bool) { return c.parent.Deadline() }

// Done implements context.Context.
func (c *messageContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.inner == nil {
		c.inner, c.cancel = context.WithCancel(c.parent)
		if c.ended {
			c.cancel()
		}
	}
	return c.inner.Done()
}

// Err implements context.Context.
func (c *messageContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return context.Canceled
	}
	if c.inner != nil {
		return c.inner.Err()
	}
	return c.parent.Err()
}

// Value implements context.Context. Once there is an inner context it answers, so
// that contexts made from this one find it and need no goroutine.
func (c *messageContext) Value(key any) any {
	c.mu.Lock()
	inner := c.inner
	c.mu.Unlock()
	if inner != nil {
		return inner.Value(key)
	}
	return c.parent.Value(key)
}
