// Package keys holds the keys of a deployment as files: token signing keys, the
// kill feed's key, the lineage key and the NATS users' seeds. Keys are never in
// Redis, never in logs, never in events.
package keys

import (
	"crypto/ed25519"

	"github.com/lanyard-nhi/lanyard/events/token"
)

// Ring is the key files of one deployment that a process may read.
type Ring struct{}

// Open reads the ring in dir; with create it makes what is missing (0600, written
// atomically).
func Open(dir string, create bool) (*Ring, error) { panic("being built") }

// Signer is the active token signing key (ES256).
func (r *Ring) Signer() (token.Signer, error) { panic("being built") }

// FeedSigner signs kill entries and heartbeats (EdDSA). Only revocation holds it.
func (r *Ring) FeedSigner() (token.Signer, error) { panic("being built") }

// FeedPublic verifies them.
func (r *Ring) FeedPublic() (ed25519.PublicKey, error) { panic("being built") }

// LineageKey makes handles. Only issuance and revocation hold it.
func (r *Ring) LineageKey() ([]byte, error) { panic("being built") }

// NkeySeed is the seed of a NATS user, such as "issuance" or "guard-acme".
func (r *Ring) NkeySeed(user string) ([]byte, error) { panic("being built") }

// Public is every token verification key: active, prepared and not yet retired.
func (r *Ring) Public() []token.Key { panic("being built") }

// Prepare makes a successor signing key and returns it; Activate makes it the
// signer; Retire deletes a predecessor. Each is idempotent.
func (r *Ring) Prepare(rotation string) (token.Key, error) { panic("being built") }

// Activate makes kid the signer.
func (r *Ring) Activate(kid string) error { panic("being built") }

// Retire deletes kid.
func (r *Ring) Retire(kid string) error { panic("being built") }

// JWKS is the public keys as a JWK Set (RFC 7517).
func (r *Ring) JWKS() ([]byte, error) { panic("being built") }
