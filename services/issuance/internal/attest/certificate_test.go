package attest_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/services/issuance/internal/attest"
)

// x509CA signs X509-SVIDs.
type x509CA struct {
	t    *testing.T
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newX509CA(t *testing.T, id string) *x509CA {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	ca := &x509CA{t: t, key: k}
	ca.cert = ca.sign(k.Public(), func(c *x509.Certificate) {
		c.URIs = []*url.URL{uri(t, id)}
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.ExtKeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, nil
	})
	return ca
}

func uri(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	require.NoError(t, err)
	return u
}

// sign makes an X509-SVID of sub, changed by change; the first certificate is self-signed.
func (ca *x509CA) sign(pub crypto.PublicKey, change ...func(*x509.Certificate)) *x509.Certificate {
	ca.t.Helper()
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	require.NoError(ca.t, err)
	tmpl := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{Organization: []string{"test"}}, NotBefore: t0.Add(-time.Minute), NotAfter: t0.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, URIs: []*url.URL{uri(ca.t, sub)}}
	for _, f := range change {
		f(tmpl)
	}
	parent := ca.cert
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, ca.key)
	require.NoError(ca.t, err)
	c, err := x509.ParseCertificate(der)
	require.NoError(ca.t, err)
	return c
}

// publishes puts the CA into the authority's bundle.
func (ca *x509CA) publishes(a *authority) *x509CA {
	n, _ := a.bundle.SequenceNumber()
	a.bundle.SetSequenceNumber(n + 1)
	a.bundle.AddX509Authority(ca.cert)
	a.publish()
	return ca
}

func TestCertificateAttests(t *testing.T) {
	a := newAuthority(t)
	ca := newX509CA(t, "spiffe://"+td).publishes(a)
	inter := &x509CA{t: t, key: a.other}
	inter.cert = ca.sign(inter.key.Public(), func(c *x509.Certificate) {
		c.IsCA, c.KeyUsage, c.URIs = true, x509.KeyUsageCertSign, []*url.URL{uri(t, "spiffe://"+td)}
	})
	for name, chain := range map[string][]*x509.Certificate{
		"EC":                    {ca.sign(a.ec.Public())},
		"RSA":                   {ca.sign(a.rs.Public())},
		"by an intermediate":    {inter.sign(a.ec.Public()), inter.cert},
		"with DNS names":        {ca.sign(a.ec.Public(), func(c *x509.Certificate) { c.DNSNames = []string{"agent"} })},
		"no extended key usage": {ca.sign(a.ec.Public(), func(c *x509.Certificate) { c.ExtKeyUsage = nil })},
		"old, but still valid":  {ca.sign(a.ec.Public(), func(c *x509.Certificate) { c.NotBefore = t0.Add(-40 * 24 * time.Hour) })},
	} {
		got, err := a.v.VerifyCertificate(context.Background(), chain)
		require.NoError(t, err, name)
		require.Equal(t, attest.Attested{Issuer: "spiffe://" + td, Subject: sub, IssuedAt: chain[0].NotBefore, Expires: chain[0].NotAfter}, got, name)
	}
}

func TestCertificatesThatAreRefused(t *testing.T) {
	a := newAuthority(t)
	ca, stranger := newX509CA(t, "spiffe://"+td).publishes(a), newX509CA(t, "spiffe://"+td)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	ids := func(ids ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.URIs = nil
			for _, id := range ids {
				c.URIs = append(c.URIs, uri(t, id))
			}
		}
	}
	pub := a.ec.Public()
	leaf := ca.sign(pub)
	fake := &x509CA{t: t, key: a.ec, cert: leaf}
	for name, c := range map[string]struct {
		chain []*x509.Certificate
		want  error
	}{
		"none":                         {nil, attest.ErrNoCertificate},
		"of an unknown authority":      {[]*x509.Certificate{stranger.sign(pub)}, attest.ErrUntrusted},
		"that brings its authority":    {[]*x509.Certificate{stranger.sign(pub), stranger.cert}, attest.ErrUntrusted},
		"signed by a leaf":             {[]*x509.Certificate{fake.sign(a.other.Public()), leaf}, attest.ErrUntrusted},
		"of another trust domain":      {[]*x509.Certificate{ca.sign(pub, ids("spiffe://evil.example/x"))}, attest.ErrUnknownDomain},
		"two SPIFFE IDs":               {[]*x509.Certificate{ca.sign(pub, ids(sub, "spiffe://example.org/admin"))}, attest.ErrCertificate},
		"no SPIFFE ID":                 {[]*x509.Certificate{ca.sign(pub, ids())}, attest.ErrCertificate},
		"an https URI":                 {[]*x509.Certificate{ca.sign(pub, ids("https://example.org/x"))}, attest.ErrCertificate},
		"a whole trust domain":         {[]*x509.Certificate{ca.sign(pub, ids("spiffe://example.org"))}, attest.ErrSPIFFEID},
		"the authority itself":         {[]*x509.Certificate{ca.cert}, attest.ErrSPIFFEID},
		"a CA with a path":             {[]*x509.Certificate{ca.sign(pub, func(c *x509.Certificate) { c.IsCA = true })}, attest.ErrCertificate},
		"may sign certificates":        {[]*x509.Certificate{ca.sign(pub, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign })}, attest.ErrCertificate},
		"may sign CRLs":                {[]*x509.Certificate{ca.sign(pub, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign })}, attest.ErrCertificate},
		"no digitalSignature":          {[]*x509.Certificate{ca.sign(pub, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment })}, attest.ErrCertificate},
		"no key usage":                 {[]*x509.Certificate{ca.sign(pub, func(c *x509.Certificate) { c.KeyUsage = 0 })}, attest.ErrCertificate},
		"key usage that is not minded": {[]*x509.Certificate{ca.sign(pub, notCritical(t))}, attest.ErrCertificate},
		"for servers":                  {[]*x509.Certificate{ca.sign(pub, func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] })}, attest.ErrCertificate},
		"weak RSA":                     {[]*x509.Certificate{ca.sign(weak.Public())}, attest.ErrCertificate},
		"expired":                      {[]*x509.Certificate{ca.sign(pub, func(c *x509.Certificate) { c.NotAfter = t0.Add(-time.Second) })}, attest.ErrExpired},
		"not valid yet":                {[]*x509.Certificate{ca.sign(pub, func(c *x509.Certificate) { c.NotBefore = t0.Add(time.Minute) })}, attest.ErrNotYet},
		"a long chain":                 {append([]*x509.Certificate{leaf}, make([]*x509.Certificate, 10)...), attest.ErrCertificate},
	} {
		_, err := a.v.VerifyCertificate(context.Background(), c.chain)
		require.ErrorIs(t, err, c.want, name)
	}
	a.write(`{"keys":[]}`)
	_, err = a.v.VerifyCertificate(context.Background(), []*x509.Certificate{leaf})
	require.ErrorIs(t, err, attest.ErrRevokedDomain)
}

