package issuance

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

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
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/grant"
)

// world is issuance on a real NATS server, an embedded Redis and HTTP, beside a feed
// that has heartbeats and takes revocations.
type world struct {
	t      *testing.T
	url    string
	conn   *bus.Conn
	redis  *miniredis.Miniredis
	ring   *keys.Ring
	namer  *lineage.Namer
	guard  *guard.Guard // of the service; its audience is the issuer
	feed   token.Signer
	feedOf guard.Feed
	http   http.Handler
	idp    *idp
	last   uint64 // newest entry on the feed
	mu     sync.Mutex

	configure func(*config.Config)
	listener  net.Listener // nil: a free port of its own
	failpoint func()
	beatStop  context.CancelFunc
	lease     time.Duration // 0: the default
}

// idp is an OIDC issuer whose tokens are made by go-jose.
type idp struct {
	issuer string
	key    *ecdsa.PrivateKey
}

func (i *idp) token(t *testing.T, sub, aud string, change ...func(map[string]any)) string {
	t.Helper()
	now := time.Now().Unix()
	c := map[string]any{"iss": i.issuer, "sub": sub, "aud": aud, "iat": now, "exp": now + 300}
	for _, f := range change {
		f(c)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: i.key, KeyID: "idp-1"}}, (&jose.SignerOptions{}).WithType("JWT"))
	require.NoError(t, err)
	body, err := json.Marshal(c)
	require.NoError(t, err)
	jws, err := s.Sign(body)
	require.NoError(t, err)
	out, err := jws.CompactSerialize()
	require.NoError(t, err)
	return out
}

func newWorld(t *testing.T, change ...func(*world)) *world {
	t.Helper()
	w := &world{t: t, redis: miniredis.RunT(t)}
	for _, f := range change {
		f(w)
	}
	nats := bustest.Server(t)
	w.conn = bustest.Connect(t, nats)
	require.NoError(t, bus.Provision(t.Context(), w.conn, bus.Options{Replicas: 1}))
	dir := t.TempDir()
	var err error
	w.ring, err = keys.Open(filepath.Join(dir, "keys"), true)
	require.NoError(t, err)
	lk, err := w.ring.LineageKey()
	require.NoError(t, err)
	w.namer, err = lineage.NewNamer(lk)
	require.NoError(t, err)
	w.feed, err = w.ring.FeedSigner()
	require.NoError(t, err)
	l := w.listener
	if l == nil {
		l, err = net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
	}
	w.url = "http://" + l.Addr().String()
	cfg := config.Config{Issuer: config.Issuer{URL: w.url}}
	cfg.Issuance.Trusted = []config.TrustedIssuer{w.newIDP(dir)}
	if w.configure != nil {
		w.configure(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var tasks sync.WaitGroup
	t.Cleanup(func() { cancel(); tasks.Wait() })

	store, err := state.Open(ctx, "redis://"+w.redis.Addr())
	require.NoError(t, err)
	t.Cleanup(func() { _ = store.Close() })
	feed, closeFeed, err := bus.DialFeed(ctx, bus.Config{InProcess: nats, Name: "feed"})
	require.NoError(t, err)
	t.Cleanup(closeFeed)
	w.feedOf = feed
	w.guard = w.newGuard(feed, "service-issuance", w.url)
	svc, err := build(service.Env{Config: cfg, Log: zap.NewNop(), Metrics: prometheus.NewRegistry(), Now: time.Now, Rand: rand.Reader,
		Bus: w.conn, State: store, Guard: w.guard, Keys: w.ring, Namer: w.namer}, func() {
		if w.failpoint != nil {
			w.failpoint()
		}
	})
	require.NoError(t, err)
	w.http = svc.HTTP
	beating, stop := context.WithCancel(ctx)
	w.beatStop = stop
	tasks.Go(func() { w.beat(beating) })
	tasks.Go(func() { _ = w.guard.Run(ctx) })
	tasks.Go(func() { _ = w.conn.Run(ctx, bus.Spec{Service: svc.Name, Handlers: svc.Handlers}) })
	for _, task := range svc.Tasks {
		tasks.Go(func() { _ = task.Run(ctx) })
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: svc.HTTP}}
	srv.Start()
	t.Cleanup(srv.Close)
	<-w.guard.Ready()
	return w
}

func (w *world) newIDP(dir string) config.TrustedIssuer {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(w.t, err)
	w.idp = &idp{issuer: "https://idp.example", key: k}
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: k.Public(), KeyID: "idp-1"}}})
	require.NoError(w.t, err)
	path := filepath.Join(dir, "idp.jwks.json")
	require.NoError(w.t, os.WriteFile(path, b, 0o600))
	return config.TrustedIssuer{Issuer: w.idp.issuer, JWKS: "file://" + path}
}

// ringKeys are the ring's public keys as of now.
type ringKeys struct{ *keys.Ring }

func (r ringKeys) Key(kid string) (token.Key, bool) { return token.NewKeySet(r.Public()...).Key(kid) }

func (w *world) newGuard(feed guard.Feed, point, audience string) *guard.Guard {
	pub, err := w.ring.FeedPublic()
	require.NoError(w.t, err)
	g, err := guard.New(guard.Config{Point: point, Tenant: "lanyard", Issuer: w.url, Audience: audience, Keys: ringKeys{w.ring}, FeedKey: pub, Feed: feed, Lease: w.lease})
	require.NoError(w.t, err)
	return g
}

