// Package connectortest tells whether a connector keeps its contract. Whoever writes a
// connector runs Run in a test against a real server; Proxy stands in front of one.
package connectortest

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/services/connector"
)

// patience is the longest one call may take.
const patience = 30 * time.Second

// Suite is a connector and the world it is tested in. Every function must be set but
// those marked optional.
type Suite struct {
	// Connector under test, already connected through what Unplug cuts.
	Connector connector.Connector
	// Account makes a fresh live account.
	Account func(t *testing.T) connector.Target
	// Alive asks the system, not the connector, whether the account still works, best by
	// using it.
	Alive func(t *testing.T, target connector.Target) bool
	// Missing is an account that never was. Optional: for systems that cannot tell.
	Missing func(t *testing.T) connector.Target
	// Unplug cuts the connector off from the system and returns what undoes it.
	Unplug func(t *testing.T) (plug func())
	// Secrets are texts that must appear in no error and no detail: the connector's own
	// credentials and those of the accounts.
	Secrets []string
	// Blind: the system cannot be asked about an account, so that Verify reports what
	// the system last answered. The check before the act is left out.
	Blind bool
}

// Run runs every check as a subtest.
func Run(t *testing.T, s Suite) {
	t.Run("describes itself", s.describes)
	t.Run("ends and proves it", s.ends)
	t.Run("leaves siblings alone", s.siblings)
	t.Run("is idempotent", s.idempotent)
	t.Run("counts what never was as dead", s.missing)
	t.Run("refuses what is no account", s.hostile)
	t.Run("acts once for many at once", s.concurrent)
	t.Run("says unreachable and recovers", s.unplugged)
	t.Run("obeys its context", s.cancelled)
}

// say fails the test when text holds a secret.
func (s Suite) say(t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		for _, secret := range s.Secrets {
			if secret != "" && strings.Contains(text, secret) {
				t.Errorf("a secret is in %q", strings.ReplaceAll(text, secret, "<SECRET>"))
			}
		}
	}
}

func (s Suite) sayErr(t *testing.T, err error) {
	t.Helper()
	for ; err != nil; err = errors.Unwrap(err) {
		s.say(t, err.Error())
		if many, ok := err.(interface{ Unwrap() []error }); ok {
			for _, e := range many.Unwrap() {
				s.sayErr(t, e)
			}
		}
	}
}

func (s Suite) end(t *testing.T, target connector.Target) (connector.Result, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	r, err := s.Connector.End(ctx, target)
	s.say(t, r.Detail)
	s.sayErr(t, err)
	if (r.Outcome == connector.UnsupportedUntil) == r.Until.IsZero() && err == nil {
		t.Errorf("outcome %s with until %v", r.Outcome, r.Until)
	}
	return r, err
}

func (s Suite) verify(t *testing.T, target connector.Target) (connector.Status, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	st, err := s.Connector.Verify(ctx, target)
	s.say(t, st.Detail)
	s.sayErr(t, err)
	if err != nil && st.Dead {
		t.Error("Verify failed and says dead: it cannot know")
	}
	return st, err
}

// ended fails unless target is dead for End, Verify and the system.
func (s Suite) ended(t *testing.T, target connector.Target) {
	t.Helper()
	st, err := s.verify(t, target)
	if err != nil || !st.Dead {
		t.Fatalf("Verify after the end: %+v, %v; want dead", st, err)
	}
	if s.Alive(t, target) {
		t.Fatal("Verify says dead, and the account still works")
	}
}

func (s Suite) describes(t *testing.T) {
	d := s.Connector.Describe()
	if d.Kind == "" || d.Ends == "" || d.Verifies == "" {
		t.Errorf("the description is incomplete: %+v", d)
	}
	if _, ok := s.Connector.(connector.Suspender); ok != d.Suspends {
		t.Errorf("Suspends is %t, the connector implements Suspender: %t", d.Suspends, ok)
	}
	s.say(t, d.Kind, d.Ends, d.Verifies)
}

