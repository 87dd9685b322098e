package guard

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events/token"
)

func encode(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// dpopClient signs proofs with an ES256 key as clients do, with whatever s comes out.
type dpopClient struct {
	key *ecdsa.PrivateKey
	jkt string
}

func newClient(t *testing.T) dpopClient {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := token.PublicFrom(&k.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return dpopClient{k, key.ID}
}

func (c dpopClient) proof(t *testing.T, header, claims map[string]any) string {
	t.Helper()
	key, err := token.PublicFrom(&c.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := key.JWK()
	if err != nil {
		t.Fatal(err)
	}
	h := map[string]any{"typ": "dpop+jwt", "alg": "ES256", "jwk": json.RawMessage(jwk)}
	for k, v := range header {
		if v == nil {
			delete(h, k)
		} else {
			h[k] = v
		}
	}
	hb, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	cb, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	input := encode(hb) + "." + encode(cb)
	digest := sha256.Sum256([]byte(input))
	der, err := c.key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &rs); err != nil {
		t.Fatal(err)
	}
	sig := make([]byte, 64)
	rs.R.FillBytes(sig[:32])
	rs.S.FillBytes(sig[32:])
	return input + "." + encode(sig)
}

// freshWorld is a guard that may say yes.
func freshWorld(t *testing.T) *world {
	w := newWorld(t, newKeyring(t), "")
	beat(w, 1, 0)
	w.settle()
	return w
}

func TestDPoP(t *testing.T) {
	w := freshWorld(t)
	client, thief := newClient(t), newClient(t)
	bound := w.keys.token(t, handle(1), w.now, func(c *token.Claims) { c.Confirm = &token.Confirm{JKT: client.jkt} })
	bearer := w.keys.token(t, handle(1), w.now)
	ath := func(raw string) string { sum := sha256.Sum256([]byte(raw)); return encode(sum[:]) }
	n := 0
	claims := func(change map[string]any) map[string]any {
		n++
		m := map[string]any{"jti": "proof-" + strconv.Itoa(n), "htm": "GET", "htu": "http://orders.acme.example/orders", "iat": w.now.Unix(), "ath": ath(bound)}
		for k, v := range change {
			if v == nil {
				delete(m, k)
			} else {
				m[k] = v
			}
		}
		return m
	}
	ask := func(raw, scheme string, proofs ...string) string {
		r := httptest.NewRequest("GET", "/orders?x=1", nil)
		r.Host = "Orders.Acme.example:80"
		r.Header.Set("Authorization", scheme+" "+raw)
		for _, p := range proofs {
			r.Header.Add("DPoP", p)
		}
		_, err := w.g.Check(t.Context(), Request{Token: raw, HTTP: r})
		return denied(t, err)
	}
	for name, c := range map[string]struct {
		header, claims map[string]any
		ok             bool
	}{
		"good":              {nil, nil, true},
		"kid is ignored":    {map[string]any{"kid": "x"}, nil, true},
		"nonce is ignored":  {nil, map[string]any{"nonce": "n"}, true},
		"htu default port":  {nil, map[string]any{"htu": "HTTP://orders.acme.example:80/orders"}, true},
		"a minute old":      {nil, map[string]any{"iat": w.now.Unix() - 60}, true},
		"five seconds fast": {nil, map[string]any{"iat": w.now.Unix() + 5}, true},
		"older":             {nil, map[string]any{"iat": w.now.Unix() - 61}, false},
		"faster":            {nil, map[string]any{"iat": w.now.Unix() + 6}, false},
		"iat text":          {nil, map[string]any{"iat": "now"}, false},
		"no jti":            {nil, map[string]any{"jti": nil}, false},
		"no iat":            {nil, map[string]any{"iat": nil}, false},
		"no ath":            {nil, map[string]any{"ath": nil}, false},
		"ath of another":    {nil, map[string]any{"ath": ath(bearer)}, false},
		"other method":      {nil, map[string]any{"htm": "POST"}, false},
		"method in lower":   {nil, map[string]any{"htm": "get"}, false},
		"other path":        {nil, map[string]any{"htu": "http://orders.acme.example/orders/"}, false},
		"other host":        {nil, map[string]any{"htu": "http://evil.example/orders"}, false},
		"other scheme":      {nil, map[string]any{"htu": "https://orders.acme.example/orders"}, false},
		"other port":        {nil, map[string]any{"htu": "http://orders.acme.example:8080/orders"}, false},
		"user in htu":       {nil, map[string]any{"htu": "http://a@orders.acme.example/orders"}, false},
		"query in htu":      {nil, map[string]any{"htu": "http://orders.acme.example/orders?x=1"}, false},
		"htu no URL":        {nil, map[string]any{"htu": "%zz"}, false},
		"typ JWT":           {map[string]any{"typ": "JWT"}, nil, false},
		"alg none":          {map[string]any{"alg": "none"}, nil, false},
		"alg EdDSA":         {map[string]any{"alg": "EdDSA"}, nil, false},
		"no jwk":            {map[string]any{"jwk": nil}, nil, false},
		"crit":              {map[string]any{"crit": []string{"x"}}, nil, false},
		"x5c":               {map[string]any{"x5c": []string{"x"}}, nil, false},
		"jwk symmetric":     {map[string]any{"jwk": map[string]string{"kty": "oct", "k": "AAAA"}}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			got := ask(bound, "DPoP", client.proof(t, c.header, claims(c.claims)))
			if c.ok && got != "" || !c.ok && got != CodeBinding {
				t.Errorf("got %q", got)
			}
		})
	}
	used := client.proof(t, nil, claims(nil))
	for name, c := range map[string]struct {
		raw, scheme string
		proofs      []string
		want        string
	}{
		"first use":                 {bound, "DPoP", []string{used}, ""},
		"replay":                    {bound, "DPoP", []string{used}, CodeBinding},
		"by another key":            {bound, "DPoP", []string{thief.proof(t, nil, claims(nil))}, CodeBinding},
		"no proof":                  {bound, "DPoP", nil, CodeBinding},
		"two proofs":                {bound, "DPoP", []string{client.proof(t, nil, claims(nil)), client.proof(t, nil, claims(nil))}, CodeBinding},
		"bound by Bearer":           {bound, "Bearer", []string{client.proof(t, nil, claims(nil))}, CodeBinding},
		"unbound by DPoP":           {bearer, "DPoP", []string{client.proof(t, nil, claims(map[string]any{"ath": ath(bearer)}))}, CodeBinding},
		"unbound by Bearer":         {bearer, "Bearer", nil, ""},
		"proof is the access token": {bound, "DPoP", []string{bound}, CodeBinding},
	} {
		if name == "first use" {
			continue
		}
		if name == "replay" {
			if got := ask(bound, "DPoP", used); got != "" {
				t.Errorf("first use: %q", got)
			}
		}
		if got := ask(c.raw, c.scheme, c.proofs...); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
	if got := w.check(bound); got != CodeBinding {
		t.Errorf("no request to look at: %q", got)
	}
}

func TestReplaysAreBounded(t *testing.T) {
	var s replays
	now := time.Unix(1_800_000_000, 0)
	id := func(n int) (out [32]byte) { copy(out[:], strconv.Itoa(n)); return out }
	for i := range maxReplays {
		if err := s.once(id(i), now, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.once(id(maxReplays), now, time.Minute); err == nil {
		t.Error("a proof beyond the bound is taken")
	}
	if err := s.once(id(0), now.Add(time.Minute), time.Minute); err == nil {
		t.Error("forgotten within the window")
	}
	if err := s.once(id(maxReplays), now.Add(time.Minute), time.Minute); err != nil {
		t.Errorf("the next generation: %v", err)
	}
	if err := s.once(id(0), now.Add(3*time.Minute), time.Minute); err != nil {
		t.Errorf("after two windows: %v", err)
	}
}

func TestCertificateBinding(t *testing.T) {
	w := freshWorld(t)
	cert, other := &x509.Certificate{Raw: []byte("one")}, &x509.Certificate{Raw: []byte("two")}
	sum := sha256.Sum256(cert.Raw)
	client := newClient(t)
	x5t := w.keys.token(t, handle(1), w.now, func(c *token.Claims) { c.Confirm = &token.Confirm{X5TS: encode(sum[:])} })
	both := w.keys.token(t, handle(1), w.now, func(c *token.Claims) { c.Confirm = &token.Confirm{X5TS: encode(sum[:]), JKT: client.jkt} })
	request := func(certs ...*x509.Certificate) *http.Request {
		r := httptest.NewRequest("GET", "/", nil)
		if certs != nil {
			r.TLS = &tls.ConnectionState{PeerCertificates: certs}
		}
		return r
	}
	for name, c := range map[string]struct {
		raw  string
		http *http.Request
		want string
	}{
		"its certificate":      {x5t, request(cert, other), ""},
		"another":              {x5t, request(other, cert), CodeBinding},
		"none":                 {x5t, request([]*x509.Certificate{}...), CodeBinding},
		"no TLS":               {x5t, request(), CodeBinding},
		"no request":           {x5t, nil, CodeBinding},
		"both, certificate":    {both, request(cert), CodeBinding},
		"unbound with a cert":  {w.keys.token(t, handle(1), w.now), request(other), ""},
		"unbound, no request":  {w.keys.token(t, handle(1), w.now), nil, ""},
		"empty list of a peer": {x5t, &http.Request{TLS: &tls.ConnectionState{}}, CodeBinding},
	} {
		_, err := w.g.Check(t.Context(), Request{Token: c.raw, HTTP: c.http})
		if got := denied(t, err); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}
