package token

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

type cookbook struct {
	Input struct {
		Payload string          `json:"payload"`
		Key     json.RawMessage `json:"key"`
		Alg     string          `json:"alg"`
	} `json:"input"`
	Output struct {
		Compact string `json:"compact"`
	} `json:"output"`
}

// public is a JWK without its private members.
func public(t *testing.T, raw json.RawMessage) []byte {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	delete(m, "d")
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestCookbook(t *testing.T) {
	t.Run("Ed25519", func(t *testing.T) {
		var c cookbook
		suite(t, "cookbook-ed25519.json", &c)
		if _, err := ParseJWK(c.Input.Key); !errors.Is(err, ErrPrivateJWK) {
			t.Errorf("private key: %v", err)
		}
		k, err := ParseJWK(public(t, c.Input.Key))
		if err != nil {
			t.Fatal(err)
		}
		sig, err := base64.RawURLEncoding.DecodeString(part(c.Output.Compact, 2))
		if err != nil {
			t.Fatal(err)
		}
		if !k.verify(c.Output.Compact[:strings.LastIndexByte(c.Output.Compact, '.')], sig) {
			t.Error("the signature does not verify")
		}
		// Its header has no kid and no typ, so it is not of our form.
		if _, _, err := Open(c.Output.Compact, TypAccess, NewKeySet(k)); !errors.Is(err, ErrHeader) {
			t.Errorf("open: %v", err)
		}
	})
	t.Run("P-521 is not used", func(t *testing.T) {
		var c cookbook
		suite(t, "cookbook-ecdsa.json", &c)
		if _, err := ParseJWK(public(t, c.Input.Key)); !errors.Is(err, ErrJWK) {
			t.Errorf("key: %v", err)
		}
		if _, _, err := Open(c.Output.Compact, TypAccess, KeySet{}); !errors.Is(err, ErrTooLarge) && !errors.Is(err, ErrHeader) {
			t.Errorf("open: %v", err)
		}
	})
}

func TestRFCVectors(t *testing.T) {
	// RFC 7515 appendix A.3.
	const es256 = `eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q`
	k, err := ParseJWK([]byte(`{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}`))
	if err != nil {
		t.Fatal(err)
	}
	sig, _ := base64.RawURLEncoding.DecodeString(part(es256, 2))
	input := es256[:strings.LastIndexByte(es256, '.')]
	if !k.verifyAny(input, sig) {
		t.Error("RFC 7515 A.3 does not verify")
	}
	if k.verify(input, sig) {
		t.Error("RFC 7515 A.3 has the higher s, which our own form refuses")
	}
	// RFC 7519 section 6.1, RFC 7515 appendix A.5: unsecured.
	const none = `eyJhbGciOiJub25lIn0.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.`
	if _, _, err := Open(none, TypAccess, NewKeySet(k)); !errors.Is(err, ErrMalformed) {
		t.Errorf("alg none: %v", err)
	}
	// RFC 8037 appendix A.3: thumbprint of the key of appendix A.2.
	ed, err := ParseJWK([]byte(`{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}`))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ed.Thumbprint(); err != nil || got != "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k" || ed.ID != got {
		t.Errorf("thumbprint %q, %v", got, err)
	}
	// RFC 8693 section 4.1: nested actors.
	var a Actor
	if err := a.read(reader([]byte(`{"sub":"https://service16.example.com","act":{"sub":"https://service77.example.com"}}`)), 1); err != nil || a.Actor.Subject != "https://service77.example.com" {
		t.Errorf("actors: %+v, %v", a, err)
	}
}

func TestParseJWKS(t *testing.T) {
	const ec = `"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"`
	for name, c := range map[string]struct {
		in   string
		want int
		err  error
	}{
		"RFC 7517 A.1: encryption key and RSA": {`{"keys":[{` + ec + `,"use":"enc","kid":"1"},{"kty":"RSA","n":"AQAB","e":"AQAB","alg":"RS256","kid":"2011-04-29"}]}`, 0, nil},
		"for signatures":                       {`{"keys":[{` + ec + `,"use":"sig","kid":"1"}]}`, 1, nil},
		"no use, key_ops verify":               {`{"keys":[{` + ec + `,"key_ops":["verify"],"kid":"1","x5c":["a"]}]}`, 1, nil},
		"key_ops sign only":                    {`{"keys":[{` + ec + `,"key_ops":["sign"],"kid":"1"}]}`, 0, nil},
		"other alg":                            {`{"keys":[{` + ec + `,"alg":"ECDH-ES","kid":"1"}]}`, 0, nil},
		"no kid":                               {`{"keys":[{` + ec + `}]}`, 0, nil},
		"empty":                                {`{"keys":[]}`, 0, nil},
		"symmetric":                            {`{"keys":[{"kty":"oct","k":"AAAA","kid":"1"}]}`, 0, nil},
		"same kid twice":                       {`{"keys":[{` + ec + `,"kid":"1"},{` + ec + `,"kid":"1"}]}`, 0, ErrJWK},
		"private key":                          {`{"keys":[{` + ec + `,"kid":"1","d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}]}`, 0, ErrPrivateJWK},
		"private RSA key":                      {`{"keys":[{"kty":"RSA","kid":"1","d":"AA"}]}`, 0, ErrPrivateJWK},
		"not on the curve":                     {`{"keys":[{"kty":"EC","crv":"P-256","kid":"1","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4"}]}`, 0, ErrJWK},
		"point at infinity":                    {`{"keys":[{"kty":"EC","crv":"P-256","kid":"1","x":"` + strings.Repeat("A", 43) + `","y":"` + strings.Repeat("A", 43) + `"}]}`, 0, ErrJWK},
		"short coordinate":                     {`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"AAAA"}]}`, 0, ErrJWK},
		"OKP with y":                           {`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo","y":"AA"}]}`, 0, ErrJWK},
		"unused bits":                          {`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURp"}]}`, 0, ErrJWK},
		"line end":                             {`{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"1","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHUR\n"}]}`, 0, ErrJWK},
		"duplicate member":                     {`{"keys":[{` + ec + `,"kid":"1","kid":"2"}]}`, 0, ErrJWK},
		"kid number":                           {`{"keys":[{` + ec + `,"kid":1}]}`, 0, ErrJWK},
		"no keys":                              {`{}`, 0, ErrJWK},
		"keys null":                            {`{"keys":null}`, 0, ErrJWK},
		"keys object":                          {`{"keys":{}}`, 0, ErrJWK},
		"not JSON":                             {`<html>`, 0, ErrJWK},
	} {
		t.Run(name, func(t *testing.T) {
			set, err := ParseJWKS([]byte(c.in))
			if !errors.Is(err, c.err) || len(set) != c.want {
				t.Errorf("got %d keys, %v, want %d, %v", len(set), err, c.want, c.err)
			}
		})
	}
	both := signers(t)
	b, err := JWKS([]Key{both[EdDSA].Key(), both[ES256].Key()})
	if err != nil {
		t.Fatal(err)
	}
	set, err := ParseJWKS(b)
	if err != nil || len(set) != 2 || strings.Join(set.KeyIDs(), " ") != "ec-1 ed-1" {
		t.Errorf("round trip: %v, %v", set, err)
	}
}
