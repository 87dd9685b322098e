package issuance

import (
	"net"
	"net/url"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/attest"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/grant"
)

// two are two Lanyards with nothing in common: the agent bot of a's tenant acme is known
// to b as acme-bot of tenant globex.
func two(t *testing.T) (a, b *world) {
	t.Helper()
	la, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	lb, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	urlA, urlB := "http://"+la.Addr().String(), "http://"+lb.Addr().String()
	a = newWorld(t, func(w *world) {
		w.listener = la
		w.configure = func(c *config.Config) { c.Issuance.ChainTo = []string{urlB} }
	})
	b = newWorld(t, func(w *world) {
		w.listener = lb
		w.configure = func(c *config.Config) {
			c.Issuance.ChainFrom = []config.ChainIssuer{{Issuer: urlA, JWKS: urlA + "/.well-known/jwks.json", Local: true}}
		}
	})
	for _, name := range []string{"bot", "homebody"} {
		reg := agent(name)
		if name == "bot" {
			reg.Audiences = append(reg.Audiences, urlB)
		}
		a.declare("acme", reg)
	}
	reg := agent("acme-bot")
	reg.Attestation = []events.Attestation{{Issuer: urlA, Subject: "acme/bot"}}
	b.declare("globex", reg)
	return a, b
}

// toOther is the form by which the holder of a credential gets a grant for b.
func toOther(a, b *world, subject, name string) url.Values {
	form := a.exchange(subject, name)
	form.Set("audience", b.url)
	return form
}

func chained(assertion string) url.Values {
	return url.Values{"grant_type": {grant.GrantJWTBearer}, "assertion": {assertion}, "task": {"task-b"}, "audience": {"https://a.example"}}
}

// TestIdentityChaining: a credential of one issuer becomes one of another, narrower and
// no longer lived, with the lineage of both; each side can end it.
func TestIdentityChaining(t *testing.T) {
	a, b := two(t)
	access, parent := a.issue(a.bearer("bot"))
	first := a.post(toOther(a, b, access, "bot"))
	require.Equal(t, 200, first.status, first.Description)
	require.Equal(t, "N_A", first.TokenType)
	require.Equal(t, grant.TypeJWT, first.IssuedType)
	require.LessOrEqual(t, first.ExpiresIn, int64(60))
	issued, _ := logged[events.CredentialIssued](a, events.LogSubject("acme", "credential", "issued", "bot"))
	require.Equal(t, []string{b.url}, issued.Audience, "no grant without a record")

	got := b.post(chained(first.AccessToken))
	require.Equal(t, 200, got.status, got.Description)
	c := b.claims(got.AccessToken)
	require.Equal(t, []string{"acme-bot", "globex", "task-b", "read", b.url}, []string{c.Subject, c.Tenant, c.Task, c.Scope, c.Issuer})
	require.LessOrEqual(t, c.Expires, parent.Expires)
	require.Equal(t, parent.Lineage, c.Lineage[:len(parent.Lineage)], "what it hangs from there")
	require.Contains(t, c.Lineage, b.namer.Name(lineage.KindDomain, "", a.url))
	require.Contains(t, c.Lineage, b.namer.Name(lineage.KindIdentity, "globex", "acme-bot"))
	there, _ := logged[events.CredentialIssued](b, events.LogSubject("globex", "credential", "issued", "acme-bot"))
	require.Len(t, there.Lineage, len(c.Lineage))
	require.Equal(t, events.Attestation{Issuer: a.url, Subject: "acme/bot"}, there.Context.Attestation)

	_, _, body := a.formPost("/oauth2/revoke", "", url.Values{"token": {first.AccessToken}})
	require.Contains(t, body, "unsupported_token_type", "it must not look revoked")

	wide := chained(a.post(toOther(a, b, access, "bot")).AccessToken)
	wide.Set("scope", "read write")
	both := toOther(a, b, access, "bot")
	both.Add("audience", "https://a.example")
	for name, c := range map[string]struct {
		w    *world
		form url.Values
		code string
	}{
		"used before":                  {b, chained(first.AccessToken), "invalid_grant"},
		"wider than the grant":         {b, wide, "invalid_scope"},
		"at home":                      {a, chained(a.post(toOther(a, b, access, "bot")).AccessToken), "invalid_grant"},
		"an access token":              {b, chained(access), "invalid_grant"},
		"as an actor_token":            {b, setting(b.exchange(got.AccessToken, "acme-bot"), "actor_token", a.post(toOther(a, b, access, "bot")).AccessToken), "invalid_grant"},
		"by another than the holder":   {a, toOther(a, b, access, "homebody"), "invalid_request"},
		"by who may not":               {a, toOther(a, b, a.issueScoped("homebody", []string{"read"}), "homebody"), "invalid_target"},
		"for two":                      {a, both, "invalid_target"},
		"to an issuer that is not one": {a, setting(toOther(a, b, access, "bot"), "audience", "https://c.example"), "invalid_request"},
		"as an access token, asked":    {a, setting(toOther(a, b, access, "bot"), "requested_token_type", grant.TypeAccessToken), "invalid_request"},
	} {
		got := c.w.post(c.form)
		require.Equal(t, c.code, got.Error, "%s: %s", name, got.Description)
	}

	// What each side can do. b ends one foreign agent, or the other issuer as a whole.
	use := b.resource()
	require.Empty(t, denial(t, use, got.AccessToken, "read"))
	b.kill(parent.Lineage[5], "rev-there", events.ModeRevoke) // a handle of a, as a's operators would tell it
	b.eventually("dead by a handle of the other issuer", func() bool { return denial(t, use, got.AccessToken, "read") == guard.CodeRevoked })
	again := chained(a.post(toOther(a, b, access, "bot")).AccessToken)
	b.eventually("nothing new under it", func() bool { return b.post(again).Error == "invalid_grant" })
	// a ends what the grant is made of: no further grant.
	a.kill(a.namer.Name(lineage.KindIdentity, "acme", "bot"), "rev-here", events.ModeRevoke)
	a.eventually("no further grant", func() bool { return a.post(toOther(a, b, access, "bot")).Error == "invalid_grant" })
}

