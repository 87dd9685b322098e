package revocation

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/receipt"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/ledger"
)

// TestProofForOutsiders: the bundle of a closed revocation holds under the feed's
// key alone, is the same after a restart, and is not changed by a receipt that
// comes when a lease has ended already.
func TestProofForOutsiders(t *testing.T) {
	w := newWorld(t)
	own, late := newKey(10), newKey(11)
	w.attach("a/orders", "acme", own)
	w.attach("b/late", "acme", late)
	r := w.start()
	a := w.accepted(r, 3) // and the process's own guard
	caller := token.Claims{Tenant: "acme"}
	if _, err := r.bundle(t.Context(), a.Revocation, caller); !isProblem(err, "not_closed") {
		t.Fatalf("before it is closed: %v", err)
	}
	if s, err := r.ledger.Get(t.Context(), a.Revocation); err != nil || len(viewOf(s, w.clock.now()).Outstanding) < 2 ||
		!viewOf(s, w.clock.now()).Outstanding[0].Until.Equal(a.AcceptedAt.Add(16*time.Second)) {
		t.Errorf("outstanding before: %+v, %v", viewOf(s, w.clock.now()).Outstanding, err)
	}
	w.receipts(r, 1)
	e, p := w.signed(a, "a/orders", "acme", own)
	if _, err := r.receipt(t.Context(), e, p); err != nil {
		t.Fatal(err)
	}
	w.clock.move(20 * time.Second)
	closed := func() bool {
		if err := r.due(t.Context(), a.Revocation); err != nil {
			t.Log(err)
		}
		s, err := r.ledger.Get(t.Context(), a.Revocation)
		return err == nil && s.Closed != nil && s.Answers["a/orders"].Receipt != ""
	}
	until(t, "it is closed", closed)
	b, err := r.bundle(t.Context(), a.Revocation, caller)
	if err != nil {
		t.Fatal(err)
	}
	got, err := receipt.Verify(bytes.NewReader(b), feedKey.public)
	if err != nil {
		t.Fatalf("%v\n%s", err, b)
	}
	s, err := r.ledger.Get(t.Context(), a.Revocation)
	if err != nil || got.Statement.Expected != 3 || got.Statement.Outcomes[events.ReceiptLeaseExpired] < 1 ||
		got.Statement.MerkleRoot != s.Closed.MerkleRoot || got.Statement.Handle != a.Handle || !got.Statement.ClosedAt.Equal(s.Closed.ClosedAt) {
		t.Errorf("%+v of %+v, %v", got.Statement, s.Closed, err)
	}

	e, p = w.signed(a, "b/late", "acme", late)
	if _, err := r.receipt(t.Context(), e, p); err != nil {
		t.Fatal(err)
	}
	until(t, "the late receipt is on the log", func() bool {
		s, err := r.ledger.Get(t.Context(), a.Revocation)
		return err == nil && s.Answers["b/late"].Outcome == events.ReceiptEnforced
	})
	w.stop()
	r = w.start()
	if err := r.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	again, err := r.bundle(t.Context(), a.Revocation, caller)
	if err != nil || !bytes.Equal(again, b) {
		t.Errorf("after a restart and a late receipt: %v\n%s\n%s", err, b, again)
	}
	if _, err := r.bundle(t.Context(), a.Revocation, token.Claims{Tenant: "globex"}); !errors.Is(err, ledger.ErrUnknown) {
		t.Errorf("to another tenant: %v", err)
	}
	if _, err := r.bundle(t.Context(), "nothing", caller); !errors.Is(err, ledger.ErrUnknown) {
		t.Errorf("of nothing: %v", err)
	}
}

func isProblem(err error, code string) bool {
	e, ok := errors.AsType[*httpError](err)
	return ok && e.code == code
}
