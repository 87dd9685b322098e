package oidc_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/services/internal/embedded/oidc"
)

func newCA(t *testing.T, dir string) http.Handler {
	t.Helper()
	file := filepath.Join(dir, "local-issuer.secret")
	require.NoError(t, os.WriteFile(file, []byte(secret+"\n"), 0o600))
	h, err := oidc.New(oidc.Config{URL: "http://127.0.0.1:9999", SecretFile: file, KeyFile: filepath.Join(dir, "local-issuer.jwk"),
		SVIDKeyFile: filepath.Join(dir, "local-spiffe.jwk"), Now: time.Now})
	require.NoError(t, err)
	return h
}

func postSVID(h http.Handler, host string, form url.Values, password string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "http://"+host+"/spiffe/svid", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth("local", password)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestSVIDVerifiesWithGoSPIFFE(t *testing.T) {
	dir := t.TempDir()
	const sub = "spiffe://lanyard.local/agents/bot"
	w := postSVID(newCA(t, dir), "127.0.0.1:9999", url.Values{"sub": {sub}, "aud": {"https://lanyard.test"}, "ttl": {"60"}}, secret)
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	var got struct {
		SVID      string `json:"svid"`
		ExpiresIn int64  `json:"expires_in"`
		Marked    bool   `json:"lanyard_development_only"`
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
	require.EqualValues(t, 60, got.ExpiresIn)
	require.True(t, got.Marked)

	again := newCA(t, dir) // the key survives a restart
	b := httptest.NewRecorder()
	again.ServeHTTP(b, httptest.NewRequest("GET", "http://localhost:9999"+oidc.BundlePath, nil))
	bundle, err := spiffebundle.Parse(spiffeid.RequireTrustDomainFromString(oidc.TrustDomain), b.Body.Bytes())
	require.NoError(t, err)
	svid, err := jwtsvid.ParseAndValidate(got.SVID, bundle, []string{"https://lanyard.test"})
	require.NoError(t, err)
	require.Equal(t, sub, svid.ID.String())
	require.Equal(t, true, svid.Claims["lanyard_development_only"])
	info, err := os.Stat(filepath.Join(dir, "local-spiffe.jwk"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

	keys := httptest.NewRecorder()
	again.ServeHTTP(keys, httptest.NewRequest("GET", "http://localhost:9999/jwks", nil))
	for kid := range bundle.JWTAuthorities() {
		require.NotContains(t, keys.Body.String(), kid, "the issuer's key is another")
	}
}

func TestSVIDRefusals(t *testing.T) {
	h := newCA(t, t.TempDir())
	for name, c := range map[string]struct {
		host, sub, password string
		status              int
	}{
		"host that is not loopback": {"lanyard.example", "spiffe://lanyard.local/a", secret, 403},
		"wrong secret":              {"localhost", "spiffe://lanyard.local/a", secret + "x", 401},
		"another trust domain":      {"localhost", "spiffe://prod.example.org/a", secret, 400},
		"below the name":            {"localhost", "spiffe://lanyard.local.example.org/a", secret, 400},
		"the trust domain itself":   {"localhost", "spiffe://lanyard.local", secret, 400},
		"no SPIFFE ID":              {"localhost", "agent", secret, 400},
		"dots":                      {"localhost", "spiffe://lanyard.local/../a", secret, 400},
		"nothing":                   {"localhost", "", secret, 400},
	} {
		w := postSVID(h, c.host, url.Values{"sub": {c.sub}, "aud": {"b"}}, c.password)
		require.Equal(t, c.status, w.Code, name)
		require.NotContains(t, w.Body.String(), secret)
	}
	w := post(h, "localhost", url.Values{"sub": {"spiffe://lanyard.local/a"}, "aud": {"b"}}, "local", secret)
	require.Equal(t, 400, w.Code, "an ID token does not prove a SPIFFE ID")

	none := newIssuer(t, t.TempDir())
	require.Equal(t, 404, postSVID(none, "localhost", url.Values{"sub": {"spiffe://lanyard.local/a"}, "aud": {"b"}}, secret).Code, "no key, no SVIDs")
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "s"), []byte(secret), 0o600))
	_, err := oidc.New(oidc.Config{URL: "http://127.0.0.1:1", SecretFile: filepath.Join(dir, "s"), KeyFile: filepath.Join(dir, "k"), SVIDKeyFile: filepath.Join(dir, "k"), Now: time.Now})
	require.ErrorContains(t, err, "key of its own")
}
