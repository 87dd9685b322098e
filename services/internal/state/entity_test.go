package state

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/redis/go-redis/v9"
)

const tenant = "acme"

// credentials is the state of the tests: what one identity was issued.
type credentials struct {
	Issued  []string `json:"issued"`
	Revoked bool     `json:"revoked"`
	Last    uint64   `json:"last"`
}

func foldCredentials(c credentials, s bus.Stored) credentials {
	if !s.Time.IsZero() {
		panic("a fold saw the server's time")
	}
	c.Last = s.Sequence
	switch s.Event.Type() {
	case events.TypeCredentialIssued:
		p, err := events.As[events.CredentialIssued](s.Event)
		if err == nil {
			c.Issued = append(c.Issued, p.Credential)
		}
	case events.TypeIdentityRevoked:
		c.Revoked = true
	}
	return c
}

func event(t testing.TB, tenant string, p events.Payload) events.Event {
	t.Helper()
	e, err := events.New(events.Origin{Source: "/test", Tenant: tenant, Time: time.Unix(1700000000, 0)}, p)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func issued(t testing.TB, identity, jti string) events.Event {
	return event(t, tenant, events.CredentialIssued{Credential: jti, Identity: identity})
}

func revoked(t testing.TB, identity string) events.Event {
	return event(t, tenant, events.IdentityRevoked{IdentityChange: events.IdentityChange{Identity: identity, Reason: "test", By: "test"}})
}

// issue decides to issue jti unless the identity is revoked or has it.
func issue(t testing.TB, identity, jti string) func(credentials) ([]events.Event, error) {
	return func(c credentials) ([]events.Event, error) {
		if c.Revoked {
			return nil, errStopped
		}
		for _, have := range c.Issued {
			if have == jti {
				return nil, nil
			}
		}
		return []events.Event{issued(t, identity, jti)}, nil
	}
}

func entities(log Log, s *Store) *Entities[credentials] {
	return NewEntities(log, s, "credentials", foldCredentials)
}

func TestEntities(t *testing.T) {
	for name, test := range map[string]func(*testing.T, server){
		"decide and load":                 decideAndLoad,
		"a stale cache is mended":         staleCache,
		"a foreign cache is mended":       foreignCache,
		"a broken cache is mended":        brokenCache,
		"an evicted fold is folded again": evictedFold,
		"a flush changes no outcome":      flushedMidRun,
		"a dead redis stops no decision":  deadRedis,
		"conflict storm":                  conflictStorm,
		"revoke wins over issue":          revokeWins,
		"rebuild drops folds":             rebuildFolds,
	} {
		t.Run(name, func(t *testing.T) {
			servers(t, func(t *testing.T, s server) {
				flush(t, s)
				test(t, s)
			})
		})
	}
}

func decideAndLoad(t *testing.T, srv server) {
	ctx, log, store := context.Background(), newMemoryLog(t), open(t, srv)
	e := entities(log, store)
	for _, jti := range []string{"1", "2", "2", "3"} {
		if _, _, err := e.Decide(ctx, tenant, "a b.c", issue(t, "a b.c", jti)); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := e.Decide(ctx, tenant, "other", issue(t, "other", "9")); err != nil {
		t.Fatal(err)
	}
	want := credentials{Issued: []string{"1", "2", "3"}, Last: 3}
	got, seq, err := e.Load(ctx, tenant, "a b.c")
	if err != nil || seq != 3 || !cmp.Equal(want, got) {
		t.Errorf("Load = %+v, %d, %v; want %+v, 3", got, seq, err, want)
	}
	_, ack, err := e.Decide(ctx, tenant, "a b.c", issue(t, "a b.c", "2"))
	if want := (bus.Ack{Stream: bus.StreamLog, Sequence: 3}); err != nil || ack != want {
		t.Errorf("a decision to do nothing acknowledges %+v, %v; want %+v", ack, err, want)
	}
	saved(t, store)
	got, seq, err = entities(log, open(t, srv)).Load(ctx, tenant, "a b.c")
	if err != nil || seq != 3 || !cmp.Equal(want, got) {
		t.Errorf("another process: Load = %+v, %d, %v; want %+v, 3", got, seq, err, want)
	}
	if _, seq, err := e.Load(ctx, "nobody", "x"); seq != 0 || err != nil {
		t.Errorf("unknown entity: sequence %d, %v", seq, err)
	}
}

func staleCache(t *testing.T, srv server) {
	ctx, log := context.Background(), newMemoryLog(t)
	one, two := open(t, srv), open(t, srv)
	a, b := entities(log, one), entities(log, two)
	if _, _, err := a.Decide(ctx, tenant, "x", issue(t, "x", "1")); err != nil {
		t.Fatal(err)
	}
	saved(t, one)
	for i := 2; i < 20; i++ { // each process finds what the other one has done
		for _, e := range []*Entities[credentials]{b, a} {
			if _, _, err := e.Decide(ctx, tenant, "x", issue(t, "x", fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	saved(t, two)
	saved(t, one)
	c, seq, err := entities(log, open(t, srv)).Load(ctx, tenant, "x")
	if err != nil || seq != 19 || len(c.Issued) != 19 {
		t.Errorf("Load = %d issued, %d, %v", len(c.Issued), seq, err)
	}
	// A slow writer with an older fold must not replace a newer one.
	e := entities(log, one)
	sub, _ := e.subject(tenant, "x")
	one.saver.add(save{key: sub.key, fold: fold{sequence: 2, id: "old", state: []byte("{}")}})
	saved(t, one)
	if id := client(t, srv).HGet(ctx, sub.key, "id").Val(); id == "old" {
		t.Error("an older fold replaced a newer one")
	}
}

func foreignCache(t *testing.T, srv server) {
	ctx := context.Background()
	for _, n := range []int{1, 29, 40} { // the new log is shorter, as long, longer
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			flush(t, srv)
			store := open(t, srv)
			before := entities(newMemoryLog(t), store)
			for i := range 30 {
				if _, _, err := before.Decide(ctx, tenant, "x", issue(t, "x", fmt.Sprint(i))); err != nil {
					t.Fatal(err)
				}
			}
			saved(t, store)
			log := newMemoryLog(t)
			for i := range n {
				log.put(message{subject: events.LogSubject(tenant, "credential", "issued", "x"), event: issued(t, "x", fmt.Sprint("new", i))})
			}
			own := open(t, srv)
			e := entities(log, own)
			c, seq, err := e.Load(ctx, tenant, "x")
			if err != nil || seq != uint64(n) || len(c.Issued) != n || c.Issued[0] != "new0" {
				t.Errorf("Load = %+v, %d, %v", c, seq, err)
			}
			if testutil.ToFloat64(own.metrics.mended.WithLabelValues("credentials")) != 1 {
				t.Error("the foreign fold was not noticed")
			}
			saved(t, own)
			sub, _ := e.subject(tenant, "x")
			if got := client(t, srv).HGet(ctx, sub.key, "sequence").Val(); got != fmt.Sprint(n) {
				t.Errorf("Redis holds the fold at %s, want %d", got, n)
			}
		})
	}
}

func brokenCache(t *testing.T, srv server) {
	ctx, log, store := context.Background(), newMemoryLog(t), open(t, srv)
	if _, _, err := entities(log, store).Decide(ctx, tenant, "x", issue(t, "x", "1")); err != nil {
		t.Fatal(err)
	}
	saved(t, store)
	sub, _ := entities(log, store).subject(tenant, "x")
	c := client(t, srv)
	whole := c.HGetAll(ctx, sub.key).Val()
	for name, spoil := range map[string]func() error{
		"state is not JSON":        func() error { return c.HSet(ctx, sub.key, "state", "{").Err() },
		"state is of another type": func() error { return c.HSet(ctx, sub.key, "state", `{"issued":7}`).Err() },
		"sequence is no number":    func() error { return c.HSet(ctx, sub.key, "sequence", "x").Err() },
		"a field is missing":       func() error { return c.HDel(ctx, sub.key, "id").Err() },
		"not a hash":               func() error { return c.Set(ctx, sub.key, "x", 0).Err() },
	} {
		t.Run(name, func(t *testing.T) {
			c.Del(ctx, sub.key)
			c.HSet(ctx, sub.key, whole)
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			own := open(t, srv)
			got, seq, err := entities(log, own).Load(ctx, tenant, "x")
			if err != nil || seq != 1 || !cmp.Equal(got, credentials{Issued: []string{"1"}, Last: 1}) {
				t.Errorf("Load = %+v, %d, %v", got, seq, err)
			}
			saved(t, own)
			if mended := c.HGetAll(ctx, sub.key).Val(); !cmp.Equal(whole, mended) {
				t.Errorf("Redis holds %v, want %v", mended, whole)
			}
			if own.down.Load() {
				t.Error("a broken key was taken for a dead Redis")
			}
		})
	}
}

func evictedFold(t *testing.T, srv server) {
	ctx, log := context.Background(), newMemoryLog(t)
	c := client(t, srv)
	for i := range 40 {
		store := open(t, srv)
		e := entities(log, store) // a new process each time: only Redis remembers
		if _, _, err := e.Decide(ctx, tenant, "x", issue(t, "x", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		saved(t, store)
		if sub, _ := e.subject(tenant, "x"); i%3 == 0 {
			c.Del(ctx, sub.key)
		}
	}
	got, seq, err := entities(log, open(t, srv)).Load(ctx, tenant, "x")
	if err != nil || seq != 40 || len(got.Issued) != 40 {
		t.Errorf("Load = %d issued, %d, %v", len(got.Issued), seq, err)
	}
}

// outcome runs one workload of 4 processes over 5 identities, 2 of which are revoked
// at fixed points, and returns what is in the log, by identity.
func outcome(t *testing.T, srv server, disturb func(i int)) map[string]int {
	ctx, log := context.Background(), newMemoryLog(t)
	var wg sync.WaitGroup
	var n atomic.Int64
	for p := range 4 {
		e := entities(log, open(t, srv))
		wg.Go(func() {
			for i := range 60 {
				id := fmt.Sprint("id", i%5)
				_, _, err := e.Decide(ctx, tenant, id, issue(t, id, fmt.Sprintf("%d-%d", p, i)))
				if err != nil {
					t.Errorf("decide: %v", err)
				}
				disturb(int(n.Add(1)))
			}
		})
	}
	wg.Wait()
	count := map[string]int{}
	for _, m := range log.stored {
		count[m.event.Subject()]++
	}
	return count
}

func flushedMidRun(t *testing.T, srv server) {
	c := client(t, srv)
	want := outcome(t, srv, func(int) {})
	got := outcome(t, srv, func(i int) {
		if i%7 == 0 {
			c.FlushAll(context.Background())
		}
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("flushing changed the outcome (-quiet +flushed):\n%s", diff)
	}
}

func deadRedis(t *testing.T, srv server) {
	want := outcome(t, srv, func(int) {})
	got := outcome(t, srv, func(i int) {
		switch i {
		case 60:
			srv.stop()
		case 170:
			srv.restart()
		}
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a dead Redis changed the outcome (-quiet +dead):\n%s", diff)
	}
	srv.stop()
	store := open(t, srv) // a process that starts while Redis is down
	if _, _, err := entities(newMemoryLog(t), store).Decide(context.Background(), tenant, "x", issue(t, "x", "1")); err != nil {
		t.Error(err)
	}
	if _, given := srv.(*givenServer); !given && testutil.ToFloat64(store.metrics.errors) == 0 {
		t.Error("a dead Redis was not counted")
	}
	srv.restart()
}

func conflictStorm(t *testing.T, srv server) {
	ctx, log := context.Background(), newMemoryLog(t)
	var wg sync.WaitGroup
	for p := range 4 {
		e := entities(log, open(t, srv))
		for g := range 8 {
			wg.Go(func() {
				for i := range 20 {
					if _, _, err := e.Decide(ctx, tenant, "hot", issue(t, "hot", fmt.Sprint(p, g, i))); err != nil {
						t.Errorf("decide: %v", err)
					}
				}
			})
		}
	}
	wg.Wait()
	c, seq, err := entities(log, open(t, srv)).Load(ctx, tenant, "hot")
	if err != nil || seq != 640 || len(c.Issued) != 640 {
		t.Errorf("Load = %d issued, %d, %v; want 640", len(c.Issued), seq, err)
	}
}

// revokeWins: nothing is issued after the revoke, however issuers and revoker race
// and whatever Redis forgets.
func revokeWins(t *testing.T, srv server) {
	ctx := context.Background()
	c := client(t, srv)
	stores := []*Store{open(t, srv), open(t, srv), open(t, srv), open(t, srv), open(t, srv)}
	for round := range 40 {
		log := newMemoryLog(t)
		var wg sync.WaitGroup
		for p := range 4 {
			e := entities(log, stores[p])
			wg.Go(func() {
				for i := range 12 {
					_, _, err := e.Decide(ctx, tenant, "x", issue(t, "x", fmt.Sprint(round, p, i)))
					if errors.Is(err, errStopped) {
						return
					}
					if err != nil {
						t.Errorf("issue: %v", err)
					}
				}
			})
		}
		wg.Go(func() {
			if round%2 == 0 {
				c.FlushAll(ctx)
			}
			_, _, err := entities(log, stores[4]).Decide(ctx, tenant, "x", func(c credentials) ([]events.Event, error) {
				if c.Revoked {
					return nil, nil
				}
				return []events.Event{revoked(t, "x")}, nil
			})
			if err != nil {
				t.Errorf("revoke: %v", err)
			}
		})
		wg.Wait()
		if last := log.stored[len(log.stored)-1].event.Type(); last != events.TypeIdentityRevoked {
			t.Fatalf("round %d: %s was appended after the revoke", round, last)
		}
	}
}

func rebuildFolds(t *testing.T, srv server) {
	ctx, log, store := context.Background(), newMemoryLog(t), open(t, srv)
	e := entities(log, store)
	for i := range 600 {
		id := fmt.Sprint("id", i)
		if _, _, err := e.Decide(ctx, tenant, id, issue(t, id, "1")); err != nil {
			t.Fatal(err)
		}
	}
	saved(t, store)
	c := client(t, srv)
	if n := c.DBSize(ctx).Val(); n < 500 {
		t.Fatalf("only %d folds in Redis", n)
	}
	if err := c.Set(ctx, "somebody-elses", "1", 0).Err(); err != nil {
		t.Fatal(err)
	}
	if err := store.Rebuild(ctx); err != nil {
		t.Fatal(err)
	}
	if n := c.DBSize(ctx).Val(); n != 1 {
		t.Errorf("%d keys are left, want only the one that is not ours", n)
	}
	if _, seq, err := e.Load(ctx, tenant, "id7"); err != nil || seq != 8 {
		t.Errorf("Load after Rebuild: %d, %v", seq, err)
	}
}

func TestDecideFaults(t *testing.T) {
	servers(t, func(t *testing.T, srv server) {
		ctx := context.Background()
		t.Run("lost acknowledgement", func(t *testing.T) {
			log := newMemoryLog(t)
			e := entities(log, open(t, srv))
			log.lose = 1
			_, _, err := e.Decide(ctx, tenant, "x", issue(t, "x", "1"))
			if !errors.Is(err, bus.ErrUnknownOutcome) {
				t.Fatalf("got %v, want an unknown outcome", err)
			}
			s, ack, err := e.Decide(ctx, tenant, "x", issue(t, "x", "1"))
			if err != nil || ack.Sequence != 1 || len(s.Issued) != 1 {
				t.Errorf("again: %+v, %+v, %v", s, ack, err)
			}
		})
		t.Run("the log lags", func(t *testing.T) {
			log := newMemoryLog(t)
			e := entities(log, open(t, srv))
			for i := range 10 {
				log.mu.Lock()
				log.lag = i % 4
				log.mu.Unlock()
				if _, _, err := e.Decide(ctx, tenant, "lag", issue(t, "lag", fmt.Sprint(i))); err != nil {
					t.Fatal(err)
				}
			}
			if s, seq, err := e.Load(ctx, tenant, "lag"); err != nil || seq != 10 || len(s.Issued) != 10 {
				t.Errorf("Load = %+v, %d, %v", s, seq, err)
			}
		})
		t.Run("an unreadable message stops decisions about its entity only", func(t *testing.T) {
			log := newMemoryLog(t)
			e := entities(log, open(t, srv))
			if _, _, err := e.Decide(ctx, tenant, "p", issue(t, "p", "1")); err != nil {
				t.Fatal(err)
			}
			log.poison(events.LogSubject(tenant, "credential", "issued", "p"))
			if _, _, err := e.Decide(ctx, tenant, "p", issue(t, "p", "2")); !errors.Is(err, ErrUnreadable) {
				t.Errorf("got %v, want ErrUnreadable", err)
			}
			if _, _, err := e.Decide(ctx, tenant, "q", issue(t, "q", "1")); err != nil {
				t.Error(err)
			}
		})
		t.Run("a fold that panics leaves no lock behind", func(t *testing.T) {
			log, bad := newMemoryLog(t), true
			e := NewEntities(log, open(t, srv), "panics", func(c credentials, s bus.Stored) credentials {
				if bad {
					panic("bad fold")
				}
				return foldCredentials(c, s)
			})
			func() {
				defer func() {
					if recover() == nil {
						t.Error("the panic was swallowed")
					}
				}()
				_, _, _ = e.Decide(ctx, tenant, "x", issue(t, "x", "1")) // panics
			}()
			bad = false
			s, _, err := e.Decide(ctx, tenant, "x", issue(t, "x", "2"))
			if err != nil || len(s.Issued) != 2 {
				t.Errorf("afterwards: %+v, %v", s, err)
			}
		})
		t.Run("other channels come after the log, and other entities do not count", func(t *testing.T) {
			log := newMemoryLog(t)
			e := entities(log, open(t, srv))
			alert := event(t, tenant, events.AnomalyDetected{Alert: "a1", Detector: "REV", Severity: "high", Identity: "x"})
			s, ack, err := e.Decide(ctx, tenant, "x", func(credentials) ([]events.Event, error) {
				return []events.Event{alert, issued(t, "x", "1"), issued(t, "y", "1"), issued(t, "x", "2")}, nil
			})
			if want := (credentials{Issued: []string{"1", "2"}, Last: 3}); err != nil || ack.Sequence != 3 || !cmp.Equal(want, s) {
				t.Errorf("Decide = %+v, %+v, %v; want %+v", s, ack, err, want)
			}
			if len(log.stored) != 4 || log.stored[3].event.ID() != alert.ID() {
				t.Error("the alert was not published after the log's events")
			}
			if got, seq, err := e.Load(ctx, tenant, "x"); err != nil || seq != 3 || !cmp.Equal(s, got) {
				t.Errorf("Load = %+v, %d, %v; want what Decide returned", got, seq, err)
			}
		})
		t.Run("an ended context ends the wait for a decision", func(t *testing.T) {
			log := newMemoryLog(t)
			e := entities(log, open(t, srv))
			hold, held := make(chan struct{}), make(chan struct{})
			log.before = sync.OnceFunc(func() { close(held); <-hold })
			var wg sync.WaitGroup
			wg.Go(func() {
				if _, _, err := e.Decide(ctx, tenant, "x", issue(t, "x", "1")); err != nil {
					t.Error(err)
				}
			})
			<-held
			short, cancel := context.WithCancel(ctx)
			cancel()
			if _, _, err := e.Decide(short, tenant, "x", issue(t, "x", "2")); !errors.Is(err, context.Canceled) {
				t.Errorf("got %v, want the context's end", err)
			}
			close(hold)
			wg.Wait()
			if len(e.locks.held) != 0 {
				t.Errorf("%d locks are left", len(e.locks.held))
			}
		})
	})
}

func TestBadNames(t *testing.T) {
	servers(t, func(t *testing.T, srv server) {
		e := entities(newMemoryLog(t), open(t, srv))
		for _, c := range []struct{ tenant, entity string }{{"ACME", "x"}, {"", "x"}, {"a.b", "x"}, {"*", "x"}, {tenant, ""}, {tenant, "*"}} {
			if _, _, err := e.Load(context.Background(), c.tenant, c.entity); err == nil {
				t.Errorf("Load(%q, %q) worked", c.tenant, c.entity)
			}
		}
	})
}

func TestOpenRefuses(t *testing.T) {
	servers(t, func(t *testing.T, srv server) {
		o, err := redis.ParseURL(srv.url())
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range []string{"", "http://localhost", "redis://:secret@host:port/x y", "redis://:wrong@" + o.Addr} {
			if o.Password == "" && strings.Contains(u, "wrong") {
				continue // a server without a password refuses none
			}
			s, err := Open(context.Background(), u)
			if err == nil {
				_ = s.Close()
				t.Errorf("Open(%q) worked", u)
				continue
			}
			for _, secret := range []string{"secret", "wrong"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error of Open shows the password: %v", err)
				}
			}
		}
	})
}
