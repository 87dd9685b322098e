package attest_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/attest"
)

const (
	iss = "https://oidc.example"
	aud = "https://lanyard.example"
)

var t0 = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

type clock struct{ at atomic.Int64 }

func (c *clock) now() time.Time          { return time.Unix(0, c.at.Load()) }
func (c *clock) set(t time.Time)         { c.at.Store(t.UnixNano()) }
func (c *clock) advance(d time.Duration) { c.at.Add(int64(d)) }

func newClock() *clock { c := &clock{}; c.set(t0); return c }

type world struct {
	t       *testing.T
	clock   *clock
	ec      *ecdsa.PrivateKey
	rs      *rsa.PrivateKey
	ed      ed25519.PrivateKey
	other   *ecdsa.PrivateKey
	jwks    atomic.Value // []byte
	fetches atomic.Int64
	down    atomic.Bool
	url     string // of the key set
	v       *attest.Verifier
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, clock: newClock()}
	var err error
	w.ec, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	w.other, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	w.rs, err = rsa.GenerateKey(rand.Reader, 2048)
	require.NoError(t, err)
	_, w.ed, err = ed25519.GenerateKey(rand.Reader)
	require.NoError(t, err)
	w.publish(jose.JSONWebKey{Key: w.ec.Public(), KeyID: "ec", Use: "sig"}, jose.JSONWebKey{Key: w.rs.Public(), KeyID: "rs", Algorithm: "RS256"},
		jose.JSONWebKey{Key: w.ed.Public(), KeyID: "ed"})
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		w.fetches.Add(1)
		if w.down.Load() {
			rw.WriteHeader(500)
			return
		}
		_, _ = rw.Write(w.jwks.Load().([]byte))
	}))
	t.Cleanup(srv.Close)
	w.url = srv.URL
	w.v, err = attest.New(attest.Config{Issuers: []config.TrustedIssuer{{Issuer: iss, JWKS: srv.URL, Local: true}}, Audience: aud,
		Clients: attest.Clients{Local: attest.LoopbackClient()}, Now: w.clock.now})
	require.NoError(t, err)
	return w
}

func (w *world) publish(keys ...jose.JSONWebKey) {
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	require.NoError(w.t, err)
	w.jwks.Store(b)
}

type m = map[string]any

func good() m {
	return m{"iss": iss, "sub": "system:sa:agent", "aud": aud, "iat": t0.Unix(), "exp": t0.Add(5 * time.Minute).Unix(), "jti": "j1"}
}

func with(k string, v any) m {
	c := good()
	if c[k] = v; v == nil {
		delete(c, k)
	}
	return c
}

// sign makes a token with go-jose: an implementation that is not ours.
func (w *world) sign(alg jose.SignatureAlgorithm, key any, kid string, typ string, claims any) string {
	opts := &jose.SignerOptions{}
	if typ != "" {
		opts = opts.WithType(jose.ContentType(typ))
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: jose.JSONWebKey{Key: key, KeyID: kid}}, opts)
	require.NoError(w.t, err)
	body, err := json.Marshal(claims)
	require.NoError(w.t, err)
	jws, err := s.Sign(body)
	require.NoError(w.t, err)
	out, err := jws.CompactSerialize()
	require.NoError(w.t, err)
	return out
}

func TestAcceptsEachAlgorithm(t *testing.T) {
	w := newWorld(t)
	for name, raw := range map[string]string{
		"ES256":           w.sign(jose.ES256, w.ec, "ec", "JWT", good()),
		"RS256":           w.sign(jose.RS256, w.rs, "rs", "", good()),
		"EdDSA":           w.sign(jose.EdDSA, w.ed, "ed", "jwt", good()),
		"no kid, one key": w.sign(jose.EdDSA, w.ed, "", "JWT", good()),
		"aud array":       w.sign(jose.ES256, w.ec, "ec", "JWT", with("aud", []string{aud})),
		"fraction":        w.sign(jose.ES256, w.ec, "ec", "JWT", with("iat", float64(t0.Unix())+0.25)),
	} {
		got, err := w.v.Verify(context.Background(), raw)
		require.NoError(t, err, name)
		require.Equal(t, iss, got.Issuer)
		require.Equal(t, "system:sa:agent", got.Subject)
		require.Equal(t, "j1", got.ID)
	}
	require.EqualValues(t, 1, w.fetches.Load(), "the key set is cached")
}

