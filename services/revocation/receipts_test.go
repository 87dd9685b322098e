package revocation

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/closure"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/ledger"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/presence"
)

// attach states the presence of a guard with a key of the test's.
func (w *world) attach(point, tenant string, k keyPair, change ...func(*events.GuardAttached)) {
	w.t.Helper()
	jwk, err := k.signer.Key().JWK()
	if err != nil {
		w.t.Fatal(err)
	}
	p := events.GuardAttached{Point: point, Audience: "https://a.test", PublicJWK: string(jwk), LeaseSeconds: 15, Epoch: 1, Fresh: true, KeyIDs: []string{}, At: w.clock.now()}
	for _, f := range change {
		f(&p)
	}
	e, err := events.New(events.Origin{Source: "/guard/" + point, Tenant: tenant, Time: w.clock.now(), ID: fmt.Sprint(point, rand.Uint64())}, p)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.bus.Publish(w.t.Context(), e); err != nil {
		w.t.Fatal(err)
	}
}

// signed is a receipt event of a guard for an accepted revocation.
func (w *world) signed(a *events.RevocationAccepted, point, tenant string, k keyPair, change ...func(*events.ReceiptSigned)) (events.Event, events.ReceiptSigned) {
	w.t.Helper()
	p := events.ReceiptSigned{Revocation: a.Revocation, Handle: a.Handle, Point: point, Outcome: events.ReceiptEnforced, Epoch: a.Epoch, Sequence: a.Sequence,
		AppliedAt: a.AcceptedAt.Add(7 * time.Millisecond)}
	for _, f := range change {
		f(&p)
	}
	p, err := guard.SignReceipt(k.signer, p)
	if err != nil {
		w.t.Fatal(err)
	}
	e, err := events.New(events.Origin{Source: "/guard/" + point, Tenant: tenant, Time: p.AppliedAt, ID: fmt.Sprint(point, rand.Uint64())}, p)
	if err != nil {
		w.t.Fatal(err)
	}
	return e, p
}

func (w *world) accepted(r *revoker, n int) *events.RevocationAccepted {
	w.t.Helper()
	w.present(r, n)
	res := w.revoke(r, "acme", "req", request(w.named(lineage.KindIdentity, "acme", "bot", 3)))
	s, err := r.ledger.Get(w.t.Context(), res.ID)
	if err != nil || s.Accepted == nil {
		w.t.Fatalf("%+v, %v", res, err)
	}
	return s.Accepted
}

