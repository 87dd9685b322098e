package guard

import (
	"crypto/sha256"
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

func TestCheck(t *testing.T) {
	s := newSystem(t)
	s.beat()
	srv := s.open()
	h := lineage.Handle{1}
	good := s.token(h)
	eventually(t, "a good token is allowed", func() bool { return ask(t, srv, "", bearer(good)).StatusCode == http.StatusOK })

	other := newSigner(t)
	forged, err := other.Sign(token.TypAccess, token.Claims{Issuer: issuer})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		query     string
		header    http.Header
		status    int
		challenge string
	}{
		"good":              {"", bearer(good), 200, ""},
		"granted scope":     {"?scope=orders.read", bearer(good), 200, ""},
		"missing scope":     {"?scope=orders.read+orders.write", bearer(good), 403, `Bearer error="insufficient_scope", scope="orders.read orders.write"`},
		"repeated scope":    {"?scope=orders.read&scope=orders.write", bearer(good), 403, `Bearer error="insufficient_scope", scope="orders.read orders.write"`},
		"scope with quote":  {"?scope=a%22b", bearer(good), 400, ""},
		"no token":          {"", nil, 401, "Bearer"},
		"basic":             {"", http.Header{"Authorization": {"Basic abc"}}, 401, "Bearer"},
		"two headers":       {"", http.Header{"Authorization": {"Bearer " + good, "Bearer " + good}}, 401, "Bearer"},
		"in the query":      {"?access_token=" + good, nil, 401, "Bearer"},
		"forged":            {"", bearer(forged), 401, `Bearer error="invalid_token"`},
		"expired":           {"", bearer(s.token(h, func(c *token.Claims) { c.IssuedAt -= 1000; c.Expires -= 900 })), 401, `Bearer error="invalid_token"`},
		"wrong audience":    {"", bearer(s.token(h, func(c *token.Claims) { c.Audience = token.Strings{"https://x.example"} })), 401, `Bearer error="invalid_token"`},
		"bound, no proof":   {"", bearer(s.token(h, func(c *token.Claims) { c.Confirm = &token.Confirm{X5TS: "x"} })), 401, `Bearer error="invalid_token"`},
		"future sequence":   {"?min_sequence=1000000", bearer(good), 503, ""},
		"nonsense sequence": {"?min_sequence=now", bearer(good), 400, ""},
		"bad forwarded url": {"", http.Header{"Authorization": {"Bearer " + good}, "X-Forwarded-Uri": {"%zz"}}, 400, ""},
	} {
		t.Run(name, func(t *testing.T) {
			res := ask(t, srv, c.query, c.header)
			if res.StatusCode != c.status || res.Header.Get("WWW-Authenticate") != c.challenge {
				t.Errorf("got %d %q, want %d %q", res.StatusCode, res.Header.Get("WWW-Authenticate"), c.status, c.challenge)
			}
			switch c.status {
			case 200:
				if res.Header.Get(HeaderIdentity) != "agent-1" || res.Header.Get(HeaderTenant) != "acme" || res.Header.Get(HeaderTask) != "task-1" {
					t.Errorf("headers %v", res.Header)
				}
			case 503:
				if res.Header.Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
			}
		})
	}
	if res := ask(t, srv, "", nil); res.Header.Get("Content-Type") != "application/problem+json" {
		t.Errorf("content type %q", res.Header.Get("Content-Type"))
	}
	res, err := srv.Client().Get(srv.URL + "/v1/status")
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode == http.StatusOK {
		t.Error("status is shown to anyone")
	}
}

func TestForwardedProof(t *testing.T) {
	s := newSystem(t)
	s.beat()
	srv := s.open()
	client := newSigner(t)
	jkt, err := client.Key().Thumbprint()
	if err != nil {
		t.Fatal(err)
	}
	raw := s.token(lineage.Handle{1}, func(c *token.Claims) { c.Confirm = &token.Confirm{JKT: jkt} })
	sum := sha256.Sum256([]byte(raw))
	proof := func(jti, method, url string) string {
		return signProof(t, client, map[string]any{"jti": jti, "htm": method, "htu": url, "iat": time.Now().Unix(),
			"ath": base64.RawURLEncoding.EncodeToString(sum[:])})
	}
	header := func(dpop string) http.Header {
		return http.Header{"Authorization": {"DPoP " + raw}, "Dpop": {dpop}, "X-Forwarded-Method": {"PUT"},
			"X-Forwarded-Proto": {"https"}, "X-Forwarded-Host": {"orders.acme.example"}, "X-Forwarded-Uri": {"/orders/7?x=1"}}
	}
	n := 0
	eventually(t, "a proof for the forwarded request is accepted", func() bool {
		n++
		return ask(t, srv, "", header(proof(strings.Repeat("j", n), "PUT", "https://orders.acme.example/orders/7"))).StatusCode == http.StatusOK
	})
	if res := ask(t, srv, "", header(proof("other", "GET", srv.URL+"/v1/check"))); res.StatusCode != http.StatusUnauthorized {
		t.Errorf("a proof for the check itself: %d", res.StatusCode)
	} else if !strings.HasPrefix(res.Header.Get("WWW-Authenticate"), "DPoP ") {
		t.Errorf("challenge %q", res.Header.Get("WWW-Authenticate"))
	}
	if res := ask(t, srv, "", header(proof("j", "PUT", "https://orders.acme.example/orders/7"))); n == 1 && res.StatusCode != http.StatusUnauthorized {
		t.Errorf("a replayed proof: %d", res.StatusCode)
	}
	nginx := http.Header{"Authorization": {"DPoP " + raw}, "Dpop": {proof("nginx", "PUT", "https://orders.acme.example/a")},
		"X-Original-Method": {"PUT"}, "X-Original-Url": {"https://orders.acme.example/a?b=c"}}
	if res := ask(t, srv, "", nginx); res.StatusCode != http.StatusOK {
		t.Errorf("nginx's headers: %d", res.StatusCode)
	}
}

