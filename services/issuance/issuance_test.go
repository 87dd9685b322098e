package issuance

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
)

func (w *world) get(path string) []byte {
	w.t.Helper()
	resp, err := http.Get(w.url + path)
	require.NoError(w.t, err)
	defer resp.Body.Close()
	require.Equal(w.t, 200, resp.StatusCode)
	body, err := io.ReadAll(resp.Body)
	require.NoError(w.t, err)
	return body
}

// TestFirstCredential follows one token from declaration to an independent verifier.
func TestFirstCredential(t *testing.T) {
	w := newWorld(t)
	w.declare("acme", agent("bot"))
	a := w.post(w.bearer("bot"))
	require.Equal(t, 200, a.status, a.Description)
	require.Equal(t, "Bearer", a.TokenType)
	require.Equal(t, "read", a.Scope)
	require.InDelta(t, 300, a.ExpiresIn, 1)
	require.Equal(t, "no-store", a.header.Get("Cache-Control"))

	// Another implementation finds the keys by the metadata and accepts the token.
	var meta struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
		Token   string `json:"token_endpoint"`
	}
	require.NoError(t, json.Unmarshal(w.get("/.well-known/oauth-authorization-server"), &meta))
	require.Equal(t, w.url, meta.Issuer)
	require.Equal(t, w.url+"/oauth2/token", meta.Token)
	var set jose.JSONWebKeySet
	require.NoError(t, json.Unmarshal(w.get(strings.TrimPrefix(meta.JWKSURI, w.url)), &set))
	parsed, err := jwt.ParseSigned(a.AccessToken, []jose.SignatureAlgorithm{jose.ES256})
	require.NoError(t, err)
	require.Equal(t, "at+jwt", parsed.Headers[0].ExtraHeaders[jose.HeaderType])
	var std jwt.Claims
	var own struct {
		ClientID string   `json:"client_id"`
		Tenant   string   `json:"tenant"`
		Task     string   `json:"task"`
		Lineage  []string `json:"lin"`
		Scope    string   `json:"scope"`
	}
	require.NoError(t, parsed.Claims(set, &std, &own))
	require.NoError(t, std.Validate(jwt.Expected{Issuer: w.url, Subject: "bot", AnyAudience: jwt.Audience{"https://a.example"}, Time: time.Now()}))
	require.Equal(t, "bot", own.ClientID)
	require.Equal(t, "acme", own.Tenant)
	require.Equal(t, "task-1", own.Task)

	// The lineage, root first, and its record on the log, named.
	signer, err := w.ring.Signer()
	require.NoError(t, err)
	n := func(k lineage.Kind, tenant, id string) string { return w.namer.Name(k, tenant, id).String() }
	require.Equal(t, []string{
		n("domain", "", "https://idp.example"), n("key", "", signer.ID), n("tenant", "acme", "acme"), n("owner", "acme", "alice"),
		n("feature", "acme", "search"), n("identity", "acme", "bot"), n("workload", "acme", "https://idp.example wl/bot"),
		n("task", "acme", "task-1"), n("credential", "acme", std.ID)}, own.Lineage)
	issued, e := logged[events.CredentialIssued](w, events.LogSubject("acme", "credential", "issued", "bot"))
	require.Equal(t, std.ID, issued.Credential)
	require.Equal(t, token.HashText(a.AccessToken), issued.TokenSHA256)
	require.Equal(t, own.Lineage, issued.Lineage)
	require.Equal(t, signer.ID, issued.KeyID)
	require.Regexp(t, `^cedar/[0-9a-f]{16}$`, issued.Policy)
	require.Equal(t, []string{"registered"}, issued.Reasons)
	require.Equal(t, "jwt-bearer", issued.Context.Grant)
	require.Len(t, issued.Names, 9)
	require.Equal(t, std.Expiry.Time().UTC(), issued.ExpiresAt)
	require.Equal(t, events.Attestation{Issuer: w.idp.issuer, Subject: "wl/bot"}, issued.Context.Attestation)
	require.NoError(t, events.Validate(e))
	require.NotContains(t, string(e.Data()), a.AccessToken)
}

