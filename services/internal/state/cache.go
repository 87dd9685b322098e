package state

import (
	"container/list"
	"context"
	"encoding/json"
	"sync"
)

// fold is the state of one entity as of one event of the log. The event's id is kept
// with its sequence, so that a fold of another log (a restored backup, a new
// deployment on an old Redis) is recognised and thrown away.
type fold struct {
	sequence uint64          // of the last event folded; 0: none
	id       string          // source and id of that event
	state    json.RawMessage // the fold, encoded: callers never share memory
	unsaved  int             // events folded since Redis was last given it; -1: Redis has nothing
	behind   bool            // the log holds more than it shows; never kept
}

// lru keeps the most recently used folds of one process. Every use is checked
// against the log, so it may be stale but not wrong.
type lru struct {
	mu    sync.Mutex
	cap   int
	order list.List // front: most recently used; values are *node
	nodes map[string]*list.Element
}

type node struct {
	key  string
	fold fold
}

func newLRU(capacity int) *lru { return &lru{cap: capacity, nodes: map[string]*list.Element{}} }

func (l *lru) get(key string) (fold, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.nodes[key]
	if !ok {
		return fold{}, false
	}
	l.order.MoveToFront(e)
	return e.Value.(*node).fold, true
}

// put keeps f unless a newer fold is there. Folds that do not fit the log are
// removed with drop first.
func (l *lru) put(key string, f fold) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.nodes[key]; ok {
		n := e.Value.(*node)
		if f.sequence >= n.fold.sequence {
			n.fold = f
		}
		l.order.MoveToFront(e)
		return
	}
	l.nodes[key] = l.order.PushFront(&node{key, f})
	if l.order.Len() > l.cap {
		last := l.order.Back()
		l.order.Remove(last)
		delete(l.nodes, last.Value.(*node).key)
	}
}

func (l *lru) drop(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.nodes[key]; ok {
		l.order.Remove(e)
		delete(l.nodes, key)
	}
}

func (l *lru) clear() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.order.Init()
	clear(l.nodes)
}

// locks makes decisions about one entity wait for each other within a process, so
// that they conflict only across processes.
type locks struct {
	mu   sync.Mutex
	held map[string]*lock
}

type lock struct {
	turn chan struct{} // holds one token while the lock is free
	refs int
}

// lock waits for its turn or the end of ctx.
func (l *locks) lock(ctx context.Context, key string) (unlock func(), err error) {
	l.mu.Lock()
	k, ok := l.held[key]
	if !ok {
		k = &lock{turn: make(chan struct{}, 1)}
		k.turn <- struct{}{}
		l.held[key] = k
	}
	k.refs++
	l.mu.Unlock()
	release := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.refs--; k.refs == 0 {
			delete(l.held, key)
		}
	}
	select {
	case <-k.turn:
		return func() { k.turn <- struct{}{}; release() }, nil
	case <-ctx.Done():
		release()
		return nil, ctx.Err()
	}
}
