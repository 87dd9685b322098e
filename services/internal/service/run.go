package service

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/keys"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"
)

// RunOptions of Start and Run. Name and Config are required.
type RunOptions struct {
	Name   string // the process's NATS user: the service's name, or UserAll for all in one
	Config config.Config
	Log    *zap.Logger // default: none
	// Embed starts the servers that Config names no URL for. With it the process also
	// makes missing keys. Without it every key and server must be there.
	Embed Embed
	Now   func() time.Time // default time.Now
	Rand  io.Reader        // default crypto/rand
	// Ready is called once everything has started, with the actual addresses. Optional.
	Ready func(*Running)
}

// Running is a process's services as they run. Stop it.
type Running struct {
	name     string
	env      Env
	topology Topology
	services []Service
	servers  Servers
	natsURL  string
	bound    listeners
	http     []*http.Server
	closers  []func() error // of what was opened, in order

	background []func(context.Context) // beside the guard, until the guard ends
	work       sync.WaitGroup          // handlers and tasks
	infra      sync.WaitGroup          // guard, key refresh
	stopWork   context.CancelFunc
	stopInfra  context.CancelFunc
	stopping   atomic.Bool
	started    atomic.Bool
	failed     chan error // the first thing that ended the process
	once       sync.Once
	stopErr    error
}

func (r *Running) push(f func() error) { r.closers = append(r.closers, f) }

// Start connects, provisions the streams if this process may, starts the process's
// own guard, the services' handlers, tasks and HTTP servers and the debug server,
// and returns when all of them run. The guard may not be fresh yet, see WaitFresh.
// ctx bounds the start only.
func Start(ctx context.Context, o RunOptions, cs ...Constructor) (_ *Running, err error) {
	r, err := newRunning(o)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", o.Name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("start %s: %w", o.Name, err), r.Stop())
		}
	}()
	if r.topology, err = Describe(r.env.Config, cs...); err != nil {
		return nil, err
	}
	if err := r.listen(); err != nil {
		return nil, err
	}
	if err := r.embed(ctx, o.Embed); err != nil {
		return nil, err
	}
	if err := r.connect(ctx); err != nil {
		return nil, err
	}
	for _, build := range cs {
		s, err := build(r.env)
		if err != nil {
			return nil, err
		}
		r.services = append(r.services, s)
		if s.Close != nil {
			r.push(s.Close)
		}
	}
	if err := r.launch(); err != nil {
		return nil, err
	}
	r.started.Store(true)
	if o.Ready != nil {
		o.Ready(r)
	}
	return r, nil
}

// Run starts the services and runs them until ctx ends or one cannot go on, and then
// stops them in order.
func Run(ctx context.Context, o RunOptions, cs ...Constructor) error {
	r, err := Start(ctx, o, cs...)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case err = <-r.failed:
	}
	return errors.Join(err, r.Stop())
}

func newRunning(o RunOptions) (*Running, error) {
	c := o.Config.Complete()
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Rand == nil {
		o.Rand = rand.Reader
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return nil, err
	}
	ring, err := keys.Open(c.Keys, o.Embed != nil)
	if err != nil {
		return nil, err
	}
	metrics := prometheus.NewRegistry()
	for _, col := range []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := metrics.Register(col); err != nil {
			return nil, err
		}
	}
	return &Running{name: o.Name, failed: make(chan error, 1), stopWork: func() {}, stopInfra: func() {},
		env: Env{Config: c, Log: o.Log, Metrics: metrics, Now: o.Now, Rand: o.Rand, Keys: ring}}, nil
}

// listen binds the addresses, and derives the issuer URL from issuance's when none
// is configured.
func (r *Running) listen() error {
	var names []string
	for _, n := range r.topology.Services {
		if n.HTTP {
			names = append(names, n.Service)
		}
	}
	var err error
	if r.bound, err = bind(r.env.Config, names); err != nil {
		return err
	}
	r.push(r.bound.close)
	c := &r.env.Config
	if l, ok := r.bound["issuance"]; ok && c.Issuer.URL == "" {
		scheme := "http://"
		if c.TLS.Cert != "" {
			scheme = "https://"
		}
		c.Issuer.URL = scheme + l.Addr().String()
		*c = c.Complete()
	}
	return nil
}

// embed starts the servers of this process, or makes sure that there are others.
func (r *Running) embed(ctx context.Context, start Embed) error {
	c := r.env.Config
	r.natsURL = c.NATS.URL
	if start == nil {
		if c.NATS.URL == "" {
			return errors.New("nats.url is empty and this process runs no server of its own: set it, or use lanyard up")
		}
		return nil
	}
	users, err := WithKeys(Permissions(r.topology, c.NATS.Users), r.env.Keys)
	if err != nil {
		return err
	}
	if r.servers, err = start(ctx, c, users, r.env.Log); err != nil {
		return err
	}
	r.push(r.servers.Stop)
	if r.servers.NATSURL != "" {
		r.natsURL = r.servers.NATSURL
	}
	return nil
}

