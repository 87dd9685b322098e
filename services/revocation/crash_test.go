package revocation

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/journal"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/ledger"
)

// run is one whole life of a target: frozen, lifted, revoked, answered, closed. Each
// request is delivered until it is carried out, by a new process after each crash.
func (w *world) life(t *testing.T, restarted func()) *revoker {
	t.Helper()
	bot := w.named(lineage.KindIdentity, "acme", "bot", 3)
	r := w.start()
	w.attach("a", "acme", newKey(10))
	w.present(r, 2)
	for i, mode := range []events.Mode{events.ModeFreeze, events.ModeLift, events.ModeRevoke} {
		e, req := w.request("acme", fmt.Sprint("req-", i), events.RevocationRequested{Mode: mode, Target: bot})
		for {
			_, err := r.requested(t.Context(), e, req.RevocationRequested)
			if err == nil {
				break
			}
			if !errors.Is(err, errCrash) {
				t.Fatalf("%s: %v", mode, err)
			}
			w.stop()
			restarted()
			r = w.start()
		}
		w.clock.move(time.Second)
	}
	return r
}

func (w *world) closes(t *testing.T, r *revoker) {
	t.Helper()
	id := ID("acme", "req-2")
	w.clock.move(20 * time.Second)
	until(t, "it is closed", func() bool {
		if err := r.ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := r.due(t.Context(), id); err != nil && !errors.Is(err, errCrash) {
			t.Fatal(err)
		}
		s, err := r.ledger.Get(t.Context(), id)
		return err == nil && s.Closed != nil
	})
}

// TestCrashBetweenEverySteps lets the process die before and after each durable
// step, and then again at the next one; redelivery always completes the same.
func TestCrashBetweenEverySteps(t *testing.T) {
	var names []string
	w := newWorld(t)
	w.bus.onStep(func(name string, after bool) error {
		names = append(names, name)
		return nil
	})
	w.life(t, func() {})
	w.stop()
	for _, name := range []string{"journal intent", "kill", "append accepted", "append lifted"} {
		if !strings.Contains(strings.Join(names, ","), name) {
			t.Fatalf("a life has no step %q: %v", name, names)
		}
		for _, after := range []bool{false, true} {
			for _, times := range []int{1, 2, 3} {
				t.Run(fmt.Sprintf("%s, after %v, %d times", name, after, times), func(t *testing.T) { crashAt(t, name, after, times) })
			}
		}
	}
}

func crashAt(t *testing.T, name string, after bool, times int) {
	w := newWorld(t)
	crashed := 0
	w.bus.onStep(func(n string, a bool) error {
		if n == name && a == after && crashed < times {
			crashed++
			return errCrash
		}
		return nil
	})
	r := w.life(t, func() {})
	w.closes(t, r)
	w.bus.onStep(nil)
	if crashed == 0 {
		t.Fatal("the crash did not happen")
	}
	accepted := w.bus.all(bus.StreamLog, "accepted")
	if len(accepted) != 2 || len(w.bus.all(bus.StreamLog, "lifted")) != 1 || len(w.bus.all(bus.StreamLog, "closed")) < 1 || len(w.bus.all(bus.StreamLog, "refused")) != 0 {
		t.Errorf("%d acceptances, %d lifts, %d closures, %d refusals", len(accepted), len(w.bus.all(bus.StreamLog, "lifted")),
			len(w.bus.all(bus.StreamLog, "closed")), len(w.bus.all(bus.StreamLog, "refused")))
	}
	h := w.names.Name(lineage.KindIdentity, "acme", "bot")
	g := w.guard("late", "acme")
	until(t, "a new guard holds the revoke", func() bool { e, dead := g.Dead([]lineage.Handle{h}); return dead && e.Mode == events.ModeRevoke })
	e, _ := g.Dead([]lineage.Handle{h})
	p, err := events.As[events.RevocationAccepted](accepted[1])
	if err != nil || e.Revocation != p.Revocation || p.Mode != events.ModeRevoke {
		t.Fatalf("the feed holds %+v, the log %+v (%v)", e, p, err)
	}
	last, _ := w.bus.LastSequence(t.Context(), bus.StreamKill, killSubject(h.String()))
	if p.Sequence != last || !p.AcceptedAt.Equal(e.At) {
		t.Errorf("the log says entry %d at %s, the feed has %d at %s", p.Sequence, p.AcceptedAt, last, e.At)
	}
}

