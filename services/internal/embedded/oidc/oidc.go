// Package oidc is a small OIDC issuer and SPIFFE CA for local development: whoever
// holds the client secret gets an ID token for any subject, or a JWT-SVID for any ID
// of the trust domain lanyard.local. It serves loopback only and must never be trusted
// in production, where workloads have an issuer of their own (Kubernetes, GitHub
// Actions, a cloud, SPIRE). Only the all-in-one, the command, what it deploys and tests
// import it.
package oidc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/lanyard-nhi/lanyard/events/token"
)

// Client is the client id that goes with the secret.
const Client = "local"

const (
	defaultTTL = 5 * time.Minute
	maxTTL     = 10 * time.Minute
	maxBody    = 16 << 10
)

// Config of the issuer. All fields but SVIDKeyFile are required.
type Config struct {
	// URL is its "iss" and base: http on a loopback address, without path.
	URL string
	// SecretFile holds the client secret; the file is read at every request, so it may
	// be replaced while the issuer runs.
	SecretFile string
	// KeyFile holds the private ES256 JWK; it is made (0600) when it is missing.
	KeyFile string
	// SVIDKeyFile is the same for JWT-SVIDs. Another file: a key that signs ID tokens for
	// any subject must not sign for a trust domain. Empty: no SVIDs.
	SVIDKeyFile string
	Now         func() time.Time
}

type issuer struct {
	Config
	signer token.Signer
	jwks   []byte
	svid   token.Signer
	bundle []byte
}

// New makes the issuer's handler: GET /.well-known/openid-configuration, GET /jwks and
// POST /token. The last takes the client secret (HTTP Basic with user "local", or
// client_id and client_secret in the form) and a form with sub, aud and optionally ttl
// in seconds, and answers {"id_token", "token_type": "N_A", "expires_in"}. With an
// SVIDKeyFile also GET /spiffe/bundle, the trust domain's bundle, and POST /spiffe/svid,
// which takes what POST /token takes and answers {"svid", "expires_in"}.
func New(cfg Config) (http.Handler, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "http" || !loopback(u.Host) || u.Path != "" || u.RawQuery != "" {
		return nil, fmt.Errorf("make local issuer: URL %q must be http on a loopback address without path", cfg.URL)
	}
	key, err := loadKey(cfg.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("make local issuer: %w", err)
	}
	s := &issuer{Config: cfg}
	if s.signer, err = token.NewSigner("", key); err != nil {
		return nil, fmt.Errorf("make local issuer: %w", err)
	}
	if s.jwks, err = token.JWKS([]token.Key{s.signer.Key()}); err != nil {
		return nil, fmt.Errorf("make local issuer: %w", err)
	}
	if _, err := s.secret(); err != nil {
		return nil, fmt.Errorf("make local issuer: %w", err)
	}
	if err := s.openCA(); err != nil {
		return nil, fmt.Errorf("make local SPIFFE CA: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /.well-known/openid-configuration", s.metadata)
	mux.HandleFunc("GET /jwks", s.keys)
	mux.HandleFunc("POST /token", s.token)
	if s.bundle != nil {
		mux.HandleFunc("GET /spiffe/bundle", s.serveBundle)
		mux.HandleFunc("POST /spiffe/svid", s.serveSVID)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A page in a browser that resolves its own name to 127.0.0.1 gets no further.
		if !loopback(r.Host) {
			fail(w, http.StatusForbidden, "invalid_request", "this development issuer answers on loopback only")
			return
		}
		mux.ServeHTTP(w, r)
	}), nil
}

// loopback reports whether host (perhaps with a port) is a loopback address or localhost.
func loopback(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// loadKey reads the private key, or makes it: written aside and linked into place, so
// that of two starts at once one key wins.
func loadKey(path string) (*ecdsa.PrivateKey, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if err := makeKey(path); err != nil {
			return nil, fmt.Errorf("make key %s: %w", path, err)
		}
		b, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	var j jose.JSONWebKey
	if err := json.Unmarshal(b, &j); err != nil {
		return nil, fmt.Errorf("read key %s: not a JWK", path) // the decoder's text may quote the key
	}
	k, ok := j.Key.(*ecdsa.PrivateKey)
	if !ok || k.Curve != elliptic.P256() {
		return nil, fmt.Errorf("read key %s: not a private P-256 key", path)
	}
	return k, nil
}

func makeKey(path string) error {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	b, err := json.Marshal(jose.JSONWebKey{Key: k, Algorithm: "ES256", Use: "sig"})
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".local-issuer-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(b); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	return nil
}

func (s *issuer) secret() ([]byte, error) {
	b, err := os.ReadFile(s.SecretFile)
	if err != nil {
		return nil, fmt.Errorf("read client secret: %w", err)
	}
	b = []byte(strings.TrimSpace(string(b)))
	if len(b) < 16 {
		return nil, fmt.Errorf("read client secret %s: it is shorter than 16 characters", s.SecretFile)
	}
	return b, nil
}

func (s *issuer) metadata(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]any{
		"issuer": s.URL, "jwks_uri": s.URL + "/jwks", "token_endpoint": s.URL + "/token",
		"response_types_supported": []string{"id_token"}, "subject_types_supported": []string{"public"},
		"id_token_signing_alg_values_supported": []string{"ES256"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post"},
		"lanyard_development_only":              true,
	})
}

