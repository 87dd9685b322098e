// Package operator is the first operator's credential: a private key whose public
// half is a configured issuer of attestations. The operator proves itself to the
// token endpoint like any workload does (RFC 7523 section 2.1) and acts with
// five-minute tokens; there is no other way in.
package operator

import (
	"context"
	"crypto"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// Issuer is the "iss" of operators' assertions, and Subject the first operator.
const (
	Issuer  = "https://operator.lanyard.local"
	Subject = "operator"
	Tenant  = "lanyard"
)

// Scopes of the first operator.
var Scopes = []string{"lanyard.operator", "lanyard.read", "lanyard.revoke", "lanyard.intake", "lanyard.rotate", "lanyard.identity"}

// Credential is DATA/operator.json. It is a secret.
type Credential struct {
	Issuer   string          `json:"issuer"`
	Subject  string          `json:"subject"`
	Audience string          `json:"audience"` // issuer URL of Lanyard
	Token    string          `json:"token_endpoint"`
	Key      jose.JSONWebKey `json:"private_jwk"`
}

// String hides the key.
func (c Credential) String() string { return "operator credential of " + c.Subject + " (REDACTED)" }

// Write writes the credential file of the first operator: the private key of the
// key ring (a JWK) and where to use it.
func Write(path, privateJWK, audience, tokenEndpoint string) (Credential, error) {
	c := Credential{Issuer: Issuer, Subject: Subject, Audience: audience, Token: tokenEndpoint}
	if err := json.Unmarshal([]byte(privateJWK), &c.Key); err != nil {
		return c, errors.New("write operator credential: the key ring's operator key is not a JWK")
	}
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return c, fmt.Errorf("encode operator credential: %w", err)
	}
	return c, writeFile(path, b, 0o600)
}

// Load reads a credential.
func Load(path string) (Credential, error) {
	var c Credential
	b, err := os.ReadFile(path)
	if err != nil {
		return c, fmt.Errorf("read operator credential: %w", err)
	}
	if st, err := os.Stat(path); err == nil && st.Mode().Perm()&0o077 != 0 {
		return c, fmt.Errorf("read operator credential: %s may be read by others (mode %04o); run 'chmod 600 %s'", path, st.Mode().Perm(), path)
	}
	if err := json.Unmarshal(b, &c); err != nil {
		return c, fmt.Errorf("read operator credential %s: not a credential file", path)
	}
	return c, nil
}

func writeFile(path string, b []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}

// Assertion signs a one-minute assertion for the token endpoint.
func (c Credential) Assertion(now time.Time) (string, error) {
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: c.Key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", fmt.Errorf("sign assertion: %w", err)
	}
	var id [16]byte
	_, _ = rand.Read(id[:])
	raw, err := jwt.Signed(s).Claims(jwt.Claims{
		Issuer: c.Issuer, Subject: c.Subject, Audience: jwt.Audience{c.Audience}, ID: hex.EncodeToString(id[:]),
		IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(time.Minute)),
	}).Serialize()
	if err != nil {
		return "", fmt.Errorf("sign assertion: %w", err)
	}
	return raw, nil
}

// Signer signs with the operator's key what is not for the token endpoint.
func (c Credential) Signer() (token.Signer, error) {
	k, ok := c.Key.Key.(crypto.Signer)
	if !ok {
		return token.Signer{}, errors.New("use operator credential: it holds no private key")
	}
	return token.NewSigner(c.Key.KeyID, k)
}

// Source gets and renews the operator's token. It is safe for concurrent use.
type Source struct {
	cred Credential
	http *http.Client
	now  func() time.Time

	mu    sync.Mutex
	token string
	until time.Time
}

// NewSource returns a source of tokens for cred.
func NewSource(cred Credential, client *http.Client, now func() time.Time) *Source {
	return &Source{cred: cred, http: client, now: now}
}

// Token is a token with at least a minute to live.
func (s *Source) Token(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.token != "" && s.now().Before(s.until.Add(-time.Minute)) {
		return s.token, nil
	}
	raw, err := s.cred.Assertion(s.now())
	if err != nil {
		return "", err
	}
	tok, ttl, err := Exchange(ctx, s.http, s.cred.Token, url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"},
		"assertion":  {raw},
		"audience":   {s.cred.Audience},
		"scope":      {strings.Join(Scopes, " ")},
		"task":       {"operate"},
		"purpose":    {"operator's command line"},
	})
	if err != nil {
		return "", fmt.Errorf("get operator token: %w", err)
	}
	s.token, s.until = tok, s.now().Add(ttl)
	return tok, nil
}

// OAuthError is an RFC 6749 section 5.2 error answer.
type OAuthError struct {
	Status      int
	Code        string `json:"error"`
	Description string `json:"error_description"`
}

// Error implements error.
func (e *OAuthError) Error() string {
	if e.Description == "" {
		return fmt.Sprintf("%s (status %d)", e.Code, e.Status)
	}
	return fmt.Sprintf("%s: %s", e.Code, e.Description)
}

// Exchange posts a form to a token endpoint and returns the token and its life.
func Exchange(ctx context.Context, client *http.Client, endpoint string, form url.Values) (string, time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return "", 0, fmt.Errorf("make token request: %w", err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	resp, err := client.Do(req)
	if err != nil {
		return "", 0, fmt.Errorf("reach token endpoint: %w", err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return "", 0, fmt.Errorf("read token answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		e := &OAuthError{Status: resp.StatusCode}
		if json.Unmarshal(b, e) != nil || e.Code == "" {
			e.Code = http.StatusText(resp.StatusCode)
		}
		return "", 0, e
	}
	var t struct {
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	if err := json.Unmarshal(b, &t); err != nil || t.AccessToken == "" {
		return "", 0, errors.New("read token answer: no access_token in it")
	}
	return t.AccessToken, time.Duration(t.ExpiresIn) * time.Second, nil
}

// Declaration declares the first operator as what it is: an identity of the system
// tenant that proves itself by its key.
func Declaration(audience string) events.IdentityDeclared {
	return events.IdentityDeclared{Registration: events.Registration{
		Identity: Subject, Kind: events.KindServiceAccount, Owner: "operators", Feature: "operations",
		Purpose: "operate this Lanyard from the command line", KillSwitch: "identity",
		Attestation: []events.Attestation{{Issuer: Issuer, Subject: Subject}}, Scopes: Scopes, Audiences: []string{audience},
	}}
}

// Await returns when the token endpoint serves the operator, which is when its
// declaration has been handled.
func Await(ctx context.Context, c Credential, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for {
		_, err := NewSource(c, &http.Client{Timeout: 10 * time.Second}, time.Now).Token(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the operator's registration: %w", err)
		case <-t.C:
		}
	}
}

// WithoutPassword is a URL that may be shown: its password is left out.
func WithoutPassword(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	u.User = nil
	return u.String()
}
