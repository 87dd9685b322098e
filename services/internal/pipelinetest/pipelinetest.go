// Package pipelinetest runs the whole system inside a test, in any process layout:
// every service in one process, or each service in processes of its own with its own
// connection, NATS user, guard and data directory, and several replicas of each.
// Servers are the embedded ones, syncing every write. Any test of the services module
// may import it; nothing else may.
package pipelinetest

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/guard/natsfeed"
	"github.com/lanyard-nhi/lanyard/services/internal/allinone"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/demo"
	"github.com/lanyard-nhi/lanyard/services/internal/embedded"
	"github.com/lanyard-nhi/lanyard/services/internal/embedded/oidc"
	"github.com/lanyard-nhi/lanyard/services/internal/keys"
	"github.com/lanyard-nhi/lanyard/services/internal/operator"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"go.uber.org/zap"
)

// UserChaos is a NATS user that may do everything; no deployment has one.
const UserChaos = "chaos"

// Options of Start.
type Options struct {
	// Replicas of each service, each a process of its own. 0: all services in one process.
	Replicas int
	Log      *zap.Logger            // default: none
	Change   func(c *config.Config) // of every process, before it starts. Optional.
	Users    []config.User          // of NATS, outside the services
	Now      func() time.Time       // default: the wall clock
	Services []service.Constructor  // default: all
}

// Process is one process of the system, as far as a process can be one inside a test.
type Process struct {
	Name    string // its NATS user: a service, or service.UserAll
	Replica int

	system  *System
	mu      sync.Mutex
	running *service.Running
}

// System is the running system. It ends with the test.
type System struct {
	NATS  *embedded.NATS
	Redis *embedded.Redis
	Keys  *keys.Ring
	Dir   string

	// Base URLs. Each is a load balancer in front of the service's replicas, so it
	// stays while processes come and go.
	Issuer, Intake, Alerts, Revocation, Rotation, OIDC string

	Processes []*Process

	t         testing.TB
	o         Options
	redisFile string
	users     []service.User
	balancers map[string]*balancer
	ctors     map[string]service.Constructor
	operator  *operator.Source
	client    *http.Client
}

// Start starts everything and returns when every process admits callers and the
// operator is registered.
func Start(t testing.TB, o Options) *System {
	t.Helper()
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Services == nil {
		o.Services = allinone.Services()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &System{t: t, o: o, Dir: t.TempDir(), balancers: map[string]*balancer{}, ctors: map[string]service.Constructor{},
		client: &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}}
	t.Cleanup(s.client.CloseIdleConnections)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for _, step := range []func(context.Context) error{s.startServers, s.startOIDC, s.startBalancers, s.startProcesses, s.registerOperator} {
		if err := step(ctx); err != nil {
			t.Fatalf("start the system: %v", err)
		}
	}
	return s
}

func (s *System) startServers(context.Context) error {
	var err error
	if s.Keys, err = keys.Open(filepath.Join(s.Dir, "keys"), true); err != nil {
		return err
	}
	topology, err := service.Describe(config.Default(s.Dir), s.o.Services...)
	if err != nil {
		return err
	}
	s.users = append(service.Permissions(topology, s.o.Users),
		service.User{Name: UserChaos, Publish: []string{">"}, Subscribe: []string{">"}})
	if s.users, err = service.WithKeys(s.users, s.Keys); err != nil {
		return err
	}
	if s.NATS, err = embedded.StartNATS(embedded.Options{Dir: filepath.Join(s.Dir, "nats"), Users: s.users, Log: s.o.Log}); err != nil {
		return err
	}
	s.t.Cleanup(func() { _ = s.NATS.Stop() }) // stopping a server that serves nobody cannot fail
	s.redisFile = filepath.Join(s.Dir, "redis.password")
	if s.Redis, err = embedded.StartRedis(embedded.RedisOptions{PasswordFile: s.redisFile}); err != nil {
		return err
	}
	s.t.Cleanup(func() { _ = s.Redis.Stop() })
	return nil
}

// shared is a service.Embed that hands every process the servers of the system.
func (s *System) shared(context.Context, config.Config, []service.User, *zap.Logger) (service.Servers, error) {
	return service.Servers{NATSURL: s.NATS.URL(), InProcess: s.NATS, SyncAlways: s.NATS.SyncAlways,
		RedisURL: s.Redis.URL(), RedisPasswordFile: s.redisFile, Stop: func() error { return nil }}, nil
}

