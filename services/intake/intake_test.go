package intake

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	ce "github.com/cloudevents/sdk-go/v2/event"
	cehttp "github.com/cloudevents/sdk-go/v2/protocol/http"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/service"

	"github.com/cloudevents/sdk-go/v2/binding"
)

// departed is a valid event as a product without any library would write it.
func departed(id string) string {
	return fmt.Sprintf(`{"specversion":"1.0","id":%q,"source":"/acme/hr","type":"dev.lanyard.owner.departed.v1","time":"2026-01-02T03:04:05Z","data":{"owner":"jane"}}`, id)
}

var structured = map[string]string{"Content-Type": events.ContentType}

func TestEveryModeIsAccepted(t *testing.T) {
	w := newWorld(t)
	full, err := events.New(events.Origin{Source: "/acme/shop", Tenant: "acme", Time: time.Now(), ID: "sdk-structured"},
		events.FeatureDisabled{Feature: "assistant", Reason: "incident", By: "jane"})
	if err != nil {
		t.Fatal(err)
	}
	bare := ce.New()
	bare.SetID("sdk-binary")
	bare.SetSource("/acme/shop")
	bare.SetType(events.TypeOwnerDeparted)
	bare.SetTime(time.Now())
	if err := bare.SetData(ce.ApplicationJSON, map[string]string{"owner": "joe"}); err != nil {
		t.Fatal(err)
	}
	sdk := func(e ce.Event, f func(*http.Request) error) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, w.url+"/v1/events", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer "+w.acme())
		if err := f(r); err != nil {
			t.Fatal(err)
		}
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != http.StatusAccepted {
			t.Errorf("%s: status is %d", e.ID(), res.StatusCode)
		}
	}
	for _, e := range []ce.Event{full, bare} {
		m := binding.ToMessage(&e)
		structuredMode := e.ID() == "sdk-structured"
		sdk(e, func(r *http.Request) error {
			ctx := binding.WithForceBinary(t.Context())
			if structuredMode {
				ctx = binding.WithForceStructured(t.Context())
			}
			return cehttp.WriteRequest(ctx, m, r)
		})
	}
	sdk(bare, func(r *http.Request) error {
		batch := []ce.Event{bare.Clone(), bare.Clone()}
		batch[0].SetID("sdk-batch-1")
		batch[1].SetID("sdk-batch-2")
		made, err := cehttp.NewHTTPRequestFromEvents(t.Context(), w.url, batch)
		if err != nil {
			return err
		}
		r.Body, r.ContentLength = made.Body, made.ContentLength
		r.Header.Set("Content-Type", made.Header.Get("Content-Type"))
		return nil
	})
	if r := w.post("/v1/events", w.acme(), structured, []byte(departed("bare"))).result(t); r.Accepted != 1 || len(r.Refused) != 0 {
		t.Errorf("result is %+v", r)
	}
	var ids []string
	for _, e := range w.stored() {
		ids = append(ids, e.ID())
		if events.Tenant(e) != "acme" || e.Subject() == "" {
			t.Errorf("stored %s", e)
		}
		if err := events.Validate(e); err != nil {
			t.Errorf("stored what is not valid: %v", err)
		}
	}
	if want := "[sdk-structured sdk-binary sdk-batch-1 sdk-batch-2 bare]"; fmt.Sprint(ids) != want {
		t.Errorf("stored %v, want %s", ids, want)
	}
}

func TestRepeatsAreStoredOnce(t *testing.T) {
	w := newWorld(t)
	for range 3 {
		if r := w.post("/v1/events", w.acme(), structured, []byte(departed("again"))).result(t); r.Accepted != 1 {
			t.Errorf("result is %+v", r)
		}
	}
	batch := []byte("[" + departed("again") + "," + departed("twice") + "," + departed("twice") + "]")
	if r := w.post("/v1/events", w.acme(), map[string]string{"Content-Type": "application/cloudevents-batch+json"}, batch).result(t); r.Accepted != 3 {
		t.Errorf("result is %+v", r)
	}
	if n := len(w.stored()); n != 2 {
		t.Errorf("%d events are stored, want 2", n)
	}
	// Another tenant's event of the same source and id is another event.
	if r := w.post("/v1/events", w.token("globex", "x", service.ScopeIntake), structured, []byte(departed("again"))).result(t); r.Accepted != 1 {
		t.Errorf("result is %+v", r)
	}
	if n := len(w.stored()); n != 3 {
		t.Errorf("%d events are stored, want 3", n)
	}
}

