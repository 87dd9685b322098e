package service_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/embedded"
	"github.com/lanyard-nhi/lanyard/services/internal/keys"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"
)

// startToys runs services in this process; they stop with the test.
func startToys(t *testing.T, o service.RunOptions, cs ...service.Constructor) *service.Running {
	t.Helper()
	o.Log = zaptest.NewLogger(t, zaptest.Level(zap.ErrorLevel))
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	r, err := service.Start(ctx, o, cs...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return r
}

// eventually waits until f is true.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	deadline := time.NewTimer(60 * time.Second)
	defer deadline.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for !f() {
		select {
		case <-deadline.C:
			t.Fatalf("gave up waiting: %s", what)
		case <-look.C:
		}
	}
}

func fresh(t *testing.T, r *service.Running) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := r.WaitFresh(ctx); err != nil {
		t.Fatal(err)
	}
}

// product publishes feature.disabled under its own NATS user, as a product does.
func product(t *testing.T, url string, ring *keys.Ring, feature string) {
	t.Helper()
	c, err := bus.Connect(t.Context(), bus.Config{URL: url, Name: "product-acme", NkeySeed: seedOf(t, ring, "product-acme")})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	e, err := events.New(events.Origin{Source: "/product", Tenant: "acme", Time: time.Unix(1e9, 0)},
		events.FeatureDisabled{Feature: feature, Reason: "test", By: "tester"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
}

// alerted waits until beta has raised its alert about feature's identity.
func alerted(t *testing.T, b *bus.Conn, feature string) {
	t.Helper()
	eventually(t, "alert about "+feature, func() bool {
		for s, err := range b.Read(t.Context(), bus.StreamAlert, "nhi.alert.>", 1) {
			if err == nil && s.Event.Subject() != "" && strings.Contains(string(s.Event.Data()), feature+"-bot") {
				return true
			}
		}
		return false
	})
}

func get(t *testing.T, url, token string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

func TestAllInOne(t *testing.T) {
	c := testConfig(t)
	var told *service.Running
	o := service.RunOptions{Name: service.UserAll, Config: c, Embed: embedded.Servers, Ready: func(r *service.Running) { told = r }}
	r := startToys(t, o, toys...)
	if told != r {
		t.Error("Ready was not called")
	}
	fresh(t, r)
	product(t, r.NATSURL(), r.Env().Keys, "chat")
	alerted(t, r.Env().Bus, "chat")

	t.Run("debug", func(t *testing.T) {
		for path, want := range map[string]string{"/livez": `"live":true`, "/readyz": `"ready":true`, "/metrics": "lanyard_http_request_seconds"} {
			// The first request makes the series that /metrics then shows.
			if status, _, body := get(t, r.URL("debug")+path, ""); status != http.StatusOK || path != "/metrics" && !strings.Contains(body, want) {
				t.Errorf("%s: %d %s", path, status, body)
			}
		}
		if status, _, _ := get(t, r.URL("debug")+"/debug/pprof/heap", ""); status != http.StatusNotFound {
			t.Errorf("profiles are served: %d", status)
		}
	})
	t.Run("authorisation", func(t *testing.T) { authorisation(t, r) })
	t.Run("requests", func(t *testing.T) {
		status, h, body := get(t, r.URL("revocation")+"/v1/panic", "")
		if status != http.StatusInternalServerError || h.Get("Content-Type") != "application/problem+json" || strings.Contains(body, "on purpose") {
			t.Errorf("panic: %d %s", status, body)
		}
		if status, _, _ := get(t, r.URL("revocation")+"/"+strings.Repeat("x", 1<<16), ""); status != http.StatusRequestHeaderFieldsTooLarge {
			t.Errorf("a header of 64 KiB: %d", status)
		}
	})
	t.Run("long polls end at the stop", func(t *testing.T) {
		done := make(chan string, 1)
		go func() {
			resp, err := http.Get(r.URL("revocation") + "/v1/wait?wait=1h")
			if err != nil {
				done <- err.Error()
				return
			}
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			done <- fmt.Sprint(string(b), err)
		}()
		eventually(t, "request is open", func() bool {
			_, _, body := get(t, r.URL("debug")+"/livez", "")
			return body != ""
		})
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
		if got := <-done; !strings.Contains(got, `"ended":true`) && !strings.Contains(got, "refused") && !strings.Contains(got, "EOF") {
			t.Errorf("the long poll got %s", got)
		}
		if err := r.Stop(); err != nil {
			t.Errorf("second Stop: %v", err)
		}
	})
	t.Run("restart", func(t *testing.T) {
		before := []string{r.NATSURL(), r.Addr("revocation"), r.Addr("debug")}
		o.Ready = nil
		again := startToys(t, o, toys...)
		if got := []string{again.NATSURL(), again.Addr("revocation"), again.Addr("debug")}; strings.Join(got, " ") != strings.Join(before, " ") {
			t.Errorf("addresses %v, were %v", got, before)
		}
		alerted(t, again.Env().Bus, "chat") // what was stored is still there
		fresh(t, again)
	})
}

func authorisation(t *testing.T, r *service.Running) {
	ring, issuer, url := r.Env().Keys, r.Env().Config.Issuer.URL, r.URL("revocation")+"/v1/hello"
	stranger, err := keys.Open(filepath.Join(t.TempDir(), "keys"), true)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		token     string
		status    int
		challenge string
		code      string
	}{
		"none":             {"", 401, `Bearer realm="lanyard"`, "missing_token"},
		"garbage":          {"abc", 401, `error="invalid_token"`, "invalid_token"},
		"another's":        {accessToken(t, stranger, issuer, "acme", "lanyard.read"), 401, `error="invalid_token"`, "invalid_token"},
		"another issuer":   {accessToken(t, ring, "http://x", "acme", "lanyard.read"), 401, `error="invalid_token"`, "invalid_token"},
		"no scope":         {accessToken(t, ring, issuer, "acme", "lanyard.intake other"), 403, `error="insufficient_scope", scope="lanyard.read"`, "insufficient_scope"},
		"part of a scope":  {accessToken(t, ring, issuer, "acme", "lanyard.reads xlanyard.read"), 403, `insufficient_scope`, "insufficient_scope"},
		"false operator":   {accessToken(t, ring, issuer, "acme", "lanyard.operator"), 403, `insufficient_scope`, "insufficient_scope"},
		"scope":            {accessToken(t, ring, issuer, "acme", "lanyard.read"), 200, "", ""},
		"scope among many": {accessToken(t, ring, issuer, "acme", "a lanyard.read b"), 200, "", ""},
		"operator":         {accessToken(t, ring, issuer, "lanyard", "lanyard.operator"), 200, "", ""},
	} {
		status, h, body := get(t, url, tc.token)
		if status != tc.status || !strings.Contains(h.Get("WWW-Authenticate"), tc.challenge) {
			t.Errorf("%s: %d %q %s", name, status, h.Get("WWW-Authenticate"), body)
		}
		if tc.code == "" {
			continue
		}
		var p struct {
			Type, Title, Code string
			Status            int
		}
		if err := json.Unmarshal([]byte(body), &p); err != nil || p.Code != tc.code || p.Status != tc.status || p.Type != "about:blank" || p.Title == "" {
			t.Errorf("%s: problem %s: %v", name, body, err)
		}
	}
}

// The same services as separate processes: each with its own NATS user, only its own
// key files, and servers that belong to somebody else.
func TestSeparateProcesses(t *testing.T) {
	base := testConfig(t)
	full, err := keys.Open(base.Keys, true)
	if err != nil {
		t.Fatal(err)
	}
	users, err := service.WithKeys(service.Permissions(toyTopology(t), others), full)
	if err != nil {
		t.Fatal(err)
	}
	servers, err := embedded.Servers(t.Context(), base, users, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = servers.Stop() })
	jwks := serveJWKS(t, full)

	running := map[string]*service.Running{}
	launch := func(i int, replica int, files ...string) {
		name := toyNames[i]
		c := config.Default(filepath.Join(t.TempDir(), fmt.Sprint(name, replica)))
		c.Replica = replica
		c.NATS.URL = servers.NATSURL
		c.Redis.URL = redisWithoutPassword(servers.RedisURL.Reveal())
		c.Redis.PasswordFile = servers.RedisPasswordFile
		c.Issuer.URL, c.Issuer.JWKS = base.Issuer.URL, jwks
		copyKeys(t, full.Dir(), c.Keys, append(files, "feed.pub.jwk", "nats/"+name+".nk", "nats/system.nk")...)
		running[fmt.Sprint(name, replica)] = startToys(t, service.RunOptions{Name: name, Config: c.Complete()}, toys[i])
	}
	launch(2, 0, "nats/provision.nk", "feed.jwk") // makes the streams and beats
	launch(0, 0)
	launch(0, 1) // two replicas of alpha
	launch(1, 0)
	launch(1, 1) // a stand-by of beta
	launch(3, 0)
	for _, r := range running {
		fresh(t, r)
	}
	if err := running["revocation0"].Env().Bus.SyncAlways(t.Context()); err != nil {
		t.Errorf("the system user cannot ask for the sync setting: %v", err)
	}
	product(t, servers.NATSURL, full, "chat")
	watcher, err := bus.Connect(t.Context(), bus.Config{URL: servers.NATSURL, Name: "operator", NkeySeed: seedOf(t, full, "operator")})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Close()
	alerted(t, watcher, "chat")
	if status, _, body := get(t, running["revocation0"].URL("revocation")+"/v1/hello", accessToken(t, full, base.Issuer.URL, "acme", "lanyard.read")); status != http.StatusOK {
		t.Errorf("token checked by the issuer's JWKS: %d %s", status, body)
	}
	// Without the owner of the exclusive service the stand-by takes over.
	if err := errors.Join(running["beta0"].Stop(), running["alpha0"].Stop()); err != nil {
		t.Error(err)
	}
	product(t, servers.NATSURL, full, "mail")
	alerted(t, watcher, "mail")
}

func serveJWKS(t *testing.T, ring *keys.Ring) string {
	t.Helper()
	b, err := ring.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	l := newListener(t)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/jwk-set+json")
		_, _ = w.Write(b)
	})}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return "http://" + l.Addr().String() + "/jwks"
}

