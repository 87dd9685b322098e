package ledger

import (
	"maps"
	"slices"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/accept"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/closure"
)

// Status of a revocation, for people.
type Status string

// The statuses.
const (
	StatusProposed Status = "proposed" // waits for a second person's approval
	StatusPending  Status = "pending"  // asked for, nothing on the log yet
	StatusAccepted Status = "accepted" // durable; not every guard has answered
	StatusClosed   Status = "closed"   // no guard honours the handle any more
	StatusLifted   Status = "lifted"   // a freeze that ended
	StatusRefused  Status = "refused"
)

// State is everything the log says about one revocation.
type State struct {
	ID       string
	Tenant   string // in whose log it stands
	Request  string // id of the request
	Trace    string // correlation id
	Accepted *events.RevocationAccepted
	Proposed *events.RevocationProposed
	Refused  *events.RevocationRefused
	Closed   *events.RevocationClosed
	Lifted   *events.RevocationLifted
	LiftedBy string // id of the request that lifted it; "" when its time ran out
	Answers  map[string]closure.Answer
	Sequence uint64                    // of the last event folded in
	closing  map[string]closure.Answer // the answers at closure, when others came later
	cause    events.Event
}

// Status is where it stands.
func (s *State) Status() Status {
	switch {
	case s.Lifted != nil:
		return StatusLifted
	case s.Closed != nil:
		return StatusClosed
	case s.Accepted != nil:
		return StatusAccepted
	case s.Refused != nil:
		return StatusRefused
	case s.Proposed != nil:
		return StatusProposed
	}
	return StatusPending
}

// Open reports whether guards are still waited for.
func (s *State) Open() bool { return s.Accepted != nil && s.Closed == nil }

// Missing is every expected guard that may still honour the handle at now.
func (s *State) Missing(now time.Time) []events.ExpectedGuard {
	if s.Accepted == nil {
		return nil
	}
	return closure.Missing(s.Accepted.Guards, s.Answers, now)
}

// AtClosure is the answers that the revocation was closed with. It must not be
// changed.
func (s *State) AtClosure() map[string]closure.Answer {
	if s.closing != nil {
		return s.closing
	}
	return s.Answers
}

// Cause is the event that the revocation's further events name as their cause.
func (s *State) Cause() events.Event { return s.cause }

// Clone is a copy that does not change.
func (s *State) Clone() *State {
	c := *s
	c.Answers = make(map[string]closure.Answer, len(s.Answers))
	for k, v := range s.Answers {
		c.Answers[k] = v
	}
	return &c
}

// Apply folds one event in. Events that are already in are skipped.
func (s *State) Apply(st bus.Stored) error {
	if st.Sequence <= s.Sequence {
		return nil
	}
	if err := s.apply(st.Event); err != nil {
		return err
	}
	s.Sequence = st.Sequence
	return nil
}

func (s *State) apply(e events.Event) error {
	switch e.Type() {
	case events.TypeRevocationAccepted:
		p, err := events.As[events.RevocationAccepted](e)
		if err != nil {
			return err
		}
		if s.Accepted != nil { // a further page of the expected guards
			p.Guards = slices.Concat(s.Accepted.Guards, p.Guards)
			s.Accepted = &p
			return nil
		}
		s.Accepted, s.cause = &p, e
		s.Request, s.Trace = events.Extension(e, events.ExtCausation), events.Extension(e, events.ExtCorrelation)
	case events.TypeRevocationProposed:
		p, err := events.As[events.RevocationProposed](e)
		if err != nil {
			return err
		}
		s.Proposed, s.cause, s.Request = &p, e, events.Extension(e, events.ExtCausation)
	case events.TypeRevocationRefused:
		p, err := events.As[events.RevocationRefused](e)
		if err != nil {
			return err
		}
		s.Refused, s.Request = &p, events.Extension(e, events.ExtCausation)
	case events.TypeRevocationEnforced:
		p, err := events.As[events.RevocationEnforced](e)
		if err != nil {
			return err
		}
		s.answer(closure.Answer{RevocationEnforced: p, Until: closure.Until(p)})
	case events.TypeRevocationClosed:
		p, err := events.As[events.RevocationClosed](e)
		if err != nil {
			return err
		}
		s.Closed = &p
	case events.TypeRevocationLifted:
		p, err := events.As[events.RevocationLifted](e)
		if err != nil {
			return err
		}
		s.Lifted, s.LiftedBy = &p, ""
		if c := events.Extension(e, events.ExtCausation); s.cause.Context == nil || c != s.cause.ID() {
			s.LiftedBy = c
		}
	}
	return nil
}

func (s *State) answer(a closure.Answer) {
	if s.Answers == nil {
		s.Answers = map[string]closure.Answer{}
	}
	if old, ok := s.Answers[a.Point]; ok && !Supersedes(old, a) {
		return
	}
	if s.Closed != nil && s.closing == nil {
		s.closing = maps.Clone(s.Answers)
	}
	s.Answers[a.Point] = a
}

// Supersedes reports whether a says more than old: the first proof that a point
// stopped counts, and nothing takes it back.
func Supersedes(old, a closure.Answer) bool { return rank(a.Outcome) > rank(old.Outcome) }

func rank(o events.ReceiptOutcome) int {
	switch o {
	case events.ReceiptEnforced, events.ReceiptAlreadyDead:
		return 4
	case events.ReceiptLeaseExpired:
		return 3
	case events.ReceiptUnsupportedUntil:
		return 2
	}
	return 1
}

// holder is the revocation as the holder of its handle at now, nil when it no
// longer holds it.
func (s *State) holder(now time.Time) *accept.Holder {
	switch {
	case s.Accepted == nil || s.Lifted != nil:
		return nil
	case s.Accepted.Mode == events.ModeFreeze && s.Accepted.Until != nil && !now.Before(*s.Accepted.Until):
		return nil
	}
	return &accept.Holder{Revocation: s.ID, Mode: s.Accepted.Mode, Until: s.Accepted.Until}
}

// Summary is a revocation without its receipts.
type Summary struct {
	ID       string
	Tenant   string
	Status   Status
	Accepted events.RevocationAccepted // without Guards
	Expected int
	Closed   *events.RevocationClosed
	Lifted   *events.RevocationLifted
}

func (s *State) summary() Summary {
	a := *s.Accepted
	a.Guards = nil
	return Summary{ID: s.ID, Tenant: s.Tenant, Status: s.Status(), Accepted: a, Expected: len(s.Accepted.Guards), Closed: s.Closed, Lifted: s.Lifted}
}