func b64(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func TestRefuses(t *testing.T) {
	w := newWorld(t)
	okToken := w.sign(jose.ES256, w.ec, "ec", "JWT", good())
	parts := strings.Split(okToken, ".")
	body, err := json.Marshal(good())
	require.NoError(t, err)
	payload := b64(string(body))
	last := okToken[len(okToken)-1]
	flipped := okToken[:len(okToken)-1] + string("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"[strings.IndexByte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_", last)^1])
	pub := w.rs.Public()
	for name, c := range map[string]struct {
		raw  string
		want error
	}{
		"empty":                       {"", attest.ErrMalformed},
		"two parts":                   {"a.b", attest.ErrMalformed},
		"newline in signature":        {okToken[:len(okToken)-4] + "\n" + okToken[len(okToken)-4:], attest.ErrMalformed},
		"padding":                     {okToken + "==", attest.ErrMalformed},
		"unused signature bits":       {flipped, attest.ErrMalformed},
		"huge":                        {okToken + strings.Repeat("A", 1<<15), attest.ErrMalformed},
		"header not JSON":             {b64("x") + "." + payload + "." + parts[2], attest.ErrMalformed},
		"doubled alg":                 {b64(`{"alg":"none","alg":"ES256","kid":"ec"}`) + "." + payload + "." + parts[2], attest.ErrMalformed},
		"doubled sub":                 {parts[0] + "." + b64(`{"iss":"`+iss+`","sub":"a","sub":"b"}`) + "." + parts[2], attest.ErrMalformed},
		"crit":                        {b64(`{"alg":"ES256","kid":"ec","crit":["b64"],"b64":false}`) + "." + payload + "." + parts[2], attest.ErrMalformed},
		"alg none":                    {b64(`{"alg":"none"}`) + "." + payload + ".", attest.ErrAlgorithm},
		"alg nOnE":                    {b64(`{"alg":"nOnE"}`) + "." + payload + "." + parts[2], attest.ErrAlgorithm},
		"HS256 with the public key":   {w.sign(jose.HS256, append([]byte{}, pub.(*rsa.PublicKey).N.Bytes()...), "rs", "JWT", good()), attest.ErrAlgorithm},
		"PS256":                       {w.sign(jose.PS256, w.rs, "rs", "JWT", good()), attest.ErrAlgorithm},
		"alg of another key":          {w.sign(jose.ES256, w.ec, "rs", "JWT", good()), attest.ErrUnknownKey},
		"access token as attestation": {w.sign(jose.ES256, w.ec, "ec", "at+jwt", good()), attest.ErrType},
		"SET as attestation":          {w.sign(jose.ES256, w.ec, "ec", "application/secevent+jwt", good()), attest.ErrType},
		"unknown issuer":              {w.sign(jose.ES256, w.ec, "ec", "JWT", with("iss", iss+"/")), attest.ErrUnknownIssuer},
		"no issuer":                   {w.sign(jose.ES256, w.ec, "ec", "JWT", with("iss", nil)), attest.ErrUnknownIssuer},
		"forged":                      {w.sign(jose.ES256, w.other, "ec", "JWT", good()), attest.ErrSignature},
		"claims swapped":              {parts[0] + "." + b64(strings.Replace(string(body), "agent", "admin", 1)) + "." + parts[2], attest.ErrSignature},
		"no signature":                {parts[0] + "." + parts[1] + ".", attest.ErrSignature},
		"wrong audience":              {w.sign(jose.ES256, w.ec, "ec", "JWT", with("aud", "https://other.example")), attest.ErrAudience},
		"several audiences":           {w.sign(jose.ES256, w.ec, "ec", "JWT", with("aud", []string{aud, "https://other.example"})), attest.ErrAudience},
		"no audience":                 {w.sign(jose.ES256, w.ec, "ec", "JWT", with("aud", nil)), attest.ErrAudience},
		"no subject":                  {w.sign(jose.ES256, w.ec, "ec", "JWT", with("sub", "")), attest.ErrClaims},
		"no exp":                      {w.sign(jose.ES256, w.ec, "ec", "JWT", with("exp", nil)), attest.ErrClaims},
		"no iat":                      {w.sign(jose.ES256, w.ec, "ec", "JWT", with("iat", nil)), attest.ErrClaims},
		"expired":                     {w.sign(jose.ES256, w.ec, "ec", "JWT", with("exp", t0.Add(-6*time.Second).Unix())), attest.ErrExpired},
		"issued in the future":        {w.sign(jose.ES256, w.ec, "ec", "JWT", with("iat", t0.Add(6*time.Second).Unix())), attest.ErrNotYet},
		"not before in the future":    {w.sign(jose.ES256, w.ec, "ec", "JWT", with("nbf", t0.Add(6*time.Second).Unix())), attest.ErrNotYet},
		"too old":                     {w.sign(jose.ES256, w.ec, "ec", "JWT", with("iat", t0.Add(-10*time.Minute-6*time.Second).Unix())), attest.ErrTooOld},
		"exp as text":                 {w.sign(jose.ES256, w.ec, "ec", "JWT", with("exp", "soon")), attest.ErrMalformed},
	} {
		_, err := w.v.Verify(context.Background(), c.raw)
		require.ErrorIs(t, err, c.want, name)
	}
	within := w.sign(jose.ES256, w.ec, "ec", "JWT", with("exp", t0.Add(-4*time.Second).Unix()))
	_, err = w.v.Verify(context.Background(), within)
	require.NoError(t, err, "5 s of leeway")
}

// TestHeaderKeysAreNotRead: a token that brings its own key is judged by the issuer's.
func TestHeaderKeysAreNotRead(t *testing.T) {
	w := newWorld(t)
	evil := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("a URL from a token was fetched")
	}))
	defer evil.Close()
	own, err := json.Marshal(jose.JSONWebKey{Key: w.other.Public(), KeyID: "ec"})
	require.NoError(t, err)
	for _, extra := range []m{{"jku": evil.URL}, {"x5u": evil.URL}, {"jwk": json.RawMessage(own)}} {
		opts := (&jose.SignerOptions{}).WithType("JWT")
		for k, v := range extra {
			opts = opts.WithHeader(jose.HeaderKey(k), v)
		}
		s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: w.other, KeyID: "ec"}}, opts)
		require.NoError(t, err)
		body, err := json.Marshal(good())
		require.NoError(t, err)
		jws, err := s.Sign(body)
		require.NoError(t, err)
		raw, err := jws.CompactSerialize()
		require.NoError(t, err)
		_, err = w.v.Verify(context.Background(), raw)
		require.ErrorIs(t, err, attest.ErrSignature)
	}
}