func (s *issuer) keys(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Header().Set("Cache-Control", "public, max-age=30")
	_, _ = w.Write(s.jwks)
}

// ask is what the holder of the client secret wants to be vouched for.
type ask struct {
	sub, aud string
	ttl      time.Duration
}

// read reads an ask, or answers why it is none.
func (s *issuer) read(w http.ResponseWriter, r *http.Request) (a ask, ok bool) {
	form, err := readForm(w, r)
	if err != nil {
		fail(w, http.StatusBadRequest, "invalid_request", err.Error())
		return a, false
	}
	if !s.authentic(r, form) {
		w.Header().Set("WWW-Authenticate", `Basic realm="lanyard local issuer"`)
		fail(w, http.StatusUnauthorized, "invalid_client", "send the client secret of the local issuer (user "+Client+")")
		return a, false
	}
	a = ask{form.Get("sub"), form.Get("aud"), defaultTTL}
	if a.sub == "" || a.aud == "" {
		fail(w, http.StatusBadRequest, "invalid_request", "sub and aud are required")
		return a, false
	}
	if t := form.Get("ttl"); t != "" {
		n, err := strconv.ParseUint(t, 10, 16)
		if a.ttl = time.Duration(n) * time.Second; err != nil || n == 0 || a.ttl > maxTTL {
			fail(w, http.StatusBadRequest, "invalid_request", fmt.Sprintf("ttl must be 1 to %d seconds", int(maxTTL.Seconds())))
			return a, false
		}
	}
	return a, true
}

// sign makes a token of the ask and extra, or answers why it cannot.
func (s *issuer) sign(w http.ResponseWriter, by token.Signer, a ask, extra map[string]any) (text string, ok bool) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		fail(w, http.StatusInternalServerError, "server_error", "no randomness")
		return "", false
	}
	now := s.Now().Unix()
	extra["sub"], extra["aud"], extra["jti"] = a.sub, a.aud, hex.EncodeToString(id)
	extra["iat"], extra["exp"] = now, now+int64(a.ttl.Seconds())
	text, err := by.Sign("JWT", extra)
	if err != nil {
		fail(w, http.StatusInternalServerError, "server_error", "the token could not be signed")
		return "", false
	}
	return text, true
}

func (s *issuer) token(w http.ResponseWriter, r *http.Request) {
	a, ok := s.read(w, r)
	if !ok {
		return
	}
	if strings.HasPrefix(a.sub, "spiffe:") {
		fail(w, http.StatusBadRequest, "invalid_request", "a SPIFFE ID is proven by an SVID: ask at /spiffe/svid")
		return
	}
	if text, ok := s.sign(w, s.signer, a, map[string]any{"iss": s.URL}); ok {
		answer(w, http.StatusOK, map[string]any{"id_token": text, "token_type": "N_A", "expires_in": int64(a.ttl.Seconds())})
	}
}

// authentic compares the client secret in constant time.
func (s *issuer) authentic(r *http.Request, form url.Values) bool {
	want, err := s.secret()
	if err != nil {
		return false
	}
	user, got, ok := r.BasicAuth()
	if !ok {
		user, got = form.Get("client_id"), form.Get("client_secret")
	}
	a, b := sha256.Sum256(want), sha256.Sum256([]byte(got))
	return subtle.ConstantTimeCompare(a[:], b[:]) == 1 && user == Client
}

func readForm(w http.ResponseWriter, r *http.Request) (url.Values, error) {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/x-www-form-urlencoded" {
		return nil, errors.New("the Content-Type must be application/x-www-form-urlencoded")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, errors.New("the body is too large")
	}
	form, err := url.ParseQuery(string(b))
	if err != nil {
		return nil, errors.New("the body is not a valid form")
	}
	for _, v := range form {
		if len(v) > 1 {
			return nil, errors.New("a parameter is sent more than once")
		}
	}
	return form, nil
}

func answer(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}

func fail(w http.ResponseWriter, status int, code, description string) {
	answer(w, status, map[string]string{"error": code, "error_description": description})
}
