// Package signing carries out the rotation of the token signing key, one stage per
// event of the rotation service. Only issuance imports it: it alone holds the key.
package signing

import (
	"context"
	"errors"
	"fmt"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/keys"
)

// Object is what rotations of the signing key are about.
const Object = "signing-key"

// Ring is what the stages need of keys.Ring. Each step is idempotent.
type Ring interface {
	Signer() (token.Signer, error)
	Prepare(rotation string) (token.Key, error)
	Activate(kid string) error
	Retire(kid string) error
}

// Stages handles the stages of a rotation.
type Stages struct {
	Ring   Ring
	Source string
}

// Handlers is the part of issuance's handler table about its own key.
func (s *Stages) Handlers() []bus.Handler {
	return []bus.Handler{
		bus.On(s.scheduled, events.TypeRotationPrepared, events.TypeRotationFailed),
		bus.On(s.activated, events.TypeRotationFailed),
		bus.On(s.retired, events.TypeRotationFailed),
	}
}

// scheduled makes the successor and publishes it in the JWK Set before it is used.
func (s *Stages) scheduled(_ context.Context, cause events.Event, p events.RotationScheduled) ([]events.Event, error) {
	if p.Object != Object {
		return nil, nil
	}
	old, err := s.Ring.Signer()
	if err != nil {
		return nil, fmt.Errorf("find signing key: %w", err)
	}
	k, err := s.Ring.Prepare(p.Rotation.Rotation)
	if err != nil {
		return s.failed(cause, p.Rotation, fmt.Errorf("prepare successor: %w", err))
	}
	jwk, err := k.JWK()
	if err != nil {
		return s.failed(cause, p.Rotation, err)
	}
	next := p.Rotation
	next.KeyID, next.PublicJWK = k.ID, string(jwk)
	if old.ID != k.ID { // a repetition after activation keeps what was said before
		next.Previous = old.ID
	}
	return s.state(cause, events.RotationPrepared{Rotation: next})
}

// activated makes the successor the signer. Both keys verify from here.
func (s *Stages) activated(_ context.Context, cause events.Event, p events.RotationActivated) ([]events.Event, error) {
	if p.Object != Object {
		return nil, nil
	}
	if err := s.Ring.Activate(p.KeyID); err != nil {
		return s.failed(cause, p.Rotation, fmt.Errorf("activate %s: %w", p.KeyID, err))
	}
	return nil, nil
}

// retired deletes the predecessor: what it signed is no longer accepted.
func (s *Stages) retired(_ context.Context, cause events.Event, p events.RotationRetired) ([]events.Event, error) {
	if p.Object != Object || p.Previous == "" {
		return nil, nil
	}
	if err := s.Ring.Retire(p.Previous); err != nil {
		return s.failed(cause, p.Rotation, fmt.Errorf("retire %s: %w", p.Previous, err))
	}
	return nil, nil
}

// failed states that a stage is impossible; what may work later is tried again.
func (s *Stages) failed(cause events.Event, r events.Rotation, err error) ([]events.Event, error) {
	if !errors.Is(err, keys.ErrState) && !errors.Is(err, keys.ErrNoKey) && !errors.Is(err, keys.ErrDamaged) {
		return nil, err
	}
	r.Reason = err.Error()
	return s.state(cause, events.RotationFailed{Rotation: r})
}

func (s *Stages) state(cause events.Event, p events.Payload) ([]events.Event, error) {
	e, err := events.New(events.Origin{Source: s.Source, Tenant: events.Tenant(cause), Time: cause.Time(), Cause: &cause}, p)
	if err != nil {
		return nil, err
	}
	return []events.Event{e}, nil
}
