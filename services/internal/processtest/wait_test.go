package processtest

import (
	"testing"
	"time"
)

// until polls cond until it holds, or fails the test.
func until(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	deadline := time.Now().Add(limit)
	for !cond() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: did not happen within %s", what, limit)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
