package guard

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// live is a running guard in a bubble of fake time, on a feed that beats.
type live struct {
	*testing.T
	keys  keyring
	feed  *memFeed
	g     *Guard
	stop  func()
	start time.Time
	den   []Denial
}

func newLive(t *testing.T, keys keyring, change ...func(*Config)) *live {
	l := &live{T: t, keys: keys, feed: &memFeed{}, start: time.Now()}
	cfg := Config{Point: "orders", Tenant: "acme", Issuer: testIssuer, Audience: testAudience,
		Keys: token.NewKeySet(keys.issuer.Key()), FeedKey: keys.feedKey, Feed: l.feed,
		Boot:   func() time.Duration { return time.Hour + time.Since(l.start) },
		Denied: func(d Denial) { l.den = append(l.den, d) }}
	for _, f := range change {
		f(&cfg)
	}
	g, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	l.g = g
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	l.stop = func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		done <- nil
	}
	t.Cleanup(l.stop)
	synctest.Wait()
	return l
}

// pass lets time go by; in a bubble that costs none.
func pass(d time.Duration) { <-time.After(d) }

func (l *live) beat(last uint64) {
	l.feed.send(HeartbeatName, l.keys.beat(l, l.keys.feed, Heartbeat{Epoch: 1, Last: last, Time: time.Now()}))
	synctest.Wait()
}

func (l *live) kill(n uint64, rev string) Message {
	e := Entry{Handle: handle(n), Mode: events.ModeRevoke, Revocation: rev, Reason: "leaked", By: "alice",
		At: time.Now(), Keep: time.Now().Add(20 * time.Minute), Epoch: 1}
	m := l.feed.send(handle(n).String(), l.keys.entry(l, l.keys.feed, e))
	synctest.Wait()
	return m
}

func (l *live) check(raw string) string {
	_, err := l.g.Check(l.Context(), Request{Token: raw})
	return denied(l, err)
}

func TestRunLeaseEndsExactly(t *testing.T) {
	keys := newKeyring(t)
	synctest.Test(t, func(t *testing.T) {
		l := newLive(t, keys)
		raw := keys.token(l, handle(1), time.Now())
		if got := l.check(raw); got != CodeStale {
			t.Errorf("before the first heartbeat: %q", got)
		}
		select {
		case <-l.g.Ready():
			t.Error("ready without a heartbeat")
		default:
		}
		l.beat(0)
		<-l.g.Ready()
		if got := l.check(raw); got != "" {
			t.Errorf("fresh: %q, %+v", got, l.g.Status())
		}
		pass(DefaultLease - time.Nanosecond)
		if got := l.check(raw); got != "" {
			t.Errorf("a nanosecond before the end: %q", got)
		}
		pass(time.Nanosecond)
		if got := l.check(raw); got != CodeStale {
			t.Errorf("at the end: %q", got)
		}
		if s := l.g.Status(); s.Fresh || s.Age != DefaultLease || s.Problem == "" {
			t.Errorf("status %+v", s)
		}
		l.beat(0)
		if got := l.check(raw); got != "" {
			t.Errorf("after the next heartbeat: %q", got)
		}
		// One that was signed ten seconds ago proves less.
		pass(DefaultLease)
		late := keys.beat(l, keys.feed, Heartbeat{Epoch: 1, Time: time.Now().Add(-10 * time.Second)})
		l.feed.send(HeartbeatName, late)
		synctest.Wait()
		pass(DefaultLease - 9*time.Second - time.Nanosecond)
		if got := l.check(raw); got != "" {
			t.Errorf("late heartbeat, before its end: %q", got)
		}
		pass(time.Nanosecond)
		if got := l.check(raw); got != CodeStale {
			t.Errorf("late heartbeat, at its end: %q", got)
		}
	})
}