// with damages the departed event.
func with(old, replacement string) []byte {
	return []byte(strings.Replace(departed("1"), old, replacement, 1))
}

func binary(change map[string]string) map[string]string {
	h := map[string]string{"Content-Type": "application/json", "ce-specversion": "1.0", "ce-id": "1", "ce-source": "/acme/hr",
		"ce-type": events.TypeOwnerDeparted, "ce-time": "2026-01-02T03:04:05Z"}
	for k, v := range change {
		if h[k] = v; v == "" {
			delete(h, k)
		}
	}
	return h
}

func beside(key, value string) map[string]string {
	return map[string]string{"Content-Type": events.ContentType, key: value}
}

// TestRefusals sends one wrong request after the other. Each is answered with its
// name and leaves one dead letter with that name, and nothing else.
func TestRefusals(t *testing.T) {
	w := newWorld(t, func(c *config.Config) { c.Intake.MaxBody = 200_000 })
	future := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	jane := []byte(`{"owner":"jane"}`)
	tests := []struct {
		name   string
		header map[string]string
		body   []byte
		status int
		code   string
	}{
		{"malformed JSON", structured, []byte(`{"specversion":`), 400, "malformed_json"},
		{"trailing text", structured, []byte(departed("1") + "{}"), 400, "malformed_json"},
		{"invalid UTF-8", structured, with("jane", "ja\xffne"), 400, "malformed_json"},
		{"empty body", structured, nil, 400, "malformed_json"},
		{"doubled member", structured, with(`"data"`, `"tenant":"acme","tenant":"globex","data"`), 400, "duplicate_member"},
		{"case variant", structured, with(`"data"`, `"TenantId":"globex","data"`), 400, "duplicate_member"},
		{"no content type", map[string]string{}, []byte(departed("1")), 415, "wrong_content_type"},
		{"plain JSON", map[string]string{"Content-Type": "application/json"}, []byte(departed("1")), 415, "wrong_content_type"},
		{"XML format", map[string]string{"Content-Type": "application/cloudevents+xml"}, []byte(departed("1")), 415, "wrong_content_type"},
		{"Latin charset", map[string]string{"Content-Type": events.ContentType + "; charset=latin1"}, []byte(departed("1")), 415, "wrong_content_type"},
		{"binary XML", binary(map[string]string{"Content-Type": "text/xml"}), jane, 415, "wrong_content_type"},
		{"two content types", map[string]string{"Content-Type": events.ContentType + "\napplication/json"}, []byte(departed("1")), 400, "doubled_header"},
		{"unknown type", structured, with("owner.departed", "owner.returned"), 422, "unknown_type"},
		{"schema violation", structured, with(`{"owner":"jane"}`, `{"owner":7}`), 422, "schema_violation"},
		{"unknown member of data", structured, with(`{"owner":"jane"}`, `{"owner":"jane","colour":"red"}`), 422, "schema_violation"},
		{"missing source", structured, with(`"source":"/acme/hr",`, ``), 400, "invalid_envelope"},
		{"reserved source", structured, with(`/acme/hr`, `/lanyard/issuance`), 400, "invalid_envelope"},
		{"specversion 0.3", structured, with(`"1.0"`, `"0.3"`), 400, "invalid_envelope"},
		{"event too large", structured, with("jane", strings.Repeat("x", 70_000)), 413, "too_large"},
		{"body too large", structured, with("jane", strings.Repeat("x", 250_000)), 413, "too_large"},
		{"wrong tenant", structured, with(`"data"`, `"tenant":"globex","data"`), 403, "wrong_tenant"},
		{"wrong tenant in a header", binary(map[string]string{"ce-tenant": "globex"}), jane, 403, "wrong_tenant"},
		{"bad tenant", structured, with(`"data"`, `"tenant":7,"data"`), 400, "invalid_envelope"},
		{"clock skew", structured, with("2026-01-02T03:04:05Z", future), 422, "clock_skew"},
		{"service's type", structured, with(`dev.lanyard.owner.departed.v1`, `dev.lanyard.feature.renamed.v1`), 422, "unknown_type"},
		{"two ids", binary(map[string]string{"ce-id": "1\n2"}), jane, 400, "doubled_header"},
		{"two equal tenants", binary(map[string]string{"ce-tenant": "acme\nacme"}), jane, 400, "doubled_header"},
		{"two spellings", binary(map[string]string{"CE-ID": "2"}), jane, 400, "doubled_header"},
		{"content type as attribute", binary(map[string]string{"ce-datacontenttype": "application/json"}), jane, 400, "doubled_header"},
		{"data as attribute", binary(map[string]string{"ce-data": "{}"}), jane, 400, "doubled_header"},
		{"broken escape", binary(map[string]string{"ce-subject": "ja%ne"}), jane, 400, "invalid_envelope"},
		{"escaped line break", binary(map[string]string{"ce-subject": "ja%0Ane"}), jane, 400, "invalid_envelope"},
		{"attribute with a dash", binary(map[string]string{"ce-trace-id": "1"}), jane, 400, "invalid_envelope"},
		{"no specversion", binary(map[string]string{"ce-specversion": ""}), jane, 400, "invalid_envelope"},
		{"binary body that adds members", binary(nil), []byte(`{"owner":"jane"},"tenant":"globex"`), 400, "malformed_json"},
		{"binary body with doubled members", binary(nil), []byte(`{"owner":"jane","owner":"joe"}`), 400, "duplicate_member"},
		{"binary body too large", binary(nil), []byte(`{"owner":"` + strings.Repeat("x", 70_000) + `"}`), 413, "too_large"},
		{"contradicting id", beside("ce-id", "2"), []byte(departed("1")), 400, "doubled_header"},
		{"contradicting tenant", beside("ce-tenant", "globex"), []byte(departed("1")), 400, "doubled_header"},
		{"contradicting extension", beside("ce-causationid", "9"), []byte(departed("1")), 400, "doubled_header"},
		{"headers beside a batch", map[string]string{"Content-Type": "application/cloudevents-batch+json", "ce-id": "1"}, []byte("[]"), 400, "doubled_header"},
		{"batch cut off", map[string]string{"Content-Type": "application/cloudevents-batch+json"}, []byte("[" + departed("1")), 400, "malformed_json"},
		{"batch is an object", map[string]string{"Content-Type": "application/cloudevents-batch+json"}, []byte(departed("1")), 400, "malformed_json"},
		{"batch and more", map[string]string{"Content-Type": "application/cloudevents-batch+json"}, []byte("[] []"), 400, "malformed_json"},
		{"unknown encoding", beside("Content-Encoding", "br"), []byte(departed("1")), 400, "bad_encoding"},
		{"not gzip", beside("Content-Encoding", "gzip"), []byte(departed("1")), 400, "bad_encoding"},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := w.post("/v1/events", w.acme(), tt.header, tt.body)
			if got := a.code(t); got != tt.code || a.status != tt.status {
				t.Errorf("answer is %d %s (%s), want %d %s", a.status, got, a.body, tt.status, tt.code)
			}
			dead := w.dead()
			if len(dead) != i+1 {
				t.Fatalf("there are %d dead letters, want %d", len(dead), i+1)
			}
			last := dead[i]
			if last.Code != tt.code || last.Service != Name || events.SubjectTenant(last.Subject) != "acme" || last.Reason == "" {
				t.Errorf("dead letter is %+v", last)
			}
		})
	}
	if n := len(w.stored()); n != 0 {
		t.Errorf("%d events are stored", n)
	}
}

