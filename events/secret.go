package events

import "time"

// SecretPlaced is published by whoever has made a long-lived credential in another
// system for an identity: a database role, a cache user, a token at an OAuth server.
// From then on a revocation of anything it hangs from ends it. The credential itself
// is never told.
type SecretPlaced struct {
	Secret   string `json:"secret"` // id, unique in the tenant
	Identity string `json:"identity"`
	// Credential is the jti of the token under which it was made: all of its lineage
	// counts. Absent: the identity's own handles.
	Credential string     `json:"credential,omitempty"`
	Downstream string     `json:"downstream"` // name in the configuration
	Account    string     `json:"account"`    // what the downstream calls it, never a secret
	Owner      string     `json:"owner"`      // who answers for it
	ExpiresAt  *time.Time `json:"expires_at,omitempty"`
}

// EventType implements Payload.
func (SecretPlaced) EventType() string { return TypeSecretPlaced }

// Entity implements Payload.
func (p SecretPlaced) Entity() string { return p.Secret }

// SecretTracked states that a placed secret is known with all that it hangs from.
type SecretTracked struct {
	Secret     string     `json:"secret"`
	Handle     string     `json:"handle"` // of kind credential, id = the secret's
	Identity   string     `json:"identity"`
	Credential string     `json:"credential,omitempty"`
	Downstream string     `json:"downstream"`
	Account    string     `json:"account"`
	Owner      string     `json:"owner"`
	ExpiresAt  *time.Time `json:"expires_at,omitempty"`
	Lineage    []string   `json:"lineage"` // handles above it, root first
	Names      []Named    `json:"names"`   // the part of the lineage this tenant may name
	TrackedAt  time.Time  `json:"tracked_at"`
}

// EventType implements Payload.
func (SecretTracked) EventType() string { return TypeSecretTracked }

// Entity implements Payload.
func (p SecretTracked) Entity() string { return p.Secret }

// SecretUntracked states that the downstream no longer has a secret, so that nothing
// has to end it any more.
type SecretUntracked struct {
	Secret      string    `json:"secret"`
	Handle      string    `json:"handle"`
	Downstream  string    `json:"downstream"`
	Lineage     []string  `json:"lineage,omitempty"` // as it was tracked
	Reason      string    `json:"reason"`
	UntrackedAt time.Time `json:"untracked_at"`
}

// EventType implements Payload.
func (SecretUntracked) EventType() string { return TypeSecretUntracked }

// Entity implements Payload.
func (p SecretUntracked) Entity() string { return p.Secret }
