package revocation

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/accept"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/ledger"
)

func request(t events.Target) events.RevocationRequested {
	return events.RevocationRequested{Target: t}
}

func TestRevokeIsEnforcedAndClosed(t *testing.T) {
	w := newWorld(t)
	bot := w.named(lineage.KindIdentity, "acme", "bot", 3)
	r := w.start()
	guards := []*guard.Guard{w.guard("a", "acme"), w.guard("b", "globex")}
	w.present(r, 3)
	res := w.revoke(r, "acme", "req-1", request(bot))
	if res.Status != ledger.StatusAccepted || res.ID != ID("acme", "req-1") {
		t.Fatalf("got %+v", res)
	}
	h := w.names.Name(lineage.KindIdentity, "acme", "bot")
	for i, g := range guards {
		until(t, "the guard refuses", func() bool { _, dead := g.Dead([]lineage.Handle{h}); return dead })
		if e, _ := g.Dead([]lineage.Handle{h}); e.Revocation != res.ID || e.Mode != events.ModeRevoke {
			t.Errorf("guard %d holds %+v", i, e)
		}
	}
	var seen uint64 = 1
	until(t, "the revocation closes", func() bool {
		seen = w.receipts(r, seen)
		s, err := r.ledger.Get(t.Context(), res.ID)
		return err == nil && s.Closed != nil
	})
	s, err := r.ledger.Get(t.Context(), res.ID)
	if err != nil {
		t.Fatal(err)
	}
	if s.Closed.Expected != 3 || s.Closed.Outcomes[events.ReceiptEnforced] != 3 || s.Closed.Descendants != 3 || s.Closed.MerkleRoot == "" {
		t.Errorf("closed: %+v", s.Closed)
	}
	a := s.Accepted
	if a.Sequence == 0 || a.Epoch != 1 || a.Descendants != 3 || len(a.Guards) != 3 || a.Tenants[0] != "acme" {
		t.Errorf("accepted: %+v", a)
	}
	for _, g := range a.Guards {
		if d := g.LeaseEnd.Sub(a.AcceptedAt); d != 16*time.Second {
			t.Errorf("lease of %s ends %s after accept", g.Point, d)
		}
	}
	if n := w.bus.all(bus.StreamLog, "accepted"); events.Extension(n[0], events.ExtCausation) != "req-1" || events.Extension(n[0], events.ExtCorrelation) == "" {
		t.Error("the acceptance does not name its cause")
	}
}

func TestRefusalsAreOnTheLogAndTouchNothing(t *testing.T) {
	w := newWorld(t)
	mine, wide, theirs := w.named(lineage.KindIdentity, "acme", "bot", 3), w.named(lineage.KindIdentity, "acme", "wide", 51), w.named(lineage.KindIdentity, "globex", "bot", 1)
	r := w.start()
	ask := func(target events.Target, mode events.Mode) events.RevocationRequested {
		return events.RevocationRequested{Target: target, Mode: mode}
	}
	for i, c := range []struct {
		req  events.RevocationRequested
		code string
	}{
		{ask(events.Target{Kind: "identity", Tenant: "acme", ID: "typo"}, ""), accept.CodeUnknownTarget},
		{ask(theirs, ""), accept.CodeForbidden},
		{ask(wide, ""), accept.CodeConfirm},
		{ask(mine, events.ModeLift), accept.CodeNotFrozen},
		{ask(events.Target{Handle: "AAAAAAAAAAAAAAAA"}, ""), accept.CodeUnknownTarget},
		{ask(events.Target{Kind: "credential", ID: strings.Repeat("ab", 32)}, ""), accept.CodeUnknownTarget},
	} {
		id := fmt.Sprint("refused-", i)
		res := w.revoke(r, "acme", id, c.req)
		if res.Status != ledger.StatusRefused || res.Code != c.code || res.Reason == "" {
			t.Errorf("%+v: got %+v, want %s", c.req.Target, res, c.code)
		}
		if again := w.revoke(r, "acme", id, c.req); again != res {
			t.Errorf("again: %+v, before %+v", again, res)
		}
	}
	if n := len(w.bus.all(bus.StreamLog, "refused")); n != 6 {
		t.Errorf("%d refusals on the log, want 6", n)
	}
	w.bus.unsafe = fmt.Errorf("%w: set sync_interval: always", bus.ErrUnsafeServer)
	r2 := w.start()
	if res := w.revoke(r2, "acme", "unsafe", request(mine)); res.Code != accept.CodeUnsafe || !strings.Contains(res.Reason, "sync_interval: always") {
		t.Errorf("unsafe server: %+v", res)
	}
	if _, n := w.bus.size(bus.StreamKill); n != 0 || len(w.bus.all(bus.StreamLog, "accepted")) != 0 {
		t.Error("a refused request left an effect")
	}
	w.sweep = func(c *config.Config) { c.Revocation.AllowUnsafeServer = true }
	if res := w.revoke(w.start(), "acme", "allowed", request(mine)); res.Status != ledger.StatusAccepted {
		t.Errorf("unsafe server allowed: %+v", res)
	}
}

