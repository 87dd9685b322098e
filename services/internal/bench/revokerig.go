package bench

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

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
	"github.com/lanyard-nhi/lanyard/services/revocation"
)

// revokeRig is revocation with all it needs.
type revokeRig struct {
	server  *server.Server
	env     service.Env
	svc     service.Service
	bearer  string
	stops   []func()
	cancel  context.CancelFunc
	running sync.WaitGroup
	dir     string
	guards  int

	mu      sync.Mutex
	waiting lineage.Handle
	refused chan time.Time // one per guard that refuses waiting
}

func (r *revokeRig) close() {
	r.cancel()
	r.running.Wait()
	for i := len(r.stops) - 1; i >= 0; i-- {
		r.stops[i]()
	}
}

func newRevokeRig(ctx context.Context, o Options, s *server.Server, c *bus.Conn, downstreams ...config.Downstream) (_ *revokeRig, err error) {
	run, cancel := context.WithCancel(ctx)
	r := &revokeRig{server: s, cancel: cancel, refused: make(chan time.Time, 1024)}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if r.dir, err = os.MkdirTemp(o.Dir, "revoke"); err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	r.stops = append(r.stops, func() { _ = os.RemoveAll(r.dir) })
	cfg := config.Default(r.dir)
	cfg.Issuer.URL = revokeIssuer
	cfg.Revocation.Downstreams = downstreams
	r.env = service.Env{Config: cfg.Complete(), Log: zap.NewNop(), Metrics: prometheus.NewRegistry(), Now: time.Now, Rand: rand.Reader, Bus: c}
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	if r.env.Guard, err = r.guard(run, "service-revocation", false); err != nil {
		return nil, err
	}
	if r.svc, err = revocation.New(r.env); err != nil {
		return nil, err
	}
	r.stops = append(r.stops, func() { _ = r.svc.Close() })
	r.running.Go(func() { _ = c.Run(run, bus.Spec{Service: r.svc.Name, Handlers: r.svc.Handlers}) })
	for _, t := range r.svc.Tasks {
		r.running.Go(func() { _ = t.Run(run) })
	}
	return r, r.await(ctx, r.env.Guard)
}

// open opens keys and Redis and makes the operator's token.
func (r *revokeRig) open(ctx context.Context) (err error) {
	if r.env.Keys, err = keys.Open(filepath.Join(r.dir, "keys"), true); err != nil {
		return err
	}
	key, err := r.env.Keys.LineageKey()
	if err != nil {
		return err
	}
	if r.env.Namer, err = lineage.NewNamer(key); err != nil {
		return err
	}
	redis, err := embedded.StartRedis(embedded.RedisOptions{})
	if err != nil {
		return err
	}
	r.stops = append(r.stops, func() { _ = redis.Stop() })
	if r.env.State, err = state.Open(ctx, redis.URL().Reveal()); err != nil {
		return err
	}
	r.stops = append(r.stops, func() { _ = r.env.State.Close() })
	signer, err := r.env.Keys.Signer()
	if err != nil {
		return err
	}
	now := time.Now().Unix()
	r.bearer, err = signer.Sign(token.TypAccess, token.Claims{Issuer: revokeIssuer, Subject: "bench", Audience: token.Strings{revokeIssuer}, ClientID: "bench",
		IssuedAt: now, Expires: now + 3600, ID: "bench", Scope: service.ScopeOperator, Tenant: service.SystemTenant,
		Lineage: []lineage.Handle{r.env.Namer.Name(lineage.KindIdentity, service.SystemTenant, "bench")}})
	return err
}

// guard starts a guard with a connection of its own. A timed one tells when it
// refuses what is waited for.
func (r *revokeRig) guard(ctx context.Context, point string, timed bool) (*guard.Guard, error) {
	raw, done, err := bus.DialFeed(ctx, bus.Config{InProcess: r.server, Name: point})
	if err != nil {
		return nil, err
	}
	public, err := r.env.Keys.FeedPublic()
	if err != nil {
		done()
		return nil, err
	}
	tf := &timedFeed{Feed: raw, rig: r}
	cfg := guard.Config{Point: point, Tenant: benchTenant, Issuer: revokeIssuer, Audience: revokeIssuer, Keys: r.env.Keys, FeedKey: public, Feed: raw}
	if timed {
		cfg.Feed = tf
	}
	g, err := guard.New(cfg)
	if err != nil {
		done()
		return nil, err
	}
	tf.guard = g
	r.stops = append(r.stops, done)
	r.running.Go(func() { _ = g.Run(ctx) })
	return g, nil
}

