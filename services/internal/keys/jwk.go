package keys

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"github.com/go-jose/go-jose/v4"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// newES256 makes a P-256 signing key whose kid is its RFC 7638 thumbprint.
func newES256() (jose.JSONWebKey, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return jose.JSONWebKey{}, fmt.Errorf("make signing key: %w", err)
	}
	return named(k, "ES256")
}

// newEd25519 is newES256 for EdDSA.
func newEd25519() (jose.JSONWebKey, error) {
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return jose.JSONWebKey{}, fmt.Errorf("make Ed25519 key: %w", err)
	}
	return named(k, "EdDSA")
}

func named(k any, alg string) (jose.JSONWebKey, error) {
	j := jose.JSONWebKey{Key: k, Algorithm: alg, Use: "sig"}
	sum, err := j.Thumbprint(crypto.SHA256)
	if err != nil {
		return j, fmt.Errorf("name key: %w", err)
	}
	j.KeyID = base64.RawURLEncoding.EncodeToString(sum)
	return j, nil
}

// parseJWK reads a JWK and checks its algorithm and that kid is its thumbprint.
func parseJWK(path string, b []byte, alg string, private bool) (jose.JSONWebKey, error) {
	var j jose.JSONWebKey
	if err := json.Unmarshal(b, &j); err != nil || !j.Valid() {
		return j, fmt.Errorf("%s: %w: not a JWK", path, ErrDamaged) // the error of the decoder may quote the key
	}
	sum, err := j.Thumbprint(crypto.SHA256)
	if err != nil || j.Algorithm != alg || j.IsPublic() == private || j.KeyID != base64.RawURLEncoding.EncodeToString(sum) {
		return j, fmt.Errorf("%s: %w: want a %s key named by its RFC 7638 thumbprint", path, ErrDamaged, alg)
	}
	ok := false
	switch k := j.Key.(type) {
	case *ecdsa.PrivateKey:
		ok = alg == "ES256" && k.Curve == elliptic.P256()
	case *ecdsa.PublicKey:
		ok = alg == "ES256" && k.Curve == elliptic.P256()
	case ed25519.PrivateKey, ed25519.PublicKey:
		ok = alg == "EdDSA"
	}
	if !ok {
		return j, fmt.Errorf("%s: %w: the key does not fit %s", path, ErrDamaged, alg)
	}
	return j, nil
}

// loadJWK reads a private JWK file.
func loadJWK(path, alg string) (jose.JSONWebKey, error) {
	b, err := readPrivate(path)
	if err != nil {
		return jose.JSONWebKey{}, err
	}
	return parseJWK(path, b, alg, true)
}

// storeJWK writes a JWK file.
func storeJWK(path string, j jose.JSONWebKey, private bool) error {
	mode := filePublic
	if private {
		mode = filePrivate
	} else {
		j = j.Public()
	}
	b, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("write key %s: encoding failed", path)
	}
	if err := write(path, append(b, '\n'), mode); err != nil {
		return fmt.Errorf("write key: %w", err)
	}
	return nil
}

func signer(j jose.JSONWebKey) (token.Signer, error) {
	s, ok := j.Key.(crypto.Signer)
	if !ok {
		return token.Signer{}, fmt.Errorf("use key %s: %w: not a private key", j.KeyID, ErrDamaged)
	}
	return token.Signer{ID: j.KeyID, Algorithm: j.Algorithm, Private: s}, nil
}

func public(j jose.JSONWebKey) token.Key {
	return token.Key{ID: j.KeyID, Algorithm: j.Algorithm, Public: j.Public().Key}
}