// TestChainedIssuerRevoked: the domain of the other issuer is one switch for all of it.
func TestChainedIssuerRevoked(t *testing.T) {
	a, b := two(t)
	access, _ := a.issue(a.bearer("bot"))
	got := b.post(chained(a.post(toOther(a, b, access, "bot")).AccessToken))
	require.Equal(t, 200, got.status, got.Description)
	use := b.resource()
	b.kill(b.record(events.Target{Kind: string(lineage.KindDomain), ID: a.url}, "rev-domain", events.ModeRevoke), "rev-domain", events.ModeRevoke)
	b.eventually("dead", func() bool { return denial(t, use, got.AccessToken, "read") == guard.CodeRevoked })
	require.Equal(t, "invalid_grant", b.post(chained(a.post(toOther(a, b, access, "bot")).AccessToken)).Error)
}

// TestForgedGrants: what does not come whole from the other issuer is nothing.
func TestForgedGrants(t *testing.T) {
	a, b := two(t)
	signer, err := a.ring.Signer()
	require.NoError(t, err)
	forge := func(typ string, change func(map[string]any)) string {
		now := time.Now().Unix()
		c := map[string]any{"iss": a.url, "sub": "acme/bot", "aud": b.url, "iat": now, "exp": now + 60, "jti": id(), "scope": "read",
			"until": now + 300, "lin": []string{"AAAAAAAAAAAAAAAA"}}
		change(c)
		raw, err := signer.Sign(typ, c)
		require.NoError(t, err)
		return raw
	}
	require.Equal(t, 200, b.post(chained(forge(attest.TypGrant, func(map[string]any) {}))).status)
	set := func(k string, v any) string {
		return forge(attest.TypGrant, func(c map[string]any) {
			if c[k] = v; v == nil {
				delete(c, k)
			}
		})
	}
	many := []string{}
	for range 33 {
		many = append(many, token.HashText(id())[:16])
	}
	thief := newSigner(t, signer.ID)
	for name, raw := range map[string]string{
		"another type":        forge("JWT", func(map[string]any) {}),
		"access token":        forge("at+jwt", func(map[string]any) {}),
		"another audience":    set("aud", "https://c.example"),
		"two audiences":       set("aud", []string{b.url, "https://c.example"}),
		"another issuer":      set("iss", "https://c.example"),
		"of the receiver":     set("iss", b.url),
		"no jti":              set("jti", nil),
		"no iat":              set("iat", nil),
		"long-lived":          set("exp", time.Now().Unix()+600),
		"expired":             set("exp", time.Now().Unix()-10),
		"no lineage":          set("lin", nil),
		"an empty lineage":    set("lin", []string{}),
		"a handle twice":      set("lin", []string{"AAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAA"}),
		"too many handles":    set("lin", many),
		"no handles":          set("lin", []string{"x"}),
		"no until":            set("until", nil),
		"its credential over": set("until", time.Now().Unix()-1),
		"by another key": thief.sign(map[string]any{"iss": a.url, "sub": "acme/bot", "aud": b.url, "iat": time.Now().Unix(), "exp": time.Now().Unix() + 60,
			"jti": id(), "scope": "read", "until": time.Now().Unix() + 60, "lin": []string{"AAAAAAAAAAAAAAAA"}}, (&jose.SignerOptions{}).WithType(attest.TypGrant)),
	} {
		got := b.post(chained(raw))
		require.Equal(t, "invalid_grant", got.Error, "%s: %s", name, got.Description)
	}
	require.Equal(t, "unauthorized_client", b.post(chained(set("sub", "acme/other"))).Error)
	// Thirty handles of the other issuer leave no room for ours.
	require.Equal(t, "invalid_request", b.post(chained(set("lin", many[:30]))).Error)
}
