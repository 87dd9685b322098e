package attest_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/attest"
)

// Claims of tokens as the platforms document them, shortened.
const (
	github = `{"sub": "repo:acme/reports:ref:refs/heads/main", "repository": "acme/reports", "repository_owner": "acme",
		"repository_owner_id": "1234", "ref": "refs/heads/main", "runner_environment": "github-hosted"}`
	gitlab     = `{"sub": "project_path:acme/reports:ref_type:branch:ref:main", "namespace_path": "acme", "project_path": "acme/reports", "ref_protected": "true"}`
	kubernetes = `{"sub": "system:serviceaccount:prod:agent", "kubernetes.io": {"namespace": "prod", "pod": {"name": "agent-7", "uid": "1"},
		"serviceaccount": {"name": "agent", "uid": "2"}}}`
	auth0 = `{"sub": "x", "https://acme.example/team": "red", "email_verified": true, "level": 3, "groups": ["admin"], "nothing": null, "a": {"b": {"c": "d"}}}`
)

func TestRequiredClaims(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name, token string
		required    map[string]string
		missing     string // the claim that is named; empty: accepted
	}{
		{"GitHub", github, map[string]string{"repository_owner": "acme", "repository_owner_id": "1234", "ref": "refs/heads/main"}, ""},
		{"GitHub, another owner", github, map[string]string{"repository_owner": "globex", "ref": "refs/heads/main"}, "repository_owner"},
		{"GitHub, one of two", github, map[string]string{"repository_owner": "acme", "ref": "refs/heads/release"}, "ref"},
		{"GitHub, a prefix", github, map[string]string{"repository_owner": "acm"}, "repository_owner"},
		{"GitHub, other case", github, map[string]string{"repository_owner": "Acme"}, "repository_owner"},
		{"GitHub, other case of the name", github, map[string]string{"Repository_Owner": "acme"}, "Repository_Owner"},
		{"GitHub, no patterns", github, map[string]string{"repository": "acme/*"}, "repository"},
		{"GitLab", gitlab, map[string]string{"namespace_path": "acme", "ref_protected": "true"}, ""},
		{"GitLab, another group", gitlab, map[string]string{"namespace_path": "globex"}, "namespace_path"},
		{"Kubernetes", kubernetes, map[string]string{"kubernetes.io/namespace": "prod", "/kubernetes.io/serviceaccount/name": "agent"}, ""},
		{"Kubernetes, another namespace", kubernetes, map[string]string{"kubernetes.io/namespace": "dev"}, "kubernetes.io/namespace"},
		{"Kubernetes, an object", kubernetes, map[string]string{"kubernetes.io/pod": "agent-7"}, "kubernetes.io/pod"},
		{"Kubernetes, below text", kubernetes, map[string]string{"kubernetes.io/namespace/x": "prod"}, "kubernetes.io/namespace/x"},
		{"none", kubernetes, map[string]string{"namespace": "prod"}, "namespace"},
		{"name with slashes", auth0, map[string]string{"https:~1~1acme.example~1team": "red"}, ""},
		{"registered claim", auth0, map[string]string{"sub": "x"}, ""},
		{"boolean", auth0, map[string]string{"email_verified": "true"}, ""},
		{"number", auth0, map[string]string{"level": "3"}, ""},
		{"deep", auth0, map[string]string{"a/b/c": "d"}, ""},
		{"a list", auth0, map[string]string{"groups": "admin"}, "groups"},
		{"an item of a list", auth0, map[string]string{"groups/0": "admin"}, "groups/0"},
		{"null", auth0, map[string]string{"nothing": "null"}, "nothing"},
	} {
		v, err := attest.New(attest.Config{Issuers: []config.TrustedIssuer{{Issuer: iss, JWKS: w.url, Local: true, Claims: c.required}}, Audience: aud,
			Clients: attest.Clients{Local: attest.LoopbackClient()}, Now: w.clock.now})
		require.NoError(t, err, c.name)
		claims := good()
		require.NoError(t, json.Unmarshal([]byte(c.token), &claims))
		got, err := v.Verify(context.Background(), w.sign(jose.ES256, w.ec, "ec", "JWT", claims))
		if c.missing == "" {
			require.NoError(t, err, c.name)
			require.Equal(t, claims["sub"], got.Subject)
			continue
		}
		require.ErrorIs(t, err, attest.ErrRequired, c.name)
		require.ErrorContains(t, err, ": "+c.missing, c.name)
		_, err = v.Verify(context.Background(), w.sign(jose.ES256, w.other, "ec", "JWT", claims))
		require.ErrorIs(t, err, attest.ErrSignature, "claims are looked at when they are verified")
	}
}

func TestRequirementsThatAreRefused(t *testing.T) {
	for name, required := range map[string]map[string]string{"no value": {"a": ""}, "no name": {"": "x"}, "empty member": {"a//b": "x"}, "bad escape": {"~": "x"}} {
		_, err := attest.New(attest.Config{Issuers: []config.TrustedIssuer{{Issuer: iss, JWKS: "file:///x", Claims: required}}, Audience: aud})
		require.ErrorContains(t, err, "required claim", name)
	}
}

// TestPolicyClaims: policies see what the configuration names and nothing else.
func TestPolicyClaims(t *testing.T) {
	w := newWorld(t)
	v, err := attest.New(attest.Config{Issuers: []config.TrustedIssuer{{Issuer: iss, JWKS: w.url, Local: true,
		PolicyClaims: []string{"ref", "kubernetes.io/namespace", "email_verified", "groups", "missing", "long"}}}, Audience: aud,
		Clients: attest.Clients{Local: attest.LoopbackClient()}, Now: w.clock.now})
	require.NoError(t, err)
	for token, want := range map[string]map[string]string{
		github:     {"ref": "refs/heads/main"},
		kubernetes: {"kubernetes.io/namespace": "prod"},
		auth0:      {"email_verified": "true"},
		`{"sub": "x", "long": "` + strings.Repeat("x", 257) + `"}`: nil,
	} {
		claims := good()
		require.NoError(t, json.Unmarshal([]byte(token), &claims))
		got, err := v.Verify(context.Background(), w.sign(jose.ES256, w.ec, "ec", "JWT", claims))
		require.NoError(t, err)
		require.Equal(t, want, got.Claims)
	}
	_, err = attest.New(attest.Config{Issuers: []config.TrustedIssuer{{Issuer: iss, JWKS: "file:///x", PolicyClaims: []string{"a//b"}}}, Audience: aud})
	require.ErrorContains(t, err, "policy claim")
}
