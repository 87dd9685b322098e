package bus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"
)

// timing holds every duration and count of the package, so that tests can make
// them short.
type timing struct {
	attempt     time.Duration // one publish attempt
	attempts    int           // publish attempts before ErrUnknownOutcome
	reconnect   int           // consecutive time-outs before the connection is made anew
	ackWait     time.Duration // the server redelivers after this without a sign of life
	nakFirst    time.Duration // delay of the first redelivery, doubled each time
	nakMax      time.Duration // longest delay of a redelivery
	tries       uint64        // attempts before a message is dead-lettered
	grace       time.Duration // how long a shutdown waits for running handlers
	leaseTTL    time.Duration // of an exclusive runner's lease, at least 1 s
	leaseRenew  time.Duration // how often it is renewed
	leasePoll   time.Duration // how often a stand-by asks for it
	maxPending  int           // unacknowledged messages per consumer
	dueKeep     time.Duration // how long a timer that has fired is kept, at least 1 s
	monitorWait time.Duration // how long to wait for the answers about the sync setting
}

func defaultTiming() timing {
	return timing{
		attempt: 2 * time.Second, attempts: 8, reconnect: 3,
		ackWait: 30 * time.Second, nakFirst: 100 * time.Millisecond, nakMax: 30 * time.Second, tries: 25,
		grace:    20 * time.Second,
		leaseTTL: 8 * time.Second, leaseRenew: 2 * time.Second, leasePoll: time.Second,
		maxPending: 2000, dueKeep: 7 * day, monitorWait: 2 * time.Second,
	}
}

// Conn is the connection of one process. It is safe for concurrent use.
type Conn struct {
	cfg     Config
	t       timing
	nc      *nats.Conn
	js      jetstream.JetStream
	log     *zap.Logger
	metrics *metrics
	tracer  trace.Tracer

	gone       chan struct{}         // closed when the connection is closed for good
	committers map[string]*committer // by stream, fixed
	patience   patience              // how long an answer is waited for
	timeouts   atomic.Int64          // consecutive publish time-outs
	reconnects sync.Mutex            // one forced reconnect at a time
}

// InboxPrefix is the inbox prefix of the NATS user called name. A user needs
// permission to subscribe to InboxPrefix(name) + ".>" and to no other inbox.
func InboxPrefix(name string) string {
	return "_INBOX_" + strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '-', r == '_':
			return r
		}
		return '_'
	}, name)
}

// Connect connects and waits for the server, with retries, until ctx ends.
//
// Outside loopback the connection is always TLS. A server on loopback that knows no
// nkeys is taken without credentials, with a warning: it is a development server.
func Connect(ctx context.Context, cfg Config) (*Conn, error) {
	return connect(ctx, cfg, defaultTiming())
}

func connect(ctx context.Context, cfg Config, t timing) (*Conn, error) {
	if cfg.Log == nil {
		cfg.Log = zap.NewNop()
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Name == "" {
		cfg.Name = "lanyard"
	}
	c := &Conn{cfg: cfg, t: t, patience: patience{period: t.attempt}, log: cfg.Log.Named("bus"), tracer: otel.Tracer("github.com/lanyard-nhi/lanyard/services/internal/bus")}
	m, err := newMetrics(cfg.Metrics)
	if err != nil {
		return nil, err
	}
	c.metrics = m
	if c.nc, err = dial(ctx, cfg, cfg.NkeySeed, c.log); err != nil {
		return nil, err
	}
	c.gone = make(chan struct{})
	c.nc.SetClosedHandler(func(*nats.Conn) { close(c.gone) })
	if c.js, err = jetstream.New(c.nc, jetstream.WithDefaultTimeout(5*time.Second), jetstream.WithPublishAsyncMaxPending(4*maxGroup)); err != nil {
		c.nc.Close()
		return nil, fmt.Errorf("open jetstream: %w", err)
	}
	c.committers = make(map[string]*committer)
	for _, s := range streamTable {
		c.committers[s.Name] = &committer{c: c, stream: s.Name}
	}
	return c, nil
}

// Close drains and closes the connection. Runners must have ended before.
func (c *Conn) Close() error {
	if c.nc.IsClosed() {
		return nil
	}
	err := c.nc.FlushTimeout(c.t.attempt)
	c.nc.Close()
	if err != nil {
		return fmt.Errorf("flush connection: %w", err)
	}
	return nil
}

// dial connects one NATS user.
func dial(ctx context.Context, cfg Config, seed []byte, log *zap.Logger) (*nats.Conn, error) {
	opts, local, err := dialOptions(cfg, log)
	if err != nil {
		return nil, err
	}
	credentials, err := credentialOptions(cfg, seed)
	if err != nil {
		return nil, err
	}
	wait := 100 * time.Millisecond
	for {
		nc, err := nats.Connect(cfg.URL, append(opts, credentials...)...)
		if errors.Is(err, nats.ErrNkeysNotSupported) && local {
			log.Warn("server asks for no credentials; connecting without, as it is on loopback", zap.String("url", redact(cfg.URL)))
			nc, err = nats.Connect(cfg.URL, opts...)
		}
		if err == nil {
			return nc, nil
		}
		log.Debug("cannot connect yet", zap.String("url", redact(cfg.URL)), zap.Error(err))
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to %s: %w (%w)", redact(cfg.URL), err, ctx.Err())
		case <-time.After(wait):
			wait = min(2*wait, 2*time.Second)
		}
	}
}