// beat is the heartbeat that revocation processes send.
func (w *world) beat(ctx context.Context) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		w.mu.Lock()
		h := guard.Heartbeat{Epoch: 1, Last: w.last, Time: time.Now()}
		w.mu.Unlock()
		if raw, err := guard.SealHeartbeat(w.feed, h); err == nil {
			_, _ = w.conn.Kill(ctx, guard.HeartbeatName, raw, "", nil, 0)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// kill puts an entry on the feed, as revocation does first.
func (w *world) kill(h lineage.Handle, rev string, mode events.Mode) {
	now := time.Now()
	e := guard.Entry{Handle: h, Mode: mode, Revocation: rev, Reason: "test", By: "ir", At: now, Keep: now.Add(time.Hour), Epoch: 1}
	if mode == events.ModeFreeze {
		until := now.Add(time.Hour)
		e.Until = &until
	}
	raw, err := guard.SealEntry(w.feed, e)
	if err == nil {
		var seq uint64
		if seq, err = w.conn.Kill(context.Background(), h.String(), raw, rev+string(mode), nil, 0); err == nil {
			w.mu.Lock()
			w.last = max(w.last, seq)
			w.mu.Unlock()
		}
	}
	if err != nil {
		w.t.Errorf("kill %s: %v", rev, err)
	}
}

// record states the acceptance on the log, as revocation does next.
func (w *world) record(target events.Target, rev string, mode events.Mode) lineage.Handle {
	h := w.namer.Name(lineage.Kind(target.Kind), target.Tenant, target.ID)
	p := events.RevocationAccepted{Revocation: rev, Mode: mode, Target: target, Handle: h.String(), Reason: "test", By: "ir",
		AcceptedAt: time.Now(), Guards: []events.ExpectedGuard{}, Tenants: []string{}}
	if mode == events.ModeFreeze {
		until := time.Now().Add(time.Hour)
		p.Until = &until
	}
	w.publish(target.Tenant, p)
	return h
}

func (w *world) publish(tenant string, p events.Payload) events.Event {
	if tenant == "" {
		tenant = "lanyard"
	}
	e, err := events.New(events.Origin{Source: "/test", Tenant: tenant, Time: time.Now(), Discriminator: id()}, p)
	require.NoError(w.t, err)
	require.NoError(w.t, w.conn.Publish(context.Background(), e))
	return e
}

func id() string {
	b := make([]byte, 8)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}

func agent(name string) events.Registration {
	return events.Registration{Identity: name, Kind: events.KindAgent, Owner: "alice", Feature: "search", Purpose: "answers questions",
		KillSwitch: "identity", Scopes: []string{"read", "write"}, Audiences: []string{"https://a.example", "https://b.example"},
		Attestation: []events.Attestation{{Issuer: "https://idp.example", Subject: "wl/" + name}}}
}

// declare publishes a declaration and waits until the identity can be issued to.
func (w *world) declare(tenant string, reg events.Registration) {
	w.t.Helper()
	w.publish(tenant, events.IdentityDeclared{Registration: reg})
	w.eventually("registered", func() bool {
		n, err := w.conn.LastSequence(w.t.Context(), bus.StreamLog, events.LogSubject(tenant, "identity", "registered", reg.Identity))
		return err == nil && n > 0
	})
}

// answer is a response of the token endpoint.
type answer struct {
	status      int
	header      http.Header
	AccessToken string `json:"access_token"`
	IssuedType  string `json:"issued_token_type"`
	TokenType   string `json:"token_type"`
	ExpiresIn   int64  `json:"expires_in"`
	Scope       string `json:"scope"`
	Error       string `json:"error"`
	Description string `json:"error_description"`
}

func (w *world) post(form url.Values) answer {
	w.t.Helper()
	resp, err := http.Post(w.url+"/oauth2/token", "application/x-www-form-urlencoded", strings.NewReader(form.Encode()))
	require.NoError(w.t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(w.t, err)
	a := answer{status: resp.StatusCode, header: resp.Header}
	require.NoError(w.t, json.Unmarshal(body, &a), string(body))
	return a
}

// bearer is the form of a first grant to an agent made by agent.
func (w *world) bearer(name string) url.Values {
	return url.Values{"grant_type": {grant.GrantJWTBearer}, "assertion": {w.idp.token(w.t, "wl/"+name, w.url)},
		"task": {"task-1"}, "scope": {"read"}, "audience": {"https://a.example"}}
}

// exchange is the form by which an agent takes on parent.
func (w *world) exchange(parent, name string) url.Values {
	return url.Values{"grant_type": {grant.GrantExchange}, "subject_token": {parent}, "subject_token_type": {grant.TypeAccessToken},
		"actor_token": {w.idp.token(w.t, "wl/"+name, w.url)}, "actor_token_type": {grant.TypeJWT}, "audience": {"https://a.example"}}
}

func (w *world) issue(form url.Values) (string, token.Claims) {
	w.t.Helper()
	a := w.post(form)
	require.Equal(w.t, 200, a.status, "%s: %s", a.Error, a.Description)
	return a.AccessToken, w.claims(a.AccessToken)
}

func (w *world) claims(raw string) token.Claims {
	w.t.Helper()
	payload, _, err := token.Open(raw, token.TypAccess, ringKeys{w.ring})
	require.NoError(w.t, err)
	c, err := token.ParseClaims(payload)
	require.NoError(w.t, err)
	return c
}

// logged reads the newest event on the log at subject.
func logged[P events.Payload](w *world, subject string) (p P, e events.Event) {
	w.t.Helper()
	found := false
	for s, err := range w.conn.Read(w.t.Context(), bus.StreamLog, subject, 1) {
		require.NoError(w.t, err)
		v, err := events.As[P](s.Event)
		require.NoError(w.t, err)
		p, e, found = v, s.Event, true
	}
	require.True(w.t, found, subject)
	return p, e
}