func TestInvalidRequestsGoToTheDeadLetters(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	for name, p := range map[string]events.RevocationRequested{
		"mode":         {Mode: "kill", Target: events.Target{Kind: "task", ID: "x"}},
		"kind":         {Target: events.Target{Kind: "toaster", ID: "x"}},
		"no target":    {},
		"handle":       {Target: events.Target{Handle: "short"}},
		"two targets":  {Target: events.Target{Handle: "AAAAAAAAAAAAAAAA", Kind: "task", ID: "x"}},
		"negative ttl": {Mode: events.ModeFreeze, TTLSeconds: -1, Target: events.Target{Kind: "task", ID: "x"}},
		"endless ttl":  {Mode: events.ModeFreeze, TTLSeconds: 1 << 40, Target: events.Target{Kind: "task", ID: "x"}},
	} {
		if p.Mode == "" {
			p.Mode = events.ModeRevoke
		}
		p.Reason, p.RequestedBy = "test", "operator"
		e, err := events.New(events.Origin{Source: "/test", Tenant: "acme", Time: w.clock.now(), ID: name}, p)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.requested(t.Context(), e, p); !errors.Is(err, errBadRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if n, _ := w.bus.size(bus.StreamLog); n != 0 {
		t.Error("an invalid request left something on the log")
	}
}

func TestSecondRevokeFindsTheFirst(t *testing.T) {
	w := newWorld(t)
	bot := w.named(lineage.KindIdentity, "acme", "bot", 3)
	r := w.start()
	first := w.revoke(r, "acme", "one", request(bot))
	second := w.revoke(r, "acme", "two", request(bot))
	if second.Code != accept.CodeAlreadyRevoked || second.ID != first.ID {
		t.Errorf("got %+v", second)
	}
	e, req := w.request("acme", "three", request(bot))
	if _, err := r.requested(t.Context(), e, req.RevocationRequested); err != nil { // the bus is first, HTTP second
		t.Fatal(err)
	}
	third, err := r.accept(t.Context(), e, req)
	if second.Reason == "" || third != second || err != nil {
		t.Errorf("the handler was first: %+v, %v; want %+v", third, err, second)
	}
	w.clock.move(time.Hour) // the kill entry is gone from the feed; the log remembers
	if last, _ := w.bus.LastSequence(t.Context(), bus.StreamKill, killSubject(w.names.Name(lineage.KindIdentity, "acme", "bot").String())); last != 0 {
		t.Fatal("the kill entry outlived its keep")
	}
	for _, r := range []*revoker{r, w.start()} {
		for i, mode := range []events.Mode{events.ModeRevoke, events.ModeFreeze, events.ModeLift} {
			res := w.revoke(r, "acme", fmt.Sprintf("%p-%d", r, i), events.RevocationRequested{Mode: mode, Target: bot})
			if res.Status != ledger.StatusRefused {
				t.Errorf("%s of what was revoked for good: %+v", mode, res)
			}
		}
	}
}

func TestSameIDForSomethingElse(t *testing.T) {
	w := newWorld(t)
	bot := w.named(lineage.KindIdentity, "acme", "bot", 3)
	r := w.start()
	w.revoke(r, "acme", "one", request(bot))
	e, req := w.request("acme", "one", events.RevocationRequested{Mode: events.ModeFreeze, Target: bot})
	if _, err := r.accept(t.Context(), e, req); !errors.Is(err, errMismatch) {
		t.Errorf("got %v", err)
	}
	// Another tenant may use the same request id; it is another revocation.
	theirs := w.named(lineage.KindIdentity, "globex", "bot", 1)
	if res := w.revoke(r, "globex", "one", request(theirs)); res.Status != ledger.StatusAccepted || res.ID == ID("acme", "one") {
		t.Errorf("another tenant's request: %+v", res)
	}
}

func TestFreezeAndLift(t *testing.T) {
	w := newWorld(t)
	bot := w.named(lineage.KindIdentity, "acme", "bot", 3)
	h := w.names.Name(lineage.KindIdentity, "acme", "bot")
	r := w.start()
	g := w.guard("a", "acme")
	w.present(r, 2)
	f := w.revoke(r, "acme", "freeze", events.RevocationRequested{Mode: events.ModeFreeze, Target: bot, TTLSeconds: 600})
	until(t, "the guard holds the freeze", func() bool { e, dead := g.Dead([]lineage.Handle{h}); return dead && e.Mode == events.ModeFreeze })
	lift := events.RevocationRequested{Mode: events.ModeLift, Target: bot}
	if res := w.revoke(r, "globex", "not theirs", lift); res.Code != accept.CodeForbidden {
		t.Errorf("another tenant's lift: %+v", res)
	}
	if res := w.revoke(r, "lanyard", "lift", lift); res.Status != ledger.StatusLifted || res.ID != f.ID {
		t.Fatalf("lift: %+v", res)
	}
	until(t, "the guard lets go", func() bool { _, dead := g.Dead([]lineage.Handle{h}); return !dead })
	// The same lift delivered again must not end a later freeze.
	f2 := w.revoke(r, "acme", "freeze again", events.RevocationRequested{Mode: events.ModeFreeze, Target: bot})
	if f2.Status != ledger.StatusAccepted || f2.ID == f.ID {
		t.Fatalf("second freeze: %+v", f2)
	}
	for _, r := range []*revoker{r, w.start()} {
		if res := w.revoke(r, "lanyard", "lift", lift); res.ID != f.ID || res.Status != ledger.StatusLifted {
			t.Errorf("redelivered lift: %+v", res)
		}
	}
	s, err := r.ledger.Get(t.Context(), f2.ID)
	if err != nil || s.Lifted != nil {
		t.Errorf("the second freeze was lifted by an old request (%v)", err)
	}
	if res := w.revoke(r, "acme", "for good", request(bot)); res.Status != ledger.StatusAccepted {
		t.Errorf("a revoke replaces a freeze: %+v", res)
	}
	until(t, "the guard holds the revoke", func() bool { e, dead := g.Dead([]lineage.Handle{h}); return dead && e.Mode == events.ModeRevoke })
}

func TestFreezeEndsByItself(t *testing.T) {
	w := newWorld(t)
	bot := w.named(lineage.KindIdentity, "acme", "bot", 3)
	r := w.start()
	f := w.revoke(r, "acme", "freeze", events.RevocationRequested{Mode: events.ModeFreeze, Target: bot, TTLSeconds: 600})
	w.clock.move(10*time.Minute - 1)
	if err := r.closeDue(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := w.bus.all(bus.StreamLog, "lifted"); len(n) != 0 {
		t.Fatal("lifted before its end")
	}
	w.clock.move(1)
	for range 2 {
		if err := r.closeDue(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := w.bus.all(bus.StreamLog, "lifted"); len(n) != 1 || n[0].Subject() != f.ID {
		t.Fatalf("%d ends on the log", len(n))
	}
	if res := w.revoke(r, "acme", "late lift", events.RevocationRequested{Mode: events.ModeLift, Target: bot}); res.Code != accept.CodeNotFrozen {
		t.Errorf("lift after the end: %+v", res)
	}
}

// TestCapHoldsForManyAtOnce: whoever sends many at once passes no more than the cap.
func TestCapHoldsForManyAtOnce(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	var mu sync.Mutex
	codes := map[string]int{}
	var wg sync.WaitGroup
	for i := range 30 {
		target := w.named(lineage.KindIdentity, "acme", fmt.Sprint("bot-", i), 1)
		e, req := w.request("acme", fmt.Sprint("req-", i), request(target))
		wg.Go(func() {
			res, err := r.accept(t.Context(), e, req)
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			codes[res.Code]++
		})
	}
	wg.Wait()
	if n := len(w.bus.all(bus.StreamLog, "accepted")); n != 5 || codes[accept.CodeCap] != 30-n {
		t.Errorf("%d accepted with a cap of 5; %v", n, codes)
	}
	task := w.named(lineage.KindTask, "acme", "task", 1)
	if res := w.revoke(r, "acme", "leaf", request(task)); res.Status != ledger.StatusAccepted {
		t.Errorf("a leaf above the cap: %+v", res)
	}
	bot := w.named(lineage.KindIdentity, "acme", "later", 1)
	for r, id := range map[*revoker]string{r: "later", w.start(): "later on another process"} {
		if res := w.revoke(r, "acme", id, request(bot)); res.Code != accept.CodeCap {
			t.Errorf("%s: %+v", id, res)
		}
	}
	w.clock.move(accept.Window)
	if res := w.revoke(r, "acme", "next window", request(bot)); res.Status != ledger.StatusAccepted {
		t.Errorf("in the next window: %+v", res)
	}
}

func TestGraphLost(t *testing.T) {
	w := newWorld(t)
	bot, owner := w.named(lineage.KindIdentity, "acme", "bot", 3), w.named(lineage.KindOwner, "acme", "ana", 3)
	r := w.start()
	w.tree.fail(errors.New("redis is gone"))
	if res := w.revoke(r, "acme", "narrow", request(bot)); res.Status != ledger.StatusAccepted {
		t.Errorf("a narrow revoke: %+v", res)
	}
	p := request(owner)
	p.Confirm = 3
	if res := w.revoke(r, "acme", "broad", p); res.Code != accept.CodeConfirm {
		t.Errorf("a broad revoke: %+v", res)
	}
	id := ID("acme", "narrow")
	if err := r.due(t.Context(), id); err == nil {
		until(t, "it stays open", func() bool { s, err := r.ledger.Get(t.Context(), id); return err == nil && s.Closed == nil })
	}
	w.tree.fail(nil)
	w.clock.move(17 * time.Second)
	if err := r.due(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if s, err := r.ledger.Get(t.Context(), id); err != nil || s.Closed == nil || s.Closed.Descendants != 3 {
		t.Errorf("after the graph came back: %+v, %v", s, err)
	}
}

func TestManyGuardsFitIntoEvents(t *testing.T) {
	w := newWorld(t)
	e, _ := w.request("acme", "x", request(w.named(lineage.KindTask, "acme", "t", 1)))
	var guards []events.ExpectedGuard
	for i := range 1100 {
		guards = append(guards, events.ExpectedGuard{Point: fmt.Sprintf("%0100d", i), Tenant: strings.Repeat("t", 63), LeaseEnd: w.clock.now()})
	}
	es, err := pages(e, "acme", events.RevocationAccepted{Revocation: "r", Mode: events.ModeRevoke, Handle: "AAAAAAAAAAAAAAAA", AcceptedAt: w.clock.now(), Tenants: []string{}}, guards)
	if err != nil {
		t.Fatal(err)
	}
	var s ledger.State
	for i, e := range es {
		b, err := json.Marshal(e)
		if err != nil || len(b) > events.MaxSize {
			t.Fatalf("page %d has %d bytes, %v", i, len(b), err)
		}
		if err := s.Apply(bus.Stored{Event: e, Sequence: uint64(i + 1)}); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.Accepted.Guards) != 1100 {
		t.Errorf("%d of 1100 guards after folding %d pages", len(s.Accepted.Guards), len(es))
	}
}
