package state

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"go.uber.org/zap"
)

const (
	openPatience  = 2 * time.Second        // how long Open waits for Redis to answer
	cachePatience = 250 * time.Millisecond // how long a decision waits for Redis before it reads the log instead
	downFor       = time.Second            // how long Redis is left alone after it failed a decision
	scanCount     = 512                    // keys per SCAN step
)

// errDown is what cache reads get while Redis is left alone.
var errDown = errors.New("redis did not answer a moment ago")

// Store is a connection to Redis. It is safe for concurrent use.
type Store struct {
	client  *redis.Client
	log     *zap.Logger
	now     func() time.Time
	metrics *metrics
	scripts scripts

	downUntil atomic.Int64 // unix nanoseconds
	down      atomic.Bool  // whether the last attempt failed; for logging once
	saver     *saver
	stop      context.CancelFunc
	done      sync.WaitGroup

	mu     sync.Mutex
	purge  []func()                 // empty the in-process caches of each Entities
	nudges map[string]chan struct{} // wakes the follower of a view in this process
}

// An Option of Open.
type Option func(*options)

type options struct {
	log     *zap.Logger
	metrics prometheus.Registerer
	now     func() time.Time
}

// WithLog sets where the store logs. Default: nowhere.
func WithLog(l *zap.Logger) Option { return func(o *options) { o.log = l } }

// WithMetrics sets where the store's metrics are registered. Default: nowhere.
func WithMetrics(r prometheus.Registerer) Option { return func(o *options) { o.metrics = r } }

// WithNow sets the clock that stamps positions. Default: time.Now.
func WithNow(now func() time.Time) Option { return func(o *options) { o.now = now } }

// Open connects to a redis:// or rediss:// URL. It fails when the URL is wrong or
// Redis refuses the credentials. When Redis does not answer within two seconds, the
// store is returned all the same: decisions go on from the log alone, and views
// are folded as soon as Redis is there.
func Open(ctx context.Context, url string, opts ...Option) (*Store, error) {
	o := options{log: zap.NewNop(), now: time.Now}
	for _, f := range opts {
		f(&o)
	}
	ro, err := redis.ParseURL(url)
	if err != nil {
		return nil, fmt.Errorf("parse redis URL: %w", redactURL(err))
	}
	ro.ContextTimeoutEnabled = true
	if ro.DialTimeout == 0 {
		ro.DialTimeout = time.Second
	}
	m, err := newMetrics(o.metrics)
	if err != nil {
		return nil, fmt.Errorf("register metrics of state: %w", err)
	}
	redis.SetLogger(clientLog{o.log})
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	s := &Store{
		client:  redis.NewClient(ro),
		log:     o.log,
		now:     o.now,
		metrics: m,
		scripts: newScripts(),
		stop:    stop,
		nudges:  map[string]chan struct{}{},
	}
	s.saver = newSaver(s)
	if err := s.greet(ctx); err != nil {
		stop()
		return nil, errors.Join(fmt.Errorf("open redis: %w", err), s.client.Close())
	}
	s.done.Go(func() { s.saver.run(run) })
	return s, nil
}

// greet pings until Redis answers or patience ends. Refused credentials are final.
func (s *Store) greet(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	for {
		err := s.client.Ping(wait).Err()
		switch {
		case err == nil:
			return nil
		case redis.IsAuthError(err), redis.IsPermissionError(err):
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case sleep(wait, 50*time.Millisecond) != nil:
			s.failed(err)
			return nil
		}
	}
}

// Close stops the background writer and closes the connection. Followers must have
// ended before.
func (s *Store) Close() error {
	s.stop()
	s.done.Wait()
	if err := s.client.Close(); err != nil {
		return fmt.Errorf("close redis: %w", err)
	}
	return nil
}

// Client is the Redis client, for views' reads. Writes go through Apply.
func (s *Store) Client() redis.UniversalClient { return s.client }

// Rebuild drops every projection. Followers notice and fold the log again.
func (s *Store) Rebuild(ctx context.Context) error {
	s.mu.Lock()
	purge := s.purge
	s.mu.Unlock()
	for _, f := range purge {
		f()
	}
	err := s.scan(ctx, entityPrefix+"*", func(keys []string) error {
		return s.client.Unlink(ctx, keys...).Err()
	})
	if err != nil {
		return fmt.Errorf("drop cached entities: %w", err)
	}
	// A view's own keys are deleted by its followers: they alone can do so without
	// deleting what is being folded again meanwhile.
	err = s.scan(ctx, positionPrefix+"*", func(keys []string) error {
		return s.client.Unlink(ctx, keys...).Err()
	})
	if err != nil {
		return fmt.Errorf("drop positions of views: %w", err)
	}
	return nil
}

// scan calls f with the keys that match, in steps.
func (s *Store) scan(ctx context.Context, match string, f func(keys []string) error) error {
	var cursor uint64
	for {
		keys, next, err := s.client.Scan(ctx, cursor, match, scanCount).Result()
		if err != nil {
			return err
		}
		if len(keys) > 0 {
			if err := f(keys); err != nil {
				return err
			}
		}
		if next == 0 {
			return nil
		}
		cursor = next
	}
}

// try runs a cache access with a short deadline, and not at all while Redis is
// known to be down.
func (s *Store) try(ctx context.Context, f func(context.Context) error) error {
	if time.Now().UnixNano() < s.downUntil.Load() {
		return errDown
	}
	short, cancel := context.WithTimeout(ctx, cachePatience)
	defer cancel()
	err := f(short)
	if err == nil || errors.Is(err, redis.Nil) {
		s.recovered()
		return err
	}
	if ctx.Err() == nil {
		s.failed(err)
	}
	return err
}

// failed notes that Redis did not serve. It is logged once until it serves again.
func (s *Store) failed(err error) {
	s.metrics.errors.Inc()
	s.downUntil.Store(time.Now().Add(downFor).UnixNano())
	if !s.down.Swap(true) {
		s.log.Warn("redis does not answer; decisions go on from the log", zap.Error(err))
	}
}

func (s *Store) recovered() {
	if s.down.Load() && s.down.Swap(false) {
		s.log.Info("redis answers again")
	}
}

// sleep waits for d or the end of ctx, whose error it returns.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// redactURL drops the URL, and so the password, from a parse error.
func redactURL(err error) error {
	for {
		inner := errors.Unwrap(err)
		if inner == nil {
			return errors.New("expected redis://[user:password@]host:port[/db] or rediss:// with the same")
		}
		err = inner
	}
}

// clientLog sends what the Redis client wants to say about its pool to the log of
// the process. It is state's business to report that Redis is down.
type clientLog struct{ log *zap.Logger }

// Printf implements the client's logger.
func (l clientLog) Printf(_ context.Context, format string, v ...any) {
	l.log.Debug("redis client", zap.String("detail", fmt.Sprintf(format, v...)))
}
