package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/embedded"
	"github.com/lanyard-nhi/lanyard/services/internal/keys"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/internal/state"
	"github.com/lanyard-nhi/lanyard/services/issuance"
)

const (
	issueIdentities = 256 // that ask for tokens
	issueInProcess  = 64  // callers at once, in process
	issueClients    = 8   // over HTTP
	issueIDP        = "https://idp.bench"
	issueAudience   = "https://api.bench"
	// issueTarget is three times what OpenBao's token create reaches on such a machine.
	issueTarget = 6600
)

// Issue measures issuance: each token is attested (ES256), decided over the folded
// state, signed (ES256) and durably on the log (a server that syncs every write) before
// it is handed out. Server, Redis, callers and issuance share the machine.
func Issue(ctx context.Context, o Options) ([]Row, error) {
	var rows []Row
	_, err := withServer(ctx, o, true, func(s *server.Server, c *bus.Conn) (float64, error) {
		r, err := newIssueRig(ctx, o, s, c)
		if err != nil {
			return 0, err
		}
		defer r.close()
		rows, err = r.measure(ctx, o)
		return 0, err
	})
	return rows, err
}

func (r *issueRig) measure(ctx context.Context, o Options) ([]Row, error) {
	ours, limit, err := Compare(ctx, o, "issue.throughput", r.inProcess, r.bareCrypto)
	if err != nil {
		return nil, err
	}
	rows := []Row{Ratio("issue.throughput", "tokens/s", "one ES256 verification and one ES256 signature per token on every core", ours, limit, 0.6, "min")}
	ours, limit, err = Compare(ctx, o, "issue.throughput_vs_recorded", r.inProcess, r.bareRecorded)
	if err != nil {
		return nil, err
	}
	rows = append(rows, Ratio("issue.throughput_vs_recorded", "tokens/s", "the same, and one record each in synced atomic batches of 64", ours, limit, 0.6, "min"))
	var rates, records, p99s []float64
	for i := range max(o.Rounds, 1) {
		runtime.GC()
		rate, err := r.overHTTP(ctx)
		if err != nil {
			return rows, fmt.Errorf("measure issue.http: %w", err)
		}
		record, err := r.bareRecords(ctx)
		if err != nil {
			return rows, fmt.Errorf("measure the limit of issue.http: %w", err)
		}
		runtime.GC()
		p99, err := r.paced(ctx, rate/2)
		if err != nil {
			return rows, fmt.Errorf("measure issue.latency_p99_half_load: %w", err)
		}
		o.Progress("issue.http round %d: %.4g tokens/s (%.4g bare records/s); p99 at half of it %.3g ms", i+1, rate, record, p99)
		rates, records, p99s = append(rates, rate), append(records, record), append(p99s, p99)
	}
	decision, err := policyDecision(ctx, o)
	if err != nil {
		return rows, fmt.Errorf("measure policy.decision_p99: %w", err)
	}
	memory, err := r.growth(ctx, o)
	if err != nil {
		return rows, err
	}
	return append(rows,
		Absolute("issue.http", "tokens/s", rates, issueTarget, "min"),
		Ratio("issue.http_vs_records", "tokens/s", "synced atomic batches of eight records and nothing else: one for each client", rates, records, 0.5, "min"),
		Absolute("issue.latency_p99_half_load", "ms", p99s, 15, "max"), decision[0], decision[1], memory), nil
}

// issueRig is issuance with all it needs.
type issueRig struct {
	server   *server.Server
	url      string
	handler  http.Handler
	client   *http.Client
	idp      token.Signer
	window   time.Duration // of one measurement
	names    []string
	forms    []string // one request per identity
	signedAt time.Time
	stops    []func()
}

func (r *issueRig) close() {
	for i := len(r.stops) - 1; i >= 0; i-- {
		r.stops[i]()
	}
}

