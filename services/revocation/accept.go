package revocation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/accept"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/ledger"
	"go.uber.org/zap"
)

// guardsPerEvent is how many expected guards one revocation.accepted names, so that
// it stays below events.MaxSize. More guards go into further pages of it, stored in
// the same batch, alike but for their guards.
const guardsPerEvent = 150

// errMismatch: a request id was used before for something else.
var errMismatch = errors.New("this request id was used before for another request")

// errBadRequest: the request makes no sense, whatever is known.
var errBadRequest = errors.New("invalid request")

// ID is the id of the revocation that a request decides. It holds the tenant,
// since requests' ids are chosen by their senders.
func ID(tenant, request string) string {
	return events.DeterministicID("revocation", tenant, request)
}

// result is what became of a request.
type result struct {
	ID      string // of the revocation; of the existing one when already revoked; of the freeze when lifted
	Status  ledger.Status
	Code    string // of a refusal, or already_revoked
	Reason  string
	Pending bool // the server did not answer: it will be carried out, and is not known to be yet
}

// requested handles revocation.requested. HTTP requests have usually been accepted
// before this sees them.
func (r *revoker) requested(ctx context.Context, cause events.Event, p events.RevocationRequested) ([]events.Event, error) {
	tenant := events.Tenant(cause)
	res, err := r.accept(ctx, cause, accept.Request{Revocation: ID(tenant, cause.ID()), Tenant: tenant, RevocationRequested: p})
	switch {
	case errors.Is(err, errBadRequest), errors.Is(err, errMismatch):
		return nil, bus.Permanent(err)
	case err != nil:
		return nil, err
	case res.Pending:
		return nil, fmt.Errorf("accept revocation %s: %w", res.ID, bus.ErrUnknownOutcome)
	}
	return nil, nil
}

// accept carries out one request or refuses it, and says what became of it. It may
// be called again with the same request at any time, also after a crash between
// any two of its steps, and completes what is missing. cause is the request's event,
// which is durable.
func (r *revoker) accept(ctx context.Context, cause events.Event, req accept.Request) (result, error) {
	if err := check(req); err != nil {
		return result{}, err
	}
	if err := r.ready(ctx); err != nil {
		return result{}, err
	}
	defer r.flights.lock(req.Revocation)()
	if res, done, err := r.before(ctx, cause, req); done || err != nil {
		return res, err
	}
	if req.Approves != "" {
		return r.approve(ctx, cause, req)
	}
	return r.carryOut(ctx, cause, req)
}

// carryOut is accept for a request that was not decided before and that this process
// works on alone.
func (r *revoker) carryOut(ctx context.Context, cause events.Event, req accept.Request) (result, error) {
	thing, known, err := r.resolve(ctx, req.Tenant, req.Target)
	if err != nil {
		return result{}, err
	}
	facts := accept.Facts{Thing: thing, Known: known, Tenants: []string{}}
	if req.Automatic || !accept.Leaf(thing.Kind) {
		defer r.capped.lock(req.Tenant)()
	}
	for range 100 {
		res, err := r.try(ctx, cause, req, facts)
		if !errors.Is(err, bus.ErrConflict) {
			return res, err
		}
	}
	return result{}, fmt.Errorf("accept revocation %s: the handle's kill entry keeps changing: %w", req.Revocation, bus.ErrConflict)
}

func check(req accept.Request) error {
	switch req.Mode {
	case events.ModeRevoke, events.ModeFreeze, events.ModeLift:
	default:
		return fmt.Errorf("%w: mode is %q, want revoke, freeze or lift", errBadRequest, req.Mode)
	}
	switch {
	case req.Reason == "" || len(req.Reason) > 1024:
		return fmt.Errorf("%w: reason is required, at most 1024 bytes", errBadRequest)
	case req.RequestedBy == "" || len(req.RequestedBy) > 256:
		return fmt.Errorf("%w: requested_by is required, at most 256 bytes", errBadRequest)
	case req.Approval && (req.Approves != "" || req.Automatic || req.Mode == events.ModeLift):
		return fmt.Errorf("%w: approval is for what people revoke or freeze", errBadRequest)
	case len(req.Approves) > 128:
		return fmt.Errorf("%w: approves is longer than 128 bytes", errBadRequest)
	case req.TTLSeconds < 0 || req.TTLSeconds > 30*24*3600:
		return fmt.Errorf("%w: ttl_seconds is %d, want 0 to 2592000 (30 days)", errBadRequest, req.TTLSeconds)
	}
	return nil
}

