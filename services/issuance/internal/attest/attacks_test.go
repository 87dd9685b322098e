package attest_test

import (
	"compress/gzip"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/outbound"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/attest"
)

// TestAlgorithmConfusion signs with HMAC and each public form of the RSA key, as a
// verifier would fall for that takes the key's bytes for the algorithm of the header.
func TestAlgorithmConfusion(t *testing.T) {
	w, a := newWorld(t), newAuthority(t)
	for name, pub := range map[string]any{"of the issuer": w.rs.Public(), "of the trust domain": a.rs.Public()} {
		der, err := x509.MarshalPKIXPublicKey(pub)
		require.NoError(t, err)
		jwk, err := json.Marshal(jose.JSONWebKey{Key: pub, KeyID: "rs"})
		require.NoError(t, err)
		text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
		for form, secret := range map[string][]byte{"PEM": text, "PEM without newline": []byte(strings.TrimSpace(string(text))), "DER": der, "JWK": jwk} {
			for _, alg := range []jose.SignatureAlgorithm{jose.HS256, jose.HS384, jose.HS512} {
				_, err := w.v.Verify(context.Background(), w.sign(alg, secret, "rs", "JWT", good()))
				require.ErrorIs(t, err, attest.ErrAlgorithm, "%s %s %s", name, form, alg)
				_, err = a.v.Verify(context.Background(), signed(t, alg, secret, "rs", svid()))
				require.ErrorIs(t, err, attest.ErrAlgorithm, "%s %s %s", name, form, alg)
			}
		}
	}
}

// TestKeyIDsLeadNowhere: a kid is compared, never opened, fetched or put into a query.
func TestKeyIDsLeadNowhere(t *testing.T) {
	w, a := newWorld(t), newAuthority(t)
	for _, kid := range []string{"../../../../dev/null", "..\\..\\x", "/etc/passwd", "file:///etc/passwd", "https://evil.example/k", "ec\x00",
		"EC", "ec ", "' OR 1=1 --", "$(id)", "*", strings.Repeat("k", 8000)} {
		_, err := w.v.Verify(context.Background(), w.sign(jose.ES256, w.other, kid, "JWT", good()))
		require.ErrorIs(t, err, attest.ErrUnknownKey, "%q", kid)
		_, err = a.v.Verify(context.Background(), signed(t, jose.ES256, a.other, kid, svid()))
		require.ErrorIs(t, err, attest.ErrUnknownKey, "%q", kid)
	}
	require.EqualValues(t, 1, w.fetches.Load(), "and unknown ones do not make the set be fetched each time")
}

// TestOversizedAttestation: 16 KiB is the most, whatever they hold.
func TestOversizedAttestation(t *testing.T) {
	w, a := newWorld(t), newAuthority(t)
	claims, ours := good(), svid()
	claims["pad"], ours["pad"] = strings.Repeat("x", 13<<10), strings.Repeat("x", 13<<10)
	for name, raw := range map[string]string{"token": w.sign(jose.ES256, w.ec, "ec", "JWT", claims), "SVID": signed(t, jose.ES256, a.ec, "ec", ours)} {
		require.Greater(t, len(raw), 16<<10)
		_, err := w.v.Verify(context.Background(), raw)
		require.ErrorIs(t, err, attest.ErrMalformed, name)
		_, err = a.v.Verify(context.Background(), raw)
		require.ErrorContains(t, err, "more than 16384 bytes", name)
	}
	_, err := w.v.Verify(context.Background(), strings.Repeat(".", 1<<20))
	require.ErrorIs(t, err, attest.ErrMalformed)
}

