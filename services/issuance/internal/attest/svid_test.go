package attest_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/attest"
)

const (
	td  = "example.org"
	sub = "spiffe://example.org/ns/prod/agent"
)

// authority is a SPIFFE CA whose bundle is a file made by go-spiffe.
type authority struct {
	t      *testing.T
	clock  *clock
	ec     *ecdsa.PrivateKey
	ec384  *ecdsa.PrivateKey
	ec521  *ecdsa.PrivateKey
	rs     *rsa.PrivateKey
	other  *ecdsa.PrivateKey
	bundle *spiffebundle.Bundle
	path   string
	v      *attest.Verifier
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, clock: newClock(), path: filepath.Join(t.TempDir(), "bundle.json")}
	for curve, k := range map[elliptic.Curve]**ecdsa.PrivateKey{elliptic.P256(): &a.ec, elliptic.P384(): &a.ec384, elliptic.P521(): &a.ec521} {
		var err error
		*k, err = ecdsa.GenerateKey(curve, rand.Reader)
		require.NoError(t, err)
	}
	var err error
	a.other, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	a.rs, err = rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	a.bundle = spiffebundle.New(spiffeid.RequireTrustDomainFromString(td))
	for kid, k := range map[string]crypto.Signer{"ec": a.ec, "ec384": a.ec384, "ec521": a.ec521, "rs": a.rs} {
		require.NoError(t, a.bundle.AddJWTAuthority(kid, k.Public()))
	}
	a.bundle.SetSequenceNumber(7)
	a.publish()
	a.v = a.verifier("file://" + a.path)
	return a
}

func (a *authority) verifier(bundle string) *attest.Verifier {
	v, err := attest.New(attest.Config{TrustDomains: []config.TrustDomain{{TrustDomain: td, Bundle: bundle, Local: true}}, Audience: aud,
		Issuers: []config.TrustedIssuer{{Issuer: iss, JWKS: "file://" + a.path}},
		Clients: attest.Clients{Local: attest.LoopbackClient()}, Now: a.clock.now})
	require.NoError(a.t, err)
	return v
}

func (a *authority) publish() {
	b, err := a.bundle.Marshal()
	require.NoError(a.t, err)
	a.write(string(b))
}

// write replaces the bundle's file as an operator should: with another file.
func (a *authority) write(text string) {
	require.NoError(a.t, os.WriteFile(a.path+".new", []byte(text), 0o600))
	require.NoError(a.t, os.Rename(a.path+".new", a.path))
}

func svid() m {
	return m{"sub": sub, "aud": []string{aud}, "iat": t0.Unix(), "exp": t0.Add(5 * time.Minute).Unix()}
}

func svidWith(k string, v any) m {
	c := svid()
	if c[k] = v; v == nil {
		delete(c, k)
	}
	return c
}

func (a *authority) sign(alg jose.SignatureAlgorithm, key any, kid string, claims m, headers ...m) string {
	return signed(a.t, alg, key, kid, claims, headers...)
}

// signed makes a token with go-jose: an implementation that is not ours.
func signed(t *testing.T, alg jose.SignatureAlgorithm, key any, kid string, claims m, headers ...m) string {
	t.Helper()
	opts := &jose.SignerOptions{}
	for _, h := range headers {
		for k, v := range h {
			opts = opts.WithHeader(jose.HeaderKey(k), v)
		}
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, opts)
	require.NoError(t, err)
	body, err := json.Marshal(claims)
	require.NoError(t, err)
	jws, err := s.Sign(body)
	require.NoError(t, err)
	out, err := jws.CompactSerialize()
	require.NoError(t, err)
	return out
}