func TestKeysAreReadAgain(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	_, err := w.v.Verify(ctx, w.sign(jose.ES256, w.ec, "ec", "JWT", good()))
	require.NoError(t, err)
	successor := w.sign(jose.ES256, w.other, "ec2", "JWT", good())
	w.publish(jose.JSONWebKey{Key: w.ec.Public(), KeyID: "ec"}, jose.JSONWebKey{Key: w.other.Public(), KeyID: "ec2"})
	_, err = w.v.Verify(ctx, successor)
	require.ErrorIs(t, err, attest.ErrUnknownKey, "not more often than every 5 s, whatever strangers send")
	w.clock.advance(5 * time.Second)
	_, err = w.v.Verify(ctx, successor)
	require.NoError(t, err, "an unknown kid makes the set be read again")
	require.EqualValues(t, 2, w.fetches.Load())

	w.publish(jose.JSONWebKey{Key: w.other.Public(), KeyID: "ec2"})
	w.clock.advance(4 * time.Minute)
	_, err = w.v.Verify(ctx, w.sign(jose.ES256, w.ec, "ec", "JWT", good()))
	require.NoError(t, err, "within five minutes the old set counts")
	w.clock.advance(2 * time.Minute)
	_, err = w.v.Verify(ctx, w.sign(jose.ES256, w.ec, "ec", "JWT", with("exp", t0.Add(time.Hour).Unix())))
	require.ErrorIs(t, err, attest.ErrUnknownKey, "a key that left the set is refused")

	w.down.Store(true)
	w.clock.advance(30 * time.Minute)
	fresh := func() m {
		return m{"iss": iss, "sub": "s", "aud": aud, "iat": w.clock.now().Unix(), "exp": w.clock.now().Add(time.Minute).Unix()}
	}
	_, err = w.v.Verify(ctx, w.sign(jose.ES256, w.other, "ec2", "JWT", fresh()))
	require.NoError(t, err, "keys are used for an hour while the issuer is away")
	w.clock.advance(31 * time.Minute)
	_, err = w.v.Verify(ctx, w.sign(jose.ES256, w.other, "ec2", "JWT", fresh()))
	require.ErrorIs(t, err, attest.ErrUnavailable)
}

