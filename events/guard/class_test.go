package guard

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
)

func classes(until time.Time) map[string]Class {
	return map[string]Class{
		"pii":    {MaxAge: 4 * time.Second},
		"public": {ServeStale: &ServeStale{By: "alice", Reason: "outage", Until: until, For: time.Minute, Scopes: []string{"read"}}},
	}
}

func TestClassesByTheClock(t *testing.T) {
	keys := newKeyring(t)
	synctest.Test(t, func(t *testing.T) {
		var flagged []Decision
		l := newLive(t, keys, func(c *Config) {
			c.Classes = classes(time.Now().Add(time.Hour))
			c.Stale = func(d Decision) { flagged = append(flagged, d) }
		})
		raw := keys.token(l, handle(1), time.Now())
		ask := func(class string, scopes ...string) string {
			_, err := l.g.Decide(t.Context(), Request{Token: raw, Class: class, Scopes: scopes})
			return denied(t, err)
		}
		open := func(class string, scopes ...string) context.Context {
			d, err := l.g.Decide(t.Context(), Request{Token: raw, Class: class, Scopes: scopes})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := l.g.Watch(t.Context(), d)
			t.Cleanup(cancel)
			return ctx
		}
		if got := ask("public", "read"); got != CodeStale {
			t.Errorf("stale served before the guard was ever fresh: %q", got)
		}
		l.beat(0)
		<-l.g.Ready()
		strict, plain, writing, reading := open("pii"), open(""), open("public", "read", "write"), open("public", "read")
		if got := ask("secret"); got != CodeStale {
			t.Errorf("a class that nobody configured: %q", got)
		}
		pass(4*time.Second - time.Nanosecond)
		if got := ask("pii"); got != "" {
			t.Errorf("strict class before its end: %q", got)
		}
		pass(time.Nanosecond)
		synctest.Wait()
		if a, b, c := ask("pii"), ask(""), cause(t, strict); a != CodeStale || b != "" || c != CodeStale {
			t.Errorf("strict class at its end: %q; no class: %q; what it had open: %q", a, b, c)
		}
		pass(DefaultLease - 4*time.Second)
		synctest.Wait()
		for what, got := range map[string]string{
			"no class": ask(""), "writing": ask("public", "write"), "reading and writing": ask("public", "read", "write"),
			"no scope": ask("public"), "open, no class": cause(t, plain), "open, writing": cause(t, writing),
		} {
			if got != CodeStale {
				t.Errorf("after the lease: %s: %q", what, got)
			}
		}
		if got := ask("public", "read"); got != "" || len(flagged) != 1 || !flagged[0].Stale || flagged[0].Age != DefaultLease {
			t.Errorf("reading after the lease: %q, flagged %+v", got, flagged)
		}
		// What it gets to know it refuses, also then.
		other := open("public", "read")
		l.kill(1, "rev")
		if a, b, c := ask("public", "read"), cause(t, reading), cause(t, other); a != CodeRevoked || b != CodeRevoked || c != CodeRevoked {
			t.Errorf("revoked while stale: %q, %q, %q", a, b, c)
		}
		raw = keys.token(l, handle(2), time.Now())
		last := open("public", "read")
		pass(time.Minute - time.Nanosecond)
		synctest.Wait()
		if got := ask("public", "read"); got != "" || cause(t, last) != "" {
			t.Errorf("before the end: %q", got)
		}
		pass(time.Nanosecond)
		synctest.Wait()
		if a, b := ask("public", "read"), cause(t, last); a != CodeStale || b != CodeStale {
			t.Errorf("at the end: %q, %q", a, b)
		}
		for _, p := range l.feed.presence(l) {
			if p.StaleSeconds != 60 {
				t.Errorf("presence says %v", p.StaleSeconds)
			}
		}
	})
}

func TestServeStaleEnds(t *testing.T) {
	keys := newKeyring(t)
	synctest.Test(t, func(t *testing.T) {
		l := newLive(t, keys, func(c *Config) { c.Classes = classes(time.Now().Add(20 * time.Second)) })
		raw := keys.token(l, handle(1), time.Now(), func(c *token.Claims) { c.Expires = time.Now().Add(17 * time.Second).Unix() })
		long := keys.token(l, handle(1), time.Now())
		ask := func(raw string) string {
			_, err := l.g.Check(t.Context(), Request{Token: raw, Class: "public", Scopes: []string{"read"}})
			return denied(t, err)
		}
		l.beat(0)
		<-l.g.Ready()
		pass(20*time.Second - time.Nanosecond)
		if a := ask(long); a != "" {
			t.Errorf("before the statement ends: %q", a)
		}
		pass(time.Nanosecond)
		synctest.Wait()
		if got := ask(long); got != CodeStale {
			t.Errorf("after the statement's end: %q", got)
		}
		pass(2 * time.Second)
		if got := ask(raw); got == "" {
			t.Error("an expired token is served stale")
		}
		pass(DefaultPresence)
		synctest.Wait()
		all := l.feed.presence(l)
		if got := all[len(all)-1].StaleSeconds; got != 0 {
			t.Errorf("presence after the statement's end says %v", got)
		}
	})
}

// TestUnheardGuardCloses: heartbeats arrive, but nobody hears of the guard; revocation
// waits for it no longer than its newest presence allows.
func TestUnheardGuardCloses(t *testing.T) {
	keys := newKeyring(t)
	synctest.Test(t, func(t *testing.T) {
		l := newLive(t, keys)
		raw := keys.token(l, handle(1), time.Now())
		l.beat(0)
		<-l.g.Ready()
		l.feed.mu.Lock()
		l.feed.refuse = events.ErrBadTenant
		l.feed.mu.Unlock()
		heard := time.Now()
		for time.Since(heard) < presenceSlack+DefaultLease-time.Second {
			pass(time.Second)
			l.beat(0)
		}
		if got := l.check(raw); got != "" {
			t.Errorf("while it may still be waited for: %q", got)
		}
		pass(time.Second)
		l.beat(0)
		if got := l.check(raw); got != CodeStale {
			t.Errorf("when nobody waits for it: %q", got)
		}
		l.feed.mu.Lock()
		l.feed.refuse = nil
		l.feed.mu.Unlock()
		pass(DefaultPresence)
		l.beat(0)
		pass(DefaultPresence)
		l.beat(0)
		if got := l.check(raw); got != "" {
			t.Errorf("heard again: %q", got)
		}
	})
}

func TestClassesAreChecked(t *testing.T) {
	good := ServeStale{By: "alice", Reason: "outage", Until: time.Unix(1, 0), For: time.Minute, Scopes: []string{"read"}}
	if err := (Class{MaxAge: DefaultLease, ServeStale: &good}).check(DefaultLease); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Class){
		"too strict":   func(c *Class) { c.MaxAge = time.Second },
		"laxer":        func(c *Class) { c.MaxAge = DefaultLease + 1 },
		"nobody":       func(c *Class) { c.ServeStale.By = "" },
		"no reason":    func(c *Class) { c.ServeStale.Reason = "" },
		"endless":      func(c *Class) { c.ServeStale.Until = time.Time{} },
		"too long":     func(c *Class) { c.ServeStale.For = 5*time.Minute + 1 },
		"not at all":   func(c *Class) { c.ServeStale.For = 0 },
		"any scope":    func(c *Class) { c.ServeStale.Scopes = nil },
		"negative age": func(c *Class) { c.MaxAge = -1 },
	} {
		s := good
		c := Class{ServeStale: &s}
		change(&c)
		if err := c.check(DefaultLease); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