func TestAcceptsEachAlgorithmOfJWTSVIDs(t *testing.T) {
	a := newAuthority(t)
	a.clock.set(time.Now())
	now := time.Now()
	claims := m{"sub": sub, "aud": aud, "iat": now.Unix(), "exp": now.Add(time.Minute).Unix(), "iss": "https://evil.example", "jti": "j"}
	for alg, k := range map[jose.SignatureAlgorithm]struct {
		kid string
		key any
	}{jose.ES256: {"ec", a.ec}, jose.ES384: {"ec384", a.ec384}, jose.ES512: {"ec521", a.ec521},
		jose.RS256: {"rs", a.rs}, jose.RS384: {"rs", a.rs}, jose.RS512: {"rs", a.rs},
		jose.PS256: {"rs", a.rs}, jose.PS384: {"rs", a.rs}, jose.PS512: {"rs", a.rs}} {
		for _, h := range []m{{}, {"typ": "JWT"}, {"typ": "JOSE"}} {
			raw := a.sign(alg, k.key, k.kid, claims, h)
			got, err := a.v.Verify(context.Background(), raw)
			require.NoError(t, err, "%s %v", alg, h)
			require.Equal(t, attest.Attested{Issuer: "spiffe://example.org", Subject: sub, ID: "j",
				IssuedAt: time.Unix(now.Unix(), 0), Expires: time.Unix(now.Add(time.Minute).Unix(), 0)}, got)
			_, err = jwtsvid.ParseAndValidate(raw, a.bundle, []string{aud})
			require.NoError(t, err, "go-spiffe agrees on %s %v", alg, h)
		}
	}
	require.Equal(t, []string{iss, "spiffe://example.org"}, a.v.Issuers())
}

func TestKeyIDOfJWTSVIDsIsOptional(t *testing.T) {
	a := newAuthority(t)
	_, err := a.v.Verify(context.Background(), a.sign(jose.ES256, a.ec, "", svid()))
	require.NoError(t, err, "one key fits")
	require.NoError(t, a.bundle.AddJWTAuthority("ec2", a.other.Public()))
	a.publish()
	_, err = a.v.Verify(context.Background(), a.sign(jose.ES256, a.ec, "", svid()))
	require.ErrorIs(t, err, attest.ErrUnknownKey, "two keys fit: no guessing")
}

