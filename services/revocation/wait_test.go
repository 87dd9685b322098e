package revocation

import (
	"testing"
	"time"
)

// until polls for what must come true within ten seconds.
func until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatalf("did not come true: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}
