package revocation

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/bus/bustest"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/keys"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/internal/state"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

const issuer = "https://issuer.test"

// plant is the service as New makes it, on a real NATS server and Redis, with real
// guards.
type plant struct {
	t      *testing.T
	server *server.Server
	redis  *miniredis.Miniredis
	ring   *keys.Ring
	names  *lineage.Namer
	issuer token.Signer
	dir    string
	svc    service.Service
	env    service.Env
	halt   func()
	change func(*config.Config) // of the configuration, optional
}

func newPlant(t *testing.T) *plant {
	p := &plant{t: t, server: bustest.Server(t), redis: miniredis.RunT(t), dir: t.TempDir()}
	ring, err := keys.Open(filepath.Join(p.dir, "keys"), true)
	if err != nil {
		t.Fatal(err)
	}
	p.ring = ring
	key, err := ring.LineageKey()
	if err != nil {
		t.Fatal(err)
	}
	if p.names, err = lineage.NewNamer(key); err != nil {
		t.Fatal(err)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if p.issuer, err = token.NewSigner("", private); err != nil {
		t.Fatal(err)
	}
	if err := bus.Provision(t.Context(), bustest.Connect(t, p.server), bus.Options{Replicas: 1}); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *plant) guard(point, tenant, audience string) *guard.Guard {
	p.t.Helper()
	feed, done, err := bus.DialFeed(p.t.Context(), bus.Config{InProcess: p.server, Name: point})
	if err != nil {
		p.t.Fatal(err)
	}
	public, err := p.ring.FeedPublic()
	if err != nil {
		p.t.Fatal(err)
	}
	g, err := guard.New(guard.Config{Point: point, Tenant: tenant, Issuer: issuer, Audience: audience, Keys: token.NewKeySet(p.issuer.Key()), FeedKey: public, Feed: feed})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Run(ctx) })
	p.t.Cleanup(func() { cancel(); wg.Wait(); done() })
	return g
}

// start runs the service as its process would, with a connection of its own.
func (p *plant) start(point string) {
	p.t.Helper()
	c := bustest.Connect(p.t, p.server)
	store, err := state.Open(p.t.Context(), "redis://"+p.redis.Addr())
	if err != nil {
		p.t.Fatal(err)
	}
	cfg := config.Default(filepath.Join(p.dir, point))
	cfg.Issuer.URL = issuer
	if p.change != nil {
		p.change(&cfg)
	}
	p.env = service.Env{Config: cfg.Complete(), Log: zap.NewNop(), Metrics: prometheus.NewRegistry(), Now: time.Now, Rand: rand.Reader, Bus: c, State: store,
		Keys: p.ring, Namer: p.names, Guard: p.guard(point, "lanyard", issuer)}
	if p.svc, err = New(p.env); err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	svc := p.svc
	wg.Go(func() { _ = c.Run(ctx, bus.Spec{Service: svc.Name, Handlers: svc.Handlers}) })
	for _, task := range svc.Tasks {
		wg.Go(func() { _ = task.Run(ctx) })
	}
	var once sync.Once
	p.halt = func() { once.Do(func() { cancel(); wg.Wait(); _ = svc.Close(); _ = store.Close() }) }
	p.t.Cleanup(p.halt)
	select {
	case <-p.env.Guard.Ready():
	case <-time.After(20 * time.Second):
		p.t.Fatalf("own guard is not ready: %+v", p.env.Guard.Status())
	}
}

func (p *plant) token(n *node, aud, scope string) string {
	p.t.Helper()
	now := time.Now().Unix()
	raw, err := p.issuer.Sign(token.TypAccess, token.Claims{Issuer: issuer, Subject: n.Identity, Audience: token.Strings{aud}, ClientID: n.Identity, IssuedAt: now,
		Expires: now + 300, ID: n.CredentialIssued.Credential, Scope: scope, Tenant: n.tenant, Task: n.Task, Lineage: n.handles(p.t)})
	if err != nil {
		p.t.Fatal(err)
	}
	return raw
}

