package attest

import (
	"context"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/lanyard-nhi/lanyard/services/internal/config"
)

// FuzzVerify: whatever is sent without a key, nothing is attested, and nothing panics.
func FuzzVerify(f *testing.F) {
	path := filepath.Join(f.TempDir(), "keys.json")
	const keys = `{"keys":[{"kty":"EC","crv":"P-256","kid":"k","use":"jwt-svid","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},` +
		`{"kty":"OKP","crv":"Ed25519","kid":"ed","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}`
	if err := os.WriteFile(path, []byte(keys), 0o600); err != nil {
		f.Fatal(err)
	}
	v, err := New(Config{Issuers: []config.TrustedIssuer{{Issuer: "joe", JWKS: "file://" + path, Claims: map[string]string{"a/b": "c"}}},
		TrustDomains: []config.TrustDomain{{TrustDomain: "example.org", Bundle: "file://" + path}}, Audience: "us",
		Now: func() time.Time { return time.Unix(1300819000, 0) }})
	if err != nil {
		f.Fatal(err)
	}
	enc := strict.EncodeToString
	f.Add(enc([]byte(`{"alg":"ES256","kid":"k"}`)) + "." + enc([]byte(`{"iss":"joe","sub":"s","aud":"us","iat":1300819000,"exp":1300819300,"a":{"b":"c"}}`)) + "." + enc(make([]byte, 64)))
	f.Add(enc([]byte(`{"alg":"EdDSA","kid":"ed","typ":"JWT"}`)) + "." + enc([]byte(`{"iss":"joe","sub":"s","aud":["us"],"exp":1e300}`)) + "." + enc(make([]byte, 64)))
	f.Add(enc([]byte(`{"alg":"ES256","kid":"k","typ":"JOSE"}`)) + "." + enc([]byte(`{"sub":"spiffe://example.org/w","aud":["us"],"exp":1300819300}`)) + "." + enc(make([]byte, 64)))
	f.Add(enc([]byte(`{"alg":"none"}`)) + "." + enc([]byte(`{}`)) + ".")
	f.Add("..")
	f.Fuzz(func(t *testing.T, raw string) {
		if a, err := v.Verify(context.Background(), raw); err == nil {
			t.Fatalf("attested %+v without a key", a)
		} else if !reflect.DeepEqual(a, Attested{}) {
			t.Fatalf("refused, but answered %+v", a)
		}
	})
}

// FuzzParseBundle: a bundle that is accepted has keys, or is one that revokes.
func FuzzParseBundle(f *testing.F) {
	f.Add([]byte(`{"keys":[],"spiffe_sequence":1,"spiffe_refresh_hint":60}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","crv":"P-256","kid":"k","use":"jwt-svid","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}`))
	f.Add([]byte(`{"keys":[{"kty":"EC","use":"x509-svid","x5c":["AA"]},{"kty":"FOO","use":"wit-svid"}],"spiffe_refresh_hint":9223372036854775807}`))
	f.Add([]byte(`{"keys":null,"keys":[]}`))
	id := spiffeid.RequireTrustDomainFromString("example.org")
	f.Fuzz(func(t *testing.T, raw []byte) {
		b, err := parseBundle(id, raw)
		if err != nil {
			return
		}
		if b.revoked && len(b.jwt)+len(b.x509.X509Authorities()) > 0 {
			t.Fatal("revoked, but with keys")
		}
		if b.refresh < minRefresh || b.refresh > maxRefresh {
			t.Fatalf("refresh after %s", b.refresh)
		}
		for _, k := range b.jwt {
			if k.id == "" || k.public == nil {
				t.Fatalf("key %+v", k)
			}
		}
	})
}
