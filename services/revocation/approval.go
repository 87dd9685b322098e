package revocation

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/accept"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/ledger"
	"go.uber.org/zap"
)

// propose puts on the log that a request waits for a second person. Nothing is
// revoked by that.
func (r *revoker) propose(ctx context.Context, cause events.Event, req accept.Request, f accept.Facts, now time.Time) (result, error) {
	p := events.RevocationProposed{Revocation: req.Revocation, Mode: req.Mode, Target: f.Thing.Target(), Handle: f.Thing.Handle.String(),
		Reason: req.Reason, By: req.RequestedBy, TTLSeconds: req.TTLSeconds, Descendants: f.Live, ProposedAt: now.UTC(), ExpiresAt: now.Add(r.window).UTC()}
	e, err := events.New(events.Origin{Source: source, Tenant: req.Tenant, Time: now, Cause: &cause}, p)
	if err != nil {
		return result{}, bus.Permanent(err)
	}
	var found *ledger.State
	err = r.ledger.Decide(ctx, req.Tenant, req.Revocation, func(s *ledger.State) ([]events.Event, error) {
		if s.Sequence > 0 {
			found = s.Clone()
			return nil, nil
		}
		return []events.Event{e}, nil
	})
	if err != nil {
		return result{}, err
	}
	if found != nil {
		return outcome(found, req)
	}
	r.log.Info("revocation proposed", zap.String("revocation", p.Revocation), zap.String("tenant", req.Tenant), zap.String("by", p.By),
		zap.String("kind", p.Target.Kind), zap.String("id", p.Target.ID), zap.Int64("descendants", p.Descendants))
	return result{ID: p.Revocation, Status: ledger.StatusProposed}, nil
}

// approve carries out the proposed revocation that req approves, or refuses req and
// leaves the proposal as it is. The result is the proposal's.
func (r *revoker) approve(ctx context.Context, cause events.Event, req accept.Request) (result, error) {
	if req.Approves == req.Revocation {
		return result{}, fmt.Errorf("%w: a request cannot approve itself", errBadRequest)
	}
	defer r.flights.lock(req.Approves)()
	s, err := r.ledger.Get(ctx, req.Approves)
	switch {
	case gone(err), err == nil && s.Proposed == nil:
		return r.refuse(ctx, cause, req, accept.Thing{}, accept.Verdict{Code: accept.CodeUnknownTarget, Reason: "no proposed revocation " + req.Approves + " is known"})
	case err != nil:
		return result{}, err
	}
	p := *s.Proposed
	v := accept.Approve(req, accept.Proposal{Tenant: s.Tenant, RevocationProposed: p}, r.now())
	switch {
	case v.Code == accept.CodeUnknownTarget, v.Code == accept.CodeForbidden:
		return r.refuse(ctx, cause, req, accept.Thing{}, v)
	case s.Accepted != nil:
		return result{ID: s.ID, Status: s.Status()}, nil
	case s.Refused != nil:
		return refused(s.ID, *s.Refused), nil
	case v.Code != "":
		return r.refuse(ctx, cause, req, accept.Thing{}, v)
	}
	return r.carryOut(ctx, cause, accept.Request{Revocation: s.ID, Tenant: s.Tenant, ApprovedBy: req.RequestedBy,
		RevocationRequested: events.RevocationRequested{Mode: p.Mode, Target: plain(p.Target), Reason: p.Reason, RequestedBy: p.By, TTLSeconds: p.TTLSeconds}})
}

// plain is t as a request names it: by kind, tenant and id where they are known.
func plain(t events.Target) events.Target {
	if t.Kind == "" {
		return events.Target{Handle: t.Handle}
	}
	return events.Target{Kind: t.Kind, Tenant: t.Tenant, ID: t.ID}
}

// proposal is what the API shows of a proposed revocation.
func proposal(p accept.Proposal) view {
	return view{Revocation: p.Revocation, State: ledger.StatusProposed, Tenant: p.Tenant, Mode: p.Mode, Target: &p.Target, Handle: p.Handle, By: p.By,
		Reason: p.Reason, ExpiresAt: &p.ExpiresAt, Descendants: p.Descendants, Missing: []string{}, Tenants: []string{}, Receipts: []receiptView{}}
}

// lapse puts the end of proposals that nobody approved in time on the log.
func (r *revoker) lapse(ctx context.Context) error {
	now := r.now()
	var errs []error
	for _, p := range r.ledger.Proposed("") {
		if now.Before(p.ExpiresAt) {
			continue
		}
		v := accept.Lapsed(p.RevocationProposed)
		err := r.ledger.Decide(ctx, p.Tenant, p.Revocation, func(s *ledger.State) ([]events.Event, error) {
			if s.Status() != ledger.StatusProposed {
				return nil, nil
			}
			cause := s.Cause()
			e, err := events.New(events.Origin{Source: source, Tenant: s.Tenant, Time: p.ExpiresAt, Cause: &cause},
				events.RevocationRefused{Revocation: s.ID, Mode: p.Mode, Target: p.Target, By: p.By, Code: v.Code, Reason: v.Reason, Confirm: v.Confirm})
			return []events.Event{e}, err
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("let proposal %s lapse: %w", p.Revocation, err))
			continue
		}
		r.log.Info("proposed revocation lapsed", zap.String("revocation", p.Revocation), zap.String("tenant", p.Tenant))
	}
	return errors.Join(errs...)
}