// caller is a token for the API.
func (p *plant) caller(tenant, scope string) string {
	h := p.names.Name(lineage.KindIdentity, tenant, "caller").String()
	return p.token(&node{tenant: tenant, CredentialIssued: events.CredentialIssued{Identity: "caller", Credential: "jti-" + tenant, Lineage: []string{h}}}, issuer, scope)
}

func (p *plant) call(tok, method, path string, body any) (int, map[string]any) {
	p.t.Helper()
	status, raw := p.raw(tok, method, path, body)
	var out map[string]any
	if err := json.Unmarshal(raw, &out); err != nil {
		p.t.Fatalf("%s %s answered %d %q", method, path, status, raw)
	}
	return status, out
}

func (p *plant) raw(tok, method, path string, body any) (int, []byte) {
	p.t.Helper()
	var rd io.Reader
	switch b := body.(type) {
	case nil:
	case string:
		rd = strings.NewReader(b)
	default:
		raw, err := json.Marshal(body)
		if err != nil {
			p.t.Fatal(err)
		}
		rd = bytes.NewReader(raw)
	}
	q := httptest.NewRequestWithContext(p.t.Context(), method, path, rd)
	if tok != "" {
		q.Header.Set("Authorization", "Bearer "+tok)
	}
	w := httptest.NewRecorder()
	p.svc.HTTP.ServeHTTP(w, q)
	return w.Code, w.Body.Bytes()
}

// credential issues a root or derived credential on the log.
func (p *plant) credential(c *bus.Conn, f *forest, n *node) {
	p.t.Helper()
	e, err := events.New(events.Origin{Source: "/lanyard/issuance", Tenant: n.tenant, Time: n.IssuedAt, ID: n.TokenSHA256}, n.CredentialIssued)
	if err != nil {
		p.t.Fatal(err)
	}
	if err := c.Publish(p.t.Context(), e); err != nil {
		p.t.Fatal(err)
	}
}

type body map[string]any