// dialOptions are the options without credentials, and whether the server is in
// this process or on loopback.
func dialOptions(cfg Config, log *zap.Logger) ([]nats.Option, bool, error) {
	opts := []nats.Option{
		nats.Name(cfg.Name), nats.CustomInboxPrefix(InboxPrefix(cfg.Name)),
		nats.MaxReconnects(-1), nats.ReconnectWait(250 * time.Millisecond), nats.ReconnectJitter(100*time.Millisecond, 500*time.Millisecond),
		nats.Timeout(2 * time.Second), nats.PingInterval(10 * time.Second), nats.MaxPingsOutstanding(2),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				log.Warn("disconnected from nats", zap.Error(err))
			}
		}),
		nats.ReconnectHandler(func(nc *nats.Conn) { log.Info("reconnected to nats", zap.String("server", nc.ConnectedServerName())) }),
		nats.ErrorHandler(func(_ *nats.Conn, s *nats.Subscription, err error) {
			f := []zap.Field{zap.Error(err)}
			if s != nil {
				f = append(f, zap.String("subject", s.Subject))
			}
			log.Warn("nats reported an error", f...)
		}),
	}
	if cfg.InProcess != nil {
		return append(opts, nats.InProcessServer(cfg.InProcess)), true, nil
	}
	local, secure, err := reach(cfg.URL)
	if err != nil {
		return nil, false, err
	}
	if cfg.CAFile != "" {
		opts = append(opts, nats.RootCAs(cfg.CAFile))
	} else if secure || !local {
		opts = append(opts, nats.Secure())
	}
	return opts, local, nil
}

func credentialOptions(cfg Config, seed []byte) ([]nats.Option, error) {
	switch {
	case len(seed) > 0:
		kp, err := nkeys.FromSeed(seed)
		if err != nil {
			return nil, fmt.Errorf("read nkey seed: %w", err)
		}
		public, err := kp.PublicKey()
		if err != nil {
			return nil, fmt.Errorf("read nkey seed: %w", err)
		}
		return []nats.Option{nats.Nkey(public, kp.Sign)}, nil
	case cfg.User != "":
		return []nats.Option{nats.UserInfo(cfg.User, cfg.Password)}, nil
	}
	return nil, nil
}

// reach reports whether every server of a comma-separated URL list is on loopback,
// and whether TLS is asked for.
func reach(urls string) (local, secure bool, err error) {
	local = true
	for _, s := range strings.Split(urls, ",") {
		u, err := url.Parse(strings.TrimSpace(s))
		if err != nil || u.Hostname() == "" {
			return false, false, fmt.Errorf("parse nats url %q: want nats://host:port or tls://host:port", redact(s))
		}
		switch u.Scheme {
		case "tls", "wss":
			secure = true
		case "nats", "ws":
		default:
			return false, false, fmt.Errorf("parse nats url %q: unknown scheme %q", redact(s), u.Scheme)
		}
		ip := net.ParseIP(u.Hostname())
		if u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
			local = false
		}
	}
	return local, secure, nil
}

// redact drops credentials from a URL.
func redact(s string) string {
	u, err := url.Parse(strings.TrimSpace(s))
	if err != nil {
		return "(unreadable)"
	}
	return u.Redacted()
}

// noteTimeout counts publish time-outs and makes the connection anew after a few:
// a leader that is cut off from its peers keeps a healthy TCP connection.
func (c *Conn) noteTimeout() {
	if c.timeouts.Add(1)%int64(c.t.reconnect) != 0 {
		return
	}
	if !c.reconnects.TryLock() {
		return
	}
	defer c.reconnects.Unlock()
	c.log.Warn("publishes time out; reconnecting", zap.Int64("timeouts", c.timeouts.Load()))
	if err := c.nc.ForceReconnect(); err != nil {
		c.log.Warn("cannot reconnect", zap.Error(err))
	}
}

func (c *Conn) noteAnswer() {
	if c.timeouts.Load() != 0 {
		c.timeouts.Store(0)
	}
}