// timedFeed notes when its guard refuses, right after it was given the entry.
type timedFeed struct {
	guard.Feed
	rig   *revokeRig
	guard *guard.Guard
	seen  lineage.Handle
}

// Subscribe implements guard.Feed.
func (f *timedFeed) Subscribe(ctx context.Context, deliver func(guard.Message)) error {
	return f.Feed.Subscribe(ctx, func(m guard.Message) {
		deliver(m)
		f.rig.mu.Lock()
		h := f.rig.waiting
		f.rig.mu.Unlock()
		if h == f.seen || h == (lineage.Handle{}) {
			return
		}
		if _, dead := f.guard.Dead([]lineage.Handle{h}); dead {
			f.seen = h
			f.rig.refused <- time.Now()
		}
	})
}

// attach starts n timed guards and waits until they are present.
func (r *revokeRig) attach(ctx context.Context, n int) error {
	run, cancel := context.WithCancel(ctx)
	old := r.cancel
	r.cancel = func() { cancel(); old() }
	r.guards = n
	for i := range n {
		g, err := r.guard(run, "bench-"+strconv.Itoa(i), true)
		if err != nil {
			return err
		}
		if err := r.await(ctx, g); err != nil {
			return err
		}
	}
	return r.poll(ctx, func() (bool, error) {
		w := r.call(ctx, http.MethodGet, "/v1/guards", nil)
		return bytes.Count(w.Body.Bytes(), []byte(`"present":true`)) == n+1, nil
	})
}

func (r *revokeRig) await(ctx context.Context, g *guard.Guard) error {
	select {
	case <-g.Ready():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(30 * time.Second):
		return fmt.Errorf("guard is not ready: %s", g.Status().Problem)
	}
}