func TestKeySetsThatAreRefused(t *testing.T) {
	w := newWorld(t)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	require.NoError(t, err)
	ecPub := jose.JSONWebKey{Key: w.ec.Public(), KeyID: "ec"}
	for name, keys := range map[string][]jose.JSONWebKey{
		"private key": {{Key: w.ec, KeyID: "ec"}},
		"weak RSA":    {{Key: weak.Public(), KeyID: "weak"}, ecPub},
		"doubled kid": {ecPub, {Key: w.other.Public(), KeyID: "ec"}},
		"not for sig": {{Key: w.ec.Public(), KeyID: "ec", Use: "enc"}},
		"other alg":   {{Key: w.ec.Public(), KeyID: "ec", Algorithm: "ES384"}},
	} {
		path := filepath.Join(t.TempDir(), "jwks.json")
		b, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, b, 0o600))
		v, err := attest.New(attest.Config{Issuers: []config.TrustedIssuer{{Issuer: iss, JWKS: "file://" + path}}, Audience: aud, Now: w.clock.now})
		require.NoError(t, err)
		_, err = v.Verify(context.Background(), w.sign(jose.ES256, w.ec, "ec", "JWT", good()))
		require.Error(t, err, name)
	}
}

func TestConfigurationThatIsRefused(t *testing.T) {
	for name, list := range map[string][]config.TrustedIssuer{
		"plain http":       {{Issuer: iss, JWKS: "http://oidc.example/jwks"}},
		"no issuer":        {{JWKS: "https://oidc.example/jwks"}},
		"twice":            {{Issuer: iss, JWKS: "https://a.example"}, {Issuer: iss, JWKS: "https://b.example"}},
		"file with a host": {{Issuer: iss, JWKS: "file://etc/passwd"}},
		"no scheme":        {{Issuer: iss, JWKS: "jwks.json"}},
	} {
		_, err := attest.New(attest.Config{Issuers: list, Audience: aud, Clients: attest.Clients{Outbound: http.DefaultClient, Local: attest.LoopbackClient()}, Now: time.Now})
		require.Error(t, err, name)
	}
}

func TestLoopbackClientStaysOnLoopback(t *testing.T) {
	c := attest.LoopbackClient()
	for _, u := range []string{"http://93.184.216.34/", "http://169.254.169.254/", "http://example.com/", "http://[::ffff:10.0.0.1]/"} {
		_, err := c.Get(u)
		require.ErrorContains(t, err, "must be on loopback", u)
	}
}
