package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/bus/raw"
	"github.com/nats-io/nats-server/v2/server"
	"golang.org/x/sync/errgroup"
)

// Bus measures the bus against plain JetStream on the same server: handlers,
// durable publishes, latency at low load. Each figure has a server of its own, so
// that no round pays for the files of another.
func Bus(ctx context.Context, o Options) ([]Row, error) {
	var rows []Row
	for _, f := range []func(context.Context, Options) (Row, error){
		func(ctx context.Context, o Options) (Row, error) {
			return handleThroughput(ctx, o, "bus.handle_throughput", false, 0.5)
		},
		func(ctx context.Context, o Options) (Row, error) {
			return handleThroughput(ctx, o, "bus.handle_throughput_sync_always", true, 0.5)
		},
		func(ctx context.Context, o Options) (Row, error) {
			return durablePublish(ctx, o, "bus.durable_publish", 32, 1000)
		},
		func(ctx context.Context, o Options) (Row, error) {
			return durablePublish(ctx, o, "bus.durable_publish_single", 1, 64)
		},
		lowLoad,
	} {
		r, err := f(ctx, o)
		if err != nil {
			return rows, err
		}
		rows = append(rows, r)
	}
	return rows, nil
}

const (
	benchTenant = "acme"
	benchFilter = "nhi.log.*.risk.changed.*"
	producers   = 64
)

// withServer runs f with a fresh server that has every stream.
func withServer(ctx context.Context, o Options, syncAlways bool, f func(*server.Server, *bus.Conn) (float64, error)) (v float64, err error) {
	dir, err := os.MkdirTemp(o.Dir, "nats")
	if err != nil {
		return 0, fmt.Errorf("make directory: %w", err)
	}
	defer os.RemoveAll(dir)
	s, err := server.NewServer(&server.Options{ServerName: "bench", JetStream: true, StoreDir: dir, SyncAlways: syncAlways, DontListen: true, NoSigs: true, NoLog: true})
	if err != nil {
		return 0, fmt.Errorf("make server: %w", err)
	}
	s.Start()
	defer func() {
		s.Shutdown()
		s.WaitForShutdown()
	}()
	if !s.ReadyForConnections(10 * time.Second) {
		return 0, errors.New("the server does not get ready")
	}
	c, err := bus.Connect(ctx, bus.Config{InProcess: s, Name: "bench", ServerSyncAlways: func() bool { return syncAlways }})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := bus.Provision(ctx, c, bus.Options{Replicas: 1}); err != nil {
		return 0, err
	}
	return f(s, c)
}

// benchEvents are facts about many identities, of about 500 bytes each.
func benchEvents(n int) ([]events.Event, error) {
	es := make([]events.Event, n)
	for i := range es {
		e, err := events.New(events.Origin{Source: "/bench", Tenant: benchTenant, Time: time.Unix(1_800_000_000+int64(i), 0), ID: "bench-" + strconv.Itoa(i)},
			events.RiskChanged{Identity: "agent-" + strconv.Itoa(i%2000), Level: "high", Previous: "low", Reason: "a benchmark of the bus that needs some text"})
		if err != nil {
			return nil, err
		}
		es[i] = e
	}
	return es, nil
}

// benchMessages are the same as plain messages.
func benchMessages(es []events.Event) ([]raw.Message, error) {
	out := make([]raw.Message, len(es))
	for i, e := range es {
		data, err := events.Encode(e)
		if err != nil {
			return nil, err
		}
		subject, err := events.Subject(e)
		if err != nil {
			return nil, err
		}
		out[i] = raw.Message{Subject: subject, Data: data}
	}
	return out, nil
}

// answer is the event that the benchmark's handler returns.
func answer(cause events.Event, p events.RiskChanged) (events.Event, error) {
	return events.New(events.Origin{Source: "/bench/handler", Tenant: events.Tenant(cause), Time: cause.Time(), Cause: &cause},
		events.IdentityFrozen{IdentityChange: events.IdentityChange{Identity: p.Identity, Revocation: cause.ID(), Reason: p.Reason, By: "bench"}})
}

