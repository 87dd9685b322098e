package attest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/services/internal/config"
)

func readJSON(t *testing.T, v any, path ...string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(append([]string{"testdata"}, path...)...))
	require.NoError(t, err)
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	require.NoError(t, d.Decode(v))
}

// TestSPIFFEIDVectors: all 31 IDs of the SPIFFE suite, labelled by go-spiffe.
func TestSPIFFEIDVectors(t *testing.T) {
	var vectors []struct {
		Input  string `json:"input"`
		Valid  bool   `json:"valid"`
		Domain string `json:"trust_domain"`
		Path   string `json:"path"`
	}
	readJSON(t, &vectors, "spiffe", "spiffe-id-31.json")
	require.Len(t, vectors, 31)
	for _, c := range vectors {
		id, err := spiffeid.FromString(c.Input)
		require.Equal(t, c.Valid, err == nil, "%q: %v", c.Input, err)
		_, err = workload(c.Input)
		require.Equal(t, c.Valid && c.Path != "", err == nil, "%q: %v", c.Input, err)
		if c.Valid {
			require.True(t, claimsSPIFFE(c.Input), c.Input)
			require.Equal(t, c.Domain, id.TrustDomain().Name())
			require.Equal(t, c.Path, id.Path())
			continue
		}
		require.ErrorIs(t, err, ErrSPIFFEID)
	}
}

// public is a JWK without its private members, with kid when it had none.
func public(t *testing.T, jwk map[string]any, kid string) map[string]any {
	t.Helper()
	out := map[string]any{"kid": kid}
	for k, v := range jwk {
		if !strings.Contains(" d p q dp dq qi oth ", " "+k+" ") {
			out[k] = v
		}
	}
	return out
}

func keySetOf(t *testing.T, keys ...map[string]any) []byte {
	t.Helper()
	b, err := json.Marshal(map[string]any{"keys": keys})
	require.NoError(t, err)
	return b
}

// verifyingKey is the vector's key as a JWK Set would give it to us, whatever its kind.
func verifyingKey(t *testing.T, jwk map[string]any) any {
	t.Helper()
	b, err := json.Marshal(public(t, jwk, "k"))
	require.NoError(t, err)
	var j jose.JSONWebKey
	require.NoError(t, j.UnmarshalJSON(b))
	return j.Key
}

func headerOf(t *testing.T, compact string) (h header) {
	t.Helper()
	first, _, _ := strings.Cut(compact, ".")
	b, err := strict.DecodeString(first)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &h))
	return h
}

// TestJOSECookbookSignatures runs the JWS files of RFC 7520, of its curve25519 additions
// and of RFC 7797: what is accepted verifies, everything else is refused by name.
func TestJOSECookbookSignatures(t *testing.T) {
	for file, want := range map[string]struct{ oidc, svid error }{
		"jws/4_1.rsa_v15_signature":                 {nil, nil},
		"jws/4_2.rsa-pss_signature":                 {ErrAlgorithm, nil}, // PS384
		"jws/4_3.ecdsa_signature":                   {ErrAlgorithm, nil}, // ES512
		"jws/4_4.hmac-sha2_integrity_protection":    {ErrAlgorithm, ErrAlgorithm},
		"jws/4_5.signature_with_detached_content":   {ErrAlgorithm, ErrAlgorithm},
		"jws/4_6.protecting_specific_header_fields": {ErrMalformed, ErrMalformed}, // JSON serialization only
		"jws/4_7.protecting_content_only":           {ErrMalformed, ErrMalformed}, // JSON serialization only
		"jws/4_8.multiple_signatures":               {ErrMalformed, ErrMalformed}, // JSON serialization only
		"curve25519/jws":                            {nil, ErrAlgorithm},
		"rfc7797/4.2.hmac-sha2_b64_false":           {ErrMalformed, ErrMalformed}, // JSON serialization only
		"rfc7797/hmac-sha2_b64_false":               {ErrMalformed, ErrMalformed}, // crit and an unencoded payload
	} {
		var v struct {
			Input struct {
				Key any `json:"key"`
			} `json:"input"`
			Output map[string]any `json:"output"`
		}
		readJSON(t, &v, "jose-cookbook", file+".json")
		for _, form := range []string{"json", "json_flat"} {
			if v.Output[form] != nil {
				b, err := json.Marshal(v.Output[form])
				require.NoError(t, err)
				_, _, err = parse(string(b))
				require.ErrorIs(t, err, ErrMalformed, "%s: tokens are compact", file)
			}
		}
		compact, ok := v.Output["compact"].(string)
		if errors.Is(want.oidc, ErrMalformed) {
			_, _, err := parse(compact)
			require.ErrorIs(t, err, ErrMalformed, file)
			continue
		}
		require.True(t, ok, file)
		h := headerOf(t, compact)
		checkVector(t, file, compact, v.Input.Key.(map[string]any), h.check(), want.oidc, algorithms)
		checkVector(t, file, compact, v.Input.Key.(map[string]any), h.checkSVID(), want.svid, svidAlgorithms)
	}
}

