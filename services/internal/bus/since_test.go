package bus

import (
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

func TestSequenceAt(t *testing.T) {
	c := testBus(t)
	filter := events.EntityFilter("acme", "agent")
	if n, err := c.SequenceAt(t.Context(), StreamLog, filter, time.Unix(0, 0)); err != nil || n != 0 {
		t.Fatalf("of an empty stream: %d, %v", n, err)
	}
	for i := range 4 {
		if err := c.Publish(t.Context(), risk(t, "acme", []string{"other", "agent"}[i%2], i)); err != nil {
			t.Fatal(err)
		}
	}
	stored := read(t, c, StreamLog, ">")
	for _, tc := range []struct {
		at   time.Time
		want uint64
	}{
		{time.Unix(0, 0), 2},
		{stored[1].Time, 2},
		{stored[1].Time.Add(1), 4},
		{stored[3].Time, 4},
		{stored[3].Time.Add(1), 0},
	} {
		if n, err := c.SequenceAt(t.Context(), StreamLog, filter, tc.at); err != nil || n != tc.want {
			t.Errorf("at %s: %d, %v, want %d", tc.at.Format(time.RFC3339Nano), n, err, tc.want)
		}
	}
}
