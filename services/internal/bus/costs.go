package bus

import "time"

// costs learns which way of storing many messages is cheaper. Single messages, published
// without waiting, cost a sync each where the server syncs every write and the stream is
// not replicated, and else very little. An atomic batch costs some syncs at first, and
// little per message. What each way cost lately is known from the groups that went by it;
// a way that no group has gone for a while is tried again, on a part of one.
type costs struct {
	each  measured // of a single message
	batch measured // of an atomic batch, without what its messages cost
}

// measured is a moving average.
type measured struct {
	cost time.Duration // 0: never measured
	at   time.Time
}

func (m *measured) note(cost time.Duration, now time.Time) {
	if cost = max(cost, 1); m.cost > 0 {
		cost = m.cost + (cost-m.cost)/4
	}
	m.cost, m.at = cost, now
}

func (m *measured) old(now time.Time) bool { return m.cost == 0 || now.Sub(m.at) > remeasure }

const (
	many      = 4                     // messages from which the way matters
	trial     = 64                    // messages of a trial at most
	remeasure = 10 * time.Second      // a figure older than this is tried again
	inBatch   = 20 * time.Microsecond // what a message costs in an atomic batch
)

// direct reports whether single messages should go at once, each on its own: when even a
// large group is not cheaper as a batch.
func (k *costs) direct(now time.Time) bool {
	return !k.each.old(now) && !k.batch.old(now) && !k.cheaper(trial)
}

// cheaper reports whether n messages are cheaper as an atomic batch.
func (k *costs) cheaper(n int) bool {
	return k.batch.cost+time.Duration(n)*inBatch < time.Duration(n)*k.each.cost
}

// choose decides for a group of n single messages: whether as an atomic batch, and
// how many of them at most.
func (k *costs) choose(n int, now time.Time) (atomic bool, most int) {
	switch {
	case n < many:
		return false, n
	case k.each.old(now):
		return false, min(n, trial)
	case k.batch.old(now):
		return true, min(n, trial)
	}
	return k.cheaper(n), n
}

// note learns from a group of n messages.
func (k *costs) note(atomic bool, n int, took time.Duration, now time.Time) {
	switch {
	case n < many:
	case atomic:
		k.batch.note(took-time.Duration(n)*inBatch, now)
	default:
		k.each.note(took/time.Duration(n), now)
	}
}
