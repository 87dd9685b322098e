package intake

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/bus/bustest"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

const issuer = "http://issuer.example"

// world is intake over HTTP on a real NATS server, behind a real guard that follows
// a kill feed with heartbeats.
type world struct {
	t       testing.TB
	nats    *natsserver.Server
	conn    *bus.Conn
	url     string
	handler http.Handler
	metrics *prometheus.Registry
	signer  token.Signer
}

func newWorld(t testing.TB, change ...func(*config.Config)) *world {
	t.Helper()
	w := &world{t: t, nats: bustest.Server(t), metrics: prometheus.NewRegistry()}
	w.conn = bustest.Connect(t, w.nats)
	if err := bus.Provision(t.Context(), w.conn, bus.Options{Replicas: 1}); err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	feedPublic, feedPrivate, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w.signer = token.Signer{ID: "k1", Algorithm: "ES256", Private: key}
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	t.Cleanup(func() { cancel(); tasks.Wait() })
	feed, closeFeed, err := bus.DialFeed(ctx, bus.Config{InProcess: w.nats, Name: "feed"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(closeFeed)
	g, err := guard.New(guard.Config{Point: "service-intake", Tenant: "lanyard", Issuer: issuer, Audience: issuer,
		Keys: token.NewKeySet(token.Key{ID: "k1", Algorithm: "ES256", Public: key.Public()}), FeedKey: feedPublic, Feed: feed})
	if err != nil {
		t.Fatal(err)
	}
	cfg := config.Config{Issuer: config.Issuer{URL: issuer}}
	for _, f := range change {
		f(&cfg)
	}
	svc, err := build(service.Env{Config: cfg, Log: zap.NewNop(), Metrics: w.metrics, Now: time.Now, Bus: w.conn, Guard: g}, 2*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	feedSigner := token.Signer{ID: "feed", Algorithm: "EdDSA", Private: feedPrivate}
	tasks.Go(func() { w.beat(ctx, feedSigner) })
	tasks.Go(func() { _ = g.Run(ctx) })
	srv := httptest.NewServer(svc.HTTP)
	t.Cleanup(srv.Close)
	w.url, w.handler = srv.URL, svc.HTTP
	select {
	case <-g.Ready():
	case <-time.After(20 * time.Second):
		t.Fatal("the guard does not get ready")
	}
	return w
}

// beat is the heartbeat that revocation processes send.
func (w *world) beat(ctx context.Context, s token.Signer) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		if raw, err := guard.SealHeartbeat(s, guard.Heartbeat{Epoch: 1, Time: time.Now()}); err == nil {
			_, _ = w.conn.Kill(ctx, guard.HeartbeatName, raw, "", nil, 0)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (w *world) token(tenant, subject, scope string, change ...func(*token.Claims)) string {
	w.t.Helper()
	now := time.Now()
	c := token.Claims{Issuer: issuer, Subject: subject, Audience: token.Strings{issuer}, ClientID: subject, IssuedAt: now.Unix(),
		Expires: now.Add(5 * time.Minute).Unix(), ID: "jti-1", Scope: scope, Tenant: tenant, Lineage: []lineage.Handle{{1, 2, 3}}}
	for _, f := range change {
		f(&c)
	}
	raw, err := w.signer.Sign(token.TypAccess, c)
	if err != nil {
		w.t.Fatal(err)
	}
	return raw
}

func (w *world) acme() string { return w.token("acme", "shop", service.ScopeIntake) }

func (w *world) operator() string {
	return w.token(service.SystemTenant, "operator", service.ScopeOperator)
}

// answer is what intake answered.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) result(t testing.TB) Result {
	t.Helper()
	var r Result
	if a.status != http.StatusAccepted {
		t.Fatalf("status is %d: %s", a.status, a.body)
	}
	if err := json.Unmarshal(a.body, &r); err != nil {
		t.Fatal(err)
	}
	return r
}

func (a answer) code(t testing.TB) string {
	t.Helper()
	var p struct {
		Code, Detail string
		Status       int
	}
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		t.Fatalf("content type is %q: %s", got, a.body)
	}
	if err := json.Unmarshal(a.body, &p); err != nil {
		t.Fatal(err)
	}
	if p.Status != a.status || p.Detail == "" {
		t.Errorf("problem is %s with status %d", a.body, a.status)
	}
	return p.Code
}

// post sends a request; header values that hold a line break stand for several headers.
func (w *world) post(path, bearer string, header map[string]string, body []byte) answer {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.url+path, bytes.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	for k, v := range header {
		for one := range strings.SplitSeq(v, "\n") {
			r.Header.Add(k, one)
		}
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer res.Body.Close()
	out, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, out}
}

// stored lists what is in NHI_IN.
func (w *world) stored() []events.Event {
	w.t.Helper()
	var out []events.Event
	for s, err := range w.conn.Read(w.t.Context(), bus.StreamIn, ">", 1) {
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, s.Event)
	}
	return out
}

func (w *world) dead() []bus.Dead {
	w.t.Helper()
	var out []bus.Dead
	for d, err := range w.conn.DeadLetters(w.t.Context(), 1) {
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, d)
	}
	return out
}

// counted is what the counter says of a source and a result.
func (w *world) counted(source, result string) int {
	w.t.Helper()
	families, err := w.metrics.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "lanyard_intake_events_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			labels := map[string]string{}
			for _, l := range m.GetLabel() {
				labels[l.GetName()] = l.GetValue()
			}
			if labels["source"] == source && labels["result"] == result {
				return int(m.GetCounter().GetValue())
			}
		}
	}
	return 0
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}
