package bench

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"golang.org/x/sync/errgroup"

	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

const (
	revokeIssuer  = "https://issuer.bench"
	revokeGuards  = 50
	revokeCallers = 256
	revokeBig     = 10 // handles with many descendants; each can be revoked once
)

// Revoke measures revocation on a server that syncs every write. Server, Redis,
// callers, guards and the service share the machine.
func Revoke(ctx context.Context, o Options) ([]Row, error) {
	var rows []Row
	for _, suite := range []func(context.Context, Options, *revokeRig, *fanout) ([]Row, error){revokeLatency, revokeCrowd, cascadeFlatness, revokeSustained} {
		_, err := withServer(ctx, o, true, func(s *server.Server, c *bus.Conn) (float64, error) {
			return withServer(ctx, o, true, func(raw *server.Server, _ *bus.Conn) (float64, error) {
				r, err := newRevokeRig(ctx, o, s, c)
				if err != nil {
					return 0, err
				}
				defer r.close()
				f := &fanout{server: raw}
				defer f.close()
				got, err := suite(ctx, o, r, f)
				rows = append(rows, got...)
				return 0, err
			})
		})
		if err != nil {
			return rows, err
		}
	}
	late, err := revokeLate(ctx, o)
	return append(rows, late...), err
}

// revokeLatency is the time from accept until the last of 50 guards refuses. The
// limit is one synced publish until the last of 50 subscribers has it and has
// verified its signature, which none may leave out.
func revokeLatency(ctx context.Context, o Options, r *revokeRig, f *fanout) ([]Row, error) {
	samples := 200
	if o.Short {
		samples = 20
	}
	if err := errors.Join(r.attach(ctx, revokeGuards), f.attach(revokeGuards)); err != nil {
		return nil, err
	}
	next := 0
	if err := r.tasks(ctx, samples*max(o.Rounds, 1)); err != nil {
		return nil, err
	}
	ours := func(ctx context.Context) (float64, error) {
		took := make([]float64, 0, samples)
		for range samples {
			a, last, err := r.revoke(ctx, lineage.KindTask, r.task(next), 0)
			if err != nil {
				return 0, err
			}
			next++
			took = append(took, ms(last.Sub(a)))
		}
		return Quantile(took, 0.99), nil
	}
	limit := func(ctx context.Context) (float64, error) {
		took := make([]float64, 0, samples)
		for range samples {
			start := time.Now()
			last, err := f.publish(ctx)
			if err != nil {
				return 0, err
			}
			took = append(took, ms(last.Sub(start)))
		}
		return Quantile(took, 0.99), nil
	}
	a, b, err := Compare(ctx, o, "revoke.accept_to_refused_p99_50", ours, limit)
	if err != nil {
		return nil, err
	}
	return []Row{Absolute("revoke.accept_to_refused_p99_50", "ms", a, 50, "max"),
		Ratio("revoke.accept_to_refused_vs_fanout_50", "ms", "one synced publish, republished to 50 subscribers that verify its signature", a, b, 3, "max")}, nil
}

// cascadeFlatness is the time from the request until the last of 50 guards refuses,
// for handles with many live descendants and for handles with one.
func cascadeFlatness(ctx context.Context, o Options, r *revokeRig, _ *fanout) ([]Row, error) {
	many, some := 100_000, 1_000
	if o.Short {
		many, some = 2_000, 100
	}
	per := max(revokeBig/max(o.Rounds, 1), 1)
	if err := r.attach(ctx, revokeGuards); err != nil {
		return nil, err
	}
	if err := r.tasks(ctx, revokeBig*10); err != nil {
		return nil, err
	}
	o.Progress("cascade.flatness: issuing %d credentials below %d handles", many, revokeBig)
	if err := errors.Join(r.subtree(ctx, many, "d", bigName), r.subtree(ctx, some, "m", midName)); err != nil {
		return nil, err
	}
	big, small, mid := 0, 0, 0
	figure := func(next *int, kind lineage.Kind, name func(int) string, confirm int64) func(context.Context) (float64, error) {
		return func(ctx context.Context) (float64, error) {
			var took []float64
			for range per {
				start := time.Now()
				_, last, err := r.revoke(ctx, kind, name(*next), confirm)
				if err != nil {
					return 0, err
				}
				*next++
				took = append(took, ms(last.Sub(start)))
			}
			return Median(took), nil
		}
	}
	o.Rounds = min(max(o.Rounds, 1), revokeBig)
	a, b, err := Compare(ctx, o, "cascade.flatness", figure(&big, lineage.KindDelegation, bigName, int64(many)), figure(&small, lineage.KindTask, r.task, 0))
	if err != nil {
		return nil, err
	}
	m, b2, err := Compare(ctx, o, "cascade.flatness_some", figure(&mid, lineage.KindDelegation, midName, int64(some)), figure(&small, lineage.KindTask, r.task, 0))
	if err != nil {
		return nil, err
	}
	return []Row{Ratio("cascade.flatness", "ms", fmt.Sprintf("the same with 1 descendant instead of %d", many), a, b, 1.5, "max"),
		Ratio("cascade.flatness_some", "ms", fmt.Sprintf("the same with 1 descendant instead of %d", some), m, b2, 1.5, "max")}, nil
}

// revokeSustained is how many revokes a second are durable, each through the whole
// service. The limit is one synced publish for each.
func revokeSustained(ctx context.Context, o Options, r *revokeRig, f *fanout) ([]Row, error) {
	n := 2000
	if o.Short {
		n = 300
	}
	if err := errors.Join(r.attach(ctx, 0), f.attach(0)); err != nil {
		return nil, err
	}
	if err := r.tasks(ctx, n*max(o.Rounds, 1)); err != nil {
		return nil, err
	}
	base := 0
	ours := func(ctx context.Context) (float64, error) {
		defer func() { base += n }()
		return rate(ctx, n, func(ctx context.Context, i int) error {
			_, _, err := r.post(ctx, lineage.KindTask, r.task(base+i), 0)
			return err
		})
	}
	limit := func(ctx context.Context) (float64, error) {
		return rate(ctx, n, func(ctx context.Context, i int) error {
			_, err := f.js.PublishMsg(ctx, &nats.Msg{Subject: "nhi.kill.bench" + strconv.Itoa(i), Data: f.data})
			return err
		})
	}
	a, b, err := Compare(ctx, o, "revoke.sustained", ours, limit)
	if err != nil {
		return nil, err
	}
	return []Row{Ratio("revoke.sustained", "revokes/s", fmt.Sprintf("one synced publish each, %d callers", revokeCallers), a, b, 0.5, "min")}, nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// rate calls f n times from revokeCallers goroutines and returns calls per second.
func rate(ctx context.Context, n int, f func(ctx context.Context, i int) error) (float64, error) {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	start := time.Now()
	for range revokeCallers {
		g.Go(func() error {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				if err := f(ctx, int(i)); err != nil {
					return err
				}
			}
			return nil
		})
	}
	err := g.Wait()
	return float64(n) / time.Since(start).Seconds(), err
}
