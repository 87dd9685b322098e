package state

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/alicebob/miniredis/v2"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/bus/bustest"
	"github.com/redis/go-redis/v9"
)

// BenchmarkRebuild folds a log into a view, three writes an event. "raw" is the limit:
// the same events from the same stream, written in pipelines without positions.
func BenchmarkRebuild(b *testing.B) {
	log := bustest.Start(b)
	const n = 5000
	for i := range n / 50 {
		var es []events.Event
		for j := range 50 {
			es = append(es, issued(b, fmt.Sprint("id", j), fmt.Sprint(i, j)))
		}
		if _, err := log.Append(b.Context(), bus.Batch{Events: es}); err != nil {
			b.Fatal(err)
		}
	}
	for name, srv := range benchServers(b) {
		b.Run("view/"+name, func(b *testing.B) {
			s := open(b, srv)
			for b.Loop() {
				flush(b, srv)
				stop := following(b, s, log, tally())
				if err := s.Wait(b.Context(), viewName, n); err != nil {
					b.Fatal(err)
				}
				stop()
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
		b.Run("raw/"+name, func(b *testing.B) {
			c := client(b, srv)
			for b.Loop() {
				flush(b, srv)
				if err := raw(log, c, n); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

func raw(log Log, c *redis.Client, n uint64) error {
	p, v := c.Pipeline(), tally()
	err := log.Follow(context.Background(), bus.StreamLog, v.Filters, 1, func(st bus.Stored) error {
		v.Apply(p, st)
		if st.Sequence%viewBatch == 0 || st.Sequence == n {
			if _, err := p.Exec(context.Background()); err != nil {
				return err
			}
		}
		if st.Sequence == n {
			return errStopped
		}
		return nil
	})
	if errors.Is(err, errStopped) {
		return nil
	}
	return err
}

func benchServers(b *testing.B) map[string]server {
	m := miniredis.NewMiniRedis()
	m.RequireAuth("pass-word")
	if err := m.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(m.Close)
	out := map[string]server{"embedded": &embeddedServer{b, m, m.Addr()}}
	if s := startReal(b); s != nil {
		out["redis-server"] = s
	}
	return out
}

// BenchmarkDecide is one decision about each of many entities, from memory.
func BenchmarkDecide(b *testing.B) {
	log := bustest.Start(b)
	srv := benchServers(b)["embedded"]
	e := entities(log, open(b, srv))
	i := 0
	for b.Loop() {
		i++
		id := fmt.Sprint("id", i%100)
		if _, _, err := e.Decide(b.Context(), tenant, id, func(credentials) ([]events.Event, error) {
			return []events.Event{issued(b, id, fmt.Sprint(i))}, nil
		}); err != nil {
			b.Fatal(err)
		}
	}
}