// TestUnknownOutcomeIsPending: a server that does not answer makes a request
// pending, never failed, and the next delivery completes it once.
func TestUnknownOutcomeIsPending(t *testing.T) {
	for _, happened := range []bool{false, true} {
		w := newWorld(t)
		bot := w.named(lineage.KindIdentity, "acme", "bot", 3)
		r := w.start()
		failed := false
		w.bus.onStep(func(n string, a bool) error {
			if n == "kill" && a == happened && !failed {
				failed = true
				return bus.ErrUnknownOutcome
			}
			return nil
		})
		e, req := w.request("acme", "req", request(bot))
		res, err := r.accept(t.Context(), e, req)
		if err != nil || !res.Pending || res.Status != ledger.StatusPending {
			t.Errorf("got %+v, %v", res, err)
		}
		if res := w.revoke(r, "acme", "req", request(bot)); res.Status != ledger.StatusAccepted || res.ID != ID("acme", "req") {
			t.Errorf("delivered again: %+v", res)
		}
		if n := len(w.bus.all(bus.StreamLog, "accepted")); n != 1 {
			t.Errorf("%d acceptances", n)
		}
		w.stop()
	}
}

// TestRewoundFeedIsMended: the server lost the tail of the kill feed, or all of it;
// the journal notices, puts the entries back and says so.
func TestRewoundFeedIsMended(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	a, b := w.named(lineage.KindIdentity, "acme", "a", 1), w.named(lineage.KindIdentity, "acme", "b", 1)
	w.revoke(r, "acme", "one", request(a))
	w.revoke(r, "acme", "two", events.RevocationRequested{Mode: events.ModeFreeze, Target: b, TTLSeconds: 600})
	w.revoke(r, "acme", "three", events.RevocationRequested{Mode: events.ModeLift, Target: b})
	w.stop()
	w.bus.mu.Lock()
	w.bus.streams[bus.StreamKill], w.bus.seqs[bus.StreamKill] = nil, 0
	w.bus.mu.Unlock()
	r = w.start()
	if err := r.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	h := w.names.Name(lineage.KindIdentity, "acme", "a")
	g := w.guard("new", "acme")
	until(t, "the entry is back", func() bool { e, dead := g.Dead([]lineage.Handle{h}); return dead && e.Revocation == ID("acme", "one") })
	if _, dead := g.Dead([]lineage.Handle{w.names.Name(lineage.KindIdentity, "acme", "b")}); dead {
		t.Error("a lifted freeze is back")
	}
	until(t, "the SOC is told", func() bool { return len(w.bus.all(bus.StreamAlert, "detected")) == 1 })
	w.stop()
	r = w.start() // a second start finds everything in place
	if err := r.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n := len(w.bus.all(bus.StreamAlert, "detected")); n != 1 {
		t.Errorf("%d alerts after the second start", n)
	}
}

func TestBrokenJournalRefusesToStart(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	w.revoke(r, "acme", "one", request(w.named(lineage.KindIdentity, "acme", "a", 1)))
	w.stop()
	path := filepath.Join(w.dir, "revocation", "journal")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	b[80] ^= 1
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := w.boot(); !errors.Is(err, journal.ErrBroken) {
		t.Errorf("started on a broken journal: %v", err)
	}
}

func TestEpochNeverGoesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "feed.epoch")
	if e, err := readEpoch(path, 0); err != nil || e != 1 {
		t.Fatalf("a new deployment: %d, %v", e, err)
	}
	if err := os.WriteFile(path, []byte("3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if e, err := readEpoch(path, 2); err != nil || e != 3 {
		t.Errorf("raised by hand: %d, %v", e, err)
	}
	if _, err := readEpoch(path, 4); !errors.Is(err, errEpoch) {
		t.Errorf("below the journal's: %v", err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := readEpoch(path, 4); !errors.Is(err, errEpoch) {
		t.Errorf("file lost: %v", err)
	}
	if err := os.WriteFile(path, []byte("many"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readEpoch(path, 0); err == nil {
		t.Error("nonsense was read")
	}
}

// TestReceiptOnlyAfterEnforcement: whenever the log says that a point enforced a
// revoke, that point's guard refuses, and goes on refusing.
func TestReceiptOnlyAfterEnforcement(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	points := map[string]*guard.Guard{}
	for i := range 5 {
		points[fmt.Sprint("p", i)] = w.guard(fmt.Sprint("p", i), "acme")
	}
	w.present(r, 6)
	var seen uint64 = 1
	for i := range 20 {
		id := fmt.Sprint("task-", i)
		res := w.revoke(r, "acme", id, request(w.named(lineage.KindTask, "acme", id, 1)))
		h := w.names.Name(lineage.KindTask, "acme", id)
		until(t, "it is closed", func() bool {
			seen = w.receipts(r, seen)
			s, err := r.ledger.Get(t.Context(), res.ID)
			if err != nil {
				t.Fatal(err)
			}
			for p, a := range s.Answers {
				g, ok := points[p]
				if !ok || a.Outcome == events.ReceiptLeaseExpired {
					continue
				}
				if _, dead := g.Dead([]lineage.Handle{h}); !dead {
					t.Fatalf("%s has receipted %s and does not refuse", p, id)
				}
			}
			return s.Closed != nil
		})
	}
}