// before finds what an earlier delivery of the same request has decided.
func (r *revoker) before(ctx context.Context, cause events.Event, req accept.Request) (res result, done bool, err error) {
	if req.Mode == events.ModeLift {
		if id := r.ledger.LiftedBy(cause.ID()); id != "" {
			s, err := r.ledger.Get(ctx, id)
			if err != nil {
				return res, false, err
			}
			if s.Tenant == req.Tenant || req.Tenant == accept.SystemTenant {
				return result{ID: id, Status: ledger.StatusLifted}, true, nil
			}
		}
	}
	s := r.ledger.Peek(req.Revocation)
	if s == nil {
		last, err := r.bus.LastSequence(ctx, bus.StreamLog, events.EntityFilter(req.Tenant, req.Revocation))
		if err != nil {
			return res, false, fmt.Errorf("look for revocation %s: %w", req.Revocation, err)
		}
		if last == 0 {
			return res, false, nil
		}
		if s, err = r.ledger.Get(ctx, req.Revocation); err != nil {
			return res, false, err
		}
	}
	res, err = outcome(s, req)
	return res, err == nil, err
}

// outcome is what the log says became of req.
func outcome(s *ledger.State, req accept.Request) (result, error) {
	switch {
	case s.Accepted != nil && s.Accepted.Mode != req.Mode, s.Refused != nil && s.Accepted == nil && s.Refused.Mode != req.Mode:
		return result{}, fmt.Errorf("revocation %s: %w", s.ID, errMismatch)
	case s.Accepted != nil:
		return result{ID: s.ID, Status: s.Status()}, nil
	case s.Refused != nil:
		return refused(s.ID, *s.Refused), nil
	case s.Proposed != nil && s.Proposed.Mode != req.Mode:
		return result{}, fmt.Errorf("revocation %s: %w", s.ID, errMismatch)
	case s.Proposed != nil:
		return result{ID: s.ID, Status: ledger.StatusProposed}, nil
	}
	return result{}, fmt.Errorf("revocation %s: the log holds no decision", s.ID)
}

// refused is what a refusal answers, the first time and every time it is asked again.
func refused(id string, p events.RevocationRefused) result {
	return result{ID: cmp.Or(p.Existing, id), Status: ledger.StatusRefused, Code: p.Code, Reason: p.Reason}
}

// existing is the revocation that v finds holding the handle already.
func existing(v accept.Verdict) string {
	if v.Code != accept.CodeAlreadyRevoked {
		return ""
	}
	return v.Existing
}

// facts fills in what may change between two tries.
func (r *revoker) facts(ctx context.Context, req accept.Request, f accept.Facts, now time.Time) (accept.Facts, standing, error) {
	st, err := r.standingOf(ctx, f.Thing.Handle, now)
	if err != nil {
		return f, st, err
	}
	f.Holder, f.Ending = st.holder, st.ending
	patience := narrowWait
	if accept.Broad(f.Thing.Kind) {
		patience = graphWait
	}
	if count, err := r.count(ctx, f.Thing.Handle.String(), now, patience); err == nil {
		f.Live, f.Tenants = countSum(count)
		f.LiveKnown = true
	} else {
		r.log.Warn("descendants cannot be counted", zap.String("revocation", req.Revocation), zap.Error(err))
	}
	f.Broad, f.All = r.ledger.Used(req.Tenant, req.RequestedBy, now)
	f.TenantBroad, f.TenantAll = r.ledger.Used(req.Tenant, "", now)
	f.Unsafe = r.unsafe(ctx)
	return f, st, nil
}

