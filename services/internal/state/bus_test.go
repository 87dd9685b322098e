package state

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/bus/bustest"
)

// TestOnBus runs racing processes on a real nats-server, with Redis flushed meanwhile:
// nothing is issued after the revoke, nothing twice, and the view equals the log.
func TestOnBus(t *testing.T) {
	servers(t, func(t *testing.T, srv server) {
		flush(t, srv)
		ctx, log := context.Background(), bustest.Start(t)
		stores := []*Store{open(t, srv), open(t, srv), open(t, srv)}
		for _, s := range stores[:2] {
			following(t, s, log, tally())
		}
		c := client(t, srv)
		var wg sync.WaitGroup
		for p, s := range stores {
			e := entities(log, s)
			wg.Go(func() {
				for i := range 40 {
					id := fmt.Sprint("id", i%4)
					_, _, err := e.Decide(ctx, tenant, id, issue(t, id, fmt.Sprintf("%d-%d", p, i)))
					if err != nil && !errors.Is(err, errStopped) {
						t.Errorf("issue: %v", err)
					}
					if i == 20 {
						c.FlushAll(ctx)
					}
				}
			})
		}
		wg.Go(func() {
			_, _, err := entities(log, stores[0]).Decide(ctx, tenant, "id3", func(c credentials) ([]events.Event, error) {
				return []events.Event{revoked(t, "id3")}, nil
			})
			if err != nil {
				t.Errorf("revoke: %v", err)
			}
		})
		wg.Wait()
		want, over, seen := map[string]string{}, false, map[string]bool{}
		var last uint64
		for st, err := range log.Read(ctx, bus.StreamLog, "nhi.log.>", 1) {
			if err != nil {
				t.Fatal(err)
			}
			id := st.Event.Subject()
			if over = over || st.Event.Type() == events.TypeIdentityRevoked; over && id == "id3" && st.Event.Type() == events.TypeCredentialIssued {
				t.Error("issued after the revoke")
			}
			if seen[eventID(st.Event)] {
				t.Error("an event is in the log twice")
			}
			seen[eventID(st.Event)] = true
			if st.Event.Type() == events.TypeCredentialIssued {
				n, _ := strconv.Atoi(want[id])
				want[id] = strconv.Itoa(n + 1)
			}
			last = st.Sequence
		}
		wait, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		if err := stores[2].Wait(wait, viewName, last); err != nil {
			t.Fatal(err)
		}
		if got := c.HGetAll(ctx, Prefix(viewName)+"count").Val(); !maps.Equal(want, got) {
			t.Errorf("the view holds %v, want %v", got, want)
		}
		for id, n := range want {
			s, _, err := entities(log, stores[2]).Load(ctx, tenant, id)
			if err != nil || strconv.Itoa(len(s.Issued)) != n {
				t.Errorf("%s: %d issued, %v; want %s", id, len(s.Issued), err, n)
			}
		}
	})
}