// TestOverNATS is the service on real NATS and Redis: preview, refusals, a revoke
// that real guards in three tenants receipt, closure, trace, a restart and a flush.
func TestOverNATS(t *testing.T) {
	p := newPlant(t)
	p.start("service-revocation")
	op := p.caller("lanyard", "lanyard.operator")
	guards := map[string]*guard.Guard{}
	for _, tenant := range []string{"acme", "globex", "initech"} {
		guards[tenant] = p.guard("shop-"+tenant, tenant, "https://"+tenant+".test")
		<-guards[tenant].Ready()
	}
	f := &forest{names: p.names, now: time.Now().UTC().Truncate(time.Second), named: map[string]events.Named{}}
	root := p.family(f)
	for _, n := range f.nodes {
		p.credential(p.env.Bus, f, n)
	}
	until(t, "guards are listed", func() bool {
		_, raw := p.raw(op, "GET", "/v1/guards", nil)
		return strings.Count(string(raw), `"present":true`) == 4
	})
	target := body{"kind": "identity", "tenant": "acme", "id": root.Identity}
	p.refusals(op, target)

	status, pre := p.call(op, "POST", "/v1/revocations/preview", body{"target": target})
	if status != 200 || pre["descendants"] != 61. || pre["guards"] != 4. || pre["confirm_required"] != true || pre["confirm"] != 61. ||
		len(pre["tenants"].([]any)) != 3 || pre["predicted_ms"] != nil || len(pre["members"].([]any)) != 61 {
		t.Fatalf("preview %d: %v", status, pre)
	}
	if tree := pre["tree"].(map[string]any); len(tree["tenants"].([]any)) != 3 || tree["cut"] != false || len(pre["secrets"].([]any)) != 0 || pre["closure_ms"] != nil {
		t.Errorf("preview's tree: %v, secrets %v", tree, pre["secrets"])
	}
	for _, n := range f.nodes {
		if _, err := guards[n.tenant].Check(t.Context(), guard.Request{Token: p.token(n, "https://"+n.tenant+".test", "read")}); err != nil {
			t.Fatalf("%s is refused before the revoke: %v", n.CredentialIssued.Credential, err)
		}
	}
	status, got := p.call(op, "POST", "/v1/revocations", body{"target": target, "reason": "hijacked", "confirm": pre["descendants"]})
	if status != 202 || got["state"] != "accepted" || got["expected"] != 4. {
		t.Fatalf("revoke %d: %v", status, got)
	}
	id := got["revocation"].(string)
	status, got = p.call(op, "GET", "/v1/revocations/"+id+"?wait=20s", nil)
	if status != 200 || got["state"] != "closed" || got["enforced"] != 4. || got["descendants"] != 61. || len(got["receipts"].([]any)) != 4 || got["merkle_root"] == "" {
		t.Fatalf("closure %d: %v", status, got)
	}
	for _, n := range f.nodes {
		_, err := guards[n.tenant].Check(t.Context(), guard.Request{Token: p.token(n, "https://"+n.tenant+".test", "read")})
		if dead := slices.Contains(n.Lineage, p.names.Name(lineage.KindIdentity, "acme", root.Identity).String()); dead != (err != nil) {
			t.Errorf("%s after the revoke: %v", n.CredentialIssued.Credential, err)
		}
	}
	p.afterwards(op, id, target, root)
	p.halt()
	p.redis.FlushAll()
	p.start("service-revocation") // again, on the same files
	if status, got := p.call(op, "POST", "/v1/revocations", body{"target": target, "reason": "again", "confirm": 61}); status != 200 || got["code"] != "already_revoked" || got["revocation"] != id {
		t.Errorf("after a restart and a flush: %d %v", status, got)
	}
	if status, again := p.call(op, "GET", "/v1/revocations/"+id, nil); status != 200 || again["merkle_root"] != got["merkle_root"] {
		t.Errorf("after a restart: %d %v", status, again)
	}
}

// family is a root of acme with 60 descendants in three tenants, and 20 siblings.
func (p *plant) family(f *forest) *node {
	add := func(i int, parent *node, tenant, identity string) *node {
		n := &node{tenant: tenant, parent: parent}
		n.CredentialIssued = events.CredentialIssued{Credential: fmt.Sprint("jti-", i), TokenSHA256: fmt.Sprintf("%064x", i+1), Identity: identity, Task: "task", KeyID: "kid",
			Policy: "builtin/1", Audience: []string{"https://" + tenant + ".test"}, Scope: []string{"read"}, IssuedAt: f.now, ExpiresAt: f.now.Add(5 * time.Minute)}
		name := func(kind lineage.Kind, tenant, id string) {
			h := p.names.Name(kind, tenant, id).String()
			if !slices.Contains(n.Lineage, h) {
				n.Lineage = append(n.Lineage, h)
				n.Names = append(n.Names, events.Named{Handle: h, Kind: string(kind), Tenant: tenant, ID: id})
			}
		}
		if parent != nil {
			n.Lineage, n.Parent = slices.Clone(parent.Lineage), parent.CredentialIssued.Credential
		}
		name(lineage.KindTenant, tenant, tenant)
		name(lineage.KindOwner, tenant, "owner-of-"+tenant)
		name(lineage.KindIdentity, tenant, identity)
		name(lineage.KindCredential, tenant, n.CredentialIssued.Credential)
		f.nodes = append(f.nodes, n)
		return n
	}
	root := add(0, nil, "acme", "orchestrator")
	for i := range 60 {
		add(1+i, root, []string{"acme", "globex", "initech"}[i%3], fmt.Sprint("worker-", i))
	}
	for i := range 20 {
		add(100+i, nil, []string{"acme", "globex", "initech"}[i%3], fmt.Sprint("sibling-", i))
	}
	return root
}

