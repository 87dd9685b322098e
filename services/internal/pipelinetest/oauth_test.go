package pipelinetest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
)

// oauthClient is a client without a platform, which uses the endpoints from outside.
type oauthClient struct {
	t   *testing.T
	s   *System
	key *ecdsa.PrivateKey
}

func (c *oauthClient) sign(claims map[string]any, o *jose.SignerOptions) string {
	claims["jti"] = rand.Text()
	g, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: c.key, KeyID: "k"}}, o)
	require.NoError(c.t, err)
	body, err := json.Marshal(claims)
	require.NoError(c.t, err)
	jws, err := g.Sign(body)
	require.NoError(c.t, err)
	raw, err := jws.CompactSerialize()
	require.NoError(c.t, err)
	return raw
}

// form is that of client_credentials with a fresh client assertion.
func (c *oauthClient) form(audience, scope string) url.Values {
	raw := c.sign(map[string]any{"iss": "laptop", "sub": "laptop", "aud": c.s.Issuer, "exp": time.Now().Add(time.Minute).Unix()}, (&jose.SignerOptions{}).WithType("JWT"))
	return url.Values{"grant_type": {"client_credentials"}, "client_assertion_type": {"urn:ietf:params:oauth:client-assertion-type:jwt-bearer"},
		"client_assertion": {raw}, "task": {"t"}, "scope": {scope}, "audience": {audience}}
}

func (c *oauthClient) proof(nonce string) string {
	return c.sign(map[string]any{"htm": "POST", "htu": c.s.Issuer + "/oauth2/token", "iat": time.Now().Unix(), "nonce": nonce},
		(&jose.SignerOptions{EmbedJWK: true}).WithType("dpop+jwt"))
}

type oauthAnswer struct {
	status      int
	nonce, body string
	Token       string `json:"access_token"`
	Type        string `json:"token_type"`
	Error       string `json:"error"`
	Description string `json:"error_description"`
}

