package attest

import (
	"context"
	"crypto/ecdsa"
	"crypto/rsa"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/lanyard-nhi/lanyard/services/internal/config"
)

// domain is a SPIFFE trust domain whose SVIDs are accepted.
type domain struct {
	id     spiffeid.TrustDomain
	bundle *cached[*bundle]
}

func (v *Verifier) addDomain(t config.TrustDomain, c Config) error {
	id, err := spiffeid.TrustDomainFromString(t.TrustDomain)
	switch {
	case err != nil:
		return err
	case id.Name() != t.TrustDomain:
		return errors.New("want the name alone, without scheme and path")
	case v.domains[id] != nil:
		return errors.New("listed twice")
	case c.Audience == "":
		return errors.New("no audience")
	}
	b, err := newBundle(id, t, c)
	if err != nil {
		return err
	}
	v.domains[id] = &domain{id: id, bundle: b}
	return nil
}

// claimsSPIFFE reports whether a subject means to be a SPIFFE ID, well formed or not.
func claimsSPIFFE(sub string) bool {
	const scheme = "spiffe:"
	return len(sub) >= len(scheme) && strings.EqualFold(sub[:len(scheme)], scheme)
}

// workload parses the SPIFFE ID of a workload: one with a path (SPIFFE ID, section 2).
func workload(sub string) (spiffeid.ID, error) {
	id, err := spiffeid.FromString(sub)
	if err != nil {
		return id, fmt.Errorf("%w: %w", ErrSPIFFEID, err)
	}
	if id.Path() == "" {
		return id, fmt.Errorf("%w: it names a whole trust domain", ErrSPIFFEID)
	}
	return id, nil
}

// svidAlgorithms are those of JWT-SVID section 2.1.
var svidAlgorithms = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.ES256, jose.ES384, jose.ES512, jose.PS256, jose.PS384, jose.PS512}

// verifySVID checks a JWT-SVID. The jwtsvid package of go-spiffe does most of this
// too, but by the wall clock, without the rules for headers, with one of several
// audiences enough, and without an age; the tests hold this to it.
func (v *Verifier) verifySVID(ctx context.Context, raw string, h header, c claims) (Attested, error) {
	if err := h.checkSVID(); err != nil {
		return Attested{}, err
	}
	id, err := workload(c.Subject)
	if err != nil {
		return Attested{}, err
	}
	d := v.domains[id.TrustDomain()]
	if d == nil {
		return Attested{}, ErrUnknownDomain
	}
	key, err := d.find(ctx, h.KeyID, jose.SignatureAlgorithm(h.Algorithm))
	if err != nil {
		return Attested{}, err
	}
	if err := verifySignature(raw, svidAlgorithms, key); err != nil {
		return Attested{}, err
	}
	a, err := c.check(v.audience, v.now())
	if err != nil {
		return Attested{}, err
	}
	if c.IssuedAt == nil && v.now().Add(maxLife).Before(a.Expires) {
		return Attested{}, ErrTooLong
	}
	a.Issuer = d.id.IDString()
	return a, nil
}

// checkSVID applies JWT-SVID section 2.
func (h header) checkSVID() error {
	switch {
	case len(h.Others) > 0:
		return ErrHeader
	case !slices.Contains(svidAlgorithms, jose.SignatureAlgorithm(h.Algorithm)):
		return fmt.Errorf("%w: a JWT-SVID has RS, ES or PS with 256, 384 or 512", ErrAlgorithm)
	case h.Type != "" && h.Type != "JWT" && h.Type != "JOSE":
		return ErrType
	}
	return nil
}

// find is the domain's key for JWT-SVIDs with that id and of the kind alg needs. The
// kid header is optional: without it the bundle must hold exactly one such key.
func (d *domain) find(ctx context.Context, kid string, alg jose.SignatureAlgorithm) (any, error) {
	var found any
	b, ok, err := d.bundle.get(ctx, (*bundle).refreshAfter, func(b *bundle) bool {
		found = pick(b.jwt, kid, func(k key) bool { return k.fits(alg) })
		return found != nil || b.revoked
	})
	switch {
	case ok && b.revoked:
		return nil, ErrRevokedDomain
	case ok:
		return found, nil
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil, ErrUnknownKey
}

// fits reports whether a key may have made a signature of alg (RFC 7518 section 3):
// the kind of key, the curve, and what the key itself says.
func (k key) fits(alg jose.SignatureAlgorithm) bool {
	if k.alg != "" && k.alg != string(alg) {
		return false
	}
	switch p := k.public.(type) {
	case *rsa.PublicKey:
		return alg[0] == 'R' || alg[0] == 'P'
	case *ecdsa.PublicKey:
		switch p.Curve.Params().BitSize {
		case 256:
			return alg == jose.ES256
		case 384:
			return alg == jose.ES384
		case 521:
			return alg == jose.ES512
		}
	}
	return false
}

// refreshAfter is how old the bundle may be before it is read again: what it asks
// for, at most 15 minutes, since nothing else tells that its keys were withdrawn.
func (b *bundle) refreshAfter() time.Duration { return b.refresh }