func newIssueRig(ctx context.Context, o Options, s *server.Server, c *bus.Conn) (_ *issueRig, err error) {
	r := &issueRig{server: s, window: 3 * time.Second}
	n := issueIdentities
	if o.Short {
		r.window, n = 300*time.Millisecond, 64
	}
	for i := range n {
		r.names = append(r.names, "agent-"+strconv.Itoa(i))
	}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	dir, err := os.MkdirTemp(o.Dir, "issue")
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	r.stops = append(r.stops, func() { _ = os.RemoveAll(dir) })
	env, err := r.environment(ctx, dir, s, c)
	if err != nil {
		return nil, err
	}
	svc, err := issuance.New(env)
	if err != nil {
		return nil, err
	}
	r.handler = svc.HTTP
	r.start(ctx, env, svc)
	select {
	case <-env.Guard.Ready():
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return r, r.declare(ctx, c)
}

// environment is what a process would give to issuance.
func (r *issueRig) environment(ctx context.Context, dir string, s *server.Server, c *bus.Conn) (service.Env, error) {
	env := service.Env{Log: zap.NewNop(), Metrics: prometheus.NewRegistry(), Now: time.Now, Rand: rand.Reader, Bus: c}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return env, err
	}
	r.url = "http://" + l.Addr().String()
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { r.handler.ServeHTTP(w, q) }), ReadHeaderTimeout: time.Minute}
	r.stops = append(r.stops, func() { _ = srv.Close() })
	r.client = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 256}}
	if r.idp, err = newBenchSigner(); err != nil {
		return env, err
	}
	jwks, err := token.JWKS([]token.Key{r.idp.Key()})
	if err != nil {
		return env, err
	}
	if err := os.WriteFile(filepath.Join(dir, "idp.json"), jwks, 0o600); err != nil {
		return env, err
	}
	env.Config = config.Config{Issuer: config.Issuer{URL: r.url}}
	env.Config.Issuance.Trusted = []config.TrustedIssuer{{Issuer: issueIDP, JWKS: "file://" + filepath.Join(dir, "idp.json")}}
	if env.Keys, err = keys.Open(filepath.Join(dir, "keys"), true); err != nil {
		return env, err
	}
	lineageKey, err := env.Keys.LineageKey()
	if err != nil {
		return env, err
	}
	if env.Namer, err = lineage.NewNamer(lineageKey); err != nil {
		return env, err
	}
	redis, err := embedded.StartRedis(embedded.RedisOptions{})
	if err != nil {
		return env, err
	}
	r.stops = append(r.stops, func() { _ = redis.Stop() })
	if env.State, err = state.Open(ctx, redis.URL().Reveal()); err != nil {
		return env, err
	}
	r.stops = append(r.stops, func() { _ = env.State.Close() })
	feed, closeFeed, err := bus.DialFeed(ctx, bus.Config{InProcess: s, Name: "feed"})
	if err != nil {
		return env, err
	}
	r.stops = append(r.stops, closeFeed)
	public, err := env.Keys.FeedPublic()
	if err != nil {
		return env, err
	}
	env.Guard, err = guard.New(guard.Config{Point: "service-issuance", Tenant: service.SystemTenant, Issuer: r.url, Audience: r.url,
		Keys: token.NewKeySet(env.Keys.Public()...), FeedKey: public, Feed: feed})
	go func() { _ = srv.Serve(l) }() // ends with Close
	return env, err
}

