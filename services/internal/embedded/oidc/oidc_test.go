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

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/services/internal/embedded/oidc"
)

const secret = "0123456789abcdef0123456789abcdef"

func newIssuer(t *testing.T, dir string) http.Handler {
	t.Helper()
	file := filepath.Join(dir, "local-issuer.secret")
	require.NoError(t, os.WriteFile(file, []byte(secret+"\n"), 0o600))
	h, err := oidc.New(oidc.Config{URL: "http://127.0.0.1:9999", SecretFile: file, KeyFile: filepath.Join(dir, "local-issuer.jwk"), Now: time.Now})
	require.NoError(t, err)
	return h
}

func post(h http.Handler, host string, form url.Values, user, password string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "http://"+host+"/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if user != "" {
		r.SetBasicAuth(user, password)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestTokenVerifiesWithGoJose(t *testing.T) {
	dir := t.TempDir()
	h := newIssuer(t, dir)
	w := post(h, "127.0.0.1:9999", url.Values{"sub": {"agent-1"}, "aud": {"https://lanyard.test"}, "ttl": {"60"}}, "local", secret)
	require.Equal(t, http.StatusOK, w.Code, w.Body)
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	var got struct {
		IDToken   string `json:"id_token"`
		ExpiresIn int64  `json:"expires_in"`
	}
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
	require.EqualValues(t, 60, got.ExpiresIn)

	again := newIssuer(t, dir) // the key survives a restart
	k := httptest.NewRecorder()
	again.ServeHTTP(k, httptest.NewRequest("GET", "http://localhost:9999/jwks", nil))
	var set jose.JSONWebKeySet
	require.NoError(t, json.Unmarshal(k.Body.Bytes(), &set))
	parsed, err := jwt.ParseSigned(got.IDToken, []jose.SignatureAlgorithm{jose.ES256})
	require.NoError(t, err)
	var c jwt.Claims
	require.NoError(t, parsed.Claims(set, &c))
	require.NoError(t, c.Validate(jwt.Expected{Issuer: "http://127.0.0.1:9999", Subject: "agent-1", AnyAudience: jwt.Audience{"https://lanyard.test"}, Time: time.Now()}))
	info, err := os.Stat(filepath.Join(dir, "local-issuer.jwk"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
}

func TestRefusals(t *testing.T) {
	h := newIssuer(t, t.TempDir())
	ok := url.Values{"sub": {"a"}, "aud": {"b"}}
	for name, c := range map[string]struct {
		host       string
		form       url.Values
		user, pass string
		status     int
		code       string
	}{
		"host that is not loopback": {"lanyard.example", ok, "local", secret, 403, "invalid_request"},
		"rebound name":              {"127.0.0.1.nip.io:9999", ok, "local", secret, 403, "invalid_request"},
		"no secret":                 {"127.0.0.1:9999", ok, "", "", 401, "invalid_client"},
		"wrong secret":              {"127.0.0.1:9999", ok, "local", secret + "x", 401, "invalid_client"},
		"wrong client":              {"127.0.0.1:9999", ok, "other", secret, 401, "invalid_client"},
		"no subject":                {"[::1]:9999", url.Values{"aud": {"b"}}, "local", secret, 400, "invalid_request"},
		"ttl too long":              {"localhost", url.Values{"sub": {"a"}, "aud": {"b"}, "ttl": {"601"}}, "local", secret, 400, "invalid_request"},
		"doubled parameter":         {"localhost", url.Values{"sub": {"a", "b"}, "aud": {"b"}}, "local", secret, 400, "invalid_request"},
	} {
		t.Run(name, func(t *testing.T) {
			w := post(h, c.host, c.form, c.user, c.pass)
			require.Equal(t, c.status, w.Code)
			var e struct {
				Error string `json:"error"`
			}
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &e))
			require.Equal(t, c.code, e.Error)
			require.NotContains(t, w.Body.String(), secret)
		})
	}
	w := post(h, "localhost", url.Values{"sub": {"a"}, "aud": {"b"}, "client_id": {"local"}, "client_secret": {secret}}, "", "")
	require.Equal(t, 200, w.Code, "client_secret_post")
}

func TestNewRefusesPublicURL(t *testing.T) {
	for _, u := range []string{"https://127.0.0.1", "http://example.com", "http://10.0.0.1:80", "http://127.0.0.1/x"} {
		_, err := oidc.New(oidc.Config{URL: u, Now: time.Now})
		require.ErrorContains(t, err, "loopback", u)
	}
}