func TestBatchIsDecidedItemByItem(t *testing.T) {
	w := newWorld(t)
	items := []string{
		departed("a"), string(with(`"data"`, `"tenant":"globex","data"`)), departed("b"), `{"id":"c","id":"d"}`, `7`,
		string(with("jane", "ja\xffne")), departed("e"),
	}
	r := w.post("/v1/events", w.acme(), map[string]string{"Content-Type": "application/cloudevents-batch+json; charset=utf-8"},
		[]byte("["+strings.Join(items, ",")+"]")).result(t)
	if r.Accepted != 3 {
		t.Errorf("accepted %d, want 3", r.Accepted)
	}
	want := []Refusal{{1, "1", "wrong_tenant", ""}, {3, "", "duplicate_member", ""}, {4, "", "invalid_envelope", ""}, {5, "", "malformed_json", ""}}
	if len(r.Refused) != len(want) {
		t.Fatalf("refused %+v", r.Refused)
	}
	for i, x := range r.Refused {
		if x.Reason == "" {
			t.Errorf("refusal %d has no reason", i)
		}
		x.Reason = ""
		if x != want[i] {
			t.Errorf("refusal %d is %+v, want %+v", i, x, want[i])
		}
	}
	if len(w.stored()) != 3 || len(w.dead()) != 4 {
		t.Errorf("%d stored and %d dead, want 3 and 4", len(w.stored()), len(w.dead()))
	}
	if r := w.post("/v1/events", w.acme(), map[string]string{"Content-Type": "application/cloudevents-batch+json"}, []byte("[]")).result(t); r.Accepted != 0 || len(r.Refused) != 0 {
		t.Errorf("result of an empty batch is %+v", r)
	}
}

