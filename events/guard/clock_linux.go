package guard

import (
	"time"

	"golang.org/x/sys/unix"
)

// bootClock reads a clock that never goes back and counts suspend: a guard on a
// machine that slept must find its lease run out. Go's monotonic clock stops then.
func bootClock() func() time.Duration {
	return func() time.Duration {
		var ts unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
			// Linux has had it since 2.6.39; without it no lease can be judged.
			return time.Duration(1<<63 - 1)
		}
		return time.Duration(ts.Nano())
	}
}