// TestExchange delegates within a tenant and across one, and checks order, narrowing
// and records.
func TestExchange(t *testing.T) {
	w := newWorld(t)
	boss, sub, far := agent("boss"), agent("sub"), agent("far")
	far.Owner, far.Feature = "bob", "billing"
	w.declare("acme", boss)
	w.declare("acme", sub)
	w.declare("globex", far)
	f := w.bearer("boss")
	f.Set("scope", "read write")
	f.Add("audience", "https://b.example")
	top, p := w.issue(f)

	f = w.exchange(top, "sub")
	f.Set("scope", "read")
	a := w.post(f)
	require.Equal(t, 200, a.status, a.Description)
	require.Equal(t, "urn:ietf:params:oauth:token-type:access_token", a.IssuedType)
	c := w.claims(a.AccessToken)
	require.Equal(t, "sub", c.Subject)
	require.Equal(t, "read", c.Scope)
	require.Equal(t, token.Strings{"https://a.example"}, c.Audience)
	require.LessOrEqual(t, c.Expires, p.Expires)
	require.Equal(t, p.Task, c.Task)
	require.Equal(t, &token.Actor{Subject: "sub", Tenant: "acme", Actor: &token.Actor{Subject: "boss", Tenant: "acme"}}, c.Actor)
	d, _ := logged[events.DelegationCreated](w, events.LogSubject("acme", "delegation", "created", "sub"))
	require.Equal(t, events.Party{Tenant: "acme", Identity: "boss"}, d.From)
	require.Equal(t, 1, d.Depth)
	require.Equal(t, []string{"read", "write"}, d.Parents)
	n := w.namer.Name
	require.Equal(t, append(slices.Clone(p.Lineage), n("delegation", "acme", d.Delegation), n("identity", "acme", "sub"),
		n("workload", "acme", "https://idp.example wl/sub"), n("credential", "acme", c.ID)), c.Lineage,
		"what is above already is not repeated")
	issued, _ := logged[events.CredentialIssued](w, events.LogSubject("acme", "credential", "issued", "sub"))
	kinds := map[string]string{}
	for _, nm := range issued.Names {
		kinds[nm.Kind+" "+nm.ID] = nm.Handle
	}
	require.Contains(t, kinds, "identity boss", "the parent is of the same tenant and may be named")
	require.Contains(t, kinds, "credential "+p.ID)

	// Across tenants: refused without trust, then bounded by it.
	a = w.post(w.exchange(a.AccessToken, "far"))
	require.Equal(t, "invalid_target", a.Error)
	require.Contains(t, a.Description, "has not declared trust")
	w.publish("acme", events.TrustDeclared{Trust: "acme->globex", To: "globex", Scopes: []string{"read"}, MaxDepth: 1, By: "ciso"})
	w.eventually("trust known", func() bool { a = w.post(w.exchange(top, "far")); return a.Error != "invalid_target" })
	require.Equal(t, 200, a.status, a.Description)
	c = w.claims(a.AccessToken)
	require.Equal(t, "read", c.Scope, "the trust allows no more")
	d, _ = logged[events.DelegationCreated](w, events.LogSubject("globex", "delegation", "created", "far"))
	require.Equal(t, append(slices.Clone(p.Lineage), n("trust", "acme", "acme->globex"), n("delegation", "globex", d.Delegation),
		n("tenant", "globex", "globex"), n("owner", "globex", "bob"), n("feature", "globex", "billing"), n("identity", "globex", "far"),
		n("workload", "globex", "https://idp.example wl/far"), n("credential", "globex", c.ID)), c.Lineage)
	issued, _ = logged[events.CredentialIssued](w, events.LogSubject("globex", "credential", "issued", "far"))
	for _, nm := range issued.Names {
		require.NotEqual(t, "acme", nm.Tenant, "no names of another tenant")
	}
	deeper, _ := w.issue(func() url.Values { f := w.exchange(top, "sub"); f.Set("scope", "read"); return f }())
	a = w.post(w.exchange(deeper, "far"))
	require.Equal(t, "invalid_request", a.Error)
	require.Contains(t, a.Description, "would be 2 long, trust acme->globex allows 1")
	w.kill(n("trust", "acme", "acme->globex"), "rev-trust", events.ModeRevoke)
	// A request that the revocation overtakes is refused by its lineage; the next ones are refused by name.
	w.eventually("trust revoked", func() bool { a = w.post(w.exchange(top, "far")); return a.Error == "invalid_target" })
	require.Contains(t, a.Description, "trust between the two tenants has been revoked")

	seen := false
	for s, err := range w.conn.Read(t.Context(), bus.StreamIn, "nhi.in.globex.activity.token_exchanged", 1) {
		require.NoError(t, err)
		require.NoError(t, events.Validate(s.Event))
		act, err := events.As[events.TokenExchanged](s.Event)
		require.NoError(t, err)
		require.Equal(t, c.ID, act.MintedID)
		seen = true
	}
	require.True(t, seen, "detection is told")
}