// handleThroughput: a handler through the Router, one event in, one event out and
// durable, against consume, asynchronous publish and acknowledgement.
func handleThroughput(ctx context.Context, o Options, name string, syncAlways bool, target float64) (Row, error) {
	n := 20_000
	if o.Short || syncAlways {
		n = 4_000
	}
	es, err := benchEvents(n)
	if err != nil {
		return Row{}, err
	}
	answers := make([]events.Event, n)
	for i, e := range es {
		p, err := events.As[events.RiskChanged](e)
		if err != nil {
			return Row{}, err
		}
		if answers[i], err = answer(e, p); err != nil {
			return Row{}, err
		}
	}
	out, err := benchMessages(answers)
	if err != nil {
		return Row{}, err
	}
	ours, limit, err := Compare(ctx, o, name, func(ctx context.Context) (float64, error) {
		return withServer(ctx, o, syncAlways, func(_ *server.Server, c *bus.Conn) (float64, error) {
			if err := publishAll(ctx, c, es, 500); err != nil {
				return 0, err
			}
			return handleAll(ctx, c, n)
		})
	}, func(ctx context.Context) (float64, error) {
		return withServer(ctx, o, syncAlways, func(s *server.Server, c *bus.Conn) (float64, error) {
			if err := publishAll(ctx, c, es, 500); err != nil {
				return 0, err
			}
			r, err := raw.Dial(s)
			if err != nil {
				return 0, err
			}
			defer r.Close()
			took, err := r.Hop(ctx, bus.StreamLog, benchFilter, n, n/5, func(i int) raw.Message { return out[i] })
			return float64(n-n/5) / took.Seconds(), err
		})
	})
	if err != nil {
		return Row{}, err
	}
	limitName := "jetstream consume + async publish + ack"
	if syncAlways {
		limitName += ", sync_interval always"
	}
	return Ratio(name, "events/s", limitName, ours, limit, target, "min"), nil
}

