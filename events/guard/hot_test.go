package guard

import (
	"fmt"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// TestHotTokenIsStillChecked: only the signature is not verified again.
func TestHotTokenIsStillChecked(t *testing.T) {
	w := freshWorld(t)
	raw := w.keys.token(t, handle(1), w.now, func(c *token.Claims) { c.Expires = w.now.Add(10 * time.Second).Unix() })
	other := w.keys.token(t, handle(2), w.now, func(c *token.Claims) { c.Confirm = &token.Confirm{JKT: "x"} })
	for range 2 {
		if got := w.check(raw); got != "" {
			t.Fatalf("got %q", got)
		}
		if got := w.check(other); got != CodeBinding {
			t.Fatalf("a bound token: %q", got)
		}
	}
	if _, ok := w.g.hot.get(raw, w.g.cfg.Keys); !ok {
		t.Fatal("the token is not remembered")
	}
	// That a hit is used shows in a text that no signature can verify.
	w.g.hot.put("x.y.z", signed{claims: decision(w.now, time.Hour, 1).Claims, key: w.keys.issuer.Key()})
	if got := w.check("x.y.z"); got != CodeIssuer {
		t.Errorf("a text that is remembered: %q", got)
	}
	if got := w.check(raw[:len(raw)-1]); got == "" {
		t.Error("another text is taken for it")
	}
	w.kill(1, events.ModeRevoke)
	if got := w.check(raw); got != CodeRevoked {
		t.Errorf("revoked: %q", got)
	}
	w.g.cfg.Audience = "another"
	if got := w.check(raw); got != CodeAudience {
		t.Errorf("for another audience: %q", got)
	}
	w.g.cfg.Audience = testAudience
	w.advance(10*time.Second + DefaultLeeway)
	beat(w, 1, 0)
	w.settle()
	if got := w.check(raw); got != CodeExpired {
		t.Errorf("expired: %q", got)
	}
}

func TestHotTokenLivesWithItsKey(t *testing.T) {
	w := freshWorld(t)
	raw := w.keys.token(t, handle(1), w.now)
	if got := w.check(raw); got != "" {
		t.Fatalf("got %q", got)
	}
	replaced := w.keys.stranger.Key()
	replaced.ID = w.keys.issuer.Key().ID
	w.g.cfg.Keys = token.NewKeySet(replaced)
	if got := w.check(raw); got != CodeSignature {
		t.Errorf("another key under its kid: %q", got)
	}
	w.g.cfg.Keys = token.KeySet{}
	if got := w.check(raw); got != CodeUnknownKey {
		t.Errorf("its key is gone: %q", got)
	}
	w.g.cfg.Keys = token.NewKeySet(w.keys.issuer.Key())
	if got := w.check(raw); got != "" {
		t.Errorf("its key is back: %q", got)
	}
}

func TestHotTokensAreBoundedAndNobodyElses(t *testing.T) {
	w := freshWorld(t)
	w.g.hot = newHot(8)
	kept := w.keys.token(t, handle(0), w.now, func(c *token.Claims) { c.Actor = &token.Actor{Subject: "a", Actor: &token.Actor{Subject: "b"}} })
	for i := range uint64(40) {
		d, err := w.g.Decide(t.Context(), Request{Token: kept})
		if err != nil {
			t.Fatal(err)
		}
		if d.Claims.Lineage[1] != handle(0) || d.Claims.Audience[0] != testAudience || d.Claims.Actor.Actor.Subject != "b" {
			t.Fatalf("somebody else's change shows: %+v", d.Claims)
		}
		d.Claims.Lineage[1], d.Claims.Audience[0], d.Claims.Actor.Actor.Subject = handle(9), "x", "x"
		if got := w.check(w.keys.token(t, handle(i), w.now, func(c *token.Claims) { c.ID = fmt.Sprint(i) })); got != "" {
			t.Fatal(got)
		}
		if n := len(w.g.hot.now) + len(w.g.hot.old); n > 8 {
			t.Fatalf("%d are remembered", n)
		}
	}
	if _, ok := w.g.hot.get(kept, w.g.cfg.Keys); !ok {
		t.Error("what is in use was forgotten")
	}
	w.g.hot = newHot(0)
	if got := w.check(kept); got != "" || len(w.g.hot.now) != 0 {
		t.Errorf("%q, %d are remembered", got, len(w.g.hot.now))
	}
}

func BenchmarkHotToken(b *testing.B) {
	keys := newKeyring(b)
	w := newWorld(b, keys, "")
	beat(w, 1, 0)
	w.settle()
	raw := keys.token(b, handle(1), w.now)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := w.g.Check(b.Context(), Request{Token: raw}); err != nil {
			b.Fatal(err)
		}
	}
}