// TestCallers checks who may come in. Who is not admitted leaves no trace at all.
func TestCallers(t *testing.T) {
	w := newWorld(t)
	other := *w
	other.signer.Private = newKey(t)
	expired := func(c *token.Claims) {
		c.IssuedAt, c.Expires = time.Now().Add(-time.Hour).Unix(), time.Now().Add(-time.Minute).Unix()
	}
	good := w.acme()
	parts := strings.Split(good, ".")
	tests := []struct {
		name, bearer string
		status       int
		code         string
	}{
		{"none", "", 401, "missing_token"},
		{"expired", w.token("acme", "shop", service.ScopeIntake, expired), 401, "invalid_token"},
		{"forged", other.token("acme", "shop", service.ScopeIntake), 401, "invalid_token"},
		{"no signature", parts[0] + "." + parts[1] + ".", 401, "invalid_token"},
		{"alg none", "eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0." + parts[1] + ".", 401, "invalid_token"},
		{"other audience", w.token("acme", "shop", service.ScopeIntake, func(c *token.Claims) { c.Audience = token.Strings{"https://else"} }), 401, "invalid_token"},
		{"other issuer", w.token("acme", "shop", service.ScopeIntake, func(c *token.Claims) { c.Issuer = "https://else" }), 401, "invalid_token"},
		{"no scope", w.token("acme", "shop", service.ScopeRead), 403, "insufficient_scope"},
		{"operator of another tenant", w.token("acme", "shop", service.ScopeOperator), 403, "insufficient_scope"},
	}
	for _, path := range []string{"/v1/events", "/v1/cloudtrail"} {
		for _, tt := range tests {
			t.Run(tt.name+path, func(t *testing.T) {
				a := w.post(path, tt.bearer, structured, []byte(departed("1")))
				if got := a.code(t); got != tt.code || a.status != tt.status {
					t.Errorf("answer is %d %s, want %d %s", a.status, got, tt.status, tt.code)
				}
				if a.header.Get("WWW-Authenticate") == "" {
					t.Error("no challenge")
				}
			})
		}
	}
	if len(w.stored()) != 0 || len(w.dead()) != 0 {
		t.Errorf("%d stored and %d dead", len(w.stored()), len(w.dead()))
	}
}

func TestTenantOfTheCaller(t *testing.T) {
	w := newWorld(t)
	if a := w.post("/v1/events?tenant=globex", w.acme(), structured, []byte(departed("1"))); a.status != 403 || a.code(t) != "wrong_tenant" {
		t.Errorf("answer is %d %s", a.status, a.body)
	}
	if a := w.post("/v1/events?tenant=A.B", w.operator(), structured, []byte(departed("1"))); a.status != 400 || a.code(t) != "invalid_tenant" {
		t.Errorf("answer is %d %s", a.status, a.body)
	}
	w.post("/v1/events?tenant=globex", w.operator(), structured, []byte(departed("2"))).result(t)
	if got := w.stored(); len(got) != 1 || events.Tenant(got[0]) != "globex" {
		t.Errorf("stored %v", got)
	}
}