// notCritical gives a certificate the right key usage in an extension that is not
// critical.
func notCritical(t *testing.T) func(*x509.Certificate) {
	value, err := asn1.Marshal(asn1.BitString{Bytes: []byte{0x80}, BitLength: 1})
	require.NoError(t, err)
	return func(c *x509.Certificate) {
		c.KeyUsage = 0
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 15}, Value: value}}
	}
}

// TestNewAuthorityIsNoticed: a certificate of an authority that the bundle has gained
// since is accepted when it is read again, and bundles of two domains are not merged.
func TestNewAuthorityIsNoticed(t *testing.T) {
	a := newAuthority(t)
	var body []byte
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
	defer srv.Close()
	old, next := newX509CA(t, "spiffe://"+td), newX509CA(t, "spiffe://"+td)
	b := spiffebundle.New(spiffeid.RequireTrustDomainFromString(td))
	publish := func(ca *x509CA) {
		var err error
		b.AddX509Authority(ca.cert)
		body, err = b.Marshal()
		require.NoError(t, err)
	}
	publish(old)
	v := a.verifier(srv.URL)
	_, err := v.VerifyCertificate(context.Background(), []*x509.Certificate{old.sign(a.ec.Public())})
	require.NoError(t, err)
	leaf := []*x509.Certificate{next.sign(a.ec.Public())}
	publish(next)
	_, err = v.VerifyCertificate(context.Background(), leaf)
	require.ErrorIs(t, err, attest.ErrUntrusted, "not more often than every 5 s")
	a.clock.advance(5 * time.Second)
	_, err = v.VerifyCertificate(context.Background(), leaf)
	require.NoError(t, err)
}

// TestMutualTLS: what a server gets that asks for a certificate and leaves its
// verification to us. A certificate without its key does not get through the handshake.
func TestMutualTLS(t *testing.T) {
	a := newAuthority(t)
	a.clock.set(t0)
	ca := newX509CA(t, "spiffe://"+td).publishes(a)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, err := a.v.VerifyCertificate(r.Context(), r.TLS.PeerCertificates)
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnauthorized)
			return
		}
		_, _ = io.WriteString(w, got.Subject)
	}))
	srv.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	srv.StartTLS()
	defer srv.Close()
	get := func(certs ...tls.Certificate) (int, string, error) {
		tr := srv.Client().Transport.(*http.Transport).Clone()
		tr.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return &append(certs, tls.Certificate{})[0], nil
		}
		defer tr.CloseIdleConnections()
		resp, err := (&http.Client{Transport: tr}).Get(srv.URL)
		if err != nil {
			return 0, "", err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		return resp.StatusCode, string(body), err
	}
	leaf := ca.sign(a.ec.Public())
	status, body, err := get(tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: a.ec})
	require.NoError(t, err)
	require.Equal(t, sub, body)
	require.Equal(t, http.StatusOK, status)
	status, _, err = get()
	require.NoError(t, err)
	require.Equal(t, http.StatusUnauthorized, status, "a client without a certificate")
	_, _, err = get(tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: a.other})
	require.Error(t, err, "a certificate without its key")
}