// TestClockSkew: 5 s either way, not more.
func TestClockSkew(t *testing.T) {
	w := newWorld(t)
	for name, c := range map[string]struct {
		claim string
		at    time.Duration // from now
		want  error
	}{
		"iat 5 s ahead":           {"iat", 5 * time.Second, nil},
		"iat 6 s ahead":           {"iat", 6 * time.Second, attest.ErrNotYet},
		"nbf 5 s ahead":           {"nbf", 5 * time.Second, nil},
		"nbf 6 s ahead":           {"nbf", 6 * time.Second, attest.ErrNotYet},
		"exp 4 s ago":             {"exp", -4 * time.Second, nil},
		"exp 5 s ago":             {"exp", -5 * time.Second, attest.ErrExpired},
		"iat 10 min and 5 s ago":  {"iat", -10*time.Minute - 5*time.Second, nil},
		"iat 10 min and 6 s ago":  {"iat", -10*time.Minute - 6*time.Second, attest.ErrTooOld},
		"exp before the epoch":    {"exp", -100 * 365 * 24 * time.Hour, attest.ErrExpired},
		"iat in a hundred years ": {"iat", 100 * 365 * 24 * time.Hour, attest.ErrNotYet},
	} {
		_, err := w.v.Verify(context.Background(), w.sign(jose.ES256, w.ec, "ec", "JWT", with(c.claim, t0.Add(c.at).Unix())))
		if c.want == nil {
			require.NoError(t, err, name)
			continue
		}
		require.ErrorIs(t, err, c.want, name)
	}
	for claim, c := range map[string]struct {
		at   float64
		want error
	}{"iat": {1e300, attest.ErrNotYet}, "exp": {-1e300, attest.ErrExpired}, "nbf": {1e300, attest.ErrNotYet}} {
		_, err := w.v.Verify(context.Background(), w.sign(jose.ES256, w.ec, "ec", "JWT", with(claim, c.at)))
		require.ErrorIs(t, err, c.want, "%s does not overflow", claim)
	}
	got, err := w.v.Verify(context.Background(), w.sign(jose.ES256, w.ec, "ec", "JWT", with("exp", 1e300)))
	require.NoError(t, err)
	require.Equal(t, 9999, got.Expires.UTC().Year())
}

// from makes a verifier whose issuer and trust domain have their keys at target.
func (w *world) from(target string, local bool, clients attest.Clients) *attest.Verifier {
	v, err := attest.New(attest.Config{Issuers: []config.TrustedIssuer{{Issuer: iss, JWKS: target, Local: local}},
		TrustDomains: []config.TrustDomain{{TrustDomain: td, Bundle: target, Local: local}}, Audience: aud, Clients: clients, Now: w.clock.now})
	require.NoError(w.t, err)
	return v
}

// TestHostileKeyEndpoints: where keys come from is bounded, both by the outbound client
// and by the client for local issuers.
func TestHostileKeyEndpoints(t *testing.T) {
	w := newWorld(t)
	token, svid := w.sign(jose.ES256, w.ec, "ec", "JWT", good()), signed(t, jose.ES256, w.ec, "ec", svid())
	jwks := w.jwks.Load().([]byte)
	elsewhere := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		t.Error("a redirect was followed")
		_, _ = rw.Write(jwks)
	}))
	defer elsewhere.Close()
	big := append([]byte(`{"keys":[],"pad":"`), []byte(strings.Repeat("x", 10<<20))...)
	for name, c := range map[string]struct {
		serve http.HandlerFunc
		want  error // of the outbound client
	}{
		"redirect to the metadata service": {func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, "http://169.254.169.254/latest/meta-data/iam/security-credentials/", http.StatusFound)
		}, outbound.ErrRedirect},
		"redirect to a good key set": {func(rw http.ResponseWriter, r *http.Request) {
			http.Redirect(rw, r, elsewhere.URL, http.StatusTemporaryRedirect)
		}, outbound.ErrRedirect},
		"10 MB":         {func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(big) }, outbound.ErrTooLarge},
		"10 MB, zipped": {func(rw http.ResponseWriter, _ *http.Request) { zipped(rw, big) }, outbound.ErrTooLarge},
		"HTML": {func(rw http.ResponseWriter, _ *http.Request) {
			_, _ = rw.Write([]byte("<html>sign in</html>"))
		}, nil},
		"an error with a key set": {func(rw http.ResponseWriter, _ *http.Request) {
			rw.WriteHeader(http.StatusNotFound)
			_, _ = rw.Write(jwks)
		}, nil},
		"cut off": {func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Content-Length", "100000")
			_, _ = rw.Write(jwks)
		}, nil},
		"101 keys": {func(rw http.ResponseWriter, _ *http.Request) {
			_, _ = rw.Write([]byte(`{"keys":[` + strings.Repeat(`{"kty":"x"},`, 100) + `{"kty":"x"}]}`))
		}, nil},
	} {
		srv := httptest.NewServer(c.serve)
		client, err := outbound.New(outbound.Options{Own: []string{srv.URL}})
		require.NoError(t, err)
		for kind, clients := range map[string]attest.Clients{"outbound": {Local: client}, "loopback": {Local: attest.LoopbackClient()}} {
			v := w.from(srv.URL, true, clients)
			for _, raw := range []string{token, svid} {
				_, err := v.Verify(context.Background(), raw)
				require.ErrorIs(t, err, attest.ErrUnavailable, "%s, %s", name, kind)
				if kind == "outbound" && c.want != nil {
					require.ErrorIs(t, err, c.want, name)
				}
			}
		}
		srv.Close()
	}
}