func (r *revokeRig) poll(ctx context.Context, ok func() (bool, error)) error {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		if done, err := ok(); done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

func (r *revokeRig) task(i int) string { return "task-" + strconv.Itoa(i) }

func bigName(i int) string { return "delegation-" + strconv.Itoa(i) }

func (r *revokeRig) named(kind lineage.Kind, id string) events.Named {
	return events.Named{Handle: r.env.Namer.Name(kind, benchTenant, id).String(), Kind: string(kind), Tenant: benchTenant, ID: id}
}

// tasks issues n credentials, each of a task of its own.
func (r *revokeRig) tasks(ctx context.Context, n int) error {
	return r.issue(ctx, n, "t", func(i int) []events.Named { return []events.Named{r.named(lineage.KindTask, r.task(i))} })
}

func midName(i int) string { return "delegation-some-" + strconv.Itoa(i) }

// subtree issues n credentials below each of revokeBig delegations.
func (r *revokeRig) subtree(ctx context.Context, n int, prefix string, name func(int) string) error {
	above := make([]events.Named, revokeBig)
	for i := range above {
		above[i] = r.named(lineage.KindDelegation, name(i))
	}
	return r.issue(ctx, n, prefix, func(int) []events.Named { return above })
}

// issue puts credentials on the log and waits until the graph holds them.
func (r *revokeRig) issue(ctx context.Context, n int, prefix string, above func(int) []events.Named) error {
	now := time.Now().UTC()
	var batch []events.Event
	for i := range n {
		jti := prefix + strconv.Itoa(i)
		p := events.CredentialIssued{Credential: jti, TokenSHA256: token.HashText(jti), Identity: "agent", Task: "bench", Audience: []string{"https://api.bench"},
			Scope: []string{"read"}, Names: above(i), IssuedAt: now, ExpiresAt: now.Add(14 * time.Minute), KeyID: "kid", Policy: "bench"}
		for _, h := range p.Names {
			p.Lineage = append(p.Lineage, h.Handle)
		}
		e, err := events.New(events.Origin{Source: "/bench", Tenant: benchTenant, Time: now, ID: jti}, p)
		if err != nil {
			return err
		}
		if batch = append(batch, e); len(batch) == 1000 || i == n-1 {
			if err := r.env.Bus.Publish(ctx, batch...); err != nil {
				return err
			}
			batch = nil
		}
	}
	last, err := r.env.Bus.LastSequence(ctx, bus.StreamLog, events.LogSubject("*", "credential", "issued", "*"))
	if err != nil {
		return err
	}
	return r.env.State.Wait(ctx, "subtree/2", last)
}

func (r *revokeRig) call(ctx context.Context, method, path string, body []byte) *httptest.ResponseRecorder {
	q := httptest.NewRequestWithContext(ctx, method, path, bytes.NewReader(body))
	q.Header.Set("Authorization", "Bearer "+r.bearer)
	w := httptest.NewRecorder()
	r.svc.HTTP.ServeHTTP(w, q)
	return w
}

// post asks for a revoke in process and returns its id and when it was accepted.
func (r *revokeRig) post(ctx context.Context, kind lineage.Kind, id string, confirm int64) (revocation string, accepted time.Time, err error) {
	body, err := json.Marshal(map[string]any{"target": events.Target{Kind: string(kind), Tenant: benchTenant, ID: id}, "reason": "bench", "confirm": confirm})
	if err != nil {
		return "", time.Time{}, err
	}
	w := r.call(ctx, http.MethodPost, "/v1/revocations", body)
	var got struct {
		Revocation string    `json:"revocation"`
		AcceptedAt time.Time `json:"accepted_at"`
	}
	if w.Code != http.StatusAccepted {
		return "", time.Time{}, fmt.Errorf("revoke %s %s: %d %s", kind, id, w.Code, w.Body)
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		return "", time.Time{}, fmt.Errorf("read answer: %w", err)
	}
	return got.Revocation, got.AcceptedAt, nil
}

// revoke revokes and waits until every timed guard refuses.
func (r *revokeRig) revoke(ctx context.Context, kind lineage.Kind, id string, confirm int64) (accepted, last time.Time, err error) {
	r.mu.Lock()
	r.waiting = r.env.Namer.Name(kind, benchTenant, id)
	r.mu.Unlock()
	rev, accepted, err := r.post(ctx, kind, id, confirm)
	if err != nil {
		return accepted, last, err
	}
	for range r.guards {
		select {
		case at := <-r.refused:
			if at.After(last) {
				last = at
			}
		case <-ctx.Done():
			return accepted, last, ctx.Err()
		case <-time.After(20 * time.Second):
			return accepted, last, fmt.Errorf("not every guard refuses %s %s", kind, id)
		}
	}
	return accepted, last, r.quiet(ctx, rev)
}

// quiet waits until the revocation is closed, so that its receipts are not in the
// way of the next measurement.
func (r *revokeRig) quiet(ctx context.Context, id string) error {
	w := r.call(ctx, http.MethodGet, "/v1/revocations/"+id+"?wait=30s", nil)
	if !bytes.Contains(w.Body.Bytes(), []byte(`"state":"closed"`)) {
		return fmt.Errorf("revocation %s is not closed: %s", id, w.Body)
	}
	return nil
}

// fanout is subscribers of the republished kill feed that only verify signatures.
type fanout struct {
	server *server.Server
	conns  []*nats.Conn
	js     jetstream.JetStream
	got    chan time.Time
	n      int
	data   []byte // a signed kill entry
}

func (f *fanout) close() {
	for _, c := range f.conns {
		c.Close()
	}
}

func (f *fanout) attach(n int) error {
	f.got = make(chan time.Time, 1024)
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	signer, err := token.NewSigner("", private)
	if err != nil {
		return err
	}
	f.data, err = guard.SealEntry(signer, guard.Entry{Handle: lineage.Handle{1}, Mode: events.ModeRevoke, Revocation: events.DeterministicID("bench"),
		Reason: "bench", By: "bench", At: time.Now(), Keep: time.Now().Add(time.Hour), Epoch: 1})
	if err != nil {
		return err
	}
	deliver := func(m *nats.Msg) {
		if _, err := guard.OpenEntry(m.Data, public); err == nil {
			f.got <- time.Now()
		}
	}
	for i := range n + 1 {
		nc, err := nats.Connect("", nats.InProcessServer(f.server))
		if err != nil {
			return fmt.Errorf("connect subscriber: %w", err)
		}
		f.conns = append(f.conns, nc)
		if i == n {
			f.js, err = jetstream.New(nc)
		} else if _, err = nc.Subscribe("nhi.feed.>", deliver); err == nil {
			err = nc.Flush()
		}
		if err != nil {
			return fmt.Errorf("subscribe: %w", err)
		}
	}
	f.n = n
	return nil
}

// publish publishes once and waits until every subscriber has it.
func (f *fanout) publish(ctx context.Context) (last time.Time, err error) {
	if _, err := f.js.PublishMsg(ctx, &nats.Msg{Subject: "nhi.kill.bench", Data: f.data}); err != nil {
		return last, err
	}
	for range f.n {
		select {
		case at := <-f.got:
			if at.After(last) {
				last = at
			}
		case <-ctx.Done():
			return last, ctx.Err()
		}
	}
	return last, nil
}