func (s Suite) ends(t *testing.T) {
	a := s.Account(t)
	if !s.Alive(t, a) {
		t.Fatal("the fresh account does not work")
	}
	if !s.Blind {
		if st, err := s.verify(t, a); err != nil || st.Dead {
			t.Fatalf("Verify before the end: %+v, %v; want alive", st, err)
		}
	}
	r, err := s.end(t, a)
	if err != nil || r.Outcome != connector.Enforced {
		t.Fatalf("End: %+v, %v; want enforced", r, err)
	}
	s.ended(t, a)
}

func (s Suite) siblings(t *testing.T) {
	a, b := s.Account(t), s.Account(t)
	if _, err := s.end(t, a); err != nil {
		t.Fatalf("End: %v", err)
	}
	if !s.Alive(t, b) {
		t.Fatal("ending one account ended another")
	}
	if st, err := s.verify(t, b); !s.Blind && (err != nil || st.Dead) {
		t.Fatalf("Verify of a sibling: %+v, %v; want alive", st, err)
	}
}

func (s Suite) idempotent(t *testing.T) {
	a := s.Account(t)
	if _, err := s.end(t, a); err != nil {
		t.Fatalf("End: %v", err)
	}
	for range 2 {
		r, err := s.end(t, a)
		if err != nil || r.Outcome != connector.AlreadyDead && !(s.Blind && r.Outcome == connector.Enforced) {
			t.Fatalf("End again: %+v, %v; want already_dead", r, err)
		}
	}
	s.ended(t, a)
}

func (s Suite) missing(t *testing.T) {
	if s.Missing == nil {
		return
	}
	a := s.Missing(t)
	if st, err := s.verify(t, a); err != nil || !st.Dead {
		t.Fatalf("Verify of what never was: %+v, %v; want dead", st, err)
	}
	if r, err := s.end(t, a); err != nil || r.Outcome != connector.AlreadyDead {
		t.Fatalf("End of what never was: %+v, %v; want already_dead", r, err)
	}
}

func (s Suite) hostile(t *testing.T) {
	for _, name := range []string{"", "a\nb", "a\x00b", strings.Repeat("x", 257), "\xff"} {
		target := connector.Target{Request: "q", Tenant: "acme", Secret: "s", Account: name}
		if r, err := s.end(t, target); !errors.Is(err, connector.ErrRefused) {
			t.Errorf("End of account %q: %+v, %v; want refused", name, r, err)
		}
		if st, err := s.verify(t, target); !errors.Is(err, connector.ErrRefused) {
			t.Errorf("Verify of account %q: %+v, %v; want refused", name, st, err)
		}
	}
}

func (s Suite) concurrent(t *testing.T) {
	a := s.Account(t)
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if _, err := s.end(t, a); err != nil {
				t.Errorf("End beside others: %v", err)
			}
		})
	}
	all.Wait()
	s.ended(t, a)
}

func (s Suite) unplugged(t *testing.T) {
	a := s.Account(t)
	plug := s.Unplug(t)
	r, err := s.end(t, a)
	if err == nil || errors.Is(err, connector.ErrRefused) {
		t.Errorf("End without the system: %+v, %v; want unreachable", r, err)
	}
	if st, err := s.verify(t, a); err == nil && (st.Dead || !s.Blind) || errors.Is(err, connector.ErrRefused) {
		t.Errorf("Verify without the system: %+v, %v; want unreachable", st, err)
	}
	plug()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		if _, err = s.end(t, a); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("End after the system came back: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
	s.ended(t, a)
}

func (s Suite) cancelled(t *testing.T) {
	a := s.Account(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if r, err := s.Connector.End(ctx, a); err == nil {
		t.Errorf("End with an ended context: %+v; want an error", r)
	} else {
		s.sayErr(t, err)
	}
	if !s.Alive(t, a) {
		t.Error("End with an ended context acted")
	}
	if st, err := s.Connector.Verify(ctx, a); err == nil || st.Dead {
		t.Errorf("Verify with an ended context: %+v, %v; want an error", st, err)
	}
}
