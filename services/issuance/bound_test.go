package issuance

import (
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/grant"
)

// proof is a DPoP proof as a client's library makes it.
func (s *signer) proof(method, target, nonce string, change ...func(map[string]any)) string {
	c := map[string]any{"jti": id(), "htm": method, "htu": target, "iat": time.Now().Unix()}
	if nonce != "" {
		c["nonce"] = nonce
	}
	for _, f := range change {
		f(c)
	}
	return s.sign(c, (&jose.SignerOptions{EmbedJWK: true}).WithType("dpop+jwt"))
}

func (s *signer) thumbprint() string {
	sum, err := (&jose.JSONWebKey{Key: s.key.Public()}).Thumbprint(crypto.SHA256)
	require.NoError(s.t, err)
	return base64.RawURLEncoding.EncodeToString(sum)
}

// prove posts a token request with DPoP headers.
func (w *world) prove(form url.Values, proofs ...string) answer {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.url+"/oauth2/token", strings.NewReader(form.Encode()))
	require.NoError(w.t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header["Dpop"] = proofs
	return send(w.t, http.DefaultClient, r)
}

func send(t *testing.T, c *http.Client, r *http.Request) answer {
	t.Helper()
	resp, err := c.Do(r)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	a := answer{status: resp.StatusCode, header: resp.Header}
	require.NoError(t, json.Unmarshal(body, &a), string(body))
	return a
}

// nonce is the one the server asks for.
func (w *world) nonce(s *signer) string {
	w.t.Helper()
	a := w.prove(w.bearer("bot"), s.proof("POST", w.url+"/oauth2/token", ""))
	require.Equal(w.t, "use_dpop_nonce", a.Error, a.Description)
	require.Equal(w.t, 400, a.status)
	require.NotEmpty(w.t, a.header.Get("DPoP-Nonce"))
	return a.header.Get("DPoP-Nonce")
}

// TestDPoP: the dance of RFC 9449 from the nonce to the resource server, with go-jose on
// the client's side.
func TestDPoP(t *testing.T) {
	w := newWorld(t)
	w.declare("acme", agent("bot"))
	w.declare("acme", agent("helper"))
	key, thief := newSigner(t, ""), newSigner(t, "")
	endpoint, nonce := w.url+"/oauth2/token", w.nonce(key)
	proof := key.proof("POST", endpoint, nonce)
	a := w.prove(w.bearer("bot"), proof)
	require.Equal(t, 200, a.status, a.Description)
	require.Equal(t, "DPoP", a.TokenType)
	require.Equal(t, nonce, a.header.Get("DPoP-Nonce"))
	c := w.claims(a.AccessToken)
	require.Equal(t, key.thumbprint(), c.Confirm.JKT)
	require.Empty(t, c.Confirm.X5TS)

	g := w.resource()
	use := func(raw, scheme string, s *signer) error {
		r := httptest.NewRequest("GET", "https://a.example/things", nil)
		r.Header.Set("Authorization", scheme+" "+raw)
		if s != nil {
			sum := sha256.Sum256([]byte(raw))
			r.Header.Set("DPoP", s.proof("GET", "https://a.example/things", "", func(c map[string]any) {
				c["ath"] = base64.RawURLEncoding.EncodeToString(sum[:])
			}))
		}
		_, err := g.Check(t.Context(), guard.Request{Token: raw, HTTP: r, Scopes: []string{"read"}})
		return err
	}
	require.NoError(t, use(a.AccessToken, "DPoP", key))
	require.Error(t, use(a.AccessToken, "DPoP", thief))
	require.Error(t, use(a.AccessToken, "Bearer", nil))

	for name, c := range map[string]struct {
		proofs []string
		code   string
	}{
		"replayed":            {[]string{proof}, "invalid_dpop_proof"},
		"two of them":         {[]string{key.proof("POST", endpoint, nonce), key.proof("POST", endpoint, nonce)}, "invalid_dpop_proof"},
		"another method":      {[]string{key.proof("GET", endpoint, nonce)}, "invalid_dpop_proof"},
		"another URL":         {[]string{key.proof("POST", w.url+"/oauth2/introspect", nonce)}, "invalid_dpop_proof"},
		"a query":             {[]string{key.proof("POST", endpoint+"?a=b", nonce)}, "invalid_dpop_proof"},
		"a nonce of nobody":   {[]string{key.proof("POST", endpoint, "x")}, "use_dpop_nonce"},
		"old":                 {[]string{key.proof("POST", endpoint, nonce, func(c map[string]any) { c["iat"] = time.Now().Unix() - 90 })}, "invalid_dpop_proof"},
		"of tomorrow":         {[]string{key.proof("POST", endpoint, nonce, func(c map[string]any) { c["iat"] = time.Now().Unix() + 60 })}, "invalid_dpop_proof"},
		"no jti":              {[]string{key.proof("POST", endpoint, nonce, func(c map[string]any) { delete(c, "jti") })}, "invalid_dpop_proof"},
		"no proof at all":     {[]string{"x"}, "invalid_dpop_proof"},
		"an access token":     {[]string{a.AccessToken}, "invalid_dpop_proof"},
		"its key not with it": {[]string{key.sign(map[string]any{"jti": "a", "htm": "POST", "htu": endpoint, "iat": time.Now().Unix(), "nonce": nonce}, (&jose.SignerOptions{}).WithType("dpop+jwt"))}, "invalid_dpop_proof"},
		"a client assertion":  {[]string{key.sign(map[string]any{"jti": "a", "htm": "POST", "htu": endpoint, "iat": time.Now().Unix(), "nonce": nonce}, (&jose.SignerOptions{EmbedJWK: true}).WithType("JWT"))}, "invalid_dpop_proof"},
	} {
		got := w.prove(w.bearer("bot"), c.proofs...)
		require.Equal(t, c.code, got.Error, name)
		require.Equal(t, 400, got.status, name)
	}

	// A bound credential is exchanged by its key only, and stays bound to it.
	require.Equal(t, "invalid_grant", w.post(w.exchange(a.AccessToken, "helper")).Error)
	require.Equal(t, "invalid_grant", w.prove(w.exchange(a.AccessToken, "helper"), thief.proof("POST", endpoint, nonce)).Error)
	child := w.prove(w.exchange(a.AccessToken, "helper"), key.proof("POST", endpoint, nonce))
	require.Equal(t, 200, child.status, child.Description)
	require.Equal(t, "DPoP", child.TokenType)
	require.Equal(t, key.thumbprint(), w.claims(child.AccessToken).Confirm.JKT)

	// What was bound to nothing may become bound.
	plain, _ := w.issue(w.bearer("bot"))
	child = w.prove(w.exchange(plain, "helper"), thief.proof("POST", endpoint, nonce))
	require.Equal(t, thief.thumbprint(), w.claims(child.AccessToken).Confirm.JKT)
	require.NoError(t, use(child.AccessToken, "DPoP", thief))
}

