package guard

import (
	"encoding/binary"
	"math"
	"math/bits"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
)

// maxDetails bounds for how many handles, the newest, the whole entry is kept for
// honest denials. Older ones only keep being refused.
const maxDetails = 4096

// liftSlack is how much older than a freeze by its signed time a lift may be and
// still end it: clocks of two revocation processes differ. A lift older than that
// is a replay.
const liftSlack = 5 * time.Second

// killSet is what a guard must refuse. A revoked handle stays until its retention
// is over; a freeze ends by a lift or at its own end. It is safe for concurrent use.
type killSet struct {
	mu     sync.RWMutex
	dead   table
	frozen map[lineage.Handle]Entry
	detail map[lineage.Handle]Entry // of the newest maxDetails revoked handles
	ring   []lineage.Handle         // keys of detail, oldest at next
	next   int
}

func newKillSet() *killSet {
	return &killSet{frozen: map[lineage.Handle]Entry{}, detail: map[lineage.Handle]Entry{}}
}

// apply takes an entry into account. It is idempotent, and a revoked handle never
// comes back whatever follows. The outcome says whether the handle was already
// revoked by another revocation.
func (s *killSet) apply(e Entry) events.ReceiptOutcome {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.dead.find(e.Handle); at >= 0 {
		if e.Mode == events.ModeRevoke {
			s.dead.slots[at].keep = max(s.dead.slots[at].keep, seconds(e.Keep))
		}
		if first, ok := s.detail[e.Handle]; ok && first.Revocation == e.Revocation {
			return events.ReceiptEnforced
		}
		return events.ReceiptAlreadyDead
	}
	switch old, is := s.frozen[e.Handle]; e.Mode {
	case events.ModeRevoke:
		s.dead.insert(e.Handle, seconds(e.Keep))
		delete(s.frozen, e.Handle)
		s.remember(e)
	case events.ModeFreeze:
		if !is || !e.At.Before(old.At) {
			s.frozen[e.Handle] = e
		}
	case events.ModeLift:
		if is && !e.At.Add(liftSlack).Before(old.At) {
			delete(s.frozen, e.Handle)
		}
	}
	return events.ReceiptEnforced
}

func (s *killSet) remember(e Entry) {
	if len(s.ring) < maxDetails {
		s.ring = append(s.ring, e.Handle)
	} else {
		delete(s.detail, s.ring[s.next])
		s.ring[s.next] = e.Handle
		s.next = (s.next + 1) % maxDetails
	}
	s.detail[e.Handle] = e
}

// find is the entry by which any handle of lin is dead at now; a revoked one is
// preferred to a frozen one, and one nearer to the root to one further down.
func (s *killSet) find(lin []lineage.Handle, now time.Time) (Entry, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.dead.n > 0 {
		for _, h := range lin {
			if s.dead.find(h) < 0 {
				continue
			}
			if e, ok := s.detail[h]; ok {
				return e, true
			}
			return Entry{Handle: h, Mode: events.ModeRevoke, Reason: "no longer in memory: ask the log for this handle"}, true
		}
	}
	if len(s.frozen) > 0 {
		for _, h := range lin {
			if e, ok := s.frozen[h]; ok && now.Before(*e.Until) {
				return e, true
			}
		}
	}
	return Entry{}, false
}

// sweep drops what no living token can meet any more at now.
func (s *killSet) sweep(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for h, e := range s.frozen {
		if now.After(*e.Until) && now.After(e.Keep) {
			delete(s.frozen, h)
		}
	}
	limit := now.Unix()
	if s.dead.expired(limit) == 0 {
		return
	}
	s.dead.rebuild(limit)
	kept := s.ring[:0:0]
	for i := range s.ring {
		h := s.ring[(s.next+i)%len(s.ring)]
		if s.dead.find(h) >= 0 {
			kept = append(kept, h)
		} else {
			delete(s.detail, h)
		}
	}
	s.ring, s.next = kept, 0
}

func (s *killSet) size() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.dead.n + len(s.frozen)
}

// seconds rounds up to whole seconds since 1970, at least 1; 32 bits last until 2106.
func seconds(t time.Time) uint32 {
	return uint32(min(max(t.Add(time.Second-1).Unix(), 1), math.MaxUint32))
}

// table is an open-addressing hash table whose entries stand in the order of their
// hashes (ordered linear probing), so that a search for what is absent, the usual
// case, ends as early as one for what is there. Between 80 % and 90 % of the slots are
// taken: at most 20 bytes a handle.
type table struct {
	slots []slot // the range, then what overflows its end
	size  uint64 // length of the range
	n     int
}

type slot struct {
	h    lineage.Handle
	keep uint32 // seconds since 1970; 0: the slot is empty
}

// hash spreads handles evenly. They are pseudorandom already when a Namer made them.
func hash(h *lineage.Handle) uint64 {
	x := binary.LittleEndian.Uint64(h[:8]) ^ uint64(binary.LittleEndian.Uint32(h[8:]))<<29
	x ^= x >> 32
	x *= 0x9e3779b97f4a7c15
	x ^= x >> 29
	return x * 0xbf58476d1ce4e5b9
}

// home maps a hash to a slot without changing the order of hashes.
func (t *table) home(x uint64) int {
	hi, _ := bits.Mul64(x, t.size)
	return int(hi)
}

// find is the slot of h, or -1.
func (t *table) find(h lineage.Handle) int {
	if t.n == 0 {
		return -1
	}
	x := hash(&h)
	for i := t.home(x); i < len(t.slots); i++ {
		s := &t.slots[i]
		if s.keep == 0 {
			return -1
		}
		if s.h == h {
			return i
		}
		if hash(&s.h) > x {
			return -1
		}
	}
	return -1
}

// insert adds h, which must not be there.
func (t *table) insert(h lineage.Handle, keep uint32) {
	if uint64(t.n+1)*10 > t.size*9 {
		t.rebuild(0)
	}
	x := hash(&h)
	i := t.home(x)
	for i < len(t.slots) && t.slots[i].keep != 0 && hash(&t.slots[i].h) <= x {
		i++
	}
	end := i
	for end < len(t.slots) && t.slots[end].keep != 0 {
		end++
	}
	if end == len(t.slots) {
		t.slots = append(t.slots, slot{})
	}
	copy(t.slots[i+1:end+1], t.slots[i:end])
	t.slots[i] = slot{h: h, keep: keep}
	t.n++
}

// rebuild makes room so that 80 % is taken, and leaves out what expired before limit.
func (t *table) rebuild(limit int64) {
	n := t.n - t.expired(limit)
	next := table{size: uint64(n+1)*5/4 + 8}
	next.slots = make([]slot, next.size, next.size+64)
	free := 0
	for i := range t.slots {
		s := t.slots[i]
		if s.keep == 0 || int64(s.keep) < limit {
			continue
		}
		at := max(next.home(hash(&s.h)), free)
		for at >= len(next.slots) {
			next.slots = append(next.slots, slot{})
		}
		next.slots[at] = s
		free = at + 1
		next.n++
	}
	*t = next
}

func (t *table) expired(limit int64) int {
	n := 0
	for i := range t.slots {
		if k := t.slots[i].keep; k != 0 && int64(k) < limit {
			n++
		}
	}
	return n
}
