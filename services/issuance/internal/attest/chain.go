package attest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	json "github.com/go-json-experiment/json"

	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
)

// TypGrant is the typ of a JWT authorization grant (draft-ietf-oauth-rfc7523bis). No
// attestation has it, so neither passes for the other.
const TypGrant = "authorization-grant+jwt"

// MaxGrantLife is the longest that a grant of another issuer may live.
const MaxGrantLife = 2 * time.Minute

// ErrLineage means that a grant does not say what it hangs from at its issuer.
var ErrLineage = errors.New("the grant's lin is not 1 to 32 different handles")

// Grant is what another issuer's grant proves (draft-ietf-oauth-identity-chaining).
type Grant struct {
	Attested
	Scope   []string         // the most it is for
	Lineage []lineage.Handle // what it hangs from at its issuer, root first
	Until   time.Time        // when the credential ends that it was made of
}

// IsGrant reports whether raw says that it is a JWT authorization grant. It looks at the
// header only: every other assertion passes here too.
func IsGrant(raw string) bool {
	first, _, _ := strings.Cut(raw, ".")
	b, err := strict.DecodeString(first)
	if err != nil || len(raw) > maxSize {
		return false
	}
	var h header
	return json.Unmarshal(b, &h) == nil && h.grant()
}

func (h header) grant() bool {
	return strings.TrimPrefix(strings.ToLower(h.Type), "application/") == TypGrant
}

func (v *Verifier) addChained(t config.ChainIssuer, c Config) error {
	switch {
	case t.Issuer == "" || t.Issuer == c.Audience:
		return errors.New("want another issuer")
	case v.chained[t.Issuer] != nil || v.issuers[t.Issuer] != nil:
		return errors.New("listed twice")
	}
	src, err := newSource(t.JWKS, t.Local, c.Clients)
	if err != nil {
		return err
	}
	v.chained[t.Issuer] = newKeySet(src, t.Issuer, c)
	return nil
}

// VerifyGrant checks a JWT authorization grant of an issuer in Config.ChainFrom as an
// assertion (RFC 7523 section 3): its key, this issuer as the only audience, jti, at most
// two minutes of life; and the claims by which Lanyard issuers pass a lineage on. Whoever
// calls it must refuse a jti seen before.
func (v *Verifier) VerifyGrant(ctx context.Context, raw string) (Grant, error) {
	h, c, err := parse(raw)
	switch {
	case err != nil:
		return Grant{}, err
	case !h.grant():
		return Grant{}, ErrType
	case len(h.Others) > 0:
		return Grant{}, ErrHeader
	case !slices.Contains(algorithms, jose.SignatureAlgorithm(h.Algorithm)):
		return Grant{}, ErrAlgorithm
	}
	keys := v.chained[c.Issuer]
	if keys == nil {
		return Grant{}, ErrUnknownIssuer
	}
	key, err := keys.find(ctx, h.KeyID, h.Algorithm)
	if err != nil {
		return Grant{}, err
	}
	if err := verifySignature(raw, algorithms, key); err != nil {
		return Grant{}, err
	}
	now := v.now()
	a, err := c.check(v.audience, now)
	switch {
	case err != nil:
		return Grant{}, err
	case c.IssuedAt == nil || a.ID == "" || len(a.ID) > maxID:
		return Grant{}, fmt.Errorf("%w: iat or jti", ErrClaims)
	case a.Expires.After(now.Add(MaxGrantLife + leeway)):
		return Grant{}, ErrLongLived
	}
	g, err := c.passedOn()
	g.Attested = a
	if err == nil && !now.Before(g.Until) {
		err = ErrExpired
	}
	if err != nil {
		return Grant{}, err
	}
	return g, nil
}

// passedOn reads the claims of a grant that say how much it may become.
func (c claims) passedOn() (Grant, error) {
	var more struct {
		Scope   string   `json:"scope"`
		Until   *number  `json:"until"`
		Lineage []string `json:"lin"`
	}
	if err := json.Unmarshal(c.text, &more); err != nil {
		return Grant{}, fmt.Errorf("%w: scope, until or lin", ErrClaims)
	}
	if more.Until == nil {
		return Grant{}, fmt.Errorf("%w: until", ErrClaims)
	}
	g := Grant{Scope: strings.Fields(more.Scope), Until: more.Until.time()}
	if len(more.Lineage) == 0 || len(more.Lineage) > lineage.Max {
		return Grant{}, ErrLineage
	}
	for _, s := range more.Lineage {
		h, err := lineage.Parse(s)
		if err != nil || slices.Contains(g.Lineage, h) {
			return Grant{}, ErrLineage
		}
		g.Lineage = append(g.Lineage, h)
	}
	return g, nil
}