func zipped(rw http.ResponseWriter, b []byte) {
	rw.Header().Set("Content-Encoding", "gzip")
	z := gzip.NewWriter(rw)
	_, _ = z.Write(b)
	_ = z.Close()
}

// TestKeyEndpointAtTheMetadataService: the configuration cannot lead there either.
func TestKeyEndpointAtTheMetadataService(t *testing.T) {
	w := newWorld(t)
	client, err := outbound.New(outbound.Options{})
	require.NoError(t, err)
	for target, want := range map[string]error{"https://169.254.169.254/jwks": outbound.ErrAddress, "https://[::ffff:169.254.169.254]/jwks": outbound.ErrAddress,
		"https://127.0.0.1/jwks": outbound.ErrAddress, "https://metadata.google.internal/jwks": outbound.ErrURL, "https://2852039166/jwks": outbound.ErrURL} {
		v := w.from(target, false, attest.Clients{Outbound: client})
		for _, raw := range []string{w.sign(jose.ES256, w.ec, "ec", "JWT", good()), signed(t, jose.ES256, w.ec, "ec", svid())} {
			_, err := v.Verify(context.Background(), raw)
			require.ErrorIs(t, err, attest.ErrUnavailable, target)
			require.ErrorIs(t, err, want, target)
		}
	}
}

// TestHangingKeyEndpoint: nobody waits for it longer than their request or the client
// allows, and while it hangs the keys that are held serve everybody else.
func TestHangingKeyEndpoint(t *testing.T) {
	w := newWorld(t)
	var mu sync.Mutex
	hang, asked, release := false, make(chan struct{}, 10), make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		mu.Lock()
		hanging := hang
		mu.Unlock()
		if hanging {
			_, _ = rw.Write([]byte(`{"keys":`)) // and no more
			rw.(http.Flusher).Flush()
			asked <- struct{}{}
			select {
			case <-release:
			case <-r.Context().Done():
			}
			return
		}
		_, _ = rw.Write(w.jwks.Load().([]byte))
	}))
	defer srv.Close()
	defer close(release)
	client, err := outbound.New(outbound.Options{Own: []string{srv.URL}, Timeout: 200 * time.Millisecond})
	require.NoError(t, err)
	token := func() string {
		now := w.clock.now().Unix()
		return w.sign(jose.ES256, w.ec, "ec", "JWT", m{"iss": iss, "sub": "s", "aud": aud, "iat": now, "exp": now + 60})
	}
	impatient := w.from(srv.URL, true, attest.Clients{Local: client})
	patient := w.from(srv.URL, true, attest.Clients{Local: attest.LoopbackClient()})
	_, err = patient.Verify(context.Background(), token())
	require.NoError(t, err)
	mu.Lock()
	hang = true
	mu.Unlock()

	_, err = impatient.Verify(context.Background(), token())
	require.ErrorIs(t, err, attest.ErrUnavailable, "the client's timeout ends it")
	<-asked

	w.clock.advance(6 * time.Minute)
	ctx, cancel := context.WithCancel(context.Background())
	first := make(chan error, 1)
	raw := token()
	go func() {
		_, err := patient.Verify(ctx, raw)
		first <- err
	}()
	<-asked
	_, err = patient.Verify(context.Background(), raw)
	require.NoError(t, err, "the second does not wait for the first")
	cancel()
	require.NoError(t, <-first, "and the first goes on with what is held")
}