// TestDPoPNonceKeepsAssertion: a client that must come again with a nonce sends the same
// client assertion again; the first request did not use it up.
func TestDPoPNonceKeepsAssertion(t *testing.T) {
	w := newWorld(t)
	s := newSigner(t, "k")
	w.declare("acme", ownKeys("bot", s))
	form := asClient(grant.AssertionJWT, s.assertion("bot", w.url))
	a := w.prove(form, s.proof("POST", w.url+"/oauth2/token", ""))
	require.Equal(t, "use_dpop_nonce", a.Error)
	a = w.prove(form, s.proof("POST", w.url+"/oauth2/token", a.header.Get("DPoP-Nonce")))
	require.Equal(t, 200, a.status, a.Description)
}

// TestDPoPNonceOptional: where the configuration says so, a proof without nonce does.
func TestDPoPNonceOptional(t *testing.T) {
	w := newWorld(t, func(w *world) { w.configure = func(c *config.Config) { c.Issuance.DPoPNonce = config.NonceOptional } })
	w.declare("acme", agent("bot"))
	s := newSigner(t, "")
	require.Equal(t, "DPoP", w.prove(w.bearer("bot"), s.proof("POST", w.url+"/oauth2/token", "")).TokenType)
	require.Equal(t, "use_dpop_nonce", w.prove(w.bearer("bot"), s.proof("POST", w.url+"/oauth2/token", "stale")).Error)
}

// TestCertificateBound: a client certificate at the token endpoint binds the token (RFC
// 8705); the guard takes it with that certificate only, and so does an exchange.
func TestCertificateBound(t *testing.T) {
	ca := newSPIFFECA(t, "prod.example.org")
	w := svidWorld(t, ca)
	const spiffe = botSVID
	w.declare("acme", agent("helper"))
	tlsURL, client := w.overTLS()
	ask := func(form url.Values, certificates ...tls.Certificate) answer {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, tlsURL+"/oauth2/token", strings.NewReader(form.Encode()))
		require.NoError(t, err)
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		return send(t, client(certificates...), r)
	}
	mine, other := ca.certificate(t, "/agents/bot"), newSPIFFECA(t, "x.example").certificate(t, "/w")
	first := ask(url.Values{"grant_type": {grant.GrantClient}, "client_id": {spiffe}, "task": {"t"}, "scope": {"read"}, "audience": {"https://a.example"}}, mine)
	require.Equal(t, 200, first.status, first.Description)
	require.Equal(t, "Bearer", first.TokenType, "RFC 8705 section 3: the type does not change")
	sum := sha256.Sum256(mine.Certificate[0])
	thumb := base64.RawURLEncoding.EncodeToString(sum[:])
	require.Equal(t, thumb, w.claims(first.AccessToken).Confirm.X5TS)

	g := w.resource()
	use := func(raw string, der []byte) error {
		r := httptest.NewRequest("GET", "https://a.example/things", nil)
		r.Header.Set("Authorization", "Bearer "+raw)
		if der != nil {
			leaf, err := x509.ParseCertificate(der)
			require.NoError(t, err)
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}
		}
		_, err := g.Check(t.Context(), guard.Request{Token: raw, HTTP: r})
		return err
	}
	require.NoError(t, use(first.AccessToken, mine.Certificate[0]))
	require.Error(t, use(first.AccessToken, other.Certificate[0]))
	require.Error(t, use(first.AccessToken, nil))

	exchange := w.exchange(first.AccessToken, "helper")
	require.Equal(t, "invalid_grant", ask(exchange).Error)
	require.Equal(t, "invalid_grant", ask(exchange, other).Error)
	child := ask(exchange, mine)
	require.Equal(t, 200, child.status, child.Description)
	require.Equal(t, thumb, w.claims(child.AccessToken).Confirm.X5TS)
	require.NoError(t, use(child.AccessToken, mine.Certificate[0]))

	// Any certificate binds, also one that says nothing about who the workload is.
	bound := ask(w.bearer("helper"), other)
	require.NoError(t, use(bound.AccessToken, other.Certificate[0]))
	require.Error(t, use(bound.AccessToken, mine.Certificate[0]))
}
