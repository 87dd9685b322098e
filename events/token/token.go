// Package token reads and writes Lanyard's one fixed token form: RFC 9068 access
// tokens as compact JWS with a pinned algorithm per key, and the other signed
// objects of the system (kill entries, heartbeats, receipts) in the same form.
package token

import (
	"crypto"
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
}

// Confirm is the sender constraint (RFC 7800): DPoP (RFC 9449) or mTLS (RFC 8705).
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

// Strings is a JSON string or array of strings.
type Strings []string

// Key is a verification key with its pinned algorithm.
type Key struct {
	ID        string
	Algorithm string // "ES256" or "EdDSA"
	Public    crypto.PublicKey
}

// Signer signs with one key.
type Signer struct {
	ID        string
	Algorithm string
	Private   crypto.Signer
}

// Sign encodes claims (any JSON object) as a compact JWS with header
// {"alg","kid","typ"}.
func (s Signer) Sign(typ string, claims any) (string, error) { panic("being built") }

// Keys finds a verification key by kid; ok is false when it is not known.
type Keys interface {
	Key(kid string) (k Key, ok bool)
}

// Open checks the text of a compact JWS strictly (canonical base64url, header
// with exactly alg, kid and typ known to us, alg equal to the key's, typ as
// asked) and its signature, and returns the payload bytes.
func Open(raw string, typ string, keys Keys) (payload []byte, kid string, err error) {
	panic("being built")
}

// Verify opens an access token and checks issuer, audience and times with the
// given leeway. It does not check the lineage; that is the guard's part.
func Verify(raw string, keys Keys, want Expect) (Claims, error) { panic("being built") }

// Expect is what a verifier demands of an access token.
type Expect struct {
	Issuer   string
	Audience string
	Now      time.Time
	Leeway   time.Duration // at most 5 s makes sense
}

// HashText is the lower-case hex SHA-256 of a token's text, for tracing only.
func HashText(raw string) string { panic("being built") }
