package attest

import (
	"bytes"
	"compress/zlib"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
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
)

func suiteFile(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "token-status-list", name))
	require.NoError(t, err)
	return string(b)
}

// TestStatusListVectors: the two encodings of the draft, every index of them.
func TestStatusListVectors(t *testing.T) {
	for name, want := range map[string][]byte{
		// The draft lists the statuses of these bytes: section "Compressed Byte Array".
		"status_list_encoding_json.md":  {1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1},
		"status_list_encoding2_json.md": {1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3},
	} {
		text := suiteFile(t, name)
		var p packedList
		require.NoError(t, json.Unmarshal([]byte(text[strings.Index(text, "{"):]), &p))
		l, err := p.unpack()
		require.NoError(t, err, name)
		var raw []byte
		for h := range strings.SplitSeq(text[strings.Index(text, "[")+1:strings.Index(text, "]")], ",") {
			var b byte
			_, err := fmt.Sscanf(strings.TrimSpace(h), "0x%x", &b)
			require.NoError(t, err)
			raw = append(raw, b)
		}
		require.Equal(t, raw, l.packed, name)
		var got []byte
		for i := range uint64(len(want)) {
			s, ok := l.at(i)
			require.True(t, ok)
			got = append(got, s)
		}
		require.Equal(t, want, got, name)
		_, ok := l.at(uint64(len(want)))
		require.False(t, ok, "beyond the end")
		_, ok = l.at(1 << 63)
		require.False(t, ok)
	}
}

// TestStatusListTokenVector: the draft's signed example, with the key it is signed by.
func TestStatusListTokenVector(t *testing.T) {
	raw := strings.ReplaceAll(strings.TrimSpace(suiteFile(t, "status_list_jwt_raw.md")), "\n", "")
	var k jose.JSONWebKey
	require.NoError(t, k.UnmarshalJSON([]byte(`{"kty":"EC","crv":"P-256","kid":"12","alg":"ES256","use":"sig",
		"x":"I3HWm_0Ds1dPMI-IWmf4mBmH-YaeAVbPVu7vB27CxXo","y":"6N_d5Elj9bs1htgV3okJKIdbHEpkgTmAluYKJemzn1M"}`)))
	find := func(kid, alg string) (any, error) {
		require.Equal(t, "12", kid)
		require.Equal(t, "ES256", alg)
		return k.Key, nil
	}
	const uri = "https://example.com/statuslists/1"
	at := time.Unix(1686920170, 0)
	l, err := openList(raw, uri, at, find)
	require.NoError(t, err)
	s, _ := l.at(0)
	require.Equal(t, byte(1), s)
	s, _ = l.at(1)
	require.Equal(t, byte(0), s)
	require.Equal(t, maxStatusAge, l.ttl, "12 hours are asked for, five minutes are the most")
	for name, f := range map[string]func() (statusList, error){
		"another URI":      func() (statusList, error) { return openList(raw, uri+"0", at, find) },
		"expired":          func() (statusList, error) { return openList(raw, uri, time.Unix(2291720170, 0), find) },
		"before its time":  func() (statusList, error) { return openList(raw, uri, at.Add(-time.Minute), find) },
		"broken signature": func() (statusList, error) { return openList(raw[:len(raw)-4]+"AAAA", uri, at, find) },
		"two parts":        func() (statusList, error) { return openList(raw[:strings.LastIndex(raw, ".")], uri, at, find) },
	} {
		_, err := f()
		require.Error(t, err, name)
	}
}

// statusWorld is an issuer with its keys and one status list, on loopback.
type statusWorld struct {
	t     *testing.T
	sign  jose.Signer
	list  jose.Signer // typ statuslist+jwt
	now   time.Time
	url   string
	body  atomic.Value // string: the list that is served
	reads atomic.Int64
	v     *Verifier
}

