package revocation

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/receipt"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/closure"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/ledger"
	"go.uber.org/zap"
)

// statement signs a closure, so that it can be proven without us. A closure that
// cannot be signed is a closure all the same: "" then.
func (r *revoker) statement(s *ledger.State, c events.RevocationClosed, answers map[string]closure.Answer) string {
	a := s.Accepted
	jws, err := receipt.Seal(r.signer, receipt.Statement{Revocation: s.ID, Handle: a.Handle, Mode: a.Mode, Target: a.Target, By: a.By,
		AcceptedAt: a.AcceptedAt, ClosedAt: c.ClosedAt, Epoch: a.Epoch, Sequence: a.Sequence,
		Descendants: c.Descendants, Tenants: len(c.Tenants)}, points(a.Guards, answers))
	if err != nil {
		r.log.Warn("closure cannot be signed; it has no proof for outsiders", zap.String("revocation", s.ID), zap.Error(err))
		return ""
	}
	return jws
}

// points are the answers as they are signed and exported, in order of their names.
func points(expected []events.ExpectedGuard, answers map[string]closure.Answer) []receipt.Point {
	guards := map[string]events.ExpectedGuard{}
	for _, g := range expected {
		guards[g.Point] = g
	}
	out := make([]receipt.Point, 0, len(answers))
	for _, name := range slices.Sorted(maps.Keys(answers)) {
		a := answers[name]
		p := receipt.Point{Point: a.Point, Outcome: a.Outcome, AppliedAt: a.AppliedAt.UTC(), Key: a.Key, Receipt: a.Receipt}
		if g, ok := guards[name]; ok {
			end := g.LeaseEnd.UTC()
			p.Tenant, p.LeaseEnd = g.Tenant, &end
		}
		out = append(out, p)
	}
	return out
}

// ndjson is an answer that is lines of JSON.
type ndjson []byte

// getReceipts answers with the bundle of a closed revocation.
func (r *revoker) getReceipts(_ http.ResponseWriter, q *http.Request, caller token.Claims) (int, any, error) {
	b, err := r.bundle(q.Context(), q.PathValue("id"), caller)
	return http.StatusOK, ndjson(b), err
}

func (r *revoker) bundle(ctx context.Context, id string, caller token.Claims) ([]byte, error) {
	var closed *events.RevocationClosed
	var guards []events.ExpectedGuard
	var answers map[string]closure.Answer
	err := r.ledger.Inspect(ctx, id, func(s *ledger.State) {
		if !visible(s, caller) {
			return
		}
		if closed = s.Closed; closed == nil {
			closed = &events.RevocationClosed{}
			return
		}
		guards, answers = s.Accepted.Guards, maps.Clone(s.AtClosure())
	})
	switch {
	case err != nil:
		return nil, err
	case closed == nil:
		return nil, fmt.Errorf("show receipts of %s: %w", id, ledger.ErrUnknown)
	case closed.Revocation == "":
		return nil, &httpError{http.StatusConflict, "not_closed", "it is not closed, so there is no proof of it yet; 'lanyard revoke show " + id + " --wait 1m' waits for it"}
	case closed.Statement == "":
		return nil, &httpError{http.StatusConflict, "not_signed", "it was closed without a signed statement, by an earlier version"}
	}
	if r.cleanup != nil {
		ended, err := r.cleanup.proofs(ctx, *closed)
		if err != nil {
			return nil, err
		}
		if answers == nil {
			answers = map[string]closure.Answer{}
		}
		maps.Copy(answers, ended)
	}
	var b bytes.Buffer
	err = receipt.Write(&b, closed.Statement, points(guards, answers))
	return b.Bytes(), err
}
