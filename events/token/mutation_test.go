package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
)

// forge signs any header text and payload text with s, as an attacker or a careless
// issuer with a key would.
func forge(t testing.TB, s Signer, header, payload string) string {
	t.Helper()
	input := b64([]byte(header)) + "." + b64([]byte(payload))
	sig, err := s.signature([]byte(input))
	if err != nil {
		t.Fatal(err)
	}
	return input + "." + b64(sig)
}

// mutation makes one text that must be refused. raw is a good token, h its header
// text, c its claims text.
type mutation struct {
	name string
	make func(t testing.TB, s Signer, raw, h, c string) string
	want error // nil: any error of this package
}

func part(raw string, i int) string { return strings.Split(raw, ".")[i] }

func join(parts ...string) string { return strings.Join(parts, ".") }

// headerMutations sign a header that is not exactly ours.
func headerMutations() []mutation {
	var out []mutation
	add := func(name string, want error, edit func(h map[string]any, s Signer)) {
		out = append(out, mutation{name, func(t testing.TB, s Signer, _, h, c string) string {
			m := map[string]any{}
			if err := json.Unmarshal([]byte(h), &m); err != nil {
				t.Fatal(err)
			}
			edit(m, s)
			b, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			return forge(t, s, string(b), c)
		}, want})
	}
	for name, value := range map[string]any{
		"jwk": map[string]string{"kty": "OKP"}, "jku": "https://evil.example/jwks", "x5u": "https://evil.example/x",
		"x5c": []string{"MII"}, "x5t": "AA", "x5t#S256": "AA", "crit": []string{"exp"}, "b64": false, "cty": "JWT",
		"zip": "DEF", "enc": "A128GCM", "epk": map[string]string{}, "nonce": "n", "url": "https://x", "Alg": "none", "KID": "x", "": "x",
	} {
		add("header "+name, ErrHeader, func(h map[string]any, _ Signer) { h[name] = value })
	}
	for _, alg := range []string{"none", "None", "NONE", "nOnE", "HS256", "HS384", "HS512", "RS256", "PS256", "ES384", "ES512", "ES256K", "Ed25519", "Ed448", "eddsa", "es256", " ES256"} {
		add("alg "+alg, ErrAlgorithm, func(h map[string]any, _ Signer) { h["alg"] = alg })
	}
	add("alg of the other key", ErrAlgorithm, func(h map[string]any, s Signer) {
		h["alg"] = map[string]string{ES256: EdDSA, EdDSA: ES256}[s.Algorithm]
	})
	add("kid of the other key", ErrAlgorithm, func(h map[string]any, s Signer) {
		h["kid"] = map[string]string{ES256: "ed-1", EdDSA: "ec-1"}[s.Algorithm]
	})
	for _, kid := range []string{"unknown", "../../dev/null", "ec-1'--", "ec-1\x00", "EC-1", " ec-1"} {
		add(fmt.Sprintf("kid %q", kid), ErrUnknownKey, func(h map[string]any, _ Signer) { h["kid"] = kid })
	}
	for _, typ := range []string{"JWT", "jwt", "AT+JWT", "application/at+jwt", TypKill, TypReceipt, TypProof, "at+jwt "} {
		add("typ "+typ, ErrType, func(h map[string]any, _ Signer) { h["typ"] = typ })
	}
	for _, name := range []string{"alg", "kid", "typ"} {
		add("no "+name, ErrHeader, func(h map[string]any, _ Signer) { delete(h, name) })
		add("empty "+name, ErrHeader, func(h map[string]any, _ Signer) { h[name] = "" })
		add("null "+name, ErrHeader, func(h map[string]any, _ Signer) { h[name] = nil })
		add("number "+name, ErrHeader, func(h map[string]any, _ Signer) { h[name] = 1 })
		add("array "+name, ErrHeader, func(h map[string]any, _ Signer) { h[name] = []string{"ES256"} })
	}
	return out
}

