package revocation

import (
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/accept"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/ledger"
)

func TestSecondPersonApproves(t *testing.T) {
	w := newWorld(t)
	owner := w.named(lineage.KindOwner, "acme", "ana", 120)
	r := w.start()
	ask := events.RevocationRequested{Target: owner, RequestedBy: "jane", Reason: "left", Approval: true}
	res := w.revoke(r, "acme", "ask", ask)
	if res.Status != ledger.StatusProposed || res.ID != ID("acme", "ask") {
		t.Fatalf("got %+v", res)
	}
	if again := w.revoke(r, "acme", "ask", ask); again != res {
		t.Errorf("asked again: %+v", again)
	}
	if _, n := w.bus.size(bus.StreamKill); n != 0 {
		t.Error("a proposal revokes already")
	}
	approval := func(tenant, id, by string) result {
		return w.revoke(r, tenant, id, events.RevocationRequested{Target: owner, RequestedBy: by, Approves: res.ID})
	}
	for id, c := range map[string]struct{ tenant, by, code string }{
		"own":     {"acme", "jane", accept.CodeForbidden},
		"foreign": {"globex", "joe", accept.CodeUnknownTarget},
	} {
		if got := approval(c.tenant, id, c.by); got.Status != ledger.StatusRefused || got.Code != c.code || got.Reason == "" {
			t.Errorf("%s: %+v", id, got)
		}
	}
	if got := w.revoke(r, "acme", "auto", events.RevocationRequested{Target: owner, RequestedBy: "det", Automatic: true, Approves: res.ID}); got.Code != accept.CodeForbidden {
		t.Errorf("a detector approves: %+v", got)
	}

	w.stop()
	r = w.start()
	if err := r.ready(t.Context()); err != nil {
		t.Fatal(err)
	}
	if list := r.ledger.Proposed("acme"); len(list) != 1 || list[0].By != "jane" || list[0].Descendants != 120 || len(r.ledger.Proposed("globex")) != 0 {
		t.Fatalf("after a restart: %+v", list)
	}
	got := approval("acme", "yes", "joe")
	if got.Status != ledger.StatusAccepted || got.ID != res.ID {
		t.Fatalf("approved: %+v", got)
	}
	if again := approval("acme", "yes", "joe"); again.ID != res.ID || again.Status != ledger.StatusAccepted {
		t.Errorf("approved again: %+v", again)
	}
	s, err := r.ledger.Get(t.Context(), res.ID)
	if err != nil || s.Accepted == nil || s.Accepted.By != "jane" || s.Accepted.ApprovedBy != "joe" || s.Accepted.Reason != "left" || len(r.ledger.Proposed("")) != 0 {
		t.Errorf("%+v, %v", s.Accepted, err)
	}
	w.clock.move(time.Hour)
	if err := r.lapse(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s, err := r.ledger.Get(t.Context(), res.ID); err != nil || s.Refused != nil {
		t.Errorf("what was approved lapsed: %+v, %v", s.Refused, err)
	}
}

func TestProposalsLapse(t *testing.T) {
	w := newWorld(t)
	owner := w.named(lineage.KindOwner, "acme", "ana", 3)
	r := w.start()
	res := w.revoke(r, "acme", "ask", events.RevocationRequested{Target: owner, RequestedBy: "jane", Approval: true})
	w.clock.move(15 * time.Minute)
	late := w.revoke(r, "lanyard", "late", events.RevocationRequested{Target: owner, RequestedBy: "operator", Approves: res.ID})
	if late.Code != accept.CodeConfirm || !strings.Contains(late.Reason, "15m") {
		t.Errorf("approved too late: %+v", late)
	}
	if err := r.closeDue(t.Context()); err != nil {
		t.Fatal(err)
	}
	s, err := r.ledger.Get(t.Context(), res.ID)
	if err != nil || s.Status() != ledger.StatusRefused || s.Refused.Code != accept.CodeConfirm || len(r.ledger.Proposed("")) != 0 {
		t.Fatalf("%+v, %v", s, err)
	}
	if n := len(w.bus.all(bus.StreamLog, "accepted")); n != 0 {
		t.Errorf("%d acceptances", n)
	}
	if got := w.revoke(r, "acme", "ask", events.RevocationRequested{Target: owner, RequestedBy: "jane", Approval: true}); got.Code != accept.CodeConfirm {
		t.Errorf("asked again with the old id: %+v", got)
	}
}

// TestApprovalIsForWhatIsBroad: a narrow request is carried out though it asks for
// an approval, and what would be refused anyway is refused at once.
func TestApprovalIsForWhatIsBroad(t *testing.T) {
	w := newWorld(t)
	bot, wide := w.named(lineage.KindIdentity, "acme", "bot", 3), w.named(lineage.KindIdentity, "acme", "wide", 500)
	r := w.start()
	if res := w.revoke(r, "acme", "narrow", events.RevocationRequested{Target: bot, Approval: true}); res.Status != ledger.StatusAccepted {
		t.Errorf("narrow: %+v", res)
	}
	if res := w.revoke(r, "acme", "unknown", events.RevocationRequested{Target: events.Target{Kind: "owner", Tenant: "acme", ID: "typo"}, Approval: true}); res.Code != accept.CodeUnknownTarget {
		t.Errorf("unknown: %+v", res)
	}
	first := w.revoke(r, "acme", "p1", events.RevocationRequested{Target: wide, RequestedBy: "jane", Approval: true})
	second := w.revoke(r, "acme", "p2", events.RevocationRequested{Target: wide, RequestedBy: "jim", Approval: true})
	if got := w.revoke(r, "acme", "a1", events.RevocationRequested{Target: wide, RequestedBy: "joe", Approves: first.ID}); got.Status != ledger.StatusAccepted {
		t.Fatalf("%+v", got)
	}
	got := w.revoke(r, "acme", "a2", events.RevocationRequested{Target: wide, RequestedBy: "joe", Approves: second.ID})
	if got.Code != accept.CodeAlreadyRevoked || got.ID != first.ID {
		t.Errorf("what is dead already: %+v", got)
	}
	if got := w.revoke(r, "acme", "a3", events.RevocationRequested{Target: wide, RequestedBy: "joe", Approves: "nothing"}); got.Code != accept.CodeUnknownTarget {
		t.Errorf("nothing: %+v", got)
	}
}
