package issuance

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/grant"
)

// spiffeCA is a trust domain: a jwtsvid.Source, and a bundle file made by go-spiffe.
type spiffeCA struct {
	key    *ecdsa.PrivateKey
	domain spiffeid.TrustDomain
	bundle *spiffebundle.Bundle
	path   string
}

var _ jwtsvid.Source = (*spiffeCA)(nil)

func newSPIFFECA(t *testing.T, name string) *spiffeCA {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	ca := &spiffeCA{key: k, domain: spiffeid.RequireTrustDomainFromString(name), path: filepath.Join(t.TempDir(), "bundle.json")}
	ca.bundle = spiffebundle.New(ca.domain)
	require.NoError(t, ca.bundle.AddJWTAuthority("ca-1", k.Public()))
	b, err := ca.bundle.Marshal()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(ca.path, b, 0o600))
	return ca
}

// FetchJWTSVID implements jwtsvid.Source: what it returns has passed go-spiffe's own
// validation.
func (ca *spiffeCA) FetchJWTSVID(_ context.Context, p jwtsvid.Params) (*jwtsvid.SVID, error) {
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: ca.key, KeyID: "ca-1"}}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return nil, err
	}
	now := time.Now().Unix()
	body, err := json.Marshal(map[string]any{"sub": p.Subject.String(), "aud": append([]string{p.Audience}, p.ExtraAudiences...), "iat": now, "exp": now + 300})
	if err != nil {
		return nil, err
	}
	jws, err := s.Sign(body)
	if err != nil {
		return nil, err
	}
	raw, err := jws.CompactSerialize()
	if err != nil {
		return nil, err
	}
	return jwtsvid.ParseAndValidate(raw, ca.bundle, []string{p.Audience})
}

// svid is the text of a JWT-SVID as a workload gets it from its source.
func (ca *spiffeCA) svid(t *testing.T, path string, p jwtsvid.Params) string {
	t.Helper()
	p.Subject = spiffeid.RequireFromPath(ca.domain, path)
	s, err := ca.FetchJWTSVID(t.Context(), p)
	require.NoError(t, err)
	return s.Marshal()
}

// TestJWTSVIDGetsAToken: an SVID that go-spiffe made and validated is the proof of a
// first grant and of the actor of an exchange; an emptied bundle ends both.
func TestJWTSVIDGetsAToken(t *testing.T) {
	ca, other := newSPIFFECA(t, "prod.example.org"), newSPIFFECA(t, "other.example")
	w := newWorld(t, func(w *world) {
		w.configure = func(c *config.Config) {
			c.Issuance.TrustDomains = []config.TrustDomain{{TrustDomain: "prod.example.org", Bundle: "file://" + ca.path}}
		}
	})
	for _, name := range []string{"bot", "helper"} {
		reg := agent(name)
		reg.Attestation = []events.Attestation{{Issuer: "spiffe://prod.example.org", Subject: "spiffe://prod.example.org/agents/" + name}}
		w.declare("acme", reg)
	}
	form := func(svid string) url.Values {
		return url.Values{"grant_type": {grant.GrantJWTBearer}, "assertion": {svid}, "task": {"t"}, "scope": {"read"}, "audience": {"https://a.example"}}
	}
	ours := jwtsvid.Params{Audience: w.url}
	parent, c := w.issue(form(ca.svid(t, "/agents/bot", ours)))
	require.Equal(t, "bot", c.Subject)
	require.Equal(t, w.namer.Name(lineage.KindDomain, "", "spiffe://prod.example.org"), c.Lineage[0], "whoever revokes the domain reaches it")
	asked, _ := logged[events.CredentialIssued](w, events.LogSubject("acme", "credential", "issued", "bot"))
	require.Equal(t, events.Attestation{Issuer: "spiffe://prod.example.org", Subject: "spiffe://prod.example.org/agents/bot"}, asked.Context.Attestation)

	exchange := url.Values{"grant_type": {grant.GrantExchange}, "subject_token": {parent}, "subject_token_type": {grant.TypeAccessToken},
		"actor_token": {ca.svid(t, "/agents/helper", ours)}, "actor_token_type": {grant.TypeJWT}, "audience": {"https://a.example"}}
	_, c = w.issue(exchange)
	require.Equal(t, "helper", c.Actor.Subject)

	for name, svid := range map[string]string{
		"nobody registered":   ca.svid(t, "/agents/stranger", ours),
		"another's domain":    other.svid(t, "/agents/bot", ours),
		"another audience":    ca.svid(t, "/agents/bot", jwtsvid.Params{Audience: "https://other.example"}),
		"a second audience":   ca.svid(t, "/agents/bot", jwtsvid.Params{Audience: w.url, ExtraAudiences: []string{"https://other.example"}}),
		"below the workload":  ca.svid(t, "/agents/bot/x", ours),
		"a name it starts as": ca.svid(t, "/agents/bo", ours),
	} {
		require.Equal(t, 400, w.post(form(svid)).status, name)
	}

	require.NoError(t, os.WriteFile(ca.path+".new", []byte(`{"keys":[]}`), 0o600))
	require.NoError(t, os.Rename(ca.path+".new", ca.path))
	a := w.post(form(ca.svid(t, "/agents/bot", ours)))
	require.Equal(t, "invalid_grant", a.Error)
	require.Contains(t, a.Description, "holds no keys")
	require.Equal(t, "invalid_grant", w.post(exchange).Error)
}