func TestRunReceiptsAndPresence(t *testing.T) {
	keys := newKeyring(t)
	synctest.Test(t, func(t *testing.T) {
		l := newLive(t, keys)
		l.feed.send(handle(9).String(), keys.entry(l, keys.feed, Entry{Handle: handle(9), Mode: events.ModeRevoke,
			Revocation: "before the first heartbeat", At: time.Now(), Keep: time.Now().Add(time.Hour), Epoch: 1}))
		l.beat(1)
		m := l.kill(1, "r1")
		l.kill(1, "r2")
		until := time.Now().Add(time.Minute)
		l.feed.send(handle(2).String(), keys.entry(l, keys.feed, Entry{Handle: handle(2), Mode: events.ModeFreeze, Until: &until,
			Revocation: "f", At: time.Now(), Keep: until, Epoch: 1}))
		l.feed.send(handle(2).String(), keys.entry(l, keys.feed, Entry{Handle: handle(2), Mode: events.ModeLift,
			Revocation: "f", At: time.Now(), Keep: until, Epoch: 1}))
		synctest.Wait()
		var got []string
		for _, r := range l.feed.receipts(l) {
			if err := VerifyReceipt(r, l.g.signer.Key().Public.(ed25519.PublicKey)); err != nil {
				t.Error(err)
			}
			got = append(got, r.Revocation+" "+string(r.Outcome))
			if r.Revocation == "r1" && (r.Sequence != m.Sequence || r.Epoch != 1 || r.Point != "orders" || r.Handle != handle(1).String()) {
				t.Errorf("receipt %+v", r)
			}
		}
		slices.Sort(got)
		if want := []string{"f enforced", "r1 enforced", "r2 already_dead"}; !slices.Equal(got, want) {
			t.Errorf("receipts %q", got)
		}
		l.stop()
		all := l.feed.presence(l)
		first, last := all[0], all[len(all)-1]
		if first.Detached || !last.Detached || last.Fresh || last.PublicJWK != l.g.jwk || last.LeaseSeconds != 15 {
			t.Errorf("first %+v, last %+v", first, last)
		}
		if got := l.check(keys.token(l, handle(3), time.Now())); got != CodeStale {
			t.Errorf("after Run: %q", got)
		}
	})
}

func TestRunSaysYesOnlyWhenExpected(t *testing.T) {
	keys := newKeyring(t)
	synctest.Test(t, func(t *testing.T) {
		l := newLive(t, keys)
		raw := keys.token(l, handle(1), time.Now())
		l.feed.mu.Lock()
		l.feed.refuse = errors.New("no permission")
		l.feed.mu.Unlock()
		l.beat(0)
		if got := l.check(raw); got != CodeStale || l.g.Status().Problem == "" {
			t.Errorf("without presence: %q, %+v", got, l.g.Status())
		}
		l.feed.mu.Lock()
		l.feed.refuse = nil
		l.feed.mu.Unlock()
		pass(DefaultPresence)
		synctest.Wait()
		if got := l.check(raw); got != "" {
			t.Errorf("with presence: %q, %+v", got, l.g.Status())
		}
		if p := l.feed.presence(l); !p[len(p)-1].Fresh || len(p[0].KeyIDs) != 1 {
			t.Errorf("presence %+v", p)
		}
	})
}

func TestRunRetriesReceipts(t *testing.T) {
	keys := newKeyring(t)
	synctest.Test(t, func(t *testing.T) {
		l := newLive(t, keys)
		l.beat(0)
		l.feed.mu.Lock()
		l.feed.refuse = errors.New("no leader")
		l.feed.mu.Unlock()
		l.kill(1, "r1")
		l.kill(2, "r2")
		if n := len(l.feed.receipts(l)); n != 0 {
			t.Errorf("%d receipts", n)
		}
		l.feed.mu.Lock()
		l.feed.refuse = nil
		l.feed.mu.Unlock()
		pass(retryMax)
		synctest.Wait()
		if n := len(l.feed.receipts(l)); n != 2 {
			t.Errorf("%d receipts after the outage", n)
		}
	})
}

func TestRunFillsGapsAndIgnoresForgeries(t *testing.T) {
	keys := newKeyring(t)
	synctest.Test(t, func(t *testing.T) {
		l := newLive(t, keys)
		l.beat(0)
		raw := keys.token(l, handle(1), time.Now())
		e := Entry{Handle: handle(1), Mode: events.ModeFreeze, Revocation: "f", At: time.Now(), Keep: time.Now().Add(time.Hour), Epoch: 1}
		until := time.Now().Add(time.Minute)
		e.Until = &until
		m := l.feed.store(handle(1).String(), keys.entry(l, keys.feed, e)) // never pushed
		if got := l.check(raw); got != "" {
			t.Fatalf("before: %q", got)
		}
		l.beat(m.Sequence)
		if got := l.check(raw); got != CodeFrozen {
			t.Errorf("after the heartbeat that names it: %q", got)
		}
		if d := l.den[len(l.den)-1]; d.Revocation != "f" || d.Handle != handle(1) || d.Claims == nil || d.At.IsZero() {
			t.Errorf("denial %+v", d)
		}
		before := l.g.Status()
		e.Mode, e.Handle = events.ModeRevoke, handle(2)
		l.feed.send(handle(2).String(), keys.entry(l, keys.stranger, e))             // wrong key
		l.feed.send(handle(3).String(), keys.entry(l, keys.feed, e))                 // another handle's subject
		l.feed.send(handle(4).String(), []byte("garbage"))                           // no token
		l.feed.send(HeartbeatName, keys.beat(l, keys.stranger, Heartbeat{Epoch: 7})) // wrong key
		synctest.Wait()
		l.beat(m.Sequence)
		after := l.g.Status()
		if after.Ignored == before.Ignored || after.Entries != before.Entries || after.Epoch != 1 || !after.Fresh {
			t.Errorf("before %+v, after %+v", before, after)
		}
		// A heartbeat that names what the feed does not hold proves nothing.
		pass(DefaultLease - time.Second)
		l.beat(after.Sequence + 1000)
		pass(time.Second)
		if got := l.check(keys.token(l, handle(5), time.Now())); got != CodeStale {
			t.Errorf("a heartbeat ahead of the feed renewed the lease: %q", got)
		}
	})
}