func (s *System) startOIDC(context.Context) error {
	var h atomic.Pointer[http.Handler]
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*h.Load()).ServeHTTP(w, r) }))
	s.t.Cleanup(srv.Close)
	s.OIDC = srv.URL
	issuer, err := oidc.New(oidc.Config{URL: srv.URL, SecretFile: filepath.Join(s.Dir, "keys", "local-issuer.secret"),
		KeyFile: filepath.Join(s.Dir, "local-issuer.jwk"), Now: s.o.Now})
	h.Store(&issuer)
	return err
}

func (s *System) startBalancers(context.Context) error {
	for name, at := range map[string]*string{"issuance": &s.Issuer, "intake": &s.Intake, "anomaly": &s.Alerts, "revocation": &s.Revocation, "rotation": &s.Rotation} {
		b := newBalancer()
		srv := httptest.NewServer(b)
		s.t.Cleanup(srv.Close)
		s.balancers[name], *at = b, srv.URL
	}
	return nil
}

func (s *System) startProcesses(ctx context.Context) error {
	if s.o.Replicas == 0 {
		return s.add(ctx, service.UserAll, 0)
	}
	for _, ctor := range s.o.Services {
		topology, err := service.Describe(config.Default(s.Dir), ctor)
		if err != nil {
			return err
		}
		s.ctors[topology.Services[0].Service] = ctor
	}
	for _, name := range []string{"issuance", "revocation", "intake", "anomaly", "rotation", "guard"} {
		for replica := range s.o.Replicas {
			if _, ok := s.ctors[name]; !ok {
				continue
			}
			if err := s.add(ctx, name, replica); err != nil {
				return err
			}
		}
	}
	for _, p := range s.Processes {
		if err := p.waitFresh(ctx); err != nil {
			return fmt.Errorf("%s %d: %w", p.Name, p.Replica, err)
		}
	}
	return nil
}

func (s *System) add(ctx context.Context, name string, replica int) error {
	p := &Process{Name: name, Replica: replica, system: s}
	s.Processes = append(s.Processes, p)
	s.t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			s.t.Errorf("stop %s %d: %v", name, replica, err)
		}
	})
	return p.Start(ctx)
}

func (p *Process) config() config.Config {
	s := p.system
	c := config.Default(filepath.Join(s.Dir, fmt.Sprintf("%s-%d", p.Name, p.Replica)))
	c.Keys, c.Replica = filepath.Join(s.Dir, "keys"), p.Replica
	c.Issuer.URL = s.Issuer
	c.Guard.Audience = s.Issuer
	c.Issuance.Trusted = []config.TrustedIssuer{
		{Issuer: operator.Issuer, JWKS: "file://" + s.Keys.OperatorJWKSPath()},
		{Issuer: s.OIDC, JWKS: s.OIDC + "/jwks", Local: true}}
	if s.o.Change != nil {
		s.o.Change(&c)
	}
	return c
}

// Start starts the process and returns when it admits callers. Its data directory is
// the one it had.
func (p *Process) Start(ctx context.Context) error {
	s := p.system
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running != nil {
		return errors.New("it runs already")
	}
	ctors := s.o.Services
	if p.Name != service.UserAll {
		ctors = []service.Constructor{s.ctors[p.Name]}
	}
	c := p.config()
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return err
	}
	r, err := service.Start(ctx, service.RunOptions{Name: p.Name, Config: c, Log: s.o.Log.Named(p.Name), Embed: s.shared, Now: s.o.Now}, ctors...)
	if err != nil {
		return err
	}
	p.running = r
	for name, b := range s.balancers {
		b.set(p, r.URL(name))
	}
	if len(s.balancers["revocation"].targets()) > 0 { // before, there is no heartbeat
		if err := r.WaitFresh(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (p *Process) waitFresh(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.running.WaitFresh(ctx)
}

// Stop ends the process in order. It may be started again.
func (p *Process) Stop() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		return nil
	}
	for _, b := range p.system.balancers {
		b.set(p, "")
	}
	r := p.running
	p.running = nil
	return r.Stop()
}

// Restart stops and starts the process.
func (p *Process) Restart(ctx context.Context) error {
	if err := p.Stop(); err != nil {
		return fmt.Errorf("stop %s %d: %w", p.Name, p.Replica, err)
	}
	if err := p.Start(ctx); err != nil {
		return fmt.Errorf("start %s %d again: %w", p.Name, p.Replica, err)
	}
	return nil
}

