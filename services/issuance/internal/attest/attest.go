// Package attest checks the proofs by which workloads show who they are: OIDC
// tokens of the issuers, and SPIFFE JWT-SVIDs of the trust domains in the
// configuration. Only issuance imports it.
//
// A token is trusted because a key of its configured issuer or trust domain signed
// it, never because of anything it says about keys: jku, x5u, jwk and x5c headers are
// not read, and make a JWT-SVID be refused. A token whose subject is a SPIFFE ID is
// judged by the bundle of that ID's trust domain alone, whatever its iss says. The same
// token may prove a workload again until it expires or is ten minutes old, never after;
// what is issued on it is bounded by its own life.
package attest

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	json "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/zap"

	"github.com/lanyard-nhi/lanyard/services/internal/config"
)

// What can be wrong with an attestation. The texts may be shown to the caller.
var (
	ErrMalformed     = errors.New("the attestation is not a canonical compact JWS with unique JSON members")
	ErrUnknownIssuer = errors.New("the attestation's issuer is not among the trusted issuers")
	ErrUnknownDomain = errors.New("the SPIFFE ID's trust domain is not among the trusted ones")
	ErrRevokedDomain = errors.New("the trust domain's bundle holds no keys: nothing of it is accepted")
	ErrSPIFFEID      = errors.New("the attestation's subject is not the SPIFFE ID of a workload")
	ErrHeader        = errors.New("the JWT-SVID has a header other than alg, kid and typ")
	ErrAlgorithm     = errors.New("the attestation's algorithm is not one that is accepted for its kind")
	ErrType          = errors.New("the attestation is another kind of token")
	ErrUnknownKey    = errors.New("the attestation's key is not among its issuer's keys")
	ErrSignature     = errors.New("the attestation's signature does not verify")
	ErrClaims        = errors.New("the attestation lacks a claim")
	ErrRequired      = errors.New("the attestation does not say what the configuration requires of its issuer's tokens")
	ErrAudience      = errors.New("the attestation is for another audience")
	ErrExpired       = errors.New("the attestation has expired")
	ErrNotYet        = errors.New("the attestation is not valid yet")
	ErrTooOld        = errors.New("the attestation was issued more than 10 minutes ago")
	ErrStatus        = errors.New("the attestation is not valid by its issuer's status list")
	ErrTooLong       = errors.New("the JWT-SVID does not say when it was issued and is valid for more than an hour")
	// ErrUnavailable: the issuer's keys or the trust domain's bundle cannot be read now.
	// Trying again may help.
	ErrUnavailable = errors.New("the issuer's keys cannot be read")
)

// MaxAge is how long after it was issued an attestation counts at most.
const MaxAge = 10 * time.Minute

const (
	leeway  = 5 * time.Second
	maxAge  = MaxAge
	maxLife = time.Hour // of a JWT-SVID without iat
	maxSize = 16 << 10  // bytes of token text
)

// Attested is what a verified attestation proves.
type Attested struct {
	Issuer   string    // of an SVID: "spiffe://" and the trust domain
	Subject  string    // of an SVID: the whole SPIFFE ID
	ID       string    // jti, may be empty
	IssuedAt time.Time // zero when a JWT-SVID does not say
	Expires  time.Time
	// Claims are those that policies may decide by, as the configuration names them; nil
	// when there are none. They are not secret: they are recorded with decisions.
	Claims map[string]string
}

// Clients fetch key sets: Outbound from the outside world, Local from loopback for
// issuers that are marked local.
type Clients struct {
	Outbound *http.Client
	Local    *http.Client
}

// Config is whose attestations are accepted, and for whom they must be.
type Config struct {
	Issuers      []config.TrustedIssuer
	TrustDomains []config.TrustDomain
	ChainFrom    []config.ChainIssuer // whose grants are accepted; see VerifyGrant
	// Audience is what tokens must be for where an issuer does not say otherwise.
	Audience string
	Clients  Clients
	Now      func() time.Time
	Log      *zap.Logger // nil: nothing is logged
}

// Verifier is safe for concurrent use.
type Verifier struct {
	issuers  map[string]*issuer
	domains  map[spiffeid.TrustDomain]*domain
	chained  map[string]*keySet
	audience string
	now      func() time.Time
}

type issuer struct {
	audience string
	keys     *keySet
	required []requirement
	shown    shown
	statuses *statusLists
}