// certificate is a client certificate whose SPIFFE ID is path of the domain, signed by
// an X.509 authority that is put into the bundle file.
func (ca *spiffeCA) certificate(t *testing.T, path string) tls.Certificate {
	t.Helper()
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, URIs: []*url.URL{ca.domain.ID().URL()}}
	der, err := x509.CreateCertificate(rand.Reader, authority, authority, ca.key.Public(), ca.key)
	require.NoError(t, err)
	authority, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	ca.bundle.SetX509Authorities([]*x509.Certificate{authority})
	b, err := ca.bundle.Marshal()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(ca.path+".new", b, 0o600))
	require.NoError(t, os.Rename(ca.path+".new", ca.path))
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		URIs: []*url.URL{spiffeid.RequireFromPath(ca.domain, path).URL()}}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err = x509.CreateCertificate(rand.Reader, leaf, authority, key.Public(), ca.key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

const botSVID = "spiffe://prod.example.org/agents/bot"

// svidWorld trusts ca and has acme/bot, which proves itself as botSVID.
func svidWorld(t *testing.T, ca *spiffeCA) *world {
	t.Helper()
	w := newWorld(t, func(w *world) {
		w.configure = func(c *config.Config) {
			c.Issuance.TrustDomains = []config.TrustDomain{{TrustDomain: "prod.example.org", Bundle: "file://" + ca.path}}
		}
	})
	reg := agent("bot")
	reg.Attestation = []events.Attestation{{Issuer: "spiffe://prod.example.org", Subject: botSVID}}
	w.declare("acme", reg)
	return w
}

// overTLS serves issuance over TLS, asking for client certificates as its listener does,
// and makes clients that present some.
func (w *world) overTLS() (base string, client func(...tls.Certificate) *http.Client) {
	srv := httptest.NewUnstartedServer(w.http)
	srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	srv.StartTLS()
	w.t.Cleanup(srv.Close)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	return srv.URL, func(certificates ...tls.Certificate) *http.Client {
		c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certificates}}}
		w.t.Cleanup(c.CloseIdleConnections)
		return c
	}
}

// TestX509SVIDGetsAToken: an ordinary OAuth client gets a token by client_credentials
// over mutual TLS; the token endpoint asks for a certificate and judges it itself.
func TestX509SVIDGetsAToken(t *testing.T) {
	ca, other := newSPIFFECA(t, "prod.example.org"), newSPIFFECA(t, "other.example")
	w := svidWorld(t, ca)
	const id = botSVID
	tlsURL, client := w.overTLS()
	ask := func(clientID string, certificates ...tls.Certificate) answer {
		resp, err := client(certificates...).PostForm(tlsURL+"/oauth2/token", url.Values{"grant_type": {grant.GrantClient}, "client_id": {clientID},
			"task": {"t"}, "scope": {"read"}, "audience": {"https://a.example"}})
		require.NoError(t, err)
		defer resp.Body.Close()
		a := answer{status: resp.StatusCode}
		require.NoError(t, json.NewDecoder(resp.Body).Decode(&a))
		return a
	}
	ours := ca.certificate(t, "/agents/bot")
	a := ask(id, ours)
	require.Equal(t, 200, a.status, a.Description)
	c := w.claims(a.AccessToken)
	require.Equal(t, "bot", c.Subject)
	require.Equal(t, w.namer.Name(lineage.KindDomain, "", "spiffe://prod.example.org"), c.Lineage[0])

	for name, a := range map[string]answer{
		"no certificate":      ask(id),
		"another client_id":   ask("spiffe://prod.example.org/agents/other", ours),
		"no client_id":        ask("", ours),
		"another's authority": ask(id, other.certificate(t, "/agents/bot")),
	} {
		require.Equal(t, 401, a.status, name)
		require.Equal(t, "invalid_client", a.Error, name)
	}
	require.Equal(t, "unauthorized_client", ask("spiffe://prod.example.org/agents/stranger", ca.certificate(t, "/agents/stranger")).Error)
	require.Equal(t, "invalid_client", w.post(url.Values{"grant_type": {grant.GrantClient}, "client_id": {id}}).Error, "without TLS")
}