// TestRights proves that the door for events is no way around the other doors, and
// that replaying a dead letter is not either.
func TestRights(t *testing.T) {
	w := newWorld(t)
	event := func(tenant string, p events.Payload) []byte {
		t.Helper()
		e, err := events.New(events.Origin{Source: "/acme/shop", Tenant: tenant, Time: time.Now(), ID: fmt.Sprintf("%T", p)}, p)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := events.Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	revoke := func(by string) events.Payload {
		return events.RevocationRequested{Mode: events.ModeRevoke, Target: events.Target{Kind: "identity", Tenant: "acme", ID: "bot"}, Reason: "leaked", RequestedBy: by}
	}
	declare := func(scope string) events.Payload {
		return events.IdentityDeclared{Registration: events.Registration{Identity: "bot", Kind: events.KindAgent, Owner: "o", Feature: "f",
			Purpose: "p", KillSwitch: "identity", Scopes: []string{scope}}}
	}
	both := service.ScopeIntake + " " + service.ScopeRevoke
	tests := []struct {
		name, bearer string
		body         []byte
		code         string // "": accepted
	}{
		{"revoke without the scope", w.acme(), event("acme", revoke("shop")), "insufficient_scope"},
		{"end a task in another's name", w.token("acme", "shop", both), event("acme", events.TaskEnded{Task: "t-1", Reason: "done", By: "boss"}), "wrong_requester"},
		{"revoke in another's name", w.token("acme", "shop", both), event("acme", revoke("boss")), "wrong_requester"},
		{"declare an operator", w.acme(), event("acme", declare(service.ScopeOperator)), "insufficient_scope"},
		{"declare with a scope not held", w.acme(), event("acme", declare(service.ScopeRevoke)), "insufficient_scope"},
		{"a fact of issuance", w.acme(), event("acme", events.CredentialExpired{Credential: "j", Identity: "bot", ExpiredAt: time.Now()}), "type_not_admitted"},
		{"an alert", w.acme(), event("acme", events.RiskChanged{Identity: "bot", Level: "low", Reason: "r"}), "type_not_admitted"},
		{"another tenant's event", w.acme(), event("globex", declare("orders.read")), "wrong_tenant"},
		{"revoke", w.token("acme", "shop", both), event("acme", revoke("shop")), ""},
		{"end a task", w.acme(), event("acme", events.TaskEnded{Task: "t-1", Reason: "done", By: "shop"}), ""},
		{"declare with a scope held", w.acme(), event("acme", declare(service.ScopeIntake)), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := w.post("/v1/events", tt.bearer, structured, tt.body)
			if tt.code == "" {
				a.result(t)
			} else if got := a.code(t); got != tt.code || a.status != 403 {
				t.Errorf("answer is %d %s, want 403 %s", a.status, got, tt.code)
			}
		})
	}
	dead := w.dead()
	if len(dead) != 8 || len(w.stored()) != 3 {
		t.Fatalf("%d dead and %d stored, want 8 and 3", len(dead), len(w.stored()))
	}
	for _, d := range dead {
		if err := w.conn.Replay(t.Context(), d.Sequence); err == nil {
			t.Errorf("replaying %s published it", d.Code)
		}
	}
	if n := len(w.stored()); n != 3 {
		t.Errorf("%d events are stored after replays, want 3", n)
	}
}

func TestUnreachableBus(t *testing.T) {
	w := newWorld(t)
	bearer := w.acme()
	w.nats.Shutdown()
	w.nats.WaitForShutdown()
	for name, body := range map[string][]byte{"event": []byte(departed("1")), "garbage": []byte("{")} {
		a := w.post("/v1/events", bearer, structured, body)
		if a.status != http.StatusServiceUnavailable || a.header.Get("Retry-After") == "" {
			t.Errorf("%s: answer is %d %s with Retry-After %q", name, a.status, a.body, a.header.Get("Retry-After"))
		}
		if got := a.code(t); got != "unavailable" && got != "unknown_outcome" {
			t.Errorf("%s: code is %s", name, got)
		}
	}
}

func TestHeadersMayAgree(t *testing.T) {
	w := newWorld(t)
	h := map[string]string{"Content-Type": events.ContentType, "ce-id": "1", "ce-type": events.TypeOwnerDeparted, "ce-source": "/acme/hr",
		"ce-time": "2026-01-02T04:04:05+01:00", "ce-tenant": "acme", "ce-specversion": "1.0"}
	w.post("/v1/events", w.acme(), h, []byte(departed("1"))).result(t)
}

func TestLimitOfItems(t *testing.T) {
	w := newWorld(t)
	body := bytes.Repeat([]byte(`0,`), maxItems+1)
	a := w.post("/v1/events", w.acme(), map[string]string{"Content-Type": "application/cloudevents-batch+json"}, append(append([]byte("["), body[:len(body)-1]...), ']'))
	if a.status != 413 || a.code(t) != "too_many" {
		t.Errorf("answer is %d %s", a.status, a.body)
	}
}

func TestEveryCodeHasAStatus(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range codes {
		name := code(c.err)
		if name == "internal" || status(c.err) != c.status {
			t.Errorf("%v is named %s with status %d", c.err, name, status(c.err))
		}
		seen[name] = true
	}
	for _, name := range []string{"too_large", "wrong_tenant", "clock_skew", "unknown_type", "schema_violation", "wrong_content_type"} {
		if !seen[name] {
			t.Errorf("%s has no status of its own", name)
		}
	}
	if status(fmt.Errorf("else")) != http.StatusInternalServerError {
		t.Error("an unknown error is not internal")
	}
	if raw, err := json.Marshal(Result{Refused: []Refusal{}}); err != nil || string(raw) != `{"accepted":0,"refused":[]}` {
		t.Errorf("result is %s (%v)", raw, err)
	}
}
