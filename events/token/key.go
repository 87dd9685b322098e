package token

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
)

// Key is a verification key with its pinned algorithm.
type Key struct {
	ID        string
	Algorithm string // "ES256" or "EdDSA"
	Public    crypto.PublicKey
}

// PublicFrom makes a key of an *ecdsa.PublicKey on P-256 (ES256) or an
// ed25519.PublicKey (EdDSA). Its ID is the RFC 7638 thumbprint.
func PublicFrom(public crypto.PublicKey) (Key, error) {
	k := Key{Public: public}
	switch p := public.(type) {
	case *ecdsa.PublicKey:
		if p.Curve != elliptic.P256() {
			return Key{}, fmt.Errorf("use key: %w: curve is not P-256", ErrAlgorithm)
		}
		k.Algorithm = ES256
	case ed25519.PublicKey:
		if len(p) != ed25519.PublicKeySize {
			return Key{}, fmt.Errorf("use key: %w: Ed25519 key of %d bytes", ErrAlgorithm, len(p))
		}
		k.Algorithm = EdDSA
	default:
		return Key{}, fmt.Errorf("use key: %w: key of type %T", ErrAlgorithm, public)
	}
	id, err := k.Thumbprint()
	if err != nil {
		return Key{}, err
	}
	k.ID = id
	return k, nil
}

// KeySet is a fixed set of keys by kid. It implements Keys.
type KeySet map[string]Key

// Key implements Keys.
func (s KeySet) Key(kid string) (Key, bool) {
	k, ok := s[kid]
	return k, ok
}

// KeyIDs is the ids of the keys, sorted.
func (s KeySet) KeyIDs() []string { return slices.Sorted(maps.Keys(s)) }

// NewKeySet makes a set of keys. Later keys replace earlier ones with the same ID.
func NewKeySet(keys ...Key) KeySet {
	s := make(KeySet, len(keys))
	for _, k := range keys {
		s[k.ID] = k
	}
	return s
}

// verify reports whether sig is the one canonical signature over input.
func (k Key) verify(input string, sig []byte) bool {
	if k.Algorithm == ES256 && (len(sig) != 64 || bytes.Compare(sig[32:], halfOrder[:]) > 0) {
		return false
	}
	return k.verifyAny(input, sig)
}

// verifyAny also takes the higher value of an ECDSA s.
func (k Key) verifyAny(input string, sig []byte) bool {
	if len(sig) != 64 {
		return false
	}
	switch pub := k.Public.(type) {
	case ed25519.PublicKey:
		return k.Algorithm == EdDSA && len(pub) == ed25519.PublicKeySize && ed25519.Verify(pub, []byte(input), sig)
	case *ecdsa.PublicKey:
		return k.Algorithm == ES256 && verifyES256(pub, input, sig)
	}
	return false
}

// halfOrder is (n-1)/2 of P-256 (FIPS 186-5, SP 800-186 section 3.2.1.3).
var halfOrder = [32]byte{
	0x7f, 0xff, 0xff, 0xff, 0x80, 0x00, 0x00, 0x00, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	0xde, 0x73, 0x7d, 0x56, 0xd3, 0x8b, 0xcf, 0x42, 0x79, 0xdc, 0xe5, 0x61, 0x7e, 0x31, 0x92, 0xa8,
}

// verifyES256 verifies r || s (RFC 7518 section 3.4).
func verifyES256(pub *ecdsa.PublicKey, input string, sig []byte) bool {
	if pub.Curve != elliptic.P256() || len(sig) != 64 {
		return false
	}
	digest := sha256.Sum256([]byte(input))
	der := make([]byte, 2, 72) // SEQUENCE { INTEGER r, INTEGER s }, at most 70 bytes of content
	der = appendInteger(der, sig[:32])
	der = appendInteger(der, sig[32:])
	der[0], der[1] = 0x30, byte(len(der)-2)
	return ecdsa.VerifyASN1(pub, digest[:], der)
}

// appendInteger appends a DER INTEGER of a big-endian unsigned number.
func appendInteger(der, b []byte) []byte {
	for len(b) > 1 && b[0] == 0 {
		b = b[1:]
	}
	if b[0]&0x80 != 0 {
		der = append(der, 0x02, byte(len(b)+1), 0)
	} else {
		der = append(der, 0x02, byte(len(b)))
	}
	return append(der, b...)
}
