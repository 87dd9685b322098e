package service

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/keys"
	"github.com/lanyard-nhi/lanyard/services/internal/outbound"
	"github.com/lanyard-nhi/lanyard/services/internal/secret"
	"github.com/lanyard-nhi/lanyard/services/internal/state"
	"go.uber.org/zap"
)

// connectTimeout is how long a start waits for NATS, the streams and Redis.
const connectTimeout = 2 * time.Minute

// noFeed is the feed of an environment that is connected to nothing.
type noFeed struct{}

var errDry = errors.New("connected to nothing: New of a service must not use its environment")

func (noFeed) Subscribe(context.Context, func(guard.Message)) error { return errDry }
func (noFeed) Fill(context.Context, uint64, func(guard.Message) error) (uint64, error) {
	return 0, errDry
}
func (noFeed) Answer(context.Context, events.Event) error { return errDry }

// connect fills the parts of the environment that reach outside, in order; what is
// opened is put on r's stack and closed in reverse by whoever stops r.
func (r *Running) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	for _, step := range []func(context.Context) error{r.connectBus, r.provision, r.openState, r.openOutbound, r.openNamer, r.openGuard} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	return nil
}

// busConfig is the connection of one NATS user.
func (r *Running) busConfig(user string) (bus.Config, error) {
	seed, err := r.env.Keys.NkeySeed(user)
	if err != nil {
		return bus.Config{}, err
	}
	c := bus.Config{URL: r.natsURL, Name: user, NkeySeed: seed, CAFile: r.env.Config.NATS.CA, MonitorURL: r.env.Config.NATS.Monitor,
		ServerSyncAlways: r.servers.SyncAlways, Log: r.env.Log, Now: r.env.Now}
	if r.servers.InProcess != nil {
		c.InProcess = r.servers.InProcess
	} else if s, err := r.env.Keys.NkeySeed(UserSystem); err == nil && r.env.Config.NATS.Monitor == "" {
		c.SystemSeed = s
	} else if err != nil && !errors.Is(err, keys.ErrNoKey) {
		return c, err
	}
	return c, nil
}

func (r *Running) connectBus(ctx context.Context) error {
	c, err := r.busConfig(r.name)
	if err != nil {
		return err
	}
	c.Metrics = r.env.Metrics
	conn, err := bus.Connect(ctx, c)
	if err != nil {
		return err
	}
	r.env.Bus = conn
	r.push(conn.Close)
	return nil
}

// provision makes the streams when this process may, and otherwise waits until
// somebody who may has.
func (r *Running) provision(ctx context.Context) error {
	c, err := r.busConfig(UserProvision)
	if errors.Is(err, keys.ErrNoKey) {
		return r.awaitStreams(ctx)
	}
	if err != nil {
		return err
	}
	conn, err := bus.Connect(ctx, c)
	if err != nil {
		return err
	}
	return errors.Join(bus.Provision(ctx, conn, bus.Options{Replicas: r.env.Config.NATS.Replicas}), conn.Close())
}

func (r *Running) awaitStreams(ctx context.Context) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 2*time.Second) {
		_, err := r.env.Bus.LastSequence(ctx, bus.StreamKill, ">")
		if err == nil {
			return nil
		}
		r.env.Log.Info("waiting for the streams", zap.Error(err))
		if !pause(ctx, wait) {
			return fmt.Errorf("wait for the streams: %w: start a process that has the key of the user %s first", err, UserProvision)
		}
	}
}

// pause waits for d; false means that ctx ended.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (r *Running) openState(ctx context.Context) error {
	u, err := redisURL(r.env.Config.Redis, r.servers.RedisURL)
	if err != nil || u.Empty() {
		return err // a process without projections
	}
	s, err := state.Open(ctx, u.Reveal(), state.WithLog(r.env.Log), state.WithMetrics(r.env.Metrics), state.WithNow(r.env.Now))
	if err != nil {
		return err
	}
	r.env.State = s
	r.push(s.Close)
	return nil
}

