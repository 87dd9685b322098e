package issuance

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/stretchr/testify/require"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/lanyard-nhi/lanyard/services/issuance/internal/grant"
)

// TestGoOIDCVerifies: a resource server that knows only the issuer's URL finds the keys by
// discovery and verifies our tokens with a library nobody here wrote.
func TestGoOIDCVerifies(t *testing.T) {
	w := newWorld(t)
	w.declare("acme", agent("bot"))
	raw, claims := w.issue(w.bearer("bot"))

	provider, err := oidc.NewProvider(t.Context(), w.url)
	require.NoError(t, err)
	got, err := provider.Verifier(&oidc.Config{ClientID: "https://a.example"}).Verify(t.Context(), raw)
	require.NoError(t, err)
	require.Equal(t, "bot", got.Subject)
	require.Equal(t, claims.Expires, got.Expiry.Unix())
	var own struct {
		Tenant  string   `json:"tenant"`
		Task    string   `json:"task"`
		Lineage []string `json:"lin"`
	}
	require.NoError(t, got.Claims(&own))
	require.Equal(t, "acme", own.Tenant)
	require.Equal(t, "task-1", own.Task)
	require.Len(t, own.Lineage, len(claims.Lineage))

	_, err = provider.Verifier(&oidc.Config{ClientID: "https://b.example"}).Verify(t.Context(), raw)
	require.ErrorContains(t, err, "expected audience")
	_, err = provider.Verifier(&oidc.Config{ClientID: "https://a.example"}).Verify(t.Context(), raw[:len(raw)-8]+"AAAAAAAA")
	require.ErrorContains(t, err, "failed to verify signature")
	_, err = oidc.NewProvider(t.Context(), w.url+"/elsewhere")
	require.Error(t, err)
	require.Equal(t, w.url+"/oauth2/token", provider.Endpoint().TokenURL)
}

// source gets tokens as programs do: x/oauth2 with what its Config can say, endpoint by
// discovery.
func source(t *testing.T, w *world, grantType string, params url.Values) oauth2.TokenSource {
	t.Helper()
	provider, err := oidc.NewProvider(t.Context(), w.url)
	require.NoError(t, err)
	params.Set("grant_type", grantType)
	cfg := clientcredentials.Config{ClientID: "bot", TokenURL: provider.Endpoint().TokenURL, AuthStyle: oauth2.AuthStyleInParams,
		Scopes: []string{"read"}, EndpointParams: params}
	if grantType == grant.GrantExchange {
		cfg.ClientID = "helper"
	}
	return cfg.TokenSource(t.Context())
}

// TestXOAuth2Exchanges: golang.org/x/oauth2 gets a first token and exchanges it, and its
// http.Client sends it along.
func TestXOAuth2Exchanges(t *testing.T) {
	w := newWorld(t)
	w.declare("acme", agent("bot"))
	w.declare("acme", agent("helper"))

	first, err := source(t, w, grant.GrantJWTBearer, url.Values{"assertion": {w.idp.token(t, "wl/bot", w.url)},
		"task": {"task-1"}, "audience": {"https://a.example"}}).Token()
	require.NoError(t, err)
	require.Equal(t, "Bearer", first.Type())
	require.InDelta(t, 300, time.Until(first.Expiry).Seconds(), 10)
	require.Equal(t, "read", first.Extra("scope"))

	exchanged := source(t, w, grant.GrantExchange, url.Values{"subject_token": {first.AccessToken}, "subject_token_type": {grant.TypeAccessToken},
		"actor_token": {w.idp.token(t, "wl/helper", w.url)}, "actor_token_type": {grant.TypeJWT}, "audience": {"https://a.example"}})
	second, err := exchanged.Token()
	require.NoError(t, err)
	require.Equal(t, grant.TypeAccessToken, second.Extra("issued_token_type"))
	c := w.claims(second.AccessToken)
	require.Equal(t, "helper", c.Actor.Subject)
	require.Equal(t, "bot", c.Actor.Actor.Subject)

	var seen atomic.Value
	resource := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen.Store(r.Header.Get("Authorization")) }))
	defer resource.Close()
	resp, err := oauth2.NewClient(t.Context(), exchanged).Get(resource.URL)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, "Bearer "+second.AccessToken, seen.Load())

	_, err = source(t, w, grant.GrantJWTBearer, url.Values{"assertion": {w.idp.token(t, "wl/nobody", w.url)}, "task": {"task-1"}}).Token()
	var refused *oauth2.RetrieveError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, grant.UnauthorizedClient, refused.ErrorCode)
	require.Contains(t, refused.ErrorDescription, "declare one with this issuer and subject")
}

// TestXOAuth2ClientCredentials: clientcredentials.Config as it comes, with nothing but an
// http.Client that presents an X509-SVID; no secret is configured anywhere.
func TestXOAuth2ClientCredentials(t *testing.T) {
	ca := newSPIFFECA(t, "prod.example.org")
	w := svidWorld(t, ca)
	tlsURL, client := w.overTLS()
	cfg := clientcredentials.Config{ClientID: botSVID, TokenURL: tlsURL + "/oauth2/token", AuthStyle: oauth2.AuthStyleInParams,
		Scopes: []string{"read"}, EndpointParams: url.Values{"task": {"task-1"}, "audience": {"https://a.example"}}}
	got, err := cfg.Token(context.WithValue(t.Context(), oauth2.HTTPClient, client(ca.certificate(t, "/agents/bot"))))
	require.NoError(t, err)
	require.Equal(t, "bot", w.claims(got.AccessToken).Subject)
}
