package revocation

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/closure"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/ledger"
)

// closeDue does once a second what no message announces: leases and freezes that
// end, receipts that a crash left on the way, revocations that are overdue.
func (r *revoker) closeDue(ctx context.Context) error {
	if err := r.ready(ctx); err != nil {
		return err
	}
	errs := []error{r.lapse(ctx)}
	for _, id := range r.ledger.Unfinished(r.now()) {
		if err := r.due(ctx, id); err != nil {
			errs = append(errs, fmt.Errorf("close revocation %s: %w", id, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

func (r *revoker) due(ctx context.Context, id string) error {
	if _, done := r.recovered.LoadOrStore(id, true); !done {
		if err := r.recover(ctx, id); err != nil {
			r.recovered.Delete(id)
			return err
		}
	}
	now := r.now()
	var open, expired, ended, overdue bool
	err := r.ledger.Inspect(ctx, id, func(s *ledger.State) {
		if s.Accepted == nil {
			return
		}
		open = s.Open()
		expired = open && len(closure.Expired(s.Accepted.Guards, s.Answers, now)) > 0
		ended = s.Accepted.Until != nil && s.Lifted == nil && !now.Before(*s.Accepted.Until)
		overdue = open && now.Sub(s.Accepted.AcceptedAt) > r.objective
	})
	if err != nil {
		return err
	}
	if expired {
		if err := r.expire(ctx, id, now); err != nil {
			return err
		}
	}
	if ended {
		if err := r.thaw(ctx, id); err != nil {
			return err
		}
	}
	if !open {
		r.recovered.Delete(id)
		return nil
	}
	err = r.tryClose(ctx, id)
	waiting := errors.Is(err, errCleanup)
	if overdue {
		why := err
		if waiting {
			err = nil // it is told, and no failure of ours
		}
		return errors.Join(err, r.overdue(ctx, id, why))
	}
	if waiting {
		return nil
	}
	return err
}

// expire states that leases have run out, after a last look for receipts.
func (r *revoker) expire(ctx context.Context, id string, now time.Time) error {
	if err := r.recover(ctx, id); err != nil {
		return err
	}
	tenant, err := r.tenant(ctx, id)
	if err != nil {
		return err
	}
	return r.ledger.Decide(ctx, tenant, id, func(s *ledger.State) ([]events.Event, error) {
		var es []events.Event
		for _, g := range closure.Expired(s.Accepted.Guards, s.Answers, now) {
			if len(es) == receiptGroup {
				break // the rest a second later
			}
			e, err := enforcedEvent(s, events.RevocationEnforced{Revocation: id, Point: g.Point, Outcome: events.ReceiptLeaseExpired,
				AppliedAt: g.LeaseEnd.UTC(), LatencyMS: float64(g.LeaseEnd.Sub(s.Accepted.AcceptedAt)) / 1e6})
			if err != nil {
				return nil, err
			}
			es = append(es, e)
		}
		return es, nil
	})
}

// thaw puts the end of a freeze whose time has run out on the log; guards have let
// go of it by themselves.
func (r *revoker) thaw(ctx context.Context, id string) error {
	s, err := r.ledger.Get(ctx, id)
	if err != nil {
		return err
	}
	cause := s.Cause()
	return r.ended(ctx, s.Tenant, id, events.Origin{Source: source, Tenant: s.Tenant, Time: *s.Accepted.Until, Cause: &cause},
		events.RevocationLifted{Revocation: id, Handle: s.Accepted.Handle, Reason: "the freeze's time has run out", By: "lanyard", LiftedAt: s.Accepted.Until.UTC()})
}

// census is who died.
type census struct {
	descendants int64
	tenants     []string
	secrets     map[string]closure.Answer // proof that each managed secret ended
}

// census counts the credentials that were alive at accept or were minted since. It
// is taken when every guard has answered: the issuers are guards too and mint no
// more of them.
func (r *revoker) census(ctx context.Context, id string) (*census, error) {
	var a *events.RevocationAccepted
	if err := r.ledger.Inspect(ctx, id, func(s *ledger.State) { a = s.Accepted }); err != nil {
		return nil, err
	}
	if a == nil {
		return nil, fmt.Errorf("count descendants of %s: %w", id, ledger.ErrUnknown)
	}
	count, err := r.count(ctx, a.Handle, a.AcceptedAt, graphWait)
	if err != nil {
		return nil, err
	}
	c := &census{}
	c.descendants, c.tenants = countSum(count)
	if r.cleanup != nil && a.Mode == events.ModeRevoke {
		if c.secrets, err = r.cleanup.toll(ctx, *a); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// tryClose closes the revocation when no expected guard may honour the handle any
// more.
func (r *revoker) tryClose(ctx context.Context, id string) error {
	now := r.now()
	var tenant string
	err := r.ledger.Inspect(ctx, id, func(s *ledger.State) {
		if s.Open() && len(s.Missing(now)) == 0 {
			tenant = s.Tenant
		}
	})
	if err != nil || tenant == "" {
		return err
	}
	toll, err := r.census(ctx, id)
	if err != nil {
		return err
	}
	return r.ledger.Decide(ctx, tenant, id, func(s *ledger.State) ([]events.Event, error) {
		return r.closing(s, s.Answers, *toll, now)
	})
}

// closing is the event that closes s with these answers; none when guards are
// missing or it is closed.
func (r *revoker) closing(s *ledger.State, answers map[string]closure.Answer, toll census, now time.Time) ([]events.Event, error) {
	if !s.Open() || len(closure.Missing(s.Accepted.Guards, answers, now)) > 0 {
		return nil, nil
	}
	if len(toll.secrets) > 0 {
		answers = maps.Clone(answers)
		if answers == nil {
			answers = map[string]closure.Answer{}
		}
		maps.Copy(answers, toll.secrets)
		for _, a := range toll.secrets {
			now = latest(now, a.AppliedAt)
		}
	}
	root, err := closure.Root(answers)
	if err != nil {
		return nil, err
	}
	cause := s.Cause()
	p := events.RevocationClosed{Revocation: s.ID, Handle: s.Accepted.Handle, ClosedAt: now.UTC(), Expected: len(s.Accepted.Guards) + len(toll.secrets),
		Outcomes: closure.Outcomes(answers), Descendants: toll.descendants, Tenants: toll.tenants, MerkleRoot: root, LastMS: closure.LastMS(answers)}
	p.Statement = r.statement(s, p, answers)
	e, err := events.New(events.Origin{Source: source, Tenant: s.Tenant, Time: now, Cause: &cause}, p)
	if err != nil {
		return nil, err
	}
	return []events.Event{e}, nil
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// overdue tells the SOC, once, that a revocation is open for longer than it should.
func (r *revoker) overdue(ctx context.Context, id string, why error) error {
	if _, told := r.alerted.LoadOrStore(id, true); told {
		return nil
	}
	s, err := r.ledger.Get(ctx, id)
	if err != nil {
		return err
	}
	missing := s.Missing(r.now())
	text := fmt.Sprintf("Revocation %s is open for more than %s: %d of %d guards have not answered.", id, r.objective, len(missing), len(s.Accepted.Guards))
	if len(missing) == 0 && why != nil {
		text = fmt.Sprintf("Revocation %s is enforced everywhere and cannot be closed for more than %s: %v.", id, r.objective, why)
	}
	cause := s.Cause()
	err = r.alert(ctx, alert{tenant: s.Tenant, id: "overdue:" + id, name: "revocation_overdue", severity: events.SeverityHigh,
		identity: s.Accepted.Handle, explanation: text, evidence: []string{cause.ID()}, seen: s.Accepted.AcceptedAt, cause: &cause})
	if err != nil {
		r.alerted.Delete(id)
	}
	return err
}