func checkVector(t *testing.T, file, compact string, jwk map[string]any, headers, want error, allowed []jose.SignatureAlgorithm) {
	t.Helper()
	if want != nil {
		require.ErrorIs(t, headers, want, file)
		require.Error(t, verifySignature(compact, allowed, []byte("k")), file)
		return
	}
	require.NoError(t, headers, file)
	k := verifyingKey(t, jwk)
	require.NoError(t, verifySignature(compact, allowed, k), file)
	parts := strings.Split(compact, ".")
	changed := parts[0] + "." + strict.EncodeToString([]byte(`{"changed":true}`)) + "." + parts[2]
	require.ErrorIs(t, verifySignature(changed, allowed, k), ErrSignature, file)
}

// TestJOSECookbookKeys: which keys of RFC 7520 section 3 a key set may hold.
func TestJOSECookbookKeys(t *testing.T) {
	for file, want := range map[string]struct {
		keys int
		fail bool
	}{
		"jwk/3_1.ec_public_key":                 {0, false}, // P-521: no OIDC algorithm of ours
		"jwk/3_2.ec_private_key":                {0, true},
		"jwk/3_3.rsa_public_key":                {1, false},
		"jwk/3_4.rsa_private_key":               {0, true},
		"jwk/3_5.symmetric_key_mac_computation": {0, true},
		"jwk/3_6.symmetric_key_encryption":      {0, true},
	} {
		var k map[string]any
		readJSON(t, &k, "jose-cookbook", file+".json")
		got, err := parseKeySet(keySetOf(t, k))
		require.Equal(t, want.fail, err != nil, "%s: %v", file, err)
		require.Len(t, got, want.keys, file)
		k["use"] = "jwt-svid"
		_, err = parseBundle(spiffeid.RequireTrustDomainFromString("example.org"), keySetOf(t, k))
		require.Equal(t, want.fail, err != nil, "%s in a bundle: %v", file, err)
	}
}

// TestJOSECookbookIsComplete: every file is run by a test above or excluded here.
func TestJOSECookbookIsComplete(t *testing.T) {
	excluded := map[string]string{"curve25519/ecdh-es.json": "an encrypted message: nothing here decrypts; that it is refused is checked below"}
	src, err := os.ReadFile("vectors_test.go")
	require.NoError(t, err)
	n := 0
	require.NoError(t, fs.WalkDir(os.DirFS("testdata/jose-cookbook"), ".", func(p string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(p, ".json") && excluded[p] == "" {
			n++
			require.Contains(t, string(src), `"`+strings.TrimSuffix(p, ".json")+`"`)
		}
		return err
	}))
	require.Equal(t, 17, n)
	var jwe struct{ Output struct{ Compact string } }
	readJSON(t, &jwe, "jose-cookbook", "curve25519", "ecdh-es.json")
	_, _, err = parse(jwe.Output.Compact)
	require.ErrorIs(t, err, ErrMalformed)
}

type rfcExample struct {
	RFC   string `json:"rfc"`
	Kind  string `json:"kind"`
	Value any    `json:"value"`
}

// rfcTokens says what becomes of the compact tokens of rfc-examples.json. after is what
// the extraction took from the RFC's next line and does not belong to the token.
// key is the index of its JWK; want is nil where the signature verifies (the payloads
// are not attestations, so that is as far as they get).
var rfcTokens = map[int]struct {
	after string
	key   int
	want  error
}{
	0:  {"SeeAppendixAforadditionalexamples", 13, ErrAlgorithm}, // HS256
	1:  {"A", 13, ErrAlgorithm},                                 // HS256
	2:  {"A", 16, nil},                                          // RS256
	3:  {"A", 19, nil},                                          // ES256
	4:  {"A", 21, ErrAlgorithm},                                 // ES512: not for OIDC tokens, see below
	5:  {"A", 0, ErrAlgorithm},                                  // none
	6:  {"A.6.2", 0, ErrMalformed},                              // a header and a heading, no token
	7:  {"AppendixF", 0, ErrMalformed},                          // none, with crit
	33: {"C.3.ContentEncryptionKey", 0, ErrMalformed},           // a JWE header and a heading
	34: {"", 0, ErrMalformed},                                   // three of five parts of a JWE
	42: {"ThiscomputationisillustratedinmoredetailinAppendixA", 13, ErrAlgorithm},
	43: {"7", 0, ErrAlgorithm}, // none
	44: {"", 0, ErrMalformed},  // three of five parts of a JWE
	45: {"", 0, ErrMalformed},  // three of five parts of a JWE
	56: {"A", 59, nil},         // EdDSA
	57: {"Thishas2dotsinit", 59, nil},
	69: {"Figure6", 0, ErrAlgorithm}, // a SET with alg none
	89: {"Figure1", 0, ErrAlgorithm}, // a SET with HS256
}

