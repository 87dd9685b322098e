package authzen

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

// cursor is where a search goes on. Candidates that come or go between two pages move
// no other across its border.
type cursor struct {
	After string `json:"a"` // the last candidate that is done
	Seen  int    `json:"n"` // results on the pages before
}

// NewPages derives from secret what seals page tokens. Every process with the same
// secret opens the tokens of every other.
func NewPages(secret []byte) (cipher.AEAD, error) {
	key, err := hkdf.Key(sha256.New, secret, nil, "lanyard authzen page token 1", 32)
	if err != nil {
		return nil, fmt.Errorf("derive page key: %w", err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, fmt.Errorf("make page cipher: %w", err)
	}
	return cipher.NewGCM(block)
}

// binding is what a token belongs to: the caller, the search and everything it asks
// for. Only page is free to change, so that a caller may take smaller steps.
func binding(ctx context.Context, k kind, q Evaluation) ([]byte, error) {
	c, _ := service.Caller(ctx)
	parts := []any{c.Tenant, c.Subject, service.Operator(c), k.name, q.Subject.Type, q.Subject.ID, q.Action.Name, q.Resource.Type, q.Resource.ID}
	for _, v := range []jsontext.Value{q.Subject.Properties, q.Action.Properties, q.Resource.Properties, q.Context} {
		v = v.Clone()
		if len(v) > 0 {
			if err := v.Canonicalize(); err != nil { // RFC 8785: members may be sent in another order
				return nil, bad("a property or the context is not JSON")
			}
		}
		parts = append(parts, string(v))
	}
	text, err := json.Marshal(parts)
	if err != nil {
		return nil, fmt.Errorf("bind page token: %w", err)
	}
	sum := sha256.Sum256(text)
	return sum[:], nil
}

func (s *Server) seal(c cursor, bound []byte) (string, error) {
	text, err := json.Marshal(c)
	if err != nil {
		return "", fmt.Errorf("seal page token: %w", err)
	}
	nonce := make([]byte, s.Pages.NonceSize())
	if _, err := io.ReadFull(s.Rand, nonce); err != nil {
		return "", fmt.Errorf("draw nonce: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(s.Pages.Seal(nonce, nonce, text, bound)), nil
}

func (s *Server) open(token string, bound []byte) (cursor, error) {
	var c cursor
	b, err := base64.RawURLEncoding.Strict().DecodeString(token)
	n := s.Pages.NonceSize()
	if err != nil || len(b) < n {
		return c, bad("page.token is none of ours")
	}
	text, err := s.Pages.Open(nil, b[:n], b[n:], bound)
	if err != nil || json.Unmarshal(text, &c) != nil {
		return c, bad("page.token belongs to another search or caller: repeat the request that it came from and change only page")
	}
	return c, nil
}