// handleAll runs the handler over n events and waits until all answers are stored
// and all causes acknowledged. The first fifth warms up and is not timed.
func handleAll(ctx context.Context, c *bus.Conn, n int) (float64, error) {
	run, stop := context.WithCancel(ctx)
	defer stop()
	var handled atomic.Int64
	last := make(chan struct{})
	done := make(chan error, 1)
	var start time.Time
	go func() {
		done <- c.Run(run, bus.Spec{Service: "bench", Concurrency: 1000, Handlers: []bus.Handler{bus.On(
			func(_ context.Context, cause events.Event, p events.RiskChanged) ([]events.Event, error) {
				e, err := answer(cause, p)
				switch handled.Add(1) {
				case int64(n / 5):
					start = time.Now() // read after last is closed
				case int64(n):
					close(last)
				}
				return []events.Event{e}, err
			}, events.TypeIdentityFrozen)}})
	}()
	select {
	case <-last:
	case err := <-done:
		return 0, errors.Join(errors.New("the runner ended early"), err)
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	stop() // ends when every running handler's event is stored and its cause acknowledged
	if err := <-done; err != nil {
		return 0, err
	}
	rate := float64(n-n/5) / time.Since(start).Seconds()
	stored, err := c.LastSequence(ctx, bus.StreamLog, ">")
	if err == nil && stored != uint64(2*n) {
		err = fmt.Errorf("%d events stored, want %d", stored, 2*n)
	}
	return rate, err
}

// publishAll publishes in calls of size events from all producers at once.
func publishAll(ctx context.Context, c *bus.Conn, es []events.Event, size int) error {
	g, ctx := errgroup.WithContext(ctx)
	each := (len(es) + producers - 1) / producers
	for p := range producers {
		mine := es[min(p*each, len(es)):min((p+1)*each, len(es))]
		g.Go(func() error {
			for len(mine) > 0 {
				k := min(size, len(mine))
				if err := c.Publish(ctx, mine[:k]...); err != nil {
					return err
				}
				mine = mine[k:]
			}
			return nil
		})
	}
	return g.Wait()
}

// durablePublish: 64 producers, warmed up with a fifth of the events, each with size events per call, on a server that
// syncs every write, against one client with atomic batches of the given size, which
// is the most that the producers can have under way at once.
func durablePublish(ctx context.Context, o Options, name string, size, batch int) (Row, error) {
	n := producers * max(size, 10) * 10
	if o.Short {
		n = producers * max(size, 10) * 3
	}
	es, err := benchEvents(n)
	if err != nil {
		return Row{}, err
	}
	out, err := benchMessages(es)
	if err != nil {
		return Row{}, err
	}
	ours, limit, err := Compare(ctx, o, name, func(ctx context.Context) (float64, error) {
		return withServer(ctx, o, true, func(_ *server.Server, c *bus.Conn) (float64, error) {
			if err := publishAll(ctx, c, es[:n/5], size); err != nil {
				return 0, err
			}
			start := time.Now()
			err := publishAll(ctx, c, es[n/5:], size)
			return float64(n-n/5) / time.Since(start).Seconds(), err
		})
	}, func(ctx context.Context) (float64, error) {
		return withServer(ctx, o, true, func(s *server.Server, _ *bus.Conn) (float64, error) {
			r, err := raw.Dial(s)
			if err != nil {
				return 0, err
			}
			defer r.Close()
			took, err := r.Batches(ctx, n, batch, func(i int) raw.Message { return out[i] })
			return float64(n) / took.Seconds(), err
		})
	})
	if err != nil {
		return Row{}, err
	}
	return Ratio(name, "events/s", fmt.Sprintf("atomic batches of %d; ours: 64 producers with %d per call", batch, size), ours, limit, 0.6, "min"), nil
}

// lowLoad: from before the publish to the handler, one event at a time.
func lowLoad(ctx context.Context, o Options) (Row, error) {
	const name = "bus.latency_p99_low_load"
	const pace = 5 * time.Millisecond
	n := 600
	if o.Short {
		n = 200
	}
	es, err := benchEvents(n)
	if err != nil {
		return Row{}, err
	}
	out, err := benchMessages(es)
	if err != nil {
		return Row{}, err
	}
	p99 := func(ms []float64, err error) (float64, error) { return Quantile(ms, 0.99), err }
	ours, limit, err := Compare(ctx, o, name, func(ctx context.Context) (float64, error) {
		return withServer(ctx, o, true, func(_ *server.Server, c *bus.Conn) (float64, error) {
			return p99(pacedHandler(ctx, c, es, pace))
		})
	}, func(ctx context.Context) (float64, error) {
		return withServer(ctx, o, true, func(s *server.Server, _ *bus.Conn) (float64, error) {
			r, err := raw.Dial(s)
			if err != nil {
				return 0, err
			}
			defer r.Close()
			return p99(r.Latency(ctx, bus.StreamLog, benchFilter, n, pace, func(i int) raw.Message { return out[i] }))
		})
	})
	if err != nil {
		return Row{}, err
	}
	return Ratio(name, "ms", "raw publish + consumer, 200/s", ours, limit, 1.3, "max"), nil
}

func pacedHandler(ctx context.Context, c *bus.Conn, es []events.Event, pace time.Duration) ([]float64, error) {
	run, stop := context.WithCancel(ctx)
	defer stop()
	arrived := make(chan time.Time, len(es))
	done := make(chan error, 1)
	go func() {
		done <- c.Run(run, bus.Spec{Service: "bench", Handlers: []bus.Handler{bus.On(
			func(context.Context, events.Event, events.RiskChanged) ([]events.Event, error) {
				arrived <- time.Now()
				return nil, nil
			})}})
	}()
	ms, err := raw.Paced(ctx, len(es), pace, arrived, func(i int) error { return c.Publish(ctx, es[i]) })
	stop()
	return ms, errors.Join(err, <-done)
}
