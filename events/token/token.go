// Package token reads and writes Lanyard's one fixed token form: RFC 9068 access
// tokens as compact JWS with a pinned algorithm per key, and the other signed
// objects of the system (kill entries, heartbeats, receipts) in the same form.
//
// The form is narrower than RFC 7515 allows, so that a text either is the one
// encoding of what was signed or is refused: canonical base64url, a header of
// exactly alg, kid and typ, and for ES256 the lower of the two possible values of
// s. It stands on the standard library's cryptography only. What other issuers
// sign (OIDC attestations) is not read here.
package token

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"

	"github.com/lanyard-nhi/lanyard/events/lineage"
)

// Typ header values. A verifier pins the one it expects.
const (
	TypAccess    = "at+jwt"            // RFC 9068
	TypKill      = "lanyard-kill"      // kill entry
	TypHeartbeat = "lanyard-heartbeat" // heartbeat of the kill feed
	TypReceipt   = "lanyard-receipt"   // receipt of a guard
)

// Algorithms (RFC 7518 section 3.1, RFC 8037 section 3.1).
const (
	ES256 = "ES256"
	EdDSA = "EdDSA"
)

// MaxSize is the longest token text that is looked at, in bytes.
const MaxSize = 16 << 10

// What can be wrong with a token. Every error of Open, Verify and ParseClaims wraps
// exactly one of these.
var (
	ErrTooLarge   = errors.New("token longer than 16 KiB")
	ErrMalformed  = errors.New("not a compact JWS in canonical form")
	ErrHeader     = errors.New("header must be exactly alg, kid and typ")
	ErrAlgorithm  = errors.New("algorithm is not the key's")
	ErrType       = errors.New("token is of another type")
	ErrUnknownKey = errors.New("signing key is not known")
	ErrSignature  = errors.New("signature does not verify")
	ErrClaims     = errors.New("claims are missing or of a wrong type")
	ErrLineage    = errors.New("lineage is missing, too long or not made of handles")
	ErrIssuer     = errors.New("token is from another issuer")
	ErrAudience   = errors.New("token is for another audience")
	ErrExpired    = errors.New("token has expired")
	ErrNotYet     = errors.New("token is not valid yet")
)

// Claims of an access token (RFC 9068 section 2.2) with Lanyard's lineage.
type Claims struct {
	Issuer    string           `json:"iss"`
	Subject   string           `json:"sub"` // identity id
	Audience  Strings          `json:"aud"` // string or array (RFC 7519 section 4.1.3)
	ClientID  string           `json:"client_id"`
	IssuedAt  int64            `json:"iat"` // seconds since 1970
	NotBefore int64            `json:"nbf,omitempty"`
	Expires   int64            `json:"exp"`
	ID        string           `json:"jti"`
	Scope     string           `json:"scope,omitempty"` // space delimited
	Tenant    string           `json:"tenant"`
	Task      string           `json:"task,omitempty"`
	Lineage   []lineage.Handle `json:"lin"` // root first, 1 to lineage.Max
	Confirm   *Confirm         `json:"cnf,omitempty"`
	Actor     *Actor           `json:"act,omitempty"` // RFC 8693 section 4.1; evidence only
	// Details say finer than Scope what is granted (RFC 9396 section 9.1).
	Details []Detail `json:"authorization_details,omitempty"`
}

// Confirm is the sender constraint (RFC 7800): DPoP (RFC 9449) or mTLS (RFC 8705).
// When both are set, both must hold.
type Confirm struct {
	JKT  string `json:"jkt,omitempty"`
	X5TS string `json:"x5t#S256,omitempty"`
}

// Actor is a nested actor (RFC 8693 section 4.1).
type Actor struct {
	Subject string `json:"sub"`
	Tenant  string `json:"tenant,omitempty"`
	Actor   *Actor `json:"act,omitempty"`
}

// Keys finds a verification key by kid; ok is false when it is not known.
type Keys interface {
	Key(kid string) (k Key, ok bool)
}

// Expect is what a verifier demands of an access token.
type Expect struct {
	Issuer   string
	Audience string
	Now      time.Time
	Leeway   time.Duration // at most 5 s makes sense
}

// HashText is the lower-case hex SHA-256 of a token's text, for tracing only.
func HashText(raw string) string {
	sum := sha256.Sum256([]byte(raw))
	return hex.EncodeToString(sum[:])
}
