package attest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/lanyard-nhi/lanyard/events"
)

// What can be wrong with a client assertion or a client's keys.
var (
	ErrClient     = errors.New("the client assertion's iss and sub are not the client")
	ErrLongLived  = errors.New("the client assertion is valid for more than 10 minutes")
	ErrClientKeys = errors.New("the client's keys cannot be used")
)

// KeyIssuer begins the issuer of clients that vouch for themselves: a key's RFC 7638
// thumbprint as a URI (RFC 9278). It is the domain of what the key made.
const KeyIssuer = "urn:ietf:params:oauth:jwk-thumbprint:sha-256:"

const (
	maxClientKeys = 4
	maxID         = 256 // bytes of jti
)

// ClientAssertion is a client assertion (RFC 7523 section 2.2) that has been read but
// not verified.
type ClientAssertion struct {
	ClientID string // that it claims to be of

	raw    string
	header header
	claims claims
}

// ReadClientAssertion reads an assertion strictly, without trusting it. Only alg, kid
// and typ may be in its header; iss and sub must be one client (RFC 7523 section 3).
func ReadClientAssertion(raw string) (ClientAssertion, error) {
	h, c, err := parse(raw)
	if err != nil {
		return ClientAssertion{}, err
	}
	switch {
	case len(h.Others) > 0:
		return ClientAssertion{}, ErrHeader
	case !slices.Contains(algorithms, jose.SignatureAlgorithm(h.Algorithm)):
		return ClientAssertion{}, ErrAlgorithm
	case c.Subject == "" || c.Issuer != c.Subject:
		return ClientAssertion{}, ErrClient
	}
	switch strings.ToLower(h.Type) {
	case "", "jwt", "client-authentication+jwt": // the last by draft-ietf-oauth-rfc7523bis
	default:
		return ClientAssertion{}, ErrType
	}
	return ClientAssertion{ClientID: c.Subject, raw: raw, header: h, claims: c}, nil
}

// VerifyClient verifies a client's assertion with the keys it is registered with: the
// signature by the key that kid names, this issuer as the only audience, jti, and an
// exp at most 10 minutes away. Whoever calls it must refuse a jti seen before. The
// attested issuer is KeyIssuer and the thumbprint of the key that signed.
func (v *Verifier) VerifyClient(a ClientAssertion, keys []events.JWK) (Attested, error) {
	known, err := clientKeys(keys)
	if err != nil {
		return Attested{}, err
	}
	public := pick(known, a.header.KeyID, func(k key) bool { return k.alg == a.header.Algorithm })
	if public == nil {
		return Attested{}, ErrUnknownKey
	}
	if err := verifySignature(a.raw, algorithms, public); err != nil {
		return Attested{}, err
	}
	now := v.now()
	out, err := a.claims.check(v.audience, now)
	switch {
	case err != nil:
		return Attested{}, err
	case out.ID == "" || len(out.ID) > maxID:
		return Attested{}, fmt.Errorf("%w: jti", ErrClaims)
	case out.Expires.After(now.Add(maxAge + leeway)):
		return Attested{}, ErrLongLived
	}
	out.Issuer, err = keyIssuer(public)
	return out, err
}

// CheckClientKeys reports what is wrong with the keys of a registration.
func CheckClientKeys(keys []events.JWK) error {
	_, err := clientKeys(keys)
	return err
}

// OwnKey reports whether issuer stands for one of the keys.
func OwnKey(issuer string, keys []events.JWK) bool {
	if !strings.HasPrefix(issuer, KeyIssuer) {
		return false
	}
	known, err := clientKeys(keys)
	return err == nil && slices.ContainsFunc(known, func(k key) bool {
		own, err := keyIssuer(k.public)
		return err == nil && own == issuer
	})
}

func clientKeys(keys []events.JWK) ([]key, error) {
	if len(keys) > maxClientKeys {
		return nil, fmt.Errorf("%w: more than %d", ErrClientKeys, maxClientKeys)
	}
	out := make([]key, 0, len(keys))
	for _, j := range keys {
		text, err := json.Marshal(j)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrClientKeys, err)
		}
		k, ok, err := parseKey(text)
		switch {
		case err != nil:
			return nil, fmt.Errorf("%w: %w", ErrClientKeys, err)
		case !ok:
			return nil, fmt.Errorf("%w: want EC on P-256, OKP Ed25519 or RSA, for signatures", ErrClientKeys)
		case slices.ContainsFunc(out, func(other key) bool { return other.id == k.id }):
			return nil, fmt.Errorf("%w: two keys need two kids", ErrClientKeys)
		}
		out = append(out, k)
	}
	return out, nil
}

func keyIssuer(public any) (string, error) {
	switch public.(type) {
	case *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey:
	default:
		return "", ErrClientKeys
	}
	sum, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrClientKeys, err)
	}
	return KeyIssuer + strict.EncodeToString(sum), nil
}

// Replayable is how long after its exp an assertion could still be accepted.
const Replayable = leeway + time.Second
