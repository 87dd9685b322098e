package bus

import (
	"sync"
	"time"
)

// patience ends waits after one to two periods. All who wait share its two channels,
// so that a wait costs no timer of its own.
type patience struct {
	period time.Duration

	mu        sync.Mutex
	soon      chan struct{} // closed at the end of this period
	later     chan struct{} // closed at the end of the next
	lastAsked bool          // somebody asked in this period
}

// over returns a channel that is closed when the wait has been long enough.
func (p *patience) over() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.later == nil {
		p.soon, p.later = make(chan struct{}), make(chan struct{})
		time.AfterFunc(p.period, p.turn)
	}
	p.lastAsked = true
	return p.later
}

// turn ends a period. When nobody asked in it, the next is the last until
// somebody asks again.
func (p *patience) turn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.soon)
	if !p.lastAsked {
		close(p.later)
		p.soon, p.later = nil, nil
		return
	}
	p.soon, p.later, p.lastAsked = p.later, make(chan struct{}), false
	time.AfterFunc(p.period, p.turn)
}