// refusals: who may not, and what makes no sense.
func (p *plant) refusals(op string, target body) {
	p.t.Helper()
	acme, reader := p.caller("acme", "lanyard.revoke lanyard.read"), p.caller("lanyard", "lanyard.read lanyard.revoke")
	for _, c := range []struct {
		name, tok, method, path string
		body                    any
		status                  int
		code                    string
	}{
		{"no token", "", "POST", "/v1/revocations", body{}, 401, "missing_token"},
		{"no scope", p.caller("acme", "read"), "GET", "/v1/revocations", nil, 403, "insufficient_scope"},
		{"bad JSON", op, "POST", "/v1/revocations", `{"target":`, 400, "invalid_request"},
		{"doubled member", op, "POST", "/v1/revocations", `{"mode":"revoke","mode":"freeze"}`, 400, "invalid_request"},
		{"unknown member", op, "POST", "/v1/revocations", body{"force": true}, 400, "invalid_request"},
		{"too large", op, "POST", "/v1/revocations", `{"reason":"` + strings.Repeat("x", maxBody) + `"}`, 413, "too_large"},
		{"no reason", op, "POST", "/v1/revocations", body{"target": target}, 400, "invalid_request"},
		{"no confirm", op, "POST", "/v1/revocations", body{"target": target, "reason": "x"}, 409, "confirm_required"},
		{"foreign target", acme, "POST", "/v1/revocations", body{"target": body{"kind": "identity", "tenant": "globex", "id": "worker-1"}, "reason": "x"}, 403, "forbidden"},
		{"foreign preview", acme, "POST", "/v1/revocations/preview", body{"target": body{"kind": "identity", "tenant": "globex", "id": "worker-1"}}, 403, "forbidden"},
		{"system tenant, no operator", reader, "POST", "/v1/revocations", body{"target": target, "reason": "x", "confirm": 61}, 403, "forbidden"},
		{"unknown target", op, "POST", "/v1/revocations", body{"target": body{"kind": "identity", "tenant": "acme", "id": "typo"}, "reason": "x"}, 404, "unknown_target"},
		{"not frozen", op, "POST", "/v1/revocations", body{"mode": "lift", "target": target, "reason": "x"}, 409, "not_frozen"},
		{"unknown revocation", op, "GET", "/v1/revocations/none", nil, 404, "unknown_revocation"},
		{"other tenant's list", acme, "GET", "/v1/revocations?tenant=globex", nil, 403, "wrong_tenant"},
		{"unknown trace", op, "GET", "/v1/trace/none", nil, 404, "unknown_credential"},
	} {
		if status, got := p.call(c.tok, c.method, c.path, c.body); status != c.status || got["code"] != c.code {
			p.t.Errorf("%s: %d %v, want %d %s", c.name, status, got, c.status, c.code)
		}
	}
}