// launch starts everything that runs in the background.
func (r *Running) launch() error {
	infra, stopInfra := context.WithCancel(context.Background())
	work, stopWork := context.WithCancel(context.Background())
	r.stopInfra, r.stopWork = stopInfra, stopWork
	r.infra.Go(func() { r.keepGoing(infra, "guard", "run", r.env.Guard.Run) })
	for _, f := range r.background {
		r.infra.Go(func() { f(infra) })
	}
	for _, s := range r.services {
		if len(s.Handlers) > 0 || s.Sweep {
			spec := bus.Spec{Service: s.Name, Handlers: s.Handlers, Exclusive: s.Exclusive, OnOwn: s.OnOwn, Sweep: s.Sweep}
			r.work.Go(func() {
				r.keepGoing(work, s.Name, "handlers", func(ctx context.Context) error { return r.env.Bus.Run(ctx, spec) })
			})
		}
		for _, t := range s.Tasks {
			r.work.Go(func() { r.keepGoing(work, s.Name, t.Name, t.Run) })
		}
	}
	return r.serve()
}

// keepGoing runs f until ctx ends, again with back-off whenever it ends by itself.
func (r *Running) keepGoing(ctx context.Context, service, task string, f func(context.Context) error) {
	const first, longest = 100 * time.Millisecond, 30 * time.Second
	wait := first
	for {
		start := time.Now() // of the back-off, which is about real time
		err := guarded(ctx, f)
		if ctx.Err() != nil {
			if err != nil && !errors.Is(err, context.Canceled) {
				r.env.Log.Warn("task did not end well", zap.String("service", service), zap.String("task", task), zap.Error(err))
			}
			return
		}
		if time.Since(start) > time.Minute {
			wait = first
		}
		r.env.Log.Error("task ended; starting it again", zap.String("service", service), zap.String("task", task), zap.Duration("after", wait), zap.Error(err))
		if !pause(ctx, wait) {
			return
		}
		wait = min(2*wait, longest)
	}
}

// guarded turns a panic of f into an error.
func guarded(ctx context.Context, f func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f(ctx)
}

// serve starts the HTTP servers on the bound addresses.
func (r *Running) serve() error {
	conf, err := tlsConfig(r.env.Config.TLS)
	if err != nil {
		return err
	}
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "lanyard_http_request_seconds",
		Help: "Time to answer HTTP requests.", Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 10, 60}},
		[]string{"service", "method", "status"})
	if err := r.env.Metrics.Register(seconds); err != nil {
		return err
	}
	handlers := map[string]http.Handler{"debug": debugHandler(r.readiness, r.env.Metrics, r.env.Config.Debug.Pprof)}
	asks := map[string]bool{}
	for _, s := range r.services {
		if s.HTTP != nil {
			handlers[s.Name], asks[s.Name] = s.HTTP, s.ClientCertificates
		}
	}
	for name, h := range handlers {
		l, ok := r.bound[name]
		if !ok {
			r.env.Log.Warn("service has an HTTP API but no address to listen at", zap.String("service", name))
			continue
		}
		s := newServer(name, h, r.env.Log, seconds, r.env.Now)
		serve := s.Serve
		if conf != nil {
			s.TLSConfig = conf.Clone() // a server changes its own
			if asks[name] {
				s.TLSConfig.ClientAuth = tls.RequestClientCert
			}
			serve = func(l net.Listener) error { return s.ServeTLS(l, "", "") }
		}
		r.http = append(r.http, s)
		r.infra.Go(func() {
			if err := serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
				r.fail(fmt.Errorf("serve %s: %w", name, err))
			}
		})
		r.env.Log.Info("listening", zap.String("service", name), zap.String("address", l.Addr().String()), zap.Bool("tls", conf != nil))
	}
	return nil
}

func (r *Running) fail(err error) {
	select {
	case r.failed <- err:
	default: // something else failed first
	}
}

func (r *Running) readiness() readiness {
	s := readiness{Stopping: r.stopping.Load(), Guard: "fresh"}
	g := r.env.Guard.Status()
	if !g.Fresh {
		s.Guard = "not fresh"
		if g.Problem != "" {
			s.Guard += ": " + g.Problem
		}
	}
	s.Ready = r.started.Load() && !s.Stopping && g.Fresh
	return s
}

// serviceNames are the services of this process, sorted.
func (r *Running) serviceNames() []string {
	var names []string
	for _, n := range r.topology.Services {
		names = append(names, n.Service)
	}
	slices.Sort(names)
	return names
}

// address of a listener; nil when there is none.
func (r *Running) address(name string) net.Addr {
	if l, ok := r.bound[name]; ok {
		return l.Addr()
	}
	return nil
}
