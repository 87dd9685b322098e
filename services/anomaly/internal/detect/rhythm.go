package detect

import (
	"math"
	"time"
)

// rhythm is how often an identity is used: the gaps between uses and the uses per
// hour.
type rhythm struct {
	first  int32Time
	last   int32Time
	widest uint32 // longest gap in seconds
	total  uint32 // gaps of an hour or more
	gaps   [gapBuckets]uint16

	hour      uint32 // current hour since 1970
	count     uint32 // uses in it
	alarmed   bool   // an alert was raised about it
	hours     uint32 // active hours before
	mean, m2  float32
	busiest   uint32
	pending   uint32 // busiest hour of an incident, which does not train yet
	pendingAt int32Time
}

func (r *rhythm) bytes() int {
	if r == nil {
		return 0
	}
	return 160
}

// gapBuckets are an hour times 1.5 per step: the last one begins at 466 days.
const gapBuckets = 24

// gapTop is the upper bound of bucket b.
func gapTop(b int) time.Duration {
	return time.Duration(float64(time.Hour) * math.Pow(1.5, float64(b+1)))
}

func gapBucket(d time.Duration) int {
	return min(int(math.Log(float64(d)/float64(time.Hour))/math.Log(1.5)), gapBuckets-1)
}

// gap notes a use at t and returns how long the silence before it was, 0 for a use
// that is late or the first.
func (r *rhythm) gap(at int32Time) time.Duration {
	if r.last == 0 {
		r.first, r.last = at, at
	}
	if at <= r.last {
		return 0
	}
	d := time.Duration(at-r.last) * time.Second
	r.last = at
	return d
}

// keep makes the gap part of the habit.
func (r *rhythm) keep(d time.Duration) {
	if d < time.Hour {
		return
	}
	if r.total++; r.gaps[gapBucket(d)] < 1<<16-1 {
		r.gaps[gapBucket(d)]++
	}
	r.widest = max(r.widest, uint32(d/time.Second))
}

// q995 is the 99.5th percentile of the gaps of an hour and more: the top of its
// bucket, or the longest gap when that is less.
func (r *rhythm) q995() time.Duration {
	longest := time.Duration(r.widest) * time.Second
	need := uint32(math.Ceil(float64(r.total) * 0.995))
	var sum uint32
	for b, n := range r.gaps {
		if sum += uint32(n); n > 0 && sum >= need {
			return min(gapTop(b), longest)
		}
	}
	return longest
}

// tick counts one use in its hour and reports whether the hour is the current one: a
// late use of an earlier hour is not counted.
func (r *rhythm) tick(at int32Time) bool {
	h := uint32(at) / 3600
	switch {
	case h < r.hour:
		return false
	case h > r.hour:
		r.close()
		r.hour, r.count, r.alarmed = h, 0, false
	}
	r.count++
	return true
}

// close makes the current hour part of the habit (Welford 1962). The hour of an
// incident becomes part of it when a day has passed.
func (r *rhythm) close() {
	if r.count == 0 {
		return
	}
	start := int32Time(r.hour * 3600)
	if r.pending > 0 && gapOf(start, r.pendingAt) >= quarantine {
		r.add(r.pending)
		r.pending = 0
	}
	if r.alarmed {
		if r.pending == 0 {
			r.pendingAt = start
		}
		r.pending = max(r.pending, r.count)
		return
	}
	r.add(r.count)
}

func (r *rhythm) add(n uint32) {
	r.hours++
	d := float32(n) - r.mean
	r.mean += d / float32(r.hours)
	r.m2 += d * (float32(n) - r.mean)
	r.busiest = max(r.busiest, n)
}

// tail is the count that a negative binomial of the own mean and variance passes only
// by so many standard deviations.
func (r *rhythm) tail(sigma float64) float64 {
	variance := float64(r.mean)
	if r.hours > 1 {
		variance = max(variance, float64(r.m2)/float64(r.hours-1))
	}
	return float64(r.mean) + sigma*math.Sqrt(variance)
}
