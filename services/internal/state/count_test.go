package state

import (
	"slices"
	"sync"
	"testing"
	"time"
)

// TestCount: through two processes every number is given once; ids and spaces are apart,
// and a Redis that is away is an error.
func TestCount(t *testing.T) {
	servers(t, func(t *testing.T, srv server) {
		stores := []*Store{open(t, srv), open(t, srv)}
		var mu sync.Mutex
		var got []int64
		var wg sync.WaitGroup
		for i := range 20 {
			wg.Go(func() {
				n, err := stores[i%2].Count(t.Context(), "test", "one", time.Minute)
				if err != nil {
					t.Errorf("count: %v", err)
				}
				mu.Lock()
				got = append(got, n)
				mu.Unlock()
			})
		}
		wg.Wait()
		slices.Sort(got)
		for i, n := range got {
			if n != int64(i+1) {
				t.Fatalf("counted %v", got)
			}
		}
		for _, c := range [][2]string{{"test", "two"}, {"other", "one"}} {
			if n, err := stores[0].Count(t.Context(), c[0], c[1], time.Minute); err != nil || n != 1 {
				t.Errorf("%v: %d, %v", c, n, err)
			}
		}
		c := client(t, srv)
		kept, err := c.Keys(t.Context(), countPrefix+"*").Result()
		if err != nil || len(kept) != 3 {
			t.Errorf("kept %v, %v", kept, err)
		}
		for _, k := range kept {
			if ttl := c.TTL(t.Context(), k).Val(); ttl <= 0 || ttl > time.Minute {
				t.Errorf("%s is kept for %s", k, ttl)
			}
		}
		srv.stop()
		if n, err := stores[1].Count(t.Context(), "test", "three", time.Minute); err == nil {
			t.Errorf("without Redis: %d", n)
		}
		srv.restart()
	})
}
