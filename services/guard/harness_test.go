package guard

import (
	"context"
	"crypto/ed25519"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/guard/natsfeed"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/bus/bustest"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	issuer   = "https://issuer.example"
	audience = "https://orders.acme.example"
)

// system is a real server with the kill feed, its keys and who beats for it.
type system struct {
	t      testing.TB
	conn   *bus.Conn
	nc     *nats.Conn
	feed   *natsfeed.Feed
	issuer token.Signer
	signer token.Signer // of the kill feed
	last   atomic.Uint64
	quiet  atomic.Bool // no heartbeats
}

func newSigner(t testing.TB) token.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := token.NewSigner("", private)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newSystem(t testing.TB) *system {
	t.Helper()
	srv := bustest.Server(t)
	s := &system{t: t, conn: bustest.Connect(t, srv), issuer: newSigner(t), signer: newSigner(t)}
	if err := bus.Provision(t.Context(), s.conn, bus.Options{Replicas: 1}); err != nil {
		t.Fatal(err)
	}
	var err error
	if s.nc, err = nats.Connect("", nats.InProcessServer(srv), nats.MaxReconnects(-1), nats.ReconnectWait(10*time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.nc.Close)
	if s.feed, err = natsfeed.New(s.nc); err != nil {
		t.Fatal(err)
	}
	return s
}

// beat sends heartbeats until the test ends.
func (s *system) beat() {
	tick := time.NewTicker(50 * time.Millisecond)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-s.t.Context().Done():
				return
			case <-tick.C:
				if !s.quiet.Load() {
					s.heartbeat()
				}
			}
		}
	}()
	s.t.Cleanup(func() { tick.Stop(); <-done })
}

func (s *system) heartbeat() {
	raw, err := guard.SealHeartbeat(s.signer, guard.Heartbeat{Epoch: 1, Last: s.last.Load(), Time: time.Now()})
	if err == nil {
		_, err = s.conn.Kill(s.t.Context(), guard.HeartbeatName, raw, "", nil, 0)
	}
	if err != nil && s.t.Context().Err() == nil {
		s.t.Errorf("heartbeat: %v", err)
	}
}

func (s *system) revoke(h lineage.Handle, rev string) uint64 {
	s.t.Helper()
	now := time.Now()
	raw, err := guard.SealEntry(s.signer, guard.Entry{Handle: h, Mode: events.ModeRevoke, Revocation: rev, Reason: "leaked",
		By: "alice", At: now, Keep: now.Add(20 * time.Minute), Epoch: 1})
	if err != nil {
		s.t.Fatal(err)
	}
	seq, err := s.conn.Kill(s.t.Context(), h.String(), raw, rev, nil, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	s.last.Store(seq)
	return seq
}

func (s *system) token(h lineage.Handle, change ...func(*token.Claims)) string {
	s.t.Helper()
	now := time.Now()
	c := token.Claims{Issuer: issuer, Subject: "agent-1", Audience: token.Strings{audience}, ClientID: "agent-1",
		IssuedAt: now.Unix(), Expires: now.Add(5 * time.Minute).Unix(), ID: "jti-" + h.String(), Scope: "orders.read",
		Tenant: "acme", Task: "task-1", Lineage: []lineage.Handle{{0xff}, h}}
	for _, f := range change {
		f(&c)
	}
	raw, err := s.issuer.Sign(token.TypAccess, c)
	if err != nil {
		s.t.Fatal(err)
	}
	return raw
}

// open runs the service until the test ends.
func (s *system) open(change ...func(*service.Env)) *httptest.Server {
	s.t.Helper()
	env := service.Env{
		Config: config.Config{Data: s.t.TempDir(), Issuer: config.Issuer{URL: issuer},
			Guard: config.Guard{Point: "gateway", Tenant: "acme", Audience: audience, Lease: config.Duration(5 * time.Second)}},
		Metrics: prometheus.NewRegistry(), Now: time.Now,
		Feed: s.feed, IssuerKeys: token.NewKeySet(s.issuer.Key()), FeedKey: s.signer.Key().Public.(ed25519.PublicKey),
	}
	for _, f := range change {
		f(&env)
	}
	svc, err := New(env)
	if err != nil {
		s.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- svc.Tasks[0].Run(ctx) }()
	srv := httptest.NewServer(svc.HTTP)
	s.t.Cleanup(func() {
		srv.Close()
		stop()
		if err := <-done; err != nil {
			s.t.Errorf("run: %v", err)
		}
	})
	return srv
}

// ask sends one check.
func ask(t testing.TB, srv *httptest.Server, query string, header http.Header) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/v1/check"+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header[k] = v
	}
	res, err := srv.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if err := res.Body.Close(); err != nil {
		t.Fatal(err)
	}
	return res
}

func bearer(raw string) http.Header { return http.Header{"Authorization": {"Bearer " + raw}} }

// eventually polls until ok, at most ten seconds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not in ten seconds: %s", what)
		case <-tick.C:
		}
	}
}