func (s *System) registerOperator(ctx context.Context) error {
	jwk, err := s.Keys.OperatorJWK()
	if err != nil {
		return err
	}
	cred, err := operator.Write(filepath.Join(s.Dir, "operator.json"), jwk.Reveal(), s.Issuer, s.Issuer+"/oauth2/token")
	if err != nil {
		return err
	}
	conn, err := s.Connect(ctx, UserChaos)
	if err != nil {
		return err
	}
	e, err := events.New(events.Origin{Source: "/lanyard/up", Tenant: operator.Tenant, Time: s.o.Now()}, operator.Declaration(s.Issuer))
	if err != nil {
		return err
	}
	if err := conn.Publish(ctx, e); err != nil {
		return err
	}
	s.operator = operator.NewSource(cred, s.client, s.o.Now)
	return operator.Await(ctx, cred, 30*time.Second)
}

// Connect connects to the bus as a NATS user; the connection ends with the test.
func (s *System) Connect(ctx context.Context, user string) (*bus.Conn, error) {
	seed, err := s.Keys.NkeySeed(user)
	if err != nil {
		return nil, err
	}
	c, err := bus.Connect(ctx, bus.Config{InProcess: s.NATS, Name: user, NkeySeed: seed, ServerSyncAlways: s.NATS.SyncAlways, Log: s.o.Log, Now: s.o.Now})
	if err != nil {
		return nil, err
	}
	s.t.Cleanup(func() { _ = c.Close() }) // the test is over
	return c, nil
}

// Demo is the system as a product and a responder see it.
func (s *System) Demo() demo.System {
	secret, err := os.ReadFile(filepath.Join(s.Dir, "keys", "local-issuer.secret"))
	if err != nil {
		s.t.Fatal(err)
	}
	key, err := s.Keys.FeedPublic()
	if err != nil {
		s.t.Fatal(err)
	}
	return demo.System{Issuer: s.Issuer, Intake: s.Intake, Alerts: s.Alerts, Revocation: s.Revocation, LocalOIDC: s.OIDC,
		LocalSecret: strings.TrimSpace(string(secret)), Operator: s.operator.Token, Guard: s.guard, FeedKey: key, HTTP: s.client}
}

// guard is the configuration of a product's guard, with a feed under its own user.
func (s *System) guard(ctx context.Context, tenant, point, audience string) (guard.Config, error) {
	user := service.UserName(config.User{Kind: "guard", Tenant: tenant, Point: point})
	feed, err := natsfeed.DialUser(s.NATS.URL(), user, filepath.Join(s.Dir, "keys", "nats", user+".nk"))
	if err != nil {
		return guard.Config{}, err
	}
	s.t.Cleanup(feed.Close)
	rk := &guard.RemoteKeys{URL: s.Issuer + "/.well-known/jwks.json", Client: s.client, Now: s.o.Now}
	if err := rk.Refresh(ctx); err != nil {
		return guard.Config{}, err
	}
	key, err := s.Keys.FeedPublic()
	if err != nil {
		return guard.Config{}, err
	}
	return guard.Config{Point: point, Tenant: tenant, Issuer: s.Issuer, Audience: audience, Keys: rk, FeedKey: key, Feed: feed}, nil
}

// balancer is an HTTP load balancer whose targets come and go.
type balancer struct {
	mu    sync.Mutex
	to    map[*Process]*url.URL
	order []*Process
	next  int
	proxy *httputil.ReverseProxy
}

func newBalancer() *balancer {
	b := &balancer{to: map[*Process]*url.URL{}}
	b.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			if u := b.pick(); u != nil {
				r.SetURL(u)
			}
			r.SetXForwarded()
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	return b
}

// ServeHTTP implements http.Handler.
func (b *balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if len(b.targets()) == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	b.proxy.ServeHTTP(w, r)
}

func (b *balancer) targets() []*Process {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.order
}

func (b *balancer) pick() *url.URL {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.order) == 0 {
		return nil
	}
	b.next++
	return b.to[b.order[b.next%len(b.order)]]
}

// set makes base the address of p, "" takes it out.
func (b *balancer) set(p *Process, base string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.to, p)
	if u, err := url.Parse(base); err == nil && base != "" {
		b.to[p] = u
	}
	b.order = nil
	for _, q := range p.system.Processes {
		if _, ok := b.to[q]; ok {
			b.order = append(b.order, q)
		}
	}
}
