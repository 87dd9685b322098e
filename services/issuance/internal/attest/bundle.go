package attest

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/go-jose/go-jose/v4"
	json "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/lanyard-nhi/lanyard/services/internal/config"
)

// Bounds of spiffe_refresh_hint, and what counts when a bundle has none (SPIFFE
// Federation section 4.3: five minutes).
const (
	minRefresh     = retryAfter
	maxRefresh     = 15 * time.Minute
	defaultRefresh = 5 * time.Minute
)

// bundle is a SPIFFE bundle (SPIFFE Trust Domain and Bundle, section 4) as far as SVIDs
// are verified with it.
type bundle struct {
	jwt      []key // alg is empty unless the key restricts itself
	x509     *x509bundle.Bundle
	revoked  bool // its keys are an empty list
	sequence *uint64
	refresh  time.Duration
}

// newBundle is the bundle of a trust domain, from a file or from a bundle endpoint of
// profile https_web.
func newBundle(id spiffeid.TrustDomain, t config.TrustDomain, c Config) (*cached[*bundle], error) {
	src, err := newSource(t.Bundle, t.Local, c.Clients)
	if err != nil {
		return nil, err
	}
	return &cached[*bundle]{name: id.IDString(), changed: src.changed, now: c.Now, log: c.Log, read: func(ctx context.Context, held *bundle) (*bundle, error) {
		raw, err := src.read(ctx)
		if err != nil {
			return nil, err
		}
		next, err := parseBundle(id, raw)
		if err != nil {
			return nil, err
		}
		return next, next.supersede(held)
	}}, nil
}

// supersede makes sure that b is not older than what is held: a sequence never goes
// back. Revoking a trust domain needs no number, since it only ever takes away.
func (b *bundle) supersede(held *bundle) error {
	if held == nil || held.sequence == nil {
		return nil
	}
	switch {
	case b.sequence == nil:
		b.sequence = held.sequence // still the newest that was seen
	case *b.sequence < *held.sequence && !b.revoked:
		return fmt.Errorf("bundle has spiffe_sequence %d after %d: an older bundle is not accepted", *b.sequence, *held.sequence)
	case *b.sequence < *held.sequence:
		b.sequence = held.sequence
	}
	return nil
}

// parseBundle reads a bundle strictly: no doubled members at any depth, no private
// keys, no weak keys, no doubled kid. Entries of other uses and kinds of key are passed
// over, as the specification asks.
func parseBundle(id spiffeid.TrustDomain, raw []byte) (*bundle, error) {
	var doc struct {
		Keys     *[]jsontext.Value `json:"keys"`
		Sequence *uint64           `json:"spiffe_sequence"`
		Hint     *int64            `json:"spiffe_refresh_hint"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		return nil, fmt.Errorf("parse bundle: %w", err)
	}
	switch {
	case doc.Keys == nil:
		return nil, errors.New("parse bundle: it lacks keys; an empty list would revoke the trust domain")
	case len(*doc.Keys) > maxKeys:
		return nil, fmt.Errorf("parse bundle: more than %d keys", maxKeys)
	}
	b := &bundle{x509: x509bundle.New(id), revoked: len(*doc.Keys) == 0, sequence: doc.Sequence, refresh: defaultRefresh}
	if doc.Hint != nil && *doc.Hint > 0 {
		b.refresh = max(minRefresh, time.Duration(min(*doc.Hint, int64(maxRefresh/time.Second)))*time.Second)
	}
	for _, entry := range *doc.Keys {
		if err := b.add(entry); err != nil {
			return nil, fmt.Errorf("parse bundle: %w", err)
		}
	}
	return b, nil
}

func (b *bundle) add(entry jsontext.Value) error {
	var meta struct {
		KeyType string         `json:"kty"`
		Use     string         `json:"use"`
		Private jsontext.Value `json:"d"`
		Secret  jsontext.Value `json:"k"`
	}
	if err := json.Unmarshal(entry, &meta); err != nil {
		return err
	}
	if meta.Private != nil || meta.Secret != nil {
		return errors.New("it holds a private or symmetric key: publish public keys only, and replace this one")
	}
	if meta.Use != "jwt-svid" && meta.Use != "x509-svid" {
		return nil
	}
	var j jose.JSONWebKey
	if err := j.UnmarshalJSON(entry); errors.Is(err, jose.ErrUnsupportedKeyType) {
		return nil
	} else if err != nil {
		return fmt.Errorf("read %s key: %w", meta.Use, err)
	}
	if p, ok := j.Key.(*rsa.PublicKey); ok && p.N.BitLen() < minRSABits {
		return fmt.Errorf("%s key %q has fewer than %d bits", meta.Use, j.KeyID, minRSABits)
	}
	if meta.Use == "x509-svid" {
		return b.addAuthority(j.Certificates)
	}
	if j.KeyID == "" {
		return errors.New("a jwt-svid key has no kid")
	}
	for _, k := range b.jwt {
		if k.id == j.KeyID {
			return fmt.Errorf("kid %q appears twice", j.KeyID)
		}
	}
	b.jwt = append(b.jwt, key{id: j.KeyID, alg: j.Algorithm, public: j.Key})
	return nil
}

func (b *bundle) addAuthority(chain []*x509.Certificate) error {
	if len(chain) != 1 {
		return fmt.Errorf("an x509-svid key has %d certificates, want one", len(chain))
	}
	b.x509.AddX509Authority(chain[0])
	return nil
}
