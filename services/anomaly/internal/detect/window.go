package detect

import (
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"
)

// distinct counts different values: exactly up to exactMax, then by linear counting
// over a bitmap of 512 bits (Whang et al. 1990), good to about 10 % up to 1,500 and
// saturating at 3,194.
type distinct struct {
	words   []uint32 // the values, or the bitmap
	counted bool     // it is the bitmap
}

const (
	exactMax    = 16
	bitmapWords = 16
	bitmapBits  = bitmapWords * 32
)

func (d *distinct) add(h uint32) {
	if d.counted {
		d.set(h)
		return
	}
	if slices.Contains(d.words, h) {
		return
	}
	if len(d.words) < exactMax {
		if d.words == nil {
			d.words = make([]uint32, 0, 2)
		}
		d.words = append(d.words, h)
		return
	}
	d.toBitmap()
	d.set(h)
}

func (d *distinct) toBitmap() {
	exact := d.words
	d.words, d.counted = make([]uint32, bitmapWords), true
	for _, h := range exact {
		d.set(h)
	}
}

func (d *distinct) set(h uint32) {
	b := (h * 2654435769) >> (32 - 9) // FNV's low bits alone are not spread well enough
	d.words[b/32] |= 1 << (b % 32)
}

func (d *distinct) merge(o *distinct) {
	if !o.counted {
		for _, h := range o.words {
			d.add(h)
		}
		return
	}
	if !d.counted {
		d.toBitmap()
	}
	for i, w := range o.words {
		d.words[i] |= w
	}
}

func (d *distinct) count() int {
	if !d.counted {
		return len(d.words)
	}
	ones := 0
	for _, w := range d.words {
		ones += bits.OnesCount32(w)
	}
	zeros := max(bitmapBits-ones, 1)
	return int(math.Round(-bitmapBits * math.Log(float64(zeros)/bitmapBits)))
}

// slot is one tumbling interval of event time.
type slot struct {
	index   int64 // event time / width
	touched uint32
	values  distinct
	alarmed bool // an alert was raised about it, so it does not train
}

// sample is one piece of evidence.
type sample struct {
	slot int64
	at   int32Time
	id   string
}

const slots = 5

// Window counts distinct values over event time in tumbling slots and judges two
// neighbouring slots together, so that a burst that crosses a boundary is seen
// whole. Five slots bridge the lateness of audit logs. A slot gives way to a newer
// one by use, not by time, so that one record with a wrong time blinds nothing.
type Window struct {
	slots []slot
	ids   []sample
	tick  uint32
	habit habit
}

// count is what Window found around one event.
type count struct {
	n        int       // distinct values in both slots
	about    bool      // n was estimated
	from, to time.Time // what they span
	ids      []string
	since    time.Time // of the oldest of ids
}

// number writes n, and that it is an estimate when it is one.
func (c count) number() string {
	if c.about {
		return "about " + strconv.Itoa(c.n)
	}
	return strconv.Itoa(c.n)
}

// add notes h at t and counts the busier of the two pairs of slots that hold t.
func (w *Window) add(h uint32, t time.Time, width time.Duration, id string) count {
	i := floorDiv(t.Unix(), int64(width/time.Second))
	w.tick++
	s := w.at(i, width)
	s.touched = w.tick
	s.values.add(h)
	if len(id) <= maxIDLen && !slices.ContainsFunc(w.ids, func(s sample) bool { return s.slot == i && s.id == id }) {
		if len(w.ids) == maxIDs {
			w.ids = append(w.ids[:0], w.ids[1:]...)
		}
		w.ids = append(w.ids, sample{i, seconds(t), strings.Clone(id)})
	}
	best := w.pair(i-1, width)
	if next := w.pair(i, width); next.n > best.n {
		best = next
	}
	return best
}

func (w *Window) pair(i int64, width time.Duration) count {
	var all distinct
	for j := range w.slots {
		if w.slots[j].index == i || w.slots[j].index == i+1 {
			all.merge(&w.slots[j].values)
		}
	}
	c := count{n: all.count(), about: all.counted, from: time.Unix(i*int64(width/time.Second), 0).UTC()}
	c.to = c.from.Add(2 * width)
	for _, s := range w.ids {
		if s.slot == i || s.slot == i+1 {
			c.ids = append(c.ids, s.id)
			if at := s.at.time(); c.since.IsZero() || at.Before(c.since) {
				c.since = at
			}
		}
	}
	return c
}

// alarm marks the slots of c: an incident does not become the baseline at once.
func (w *Window) alarm(c count, width time.Duration) {
	i := floorDiv(c.from.Unix(), int64(width/time.Second))
	for j := range w.slots {
		if w.slots[j].index == i || w.slots[j].index == i+1 {
			w.slots[j].alarmed = true
		}
	}
}

func (w *Window) at(i int64, width time.Duration) *slot {
	for j := range w.slots {
		if w.slots[j].index == i {
			return &w.slots[j]
		}
	}
	if len(w.slots) < slots {
		w.slots = append(w.slots, slot{index: i})
		return &w.slots[len(w.slots)-1]
	}
	old := 0
	for j := range w.slots {
		if w.slots[j].touched < w.slots[old].touched {
			old = j
		}
	}
	s := &w.slots[old]
	w.habit.add(s.values.count(), seconds(time.Unix(s.index*int64(width/time.Second), 0)), s.alarmed)
	*s = slot{index: i}
	return s
}

func (w *Window) bytes() int {
	if w == nil {
		return 0
	}
	n := 128 + cap(w.slots)*56 + cap(w.ids)*32
	for _, s := range w.slots {
		n += cap(s.values.words) * 4
	}
	for _, s := range w.ids {
		n += len(s.id)
	}
	return n
}

func floorDiv(a, b int64) int64 {
	q := a / b
	if a%b < 0 {
		q--
	}
	return q
}

// habit is the distribution of counts over past slots, in 20 buckets: 1 to 8
// exactly, then doubling in steps of about a third.
type habit struct {
	buckets   [20]uint16
	total     uint32
	pending   int       // largest count of an incident that does not train yet
	pendingAt int32Time // when it was
}

// habitTop is the largest count of each bucket. It is a read-only table.
var habitTop = [20]int{1, 2, 3, 4, 5, 6, 7, 8, 11, 14, 19, 26, 35, 48, 64, 128, 256, 512, 2048, 1 << 30}

func (h *habit) add(n int, at int32Time, alarmed bool) {
	if n == 0 {
		return
	}
	if h.pending > 0 && int64(at)-int64(h.pendingAt) >= int64(quarantine/time.Second) {
		h.put(h.pending)
		h.pending = 0
	}
	if alarmed {
		if h.pending == 0 {
			h.pendingAt = at
		}
		h.pending = max(h.pending, n)
		return
	}
	h.put(n)
}

func (h *habit) put(n int) {
	b := 0
	for habitTop[b] < n {
		b++
	}
	if h.buckets[b] == 1<<16-1 { // forget slowly rather than overflow
		h.total = 0
		for i := range h.buckets {
			h.buckets[i] /= 2
			h.total += uint32(h.buckets[i])
		}
	}
	h.buckets[b]++
	h.total++
}

// q99 is the 99th percentile of past counts, rounded up to its bucket; 0 without a past.
func (h *habit) q99() int {
	if h.total == 0 {
		return 0
	}
	need := uint32(math.Ceil(float64(h.total) * 0.99))
	var sum uint32
	for b, n := range h.buckets {
		if sum += uint32(n); sum >= need {
			return habitTop[b]
		}
	}
	return habitTop[len(habitTop)-1]
}
