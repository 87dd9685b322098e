package web_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/services/connector"
	"github.com/lanyard-nhi/lanyard/services/connector/connectortest"
	"github.com/lanyard-nhi/lanyard/services/connector/httpcall"
	"github.com/lanyard-nhi/lanyard/services/connector/oauth"
	"github.com/lanyard-nhi/lanyard/services/connector/webhook"
	"github.com/lanyard-nhi/lanyard/services/internal/outbound"
	"github.com/lanyard-nhi/lanyard/services/internal/secret"
)

const apiSecret = "api-secret-4be0"

// saas is a small system with accounts, reached through a plug.
type saas struct {
	mu    sync.Mutex
	alive map[string]bool
	n     int
	proxy *connectortest.Proxy
	hmac  []byte
	key   ed25519.PublicKey
	ids   map[string]int // webhook-id -> how often
	dir   string         // of token files
}

func startSaaS(t *testing.T) *saas {
	t.Helper()
	s := &saas{alive: map[string]bool{}, ids: map[string]int{}, dir: t.TempDir()}
	mux := http.NewServeMux()
	mux.HandleFunc("DELETE /v1/{tenant}/keys/{key}", s.remove)
	mux.HandleFunc("GET /v1/{tenant}/keys/{key}", s.show)
	mux.HandleFunc("POST /revoke", s.revoke)
	mux.HandleFunc("POST /introspect", s.introspect)
	mux.HandleFunc("POST /hook", s.hook)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	s.proxy = connectortest.NewProxy(t, strings.TrimPrefix(srv.URL, "http://"))
	return s
}

func (s *saas) url() string { return "http://" + s.proxy.Addr() }

// end reports whether name was alive and ends it.
func (s *saas) end(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.alive[name]
	s.alive[name] = false
	return was
}

func (s *saas) is(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.alive[name]
}

func (s *saas) remove(w http.ResponseWriter, q *http.Request) {
	switch {
	case q.Header.Get("X-Api-Key") != apiSecret:
		w.WriteHeader(http.StatusUnauthorized)
	case s.end(q.PathValue("key")):
		w.WriteHeader(http.StatusNoContent)
	default:
		w.WriteHeader(http.StatusNotFound)
	}
}

func (s *saas) show(w http.ResponseWriter, q *http.Request) {
	if !s.is(q.PathValue("key")) {
		w.WriteHeader(http.StatusNotFound)
	}
}

func (s *saas) client(w http.ResponseWriter, q *http.Request) bool {
	id, pw, ok := q.BasicAuth()
	if !ok || id != url.QueryEscape("lanyard client") || pw != apiSecret {
		w.WriteHeader(http.StatusUnauthorized)
		return false
	}
	return true
}

func (s *saas) revoke(w http.ResponseWriter, q *http.Request) {
	if s.client(w, q) {
		s.end(strings.TrimPrefix(q.PostFormValue("token"), "token-of-"))
	}
}

func (s *saas) introspect(w http.ResponseWriter, q *http.Request) {
	if s.client(w, q) {
		fmt.Fprintf(w, `{"active": %t}`, s.is(strings.TrimPrefix(q.PostFormValue("token"), "token-of-")))
	}
}

// hook checks both signatures as a receiver does.
func (s *saas) hook(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	id := q.Header.Get("webhook-id")
	signed := []byte(id + "." + q.Header.Get("webhook-timestamp") + "." + string(body))
	m := hmac.New(sha256.New, s.hmac)
	m.Write(signed)
	v1, v1a, _ := strings.Cut(q.Header.Get("webhook-signature"), " ")
	sig, sigErr := base64.StdEncoding.DecodeString(strings.TrimPrefix(v1a, "v1a,"))
	if err != nil || sigErr != nil || v1 != "v1,"+base64.StdEncoding.EncodeToString(m.Sum(nil)) || !ed25519.Verify(s.key, signed, sig) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var msg struct {
		Type string
		Data struct{ Account string }
	}
	if json.Unmarshal(body, &msg) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	s.ids[id]++
	s.mu.Unlock()
	if msg.Type == webhook.TypeVerify {
		fmt.Fprintf(w, `{"dead": %t}`, !s.is(msg.Data.Account))
		return
	}
	outcome := connector.AlreadyDead
	if s.end(msg.Data.Account) {
		outcome = connector.Enforced
	}
	fmt.Fprintf(w, `{"outcome": %q}`, outcome)
}

func (s *saas) account(t *testing.T) connector.Target {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	name := fmt.Sprintf("agent key %d", s.n)
	s.alive[name] = true
	s.tokenFile(t, name)
	return connector.Target{Request: fmt.Sprintf("req-%d", s.n), Revocation: "r", Reason: "leaked", Tenant: "acme", Secret: "s", Account: name}
}