// textMutations change the text of a good token or sign a text that is not canonical.
func textMutations() []mutation {
	text := func(name string, want error, f func(raw string) string) mutation {
		return mutation{name, func(_ testing.TB, _ Signer, raw, _, _ string) string { return f(raw) }, want}
	}
	header := func(name string, edit func(h string) string) mutation {
		return mutation{name, func(t testing.TB, s Signer, _, h, c string) string { return forge(t, s, edit(h), c) }, ErrHeader}
	}
	out := []mutation{
		header("header duplicate alg", func(h string) string { return h[:len(h)-1] + `,"alg":"none"}` }),
		header("header duplicate kid", func(h string) string { return `{"kid":"x",` + h[1:] }),
		header("header two objects", func(h string) string { return h + h }),
		header("header array", func(h string) string { return "[" + h + "]" }),
		header("header null", func(string) string { return "null" }),
		header("header not JSON", func(h string) string { return h[:len(h)-1] }),
		header("header comment", func(h string) string { return h + "//" }),
		header("header BOM", func(h string) string { return "\ufeff" + h }),
		header("header bad UTF-8", func(h string) string { return strings.Replace(h, "at+jwt", "at+jwt\xff", 1) }),

		text("empty", ErrMalformed, func(string) string { return "" }),
		text("dots", ErrMalformed, func(string) string { return ".." }),
		text("one part", ErrMalformed, func(raw string) string { return part(raw, 0) }),
		text("two parts", ErrMalformed, func(raw string) string { return join(part(raw, 0), part(raw, 1)) }),
		text("four parts", ErrMalformed, func(raw string) string { return raw + ".AAAA" }),
		text("five parts", ErrMalformed, func(raw string) string { return raw + ".AAAA.AAAA" }),
		text("trailing dot", ErrMalformed, func(raw string) string { return raw + "." }),
		text("leading dot", ErrMalformed, func(raw string) string { return "." + raw }),
		text("no signature", ErrMalformed, func(raw string) string { return join(part(raw, 0), part(raw, 1), "") }),
		text("no payload", ErrMalformed, func(raw string) string { return join(part(raw, 0), "", part(raw, 2)) }),
		text("signature stripped, alg none", nil, func(raw string) string {
			return join(b64([]byte(`{"alg":"none","kid":"ec-1","typ":"at+jwt"}`)), part(raw, 1), "AA")
		}),
		text("too long", ErrTooLarge, func(raw string) string { return raw + strings.Repeat("A", MaxSize) }),
		text("JSON serialization", ErrMalformed, func(raw string) string {
			return `{"protected":"` + part(raw, 0) + `","payload":"` + part(raw, 1) + `","signature":"` + part(raw, 2) + `"}`
		}),
		text("other payload", ErrSignature, func(raw string) string { return join(part(raw, 0), b64([]byte(`{}`)), part(raw, 2)) }),
		text("cut text", nil, func(raw string) string { return raw[:len(raw)-4] }),
		text("short signature", ErrSignature, func(raw string) string {
			sig, _ := base64.RawURLEncoding.DecodeString(part(raw, 2))
			return join(part(raw, 0), part(raw, 1), b64(sig[:63]))
		}),
		text("zero signature", ErrSignature, func(raw string) string { return join(part(raw, 0), part(raw, 1), b64(make([]byte, 64))) }),
		text("long signature", ErrSignature, func(raw string) string {
			sig, _ := base64.RawURLEncoding.DecodeString(part(raw, 2))
			return join(part(raw, 0), part(raw, 1), b64(append(sig, 0)))
		}),
		text("unused bits of the signature", ErrMalformed, func(raw string) string { return raw[:len(raw)-1] + nextBits(raw[len(raw)-1]) }),
		text("padding", ErrMalformed, func(raw string) string { return raw + "==" }),
		text("standard alphabet", ErrMalformed, func(raw string) string { return join(part(raw, 0), part(raw, 1)+"+/", part(raw, 2)) }),
		text("percent encoding", ErrMalformed, func(raw string) string { return strings.Replace(raw, ".", "%2E", 1) }),
		text("Bearer before it", ErrMalformed, func(raw string) string { return "Bearer " + raw }),
	}
	for _, c := range []string{"\n", "\r", "\r\n", " ", "\t", "=", "\x00", "\u200b", "é"} {
		for i, where := range []string{"header", "payload", "signature"} {
			out = append(out, text(fmt.Sprintf("%q after %s", c, where), ErrMalformed, func(raw string) string {
				p := strings.Split(raw, ".")
				p[i] += c
				return join(p...)
			}), text(fmt.Sprintf("%q inside %s", c, where), ErrMalformed, func(raw string) string {
				p := strings.Split(raw, ".")
				p[i] = p[i][:4] + c + p[i][4:]
				return join(p...)
			}))
		}
	}
	return out
}

// nextBits sets one unused bit of the last character of a 64-byte signature.
func nextBits(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, c)|1])
}

func TestMutations(t *testing.T) {
	both := signers(t)
	keys := NewKeySet(both[ES256].Key(), both[EdDSA].Key())
	all := append(headerMutations(), textMutations()...)
	if len(all) < 50 {
		t.Fatalf("only %d mutations", len(all))
	}
	for alg, s := range both {
		raw, err := s.Sign(TypAccess, sample())
		if err != nil {
			t.Fatal(err)
		}
		h, _ := base64.RawURLEncoding.DecodeString(part(raw, 0))
		c, _ := base64.RawURLEncoding.DecodeString(part(raw, 1))
		if _, err := Verify(forge(t, s, string(h), string(c)), keys, expect()); err != nil {
			t.Fatalf("unchanged: %v", err)
		}
		for _, m := range all {
			t.Run(alg+" "+m.name, func(t *testing.T) {
				text := m.make(t, s, raw, string(h), string(c))
				if text == raw {
					t.Fatal("the mutation changes nothing")
				}
				_, err := Verify(text, keys, expect())
				if err == nil {
					t.Fatalf("accepted: %s", text)
				}
				if m.want != nil && !errors.Is(err, m.want) {
					t.Errorf("got %v, want %v", err, m.want)
				}
			})
		}
	}
	t.Logf("%d mutations for each of 2 algorithms", len(all))
}

