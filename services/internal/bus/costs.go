package bus

import "time"

// costs learns which way of storing many messages is cheaper. An atomic batch costs
// much at first and little per message: one sync for all. Single messages, published
// without waiting, cost a sync each where the server syncs every write and the
// stream is not replicated, and else very little. So every now and then both ways are
// tried on a group, and the cheaper one is used until the next trial.
type costs struct {
	until  time.Time // the decision holds until then
	single bool      // the decision: single messages
	plain  time.Duration
	tries  int // plain trials made
}

const (
	many     = 16               // messages from which the way matters
	trial    = 64               // messages of a trial
	trials   = 2                // plain trials before the decision; the first also pays for waking up
	decision = 10 * time.Second // how long a decision holds
)

// direct reports whether single messages should go at once, each on its own.
func (k *costs) direct(now time.Time) bool { return k.single && now.Before(k.until) }

// choose decides for a group of n single messages: whether as an atomic batch, and
// how many of them at most.
func (k *costs) choose(n int, now time.Time) (atomic bool, most int) {
	switch {
	case n < many:
		return false, n
	case now.Before(k.until):
		return !k.single, n
	case k.tries < trials:
		return false, min(n, trial)
	default:
		return true, min(n, trial)
	}
}

// note learns from a group of n messages.
func (k *costs) note(atomic bool, n int, took time.Duration, now time.Time) {
	if n < many || now.Before(k.until) {
		return
	}
	each := took / time.Duration(n)
	if !atomic {
		if k.plain == 0 || each < k.plain {
			k.plain = each
		}
		k.tries++
		return
	}
	if k.tries < trials { // a group that had to be atomic says nothing about a trial
		return
	}
	k.single = k.plain < each
	k.until, k.plain, k.tries = now.Add(decision), 0, 0
}
