package state

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"
	"pgregory.net/rapid"
)

const viewName = "tally"

// tally counts the credentials issued to each identity. A repeated or a missing event
// shows in the counts.
func tally() View {
	return View{
		Name: viewName, Stream: bus.StreamLog,
		Filters: []string{events.LogSubject(tenant, "credential", "issued", "*")},
		Apply: func(p redis.Pipeliner, s bus.Stored) {
			ctx := context.Background()
			p.HIncrBy(ctx, Prefix(viewName)+"count", s.Event.Subject(), 1)
			p.HSet(ctx, Prefix(viewName)+"last", s.Event.Subject(), s.Sequence)
			p.SAdd(ctx, Prefix(viewName)+"of:"+s.Event.Subject(), s.Sequence)
		},
	}
}

// wantTally is what the view must hold, from the log alone.
func wantTally(l *memoryLog) map[string]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := map[string]int{}
	for _, m := range l.stored {
		if m.event.Type() == events.TypeCredentialIssued {
			n[m.event.Subject()]++
		}
	}
	want := map[string]string{}
	for id, n := range n {
		want[id] = strconv.Itoa(n)
	}
	return want
}

func end(l *memoryLog) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return uint64(len(l.stored))
}

// settled waits until the view is at the log's end and holds exactly what it must.
func settled(t testing.TB, s *Store, l *memoryLog) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := s.Wait(ctx, viewName, end(l)); err != nil {
		t.Fatal(err)
	}
	got, err := s.Client().HGetAll(ctx, Prefix(viewName)+"count").Result()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(wantTally(l), got); diff != "" {
		t.Fatalf("the view differs from the log (-want +got):\n%s", diff)
	}
	for id, n := range got {
		if m := s.Client().SCard(ctx, Prefix(viewName)+"of:"+id).Val(); strconv.FormatInt(m, 10) != n {
			t.Fatalf("%s: %s counted, but %d members", id, n, m)
		}
	}
}

