package state

import (
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestOnce: of many that show one id, through two processes, one is the first; spaces
// are apart, and a Redis that is away is an error.
func TestOnce(t *testing.T) {
	servers(t, func(t *testing.T, srv server) {
		stores := []*Store{open(t, srv), open(t, srv)}
		var firsts atomic.Int64
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				first, err := stores[i%2].Once(t.Context(), "test", "one", time.Minute)
				if err != nil {
					t.Errorf("once: %v", err)
				}
				if first {
					firsts.Add(1)
				}
			})
		}
		wg.Wait()
		if n := firsts.Load(); n != 1 {
			t.Errorf("%d were the first", n)
		}
		for _, c := range [][2]string{{"test", "two"}, {"other", "one"}} {
			if first, err := stores[0].Once(t.Context(), c[0], c[1], time.Minute); err != nil || !first {
				t.Errorf("%v: %t, %v", c, first, err)
			}
		}
		c := client(t, srv)
		kept, err := c.Keys(t.Context(), oncePrefix+"*").Result()
		if err != nil || len(kept) != 3 {
			t.Errorf("kept %v, %v", kept, err)
		}
		for _, k := range kept {
			if ttl := c.TTL(t.Context(), k).Val(); ttl <= 0 || ttl > time.Minute {
				t.Errorf("%s is kept for %s", k, ttl)
			}
		}
		srv.stop()
		if first, err := stores[1].Once(t.Context(), "test", "three", time.Minute); err == nil || first {
			t.Errorf("without Redis: %t, %v", first, err)
		}
		srv.restart()
	})
}