func TestRunMinSequenceAndBlock(t *testing.T) {
	keys := newKeyring(t)
	synctest.Test(t, func(t *testing.T) {
		l := newLive(t, keys)
		l.beat(0)
		raw := keys.token(l, handle(1), time.Now())
		_, err := l.g.Check(t.Context(), Request{Token: raw, MinSequence: 2})
		if got := denied(l, err); got != CodeStale {
			t.Errorf("asked for more than is applied: %q", got)
		}
		l.kill(2, "r")
		if _, err := l.g.Check(t.Context(), Request{Token: raw, MinSequence: 2}); err != nil {
			t.Errorf("applied: %v", err)
		}
		e := Entry{Handle: handle(1), Mode: events.ModeRevoke, Revocation: "local", At: time.Now(), Keep: time.Now().Add(time.Hour)}
		if err := l.g.Block(slices.Values([]Entry{e})); err != nil {
			t.Fatal(err)
		}
		if got := l.check(raw); got != CodeRevoked {
			t.Errorf("blocked: %q", got)
		}
		e.Mode = events.ModeLift
		if err := l.g.Block(slices.Values([]Entry{e})); !errors.Is(err, ErrEntry) {
			t.Errorf("lift by Block: %v", err)
		}
		if e, dead := l.g.Dead([]lineage.Handle{handle(2)}); !dead || e.Revocation != "r" {
			t.Errorf("dead: %v %+v", dead, e)
		}
		if err := l.g.Run(t.Context()); err == nil {
			t.Error("runs twice")
		}
	})
}

func TestMiddleware(t *testing.T) {
	keys := newKeyring(t)
	synctest.Test(t, func(t *testing.T) {
		l := newLive(t, keys)
		var seen token.Claims
		h := l.g.Middleware("read", "admin")(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			seen, _ = FromContext(r.Context())
		}))
		call := func(scope string) *httptest.ResponseRecorder {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Authorization", "Bearer "+keys.token(l, handle(1), time.Now(), func(c *token.Claims) { c.Scope = scope }))
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w
		}
		if w := call("read admin"); w.Code != 503 || w.Header().Get("Retry-After") == "" || w.Header().Get("WWW-Authenticate") != "" {
			t.Errorf("stale: %d %v", w.Code, w.Header())
		}
		l.beat(0)
		if w := call("read"); w.Code != 403 || w.Header().Get("WWW-Authenticate") != `Bearer error="insufficient_scope", scope="read admin"` {
			t.Errorf("scope: %d %v", w.Code, w.Header())
		}
		if seen.ID != "" {
			t.Error("a denied request went through")
		}
		if w := call("x admin read"); w.Code != 200 || seen.ID == "" {
			t.Errorf("allowed: %d", w.Code)
		}
		l.kill(1, "r")
		w := call("read admin")
		if w.Code != 401 || w.Header().Get("WWW-Authenticate") != `Bearer error="invalid_token"` {
			t.Errorf("revoked: %d %v", w.Code, w.Header())
		}
		for _, secret := range []string{"r", "alice", "leaked", "revoked"} {
			if got := w.Body.String(); len(secret) > 1 && strings.Contains(got, secret) {
				t.Errorf("the caller learns %q: %s", secret, got)
			}
		}
		if d := l.den[len(l.den)-1]; d.Revocation != "r" || d.By != "alice" || !strings.Contains(d.Reason, "leaked") {
			t.Errorf("denial %+v", d)
		}
	})
}