func TestRefusesJWTSVIDs(t *testing.T) {
	a := newAuthority(t)
	ok := strings.Split(a.sign(jose.ES256, a.ec, "ec", svid()), ".")
	tests := map[string]struct {
		raw  string
		want error
	}{
		"forged":                   {a.sign(jose.ES256, a.other, "ec", svid()), attest.ErrSignature},
		"algorithm of another key": {a.sign(jose.ES256, a.ec, "ec384", svid()), attest.ErrUnknownKey},
		"unknown kid":              {a.sign(jose.ES256, a.ec, "gone", svid()), attest.ErrUnknownKey},
		"kid is a path":            {a.sign(jose.ES256, a.other, "../../../etc/passwd", svid()), attest.ErrUnknownKey},
		"kid is a URL":             {a.sign(jose.ES256, a.other, "https://evil.example/k", svid()), attest.ErrUnknownKey},
		"alg none":                 {b64(`{"alg":"none"}`) + "." + ok[1] + ".", attest.ErrAlgorithm},
		"doubled sub":              {ok[0] + "." + b64(`{"sub":"`+sub+`","sub":"spiffe://example.org/admin"}`) + "." + ok[2], attest.ErrMalformed},
		"doubled kid":              {b64(`{"alg":"ES256","kid":"ec","kid":"ec384"}`) + "." + ok[1] + "." + ok[2], attest.ErrMalformed},
		"typ at+jwt":               {a.sign(jose.ES256, a.ec, "ec", svid(), m{"typ": "at+jwt"}), attest.ErrType},
		"typ in lower case":        {a.sign(jose.ES256, a.ec, "ec", svid(), m{"typ": "jwt"}), attest.ErrType},
		"cty":                      {a.sign(jose.ES256, a.ec, "ec", svid(), m{"cty": "JWT"}), attest.ErrHeader},
		"private header":           {a.sign(jose.ES256, a.ec, "ec", svid(), m{"x": 1}), attest.ErrHeader},
		"jku":                      {a.sign(jose.ES256, a.other, "ec", svid(), m{"jku": "https://evil.example"}), attest.ErrHeader},
		"x5u":                      {a.sign(jose.ES256, a.other, "ec", svid(), m{"x5u": "https://evil.example"}), attest.ErrHeader},
		"jwk":                      {a.sign(jose.ES256, a.other, "ec", svid(), m{"jwk": jose.JSONWebKey{Key: a.other.Public()}}), attest.ErrHeader},
		"another trust domain":     {a.sign(jose.ES256, a.ec, "ec", svidWith("sub", "spiffe://evil.example/x")), attest.ErrUnknownDomain},
		"the iss is trusted":       {a.sign(jose.ES256, a.ec, "ec", m{"iss": iss, "sub": "spiffe://evil.example/x", "aud": aud, "iat": t0.Unix(), "exp": t0.Unix() + 60}), attest.ErrUnknownDomain},
		"a whole trust domain":     {a.sign(jose.ES256, a.ec, "ec", svidWith("sub", "spiffe://example.org")), attest.ErrSPIFFEID},
		"upper case scheme":        {a.sign(jose.ES256, a.ec, "ec", svidWith("sub", "SPIFFE://example.org/x")), attest.ErrSPIFFEID},
		"upper case domain":        {a.sign(jose.ES256, a.ec, "ec", svidWith("sub", "spiffe://Example.org/x")), attest.ErrSPIFFEID},
		"dots in the path":         {a.sign(jose.ES256, a.ec, "ec", svidWith("sub", "spiffe://example.org/a/../b")), attest.ErrSPIFFEID},
		"query":                    {a.sign(jose.ES256, a.ec, "ec", svidWith("sub", "spiffe://example.org/a?b")), attest.ErrSPIFFEID},
		"no aud":                   {a.sign(jose.ES256, a.ec, "ec", svidWith("aud", nil)), attest.ErrAudience},
		"wrong aud":                {a.sign(jose.ES256, a.ec, "ec", svidWith("aud", "https://other.example")), attest.ErrAudience},
		"several aud":              {a.sign(jose.ES256, a.ec, "ec", svidWith("aud", []string{aud, "https://other.example"})), attest.ErrAudience},
		"no exp":                   {a.sign(jose.ES256, a.ec, "ec", svidWith("exp", nil)), attest.ErrClaims},
		"expired":                  {a.sign(jose.ES256, a.ec, "ec", svidWith("exp", t0.Add(-6*time.Second).Unix())), attest.ErrExpired},
		"from the future":          {a.sign(jose.ES256, a.ec, "ec", svidWith("iat", t0.Add(6*time.Second).Unix())), attest.ErrNotYet},
		"nbf in the future":        {a.sign(jose.ES256, a.ec, "ec", svidWith("nbf", t0.Add(6*time.Second).Unix())), attest.ErrNotYet},
		"too old":                  {a.sign(jose.ES256, a.ec, "ec", svidWith("iat", t0.Add(-10*time.Minute-6*time.Second).Unix())), attest.ErrTooOld},
		"no iat, for ever":         {a.sign(jose.ES256, a.ec, "ec", m{"sub": sub, "aud": aud, "exp": t0.Add(61 * time.Minute).Unix()}), attest.ErrTooLong},
	}
	for name, c := range tests {
		_, err := a.v.Verify(context.Background(), c.raw)
		require.ErrorIs(t, err, c.want, name)
	}
	for name, raw := range map[string]string{
		"no iat, soon over": a.sign(jose.ES256, a.ec, "ec", m{"sub": sub, "aud": aud, "exp": t0.Add(time.Minute).Unix()}),
		"5 s behind":        a.sign(jose.ES256, a.ec, "ec", svidWith("exp", t0.Add(-4*time.Second).Unix())),
		"5 s ahead":         a.sign(jose.ES256, a.ec, "ec", svidWith("iat", t0.Add(5*time.Second).Unix())),
	} {
		_, err := a.v.Verify(context.Background(), raw)
		require.NoError(t, err, name)
	}
}

// TestOIDCTokenIsNotAnSVID: the keys of an issuer do not speak for a trust domain, nor
// the other way round.
func TestOIDCTokenIsNotAnSVID(t *testing.T) {
	w := newWorld(t)
	claims := good()
	claims["sub"] = sub
	_, err := w.v.Verify(context.Background(), w.sign(jose.ES256, w.ec, "ec", "JWT", claims))
	require.ErrorIs(t, err, attest.ErrUnknownDomain)
	a := newAuthority(t) // its bundle is also the key set of iss
	_, err = a.v.Verify(context.Background(), a.sign(jose.ES256, a.ec, "ec", good()))
	require.ErrorIs(t, err, attest.ErrUnknownKey, "keys with use jwt-svid sign SVIDs only")
}