func TestRefusals(t *testing.T) {
	w := newWorld(t)
	w.declare("acme", agent("bot"))
	w.declare("acme", agent("helper"))
	two := agent("shared")
	w.declare("acme", two)
	w.declare("globex", two)
	top, _ := w.issue(w.bearer("bot"))
	form := func(f url.Values, change ...string) url.Values {
		for i := 0; i < len(change); i += 2 {
			if f.Del(change[i]); change[i+1] != "" {
				f.Set(change[i], change[i+1])
			}
		}
		return f
	}
	assertion := func(sub, aud string, f func(map[string]any)) string {
		return w.idp.token(t, sub, aud, func(m map[string]any) {
			if f != nil {
				f(m)
			}
		})
	}
	past := time.Now().Add(-time.Minute).Unix()
	body := strings.Split(top, ".")[1]
	for name, c := range map[string]struct {
		form       url.Values
		code, text string
		known      bool // the denial is on the identity's log
	}{
		"expired attestation":   {form(w.bearer("bot"), "assertion", assertion("wl/bot", w.url, func(m map[string]any) { m["exp"] = past })), "invalid_grant", "has expired", false},
		"wrong audience":        {form(w.bearer("bot"), "assertion", assertion("wl/bot", "https://other", nil)), "invalid_grant", "another audience", false},
		"unknown issuer":        {form(w.bearer("bot"), "assertion", assertion("wl/bot", w.url, func(m map[string]any) { m["iss"] = "https://evil" })), "invalid_grant", "not among the trusted issuers", false},
		"alg none":              {form(w.bearer("bot"), "assertion", "eyJhbGciOiJub25lIn0."+body+"."), "invalid_grant", "algorithm", false},
		"an access token":       {form(w.bearer("bot"), "assertion", top), "invalid_grant", "another kind of token", false},
		"unknown identity":      {form(w.bearer("bot"), "assertion", assertion("wl/nobody", w.url, nil)), "unauthorized_client", "no identity is registered", false},
		"wrong tenant":          {form(w.bearer("bot"), "tenant", "globex"), "unauthorized_client", "does not speak for", false},
		"several tenants":       {form(w.bearer("shared")), "invalid_request", "name one with the parameters tenant", false},
		"no task":               {form(w.bearer("bot"), "task", ""), "invalid_request", "task is missing", true},
		"scope widening":        {form(w.bearer("bot"), "scope", "admin"), "invalid_scope", "scope admin is not among those of identity bot", true},
		"audience widening":     {form(w.bearer("bot"), "audience", "https://c.example"), "invalid_target", "audience https://c.example", true},
		"ttl above the ceiling": {form(w.bearer("bot"), "ttl", "3600"), "invalid_request", "above the ceiling", true},
		"wider than the parent": {form(w.exchange(top, "helper"), "scope", "write"), "invalid_scope", "those of the subject_token", true},
		"ttl beyond the parent": {form(w.exchange(top, "helper"), "ttl", "600"), "invalid_request", "would outlive the subject_token", true},
		"another task":          {form(w.exchange(top, "helper"), "task", "task-2"), "invalid_request", "belongs to its parent's task", true},
		"cycle":                 {form(w.exchange(top, "bot")), "invalid_request", "in the chain of delegations already", true},
		"forged parent":         {form(w.exchange(top[:len(top)-8]+"AAAAAAAA", "helper")), "invalid_grant", "not a token that this issuer signed", true},
		"attestation as parent": {form(w.exchange(assertion("wl/bot", w.url, nil), "helper")), "invalid_grant", "not a token that this issuer signed", true},
	} {
		a := w.post(c.form)
		require.Equal(t, 400, a.status, name)
		require.Equal(t, c.code, a.Error, name)
		require.Contains(t, a.Description, c.text, name)
		require.Empty(t, a.AccessToken, name)
		if c.known {
			who := "bot"
			if c.form.Get("actor_token") != "" && name != "cycle" {
				who = "helper"
			}
			d, e := logged[events.CredentialDenied](w, events.LogSubject("acme", "credential", "denied", who))
			require.Equal(t, c.code, d.Code, name)
			require.NoError(t, events.Validate(e), name)
		}
	}
	form2 := w.bearer("bot")
	form2.Add("task", "task-2")
	require.Contains(t, w.post(form2).Description, "task is sent more than once")
	_, c := w.issue(form(w.bearer("shared"), "tenant", "globex"))
	require.Equal(t, "globex", c.Tenant)
}

