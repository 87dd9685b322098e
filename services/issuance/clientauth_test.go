package issuance

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"maps"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/attest"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/grant"
)

// signer is a key pair of a client, with go-jose as its library.
type signer struct {
	t   *testing.T
	key *ecdsa.PrivateKey
	kid string
}

func newSigner(t *testing.T, kid string) *signer {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	return &signer{t, k, kid}
}

func (s *signer) jwk() events.JWK {
	b, err := json.Marshal(jose.JSONWebKey{Key: s.key.Public(), KeyID: s.kid})
	require.NoError(s.t, err)
	var k events.JWK
	require.NoError(s.t, json.Unmarshal(b, &k))
	return k
}

func (s *signer) sign(claims map[string]any, o *jose.SignerOptions) string {
	g, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: s.key, KeyID: s.kid}}, o)
	require.NoError(s.t, err)
	body, err := json.Marshal(claims)
	require.NoError(s.t, err)
	jws, err := g.Sign(body)
	require.NoError(s.t, err)
	raw, err := jws.CompactSerialize()
	require.NoError(s.t, err)
	return raw
}

// assertion is a fresh client assertion.
func (s *signer) assertion(client, aud string, change ...func(map[string]any)) string {
	c := map[string]any{"iss": client, "sub": client, "aud": aud, "exp": time.Now().Add(time.Minute).Unix(), "jti": id()}
	for _, f := range change {
		f(c)
	}
	return s.sign(c, (&jose.SignerOptions{}).WithType("JWT"))
}

// asClient is the form of client_credentials with an assertion.
func asClient(kind, assertion string) url.Values {
	return url.Values{"grant_type": {grant.GrantClient}, "client_assertion_type": {kind}, "client_assertion": {assertion},
		"task": {"task-1"}, "scope": {"read"}, "audience": {"https://a.example"}}
}

func setting(form url.Values, name, value string) url.Values {
	form = maps.Clone(form)
	form.Set(name, value)
	return form
}

func ownKeys(name string, s *signer) events.Registration {
	reg := agent(name)
	reg.Attestation, reg.Keys = nil, []events.JWK{s.jwk()}
	return reg
}

// TestPrivateKeyJWT: a client without a platform gets a token by an assertion of its own,
// once per assertion; everything else about it is refused alike.
func TestPrivateKeyJWT(t *testing.T) {
	w := newWorld(t)
	laptop, thief := newSigner(t, "laptop"), newSigner(t, "laptop")
	w.declare("acme", ownKeys("bot", laptop))
	w.declare("acme", agent("platform"))
	assertion := laptop.assertion("bot", w.url)
	_, c := w.issue(setting(asClient(grant.AssertionJWT, assertion), "client_id", "bot"))
	require.Equal(t, "bot", c.Subject)
	asked, _ := logged[events.CredentialIssued](w, events.LogSubject("acme", "credential", "issued", "bot"))
	require.Equal(t, "bot", asked.Context.Attestation.Subject)
	require.True(t, strings.HasPrefix(asked.Context.Attestation.Issuer, attest.KeyIssuer))
	require.Equal(t, w.namer.Name(lineage.KindDomain, "", asked.Context.Attestation.Issuer), c.Lineage[0], "the key can be revoked")

	for name, form := range map[string]url.Values{
		"replayed":          asClient(grant.AssertionJWT, assertion),
		"another key":       asClient(grant.AssertionJWT, thief.assertion("bot", w.url)),
		"nobody":            asClient(grant.AssertionJWT, laptop.assertion("nobody", w.url)),
		"without keys":      asClient(grant.AssertionJWT, laptop.assertion("platform", w.url)),
		"another client_id": setting(asClient(grant.AssertionJWT, laptop.assertion("bot", w.url)), "client_id", "platform"),
		"another tenant":    setting(asClient(grant.AssertionJWT, laptop.assertion("bot", w.url)), "tenant", "globex"),
		"token endpoint":    asClient(grant.AssertionJWT, laptop.assertion("bot", w.url+"/oauth2/token")),
		"as an SVID":        asClient(grant.AssertionSPIFFE, laptop.assertion("bot", w.url)),
		"an OIDC token":     asClient(grant.AssertionJWT, w.idp.token(t, "wl/platform", w.url)),
		"its own issuer's":  asClient(grant.AssertionSPIFFE, w.idp.token(t, "wl/platform", w.url)),
		"an injected jwk": asClient(grant.AssertionJWT, thief.sign(map[string]any{"iss": "bot", "sub": "bot", "aud": w.url,
			"exp": time.Now().Add(time.Minute).Unix(), "jti": id()}, &jose.SignerOptions{EmbedJWK: true})),
	} {
		a := w.post(form)
		require.Equal(t, 401, a.status, name)
		require.Equal(t, "invalid_client", a.Error, name)
		require.Equal(t, "client authentication failed; the operator's log says why", a.Description, name)
	}
	for name, form := range map[string]url.Values{
		"no type":      {"grant_type": {grant.GrantClient}, "client_assertion": {"x"}},
		"no assertion": {"grant_type": {grant.GrantClient}, "client_assertion_type": {grant.AssertionJWT}},
		"twice":        setting(w.bearer("bot"), "client_assertion", "x"),
		"jwt-bearer":   setting(setting(w.bearer("bot"), "client_assertion", "x"), "client_assertion_type", grant.AssertionJWT),
	} {
		require.Equal(t, "invalid_request", w.post(form).Error, name)
	}

	w.kill(w.record(events.Target{Kind: string(lineage.KindDomain), ID: asked.Context.Attestation.Issuer}, "rev-key", events.ModeRevoke), "rev-key", events.ModeRevoke)
	w.eventually("the key is dead", func() bool {
		return w.post(asClient(grant.AssertionJWT, laptop.assertion("bot", w.url))).Error == "invalid_grant"
	})
}

