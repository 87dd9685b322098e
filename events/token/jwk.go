package token

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	json2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// ErrJWK means that a text is not a public key or key set that can be used.
var ErrJWK = errors.New("not a usable public JWK")

// ErrPrivateJWK means that a key set discloses a private key.
var ErrPrivateJWK = errors.New("JWK holds a private key")

// jwk is a public key (RFC 7517 section 4; EC: RFC 7518 section 6.2; OKP: RFC 8037
// section 2). The members are in the order of RFC 7638 section 3.2, then the rest.
type jwk struct {
	Crv    string          `json:"crv,omitempty"`
	Kty    string          `json:"kty"`
	X      string          `json:"x,omitempty"`
	Y      string          `json:"y,omitempty"`
	Alg    string          `json:"alg,omitempty"`
	Kid    string          `json:"kid,omitempty"`
	Use    string          `json:"use,omitempty"`
	KeyOps []string        `json:"key_ops,omitempty"`
	D      *jsontext.Value `json:"d,omitempty"`
	K      *jsontext.Value `json:"k,omitempty"`
}

func (k Key) bare() (jwk, error) {
	switch p := k.Public.(type) {
	case *ecdsa.PublicKey:
		if p.Curve != elliptic.P256() {
			return jwk{}, fmt.Errorf("%w: curve is not P-256", ErrJWK)
		}
		b, err := p.Bytes() // 0x04 || x || y, 65 bytes
		if err != nil {
			return jwk{}, fmt.Errorf("%w: %w", ErrJWK, err)
		}
		return jwk{Kty: "EC", Crv: "P-256", X: b64(b[1:33]), Y: b64(b[33:])}, nil
	case ed25519.PublicKey:
		if len(p) != ed25519.PublicKeySize {
			return jwk{}, fmt.Errorf("%w: Ed25519 key of %d bytes", ErrJWK, len(p))
		}
		return jwk{Kty: "OKP", Crv: "Ed25519", X: b64(p)}, nil
	}
	return jwk{}, fmt.Errorf("%w: key of type %T", ErrJWK, k.Public)
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// Thumbprint is the base64url RFC 7638 SHA-256 thumbprint of the public key, 43
// characters. It is what "cnf" "jkt" holds (RFC 9449 section 6.1).
func (k Key) Thumbprint() (string, error) {
	j, err := k.bare() // has the required members only, in lexicographic order
	if err != nil {
		return "", fmt.Errorf("take thumbprint: %w", err)
	}
	b, err := json.Marshal(j)
	if err != nil {
		return "", fmt.Errorf("take thumbprint: %w", err)
	}
	sum := sha256.Sum256(b)
	return b64(sum[:]), nil
}

// JWK is the key as a JSON Web Key with alg, kid and use.
func (k Key) JWK() ([]byte, error) {
	j, err := k.full()
	if err != nil {
		return nil, fmt.Errorf("encode JWK: %w", err)
	}
	return json.Marshal(j)
}

func (k Key) full() (jwk, error) {
	j, err := k.bare()
	j.Alg, j.Kid, j.Use = k.Algorithm, k.ID, "sig"
	return j, err
}

// JWKS is the keys as a JWK Set (RFC 7517 section 5), sorted by kid.
func JWKS(keys []Key) ([]byte, error) {
	set := struct {
		Keys []jwk `json:"keys"`
	}{Keys: []jwk{}}
	for _, k := range keys {
		j, err := k.full()
		if err != nil {
			return nil, fmt.Errorf("encode JWK Set: key %q: %w", k.ID, err)
		}
		set.Keys = append(set.Keys, j)
	}
	slices.SortFunc(set.Keys, func(a, b jwk) int { return strings.Compare(a.Kid, b.Kid) })
	return json.Marshal(set)
}

// ParseJWK reads one public key. Without kid, the key's ID is its thumbprint. A
// private key is refused with ErrPrivateJWK, anything else that cannot verify
// ES256 or EdDSA with ErrJWK.
func ParseJWK(b []byte) (Key, error) {
	var j jwk
	if err := json2.Unmarshal(b, &j); err != nil {
		return Key{}, fmt.Errorf("read JWK: %w: %w", ErrJWK, err)
	}
	k, err := j.key()
	if err != nil {
		return Key{}, fmt.Errorf("read JWK: %w", err)
	}
	return k, nil
}

// ParseJWKS reads a JWK Set. Keys of other kinds or uses are skipped (RFC 7517
// section 5), also those without a kid, since nothing could select them. A broken
// key of a kind we use, a kid that names two keys, and a private key are errors.
func ParseJWKS(b []byte) (KeySet, error) {
	var set struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := json2.Unmarshal(b, &set); err != nil {
		return nil, fmt.Errorf("read JWK Set: %w: %w", ErrJWK, err)
	}
	if set.Keys == nil {
		return nil, fmt.Errorf("read JWK Set: %w: no member \"keys\"", ErrJWK)
	}
	out := make(KeySet, len(set.Keys))
	for i, raw := range set.Keys {
		var j jwk
		if err := json2.Unmarshal(raw, &j); err != nil {
			return nil, fmt.Errorf("read JWK Set: key %d: %w: %w", i, ErrJWK, err)
		}
		if j.D != nil {
			return nil, fmt.Errorf("read JWK Set: key %d: %w", i, ErrPrivateJWK)
		}
		if j.Kid == "" || !j.ours() {
			continue
		}
		k, err := j.key()
		if err != nil {
			return nil, fmt.Errorf("read JWK Set: key %q: %w", clip(j.Kid), err)
		}
		if _, twice := out[k.ID]; twice {
			return nil, fmt.Errorf("read JWK Set: %w: kid %q names two keys", ErrJWK, clip(k.ID))
		}
		out[k.ID] = k
	}
	return out, nil
}

// ours reports whether j is of a kind, use and algorithm that Key can be.
func (j jwk) ours() bool {
	switch {
	case j.Use != "" && j.Use != "sig", j.KeyOps != nil && !slices.Contains(j.KeyOps, "verify"):
		return false
	case j.Kty == "EC" && j.Crv == "P-256":
		return j.Alg == "" || j.Alg == ES256
	case j.Kty == "OKP" && j.Crv == "Ed25519":
		return j.Alg == "" || j.Alg == EdDSA
	}
	return false
}

func (j jwk) key() (Key, error) {
	if j.D != nil || j.K != nil {
		return Key{}, ErrPrivateJWK
	}
	if !j.ours() {
		return Key{}, fmt.Errorf("%w: kty %q, crv %q, alg %q, use %q", ErrJWK, clip(j.Kty), clip(j.Crv), clip(j.Alg), clip(j.Use))
	}
	x, err := coordinate(j.X)
	if err != nil {
		return Key{}, err
	}
	var k Key
	if j.Kty == "OKP" {
		if j.Y != "" {
			return Key{}, fmt.Errorf("%w: OKP key with y", ErrJWK)
		}
		k, err = PublicFrom(ed25519.PublicKey(x))
	} else {
		var y []byte
		if y, err = coordinate(j.Y); err != nil {
			return Key{}, err
		}
		var pub *ecdsa.PublicKey
		pub, err = ecdsa.ParseUncompressedPublicKey(elliptic.P256(), slices.Concat([]byte{4}, x, y))
		if err != nil {
			return Key{}, fmt.Errorf("%w: point is not on P-256", ErrJWK)
		}
		k, err = PublicFrom(pub)
	}
	if err != nil {
		return Key{}, err
	}
	if j.Kid != "" {
		k.ID = j.Kid
	}
	return k, nil
}

// coordinate reads 32 bytes of canonical base64url (RFC 7518 section 6.2.1.2).
func coordinate(s string) ([]byte, error) {
	if len(s) != 43 || strings.ContainsAny(s, "\r\n") {
		return nil, fmt.Errorf("%w: want 32 bytes of base64url", ErrJWK)
	}
	b, err := strict.DecodeString(s)
	if err != nil {
		return nil, fmt.Errorf("%w: want 32 bytes of base64url", ErrJWK)
	}
	return b, nil
}