// try decides once and acts on it. bus.ErrConflict: the handle's kill entry changed
// meanwhile.
func (r *revoker) try(ctx context.Context, cause events.Event, req accept.Request, f accept.Facts) (result, error) {
	now := r.now()
	f, st, err := r.facts(ctx, req, f, now)
	if err != nil {
		return result{}, err
	}
	v := accept.Decide(req, f, r.limits, now)
	switch {
	case v.Code == accept.CodeApproval:
		return r.propose(ctx, cause, req, f, now)
	case v.Code != "":
		return r.refuse(ctx, cause, req, f.Thing, v)
	case req.Mode == events.ModeLift:
		return r.lift(ctx, cause, req, f.Thing, v.Existing, st)
	}
	e := guard.Entry{Handle: f.Thing.Handle, Mode: req.Mode, Revocation: req.Revocation, Reason: req.Reason, By: req.RequestedBy,
		At: now.UTC(), Until: v.Until, Keep: now.Add(r.keep).UTC(), Epoch: r.epoch}
	if v.Until != nil {
		e.Keep = v.Until.Add(r.keep).UTC()
	}
	seq := st.sequence
	if st.entry != nil && st.entry.Revocation == req.Revocation {
		e = *st.entry // a crash came between the kill entry and the log
		if err := r.again(ctx, req.Tenant, e); err != nil {
			return result{}, err
		}
	} else {
		seq, err = r.kill(ctx, req.Tenant, e, "kill:"+req.Revocation, st.sequence)
		if errors.Is(err, bus.ErrUnknownOutcome) {
			return result{ID: req.Revocation, Status: ledger.StatusPending, Pending: true}, nil
		}
		if err != nil {
			return result{}, err
		}
	}
	return r.record(ctx, cause, req, f, e, seq)
}

// record puts the acceptance on the log. The kill entry is durable: whatever fails
// here is completed by the next delivery of the request.
func (r *revoker) record(ctx context.Context, cause events.Event, req accept.Request, f accept.Facts, e guard.Entry, seq uint64) (result, error) {
	r.stored(req.Tenant, e, seq)
	p := events.RevocationAccepted{Revocation: req.Revocation, Mode: e.Mode, Target: f.Thing.Target(), Handle: e.Handle.String(),
		Reason: req.Reason, By: req.RequestedBy, AcceptedAt: e.At, Until: e.Until, Epoch: e.Epoch, Sequence: seq,
		Guards: []events.ExpectedGuard{}, Descendants: f.Live, Tenants: f.Tenants, ApprovedBy: req.ApprovedBy}
	r.settleTable(ctx)
	es, err := pages(cause, req.Tenant, p, r.table.Expected(r.now()))
	if err != nil {
		return result{}, bus.Permanent(err)
	}
	err = r.ledger.Decide(ctx, req.Tenant, req.Revocation, func(s *ledger.State) ([]events.Event, error) {
		if s.Accepted != nil {
			return nil, nil
		}
		return es, nil
	})
	if errors.Is(err, bus.ErrUnknownOutcome) {
		return result{ID: req.Revocation, Status: ledger.StatusPending, Pending: true}, nil
	}
	if err != nil {
		return result{}, err
	}
	r.log.Info("revocation accepted", zap.String("revocation", p.Revocation), zap.String("mode", string(p.Mode)),
		zap.String("tenant", req.Tenant), zap.String("kind", p.Target.Kind), zap.String("id", p.Target.ID), zap.String("handle", p.Handle),
		zap.String("by", p.By), zap.Int64("descendants", p.Descendants), zap.Uint64("sequence", seq))
	return result{ID: req.Revocation, Status: ledger.StatusAccepted}, nil
}

// settleTable waits a moment until the table of guards is as new as the acceptance:
// a guard that was there before must be waited for.
func (r *revoker) settleTable(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, graphWait)
	defer cancel()
	if err := r.table.Settle(ctx, r.bus); err != nil {
		r.log.Warn("guards' presence is not up to date; a guard that came just now may not be waited for", zap.Error(err))
	}
}

