package token

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-jose/go-jose/v4"
	jwt "github.com/go-jose/go-jose/v4/jwt"
)

// oracle checks that go-jose accepts what we accepted and reads the same payload.
func oracle(t *testing.T, raw string, payload []byte, key Key) {
	t.Helper()
	sig, err := jose.ParseSignedCompact(raw, []jose.SignatureAlgorithm{jose.SignatureAlgorithm(key.Algorithm)})
	if err != nil {
		t.Fatalf("accepted %q, which go-jose does not parse: %v", raw, err)
	}
	got, err := sig.Verify(key.Public)
	if err != nil {
		t.Fatalf("accepted %q, which go-jose does not verify: %v", raw, err)
	}
	if !bytes.Equal(got, payload) {
		t.Fatalf("payload %q, go-jose reads %q", payload, got)
	}
}

// FuzzOpen changes tokens in any way. Whatever is accepted, go-jose accepts with an
// equal payload, and it has exactly one text.
func FuzzOpen(f *testing.F) {
	both := signers(f)
	keys := NewKeySet(both[ES256].Key(), both[EdDSA].Key())
	for _, s := range both {
		raw, err := s.Sign(TypAccess, sample())
		if err != nil {
			f.Fatal(err)
		}
		h, c, _ := strings.Cut(raw, ".")
		f.Add(raw, h, c)
		f.Add(raw, `{"alg":"ES256","kid":"ec-1","typ":"at+jwt"}`, `{"iss":"a"}`)
	}
	f.Fuzz(func(t *testing.T, raw, header, payload string) {
		texts := []string{raw}
		for _, s := range both { // so that what is behind the signature is reached too
			texts = append(texts, forge(t, s, header, payload))
		}
		for _, text := range texts {
			got, kid, err := Open(text, TypAccess, keys)
			if err != nil {
				continue
			}
			oracle(t, text, got, keys[kid])
			p := strings.Split(text, ".")
			if b64(got) != p[1] {
				t.Fatalf("payload of %q is not its one encoding", text)
			}
		}
	})
}

// FuzzParseClaims compares with go-jose's reading of the same claims.
func FuzzParseClaims(f *testing.F) {
	whole, err := json.Marshal(sample())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add([]byte(`{"iss":"a","sub":"b","aud":["c"],"iat":1,"exp":2,"jti":"d","tenant":"e","lin":["AAAAAAAAAAAAAAAA"],"act":{"sub":"x","act":{}}}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		c, err := ParseClaims(payload)
		if err != nil {
			return
		}
		var want jwt.Claims
		if err := json.Unmarshal(payload, &want); err != nil {
			t.Fatalf("accepted %q, which does not decode: %v", payload, err)
		}
		// encoding/json matches names without regard to case; only exact ones are compared.
		if strings.Contains(strings.ToLower(string(payload)), `\u`) || hasVariants(payload) {
			return
		}
		if c.Issuer != want.Issuer || c.Subject != want.Subject || c.ID != want.ID || c.Expires != want.Expiry.Time().Unix() ||
			c.IssuedAt != want.IssuedAt.Time().Unix() || strings.Join(c.Audience, "\x00") != strings.Join(want.Audience, "\x00") {
			t.Fatalf("%q: got %+v, want %+v", payload, c, want)
		}
		again, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseClaims(again); err != nil {
			t.Fatalf("encoded again as %s: %v", again, err)
		}
	})
}

func hasVariants(payload []byte) bool {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(payload, &m); err != nil {
		return true
	}
	seen := map[string]bool{}
	for name := range m {
		l := strings.ToLower(name)
		if seen[l] || l != name && strings.Contains(" iss sub aud exp nbf iat jti ", " "+l+" ") {
			return true
		}
		seen[l] = true
	}
	return false
}

func FuzzParseJWKS(f *testing.F) {
	both := signers(f)
	b, err := JWKS([]Key{both[ES256].Key(), both[EdDSA].Key()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"keys":[{"kty":"RSA","kid":"a","n":"AQAB","e":"AQAB"}]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		set, err := ParseJWKS(in)
		if err != nil {
			return
		}
		for kid, k := range set {
			one, err := k.JWK()
			if err != nil {
				t.Fatal(err)
			}
			back, err := ParseJWK(one)
			if err != nil || back.ID != kid || back.Algorithm != k.Algorithm {
				t.Fatalf("key %q does not survive: %v", kid, err)
			}
			var j jose.JSONWebKey
			if err := j.UnmarshalJSON(one); err != nil || !j.Valid() {
				t.Fatalf("go-jose does not take key %s: %v", one, err)
			}
		}
	})
}

func FuzzOpenProof(f *testing.F) {
	s := signers(f)[EdDSA]
	jwk, err := s.Key().JWK()
	if err != nil {
		f.Fatal(err)
	}
	header := `{"typ":"dpop+jwt","alg":"EdDSA","jwk":` + string(jwk) + `}`
	f.Add(header, `{"jti":"a","htm":"GET","htu":"https://a/","iat":1,"ath":"x"}`)
	f.Fuzz(func(t *testing.T, header, payload string) {
		text := forge(t, s, header, payload)
		p, err := OpenProof(text)
		if err != nil {
			return
		}
		if want, err := s.Key().Thumbprint(); err != nil || p.Thumbprint != want {
			t.Fatalf("thumbprint %q, want %q, %v", p.Thumbprint, want, err)
		}
		oracle(t, text, []byte(payload), s.Key())
	})
}

// suite reads a file of the third-party vectors under testdata.
func suite(t *testing.T, name string, v any) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatal(err)
	}
}
