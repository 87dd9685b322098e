package revocation

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/receipt"
	"github.com/lanyard-nhi/lanyard/services/connector/connectortest"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/bus/bustest"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/downstreamtest"
	natsclient "github.com/nats-io/nats.go"
	redisclient "github.com/redis/go-redis/v9"
)

// patient waits longer than until: real servers start and stop in it.
func patient(t testing.TB, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			t.Fatalf("did not come true: %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// file writes a secret file.
func (p *plant) file(name, text string) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

// register puts an identity on the log.
func (p *plant) register(identity string) {
	p.t.Helper()
	e, err := events.New(events.Origin{Source: "/test", Tenant: "acme", Time: time.Now(), Discriminator: identity}, events.IdentityRegistered{
		Registration: events.Registration{Identity: identity, Kind: events.KindAgent, Owner: "team", Feature: "agents", Purpose: "tests", KillSwitch: "identity"}})
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err := bustest.Connect(p.t, p.server).Append(p.t.Context(), bus.Batch{Events: []events.Event{e}}); err != nil {
		p.t.Fatal(err)
	}
}

// place places a secret through the API and waits until it is tracked.
func (p *plant) place(secret, identity, downstream, account string) {
	p.t.Helper()
	product := p.caller("acme", "lanyard.intake")
	b := body{"secret": secret, "identity": identity, "downstream": downstream, "account": account, "owner": "team"}
	if status, a := p.call(product, "POST", "/v1/secrets", b); status != http.StatusAccepted {
		p.t.Fatalf("place %s: %d %v", secret, status, a)
	}
	patient(p.t, secret+" is tracked", func() bool {
		status, _ := p.call(product, "POST", "/v1/secrets", b)
		return status == http.StatusOK
	})
}

// revokeIdentity revokes and answers with the revocation's id.
func (p *plant) revokeIdentity(identity string) string {
	p.t.Helper()
	status, a := p.call(p.caller("acme", "lanyard.revoke"), "POST", "/v1/revocations", body{"mode": "revoke", "reason": "leaked",
		"target": events.Target{Kind: string(lineage.KindIdentity), Tenant: "acme", ID: identity}})
	if status != http.StatusAccepted {
		p.t.Fatalf("revoke %s: %d %v", identity, status, a)
	}
	return a["revocation"].(string)
}

func (p *plant) state(id string) string {
	p.t.Helper()
	_, a := p.call(p.caller("acme", "lanyard.read"), "GET", "/v1/revocations/"+id, nil)
	s, _ := a["state"].(string)
	return s
}

// proven waits for closure and verifies the bundle offline.
func (p *plant) proven(id string) receipt.Report {
	p.t.Helper()
	patient(p.t, "the revocation is closed", func() bool { return p.state(id) == "closed" })
	status, raw := p.raw(p.caller("acme", "lanyard.read"), "GET", "/v1/revocations/"+id+"/receipts", nil)
	if status != http.StatusOK {
		p.t.Fatalf("receipts: %d %s", status, raw)
	}
	public, err := p.ring.FeedPublic()
	if err != nil {
		p.t.Fatal(err)
	}
	report, err := receipt.Verify(bytes.NewReader(raw), public)
	if err != nil {
		p.t.Fatalf("the receipts do not verify: %v\n%s", err, raw)
	}
	return report
}

// count counts events about secrets of a revocation on the log.
func (p *plant) count(verb, id string) (n int) {
	p.t.Helper()
	c := bustest.Connect(p.t, p.server)
	for st, err := range c.Read(p.t.Context(), bus.StreamLog, events.LogSubject("*", "revocation", verb, "*"), 1) {
		if err != nil {
			p.t.Fatal(err)
		}
		if strings.HasPrefix(st.Event.Subject(), id+"/") {
			n++
		}
	}
	return n
}

func TestOneRevokeCutsRealSessions(t *testing.T) {
	pg, nats := downstreamtest.StartPostgres(t), downstreamtest.StartNATS(t)
	redis := downstreamtest.StartRedis(t, "user default off", "user lanyard on >admin-pw ~* &* +@all")
	admin := pg.Dial(t, pg.Superuser, pg.Password)
	for _, sql := range []string{"CREATE ROLE victim LOGIN PASSWORD 'p'", "CREATE ROLE sibling LOGIN PASSWORD 'p'"} {
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	ra := redisclient.NewClient(&redisclient.Options{Addr: redis, Username: "lanyard", Password: "admin-pw", DisableIdentity: true})
	defer ra.Close()
	if err := ra.Do(t.Context(), "ACL", "SETUSER", "victim", "on", ">p", "~*", "+@all").Err(); err != nil {
		t.Fatal(err)
	}
	p := newPlant(t)
	p.change = func(c *config.Config) {
		c.Revocation.Downstreams = []config.Downstream{
			{Name: "pg-main", Kind: "postgres", Tenants: []string{"acme"}, URL: "postgres://postgres@" + pg.Addr + "/postgres?sslmode=disable", SecretFile: p.file("pg", pg.Password), TryLogin: true},
			{Name: "cache", Kind: "redis", Tenants: []string{"acme"}, URL: "redis://lanyard@" + redis, SecretFile: p.file("redis", "admin-pw")},
			{Name: "bus", Kind: "nats", Tenants: []string{"acme"}, URL: "nats://" + nats.Addr, Account: nats.Account, SecretFile: p.file("creds", nats.System), KeyFile: p.file("op", nats.Operator)}}
	}
	p.start("revocation-0")
	p.register("agent")
	p.register("other")
	user := nats.NewUser(t)
	p.place("db", "agent", "pg-main", "victim")
	p.place("sibling-db", "other", "pg-main", "sibling")
	p.place("cache", "agent", "cache", "victim")
	p.place("bus", "agent", "bus", user.Key)

	db, sibling := pg.Dial(t, "victim", "p"), pg.Dial(t, "sibling", "p")
	rc := redisclient.NewClient(&redisclient.Options{Addr: redis, Username: "victim", Password: "p", PoolSize: 1, MaxRetries: -1, DisableIdentity: true})
	defer rc.Close()
	if err := rc.Ping(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	nc, err := user.Connect(nats.Addr, natsclient.NoReconnect())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()

	report := p.proven(p.revokeIdentity("agent"))
	points := map[string]bool{}
	for _, pt := range report.Points {
		name, _, _ := strings.Cut(pt.Point, "/")
		points[name] = true
	}
	if !points["pg-main"] || !points["cache"] || !points["bus"] || len(report.Points) != 4 {
		t.Errorf("receipts of %d points, %v; want the guard's and three secrets'", len(report.Points), points)
	}
	if _, err := db.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("the PostgreSQL session goes on")
	}
	if rc.Ping(t.Context()).Err() == nil {
		t.Error("the Redis session goes on")
	}
	patient(t, "the NATS session is cut", nc.IsClosed)
	if _, err := sibling.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("the sibling's session: %v", err)
	}
}

// api is a system whose accounts are ended by DELETE.
type api struct {
	mu    sync.Mutex
	dead  map[string]int
	proxy *connectortest.Proxy
}

func newAPI(t *testing.T) *api {
	t.Helper()
	a := &api{dead: map[string]int{}}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		name := strings.TrimPrefix(q.URL.Path, "/")
		if q.Method == http.MethodDelete {
			a.dead[name]++
		}
		if a.dead[name] > 0 && q.Method == http.MethodGet || a.dead[name] > 1 {
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(srv.Close)
	a.proxy = connectortest.NewProxy(t, strings.TrimPrefix(srv.URL, "http://"))
	return a
}

func (a *api) ended(name string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.dead[name]
}

// config is the downstream, whose secrets are stuck at once.
func (a *api) config(c *config.Config) {
	url := "http://" + a.proxy.Addr() + "/{account}"
	c.Revocation.Downstreams = []config.Downstream{{Name: "saas", Kind: "http", Tenants: []string{"acme"}, URL: url, VerifyURL: url, Local: true,
		StuckAfter: config.Duration(time.Millisecond), Compensation: "call their support"}}
}

func TestUnpluggedDownstreamIsStuckAndClosesLater(t *testing.T) {
	a, p := newAPI(t), newPlant(t)
	p.change = a.config
	p.start("revocation-0")
	p.register("agent")
	for i := range 5 {
		p.place(fmt.Sprintf("key-%d", i), "agent", "saas", fmt.Sprintf("account-%d", i))
	}
	a.proxy.Unplug()
	id := p.revokeIdentity("agent")
	patient(t, "a secret is stuck", func() bool { return p.count("stuck", id) > 0 })
	alerts := 0
	for st, err := range bustest.Connect(t, p.server).Read(t.Context(), bus.StreamAlert, ">", 1) {
		if err != nil {
			t.Fatal(err)
		}
		if d, err := events.As[events.AnomalyDetected](st.Event); err == nil && d.Name == "secret_stuck" && strings.Contains(d.Explanation, "call their support") {
			alerts++
		}
	}
	if alerts != 1 {
		t.Errorf("%d alerts of the stuck downstream, want 1", alerts)
	}
	if s := p.state(id); s != "accepted" {
		t.Errorf("it is %s while the downstream is away", s)
	}
	// A process that dies meanwhile changes nothing.
	p.halt()
	p.start("revocation-0")
	if n := p.count("enforced", id); n != 0 {
		t.Errorf("%d receipts of a downstream that is away", n)
	}
	a.proxy.Plug()
	if r := p.proven(id); len(r.Points) != 6 {
		t.Errorf("%d points, want 6", len(r.Points))
	}
	if n := p.count("enforced", id); n != 5 {
		t.Errorf("%d receipts, want 5", n)
	}
}

func TestSecretUnderADeadLineageIsEndedAtOnce(t *testing.T) {
	a, p := newAPI(t), newPlant(t)
	p.change = a.config
	p.start("revocation-0")
	p.register("agent")
	id := p.revokeIdentity("agent")
	p.proven(id)
	p.place("late", "agent", "saas", "late-account")
	patient(t, "the late secret has its receipt", func() bool { return p.count("enforced", id) == 1 })
	if a.ended("late-account") == 0 {
		t.Error("the late account is alive")
	}
	p.proven(id) // the proof of the closure stays what it was
}

// TestUntracked: what somebody ended by hand is waited for no more, on the word of who
// may revoke; nobody else's counts.
func TestUntracked(t *testing.T) {
	a, p := newAPI(t), newPlant(t)
	p.change = a.config
	p.start("revocation-0")
	p.register("agent")
	p.place("gone", "agent", "saas", "gone-account")
	p.place("there", "agent", "saas", "there-account")
	_, pre := p.call(p.caller("acme", "lanyard.revoke"), "POST", "/v1/revocations/preview", body{"target": body{"kind": "identity", "id": "agent"}})
	if in, _ := pre["secrets"].([]any); len(in) != 1 || in[0].(map[string]any)["count"] != 2. || in[0].(map[string]any)["ends"] == nil {
		t.Errorf("preview: secrets are %v", pre["secrets"])
	}
	a.proxy.Unplug()
	id := p.revokeIdentity("agent")
	patient(t, "a secret is stuck", func() bool { return p.count("stuck", id) > 0 })
	a.proxy.Plug()
	patient(t, "what is there is ended", func() bool { return a.ended("there-account") > 0 })
	why := body{"reason": "ended by hand"}
	for name, c := range map[string]struct {
		status int
		token  string
		path   string
	}{
		"without the right": {http.StatusForbidden, p.caller("acme", "lanyard.read"), "/v1/secrets/there"},
		"of another tenant": {http.StatusNotFound, p.caller("beta", "lanyard.revoke"), "/v1/secrets/there"},
		"unknown":           {http.StatusNotFound, p.caller("acme", "lanyard.revoke"), "/v1/secrets/nothing"},
	} {
		if status, a := p.call(c.token, "DELETE", c.path, why); status != c.status {
			t.Errorf("%s: %d %v; want %d", name, status, a, c.status)
		}
	}
	if status, a := p.call(p.caller("acme", "lanyard.revoke"), "DELETE", "/v1/secrets/gone", why); status != http.StatusOK {
		t.Fatalf("untrack: %d %v", status, a)
	}
	if status, a := p.call(p.caller("acme", "lanyard.read"), "GET", "/v1/secrets", nil); status != http.StatusOK || len(a["secrets"].([]any)) != 1 {
		t.Errorf("list: %d %v", status, a)
	}
	points := len(p.proven(id).Points)
	// What is untracked later does not change the proof.
	if status, a := p.call(p.caller("acme", "lanyard.revoke"), "DELETE", "/v1/secrets/there", why); status != http.StatusOK {
		t.Fatalf("untrack what has ended: %d %v", status, a)
	}
	if n := len(p.proven(id).Points); n != points {
		t.Errorf("%d points after it was untracked, %d before", n, points)
	}
}

func TestPlacingIsRefused(t *testing.T) {
	a, p := newAPI(t), newPlant(t)
	p.change = func(c *config.Config) {
		a.config(c)
		c.Revocation.Downstreams[0].Accounts = "{tenant}-.*"
	}
	p.start("revocation-0")
	p.register("agent")
	p.register("other")
	p.place("one", "agent", "saas", "acme-1")
	for name, b := range map[string]body{
		"unknown downstream":        {"secret": "x", "identity": "agent", "downstream": "nowhere", "account": "acme-2", "owner": "team"},
		"account of another tenant": {"secret": "x", "identity": "agent", "downstream": "saas", "account": "beta-1", "owner": "team"},
		"account of another secret": {"secret": "x", "identity": "agent", "downstream": "saas", "account": "acme-1", "owner": "team"},
		"another identity":          {"secret": "one", "identity": "other", "downstream": "saas", "account": "acme-1", "owner": "team"},
		"unknown identity":          {"secret": "x", "identity": "nobody", "downstream": "saas", "account": "acme-2", "owner": "team"},
		"unknown credential":        {"secret": "x", "identity": "agent", "credential": "no-such", "downstream": "saas", "account": "acme-2", "owner": "team"},
	} {
		if status, a := p.call(p.caller("acme", "lanyard.intake"), "POST", "/v1/secrets", b); status != http.StatusConflict {
			t.Errorf("%s: %d %v; want 409", name, status, a)
		}
	}
	if status, a := p.call(p.caller("beta", "lanyard.intake"), "POST", "/v1/secrets",
		body{"secret": "x", "identity": "agent", "downstream": "saas", "account": "beta-1", "owner": "team"}); status != http.StatusConflict {
		t.Errorf("a tenant that the downstream is not open to: %d %v; want 409", status, a)
	}
	if status, a := p.call(p.caller("acme", "lanyard.read"), "GET", "/v1/secrets", nil); status != http.StatusOK || len(a["secrets"].([]any)) != 1 {
		t.Errorf("list: %d %v", status, a)
	}
}
