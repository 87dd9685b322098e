package bus

import (
	"sync"

	"github.com/nats-io/nats.go/jetstream"
)

// lanes hands messages to a function, some at once: those of one key one after the
// other in the order in which they came, keys in turn. It has goroutines only while
// it has messages.
type lanes struct {
	most   int // messages at once
	handle func(key string, m jetstream.Msg)
	wg     sync.WaitGroup // running goroutines

	mu      sync.Mutex
	keys    map[string]*lane
	ready   []*lane // lanes with messages that wait for their turn
	running int
}

// lane is the messages of one key.
type lane struct {
	key   string
	queue []jetstream.Msg // the first is being handled, unless the lane waits
}

func (l *lanes) push(key string, m jetstream.Msg) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ln, ok := l.keys[key]; ok {
		ln.queue = append(ln.queue, m)
		return
	}
	ln := &lane{key: key, queue: []jetstream.Msg{m}}
	l.keys[key] = ln
	if l.running == l.most {
		l.ready = append(l.ready, ln)
		return
	}
	l.running++
	l.wg.Add(1)
	go l.run(ln)
}

func (l *lanes) run(ln *lane) {
	defer l.wg.Done()
	for ln != nil {
		l.mu.Lock()
		m := ln.queue[0]
		l.mu.Unlock()
		l.handle(ln.key, m)
		ln = l.done(ln)
	}
}

// done takes the handled message off its lane and returns the lane whose turn it is.
func (l *lanes) done(ln *lane) *lane {
	l.mu.Lock()
	defer l.mu.Unlock()
	ln.queue[0] = nil
	ln.queue = ln.queue[1:]
	if len(ln.queue) > 0 {
		l.ready = append(l.ready, ln)
	} else {
		delete(l.keys, ln.key)
	}
	if len(l.ready) == 0 {
		l.ready = nil
		l.running--
		return nil
	}
	next := l.ready[0]
	l.ready = l.ready[1:]
	return next
}

// inProgress tells the server that every message is still held.
func (l *lanes) inProgress() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, ln := range l.keys {
		for _, m := range ln.queue {
			_ = m.InProgress() // fails for a message that is settled
		}
	}
}
