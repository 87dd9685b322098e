package bus

import (
	"slices"
	"sync"
	"time"
)

// held keeps the order of a key over redeliveries: while a message is given back to
// come again later, the messages of its key behind it are given back too, until it
// has come. A message that another process took does not come again here; so each
// entry also ends by itself.
type held struct {
	grace time.Duration // how long after its time a message is waited for

	mu   sync.Mutex
	keys map[string][]heldMessage // in the order of sequence
}

type heldMessage struct {
	sequence uint64
	due      time.Time // when the server delivers it again
}

// pass reports whether a message may be handled now. If not it must be given back
// with the returned delay, which pass has noted.
func (h *held) pass(key string, sequence uint64, now time.Time) (delay time.Duration, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	list, found := h.keys[key]
	if !found {
		return 0, true
	}
	list = slices.DeleteFunc(list, func(m heldMessage) bool {
		return m.sequence == sequence || now.After(m.due.Add(h.grace))
	})
	h.set(key, list)
	if len(list) == 0 || list[0].sequence > sequence {
		return 0, true
	}
	// Behind the one that comes first, by a little so that they come in order.
	delay = max(list[0].due.Sub(now), 0) + 10*time.Millisecond
	h.insert(key, heldMessage{sequence, now.Add(delay)})
	return delay, false
}

// back notes that a message was given back.
func (h *held) back(key string, sequence uint64, due time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.insert(key, heldMessage{sequence, due})
}

func (h *held) insert(key string, m heldMessage) {
	list := h.keys[key]
	i, found := slices.BinarySearchFunc(list, m.sequence, func(a heldMessage, seq uint64) int {
		switch {
		case a.sequence < seq:
			return -1
		case a.sequence > seq:
			return 1
		}
		return 0
	})
	if found {
		list[i] = m
	} else {
		list = slices.Insert(list, i, m)
	}
	h.set(key, list)
}

func (h *held) set(key string, list []heldMessage) {
	if len(list) == 0 {
		delete(h.keys, key)
		return
	}
	h.keys[key] = list
}
