package guard

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// cutWorld is a guarded server over real connections.
func cutWorld(t *testing.T, h http.HandlerFunc) (*world, *httptest.Server) {
	t.Helper()
	w := freshWorld(t)
	srv := httptest.NewUnstartedServer(w.g.Middleware()(h))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return w, srv
}

func (w *world) request(t *testing.T, c *http.Client, url string, n uint64, body io.Reader) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+w.keys.token(t, handle(n), w.now))
	return c.Do(req)
}

// http1 is a client of srv that does not speak HTTP/2.
func http1(srv *httptest.Server) *http.Client {
	tr := srv.Client().Transport.(*http.Transport).Clone()
	tr.ForceAttemptHTTP2, tr.TLSClientConfig.NextProtos = false, []string{"http/1.1"}
	return &http.Client{Transport: tr}
}

// TestCutServerSentEvents: the handler never looks at its context.
func TestCutServerSentEvents(t *testing.T) {
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(proto, func(t *testing.T) {
			more := map[string]chan struct{}{"/victim": make(chan struct{}), "/sibling": make(chan struct{}, 1)}
			w, srv := cutWorld(t, func(rw http.ResponseWriter, r *http.Request) {
				rw.Header().Set("Content-Type", "text/event-stream")
				f := rw.(http.Flusher)
				for i := 0; ; i++ {
					if _, err := fmt.Fprintf(rw, "data: %d\n\n", i); err != nil {
						return
					}
					f.Flush()
					if _, ok := <-more[r.URL.Path]; !ok {
						return
					}
				}
			})
			client := srv.Client()
			if proto == "HTTP/1.1" {
				client = http1(srv)
			}
			read := func(path string, n uint64) *bufio.Reader {
				res, err := w.request(t, client, srv.URL+path, n, nil)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = res.Body.Close() })
				if res.Proto != proto || res.StatusCode != http.StatusOK {
					t.Fatalf("over %s: %d", res.Proto, res.StatusCode)
				}
				return bufio.NewReader(res.Body)
			}
			next := func(r *bufio.Reader) error {
				_, err := r.ReadString('\n')
				if err == nil {
					_, err = r.ReadString('\n')
				}
				return err
			}
			victim, sibling := read("/victim", 1), read("/sibling", 2)
			if err := errors.Join(next(victim), next(sibling)); err != nil {
				t.Fatal(err)
			}
			w.kill(1, events.ModeRevoke)
			if err := next(victim); err == nil || err == io.EOF {
				t.Errorf("the revoked stream ends with %v, as if it were complete", err)
			}
			more["/sibling"] <- struct{}{}
			if err := next(sibling); err != nil {
				t.Errorf("the sibling's stream: %v", err)
			}
			close(more["/victim"])
			close(more["/sibling"])
		})
	}
}

func TestCutLongPoll(t *testing.T) {
	begun := make(chan struct{}, 2)
	release := make(chan struct{})
	w, srv := cutWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		rw.Header().Set("X-Secret", "half an answer")
		begun <- struct{}{}
		select {
		case <-r.Context().Done():
			if _, ok := errors.AsType[*Denial](context.Cause(r.Context())); !ok {
				t.Errorf("cause %v", context.Cause(r.Context()))
			}
			if _, err := io.WriteString(rw, "news"); err == nil {
				t.Error("a handler that is cut can write")
			}
		case <-release:
			_, _ = io.WriteString(rw, "news")
		}
	})
	type answer struct {
		res *http.Response
		err error
	}
	poll := func(n uint64) <-chan answer {
		out := make(chan answer, 1)
		go func() {
			res, err := w.request(t, http1(srv), srv.URL, n, nil)
			out <- answer{res, err}
		}()
		<-begun
		return out
	}
	victim, sibling := poll(1), poll(2)
	w.kill(1, events.ModeRevoke)
	a := <-victim
	if a.err != nil {
		t.Fatal(a.err)
	}
	defer a.res.Body.Close()
	if a.res.StatusCode != http.StatusUnauthorized || a.res.Header.Get("X-Secret") != "" || !a.res.Close ||
		!strings.Contains(a.res.Header.Get("WWW-Authenticate"), "invalid_token") {
		t.Errorf("the revoked poll: %d %v", a.res.StatusCode, a.res.Header)
	}
	close(release)
	b := <-sibling
	if b.err != nil {
		t.Fatal(b.err)
	}
	defer b.res.Body.Close()
	if body, err := io.ReadAll(b.res.Body); err != nil || string(body) != "news" {
		t.Errorf("the sibling's poll: %d %q %v", b.res.StatusCode, body, err)
	}
}

