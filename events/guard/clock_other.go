//go:build !linux

package guard

import "time"

// bootClock falls back on Go's monotonic clock where no clock that counts suspend
// is known to us. After a suspend such a guard may answer from before it, until the
// heartbeat that follows.
func bootClock() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}