func redisWithoutPassword(url string) string {
	return "redis://" + url[strings.Index(url, "@")+1:]
}

func copyKeys(t *testing.T, from, to string, files ...string) {
	t.Helper()
	for _, f := range files {
		b, err := os.ReadFile(filepath.Join(from, f))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(to, f)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, f), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestStartRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*service.RunOptions)
		want   string
	}{
		"no server":    {func(o *service.RunOptions) { o.Embed = nil; o.Config.Keys = madeKeys(t) }, "nats.url"},
		"no keys":      {func(o *service.RunOptions) { o.Embed = nil }, "keys"},
		"bad config":   {func(o *service.RunOptions) { o.Config.Guard.Lease = 1 }, "guard.lease"},
		"taken port":   {func(o *service.RunOptions) { o.Config.Debug.Listen = newListener(t).Addr().String() }, "listen for debug"},
		"bad TLS file": {func(o *service.RunOptions) { o.Config.TLS.Cert, o.Config.TLS.Key = "/none", "/none" }, "TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			o := service.RunOptions{Name: service.UserAll, Config: testConfig(t), Embed: embedded.Servers}
			tc.change(&o)
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			r, err := service.Start(ctx, o, alpha)
			if err == nil {
				_ = r.Stop()
				t.Fatal("started")
			}
			if !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %q lacks %q", err, tc.want)
			}
		})
	}
}

func madeKeys(t *testing.T) string {
	t.Helper()
	r, err := keys.Open(filepath.Join(t.TempDir(), "keys"), true)
	if err != nil {
		t.Fatal(err)
	}
	return r.Dir()
}