// redisURL is the URL with the password in it.
func redisURL(c config.Redis, embedded secret.Secret) (secret.Secret, error) {
	if c.URL == "" {
		return embedded, nil
	}
	if c.PasswordFile == "" {
		return secret.New(c.URL), nil
	}
	pw, err := secret.Read(c.PasswordFile)
	if err != nil {
		return secret.Secret{}, err
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return secret.Secret{}, errors.New("read redis.url: not a URL")
	}
	name := ""
	if u.User != nil {
		name = u.User.Username()
	}
	u.User = url.UserPassword(name, pw.Reveal())
	return secret.New(u.String()), nil
}

func (r *Running) openOutbound(context.Context) error {
	c := r.env.Config
	o := outbound.Options{Ports: c.Outbound.Ports, Timeout: c.Outbound.Timeout.D(), MaxBody: c.Outbound.MaxBody,
		Own: []string{c.Issuer.URL, c.Issuer.JWKS}, CAFile: c.TLS.CA}
	for _, t := range c.Issuance.Trusted {
		if t.Local {
			o.Own = append(o.Own, t.JWKS)
		}
	}
	client, err := outbound.New(o)
	if err != nil {
		return err
	}
	r.env.Outbound = client
	r.push(func() error { client.CloseIdleConnections(); return nil })
	return nil
}

func (r *Running) openNamer(context.Context) error {
	key, err := r.env.Keys.LineageKey()
	if errors.Is(err, keys.ErrNoKey) {
		return nil
	}
	if err != nil {
		return err
	}
	r.env.Namer, err = lineage.NewNamer(key)
	return err
}

// openGuard makes the process's own guard. Its keys come from the ring where that
// has them, and from the issuer otherwise.
func (r *Running) openGuard(ctx context.Context) error {
	c := r.env.Config
	if c.Issuer.URL == "" {
		return errors.New("make guard: issuer.url is empty: set it to the URL at which issuance is reached")
	}
	bc, err := r.busConfig(r.name)
	if err != nil {
		return err
	}
	feed, closeFeed, err := bus.DialFeed(ctx, bc)
	if err != nil {
		return err
	}
	r.push(func() error { closeFeed(); return nil })
	r.env.Feed = feed
	if r.env.FeedKey, err = r.env.Keys.FeedPublic(); err != nil {
		return err
	}
	r.env.IssuerKeys = r.issuerKeys()
	dir := filepath.Join(c.Data, "guards")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make guard: %w", err)
	}
	point := Point(r.name, c.Replica)
	r.env.Guard, err = guard.New(guard.Config{
		Point: point, Tenant: SystemTenant, Issuer: c.Issuer.URL, Audience: c.Issuer.URL,
		Keys: r.env.IssuerKeys, FeedKey: r.env.FeedKey, Feed: feed,
		StateFile: filepath.Join(dir, point+".json"), Lease: c.Guard.Lease.D(), Now: r.env.Now,
		Denied: denied(r.env.Log.Named("guard"), point),
	})
	return err
}

func (r *Running) issuerKeys() token.Keys {
	if len(r.env.Keys.Public()) > 0 {
		return r.env.Keys
	}
	remote := &guard.RemoteKeys{Client: r.env.Outbound, URL: r.env.Config.Issuer.JWKS, Now: r.env.Now}
	r.background = append(r.background, func(ctx context.Context) {
		remote.Run(ctx, func(err error) {
			r.env.Log.Warn("cannot fetch the issuer's keys", zap.String("url", r.env.Config.Issuer.JWKS), zap.Error(err))
		})
	})
	return remote
}

// denied logs why a caller was refused; the caller is not told.
func denied(log *zap.Logger, point string) func(guard.Denial) {
	return func(d guard.Denial) {
		f := []zap.Field{zap.String("point", point), zap.String("code", d.Code), zap.String("reason", d.Reason)}
		if d.Claims != nil {
			f = append(f, zap.String("tenant", d.Claims.Tenant), zap.String("subject", d.Claims.Subject), zap.String("credential", d.Claims.ID))
		}
		if d.Revocation != "" {
			f = append(f, zap.String("revocation", d.Revocation), zap.String("by", d.By), zap.Time("at", d.At))
		}
		log.Info("caller denied", f...)
	}
}