// following runs a follower until the returned function is called.
func following(t testing.TB, s *Store, l Log, v View) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Follow(ctx, l, v); err != nil {
			t.Errorf("Follow: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return stop
}

// fill appends n events about 7 identities, every tenth of a type the view does not want.
func fill(t testing.TB, l *memoryLog, n int) {
	t.Helper()
	for range n {
		i := int(end(l))
		id := fmt.Sprint("id", i%7)
		e := issued(t, id, fmt.Sprint(i))
		if i%10 == 9 {
			e = event(t, tenant, events.RiskChanged{Identity: fmt.Sprint(i)})
		}
		if _, err := l.Append(context.Background(), bus.Batch{Events: []events.Event{e}}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestView(t *testing.T) {
	for name, test := range map[string]func(*testing.T, server){
		"follow, stop, follow on":          followOn,
		"two followers apply once":         twoFollowers,
		"a flush is folded again":          flushedView,
		"a lost position is folded again":  lostPosition,
		"rebuild while following":          rebuildView,
		"a dead redis is folded again":     deadRedisView,
		"a rolled back redis is caught up": rolledBack,
		"another log is folded afresh":     anotherLog,
		"a refused write stops nothing":    refusedWrite,
		"evicted keys are folded again":    evictedKeys,
	} {
		t.Run(name, func(t *testing.T) {
			servers(t, func(t *testing.T, s server) {
				flush(t, s)
				test(t, s)
			})
		})
	}
}

func followOn(t *testing.T, srv server) {
	log, s := newMemoryLog(t), open(t, srv)
	fill(t, log, 1234)
	stop := following(t, s, log, tally())
	settled(t, s, log)
	stop()
	fill(t, log, 100)
	at, moved, err := s.Position(context.Background(), viewName)
	if err != nil || at != 1234 || time.Since(moved) > time.Minute {
		t.Errorf("Position = %d, %v, %v", at, moved, err)
	}
	following(t, open(t, srv), log, tally())
	settled(t, s, log)
	// An end that the view does not want is waited for as well.
	fill(t, log, 9)
	for _, m := range log.stored[len(log.stored)-1:] {
		if m.event.Type() == events.TypeCredentialIssued {
			fill(t, log, 10-int(end(log))%10)
		}
	}
	settled(t, s, log)
}

func twoFollowers(t *testing.T, srv server) {
	log, a, b := newMemoryLog(t), open(t, srv), open(t, srv)
	following(t, a, log, tally())
	following(t, b, log, tally())
	for range 30 {
		fill(t, log, 50)
		settled(t, a, log)
	}
	applied := testutil.ToFloat64(a.metrics.applied.WithLabelValues(viewName)) + testutil.ToFloat64(b.metrics.applied.WithLabelValues(viewName))
	if applied != 1350 {
		t.Errorf("%v events were applied, want 1350", applied)
	}
}

func flushedView(t *testing.T, srv server) {
	log, a, b := newMemoryLog(t), open(t, srv), open(t, srv)
	following(t, a, log, tally())
	following(t, b, log, tally())
	for i := range 12 {
		fill(t, log, 40)
		if i%3 == 2 {
			flush(t, srv)
		}
		if i%2 == 0 {
			settled(t, a, log)
		}
	}
	settled(t, a, log)
	flush(t, srv) // with nothing new in the log
	settled(t, b, log)
}

func lostPosition(t *testing.T, srv server) {
	log, s := newMemoryLog(t), open(t, srv)
	following(t, s, log, tally())
	fill(t, log, 70)
	settled(t, s, log)
	client(t, srv).Del(context.Background(), positionPrefix+viewName)
	settled(t, s, log)
	fill(t, log, 10)
	settled(t, s, log)
}

func rebuildView(t *testing.T, srv server) {
	log, a, b := newMemoryLog(t), open(t, srv), open(t, srv)
	following(t, a, log, tally())
	following(t, b, log, tally())
	stale := Prefix(viewName) + "of:nobody"
	for range 5 {
		fill(t, log, 60)
		client(t, srv).SAdd(context.Background(), stale, "left over")
		if err := a.Rebuild(context.Background()); err != nil {
			t.Fatal(err)
		}
		settled(t, b, log)
	}
	eventually(t, "what no event wrote is gone", func() bool {
		return client(t, srv).Exists(context.Background(), stale).Val() == 0
	})
	settled(t, a, log)
}

func deadRedisView(t *testing.T, srv server) {
	log, s := newMemoryLog(t), open(t, srv)
	following(t, s, log, tally())
	fill(t, log, 70)
	settled(t, s, log)
	srv.stop()
	fill(t, log, 30)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := s.Wait(ctx, viewName, end(log)); err == nil {
		t.Error("Wait returned without error while the view was behind")
	}
	srv.restart()
	settled(t, s, log)
}

// rolledBack: Redis comes back with an older, consistent state.
func rolledBack(t *testing.T, srv server) {
	ctx, log, s := context.Background(), newMemoryLog(t), open(t, srv)
	following(t, s, log, tally())
	fill(t, log, 70)
	settled(t, s, log)
	c := client(t, srv)
	hashes, sets := map[string]map[string]string{}, map[string][]string{}
	for _, k := range c.Keys(ctx, keyPrefix+"*").Val() {
		if c.Type(ctx, k).Val() == "hash" {
			hashes[k] = c.HGetAll(ctx, k).Val()
		} else {
			sets[k] = c.SMembers(ctx, k).Val()
		}
	}
	fill(t, log, 45)
	settled(t, s, log)
	if _, err := c.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.FlushAll(ctx)
		for k, v := range hashes {
			p.HSet(ctx, k, v)
		}
		for k, v := range sets {
			p.SAdd(ctx, k, v)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	settled(t, s, log)
	fill(t, log, 5)
	settled(t, s, log)
}

func anotherLog(t *testing.T, srv server) {
	for _, n := range []int{30, 70, 200} { // shorter, as long, longer than what was folded
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			flush(t, srv)
			before, s := newMemoryLog(t), open(t, srv)
			fill(t, before, 70)
			stop := following(t, s, before, tally())
			settled(t, s, before)
			stop()
			log := newMemoryLog(t)
			for i := range n {
				log.put(message{subject: events.LogSubject(tenant, "credential", "issued", "new"), event: issued(t, "new", fmt.Sprint("new", i))})
			}
			following(t, s, log, tally())
			eventually(t, "the view is of the new log", func() bool {
				return maps.Equal(wantTally(log), s.Client().HGetAll(context.Background(), Prefix(viewName)+"count").Val())
			})
			settled(t, s, log)
		})
	}
}

func refusedWrite(t *testing.T, srv server) {
	log, s, v := newMemoryLog(t), open(t, srv), tally()
	apply := v.Apply
	v.Apply = func(p redis.Pipeliner, st bus.Stored) {
		if st.Sequence == 5 {
			p.LPush(context.Background(), Prefix(viewName)+"count", "not a list")
		}
		apply(p, st)
	}
	following(t, s, log, v)
	fill(t, log, 20)
	settled(t, s, log)
	if testutil.ToFloat64(s.metrics.refused.WithLabelValues(viewName)) != 1 {
		t.Error("the refused write was not counted")
	}
}

func evictedKeys(t *testing.T, srv server) {
	if _, embedded := srv.(*embeddedServer); embedded {
		return // it never evicts
	}
	ctx, log := context.Background(), newMemoryLog(t)
	var clock syncClock
	s := open(t, srv, WithNow(clock.now))
	following(t, s, log, tally())
	fill(t, log, 100)
	settled(t, s, log)
	c := client(t, srv)
	c.ConfigSet(ctx, "maxmemory-policy", "allkeys-random")
	c.ConfigSet(ctx, "maxmemory", "1")
	eventually(t, "redis evicts", func() bool {
		n, err := s.evicted(ctx)
		_ = c.Get(ctx, "x").Err() // a command, so that Redis makes room
		return err == nil && n > 3
	})
	c.ConfigSet(ctx, "maxmemory", "0")
	c.ConfigSet(ctx, "maxmemory-policy", "noeviction")
	clock.add(2 * rebuildPause)
	eventually(t, "the view is whole again", func() bool {
		clock.add(evictedEvery)
		return maps.Equal(wantTally(log), c.HGetAll(ctx, Prefix(viewName)+"count").Val())
	})
	settled(t, s, log)
}

// syncClock is a clock that a test moves.
type syncClock struct {
	mu sync.Mutex
	d  time.Duration
}

func (c *syncClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Unix(1700000000, 0).Add(c.d)
}

func (c *syncClock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.d += d
}

func TestBrokenView(t *testing.T) {
	servers(t, func(t *testing.T, srv server) {
		for name, apply := range map[string]func(p redis.Pipeliner){
			"a key of somebody else": func(p redis.Pipeliner) { p.Set(context.Background(), "other", 1, 0) },
			"no key":                 func(p redis.Pipeliner) { p.FlushAll(context.Background()) },
			"a script":               func(p redis.Pipeliner) { p.Eval(context.Background(), "return 1", nil) },
		} {
			t.Run(name, func(t *testing.T) {
				flush(t, srv)
				log, v := newMemoryLog(t), tally()
				v.Apply = func(p redis.Pipeliner, _ bus.Stored) { apply(p) }
				fill(t, log, 3)
				ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
				defer cancel()
				if err := open(t, srv).Follow(ctx, log, v); err == nil {
					t.Error("Follow accepted it")
				}
			})
		}
	})
}

// TestViewModel takes random steps; the view must always come to equal the log.
func TestViewModel(t *testing.T) {
	servers(t, func(t *testing.T, srv server) {
		stores := []*Store{open(t, srv), open(t, srv)}
		c := client(t, srv)
		rapid.Check(t, func(r *rapid.T) {
			ctx := context.Background()
			c.FlushAll(ctx)
			log := newMemoryLog(t)
			stops := []func(){following(t, stores[0], log, tally()), following(t, stores[1], log, tally())}
			defer func() {
				for _, stop := range stops {
					stop()
				}
			}()
			for range rapid.IntRange(1, 8).Draw(r, "steps") {
				fill(t, log, rapid.IntRange(0, 30).Draw(r, "events"))
				switch rapid.SampledFrom([]string{"nothing", "settle", "flush", "rebuild", "restart", "lose position"}).Draw(r, "step") {
				case "settle":
					settled(t, stores[0], log)
				case "flush":
					c.FlushAll(ctx)
				case "rebuild":
					if err := stores[1].Rebuild(ctx); err != nil {
						r.Fatal(err)
					}
				case "restart":
					i := rapid.IntRange(0, 1).Draw(r, "which")
					stops[i]()
					stops[i] = following(t, stores[i], log, tally())
				case "lose position":
					c.Del(ctx, positionPrefix+viewName)
				}
			}
			settled(t, stores[0], log)
			if keys := c.Keys(ctx, keyPrefix+"*").Val(); len(keys) > 10 {
				slices.Sort(keys)
				r.Fatalf("left over keys: %v", keys)
			}
		})
	})
}