func newStatusWorld(t *testing.T) *statusWorld {
	w := &statusWorld{t: t, now: time.Unix(1_800_000_000, 0)}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	w.sign, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: k, KeyID: "k"}}, (&jose.SignerOptions{}).WithType("JWT"))
	require.NoError(t, err)
	w.list, err = jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: k, KeyID: "k"}}, (&jose.SignerOptions{}).WithType("statuslist+jwt"))
	require.NoError(t, err)
	set, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: k.Public(), KeyID: "k"}}})
	require.NoError(t, err)
	mux := http.NewServeMux()
	mux.HandleFunc("/jwks", func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(set) })
	mux.HandleFunc("/status", func(rw http.ResponseWriter, r *http.Request) {
		w.reads.Add(1)
		require.Equal(t, "application/statuslist+jwt", r.Header.Get("Accept"))
		_, _ = io.WriteString(rw, w.body.Load().(string))
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	w.url = srv.URL
	w.v, err = New(Config{Issuers: []config.TrustedIssuer{{Issuer: "https://i.example", JWKS: srv.URL + "/jwks", Local: true}}, Audience: "https://us.example",
		Clients: Clients{Local: LoopbackClient()}, Now: func() time.Time { return w.now }})
	require.NoError(t, err)
	return w
}

func (w *statusWorld) jws(s jose.Signer, claims map[string]any) string {
	b, err := json.Marshal(claims)
	require.NoError(w.t, err)
	j, err := s.Sign(b)
	require.NoError(w.t, err)
	raw, err := j.CompactSerialize()
	require.NoError(w.t, err)
	return raw
}

// serve publishes a list of two-bit statuses.
func (w *statusWorld) serve(packed ...byte) {
	w.body.Store(w.jws(w.list, map[string]any{"sub": w.url + "/status", "iat": w.now.Unix(), "ttl": 60,
		"status_list": map[string]any{"bits": 2, "lst": deflate(packed)}}))
}

func deflate(b []byte) string {
	var buf bytes.Buffer
	z := zlib.NewWriter(&buf)
	_, _ = z.Write(b)
	_ = z.Close()
	return base64.RawURLEncoding.EncodeToString(buf.Bytes())
}

func (w *statusWorld) verify(status any) error {
	_, err := w.v.Verify(context.Background(), w.jws(w.sign, map[string]any{"iss": "https://i.example", "sub": "wl", "aud": "https://us.example",
		"iat": w.now.Unix(), "exp": w.now.Add(time.Minute).Unix(), "status": status}))
	return err
}

func (w *statusWorld) at(i int) any {
	return map[string]any{"status_list": map[string]any{"idx": i, "uri": w.url + "/status"}}
}

// TestAttestationWithStatus: what its issuer has revoked or suspended proves nothing,
// from the moment the list says so, at the latest when the list's ttl is over.
func TestAttestationWithStatus(t *testing.T) {
	w := newStatusWorld(t)
	w.serve(0b_10_01_00_00)
	require.NoError(t, w.verify(w.at(0)))
	require.ErrorIs(t, w.verify(w.at(2)), ErrStatus, "revoked")
	require.ErrorIs(t, w.verify(w.at(3)), ErrStatus, "suspended")
	require.ErrorIs(t, w.verify(w.at(4)), ErrStatus, "beyond the end")
	require.EqualValues(t, 1, w.reads.Load(), "one read serves all")

	w.serve(0b_10_01_00_01)
	require.NoError(t, w.verify(w.at(0)), "the list counts for its ttl")
	w.now = w.now.Add(time.Minute)
	require.ErrorIs(t, w.verify(w.at(0)), ErrStatus)

	for name, status := range map[string]any{
		"text": "valid", "empty": map[string]any{}, "no index": map[string]any{"status_list": map[string]any{"uri": w.url + "/status"}},
		"negative index": w.at(-1), "a file": map[string]any{"status_list": map[string]any{"idx": 0, "uri": "file:///etc/passwd"}},
		"user in the URL": map[string]any{"status_list": map[string]any{"idx": 0, "uri": "https://a:b@i.example/"}},
	} {
		require.ErrorIs(t, w.verify(status), ErrStatus, name)
	}
}

// TestStatusListsThatCannotBeTrusted: no answer is never a good answer.
func TestStatusListsThatCannotBeTrusted(t *testing.T) {
	unsigned := base64.RawURLEncoding.EncodeToString
	for name, body := range map[string]func(w *statusWorld) string{
		"no list":     func(*statusWorld) string { return "" },
		"another typ": func(w *statusWorld) string { return w.jws(w.sign, w.listOf(2, deflate([]byte{0}))) },
		"alg none": func(w *statusWorld) string {
			return unsigned([]byte(`{"alg":"none","typ":"statuslist+jwt","kid":"k"}`)) + ".e30."
		},
		"odd bits":     func(w *statusWorld) string { return w.jws(w.list, w.listOf(3, deflate([]byte{0}))) },
		"not deflated": func(w *statusWorld) string { return w.jws(w.list, w.listOf(2, "AAAA")) },
		"a bomb": func(w *statusWorld) string {
			return w.jws(w.list, w.listOf(2, deflate(make([]byte, maxStatusBytes+1))))
		},
		"about another list": func(w *statusWorld) string {
			c := w.listOf(2, deflate([]byte{0}))
			c["sub"] = w.url + "/other"
			return w.jws(w.list, c)
		},
	} {
		w := newStatusWorld(t)
		w.body.Store(body(w))
		require.ErrorIs(t, w.verify(w.at(0)), ErrUnavailable, name)
	}
}

func (w *statusWorld) listOf(bits int, lst string) map[string]any {
	return map[string]any{"sub": w.url + "/status", "iat": w.now.Unix(), "status_list": map[string]any{"bits": bits, "lst": lst}}
}

// TestStatusListsAreBounded: an issuer whose tokens name ever new lists costs no more than
// maxStatusLists of them.
func TestStatusListsAreBounded(t *testing.T) {
	s := &statusLists{config: Config{Now: time.Now}}
	for i := range 10 * maxStatusLists {
		s.list(fmt.Sprintf("https://i.example/%d", i))
	}
	require.Len(t, s.known, maxStatusLists)
	require.Len(t, s.order, maxStatusLists)
}

func FuzzStatusList(f *testing.F) {
	f.Add(1, "eNrbuRgAAhcBXQ", uint64(3))
	f.Add(2, "eNo76fITAAPfAgc", uint64(11))
	f.Fuzz(func(t *testing.T, bits int, lst string, i uint64) {
		l, err := packedList{Bits: bits, List: lst}.unpack()
		if err != nil {
			return
		}
		s, ok := l.at(i)
		if ok != (i < uint64(len(l.packed))*uint64(8/bits)) || int(s) >= 1<<bits {
			t.Fatalf("status %d, %v at %d of %d bytes with %d bits", s, ok, i, len(l.packed), bits)
		}
	})
}