func TestReceiptsThatAreRefused(t *testing.T) {
	w := newWorld(t)
	own, other := newKey(10), newKey(11)
	w.attach("a", "acme", own)
	r := w.start()
	a := w.accepted(r, 2)
	for name, c := range map[string]struct {
		tenant, point string
		key           keyPair
		change        func(*events.ReceiptSigned)
		want          error
	}{
		"forged":          {"acme", "a", other, nil, nil},
		"unknown guard":   {"acme", "nobody", own, nil, presence.ErrUnknownGuard},
		"other tenant":    {"globex", "a", own, nil, presence.ErrWrongTenant},
		"other handle":    {"acme", "a", own, func(p *events.ReceiptSigned) { p.Handle = "AAAAAAAAAAAAAAAA" }, errReceipt},
		"earlier entry":   {"acme", "a", own, func(p *events.ReceiptSigned) { p.Sequence-- }, errReceipt},
		"earlier epoch":   {"acme", "a", own, func(p *events.ReceiptSigned) { p.Epoch-- }, errReceipt},
		"feed's own key":  {"acme", "a", feedKey, nil, nil},
		"replayed as new": {"acme", "a", own, func(p *events.ReceiptSigned) { p.JWS = "" }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var change []func(*events.ReceiptSigned)
			if c.change != nil {
				change = append(change, c.change)
			}
			e, p := w.signed(a, c.point, c.tenant, c.key, change...)
			if name == "replayed as new" { // a genuine signature under other fields
				p.Outcome = events.ReceiptAlreadyDead
			}
			_, err := r.receipt(t.Context(), e, p)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	r.receipts.wake()
	if err := r.recover(t.Context(), a.Revocation); err != nil {
		t.Fatal(err)
	}
	s, err := r.ledger.Get(t.Context(), a.Revocation)
	if err != nil || len(s.Answers) > 1 { // its own guard's may be in
		t.Errorf("answers %v, %v", s.Answers, err)
	}
	if _, ok := s.Answers["a"]; ok {
		t.Error("a refused receipt counts")
	}
}

// TestWhoIsExpected: a guard says yes only after its presence with a valid lease is
// stored, so only such a guard is waited for.
func TestWhoIsExpected(t *testing.T) {
	w := newWorld(t)
	stale := func(p *events.GuardAttached) { p.Fresh = false }
	w.attach("never", "acme", newKey(10), stale)
	w.attach("fresh", "acme", newKey(11))
	w.attach("lost", "acme", newKey(12))
	w.attach("lost", "acme", newKey(12), stale)
	w.attach("gone", "acme", newKey(13))
	w.attach("gone", "acme", newKey(13), func(p *events.GuardAttached) { p.Detached, p.Fresh = true, false })
	r := w.start()
	w.present(r, 3)
	points := func() (out []string) {
		for _, g := range r.table.Expected(w.clock.now()) {
			out = append(out, g.Point)
		}
		return out
	}
	if got := fmt.Sprint(points()); got != "[fresh lost service-revocation]" {
		t.Errorf("expected %s", got)
	}
	w.clock.move(16*time.Second + 1)
	if got := fmt.Sprint(points()); got != "[fresh service-revocation]" {
		t.Errorf("a lease later: expected %s", got)
	}
	w.clock.move(presence.Lapse)
	if got := points(); len(got) != 0 {
		t.Errorf("after nobody was seen for long: expected %v", got)
	}
}

func TestPresencePinsTheFirstKey(t *testing.T) {
	w := newWorld(t)
	own, thief := newKey(10), newKey(11)
	w.attach("a", "acme", own)
	w.attach("a", "acme", thief) // refused: a is there
	w.attach("a", "globex", own) // refused: a is acme's
	w.attach("b", "acme", newKey(12), func(p *events.GuardAttached) { p.Detached = true })
	r := w.start()
	a := w.accepted(r, 2)
	if len(a.Guards) != 2 { // a and the service's own
		t.Errorf("expected %+v", a.Guards)
	}
	e, p := w.signed(a, "a", "acme", thief)
	if _, err := r.receipt(t.Context(), e, p); err == nil {
		t.Error("the second key signs for the point")
	}
	w.clock.move(presence.Lapse + 2*time.Second) // and the lease that it may have renewed unheard
	w.attach("a", "acme", thief)                 // a lapsed: whoever comes now holds it
	e, p = w.signed(a, "a", "acme", thief)
	until(t, "the new guard is known", func() bool { _, err := r.receipt(t.Context(), e, p); return err == nil })
}

// TestDuplicatedAndShuffled delivers requests and receipts several times in any
// order, and always ends in the same state.
func TestDuplicatedAndShuffled(t *testing.T) {
	var want string
	for seed := range uint64(12) {
		w := newWorld(t)
		rng := rand.New(rand.NewPCG(seed, 1))
		keys := map[string]keyPair{}
		for i := range 20 {
			k := newKey(byte(20 + i))
			keys[fmt.Sprint("point-", i)] = k
			w.attach(fmt.Sprint("point-", i), "acme", k)
		}
		r := w.start()
		a := w.accepted(r, 21)
		e, req := w.request("acme", "req", request(events.Target{Kind: "identity", Tenant: "acme", ID: "bot"}))
		var deliveries []func() error
		for point, k := range keys {
			re, p := w.signed(a, point, "acme", k)
			if err := w.bus.Publish(t.Context(), re); err != nil {
				t.Fatal(err)
			}
			for range 1 + rng.IntN(3) {
				deliveries = append(deliveries, func() error { _, err := r.receipt(t.Context(), re, p); return err })
			}
		}
		for range rng.IntN(4) {
			deliveries = append(deliveries, func() error { _, err := r.requested(t.Context(), e, req.RevocationRequested); return err })
		}
		rng.Shuffle(len(deliveries), func(i, j int) { deliveries[i], deliveries[j] = deliveries[j], deliveries[i] })
		for i, d := range deliveries {
			if err := d(); err != nil {
				t.Fatal(err)
			}
			if i == len(deliveries)/2 && seed%3 == 0 { // a second process, then this one again
				w.stop()
				r = w.start()
			}
		}
		if err := r.ready(t.Context()); err != nil {
			t.Fatal(err)
		}
		until(t, "receipts are in", func() bool {
			if err := r.recover(t.Context(), a.Revocation); err != nil { // the service's own guard's too
				t.Fatal(err)
			}
			s, err := r.ledger.Get(t.Context(), a.Revocation)
			return err == nil && len(s.Answers) == 21
		})
		w.clock.move(20 * time.Second)
		until(t, "it is closed", func() bool {
			if err := r.due(t.Context(), a.Revocation); err != nil {
				t.Fatal(err)
			}
			s, err := r.ledger.Get(t.Context(), a.Revocation)
			return err == nil && s.Closed != nil
		})
		if n := len(w.bus.all(bus.StreamLog, "accepted")); n != 1 {
			t.Fatalf("seed %d: %d acceptances", seed, n)
		}
		if n := len(w.bus.all(bus.StreamLog, "closed")); n != 1 {
			t.Fatalf("seed %d: %d closures", seed, n)
		}
		s, err := r.ledger.Get(t.Context(), a.Revocation)
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprint(len(s.Answers), s.Closed.Expected, s.Closed.Descendants)
		for i := range 20 {
			x := s.Answers[fmt.Sprint("point-", i)]
			got += fmt.Sprint(x.Point, x.Outcome, x.LatencyMS)
		}
		if want == "" {
			want = got
		}
		if got != want {
			t.Fatalf("seed %d ends in\n%s\nothers in\n%s", seed, got, want)
		}
		w.stop()
	}
}

// TestAReceiptBeforeTheAcceptanceIsKept: guards answer faster than the log is written.
func TestAReceiptBeforeTheAcceptanceIsKept(t *testing.T) {
	w := newWorld(t)
	k := newKey(10)
	w.attach("a", "acme", k)
	r := w.start()
	w.present(r, 2)
	bot := w.named(lineage.KindIdentity, "acme", "bot", 3)
	e, req := w.request("acme", "req", request(bot))
	w.bus.onStep(func(name string, after bool) error {
		if name == "append accepted" && !after { // the entry is out, the log does not have it
			a := &events.RevocationAccepted{Revocation: req.Revocation, Handle: w.names.Name(lineage.KindIdentity, "acme", "bot").String(), Epoch: 1, AcceptedAt: w.clock.now()}
			a.Sequence, _ = w.bus.LastSequence(t.Context(), bus.StreamKill, killSubject(a.Handle))
			re, p := w.signed(a, "a", "acme", k)
			if _, err := r.receipt(t.Context(), re, p); err != nil {
				t.Errorf("early receipt: %v", err)
			}
		}
		return nil
	})
	if _, err := r.accept(t.Context(), e, req); err != nil {
		t.Fatal(err)
	}
	until(t, "the early receipt counts", func() bool {
		s, err := r.ledger.Get(t.Context(), req.Revocation)
		return err == nil && s.Answers["a"].Outcome == events.ReceiptEnforced
	})
}

// TestLeaseThenLateReceipt: who does not answer is waited for until its lease ends
// and not longer; what comes later is kept and changes no closure.
func TestLeaseThenLateReceipt(t *testing.T) {
	w := newWorld(t)
	k := newKey(10)
	w.attach("a", "acme", k)
	r := w.start()
	a := w.accepted(r, 2)
	w.receipts(r, 1)
	w.clock.move(16*time.Second - 1)
	if err := r.due(t.Context(), a.Revocation); err != nil {
		t.Fatal(err)
	}
	if s, _ := r.ledger.Get(t.Context(), a.Revocation); s.Closed != nil || len(s.Missing(w.clock.now())) == 0 {
		t.Fatal("closed while the silent guard could still say yes")
	}
	w.clock.move(1)
	until(t, "it is closed", func() bool {
		if err := r.due(t.Context(), a.Revocation); err != nil {
			t.Fatal(err)
		}
		s, err := r.ledger.Get(t.Context(), a.Revocation)
		return err == nil && s.Closed != nil
	})
	s, _ := r.ledger.Get(t.Context(), a.Revocation)
	if s.Closed.Outcomes[events.ReceiptLeaseExpired] == 0 || s.Answers["a"].Outcome != events.ReceiptLeaseExpired {
		t.Fatalf("closed: %+v", s.Closed)
	}
	root := s.Closed.MerkleRoot
	if got, err := closure.Root(s.Answers); err != nil || got != root {
		t.Errorf("the root cannot be made again: %s, %s, %v", got, root, err)
	}
	e, p := w.signed(a, "a", "acme", k)
	if _, err := r.receipt(t.Context(), e, p); err != nil {
		t.Fatal(err)
	}
	until(t, "the late receipt is on the log", func() bool {
		s, err := r.ledger.Get(t.Context(), a.Revocation)
		return err == nil && s.Answers["a"].Outcome == events.ReceiptEnforced
	})
	s, _ = r.ledger.Get(t.Context(), a.Revocation)
	if s.Closed.MerkleRoot != root || s.Status() != ledger.StatusClosed || len(w.bus.all(bus.StreamLog, "closed")) != 1 {
		t.Error("the late receipt changed the closure")
	}
}

// TestAcknowledgedReceiptsSurvive: a receipt was taken from its stream, and the
// process died before it was on the log.
func TestAcknowledgedReceiptsSurvive(t *testing.T) {
	w := newWorld(t)
	k := newKey(10)
	w.attach("a", "acme", k)
	r := w.start()
	a := w.accepted(r, 2)
	e, _ := w.signed(a, "a", "acme", k)
	if err := w.bus.Publish(t.Context(), e); err != nil { // durable in its stream; nobody handles it
		t.Fatal(err)
	}
	w.stop()
	r = w.start()
	if err := r.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.due(t.Context(), a.Revocation); err != nil {
		t.Fatal(err)
	}
	if s, err := r.ledger.Get(t.Context(), a.Revocation); err != nil || s.Answers["a"].Outcome != events.ReceiptEnforced {
		t.Errorf("answers %v, %v", s.Answers, err)
	}
}

func TestOverdueIsReportedOnce(t *testing.T) {
	w := newWorld(t)
	w.attach("a", "acme", newKey(10), func(p *events.GuardAttached) { p.LeaseSeconds = 3600 })
	r := w.start()
	a := w.accepted(r, 2)
	for range 3 {
		w.clock.move(61 * time.Second)
		if err := r.due(t.Context(), a.Revocation); err != nil {
			t.Fatal(err)
		}
	}
	alerts := w.bus.all(bus.StreamAlert, "detected")
	if len(alerts) != 1 {
		t.Fatalf("%d alerts", len(alerts))
	}
	if p, err := events.As[events.AnomalyDetected](alerts[0]); err != nil || p.Detector != "REV" || p.Severity != events.SeverityHigh || p.Explanation == "" {
		t.Errorf("%+v, %v", p, err)
	}
}
