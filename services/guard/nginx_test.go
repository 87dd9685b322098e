package guard

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/downstreamtest"
)

// freeAddress is host:port of loopback that nobody listens at now.
func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// plain is a server that knows nothing of tokens and tells what it was sent.
func plain(t testing.TB) *httptest.Server {
	t.Helper()
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s auth=%q", r.Method, r.URL.Path, r.Header.Get(HeaderIdentity), r.Header.Get("Authorization"))
	}))
	t.Cleanup(app.Close)
	return app
}

// shipped is a configuration of deploy/ with the addresses of this test in place of its own.
func shipped(t testing.TB, path string, addresses ...string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "deploy", path))
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer(addresses...).Replace(string(b))
}

func host(srv *httptest.Server) string { return strings.TrimPrefix(srv.URL, "http://") }

// start runs a proxy until the test ends.
func start(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s: %s", cmd.Path, out.String())
		}
	})
}

// get asks a proxy, as a caller that also tries to pass for somebody else.
func get(t testing.TB, method, url, raw string) (status int, body string, header http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	if raw != "" {
		req.Header.Set("Authorization", "Bearer "+raw)
	}
	req.Header.Set(HeaderIdentity, "somebody-else")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error(), nil
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}

// proxied checks what every shipped configuration must do: allow, refuse for want of a
// token and of a scope, refuse after one revoke without reload while siblings go on,
// and close when the guard is down.
func proxied(t *testing.T, s *system, srv *httptest.Server, base string) {
	t.Helper()
	raw, sibling := s.token(lineage.Handle{1}), s.token(lineage.Handle{2})
	eventually(t, "the proxy lets a good token through", func() bool {
		status, _, _ := get(t, http.MethodGet, base+"/orders/7", raw)
		return status == http.StatusOK
	})
	if _, body, _ := get(t, http.MethodGet, base+"/orders/7", raw); body != `GET /orders/7 agent-1 auth=""` {
		t.Errorf("the application was sent %s", body)
	}
	if status, _, h := get(t, http.MethodGet, base+"/orders/7", ""); status != 401 || h.Get("WWW-Authenticate") == "" {
		t.Errorf("without a token: %d %v", status, h)
	}
	if status, _, _ := get(t, http.MethodPost, base+"/x/..//%6frders/7", raw); status != 403 {
		t.Errorf("another spelling of the path: %d", status)
	}
	if status, _, h := get(t, http.MethodPost, base+"/orders/7", raw); status != 403 || !strings.Contains(h.Get("WWW-Authenticate"), "insufficient_scope") {
		t.Errorf("without the scope to write: %d %v", status, h)
	}
	s.revoke(lineage.Handle{1}, "rev-1")
	eventually(t, "the proxy refuses after the revoke", func() bool {
		status, _, h := get(t, http.MethodGet, base+"/orders/7", raw)
		return status == 401 && strings.Contains(h.Get("WWW-Authenticate"), "invalid_token")
	})
	if status, body, _ := get(t, http.MethodGet, base+"/orders/7", sibling); status != 200 {
		t.Errorf("the sibling: %d %s", status, body)
	}
	srv.CloseClientConnections()
	srv.Close()
	if status, _, _ := get(t, http.MethodGet, base+"/orders/7", sibling); status < 500 {
		t.Errorf("with the guard down: %d", status)
	}
}

func TestNginx(t *testing.T) {
	binary := downstreamtest.Find(t, "nginx", "nginx")
	s := newSystem(t)
	s.beat()
	srv, app, listen := s.open(), plain(t), freeAddress(t)
	dir := t.TempDir()
	site := shipped(t, "nginx/lanyard.conf", "127.0.0.1:8300", host(srv), "127.0.0.1:8080", listen, "127.0.0.1:9000", host(app))
	main := `daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {}
http {
	access_log off;
	client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
	include lanyard.conf;
}
`
	for name, text := range map[string]string{"nginx.conf": main, "lanyard.conf": site} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	start(t, exec.Command(binary, "-p", dir, "-c", filepath.Join(dir, "nginx.conf"), "-e", "stderr"))
	proxied(t, s, srv, "http://"+listen)
	// What callers see then is the guard's own answer: come back later.
	if status, _, h := get(t, http.MethodGet, "http://"+listen+"/orders/7", "x"); status != 503 || h.Get("Retry-After") == "" {
		t.Errorf("with the guard down: %d %v", status, h)
	}
}