func TestDepthIsBounded(t *testing.T) {
	w := newWorld(t)
	names := []string{"a0", "a1", "a2", "a3", "a4", "a5"}
	for _, n := range names {
		w.declare("acme", agent(n))
	}
	raw, _ := w.issue(w.bearer("a0"))
	for i, n := range names[1:5] {
		var c token.Claims
		raw, c = w.issue(w.exchange(raw, n))
		d, _ := logged[events.DelegationCreated](w, events.LogSubject("acme", "delegation", "created", n))
		require.Equal(t, i+1, d.Depth)
		require.Equal(t, c.ID, d.Credential)
	}
	a := w.post(w.exchange(raw, "a5"))
	require.Equal(t, "invalid_request", a.Error)
	require.Contains(t, a.Description, "would be 5 long, at most 4")
}

// TestWidthIsBounded: however often a stolen credential is exchanged, it breeds no more
// than the limit; policies see how often it has been.
func TestWidthIsBounded(t *testing.T) {
	w := newWorld(t, func(w *world) { w.configure = func(c *config.Config) { c.Issuance.MaxWidth = 3 } })
	w.declare("acme", agent("boss"))
	w.declare("acme", agent("helper"))
	raw, _ := w.issue(w.bearer("boss"))
	for i := range 3 {
		w.issue(w.exchange(raw, "helper"))
		issued, _ := logged[events.CredentialIssued](w, events.LogSubject("acme", "credential", "issued", "helper"))
		require.EqualValues(t, i+1, issued.Context.Width)
	}
	a := w.post(w.exchange(raw, "helper"))
	require.Equal(t, "invalid_grant", a.Error)
	require.Contains(t, a.Description, "exchanged 3 times")

	other, _ := w.issue(w.bearer("boss"))
	w.issue(w.exchange(other, "helper"))
	w.redis.SetError("away")
	require.Equal(t, 503, w.post(w.exchange(other, "helper")).status, "what cannot be counted is not exchanged")
	w.redis.SetError("")
}