// New checks the configuration. Nothing is read before the first attestation.
func New(c Config) (*Verifier, error) {
	if c.Log == nil {
		c.Log = zap.NewNop()
	}
	v := &Verifier{issuers: make(map[string]*issuer, len(c.Issuers)), domains: make(map[spiffeid.TrustDomain]*domain, len(c.TrustDomains)),
		chained: make(map[string]*keySet, len(c.ChainFrom)), audience: c.Audience, now: c.Now}
	for _, t := range c.Issuers {
		if err := v.addIssuer(t, c); err != nil {
			return nil, fmt.Errorf("trusted issuer %q: %w", t.Issuer, err)
		}
	}
	for _, t := range c.TrustDomains {
		if err := v.addDomain(t, c); err != nil {
			return nil, fmt.Errorf("trust domain %q: %w", t.TrustDomain, err)
		}
	}
	for _, t := range c.ChainFrom {
		if err := v.addChained(t, c); err != nil {
			return nil, fmt.Errorf("chained issuer %q: %w", t.Issuer, err)
		}
	}
	return v, nil
}

func (v *Verifier) addIssuer(t config.TrustedIssuer, c Config) error {
	switch {
	case t.Issuer == "":
		return errors.New("issuer is empty")
	case v.issuers[t.Issuer] != nil:
		return errors.New("listed twice")
	}
	src, err := newSource(t.JWKS, t.Local, c.Clients)
	if err != nil {
		return err
	}
	aud := cmp.Or(t.Audience, c.Audience)
	if aud == "" {
		return errors.New("no audience")
	}
	required, err := requirements(t.Claims)
	if err != nil {
		return err
	}
	toPolicies, err := policyClaims(t.PolicyClaims)
	if err != nil {
		return err
	}
	keys := newKeySet(src, t.Issuer, c)
	client := c.Clients.Outbound
	if t.Local {
		client = c.Clients.Local
	}
	v.issuers[t.Issuer] = &issuer{audience: aud, keys: keys, required: required, shown: toPolicies,
		statuses: &statusLists{client: client, local: t.Local, keys: keys, config: c}}
	return nil
}

// Issuers lists the trusted issuers and, as "spiffe://" and name, the trust domains,
// sorted.
func (v *Verifier) Issuers() []string {
	out := make([]string, 0, len(v.issuers)+len(v.domains))
	for i := range v.issuers {
		out = append(out, i)
	}
	for d := range v.domains {
		out = append(out, d.IDString())
	}
	slices.Sort(out)
	return out
}

// Verify checks raw as RFC 7519 section 7.2 and RFC 8725 ask: canonical text, alg of
// the allow-list and of the key, signature, sole audience, times with 5 s leeway, at
// most 10 minutes since iat. A token whose sub is a SPIFFE ID is checked as a JWT-SVID
// (its specification, sections 2 to 4), any other as an OIDC token of the issuer that
// iss names byte for byte, and looked up when it names a status list. Errors wrap one of the errors of this package.
func (v *Verifier) Verify(ctx context.Context, raw string) (Attested, error) {
	h, c, err := parse(raw)
	if err != nil {
		return Attested{}, err
	}
	if claimsSPIFFE(c.Subject) {
		return v.verifySVID(ctx, raw, h, c)
	}
	if err := h.check(); err != nil {
		return Attested{}, err
	}
	iss := v.issuers[c.Issuer]
	if iss == nil {
		return Attested{}, ErrUnknownIssuer
	}
	key, err := iss.keys.find(ctx, h.KeyID, h.Algorithm)
	if err != nil {
		return Attested{}, err
	}
	if err := verifySignature(raw, algorithms, key); err != nil {
		return Attested{}, err
	}
	if c.IssuedAt == nil {
		return Attested{}, fmt.Errorf("%w: iat", ErrClaims)
	}
	a, err := c.check(iss.audience, v.now())
	if err != nil {
		return Attested{}, err
	}
	if err := c.require(iss.required); err != nil {
		return Attested{}, err
	}
	if err := iss.statuses.check(ctx, c); err != nil {
		return Attested{}, err
	}
	a.Claims = iss.shown.of(c)
	return a, nil
}

func verifySignature(raw string, allowed []jose.SignatureAlgorithm, key any) error {
	jws, err := jose.ParseSignedCompact(raw, allowed)
	if err != nil {
		return ErrMalformed
	}
	if _, err := jws.Verify(key); err != nil {
		return ErrSignature
	}
	return nil
}

// algorithms of OIDC tokens.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.EdDSA}

