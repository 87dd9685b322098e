package revocation

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/killcommand"
	"github.com/lanyard-nhi/lanyard/services/internal/operator"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

const deployment = "https://issuer.test"

// orders opens the service's inbox; the operator's key is k.
func (w *world) orders(r *revoker, k keyPair) *commands {
	w.t.Helper()
	set, err := token.JWKS([]token.Key{k.signer.Key()})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := errors.Join(os.MkdirAll(filepath.Join(w.dir, "keys"), 0o700), os.WriteFile(filepath.Join(w.dir, "keys", "operator.jwks.json"), set, 0o644)); err != nil {
		w.t.Fatal(err)
	}
	var c config.Config
	c.Data, c.Issuer.URL = w.dir, deployment
	o, err := openCommands(r, service.Env{Config: c, Now: w.clock.now})
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

func (w *world) command(k keyPair, t events.Target, change ...func(*killcommand.Command)) string {
	w.t.Helper()
	now := w.clock.now().Unix()
	c := killcommand.Command{Issuer: operator.Issuer, Subject: "operator", Audience: deployment, ID: "one", IssuedAt: now, Expires: now + 600,
		Mode: events.ModeRevoke, Target: t, Reason: "the API is down"}
	for _, f := range change {
		f(&c)
	}
	raw, err := killcommand.Sign(k.signer, c)
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

func (w *world) hand(name, raw string) {
	w.t.Helper()
	if err := os.WriteFile(filepath.Join(w.dir, "revocation", "inbox", name+".jws"), []byte(raw+"\n"), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// told reads the one result of a command.
func (w *world) told(name string) killcommand.Result {
	w.t.Helper()
	files, err := filepath.Glob(filepath.Join(w.dir, "revocation", "inbox", name+".*"))
	if err != nil || len(files) != 1 {
		w.t.Fatalf("files of %s: %v, %v", name, files, err)
	}
	b, err := os.ReadFile(files[0])
	if err != nil {
		w.t.Fatal(err)
	}
	var r killcommand.Result
	if err := json.Unmarshal(b, &r); err != nil || !strings.HasSuffix(files[0], "."+r.State) {
		w.t.Fatalf("%s: %s, %v", files[0], b, err)
	}
	return r
}

func TestKillCommands(t *testing.T) {
	w := newWorld(t)
	bot, owner := w.named(lineage.KindIdentity, "acme", "bot", 3), w.named(lineage.KindOwner, "acme", "ana", 12)
	r := w.start()
	if err := r.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	own, other := newKey(20), newKey(21)
	o := w.orders(r, own)
	good := w.command(own, bot)
	w.hand("good", good)
	w.hand("forged", w.command(other, bot))
	w.hand("text", "not a command")
	w.hand("long", strings.Repeat("a", 1<<20))
	w.hand("elsewhere", w.command(own, bot, func(c *killcommand.Command) { c.Audience = "https://other.test" }))
	w.hand("future", w.command(own, bot, func(c *killcommand.Command) { c.IssuedAt += 3600; c.Expires += 3600 }))
	w.hand("old", w.command(own, bot, func(c *killcommand.Command) { c.IssuedAt -= 3600; c.Expires -= 3600 }))
	w.hand("typo", w.command(own, events.Target{Kind: "identity", Tenant: "acme", ID: "typo"}))
	w.hand("wide", w.command(own, owner))
	if err := o.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	first := w.told("good")
	if first.State != killcommand.Accepted || first.Revocation == "" {
		t.Errorf("good: %+v", first)
	}
	for name, code := range map[string]string{"forged": "invalid_command", "text": "invalid_command", "long": "invalid_command", "elsewhere": "invalid_command",
		"future": "invalid_command", "old": "invalid_command", "typo": "unknown_target", "wide": "confirm_required"} {
		if got := w.told(name); got.State != killcommand.Refused || got.Code != code || got.Reason == "" {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if s, err := r.ledger.Get(t.Context(), first.Revocation); err != nil || s.Accepted == nil || s.Accepted.Reason != "the API is down" || s.Tenant != "lanyard" {
		t.Errorf("%+v, %v", s, err)
	}

	// The same file again is the same revoke, and later it is refused.
	w.hand("again", good)
	if err := o.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.told("again"); got.State != killcommand.Accepted || got.Revocation != first.Revocation {
		t.Errorf("again: %+v", got)
	}
	w.clock.move(time.Hour)
	w.hand("replayed", good)
	w.hand("confirmed", w.command(own, owner, func(c *killcommand.Command) { c.ID, c.Confirm = "two", 12 }))
	if err := o.look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.told("replayed"); got.State != killcommand.Refused {
		t.Errorf("replayed: %+v", got)
	}
	if got := w.told("confirmed"); got.State != killcommand.Accepted {
		t.Errorf("confirmed: %+v", got)
	}
	if n := len(w.bus.all(bus.StreamLog, "accepted")); n != 2 {
		t.Errorf("%d revocations, want 2", n)
	}
}

// TestKillCommandWithoutABus: a command is promised while the bus is down, and
// carried out by the next process after its own time is over.
func TestKillCommandWithoutABus(t *testing.T) {
	w := newWorld(t)
	bot := w.named(lineage.KindIdentity, "acme", "bot", 3)
	own := newKey(20)
	r := w.start()
	if err := r.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	down := errors.New("no route to the bus")
	w.bus.onStep(func(string, bool) error { return down })
	o := w.orders(r, own)
	w.hand("kill", w.command(own, bot))
	w.hand("kill2", w.command(own, events.Target{Kind: "identity", Tenant: "acme", ID: "typo"}))
	for range 2 {
		if err := o.look(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"kill", "kill2"} {
			if got := w.told(name); got.State != killcommand.Pending || !strings.Contains(got.Reason, down.Error()) {
				t.Fatalf("%+v", got)
			}
		}
	}
	w.stop()
	w.bus.onStep(nil)
	w.clock.move(3 * time.Hour)
	r = w.start()
	if err := r.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := w.orders(r, own).look(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := w.told("kill"); got.State != killcommand.Accepted {
		t.Errorf("%+v", got)
	}
	if got := w.told("kill2"); got.State != killcommand.Refused || got.Code != "unknown_target" {
		t.Errorf("%+v", got)
	}
	if left, err := os.ReadDir(filepath.Join(w.dir, "revocation", "commands")); err != nil || len(left) != 0 {
		t.Errorf("left over: %v, %v", left, err)
	}
}