func (c *oauthClient) post(path, proof, bearer string, form url.Values) oauthAnswer {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), http.MethodPost, c.s.Issuer+path, strings.NewReader(form.Encode()))
	require.NoError(c.t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if proof != "" {
		r.Header.Set("DPoP", proof)
	}
	if scheme := "Bearer "; bearer != "" {
		if proof != "" {
			scheme = "DPoP "
		}
		r.Header.Set("Authorization", scheme+bearer)
	}
	resp, err := http.DefaultClient.Do(r)
	require.NoError(c.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(c.t, err)
	a := oauthAnswer{status: resp.StatusCode, nonce: resp.Header.Get("DPoP-Nonce"), body: strings.TrimSpace(string(b))}
	if len(b) > 0 {
		require.NoError(c.t, json.Unmarshal(b, &a), a.body)
	}
	return a
}

// TestOAuthAcrossReplicas: behind a proxy, with two processes of each service that share
// nothing but Redis and the bus, under the permissions that the topology gives them: what
// one process has seen the other refuses, its nonces are good at the other, and a token
// that its holder revokes is dead at both when the answer comes.
func TestOAuthAcrossReplicas(t *testing.T) {
	s := Start(t, Options{Replicas: 2, Log: logger(t), Change: func(c *config.Config) {
		c.Issuance.ChainTo, c.Issuance.TransactionDomain = []string{"https://other.example"}, "prod.example"
	}})
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	c := &oauthClient{t, s, key}
	jwk, err := json.Marshal(jose.JSONWebKey{Key: key.Public(), KeyID: "k"})
	require.NoError(t, err)
	var public events.JWK
	require.NoError(t, json.Unmarshal(jwk, &public))
	operator, err := s.operator.Token(t.Context())
	require.NoError(t, err)
	body, err := json.Marshal(struct {
		Tenant string `json:"tenant"`
		events.Registration
	}{"acme", events.Registration{Identity: "laptop", Kind: events.KindServiceAccount, Owner: "alice", Feature: "cli", Purpose: "tests", KillSwitch: "identity",
		Scopes: []string{"read", "lanyard.introspect"}, Audiences: []string{"https://a.example", s.Issuer, "https://other.example", "prod.example"}, Keys: []events.JWK{public}}})
	require.NoError(t, err)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.Issuer+"/v1/identities", bytes.NewReader(body))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+operator)
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, 201, resp.StatusCode)

	// The balancer takes turns, so two requests in a row are of two processes.
	form := c.form("https://a.example", "read")
	first := c.post("/oauth2/token", c.proof(""), "", form)
	require.Equal(t, "use_dpop_nonce", first.Error, first.body)
	proof := c.proof(first.nonce)
	got := c.post("/oauth2/token", proof, "", form)
	require.Equal(t, "DPoP", got.Type, got.body)
	require.Equal(t, "invalid_client", c.post("/oauth2/token", c.proof(first.nonce), "", form).Error, "the assertion was used at the other process")
	for range 2 {
		require.Equal(t, "invalid_dpop_proof", c.post("/oauth2/token", proof, "", c.form("https://a.example", "read")).Error, "the proof too")
	}

	// A caller of the issuer's own API whose token is bound proves it by the issuer's URL.
	bound := c.post("/oauth2/token", c.proof(first.nonce), "", c.form(s.Issuer, "lanyard.introspect"))
	require.Equal(t, "DPoP", bound.Type, bound.body)
	sum := sha256.Sum256([]byte(bound.Token))
	use := c.sign(map[string]any{"htm": "POST", "htu": s.Issuer + "/oauth2/introspect", "iat": time.Now().Unix(),
		"ath": base64.RawURLEncoding.EncodeToString(sum[:])}, (&jose.SignerOptions{EmbedJWK: true}).WithType("dpop+jwt"))
	require.Contains(t, c.post("/oauth2/introspect", use, bound.Token, url.Values{"token": {got.Token}}).body, `"active":true`)

	introspector := c.post("/oauth2/token", "", "", c.form(s.Issuer, "lanyard.introspect"))
	require.Equal(t, 200, introspector.status, introspector.body)
	plain := c.post("/oauth2/token", "", "", c.form("https://a.example", "read"))
	live := func(raw string) bool {
		t.Helper()
		a := c.post("/oauth2/introspect", "", introspector.Token, url.Values{"token": {raw}})
		require.Equal(t, 200, a.status, a.body)
		return a.body != `{"active":false}`
	}
	require.True(t, live(got.Token))
	require.True(t, live(plain.Token))

	// A grant for another issuer, and a transaction: not delegations to anybody.
	for _, more := range []url.Values{{"audience": {"https://other.example"}},
		{"audience": {"prod.example"}, "scope": {"read"}, "requested_token_type": {"urn:ietf:params:oauth:token-type:txn_token"}}} {
		form := c.form("", "")
		form.Set("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange")
		form.Set("subject_token", plain.Token)
		form.Set("subject_token_type", "urn:ietf:params:oauth:token-type:access_token")
		form.Del("task")
		form.Del("scope")
		for name, values := range more {
			form[name] = values
		}
		a := c.post("/oauth2/token", "", "", form)
		require.Equal(t, "N_A", a.Type, a.body)
	}

	revoked := c.post("/oauth2/revoke", "", "", url.Values{"token": {got.Token}})
	require.Equal(t, 200, revoked.status, revoked.body)
	deadline := time.Now().Add(10 * time.Second)
	for dead := 0; dead < 2; dead++ { // one process has said that it is in force; the feed tells the other
		if live(got.Token) {
			dead = -1
			require.True(t, time.Now().Before(deadline), "still live at the other process")
		}
	}
	require.True(t, live(plain.Token))
	require.Equal(t, 200, c.post("/oauth2/revoke", "", "", url.Values{"token": {got.Token}}).status)

	conn := s.mustConnect(t)
	log, err := CheckLog(t.Context(), conn)
	require.NoError(t, err)
	require.Empty(t, log.Problems)
	require.Len(t, log.Revocations, 1)
}