// TestCutDeafHandler: it looks at nothing, so its connection is closed without an answer.
func TestCutDeafHandler(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	w, srv := cutWorld(t, func(http.ResponseWriter, *http.Request) {
		close(begun)
		<-release
	})
	defer close(release)
	failed := make(chan error, 1)
	go func() {
		res, err := w.request(t, http1(srv), srv.URL, 1, nil)
		if err == nil {
			_ = res.Body.Close()
		}
		failed <- err
	}()
	<-begun
	w.kill(1, events.ModeRevoke)
	if err := <-failed; err == nil {
		t.Error("it got an answer")
	}
}

// TestCutUpload: the handler waits for a body that never ends.
func TestCutUpload(t *testing.T) {
	begun := make(chan struct{})
	ended := make(chan error, 1)
	w, srv := cutWorld(t, func(_ http.ResponseWriter, r *http.Request) {
		close(begun)
		_, err := io.Copy(io.Discard, r.Body)
		ended <- err
	})
	body, feed := io.Pipe()
	defer feed.Close()
	go func() {
		if res, err := w.request(t, http1(srv), srv.URL, 1, body); err == nil {
			_ = res.Body.Close()
		}
	}()
	<-begun
	w.kill(1, events.ModeRevoke)
	if err := <-ended; err == nil {
		t.Error("the upload ended well")
	}
}

// TestCutHijacked: a protocol of its own on the connection, as WebSocket is, whose
// handler has returned.
func TestCutHijacked(t *testing.T) {
	w, srv := cutWorld(t, func(rw http.ResponseWriter, _ *http.Request) {
		conn, buffered, err := rw.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		_, _ = buffered.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\n")
		_ = buffered.Flush()
		go func() { // echo what comes
			defer conn.Close()
			_, _ = io.Copy(conn, buffered)
		}()
	})
	dial := func(n uint64) io.ReadWriteCloser {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header = http.Header{"Authorization": {"Bearer " + w.keys.token(t, handle(n), w.now)}, "Connection": {"Upgrade"}, "Upgrade": {"echo"}}
		res, err := http1(srv).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("status %d", res.StatusCode)
		}
		rwc := res.Body.(io.ReadWriteCloser)
		t.Cleanup(func() { _ = rwc.Close() })
		return rwc
	}
	echo := func(c io.ReadWriteCloser) error {
		if _, err := io.WriteString(c, "ping"); err != nil {
			return err
		}
		b := make([]byte, 4)
		_, err := io.ReadFull(c, b)
		if err == nil && string(b) != "ping" {
			err = fmt.Errorf("echo %q", b)
		}
		return err
	}
	victim, sibling := dial(1), dial(2)
	if err := errors.Join(echo(victim), echo(sibling)); err != nil {
		t.Fatal(err)
	}
	w.kill(1, events.ModeRevoke)
	if _, err := victim.Read(make([]byte, 1)); err == nil {
		t.Error("the revoked connection is open")
	}
	if err := echo(sibling); err != nil {
		t.Errorf("the sibling's connection: %v", err)
	}
	_ = sibling.Close()
	eventually(t, "nothing is entered any more", func() bool {
		_, open := w.g.watches.next()
		return !open
	})
}

func TestCutIsNoRefusal(t *testing.T) {
	w, srv := cutWorld(t, func(rw http.ResponseWriter, r *http.Request) {
		http.ServeContent(rw, r, "x", time.Time{}, bytes.NewReader([]byte("whole")))
	})
	res, err := w.request(t, srv.Client(), srv.URL, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "whole" || res.StatusCode != http.StatusOK {
		t.Errorf("%d %q %v", res.StatusCode, b, err)
	}
}

func TestTieAndConn(t *testing.T) {
	w := freshWorld(t)
	closed := make(chan uint64, 4)
	open := func(n uint64) func() bool {
		return w.g.Tie(decision(w.now, time.Hour, n), CloserFunc(func() error { closed <- n; return nil }))
	}
	victim, sibling := open(1), open(2)
	a, far := net.Pipe()
	defer far.Close()
	conn := w.g.Conn(Decision{Claims: token.Claims{Expires: w.now.Unix() + 60, Lineage: decision(w.now, 0, 1).Claims.Lineage}}, a)
	w.kill(1, events.ModeRevoke)
	if got := <-closed; got != 1 {
		t.Errorf("closed %d", got)
	}
	if victim() {
		t.Error("untied what was closed")
	}
	if _, err := far.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is open")
	}
	if err := conn.Close(); err != nil {
		t.Errorf("closed again: %v", err)
	}
	if !sibling() {
		t.Error("the sibling was closed")
	}
	w.kill(2, events.ModeRevoke)
	if len(closed) != 0 {
		t.Error("what was untied was closed")
	}
}
