package anomaly

import (
	"encoding/json"
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
	"go.uber.org/zap"
)

// ask calls the desk as caller and returns the status and the body.
func ask(t *testing.T, c *bus.Conn, caller token.Claims, method, path, body string) (int, string) {
	t.Helper()
	d := &desk{log: c, now: time.Now, zap: zap.NewNop()}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/alerts", func(w http.ResponseWriter, r *http.Request) { serveAlerts(w, r, c, time.Now) })
	mux.HandleFunc("GET /v1/alerts/{id}", d.show)
	mux.HandleFunc("POST /v1/alerts/{id}/acknowledge", d.acknowledge)
	mux.HandleFunc("POST /v1/alerts/{id}/expect", d.expect)
	mux.HandleFunc("GET /v1/expectations", d.expectations)
	w := httptest.NewRecorder()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	mux.ServeHTTP(w, r.WithContext(service.WithCaller(r.Context(), caller)))
	return w.Code, w.Body.String()
}

func analyst(subject string) token.Claims {
	return token.Claims{Tenant: "acme", Subject: subject, Scope: "lanyard.read lanyard.triage"}
}

func TestTriageRefusals(t *testing.T) {
	c := bustest.Start(t)
	publish(t, c, alert(t, "acme", "a1", events.SeverityHigh, "D13"), alert(t, "globex", "g1", events.SeverityHigh, "D13"))
	ann := analyst("ann")
	agent := ann
	agent.Actor = &token.Actor{Subject: "helper"}
	for _, q := range []struct {
		caller       token.Claims
		path, body   string
		status       int
		code, method string
	}{
		{ann, "/v1/alerts/nope", "", 404, "unknown_alert", "GET"},
		{ann, "/v1/alerts/g1", "", 404, "unknown_alert", "GET"},
		{ann, "/v1/alerts/g1?tenant=globex", "", 403, "wrong_tenant", "GET"},
		{ann, "/v1/alerts?format=xml", "", 400, "invalid_request", "GET"},
		{ann, "/v1/alerts/g1/acknowledge", "", 404, "unknown_alert", "POST"},
		{ann, "/v1/alerts/a1/acknowledge", `{"colour":"red"}`, 400, "malformed_json", "POST"},
		{ann, "/v1/alerts/a1/acknowledge", `{"note":"` + strings.Repeat("x", 1001) + `"}`, 422, "invalid_note", "POST"},
		{ann, "/v1/alerts/a1/expect", `{"for_seconds":60}`, 422, "invalid_reason", "POST"},
		{ann, "/v1/alerts/a1/expect", `{"for_seconds":-1,"reason":"r"}`, 422, "invalid_duration", "POST"},
		{ann, "/v1/alerts/a1/expect", `{"for_seconds":7776001,"reason":"r"}`, 422, "invalid_duration", "POST"},
		{analyst("bot"), "/v1/alerts/a1/expect", `{"for_seconds":60,"reason":"r"}`, 403, "own_alert", "POST"},
		{analyst("bot"), "/v1/alerts/a1/acknowledge", "", 403, "own_alert", "POST"},
		{agent, "/v1/alerts/a1/expect", `{"for_seconds":60,"reason":"r"}`, 403, "delegated", "POST"},
		{ann, "/v1/alerts/a1/acknowledge", `{"note":"` + strings.Repeat("x", maxBody) + `"}`, 413, "too_large", "POST"},
	} {
		status, body := ask(t, c, q.caller, q.method, q.path, q.body)
		if status != q.status || !strings.Contains(body, `"code":"`+q.code+`"`) {
			t.Errorf("%s %s: %d %s", q.method, q.path, status, body)
		}
	}
}