type header struct {
	Algorithm string         `json:"alg"`
	KeyID     string         `json:"kid"`
	Type      string         `json:"typ"`
	Critical  jsontext.Value `json:"crit"`

	Others map[string]jsontext.Value `json:",embed"`
}

// check applies the rules for headers of OIDC tokens.
func (h header) check() error {
	if !slices.Contains(algorithms, jose.SignatureAlgorithm(h.Algorithm)) {
		return fmt.Errorf("%w: want RS256, ES256 or EdDSA", ErrAlgorithm)
	}
	switch strings.TrimPrefix(strings.ToLower(h.Type), "application/") {
	case "", "jwt", "jose":
		return nil
	}
	return ErrType
}

type claims struct {
	Issuer    string    `json:"iss"`
	Subject   string    `json:"sub"`
	Audience  audiences `json:"aud"`
	Expires   *number   `json:"exp"`
	NotBefore *number   `json:"nbf"`
	IssuedAt  *number   `json:"iat"`
	ID        string    `json:"jti"`

	Status jsontext.Value `json:"status"` // see statusLists

	text jsontext.Value // all of them
}

// number is a NumericDate (RFC 7519 section 2): seconds, perhaps with a fraction.
type number float64

// time is kept between 1970 and 9999, so that no number overflows.
func (n number) time() time.Time {
	const year9999 = 253402300799
	return time.UnixMilli(int64(max(0, min(float64(n), year9999)) * 1000))
}

// audiences is a string or an array of strings.
type audiences []string

// UnmarshalJSON implements json.Unmarshaler.
func (s *audiences) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		var one string
		err := json.Unmarshal(b, &one)
		*s = audiences{one}
		return err
	}
	return json.Unmarshal(b, (*[]string)(s))
}

// strict refuses padding and unused bits that are set.
var strict = base64.RawURLEncoding.Strict()

// parse reads header and claims of a compact JWS without trusting them. It accepts
// one text per token: go-jose alone would take several.
func parse(raw string) (header, claims, error) {
	var h header
	var c claims
	if len(raw) > maxSize {
		return h, c, fmt.Errorf("%w: more than %d bytes", ErrMalformed, maxSize)
	}
	parts := strings.Split(raw, ".")
	if len(parts) != 3 || strings.ContainsAny(raw, "\r\n") {
		return h, c, fmt.Errorf("%w: want three parts on one line", ErrMalformed)
	}
	var decoded [3][]byte
	for i, p := range parts {
		b, err := strict.DecodeString(p)
		if err != nil {
			return h, c, fmt.Errorf("%w: part %d is not canonical base64url", ErrMalformed, i+1)
		}
		decoded[i] = b
	}
	if err := json.Unmarshal(decoded[0], &h); err != nil {
		return h, c, fmt.Errorf("%w: header", ErrMalformed)
	}
	if h.Critical != nil {
		return h, c, fmt.Errorf("%w: critical header extensions are not supported", ErrMalformed)
	}
	if err := json.Unmarshal(decoded[1], &c); err != nil {
		return h, c, fmt.Errorf("%w: claims", ErrMalformed)
	}
	c.text = decoded[1]
	return h, c, nil
}

// check compares verified claims with what is wanted now.
func (c claims) check(audience string, now time.Time) (Attested, error) {
	switch {
	case c.Subject == "" || len(c.Subject) > 1024:
		return Attested{}, fmt.Errorf("%w: sub", ErrClaims)
	case c.Expires == nil:
		return Attested{}, fmt.Errorf("%w: exp", ErrClaims)
	case len(c.Audience) != 1 || c.Audience[0] != audience:
		return Attested{}, fmt.Errorf("%w: want %q as its only aud", ErrAudience, audience)
	}
	a := Attested{Issuer: c.Issuer, Subject: c.Subject, ID: c.ID, Expires: c.Expires.time()}
	if c.IssuedAt != nil {
		a.IssuedAt = c.IssuedAt.time()
	}
	switch {
	case !now.Add(-leeway).Before(a.Expires):
		return Attested{}, ErrExpired
	case c.IssuedAt != nil && now.Add(leeway).Before(a.IssuedAt), c.NotBefore != nil && now.Add(leeway).Before(c.NotBefore.time()):
		return Attested{}, ErrNotYet
	case c.IssuedAt != nil && now.Add(-maxAge-leeway).After(a.IssuedAt):
		return Attested{}, ErrTooOld
	}
	return a, nil
}
