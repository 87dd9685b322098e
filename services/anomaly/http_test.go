package anomaly

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/bus/bustest"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

// server serves the alerts to one caller.
func server(t *testing.T, c *bus.Conn, caller token.Claims) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serveAlerts(w, r.WithContext(service.WithCaller(r.Context(), caller)), c, time.Now)
	}))
	t.Cleanup(s.Close)
	return s
}

func alert(t *testing.T, tenant, id string, sev events.Severity, detector string) events.Event {
	return event(t, tenant, id, t0, events.AnomalyDetected{Alert: id, Detector: detector, Name: "n", Severity: sev, Score: 50, Identity: "bot", Explanation: "e",
		Value: "v", Baseline: "b", Count: 1, Threshold: 1, Evidence: []string{"x"}, FirstSeen: t0, LastSeen: t0, References: []string{"NHI1"},
		Proposed: events.Proposed{Response: "alert", Command: "lanyard identity show acme/bot"}})
}

var (
	acme     = token.Claims{Tenant: "acme", Scope: "lanyard.read"}
	operator = token.Claims{Tenant: service.SystemTenant, Scope: "lanyard.operator"}
)

func TestListAlerts(t *testing.T) {
	c := bustest.Start(t)
	publish(t, c, alert(t, "acme", "a1", events.SeverityHigh, "D13"), alert(t, "globex", "g1", events.SeverityHigh, "D20"), alert(t, "acme", "a2", events.SeverityMedium, "D20"))
	for _, q := range []struct {
		caller token.Claims
		query  string
		status int
		want   []string
		code   string
	}{
		{acme, "", 200, []string{"a1", "a2"}, ""},
		{acme, "?tenant=acme", 200, []string{"a1", "a2"}, ""},
		{acme, "?severity=high", 200, []string{"a1"}, ""},
		{acme, "?detector=D20", 200, []string{"a2"}, ""},
		{acme, "?since=2099-01-01T00:00:00Z", 200, nil, ""},
		{acme, "?tenant=globex", 403, nil, "wrong_tenant"},
		{acme, "?tenant=*", 403, nil, "wrong_tenant"},
		{operator, "?tenant=globex", 200, []string{"g1"}, ""},
		{operator, "?tenant=*", 403, nil, "invalid_tenant"},
		{operator, "", 200, []string{"a1", "g1", "a2"}, ""},
		{acme, "?severity=huge", 400, nil, "invalid_request"},
		{acme, "?severity=*", 400, nil, "invalid_request"},
		{acme, "?detector=*", 200, nil, ""},
		{acme, "?detector=%3E", 200, nil, ""},
		{acme, "?since=yesterday", 400, nil, "invalid_request"},
	} {
		t.Run(q.caller.Tenant+q.query, func(t *testing.T) {
			resp, err := http.Get(server(t, c, q.caller).URL + "/v1/alerts" + q.query)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != q.status {
				t.Fatalf("status %d, want %d", resp.StatusCode, q.status)
			}
			if q.status != 200 {
				var p struct{ Code string }
				if err := json.NewDecoder(resp.Body).Decode(&p); err != nil || p.Code != q.code {
					t.Errorf("code %q, want %q (%v)", p.Code, q.code, err)
				}
				return
			}
			list := []events.AnomalyDetected{}
			if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, a := range list {
				got = append(got, a.Alert)
			}
			if d := cmp.Diff(q.want, got); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestGuarded(t *testing.T) {
	s, err := New(env(nil))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/alerts", "/v1/detectors"} {
		w := httptest.NewRecorder()
		s.HTTP.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if w.Code < 400 {
			t.Errorf("%s answers %d to nobody", path, w.Code)
		}
	}
}

// follow opens the stream and returns a function that reads the next event's id and
// alert.
func follow(t *testing.T, url, lastID string) func() (string, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/v1/alerts", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "text/event-stream")
	if lastID != "" {
		r.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { resp.Body.Close() })
	if got := resp.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Fatalf("content type %q", got)
	}
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 1<<20)
	if !sc.Scan() || !strings.HasPrefix(sc.Text(), ":") {
		t.Fatalf("the stream begins with %q", sc.Text())
	}
	return func() (id, alert string) {
		for sc.Scan() {
			if v, ok := strings.CutPrefix(sc.Text(), "id: "); ok {
				id = v
			}
			v, ok := strings.CutPrefix(sc.Text(), "data: ")
			if !ok {
				continue
			}
			e, err := events.Decode([]byte(v))
			if err != nil {
				t.Fatal(err)
			}
			p, err := events.As[events.AnomalyDetected](e)
			if err != nil {
				t.Fatal(err)
			}
			return id, p.Alert
		}
		t.Fatalf("the stream ended: %v", sc.Err())
		return "", ""
	}
}

func TestStreamAlerts(t *testing.T) {
	c := bustest.Start(t)
	publish(t, c, alert(t, "acme", "old", events.SeverityHigh, "D13"))
	s := server(t, c, acme)
	next := follow(t, s.URL, "")
	for i := range 3 {
		publish(t, c, alert(t, "globex", fmt.Sprint("g", i), events.SeverityHigh, "D13"), alert(t, "acme", fmt.Sprint("a", i), events.SeverityHigh, "D13"))
	}
	var ids []string
	for i := range 3 {
		id, a := next()
		if a != fmt.Sprint("a", i) {
			t.Errorf("alert %q, want a%d", a, i)
		}
		ids = append(ids, id)
	}
	// A client that comes back misses nothing and gets nothing twice.
	again := follow(t, s.URL, ids[0])
	if id, a := again(); a != "a1" || id != ids[1] {
		t.Errorf("after %s comes %s (%s)", ids[0], a, id)
	}
}