func TestRevocationReachesTheServer(t *testing.T) {
	s := newSystem(t)
	s.beat()
	srv := s.open()
	raw, sibling := s.token(lineage.Handle{1}), s.token(lineage.Handle{2})
	eventually(t, "both are allowed", func() bool {
		return ask(t, srv, "", bearer(raw)).StatusCode == 200 && ask(t, srv, "", bearer(sibling)).StatusCode == 200
	})
	seq := s.revoke(lineage.Handle{1}, "rev-1")
	eventually(t, "the revoked is denied", func() bool { return ask(t, srv, "", bearer(raw)).StatusCode == 401 })
	if got := ask(t, srv, "", bearer(sibling)).StatusCode; got != 200 {
		t.Errorf("sibling: %d", got)
	}
	var presence events.GuardAttached
	var receipt events.ReceiptSigned
	eventually(t, "presence and receipt are stored", func() bool {
		for st, err := range s.conn.Read(t.Context(), bus.StreamGuard, ">", 1) {
			if err != nil {
				t.Fatal(err)
			}
			if err := events.Validate(st.Event); err != nil {
				t.Fatalf("presence: %v", err)
			}
			presence, _ = events.As[events.GuardAttached](st.Event)
		}
		for st, err := range s.conn.Read(t.Context(), bus.StreamReceipt, ">", 1) {
			if err != nil {
				t.Fatal(err)
			}
			if err := events.Validate(st.Event); err != nil {
				t.Fatalf("receipt: %v", err)
			}
			if st.Subject != "nhi.receipt.acme.rev-1.gateway" {
				t.Errorf("receipt on %s", st.Subject)
			}
			receipt, _ = events.As[events.ReceiptSigned](st.Event)
		}
		return presence.Point != "" && receipt.Point != ""
	})
	key, err := token.ParseJWK([]byte(presence.PublicJWK))
	if err != nil {
		t.Fatal(err)
	}
	if err := guard.VerifyReceipt(receipt, edKey(t, key)); err != nil {
		t.Error(err)
	}
	if receipt.Sequence != seq || receipt.Outcome != events.ReceiptEnforced || !presence.Fresh {
		t.Errorf("receipt %+v, presence %+v", receipt, presence)
	}
	receipt.Sequence++
	if err := guard.VerifyReceipt(receipt, edKey(t, key)); err == nil {
		t.Error("an altered receipt verifies")
	}
}

func TestStaleAnswers503(t *testing.T) {
	s := newSystem(t)
	s.beat()
	srv := s.open(func(e *service.Env) { e.Config.Guard.Lease = config.Duration(300 * time.Millisecond) })
	raw := s.token(lineage.Handle{1})
	eventually(t, "allowed", func() bool { return ask(t, srv, "", bearer(raw)).StatusCode == 200 })
	s.quiet.Store(true)
	eventually(t, "stale", func() bool {
		res := ask(t, srv, "", bearer(raw))
		return res.StatusCode == 503 && res.Header.Get("Retry-After") != ""
	})
	s.quiet.Store(false)
	eventually(t, "allowed again", func() bool { return ask(t, srv, "", bearer(raw)).StatusCode == 200 })
}

func TestServedStale(t *testing.T) {
	s := newSystem(t)
	s.beat()
	srv := s.open(func(e *service.Env) {
		e.Config.Guard.Lease = config.Duration(2 * time.Second)
		e.Config.Guard.Classes = []config.GuardClass{{Name: "public", ServeStale: &config.ServeStale{By: "alice", Reason: "outage",
			Until: time.Now().Add(time.Hour), For: config.Duration(5 * time.Minute), Scopes: []string{"orders.read"}}}}
	})
	raw := s.token(lineage.Handle{1})
	eventually(t, "allowed", func() bool {
		res := ask(t, srv, "?class=public&scope=orders.read", bearer(raw))
		return res.StatusCode == 200 && res.Header.Get(HeaderStale) == ""
	})
	s.quiet.Store(true)
	eventually(t, "stale", func() bool { return ask(t, srv, "?scope=orders.read", bearer(raw)).StatusCode == 503 })
	if res := ask(t, srv, "?class=public&scope=orders.read", bearer(raw)); res.StatusCode != 200 || res.Header.Get(HeaderStale) == "" {
		t.Errorf("reading: %d %v", res.StatusCode, res.Header)
	}
	for _, query := range []string{"?class=public", "?class=public&scope=orders.write", "?class=none&scope=orders.read"} {
		if res := ask(t, srv, query, bearer(raw)); res.StatusCode != 503 {
			t.Errorf("%s: %d", query, res.StatusCode)
		}
	}
}

func TestReplicasHaveTheirOwnPoints(t *testing.T) {
	s := newSystem(t)
	env := service.Env{
		Config: config.Config{Data: t.TempDir(), Replica: 2, Issuer: config.Issuer{URL: issuer},
			Guard: config.Guard{Point: "gateway", Tenant: "acme"}},
		Feed: s.feed, IssuerKeys: token.KeySet{}, FeedKey: edKey(t, s.signer.Key()),
	}
	svc, err := New(env)
	if err != nil {
		t.Fatal(err)
	}
	if got := svc.Points[2]; got != (service.Enforcement{Tenant: "acme", Point: "gateway-2"}) || svc.Points[0].Point != "gateway" {
		t.Errorf("points %v", svc.Points)
	}
	env.Config.Guard.Tenant = "Not A Tenant"
	if _, err := New(env); err == nil {
		t.Error("a bad tenant is taken")
	}
}
