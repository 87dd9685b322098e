// Package stages decides the rotation of one object: a fold of what the log says
// about it, and pure functions of that state, the configuration and the time. Only
// rotation imports it.
//
// A rotation goes scheduled, prepared, activated, retired. Issuance, which alone holds
// the keys, answers scheduled with prepared; the other stages are decided here. The
// predecessor is accepted until retired, and retired is only ever decided after
// activated, so there is no moment without an accepted key. failed ends a rotation
// with the predecessor in use.
package stages

import (
	"fmt"
	"strconv"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// SigningKey is the issuer's token signing key, the object that is rotated.
const SigningKey = "signing-key"

// Stage of a rotation.
type Stage string

// The stages. The zero Stage is that of an object that was never rotated.
const (
	Scheduled Stage = "scheduled" // the successor has been asked for
	Prepared  Stage = "prepared"  // the successor is published, not used
	Activated Stage = "activated" // the successor is used, the predecessor accepted
	Retired   Stage = "retired"   // the predecessor is no longer accepted
	Failed    Stage = "failed"    // given up; the predecessor stays in use
)

// kept is how many rotations the state remembers.
const kept = 20

// Config is the pace of rotations.
type Config struct {
	Period   time.Duration // from one activation to the next rotation
	Prepare  time.Duration // how long a successor is published before it is used
	Overlap  time.Duration // how long a predecessor is accepted after that
	Deadline time.Duration // how long issuance may take to prepare a successor
}

// Rotation is one rotation as far as it has come.
type Rotation struct {
	ID          string    `json:"rotation"`
	Stage       Stage     `json:"stage"`
	KeyID       string    `json:"key_id,omitempty"`   // the successor
	Previous    string    `json:"previous,omitempty"` // the predecessor
	PublicJWK   string    `json:"public_jwk,omitempty"`
	Reason      string    `json:"reason"`          // why it was scheduled
	Error       string    `json:"error,omitempty"` // why it failed
	ScheduledAt time.Time `json:"scheduled_at"`
	ActivatedAt time.Time `json:"activated_at,omitzero"`
	EndedAt     time.Time `json:"ended_at,omitzero"` // retired or failed
	// Correlation of every event of the rotation.
	Correlation string `json:"correlation"`
}

// State is everything the log says about the object.
type State struct {
	Count   int        `json:"count"`            // rotations scheduled so far
	Current Rotation   `json:"current"`          // the newest one; its zero Stage: there was none
	Past    []Rotation `json:"past,omitempty"`   // the ones before, newest first
	Anchor  time.Time  `json:"anchor,omitzero"`  // what the next period counts from; zero: unknown
	InUse   string     `json:"in_use,omitempty"` // kid that signs, once known
}

// Busy reports whether a rotation is under way.
func (s State) Busy() bool {
	switch s.Current.Stage {
	case Scheduled, Prepared, Activated:
		return true
	}
	return false
}

// Fold adds one event of the log. Events that do not fit the state (a stage of
// another rotation, a repeated stage) change nothing.
func Fold(s State, st bus.Stored) State {
	stage, r := read(st.Event)
	if stage == "" || r.Object != SigningKey {
		return s
	}
	at := st.Event.Time()
	if stage == Scheduled {
		if s.Busy() || r.Rotation == s.Current.ID {
			return s
		}
		if s.Current.Stage != "" {
			past := append([]Rotation{s.Current}, s.Past...)
			s.Past = past[:min(len(past), kept-1)]
		}
		s.Count++
		s.Current = Rotation{ID: r.Rotation, Stage: Scheduled, Reason: r.Reason, ScheduledAt: at,
			Correlation: events.Extension(st.Event, events.ExtCorrelation)}
		return s
	}
	if r.Rotation != s.Current.ID {
		return s
	}
	c := s.Current
	switch {
	case stage == Prepared && c.Stage == Scheduled:
		c.Stage, c.KeyID, c.Previous, c.PublicJWK = Prepared, r.KeyID, r.Previous, r.PublicJWK
	case stage == Activated && c.Stage == Prepared:
		c.Stage, c.ActivatedAt = Activated, at
		s.Anchor, s.InUse = at, c.KeyID
	case stage == Retired && c.Stage == Activated:
		c.Stage, c.EndedAt = Retired, at
	case stage == Failed && s.Busy():
		if c.Stage == Activated {
			s.InUse = c.Previous
		}
		c.Stage, c.EndedAt, c.Error = Failed, at, r.Reason
		s.Anchor = at
	}
	s.Current = c
	return s
}

// read is the stage an event states, "" when it states none.
func read(e events.Event) (Stage, events.Rotation) {
	switch e.Type() {
	case events.TypeRotationScheduled:
		p, err := events.As[events.RotationScheduled](e)
		return ifRead(Scheduled, p.Rotation, err)
	case events.TypeRotationPrepared:
		p, err := events.As[events.RotationPrepared](e)
		return ifRead(Prepared, p.Rotation, err)
	case events.TypeRotationActivated:
		p, err := events.As[events.RotationActivated](e)
		return ifRead(Activated, p.Rotation, err)
	case events.TypeRotationRetired:
		p, err := events.As[events.RotationRetired](e)
		return ifRead(Retired, p.Rotation, err)
	case events.TypeRotationFailed:
		p, err := events.As[events.RotationFailed](e)
		return ifRead(Failed, p.Rotation, err)
	}
	return "", events.Rotation{}
}

func ifRead(s Stage, r events.Rotation, err error) (Stage, events.Rotation) {
	if err != nil {
		return "", events.Rotation{}
	}
	return s, r
}

// Kinds of timers. Each ends one state.
const (
	KindStart    = "rotation.start"    // a period is over
	KindDeadline = "rotation.deadline" // a successor should be prepared
	KindActivate = "rotation.activate" // a successor has been published long enough
	KindRetire   = "rotation.retire"   // the overlap is over
)

// Timer is a durable timer. Ref is the rotation it is for, "" for KindStart of the
// first one.
type Timer struct {
	Kind string
	Ref  string
	At   time.Time
}

// Same reports whether two timers are for the same thing.
func (t Timer) Same(u Timer) bool { return t.Kind == u.Kind && t.Ref == u.Ref }

// Next is what is to be stated now, nil when nothing is due. fired is the timer that
// led here, the zero Timer when none did.
//
// Two times are known from timers only: the first rotation (the log does not say
// how old the first key is) and activation (the log says that a successor was
// prepared, not since when everybody can have seen it). They need a fired timer.
// Everything else is decided from the log, so that a lost timer delays nothing for
// good.
func Next(s State, c Config, now time.Time, fired Timer) events.Payload {
	cur := s.Current
	due := fired.Same(wake(s)) && !now.Before(fired.At)
	switch cur.Stage {
	case "", Retired, Failed:
		if due || !s.Anchor.IsZero() && !now.Before(s.Anchor.Add(c.Period)) {
			return Start(s, now, fmt.Sprintf("the signing key is due after %s", c.Period))
		}
	case Scheduled:
		if limit := cur.ScheduledAt.Add(c.Deadline); !now.Before(limit) {
			r := stage(cur, limit)
			r.Reason = fmt.Sprintf("no successor was prepared within %s; the present key stays in use", c.Deadline)
			return events.RotationFailed{Rotation: r}
		}
	case Prepared:
		if due {
			return events.RotationActivated{Rotation: stage(cur, fired.At)}
		}
	case Activated:
		if over := cur.ActivatedAt.Add(c.Overlap); !now.Before(over) {
			return events.RotationRetired{Rotation: stage(cur, over)}
		}
	}
	return nil
}

// Start schedules a rotation now, nil while one is under way.
func Start(s State, now time.Time, reason string) events.Payload {
	if s.Busy() {
		return nil
	}
	id := events.DeterministicID("rotation", SigningKey, strconv.Itoa(s.Count+1))
	return events.RotationScheduled{Rotation: events.Rotation{Rotation: id, Object: SigningKey, At: now, Reason: reason}}
}

func stage(r Rotation, at time.Time) events.Rotation {
	return events.Rotation{Rotation: r.ID, Object: SigningKey, KeyID: r.KeyID, Previous: r.Previous, At: at, Reason: r.Reason, PublicJWK: r.PublicJWK}
}

// wake is the timer that ends the state, without its time.
func wake(s State) Timer {
	switch s.Current.Stage {
	case Scheduled:
		return Timer{Kind: KindDeadline, Ref: s.Current.ID}
	case Prepared:
		return Timer{Kind: KindActivate, Ref: s.Current.ID}
	case Activated:
		return Timer{Kind: KindRetire, Ref: s.Current.ID}
	}
	return Timer{Kind: KindStart, Ref: s.Current.ID}
}

// Early reports whether the timer that ends the state fired before its time and must
// be set again: nothing else may know its time.
func Early(s State, fired Timer, now time.Time) bool {
	return fired.Same(wake(s)) && now.Before(fired.At)
}

// Wake is the timer that must be set in this state, given the one that is set
// (the zero Timer when none is). Where the time is known from the timer only, the
// one that is set stays.
func Wake(s State, c Config, now time.Time, set Timer) Timer {
	t := wake(s)
	switch {
	case t.Kind == KindDeadline:
		t.At = s.Current.ScheduledAt.Add(c.Deadline)
	case t.Kind == KindRetire:
		t.At = s.Current.ActivatedAt.Add(c.Overlap)
	case t.Kind == KindStart && !s.Anchor.IsZero():
		t.At = s.Anchor.Add(c.Period)
	case t.Same(set):
		return set
	case t.Kind == KindActivate:
		t.At = now.Add(c.Prepare)
	default:
		t.At = now.Add(c.Period)
	}
	return t
}