// TestKeyConfusion signs with the public key's bytes as an HMAC secret.
func TestKeyConfusion(t *testing.T) {
	s := signers(t)[ES256]
	pub, err := s.Key().Public.(*ecdsa.PublicKey).Bytes()
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := s.Key().JWK()
	if err != nil {
		t.Fatal(err)
	}
	c, err := json.Marshal(sample())
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range [][]byte{pub, jwk, nil} {
		input := b64([]byte(`{"alg":"HS256","kid":"ec-1","typ":"at+jwt"}`)) + "." + b64(c)
		m := hmac.New(sha256.New, secret)
		m.Write([]byte(input))
		if _, err := Verify(input+"."+b64(m.Sum(nil)), NewKeySet(s.Key()), expect()); !errors.Is(err, ErrAlgorithm) {
			t.Errorf("got %v", err)
		}
	}
}

// TestOneTextPerSignature: of the texts that verify as ES256 only one is taken, and
// Ed25519 refuses an s that is not reduced (RFC 8032 section 5.1.7).
func TestOneTextPerSignature(t *testing.T) {
	both := signers(t)
	keys := NewKeySet(both[ES256].Key(), both[EdDSA].Key())
	order25519, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	for range 50 {
		raw, err := both[ES256].Sign(TypAccess, sample())
		if err != nil {
			t.Fatal(err)
		}
		sig, _ := base64.RawURLEncoding.DecodeString(part(raw, 2))
		n := both[ES256].Key().Public.(*ecdsa.PublicKey).Params().N
		high := new(big.Int).Sub(n, new(big.Int).SetBytes(sig[32:]))
		high.FillBytes(sig[32:])
		other := join(part(raw, 0), part(raw, 1), b64(sig))
		if !both[ES256].Key().verifyAny(other[:strings.LastIndexByte(other, '.')], sig) {
			t.Fatal("the other signature is none: the test is wrong")
		}
		if _, err := Verify(other, keys, expect()); !errors.Is(err, ErrSignature) {
			t.Fatalf("high s: %v", err)
		}
	}
	raw, err := both[EdDSA].Sign(TypAccess, sample())
	if err != nil {
		t.Fatal(err)
	}
	sig, _ := base64.RawURLEncoding.DecodeString(part(raw, 2))
	le := make([]byte, 32)
	for i := range 32 {
		le[i] = sig[63-i]
	}
	new(big.Int).Add(new(big.Int).SetBytes(le), order25519).FillBytes(le)
	for i := range 32 {
		sig[63-i] = le[i]
	}
	if _, err := Verify(join(part(raw, 0), part(raw, 1), b64(sig)), keys, expect()); !errors.Is(err, ErrSignature) {
		t.Errorf("s plus the order: %v", err)
	}
	for i := range len(raw) { // any one character changed
		if raw[i] == '.' {
			continue
		}
		changed := []byte(raw)
		changed[i] = 'A'
		if raw[i] == 'A' {
			changed[i] = 'B'
		}
		if _, err := Verify(string(changed), keys, expect()); err == nil {
			t.Errorf("character %d changed and accepted", i)
		}
	}
}

func TestSignRefuses(t *testing.T) {
	both := signers(t)
	crossed := both[ES256]
	crossed.Algorithm = EdDSA
	for name, c := range map[string]struct {
		s      Signer
		typ    string
		claims any
	}{
		"wrong algorithm": {crossed, TypAccess, sample()},
		"no kid":          {Signer{Algorithm: EdDSA, Private: both[EdDSA].Private}, TypAccess, sample()},
		"no typ":          {both[EdDSA], "", sample()},
		"no key":          {Signer{ID: "x", Algorithm: EdDSA}, TypAccess, sample()},
		"array":           {both[EdDSA], TypAccess, []int{1}},
		"unencodable":     {both[EdDSA], TypAccess, map[string]any{"x": make(chan int)}},
		"too large":       {both[EdDSA], TypAccess, map[string]string{"x": strings.Repeat("x", MaxSize)}},
	} {
		if _, err := c.s.Sign(c.typ, c.claims); err == nil {
			t.Errorf("%s: signed", name)
		}
	}
	if _, err := NewSigner("", rsaLike{}); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("unknown key type: %v", err)
	}
	if _, err := PublicFrom(ed25519.PublicKey("short")); !errors.Is(err, ErrAlgorithm) {
		t.Errorf("short key: %v", err)
	}
}

type rsaLike struct{ crypto.Signer }

func (rsaLike) Public() crypto.PublicKey { return "not a key" }
