package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
)

// Signer signs with one key.
type Signer struct {
	ID        string
	Algorithm string
	Private   crypto.Signer
}

// NewSigner makes a signer of an ECDSA P-256 or Ed25519 private key. An empty id
// becomes the RFC 7638 thumbprint of the public key.
func NewSigner(id string, private crypto.Signer) (Signer, error) {
	k, err := PublicFrom(private.Public())
	if err != nil {
		return Signer{}, err
	}
	if id == "" {
		id = k.ID
	}
	return Signer{ID: id, Algorithm: k.Algorithm, Private: private}, nil
}

// Key is the verification key that goes with s.
func (s Signer) Key() Key { return Key{ID: s.ID, Algorithm: s.Algorithm, Public: s.Private.Public()} }

// Sign encodes claims (any JSON object) as a compact JWS with header
// {"alg","kid","typ"} (RFC 7515 section 7.1).
func (s Signer) Sign(typ string, claims any) (string, error) {
	if s.ID == "" || typ == "" || s.Private == nil {
		return "", errors.New("sign token: key, kid and typ are required")
	}
	head, err := json.Marshal(struct {
		Alg string `json:"alg"`
		Kid string `json:"kid"`
		Typ string `json:"typ"`
	}{s.Algorithm, s.ID, typ})
	if err != nil {
		return "", fmt.Errorf("sign token: encode header: %w", err)
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", fmt.Errorf("sign token: encode claims: %w", err)
	}
	if body[0] != '{' {
		return "", errors.New("sign token: claims are not a JSON object")
	}
	out := make([]byte, 0, (len(head)+len(body)+64)*4/3+8)
	out = base64.RawURLEncoding.AppendEncode(out, head)
	out = append(out, '.')
	out = base64.RawURLEncoding.AppendEncode(out, body)
	sig, err := s.signature(out)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	out = append(out, '.')
	out = base64.RawURLEncoding.AppendEncode(out, sig)
	if len(out) > MaxSize {
		return "", fmt.Errorf("sign token: %w: %d bytes", ErrTooLarge, len(out))
	}
	return string(out), nil
}

func (s Signer) signature(input []byte) ([]byte, error) {
	switch pub := s.Private.Public().(type) {
	case ed25519.PublicKey:
		if s.Algorithm != EdDSA {
			return nil, fmt.Errorf("%w: Ed25519 key with %q", ErrAlgorithm, s.Algorithm)
		}
		return s.Private.Sign(rand.Reader, input, crypto.Hash(0))
	case *ecdsa.PublicKey:
		if s.Algorithm != ES256 {
			return nil, fmt.Errorf("%w: P-256 key with %q", ErrAlgorithm, s.Algorithm)
		}
		digest := sha256.Sum256(input)
		der, err := s.Private.Sign(rand.Reader, digest[:], crypto.SHA256)
		if err != nil {
			return nil, err
		}
		return rawSignature(der, pub.Params().N)
	default:
		return nil, fmt.Errorf("%w: key of type %T", ErrAlgorithm, pub)
	}
}

// rawSignature turns a DER signature into r || s, 32 bytes each, big endian (RFC
// 7518 section 3.4), with the lower of s and n-s: both verify, so one of them is
// made the only one.
func rawSignature(der []byte, n *big.Int) ([]byte, error) {
	var rs struct{ R, S *big.Int }
	if rest, err := asn1.Unmarshal(der, &rs); err != nil || len(rest) != 0 {
		return nil, errors.New("read ECDSA signature: not DER")
	}
	if rs.S.Cmp(new(big.Int).Rsh(n, 1)) > 0 {
		rs.S.Sub(n, rs.S)
	}
	out := make([]byte, 64)
	rs.R.FillBytes(out[:32])
	rs.S.FillBytes(out[32:])
	return out, nil
}
