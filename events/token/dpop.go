package token

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
)

// TypProof is the typ of a DPoP proof (RFC 9449 section 4.2).
const TypProof = "dpop+jwt"

// Proof is a DPoP proof whose signature verified with the key it carries.
type Proof struct {
	Thumbprint string // RFC 7638, of the key that signed; compare it with cnf.jkt
	ID         string // jti
	Method     string // htm
	URL        string // htu
	IssuedAt   int64  // iat, seconds since 1970
	AccessHash string // ath: base64url SHA-256 of the access token's text
	Nonce      string // that a server gave; empty when there is none
}

// OpenProof reads a DPoP proof and makes the checks of RFC 9449 section 4.3 that need
// nothing but the proof: one well-formed JWT, all required claims (ath among them),
// typ, an asymmetric algorithm we know, a public key in jwk that verifies the
// signature. Whoever calls it compares method, URL, time, token hash and thumbprint,
// and refuses a jti seen before.
//
// Proofs come from any client's library, so the header may also hold a kid, which
// is ignored, and either value of an ECDSA s is taken.
func OpenProof(raw string) (Proof, error) {
	p, err := OpenTokenRequestProof(raw)
	if err == nil && p.AccessHash == "" {
		return Proof{}, fmt.Errorf("open proof: %w: ath is required", ErrClaims)
	}
	return p, err
}

// OpenTokenRequestProof is OpenProof for the token endpoint, where no access token
// travels with the proof and ath is not required (RFC 9449 section 5).
func OpenTokenRequestProof(raw string) (Proof, error) {
	p, err := split(raw)
	if err != nil {
		return Proof{}, fmt.Errorf("open proof: %w", err)
	}
	var typ, alg, kid string
	var key Key
	err = object(reader(p.header), func(d *jsontext.Decoder, name []byte) error {
		switch string(name) {
		case "typ":
			return text(d, &typ)
		case "alg":
			return text(d, &alg)
		case "kid":
			return text(d, &kid)
		case "jwk":
			v, err := d.ReadValue()
			if err != nil {
				return err
			}
			key, err = ParseJWK(v)
			return err
		}
		return fmt.Errorf("member %q", clip(string(name)))
	}, true)
	switch {
	case err != nil:
		return Proof{}, fmt.Errorf("open proof: %w: %w", ErrHeader, err)
	case typ != TypProof:
		return Proof{}, fmt.Errorf("open proof: %w: %q", ErrType, clip(typ))
	case key.Public == nil:
		return Proof{}, fmt.Errorf("open proof: %w: no jwk", ErrHeader)
	case alg != key.Algorithm:
		return Proof{}, fmt.Errorf("open proof: %w: %q", ErrAlgorithm, clip(alg))
	case !key.verifyAny(p.signed, p.signature):
		return Proof{}, fmt.Errorf("open proof: %w", ErrSignature)
	}
	var out Proof
	if out.Thumbprint, err = key.Thumbprint(); err != nil {
		return Proof{}, fmt.Errorf("open proof: %w", err)
	}
	err = object(reader(p.payload), func(d *jsontext.Decoder, name []byte) error {
		switch string(name) {
		case "jti":
			return text(d, &out.ID)
		case "htm":
			return text(d, &out.Method)
		case "htu":
			return text(d, &out.URL)
		case "iat":
			return whole(d, &out.IssuedAt)
		case "ath":
			return text(d, &out.AccessHash)
		case "nonce":
			return text(d, &out.Nonce)
		}
		return d.SkipValue()
	}, true)
	if err != nil {
		return Proof{}, fmt.Errorf("open proof: %w: %w", ErrClaims, err)
	}
	if out.ID == "" || out.Method == "" || out.URL == "" || out.IssuedAt == 0 {
		return Proof{}, fmt.Errorf("open proof: %w: jti, htm, htu and iat are required", ErrClaims)
	}
	return out, nil
}

// SameURL compares a proof's htu with the absolute URL that was asked, without query and
// fragment, after the normalisation of RFC 3986 sections 6.2.2 and 6.2.3 that RFC 9449
// section 4.3 asks for.
func SameURL(htu string, asked *url.URL) bool {
	claimed, err := url.Parse(htu)
	if err != nil || claimed.Opaque != "" || claimed.User != nil || claimed.RawQuery != "" || claimed.Fragment != "" {
		return false
	}
	return normal(claimed) == normal(asked)
}

func normal(u *url.URL) string {
	scheme, host := strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	switch scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	return scheme + "://" + host + path
}
