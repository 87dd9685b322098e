package attest_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/attest"
)

func jwk(t *testing.T, public any, kid string) events.JWK {
	t.Helper()
	b, err := json.Marshal(jose.JSONWebKey{Key: public, KeyID: kid})
	require.NoError(t, err)
	var k events.JWK
	require.NoError(t, json.Unmarshal(b, &k))
	return k
}

func (w *world) clientKeys() []events.JWK {
	return []events.JWK{jwk(w.t, w.ec.Public(), "ec"), jwk(w.t, w.rs.Public(), "rs"), jwk(w.t, w.ed.Public(), "ed")}
}

func (w *world) client(raw string) (attest.Attested, error) {
	a, err := attest.ReadClientAssertion(raw)
	if err != nil {
		return attest.Attested{}, err
	}
	return w.v.VerifyClient(a, w.clientKeys())
}

func asserted(change ...func(m)) m {
	c := m{"iss": "bot", "sub": "bot", "aud": aud, "exp": t0.Add(time.Minute).Unix(), "jti": "j1"}
	for _, f := range change {
		f(c)
	}
	return c
}

func TestClientAssertion(t *testing.T) {
	w := newWorld(t)
	for name, raw := range map[string]string{
		"EC":               w.sign(jose.ES256, w.ec, "ec", "JWT", asserted()),
		"RSA":              w.sign(jose.RS256, w.rs, "rs", "", asserted()),
		"Ed25519":          w.sign(jose.EdDSA, w.ed, "ed", "client-authentication+jwt", asserted()),
		"no kid, one key":  w.sign(jose.ES256, w.ec, "", "JWT", asserted()),
		"a clock ahead":    w.sign(jose.ES256, w.ec, "ec", "JWT", asserted(func(c m) { c["iat"] = t0.Add(4 * time.Second).Unix() })),
		"a clock behind":   w.sign(jose.ES256, w.ec, "ec", "JWT", asserted(func(c m) { c["exp"] = t0.Add(-4 * time.Second).Unix() })),
		"aud in an array":  w.sign(jose.ES256, w.ec, "ec", "JWT", asserted(func(c m) { c["aud"] = []string{aud} })),
		"ten minutes long": w.sign(jose.ES256, w.ec, "ec", "JWT", asserted(func(c m) { c["exp"] = t0.Add(10 * time.Minute).Unix() })),
	} {
		a, err := w.client(raw)
		require.NoError(t, err, name)
		require.Equal(t, "bot", a.Subject, name)
		require.Equal(t, "j1", a.ID, name)
		require.True(t, strings.HasPrefix(a.Issuer, attest.KeyIssuer) && len(a.Issuer) == len(attest.KeyIssuer)+43, a.Issuer)
		require.True(t, attest.OwnKey(a.Issuer, w.clientKeys()), name)
		require.False(t, attest.OwnKey(a.Issuer, []events.JWK{jwk(t, w.other.Public(), "ec")}), name)
	}
	require.False(t, attest.OwnKey("https://oidc.example", w.clientKeys()))
}