func TestBundleFileIsReadAgain(t *testing.T) {
	a := newAuthority(t)
	verify := func(key *ecdsa.PrivateKey, kid string) error {
		now := a.clock.now()
		_, err := a.v.Verify(context.Background(), a.sign(jose.ES256, key, kid, m{"sub": sub, "aud": aud, "iat": now.Unix(), "exp": now.Unix() + 60}))
		return err
	}
	require.NoError(t, verify(a.ec, "ec"))
	a.bundle.RemoveJWTAuthority("ec")
	require.NoError(t, a.bundle.AddJWTAuthority("ec2", a.other.Public()))
	a.bundle.SetSequenceNumber(8)
	a.publish()
	require.ErrorIs(t, verify(a.ec, "ec"), attest.ErrUnknownKey, "at once, without a wait")
	require.NoError(t, verify(a.other, "ec2"))

	a.bundle.SetSequenceNumber(6)
	require.NoError(t, a.bundle.AddJWTAuthority("ec", a.ec.Public()))
	a.publish()
	require.ErrorIs(t, verify(a.ec, "ec"), attest.ErrUnavailable, "an older bundle does not bring a key back")
	require.NoError(t, verify(a.other, "ec2"), "the newest bundle still counts")

	a.write(`{"keys":[`)
	require.NoError(t, verify(a.other, "ec2"), "a damaged file does not replace the last good one")
	a.clock.advance(time.Hour)
	require.ErrorIs(t, verify(a.other, "ec2"), attest.ErrUnavailable, "but not for longer than an hour")
	a.bundle.SetSequenceNumber(9)
	a.publish()
	require.NoError(t, verify(a.other, "ec2"))

	require.NoError(t, os.Remove(a.path))
	require.NoError(t, verify(a.other, "ec2"))
	a.write(`{"keys":[],"spiffe_sequence":1}`)
	require.ErrorIs(t, verify(a.other, "ec2"), attest.ErrRevokedDomain, "the kill switch needs no sequence")
	require.ErrorIs(t, verify(a.ec, "ec"), attest.ErrRevokedDomain)
	a.bundle.SetSequenceNumber(8)
	a.publish()
	require.ErrorIs(t, verify(a.other, "ec2"), attest.ErrRevokedDomain, "and an older bundle does not undo it")
	a.bundle.SetSequenceNumber(10)
	a.publish()
	require.NoError(t, verify(a.other, "ec2"))
}

func TestBundleEndpoint(t *testing.T) {
	a := newAuthority(t)
	var fetches atomic.Int64
	var down atomic.Bool
	var body atomic.Value
	publish := func(hint time.Duration) {
		a.bundle.SetRefreshHint(hint)
		b, err := a.bundle.Marshal()
		require.NoError(t, err)
		body.Store(b)
	}
	publish(time.Minute)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fetches.Add(1)
		if down.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		_, _ = w.Write(body.Load().([]byte))
	}))
	defer srv.Close()
	v := a.verifier(srv.URL)
	verify := func() error {
		now := a.clock.now()
		_, err := v.Verify(context.Background(), a.sign(jose.ES256, a.ec, "ec", m{"sub": sub, "aud": aud, "iat": now.Unix(), "exp": now.Unix() + 60}))
		return err
	}
	require.NoError(t, verify())
	a.clock.advance(59 * time.Second)
	require.NoError(t, verify())
	require.EqualValues(t, 1, fetches.Load(), "within the refresh hint it is not read again")
	publish(24 * time.Hour)
	a.clock.advance(time.Second)
	require.NoError(t, verify())
	require.EqualValues(t, 2, fetches.Load())
	a.clock.advance(15 * time.Minute)
	require.NoError(t, verify())
	require.EqualValues(t, 3, fetches.Load(), "however long the hint, every 15 minutes")

	down.Store(true)
	a.clock.advance(59 * time.Minute)
	require.NoError(t, verify(), "the last good bundle counts for an hour")
	a.clock.advance(time.Minute)
	require.ErrorIs(t, verify(), attest.ErrUnavailable)
	down.Store(false)
	body.Store([]byte(`{"keys": []}`))
	a.clock.advance(5 * time.Second)
	require.ErrorIs(t, verify(), attest.ErrRevokedDomain)
}