// afterwards looks at list, trace and what other tenants see.
func (p *plant) afterwards(op, id string, target body, root *node) {
	t := p.t
	t.Helper()
	call, err := events.New(events.Origin{Source: "/shop", Tenant: "acme", Time: time.Now(), ID: "call-1"}, events.ToolCalled{Activity: events.Activity{
		Identity: root.Identity, Credential: root.CredentialIssued.Credential, Lineage: root.Lineage, Tool: "payments.transfer", Destination: "shop", Action: "call", Outcome: events.OutcomeDenied, Error: "revoked"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.env.Bus.Publish(t.Context(), call); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{root.CredentialIssued.Credential, root.TokenSHA256} {
		status, tr := p.call(op, "GET", "/v1/trace/"+key, nil)
		if status != 200 {
			t.Fatalf("trace %d: %v", status, tr)
		}
		subject := tr["subject"].(map[string]any)
		text := fmt.Sprint(tr["timeline"])
		if subject["identity"] != root.Identity || subject["owner"] != "owner-of-acme" || len(tr["descendants"].([]any)) != 60 {
			t.Errorf("subject %v, %d descendants", subject, len(tr["descendants"].([]any)))
		}
		for _, want := range []string{"issued to orchestrator", "payments.transfer", "denied (revoked)", "hijacked", "revocation closed", "derived credential jti-1 "} {
			if !strings.Contains(text, want) {
				t.Errorf("the timeline lacks %q: %s", want, text)
			}
		}
	}
	_, tr := p.call(p.caller("acme", "lanyard.read"), "GET", "/v1/trace/"+root.TokenSHA256, nil)
	if tr["hidden"] == 0. || strings.Contains(fmt.Sprint(tr), "worker-1 ") || len(tr["descendants"].([]any)) != 20 {
		t.Errorf("what acme sees of the trace: %d descendants, %v hidden", len(tr["descendants"].([]any)), tr["hidden"])
	}
	if status, got := p.call(p.caller("globex", "lanyard.read"), "GET", "/v1/trace/"+root.TokenSHA256, nil); status != 404 {
		t.Errorf("another tenant traces it: %d %v", status, got)
	}
	if status, got := p.call(p.caller("globex", "lanyard.read"), "GET", "/v1/revocations/"+id, nil); status != 404 {
		t.Errorf("another tenant reads the revocation: %d %v", status, got)
	}
	if status, _ := p.call(p.caller("acme", "lanyard.read"), "GET", "/v1/revocations/"+id, nil); status != 200 {
		t.Errorf("the target's tenant reads the revocation: %d", status)
	}
	if status, raw := p.raw(op, "GET", "/v1/revocations", nil); status != 200 || !strings.Contains(string(raw), id) {
		t.Errorf("list %d: %s", status, raw)
	}
	if _, pre := p.call(op, "POST", "/v1/revocations/preview", body{"target": target}); pre["holder"] == nil || pre["predicted_ms"] == nil || pre["closure_ms"].(map[string]any)["p99"] != pre["predicted_ms"] {
		t.Errorf("preview of what is revoked: %v", pre)
	}
}

// TestTwoReplicasOverNATS: two processes of the service accept the same handle at
// once; one kill entry and one acceptance come of it.
func TestTwoReplicasOverNATS(t *testing.T) {
	p := newPlant(t)
	p.start("service-revocation")
	first := p.svc
	p.start("service-revocation-2")
	c := bustest.Connect(t, p.server)
	f := &forest{names: p.names, now: time.Now().UTC().Truncate(time.Second), named: map[string]events.Named{}}
	p.family(f)
	for _, n := range f.nodes {
		p.credential(c, f, n)
	}
	op := p.caller("lanyard", "lanyard.operator")
	for i := range 10 {
		target := body{"kind": "identity", "tenant": "globex", "id": fmt.Sprint("worker-", 1+3*i)}
		var wg sync.WaitGroup
		for j, svc := range []service.Service{first, p.svc} {
			wg.Go(func() {
				raw, _ := json.Marshal(body{"target": target, "reason": "both at once"})
				q := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/revocations", bytes.NewReader(raw))
				q.Header.Set("Authorization", "Bearer "+op)
				if i%2 == 0 { // the same request at both doors
					q.Header.Set("Idempotency-Key", fmt.Sprint("both-", i))
				}
				w := httptest.NewRecorder()
				svc.HTTP.ServeHTTP(w, q)
				if w.Code != http.StatusAccepted && w.Code != http.StatusOK {
					t.Errorf("replica %d: %d %s", j, w.Code, w.Body)
				}
			})
		}
		wg.Wait()
	}
	until(t, "all are closed", func() bool { return p.stored(c, "closed") == 10 })
	if n := p.stored(c, "accepted"); n != 10 {
		t.Errorf("%d acceptances of 10 handles", n)
	}
}

func (p *plant) stored(c *bus.Conn, verb string) int {
	n := 0
	for _, err := range c.Read(p.t.Context(), bus.StreamLog, events.LogSubject("*", "revocation", verb, "*"), 1) {
		if err != nil {
			p.t.Fatal(err)
		}
		n++
	}
	return n
}