// TestRFCTokens runs every compact token of the RFC examples.
func TestRFCTokens(t *testing.T) {
	var all []rfcExample
	readJSON(t, &all, "rfc-examples", "rfc-examples.json")
	require.Len(t, all, 102)
	n := 0
	for i, e := range all {
		if e.Kind != "compact-jws" {
			continue
		}
		n++
		want, listed := rfcTokens[i]
		require.True(t, listed, "example %d", i)
		raw, ok := strings.CutSuffix(e.Value.(string), want.after)
		require.True(t, ok, "example %d ends in %q", i, want.after)
		if errors.Is(want.want, ErrMalformed) {
			_, _, err := parse(raw)
			require.ErrorIs(t, err, ErrMalformed, "example %d", i)
			continue
		}
		h := headerOf(t, raw)
		if want.want != nil {
			require.ErrorIs(t, h.check(), want.want, "example %d", i)
			require.Error(t, verifySignature(raw, algorithms, []byte("k")), "example %d", i)
			continue
		}
		checkVector(t, e.RFC, raw, all[want.key].Value.(map[string]any), h.check(), nil, algorithms)
	}
	require.Equal(t, len(rfcTokens), n)
	es512 := strings.TrimSuffix(all[4].Value.(string), "A")
	checkVector(t, "RFC 7515 A.4", es512, all[21].Value.(map[string]any), headerOf(t, es512).checkSVID(), nil, svidAlgorithms)
}

// TestRFCTokensEndToEnd: the RS256 and ES256 tokens of RFC 7515 come as far as their
// claims, which are no attestation; with the other's key, or one changed character, only
// to the signature.
func TestRFCTokensEndToEnd(t *testing.T) {
	var all []rfcExample
	readJSON(t, &all, "rfc-examples", "rfc-examples.json")
	verifier := func(key int) *Verifier {
		path := filepath.Join(t.TempDir(), "jwks.json")
		require.NoError(t, os.WriteFile(path, keySetOf(t, public(t, all[key].Value.(map[string]any), "k")), 0o600))
		v, err := New(Config{Issuers: []config.TrustedIssuer{{Issuer: "joe", JWKS: "file://" + path}}, Audience: "us",
			Now: func() time.Time { return time.Unix(1300819000, 0) }})
		require.NoError(t, err)
		return v
	}
	for i, key := range map[int]int{2: 16, 3: 19} {
		raw := strings.TrimSuffix(all[i].Value.(string), "A")
		_, err := verifier(key).Verify(context.Background(), raw)
		require.ErrorIs(t, err, ErrClaims, "example %d", i)
		parts := strings.Split(raw, ".")
		forged := parts[0] + "." + strict.EncodeToString([]byte(`{"iss":"joe","exp":1300819381}`)) + "." + parts[2]
		_, err = verifier(key).Verify(context.Background(), forged)
		require.ErrorIs(t, err, ErrSignature, "example %d", i)
		_, err = verifier(35-key).Verify(context.Background(), raw)
		require.ErrorIs(t, err, ErrUnknownKey, "example %d", i)
	}
}

// TestRFCKeys runs every JWK and JWK Set of the RFC examples: how many keys a set of it
// gives to an OIDC issuer, or -1 where it is refused since it is private or symmetric.
func TestRFCKeys(t *testing.T) {
	want := map[int]int{13: -1, 16: -1, 19: -1, 21: -1, 35: 1, 36: 1, 37: -1, 38: -1, 39: 1, 40: -1, 52: 1, 53: 1,
		58: -1, 59: 1, 60: 1, 63: 0, 64: 0, 66: 0, 67: 0}
	var all []rfcExample
	readJSON(t, &all, "rfc-examples", "rfc-examples.json")
	seen := 0
	for i, e := range all {
		v, ok := e.Value.(map[string]any)
		if !ok || v["kty"] == nil && v["keys"] == nil {
			// Excluded: examples that are neither token nor key, that is headers and claims
			// sets on their own, JSON serializations (see below) and HTTP bodies.
			if ok && v["payload"] != nil {
				b, err := json.Marshal(v)
				require.NoError(t, err)
				_, _, err = parse(string(b))
				require.ErrorIs(t, err, ErrMalformed, "example %d", i)
			}
			continue
		}
		seen++
		n, listed := want[i]
		require.True(t, listed, "example %d: %v", i, v)
		raw := keySetOf(t, v)
		if v["keys"] != nil {
			var err error
			raw, err = json.Marshal(v)
			require.NoError(t, err)
		}
		keys, err := parseKeySet(raw)
		if n < 0 {
			require.ErrorContains(t, err, "private or symmetric", "example %d", i)
			continue
		}
		require.NoError(t, err, "example %d", i)
		require.Len(t, keys, n, "example %d: %v", i, v)
	}
	require.Equal(t, len(want), seen)
}