// pages makes the events that state p, with the expected guards spread over them.
func pages(cause events.Event, tenant string, p events.RevocationAccepted, guards []events.ExpectedGuard) ([]events.Event, error) {
	var es []events.Event
	for n, page := range append(slices.Collect(slices.Chunk(guards, guardsPerEvent)), nil) {
		if n > 0 && len(page) == 0 {
			break
		}
		if p.Guards = page; page == nil {
			p.Guards = []events.ExpectedGuard{}
		}
		o := events.Origin{Source: source, Tenant: tenant, Time: p.AcceptedAt, Cause: &cause}
		if n > 0 {
			o.Discriminator = fmt.Sprintf("guards %d", n)
		}
		e, err := events.New(o, p)
		if err != nil {
			return nil, err
		}
		es = append(es, e)
	}
	return es, nil
}

// refuse puts a refusal on the log, unless something was decided before.
func (r *revoker) refuse(ctx context.Context, cause events.Event, req accept.Request, t accept.Thing, v accept.Verdict) (result, error) {
	target := req.Target
	if target.Handle == "" && t.Handle != (lineage.Handle{}) {
		target.Handle = t.Handle.String()
	}
	p := events.RevocationRefused{Revocation: req.Revocation, Mode: req.Mode, Target: target, By: req.RequestedBy,
		Code: v.Code, Reason: v.Reason, Existing: existing(v), Confirm: v.Confirm}
	e, err := events.New(events.Origin{Source: source, Tenant: req.Tenant, Time: r.now(), Cause: &cause}, p)
	if err != nil {
		return result{}, bus.Permanent(err)
	}
	var found *ledger.State
	err = r.ledger.Decide(ctx, req.Tenant, req.Revocation, func(s *ledger.State) ([]events.Event, error) {
		if s.Sequence > 0 && (req.ApprovedBy == "" || s.Status() != ledger.StatusProposed) {
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
	r.log.Info("revocation refused", zap.String("revocation", req.Revocation), zap.String("tenant", req.Tenant),
		zap.String("by", req.RequestedBy), zap.String("code", v.Code))
	return refused(req.Revocation, p), nil
}

// lift ends the freeze id.
func (r *revoker) lift(ctx context.Context, cause events.Event, req accept.Request, t accept.Thing, id string, st standing) (result, error) {
	freeze, err := r.ledger.Get(ctx, id)
	if err != nil {
		return result{}, fmt.Errorf("lift freeze that is not on the log yet: %w", err)
	}
	now := r.now()
	if st.holder != nil {
		e := guard.Entry{Handle: t.Handle, Mode: events.ModeLift, Revocation: id, Reason: req.Reason, By: req.RequestedBy,
			At: now.UTC(), Keep: now.Add(r.keep).UTC(), Epoch: r.epoch}
		seq, err := r.kill(ctx, freeze.Tenant, e, "lift:"+req.Revocation, st.sequence)
		if errors.Is(err, bus.ErrUnknownOutcome) {
			return result{ID: id, Status: ledger.StatusPending, Pending: true}, nil
		}
		if err != nil {
			return result{}, err
		}
		r.stored(freeze.Tenant, e, seq)
	}
	err = r.ended(ctx, freeze.Tenant, id, events.Origin{Source: source, Tenant: freeze.Tenant, Time: now, Cause: &cause},
		events.RevocationLifted{Revocation: id, Handle: t.Handle.String(), Reason: req.Reason, By: req.RequestedBy, LiftedAt: now.UTC()})
	if err != nil {
		return result{}, err
	}
	r.log.Info("freeze lifted", zap.String("revocation", id), zap.String("tenant", freeze.Tenant), zap.String("by", req.RequestedBy))
	return result{ID: id, Status: ledger.StatusLifted}, nil
}

// ended puts the end of a freeze on the log, once.
func (r *revoker) ended(ctx context.Context, tenant, id string, o events.Origin, p events.RevocationLifted) error {
	e, err := events.New(o, p)
	if err != nil {
		return bus.Permanent(err)
	}
	return r.ledger.Decide(ctx, tenant, id, func(s *ledger.State) ([]events.Event, error) {
		if s.Lifted != nil {
			return nil, nil
		}
		return []events.Event{e}, nil
	})
}