func (s *saas) tokenFile(t *testing.T, name string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(s.dir, "acme"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.dir, "acme", name), []byte("token-of-"+name+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (s *saas) outbound(t *testing.T) *http.Client {
	t.Helper()
	c, err := outbound.New(outbound.Options{Own: []string{s.url()}, Timeout: 20 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func (s *saas) run(t *testing.T, c connector.Connector, blind bool) {
	t.Helper()
	connectortest.Run(t, connectortest.Suite{
		Connector: c, Account: s.account, Blind: blind,
		Alive:   func(_ *testing.T, a connector.Target) bool { return s.is(a.Account) },
		Unplug:  func(*testing.T) func() { s.proxy.Unplug(); return s.proxy.Plug },
		Secrets: []string{apiSecret, "token-of-", s.url(), base64.StdEncoding.EncodeToString(s.hmac)},
	})
}

func TestHTTPCall(t *testing.T) {
	for _, blind := range []bool{false, true} {
		t.Run(fmt.Sprintf("blind=%t", blind), func(t *testing.T) {
			s := startSaaS(t)
			cfg := httpcall.Config{Client: s.outbound(t), Headers: map[string]secret.Secret{"X-Api-Key": secret.New(apiSecret)},
				End: httpcall.Call{Method: "DELETE", URL: s.url() + "/v1/{tenant}/keys/{account}"}}
			if !blind {
				cfg.Verify = &httpcall.Call{Method: "GET", URL: s.url() + "/v1/{tenant}/keys/{account}"}
			}
			c, err := httpcall.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			s.run(t, c, blind)
		})
	}
}

func TestOAuth(t *testing.T) {
	for _, blind := range []bool{false, true} {
		t.Run(fmt.Sprintf("blind=%t", blind), func(t *testing.T) {
			s := startSaaS(t)
			cfg := oauth.Config{Client: s.outbound(t), Revocation: s.url() + "/revoke", ClientID: "lanyard client",
				ClientSecret: secret.New(apiSecret), Tokens: s.dir, Hint: "refresh_token"}
			if !blind {
				cfg.Introspect = s.url() + "/introspect"
			}
			c, err := oauth.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			s.run(t, c, blind)
			for _, account := range []string{"../acme/x", "..", "no-such-file"} {
				if r, err := c.End(t.Context(), connector.Target{Tenant: "acme", Account: account}); !connector.Final(err) {
					t.Errorf("End of %q: %+v, %v; want refused", account, r, err)
				}
			}
		})
	}
}

func TestWebhook(t *testing.T) {
	for _, blind := range []bool{false, true} {
		t.Run(fmt.Sprintf("blind=%t", blind), func(t *testing.T) {
			s := startSaaS(t)
			s.hmac = bytes.Repeat([]byte{7}, 32)
			private := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{9}, 32))
			s.key = private.Public().(ed25519.PublicKey)
			c, err := webhook.New(webhook.Config{Client: s.outbound(t), URL: s.url() + "/hook", Now: time.Now, Verify: !blind,
				Secret:  secret.New("whsec_" + base64.StdEncoding.EncodeToString(s.hmac)),
				Private: secret.New("whsk_" + base64.StdEncoding.EncodeToString(private.Seed()))})
			if err != nil {
				t.Fatal(err)
			}
			s.run(t, c, blind)
			a := s.account(t)
			for range 3 {
				if _, err := c.End(t.Context(), a); err != nil {
					t.Fatal(err)
				}
			}
			if s.ids[a.Request] != 3 {
				t.Errorf("three tries had the id %q %d times", a.Request, s.ids[a.Request])
			}
		})
	}
}

func TestNewRefuses(t *testing.T) {
	client := http.DefaultClient
	good := httpcall.Call{Method: "DELETE", URL: "https://api.example.org/{account}"}
	for name, c := range map[string]httpcall.Config{
		"no client": {End: good}, "no method": {Client: client, End: httpcall.Call{URL: good.URL}},
		"host of the account": {Client: client, End: httpcall.Call{Method: "GET", URL: "https://{account}/x"}},
		"unknown place":       {Client: client, End: httpcall.Call{Method: "GET", URL: "https://x.org/{password}"}},
		"plain http":          {Client: client, End: httpcall.Call{Method: "GET", URL: "http://x.org/{account}"}},
		"both":                {Client: client, End: httpcall.Call{Method: "GET", URL: good.URL, Alive: []int{404}}},
	} {
		if _, err := httpcall.New(c); err == nil {
			t.Errorf("%s: New succeeds", name)
		}
	}
	for name, c := range map[string]webhook.Config{
		"no key": {Client: client, URL: "https://x.org", Now: time.Now}, "short secret": {Client: client, URL: "https://x.org", Now: time.Now, Secret: secret.New("whsec_YWJj")},
		"no key in it": {Client: client, URL: "https://x.org", Now: time.Now, Private: secret.New("whsk_YWJj")},
	} {
		if _, err := webhook.New(c); err == nil || strings.Contains(err.Error(), "YWJj") {
			t.Errorf("%s: New: %v", name, err)
		}
	}
	if _, err := oauth.New(oauth.Config{Revocation: "https://x.org"}); err == nil {
		t.Error("oauth.New without a client succeeds")
	}
}

// The client that connectors are given does not reach what only this machine can.
func TestOnlyThroughTheSafeClient(t *testing.T) {
	s := startSaaS(t)
	strict, err := outbound.New(outbound.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := httpcall.New(httpcall.Config{Client: strict, End: httpcall.Call{Method: "DELETE", URL: s.url() + "/v1/x/keys/{account}"}})
	if err != nil {
		t.Fatal(err)
	}
	a := s.account(t)
	if r, err := c.End(t.Context(), a); err == nil || !s.is(a.Account) {
		t.Errorf("End: %+v, %v; want an error", r, err)
	}
}