func TestAcknowledgeAndShow(t *testing.T) {
	c := bustest.Start(t)
	publish(t, c, alert(t, "acme", "a1", events.SeverityHigh, "D13"), alert(t, "acme", "a2", events.SeverityHigh, "D13"))
	if status, body := ask(t, c, analyst("ann"), "POST", "/v1/alerts/a1/acknowledge", `{"note":"mine"}`); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	var list []AlertShown
	_, body := ask(t, c, analyst("bob"), "GET", "/v1/alerts", "")
	if err := json.Unmarshal([]byte(body), &list); err != nil || len(list) != 2 {
		t.Fatalf("%v %s", err, body)
	}
	if s := list[0].State; s == nil || s.Acknowledged == nil || s.Acknowledged.By != "acme/ann" || s.Acknowledged.Note != "mine" {
		t.Errorf("%s", body)
	}
	if list[1].State != nil || list[1].Tenant != "acme" || list[1].RaisedAt.IsZero() {
		t.Errorf("%s", body)
	}
	var findings []struct {
		StatusID int `json:"status_id"`
		ClassUID int `json:"class_uid"`
		TypeUID  int `json:"type_uid"`
	}
	_, body = ask(t, c, analyst("bob"), "GET", "/v1/alerts?format=ocsf", "")
	if err := json.Unmarshal([]byte(body), &findings); err != nil || len(findings) != 2 || findings[0].StatusID != 2 || findings[1].StatusID != 1 || findings[1].TypeUID != 200401 {
		t.Errorf("%v %s", err, body)
	}
	_, body = ask(t, c, analyst("bob"), "GET", "/v1/alerts/a1?format=ocsf", "")
	if !strings.Contains(body, `"class_uid":2004`) || !strings.Contains(body, "looked after by acme/ann: mine") {
		t.Error(body)
	}
}

// TestExpectSuppresses: a mark given over HTTP suppresses what comes after it, in this
// process and in the one that takes over, until it is ended.
func TestExpectSuppresses(t *testing.T) {
	c := bustest.Start(t)
	stop := start(t, c)
	hour := 0
	signin := func(who string) { // each in an hour of its own, so each is an incident of its own
		hour++
		publish(t, c, called(t, who+time.Duration(hour).String(), time.Duration(hour)*time.Hour, events.Activity{Identity: who, Action: "signin:ConsoleLogin", Interactive: true}))
	}
	signin("bot")
	first := await(t, c, "D16 bot")[0]
	mark := func(seconds string) {
		if status, body := ask(t, c, analyst("ann"), "POST", "/v1/alerts/"+first.Alert+"/expect", `{"reason":"break-glass drill","for_seconds":`+seconds+`}`); status != 200 {
			t.Fatalf("%d %s", status, body)
		}
	}
	suppressed := func(n int) {
		t.Helper()
		eventually(t, func() string {
			_, body := ask(t, c, analyst("ann"), "GET", "/v1/expectations", "")
			var got struct{ Expectations []Expectation }
			if err := json.Unmarshal([]byte(body), &got); err != nil {
				t.Fatal(err)
			}
			if len(got.Expectations) != 1 || got.Expectations[0].Count != n {
				return body
			}
			return cmp.Diff("acme/ann", got.Expectations[0].By)
		})
	}
	mark("3600000")
	suppressed(0)
	// The mark travels on the log, the sign-in on another stream: it is seen when a
	// sign-in no longer raises anything. Signing in for others shows that time passes.
	eventually(t, func() string {
		signin("bot")
		_, body := ask(t, c, analyst("ann"), "GET", "/v1/expectations", "")
		if strings.Contains(body, `"suppressed_count":0`) {
			return body
		}
		return ""
	})
	stop()
	stop = start(t, c)
	defer stop()
	before := len(stored(t, c))
	signin("bot")
	signin("sentinel")
	eventually(t, func() string { return cmp.Diff(before+1, len(stored(t, c))) })
	mark("0")
	eventually(t, func() string {
		signin("bot")
		for _, a := range stored(t, c)[before+1:] {
			if a.Identity == "bot" {
				return ""
			}
		}
		return "nothing is raised after the mark was ended"
	})
}

// eventually asks again until there is no problem, within a deadline; nothing tells it
// when the other side of the API has followed the log.
func eventually(t *testing.T, problem func() string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		p := problem()
		if p == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(p)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