// start runs what a process would: guard, handlers, tasks, and the heartbeats that
// revocation sends.
func (r *issueRig) start(parent context.Context, env service.Env, svc service.Service) {
	ctx, cancel := context.WithCancel(parent)
	var wg sync.WaitGroup
	r.stops = append(r.stops, func() { cancel(); wg.Wait() })
	wg.Go(func() { _ = env.Guard.Run(ctx) })
	wg.Go(func() { _ = env.Bus.Run(ctx, bus.Spec{Service: svc.Name, Handlers: svc.Handlers}) })
	for _, t := range svc.Tasks {
		wg.Go(func() { _ = t.Run(ctx) })
	}
	wg.Go(func() {
		signer, err := env.Keys.FeedSigner()
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for err == nil && ctx.Err() == nil {
			var raw []byte
			if raw, err = guard.SealHeartbeat(signer, guard.Heartbeat{Epoch: 1, Time: time.Now()}); err == nil {
				_, _ = env.Bus.Kill(ctx, guard.HeartbeatName, raw, "", nil, 0)
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	})
}

// declare registers the identities and waits until each got a token.
func (r *issueRig) declare(ctx context.Context, c *bus.Conn) error {
	var es []events.Event
	for _, name := range r.names {
		e, err := events.New(events.Origin{Source: "/bench", Tenant: benchTenant, Time: time.Now()},
			events.IdentityDeclared{Registration: events.Registration{Identity: name, Kind: events.KindAgent, Owner: "team-1", Feature: "bench",
				Purpose: "asks for tokens", KillSwitch: "identity", Scopes: []string{"read", "write"}, Audiences: []string{issueAudience},
				Attestation: []events.Attestation{{Issuer: issueIDP, Subject: "system:serviceaccount:bench:" + name}}}})
		if err != nil {
			return err
		}
		es = append(es, e)
	}
	if err := c.Publish(ctx, es...); err != nil {
		return err
	}
	if err := r.sign(); err != nil {
		return err
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for i := 0; i < len(r.forms); {
		if r.call(i) == nil {
			i++
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// sign makes a fresh assertion for every identity.
func (r *issueRig) sign() error {
	r.forms, r.signedAt = nil, time.Now()
	for i, name := range r.names {
		now := r.signedAt.Unix()
		raw, err := r.idp.Sign("JWT", map[string]any{"iss": issueIDP, "sub": "system:serviceaccount:bench:" + name, "aud": r.url,
			"iat": now, "exp": now + 600, "jti": "bench-" + strconv.Itoa(i)})
		if err != nil {
			return err
		}
		r.forms = append(r.forms, url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {raw},
			"task": {"nightly-report"}, "scope": {"read"}, "audience": {issueAudience}}.Encode())
	}
	return nil
}

// fresh renews the assertions when they have served for half of their life.
func (r *issueRig) fresh() error {
	if time.Since(r.signedAt) < 5*time.Minute {
		return nil
	}
	return r.sign()
}

// call asks for a token in process.
func (r *issueRig) call(i int) error {
	req := httptest.NewRequest(http.MethodPost, "/oauth2/token", strings.NewReader(r.forms[i]))
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	r.handler.ServeHTTP(w, req)
	if w.Code != http.StatusOK {
		return fmt.Errorf("token request: status %d: %s", w.Code, w.Body)
	}
	return nil
}

// post asks for a token over HTTP.
func (r *issueRig) post(i int) error {
	resp, err := r.client.Post(r.url+"/oauth2/token", "application/x-www-form-urlencoded", strings.NewReader(r.forms[i]))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("token request: status %d", resp.StatusCode)
	}
	return nil
}

func (r *issueRig) inProcess(ctx context.Context) (float64, error) {
	return r.closedLoop(ctx, issueInProcess, r.call)
}

func (r *issueRig) overHTTP(ctx context.Context) (float64, error) {
	return r.closedLoop(ctx, issueClients, r.post)
}

// closedLoop lets callers ask one after the other, each for identities of its own, and
// returns tokens per second.
func (r *issueRig) closedLoop(ctx context.Context, callers int, ask func(int) error) (float64, error) {
	if err := r.fresh(); err != nil {
		return 0, err
	}
	var n atomic.Int64
	start := time.Now()
	end := start.Add(r.window)
	g, ctx := errgroup.WithContext(ctx)
	for c := range callers {
		g.Go(func() error {
			for i := c; time.Now().Before(end) && ctx.Err() == nil; i += callers {
				if err := ask(i % len(r.forms)); err != nil {
					return err
				}
				n.Add(1)
			}
			return ctx.Err()
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	return float64(n.Load()) / time.Since(start).Seconds(), nil
}

// paced sends requests over HTTP at an even rate, whether earlier ones have been
// answered or not, and returns the p99 in milliseconds from when each was due.
func (r *issueRig) paced(ctx context.Context, rate float64) (float64, error) {
	if err := r.fresh(); err != nil {
		return 0, err
	}
	if rate <= 0 {
		return 0, errors.New("no rate to halve")
	}
	total := int(rate * r.window.Seconds())
	took := make([]float64, total)
	start := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for i := range total {
		due := start.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if d := time.Until(due); d > 0 {
			select {
			case <-ctx.Done():
			case <-time.After(d):
			}
		}
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			err := r.post(i % len(r.forms))
			took[i] = float64(time.Since(due)) / float64(time.Millisecond)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return 0, err
	}
	return Quantile(took, 0.99), nil
}

func newBenchSigner() (token.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return token.Signer{}, err
	}
	return token.NewSigner("", key)
}
