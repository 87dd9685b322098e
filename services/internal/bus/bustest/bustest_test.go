package bustest_test

import (
	"testing"

	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/bus/bustest"
)

func TestStart(t *testing.T) {
	c := bustest.Start(t)
	if n, err := c.LastSequence(t.Context(), bus.StreamLog, ">"); err != nil || n != 0 {
		t.Fatalf("last sequence of an empty stream: %d, %v", n, err)
	}
	if err := c.SyncAlways(t.Context()); err != nil {
		t.Fatal(err)
	}
}