func TestBundlesThatAreRefused(t *testing.T) {
	a := newAuthority(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	text := func(k jose.JSONWebKey) string {
		b, err := json.Marshal(k)
		require.NoError(t, err)
		return string(b)
	}
	good := text(jose.JSONWebKey{Key: a.ec.Public(), KeyID: "ec", Use: "jwt-svid"})
	raw := a.sign(jose.ES256, a.ec, "ec", svid())
	for name, c := range map[string]struct {
		bundle string
		want   error
	}{
		"no keys member":       {`{"spiffe_sequence": 1}`, attest.ErrUnavailable},
		"keys null":            {`{"keys": null}`, attest.ErrUnavailable},
		"doubled keys":         {`{"keys": [], "keys": [` + good + `]}`, attest.ErrUnavailable},
		"doubled kid member":   {`{"keys": [` + strings.Replace(good, `"kid"`, `"kid":"x","kid"`, 1) + `]}`, attest.ErrUnavailable},
		"doubled kid":          {`{"keys": [` + good + `,` + good + `]}`, attest.ErrUnavailable},
		"no kid":               {`{"keys": [` + text(jose.JSONWebKey{Key: a.ec.Public(), Use: "jwt-svid"}) + `]}`, attest.ErrUnavailable},
		"private key":          {`{"keys": [` + text(jose.JSONWebKey{Key: a.ec, KeyID: "ec", Use: "jwt-svid"}) + `]}`, attest.ErrUnavailable},
		"weak RSA":             {`{"keys": [` + good + `,` + text(jose.JSONWebKey{Key: weak.Public(), KeyID: "w", Use: "jwt-svid"}) + `]}`, attest.ErrUnavailable},
		"negative sequence":    {`{"keys": [` + good + `], "spiffe_sequence": -1}`, attest.ErrUnavailable},
		"x509 without x5c":     {`{"keys": [` + good + `,` + text(jose.JSONWebKey{Key: a.ec.Public(), Use: "x509-svid"}) + `]}`, attest.ErrUnavailable},
		"two documents":        {`{"keys": [` + good + `]}{}`, attest.ErrUnavailable},
		"larger than 1 MiB":    {`{"keys": [` + good + `]` + strings.Repeat(" ", 1<<20) + `}`, attest.ErrUnavailable},
		"key for X.509 only":   {`{"keys": [` + text(jose.JSONWebKey{Key: a.ec.Public(), KeyID: "ec", Use: "sig"}) + `]}`, attest.ErrUnknownKey},
		"no use":               {`{"keys": [` + text(jose.JSONWebKey{Key: a.ec.Public(), KeyID: "ec"}) + `]}`, attest.ErrUnknownKey},
		"other alg":            {`{"keys": [` + text(jose.JSONWebKey{Key: a.ec.Public(), KeyID: "ec", Use: "jwt-svid", Algorithm: "ES384"}) + `]}`, attest.ErrUnknownKey},
		"unknown kinds beside": {`{"keys": [{"kty":"FOO","use":"jwt-svid","kid":"f"},{"kty":"EC","crv":"secp256k1","use":"jwt-svid","kid":"k","x":"AA","y":"AA"},` + good + `]}`, nil},
		"empty":                {`{"keys": []}`, attest.ErrRevokedDomain},
	} {
		a.write(c.bundle)
		_, err := a.verifier("file://"+a.path).Verify(context.Background(), raw)
		if c.want == nil {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorIs(t, err, c.want, name)
	}
}

func TestTrustDomainsThatAreRefused(t *testing.T) {
	for name, list := range map[string][]config.TrustDomain{
		"no name":      {{Bundle: "https://a.example"}},
		"an ID":        {{TrustDomain: "spiffe://example.org", Bundle: "https://a.example"}},
		"with a path":  {{TrustDomain: "example.org/x", Bundle: "https://a.example"}},
		"upper case":   {{TrustDomain: "Example.org", Bundle: "https://a.example"}},
		"twice":        {{TrustDomain: td, Bundle: "https://a.example"}, {TrustDomain: td, Bundle: "https://b.example"}},
		"no bundle":    {{TrustDomain: td}},
		"plain http":   {{TrustDomain: td, Bundle: "http://a.example"}},
		"with a user":  {{TrustDomain: td, Bundle: "https://u@a.example"}},
		"spiffe: URL":  {{TrustDomain: td, Bundle: "spiffe://example.org"}},
		"file on host": {{TrustDomain: td, Bundle: "file://host/x"}},
	} {
		_, err := attest.New(attest.Config{TrustDomains: list, Audience: aud, Now: time.Now,
			Clients: attest.Clients{Outbound: http.DefaultClient, Local: attest.LoopbackClient()}})
		require.Error(t, err, name)
	}
}
