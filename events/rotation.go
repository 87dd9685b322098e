package events

import "time"

// Rotation is what the five stages of a rotation have in common.
type Rotation struct {
	Rotation string    `json:"rotation"`           // id of this rotation
	Object   string    `json:"object"`             // what is rotated, such as "signing-key"
	KeyID    string    `json:"key_id,omitempty"`   // the successor
	Previous string    `json:"previous,omitempty"` // the predecessor
	At       time.Time `json:"at"`                 // when this stage is or was due
	Reason   string    `json:"reason"`
	// PublicJWK of the successor (RFC 7517), once prepared.
	PublicJWK string `json:"public_jwk,omitempty"`
}

// RotationScheduled states that a rotation is due at At.
type RotationScheduled struct{ Rotation }

// EventType implements Payload.
func (RotationScheduled) EventType() string { return TypeRotationScheduled }

// Entity implements Payload.
func (p RotationScheduled) Entity() string { return p.Object }

// RotationPrepared states that the successor exists and is published, but not used yet.
type RotationPrepared struct{ Rotation }

// EventType implements Payload.
func (RotationPrepared) EventType() string { return TypeRotationPrepared }

// Entity implements Payload.
func (p RotationPrepared) Entity() string { return p.Object }

// RotationActivated states that the successor is in use; both are accepted.
type RotationActivated struct{ Rotation }

// EventType implements Payload.
func (RotationActivated) EventType() string { return TypeRotationActivated }

// Entity implements Payload.
func (p RotationActivated) Entity() string { return p.Object }

// RotationRetired states that the predecessor is no longer accepted.
type RotationRetired struct{ Rotation }

// EventType implements Payload.
func (RotationRetired) EventType() string { return TypeRotationRetired }

// Entity implements Payload.
func (p RotationRetired) Entity() string { return p.Object }

// RotationFailed states that a stage could not be done and what stays in use.
type RotationFailed struct{ Rotation }

// EventType implements Payload.
func (RotationFailed) EventType() string { return TypeRotationFailed }

// Entity implements Payload.
func (p RotationFailed) Entity() string { return p.Object }

// TimerDue states that a durable timer fired. Rotation sets and consumes it.
type TimerDue struct {
	Timer string    `json:"timer"` // id
	Kind  string    `json:"kind"`  // what is due: "credential.expiry", "rotation.activate", ...
	Ref   string    `json:"ref"`   // what it is about: a jti, a rotation id
	Owner string    `json:"owner"` // identity or object
	DueAt time.Time `json:"due_at"`
	// EverySeconds is how much later it is due when a sign of life moves it; 0: nothing does.
	EverySeconds int64 `json:"every_seconds,omitempty,omitzero"`
}

// EventType implements Payload.
func (TimerDue) EventType() string { return TypeTimerDue }

// Entity implements Payload.
func (p TimerDue) Entity() string { return p.Owner }
