package publish

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// direct calls a handler without a network, so that time can be virtual.
type direct struct{ h http.HandlerFunc }

func (d direct) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	rec := httptest.NewRecorder()
	d.h(rec, r)
	if rec.Code == 0 || rec.Header().Get("Broken") != "" {
		return nil, errors.New("connection reset")
	}
	return rec.Result(), nil
}

func publisher(t *testing.T, h http.HandlerFunc) *Publisher {
	t.Helper()
	p, err := New(Config{URL: "https://intake.example.com/", HTTPClient: &http.Client{Transport: direct{h}},
		Token: func(context.Context) (string, error) { return "tok", nil }})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func list(t *testing.T, n, size int) []events.Event {
	t.Helper()
	out := make([]events.Event, n)
	for i := range out {
		var err error
		out[i], err = events.New(events.Origin{Source: "/acme/shop", Tenant: "acme", Time: time.Unix(1_790_000_000, 0), ID: fmt.Sprint("e", i)},
			events.OwnerDeparted{Owner: "jane", Reason: strings.Repeat("x", size)})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// items reads a request as intake would.
func items(t *testing.T, r *http.Request) []events.Event {
	t.Helper()
	if r.Method != http.MethodPost || r.URL.String() != "https://intake.example.com/v1/events" || r.Header.Get("Content-Type") != batchType ||
		r.Header.Get("Authorization") != "Bearer tok" {
		t.Errorf("request is %s %s with %v", r.Method, r.URL, r.Header)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	if len(body) > maxBytes {
		t.Errorf("body has %d bytes", len(body))
	}
	var raw []json.RawMessage
	if err := json.NewDecoder(bytes.NewReader(body)).Decode(&raw); err != nil {
		t.Fatal(err)
	}
	var out []events.Event
	for _, text := range raw {
		e, err := events.Receive(text, "acme")
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

func accept(w http.ResponseWriter, n int) {
	w.WriteHeader(http.StatusAccepted)
	fmt.Fprintf(w, `{"accepted":%d,"refused":[]}`, n)
}

func TestPublishInBatches(t *testing.T) {
	for _, tt := range []struct{ n, size, requests int }{{0, 1, 0}, {1, 1, 1}, {500, 1, 1}, {1201, 1, 3}, {400, 900, 1}} {
		requests, got := 0, 0
		p := publisher(t, func(w http.ResponseWriter, r *http.Request) {
			requests++
			es := items(t, r)
			for _, e := range es {
				if e.ID() != fmt.Sprint("e", got) {
					t.Errorf("event %d has id %s", got, e.ID())
				}
				got++
			}
			accept(w, len(es))
		})
		if err := p.Publish(t.Context(), list(t, tt.n, tt.size)...); err != nil {
			t.Error(err)
		}
		if requests != tt.requests || got != tt.n {
			t.Errorf("%d events came in %d requests, want %d in %d", got, requests, tt.n, tt.requests)
		}
	}
	texts := make([][]byte, 100)
	for i := range texts {
		texts[i] = make([]byte, events.MaxSize)
	}
	if n, body := batch(texts); n != 63 || len(body) > maxBytes {
		t.Errorf("a batch holds %d large events in %d bytes", n, len(body))
	}
}

// TestRetries answers wrongly several times and counts what that costs.
func TestRetries(t *testing.T) {
	problem := func(status int, code string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.WriteHeader(status)
			fmt.Fprintf(w, `{"code":%q,"detail":"d"}`, code)
		}
	}
	busy := func(w http.ResponseWriter) {
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	broken := func(w http.ResponseWriter) { w.Header().Set("Broken", "1") }
	garbage := func(w http.ResponseWriter) { w.WriteHeader(http.StatusAccepted); fmt.Fprint(w, "<html>") }
	tests := []struct {
		name     string
		answers  []func(http.ResponseWriter)
		requests int
		waited   time.Duration
		status   int // of the error; 0: none
	}{
		{"server error", []func(http.ResponseWriter){problem(500, "internal"), problem(502, "")}, 3, 300 * time.Millisecond, 0},
		{"busy", []func(http.ResponseWriter){problem(429, "busy"), busy}, 3, 7100 * time.Millisecond, 0},
		{"broken connection", []func(http.ResponseWriter){broken}, 2, 100 * time.Millisecond, 0},
		{"unreadable answer", []func(http.ResponseWriter){garbage}, 2, 100 * time.Millisecond, 0},
		{"token ended on its way", []func(http.ResponseWriter){problem(401, "invalid_token")}, 2, 0, 0},
		{"no valid token", []func(http.ResponseWriter){problem(401, "invalid_token"), problem(401, "invalid_token")}, 2, 0, 401},
		{"forbidden", []func(http.ResponseWriter){problem(403, "insufficient_scope")}, 1, 0, 403},
		{"redirect", []func(http.ResponseWriter){problem(302, "")}, 1, 0, 302},
		{"down", []func(http.ResponseWriter){busy, busy, busy, busy, busy, busy, busy, busy}, 8, 49 * time.Second, 503},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				requests := 0
				p := publisher(t, func(w http.ResponseWriter, r *http.Request) {
					if es := items(t, r); len(es) != 2 || es[0].ID() != "e0" {
						t.Errorf("request %d holds %v", requests, es)
					}
					if requests++; requests <= len(tt.answers) {
						tt.answers[requests-1](w)
						return
					}
					accept(w, 2)
				})
				start := time.Now()
				err := p.Publish(t.Context(), list(t, 2, 1)...)
				var response *ResponseError
				switch {
				case tt.status == 0 && err != nil:
					t.Error(err)
				case tt.status != 0 && (!errors.As(err, &response) || response.Status != tt.status):
					t.Errorf("error is %v, want status %d", err, tt.status)
				}
				if waited := time.Since(start); requests != tt.requests || waited < tt.waited || waited > tt.waited+4*time.Second {
					t.Errorf("%d requests in %s, want %d in %s", requests, waited, tt.requests, tt.waited)
				}
			})
		})
	}
}

func TestRefused(t *testing.T) {
	n := 0
	p := publisher(t, func(w http.ResponseWriter, r *http.Request) {
		n++
		w.WriteHeader(http.StatusAccepted)
		fmt.Fprint(w, `{"accepted":1,"refused":[{"index":1,"id":"x","code":"schema_violation","reason":"why"}]}`)
	})
	err := p.Publish(t.Context(), list(t, 502, 1)...)
	var refused *RefusedError
	if !errors.As(err, &refused) {
		t.Fatalf("error is %v", err)
	}
	want := []Refusal{{1, "e1", "schema_violation", "why"}, {501, "e501", "schema_violation", "why"}}
	if fmt.Sprint(refused.Refused) != fmt.Sprint(want) || n != 2 {
		t.Errorf("refused %v in %d requests, want %v in 2", refused.Refused, n, want)
	}
}

func TestPublishEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := publisher(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		err := p.Publish(ctx, list(t, 1, 1)...)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("ended after %s with %v", time.Since(start), err)
		}
	})
	p := publisher(t, func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") })
	bad := list(t, 1, 1)
	bad[0].SetExtension(events.ExtTenant, "A B")
	if err := p.Publish(t.Context(), bad...); events.Code(err) != "invalid_tenant" {
		t.Errorf("error is %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	token := func(context.Context) (string, error) { return "", nil }
	for _, cfg := range []Config{
		{Token: token}, {URL: "intake", Token: token}, {URL: "http://intake.example.com", Token: token},
		{URL: "https://user:secret@intake.example.com", Token: token}, {URL: "https://intake.example.com?x=1", Token: token},
		{URL: "https://intake.example.com"}, {URL: "ftp://127.0.0.1", Token: token}, {URL: "http://[::1", Token: token},
	} {
		if _, err := New(cfg); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: error is %v", cfg.URL, err)
		}
	}
	for _, u := range []string{"http://127.0.0.1:8080", "http://localhost", "http://[::1]:1", "https://intake.example.com/base/"} {
		if _, err := New(Config{URL: u, Token: token}); err != nil {
			t.Errorf("%q: %v", u, err)
		}
	}
}