// TestPrivateKeyJWTOfSeveralTenants: the key tells namesakes apart; one key in two
// tenants needs the tenant.
func TestPrivateKeyJWTOfSeveralTenants(t *testing.T) {
	w := newWorld(t)
	a, b := newSigner(t, "k"), newSigner(t, "k")
	w.declare("acme", ownKeys("bot", a))
	w.declare("globex", ownKeys("bot", b))
	_, c := w.issue(asClient(grant.AssertionJWT, b.assertion("bot", w.url)))
	require.Equal(t, "globex", c.Tenant)

	w.declare("acme", ownKeys("twin", a))
	w.declare("globex", ownKeys("twin", a))
	require.Equal(t, "invalid_request", w.post(asClient(grant.AssertionJWT, a.assertion("twin", w.url))).Error)
	_, c = w.issue(setting(asClient(grant.AssertionJWT, a.assertion("twin", w.url)), "tenant", "acme"))
	require.Equal(t, "acme", c.Tenant)
}

// TestReplayCannotBeTold: without Redis nobody knows what was shown, so nothing counts.
func TestReplayCannotBeTold(t *testing.T) {
	w := newWorld(t)
	s := newSigner(t, "k")
	w.declare("acme", ownKeys("bot", s))
	w.issue(asClient(grant.AssertionJWT, s.assertion("bot", w.url))) // the index has it in memory now
	w.redis.SetError("LOADING")
	a := w.post(asClient(grant.AssertionJWT, s.assertion("bot", w.url)))
	require.Equal(t, 503, a.status)
	require.Equal(t, "temporarily_unavailable", a.Error)
	w.redis.SetError("")
	w.issue(asClient(grant.AssertionJWT, s.assertion("bot", w.url)))
}

// TestExchangeByClient: a client assertion stands for the actor_token.
func TestExchangeByClient(t *testing.T) {
	ca := newSPIFFECA(t, "prod.example.org")
	w := newWorld(t, func(w *world) {
		w.configure = func(c *config.Config) {
			c.Issuance.TrustDomains = []config.TrustDomain{{TrustDomain: "prod.example.org", Bundle: "file://" + ca.path}}
		}
	})
	s := newSigner(t, "k")
	const spiffe = "spiffe://prod.example.org/agents/svid"
	reg := agent("svid")
	reg.Attestation = []events.Attestation{{Issuer: "spiffe://prod.example.org", Subject: spiffe}}
	w.declare("acme", agent("bot"))
	w.declare("acme", ownKeys("helper", s))
	w.declare("acme", reg)
	parent, _ := w.issue(w.bearer("bot"))
	form := url.Values{"grant_type": {grant.GrantExchange}, "subject_token": {parent}, "subject_token_type": {grant.TypeAccessToken},
		"client_assertion_type": {grant.AssertionJWT}, "client_assertion": {s.assertion("helper", w.url)}}
	_, c := w.issue(form)
	require.Equal(t, "helper", c.Actor.Subject)
	require.Equal(t, "invalid_client", w.post(form).Error, "replayed")
	both := setting(setting(form, "actor_token", "x"), "actor_token_type", grant.TypeJWT)
	require.Equal(t, "invalid_request", w.post(both).Error)

	// A JWT-SVID is shown as often as its source hands it out.
	svid := ca.svid(t, "/agents/svid", jwtsvid.Params{Audience: w.url})
	for range 2 {
		_, c = w.issue(setting(asClient(grant.AssertionSPIFFE, svid), "client_id", spiffe))
		require.Equal(t, "svid", c.Subject)
	}
	require.Equal(t, "invalid_client", w.post(setting(asClient(grant.AssertionSPIFFE, svid), "client_id", spiffe+"/x")).Error)
	several := ca.svid(t, "/agents/svid", jwtsvid.Params{Audience: w.url, ExtraAudiences: []string{"https://b.example"}})
	require.Equal(t, "invalid_client", w.post(asClient(grant.AssertionSPIFFE, several)).Error)
}