func TestClientAssertionAttacks(t *testing.T) {
	w := newWorld(t)
	ec := func(c m) string { return w.sign(jose.ES256, w.ec, "ec", "JWT", c) }
	set := func(k string, v any) m {
		return asserted(func(c m) {
			if c[k] = v; v == nil {
				delete(c, k)
			}
		})
	}
	pub, err := w.ec.PublicKey.Bytes()
	require.NoError(t, err)
	enc := b64
	parts := strings.Split(ec(asserted()), ".")
	withHeader := func(h string) string { return enc(h) + "." + parts[1] + "." + parts[2] }
	for name, c := range map[string]struct {
		raw  string
		want error
	}{
		"another audience":        {ec(set("aud", "https://other.example")), attest.ErrAudience},
		"the token endpoint":      {ec(set("aud", aud+"/oauth2/token")), attest.ErrAudience},
		"several audiences":       {ec(set("aud", []string{aud, "https://other.example"})), attest.ErrAudience},
		"no audience":             {ec(set("aud", nil)), attest.ErrAudience},
		"issuer is not the sub":   {ec(set("iss", "https://oidc.example")), attest.ErrClient},
		"no issuer":               {ec(set("iss", nil)), attest.ErrClient},
		"no subject":              {ec(set("sub", nil)), attest.ErrClient},
		"no jti":                  {ec(set("jti", nil)), attest.ErrClaims},
		"a huge jti":              {ec(set("jti", strings.Repeat("a", 257))), attest.ErrClaims},
		"no exp":                  {ec(set("exp", nil)), attest.ErrClaims},
		"expired":                 {ec(set("exp", t0.Add(-6*time.Second).Unix())), attest.ErrExpired},
		"long-lived":              {ec(set("exp", t0.Add(11*time.Minute).Unix())), attest.ErrLongLived},
		"from the future":         {ec(set("iat", t0.Add(6*time.Second).Unix())), attest.ErrNotYet},
		"not yet":                 {ec(set("nbf", t0.Add(6*time.Second).Unix())), attest.ErrNotYet},
		"old":                     {ec(set("iat", t0.Add(-11*time.Minute).Unix())), attest.ErrTooOld},
		"by another key":          {w.sign(jose.ES256, w.other, "ec", "JWT", asserted()), attest.ErrSignature},
		"another kid":             {w.sign(jose.ES256, w.ec, "other", "JWT", asserted()), attest.ErrUnknownKey},
		"a path as kid":           {w.sign(jose.ES256, w.ec, "../../dev/null", "JWT", asserted()), attest.ErrUnknownKey},
		"the kid of another alg":  {w.sign(jose.ES256, w.ec, "rs", "JWT", asserted()), attest.ErrUnknownKey},
		"an access token":         {w.sign(jose.ES256, w.ec, "ec", "at+jwt", asserted()), attest.ErrType},
		"a DPoP proof":            {w.sign(jose.ES256, w.ec, "ec", "dpop+jwt", asserted()), attest.ErrType},
		"alg none":                {enc(`{"alg":"none"}`) + "." + parts[1] + ".", attest.ErrAlgorithm},
		"alg none, signed":        {withHeader(`{"alg":"none","kid":"ec"}`), attest.ErrAlgorithm},
		"HMAC by the public key":  {w.sign(jose.HS256, pub, "ec", "JWT", asserted()), attest.ErrAlgorithm},
		"a jku":                   {withHeader(`{"alg":"ES256","kid":"ec","jku":"https://evil.example"}`), attest.ErrHeader},
		"an x5u":                  {withHeader(`{"alg":"ES256","kid":"ec","x5u":"https://evil.example"}`), attest.ErrHeader},
		"a jwk":                   {withHeader(`{"alg":"ES256","kid":"ec","jwk":{}}`), attest.ErrHeader},
		"a crit":                  {withHeader(`{"alg":"ES256","kid":"ec","crit":["b64"]}`), attest.ErrMalformed},
		"a header member twice":   {withHeader(`{"alg":"ES256","kid":"ec","kid":"rs"}`), attest.ErrMalformed},
		"a claim twice":           {parts[0] + "." + enc(`{"iss":"bot","sub":"bot","sub":"root"}`) + "." + parts[2], attest.ErrMalformed},
		"oversized":               {ec(set("x", strings.Repeat("a", 16<<10))), attest.ErrMalformed},
		"changed after signing":   {parts[0] + "." + enc(`{"iss":"bot","sub":"bot","aud":"`+aud+`","exp":4000000000,"jti":"x"}`) + "." + parts[2], attest.ErrSignature},
		"a signature of nothing":  {parts[0] + "." + parts[1] + ".", attest.ErrSignature},
		"not a token":             {"bot", attest.ErrMalformed},
		"two texts of one token ": {ec(asserted()) + "\n", attest.ErrMalformed},
	} {
		a, err := w.client(c.raw)
		require.ErrorIs(t, err, c.want, name)
		require.Zero(t, a, name)
	}
}

func TestClientKeys(t *testing.T) {
	w := newWorld(t)
	require.NoError(t, attest.CheckClientKeys(w.clientKeys()))
	require.NoError(t, attest.CheckClientKeys(nil))
	k := jwk(t, w.ec.Public(), "a")
	for name, keys := range map[string][]events.JWK{
		"five":           {jwk(t, w.ec.Public(), "1"), jwk(t, w.ec.Public(), "2"), jwk(t, w.ec.Public(), "3"), jwk(t, w.ec.Public(), "4"), jwk(t, w.ec.Public(), "5")},
		"a kid twice":    {k, jwk(t, w.other.Public(), "a")},
		"no kid twice":   {jwk(t, w.ec.Public(), ""), jwk(t, w.other.Public(), "")},
		"off the curve":  {{KeyType: "EC", Curve: "P-256", X: k.X, Y: k.X}},
		"a symmetric":    {{KeyType: "oct"}},
		"for encryption": {{KeyType: k.KeyType, Curve: k.Curve, X: k.X, Y: k.Y, Use: "enc"}},
		"half":           {{KeyType: "EC", Curve: "P-256", X: k.X}},
	} {
		require.ErrorIs(t, attest.CheckClientKeys(keys), attest.ErrClientKeys, name)
	}
}

// FuzzReadClientAssertion: what a stranger sends is read without a panic and never
// verifies.
func FuzzReadClientAssertion(f *testing.F) {
	f.Add(b64(`{"alg":"ES256","kid":"ec"}`) + "." + b64(`{"iss":"bot","sub":"bot","aud":"us","exp":1,"jti":"x"}`) + "." + strings.Repeat("A", 86))
	f.Add(b64(`{"alg":"none"}`) + "." + b64(`{"iss":"bot","sub":"bot"}`) + ".")
	f.Fuzz(func(t *testing.T, raw string) {
		a, err := attest.ReadClientAssertion(raw)
		if err == nil && a.ClientID == "" {
			t.Fatal("an assertion of nobody")
		}
	})
}

// FuzzIsGrant: what a stranger sends is told apart without a panic.
func FuzzIsGrant(f *testing.F) {
	f.Add(b64(`{"alg":"ES256","kid":"k","typ":"authorization-grant+jwt"}`) + "." + b64(`{"iss":"a","lin":["x"],"until":1}`) + "." + strings.Repeat("A", 86))
	f.Add("..")
	v, err := attest.New(attest.Config{ChainFrom: []config.ChainIssuer{{Issuer: "a", JWKS: "file:///none"}}, Audience: aud, Now: func() time.Time { return t0 }})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		g, err := v.VerifyGrant(t.Context(), raw)
		if err == nil || g.Lineage != nil {
			t.Fatalf("a grant of nobody: %+v", g)
		}
		if attest.IsGrant(raw) {
			if _, err := v.Verify(t.Context(), raw); err == nil {
				t.Fatal("a grant is an attestation")
			}
		}
	})
}
