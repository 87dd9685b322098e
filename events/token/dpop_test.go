package token

import (
	"errors"
	"net/url"
	"testing"
)

// The examples of RFC 9449 (figures 2, 5 and 12; IETF Trust, code components BSD) with
// the thumbprint its section 6.1 states of their key.
const (
	rfc9449Head  = "eyJ0eXAiOiJkcG9wK2p3dCIsImFsZyI6IkVTMjU2IiwiandrIjp7Imt0eSI6IkVDIiwieCI6Imw4dEZyaHgtMzR0VjNoUklDUkRZOXpDa0RscEJoRjQyVVFVZldWQVdCRnMiLCJ5IjoiOVZFNGpmX09rX282NHpiVFRsY3VOSmFqSG10NnY5VERWclUwQ2R2R1JEQSIsImNydiI6IlAtMjU2In19."
	rfc9449Token = rfc9449Head + "eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjYyNjE2fQ.2-GxA6T8lP4vfrg8v-FdWP0A0zdrj8igiMLvqRMUvwnQg4PtFLbdLXiOSsX0x7NVY-FNyJK70nfbV37xRZT3Lg"
	rfc9449Later = rfc9449Head + "eyJqdGkiOiItQndDM0VTYzZhY2MybFRjIiwiaHRtIjoiUE9TVCIsImh0dSI6Imh0dHBzOi8vc2VydmVyLmV4YW1wbGUuY29tL3Rva2VuIiwiaWF0IjoxNTYyMjY1Mjk2fQ.pAqut2IRDm_De6PR93SYmGBPXpwrAk90e8cP2hjiaG5QsGSuKDYW7_X620BxqhvYC8ynrrvZLTk41mSRroapUA"
	rfc9449Use   = rfc9449Head + "eyJqdGkiOiJlMWozVl9iS2ljOC1MQUVCIiwiaHRtIjoiR0VUIiwiaHR1IjoiaHR0cHM6Ly9yZXNvdXJjZS5leGFtcGxlLm9yZy9wcm90ZWN0ZWRyZXNvdXJjZSIsImlhdCI6MTU2MjI2MjYxOCwiYXRoIjoiZlVIeU8ycjJaM0RaNTNFc05yV0JiMHhXWG9hTnk1OUlpS0NBcWtzbVFFbyJ9.2oW9RP35yRqzhrtNP86L-Ey71EOptxRimPPToA1plemAgR6pxHF8y6-yqyVnmcw6Fy1dqd-jfxSYoMxhAJpLjA"
	rfc9449JKT   = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
)

func TestProofsOfRFC9449(t *testing.T) {
	for raw, want := range map[string]Proof{
		rfc9449Token: {rfc9449JKT, "-BwC3ESc6acc2lTc", "POST", "https://server.example.com/token", 1562262616, "", ""},
		rfc9449Later: {rfc9449JKT, "-BwC3ESc6acc2lTc", "POST", "https://server.example.com/token", 1562265296, "", ""},
		rfc9449Use: {rfc9449JKT, "e1j3V_bKic8-LAEB", "GET", "https://resource.example.org/protectedresource", 1562262618,
			"fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo", ""},
	} {
		if p, err := OpenTokenRequestProof(raw); err != nil || p != want {
			t.Errorf("%+v, %v; want %+v", p, err, want)
		}
		p, err := OpenProof(raw)
		if want.AccessHash == "" {
			if !errors.Is(err, ErrClaims) || p != (Proof{}) {
				t.Errorf("without ath: %+v, %v", p, err)
			}
		} else if err != nil || p != want {
			t.Errorf("%+v, %v; want %+v", p, err, want)
		}
	}
}

func TestProofNonce(t *testing.T) {
	s := signers(t)[ES256]
	jwk, err := s.Key().JWK()
	if err != nil {
		t.Fatal(err)
	}
	head := `{"typ":"dpop+jwt","alg":"ES256","jwk":` + string(jwk) + `}`
	if p, err := OpenTokenRequestProof(forge(t, s, head, `{"jti":"a","htm":"POST","htu":"https://a/","iat":1,"nonce":"n-1"}`)); err != nil || p.Nonce != "n-1" {
		t.Errorf("%+v, %v", p, err)
	}
	for _, payload := range []string{
		`{"jti":"a","htm":"POST","htu":"https://a/","iat":1,"nonce":7}`,
		`{"jti":"a","htm":"POST","htu":"https://a/","iat":1,"nonce":"a","nonce":"b"}`,
		`{"htm":"POST","htu":"https://a/","iat":1}`,
		`{"jti":"a","htu":"https://a/","iat":1}`,
		`{"jti":"a","htm":"POST","iat":1}`,
		`{"jti":"a","htm":"POST","htu":"https://a/"}`,
	} {
		if _, err := OpenTokenRequestProof(forge(t, s, head, payload)); !errors.Is(err, ErrClaims) {
			t.Errorf("%s: %v", payload, err)
		}
	}
}

func TestSameURL(t *testing.T) {
	asked := &url.URL{Scheme: "https", Host: "id.example", Path: "/oauth2/token", RawQuery: "x=1"}
	for htu, want := range map[string]bool{
		"https://id.example/oauth2/token":        true,
		"HTTPS://ID.example:443/oauth2/token":    true,
		"http://id.example/oauth2/token":         false,
		"https://id.example:8443/oauth2/token":   false,
		"https://id.example/oauth2/token/":       false,
		"https://id.example/OAUTH2/token":        false,
		"https://id.example/oauth2/token?x=1":    false,
		"https://id.example/oauth2/token#f":      false,
		"https://u@id.example/oauth2/token":      false,
		"https:id.example/oauth2/token":          false,
		"https://id.example.evil/oauth2/token":   false,
		"/oauth2/token":                          false,
		"":                                       false,
		"https://id.example/oauth2/%zz":          false,
		"https://id.example/a/../oauth2/token":   false,
		"https://id.example\\.evil/oauth2/token": false,
	} {
		if got := SameURL(htu, asked); got != want {
			t.Errorf("%q: %t", htu, got)
		}
	}
}
