package bench

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lanyard-nhi/lanyard/services/internal/policy"
)

// policyDecision measures one decision of 1,000 policies about one of 1,000,000
// identities of 1,000 tenants, with everything it takes to ask, and returns the p99 of
// each round in microseconds; and the same of a loop that takes as long as the median
// decision and allocates nothing, which is what the machine itself adds to one in a
// hundred.
func policyDecision(ctx context.Context, o Options) ([]Row, error) {
	set, err := policy.Parse([]policy.File{{Name: "thousand.cedar", Text: policy.Thousand()}})
	if err != nil {
		return nil, err
	}
	n := 50_000
	if o.Short {
		n = 2_000
	}
	var p99s, floors []float64
	took := make([]float64, n)
	for round := range max(o.Rounds, 1) {
		runtime.GC()
		for i := range took {
			f := policy.MillionthIdentity((i*7919 + round) % 1_000_000)
			start := time.Now()
			v := set.Ask(f).Decide("read", "https://a.example")
			took[i] = float64(time.Since(start)) / float64(time.Microsecond)
			if v.Version != set.Version() {
				return nil, errors.New("a decision of no version")
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		p50, p99 := Quantile(took, 0.5), Quantile(took, 0.99)
		floor := noise(took, p50)
		p99s, floors = append(p99s, p99), append(floors, floor)
		o.Progress("policy.decision_p99 round %d: p50 %.3g us, p99 %.3g us; p99 of a loop as long as the median %.3g us", round+1, p50, p99, floor)
	}
	return []Row{Absolute("policy.decision_p99", "us", p99s, 50, "max"),
		Ratio("policy.decision_p99_vs_noise", "us", "a loop without allocation that takes as long as the median decision", p99s, floors, 1.3, "max")}, nil
}

// noise fills took with the times, in microseconds, of a loop that usually takes about
// us, and returns their p99.
func noise(took []float64, us float64) float64 {
	spin := func(turns int) time.Duration {
		start := time.Now()
		x := uint64(turns)
		for i := range turns {
			x = x*6364136223846793005 + uint64(i)
		}
		runtime.KeepAlive(x)
		return time.Since(start)
	}
	turns := 1000
	for spin(turns) < time.Millisecond {
		turns *= 2
	}
	turns = int(float64(turns) * us / (float64(spin(turns)) / float64(time.Microsecond)))
	for i := range took {
		took[i] = float64(spin(turns)) / float64(time.Microsecond)
	}
	return Quantile(took, 0.99)
}

// growth measures how much of the memory that issuance allocates a token leaves behind:
// what the garbage collector cannot free after thousands of tokens, by allocation site.
// The server and Redis, which run in this process too, are not counted.
func (r *issueRig) growth(ctx context.Context, o Options) (Row, error) {
	n := 4096
	if o.Short {
		n = 512
	}
	rate := runtime.MemProfileRate
	runtime.MemProfileRate = 4096
	defer func() { runtime.MemProfileRate = rate }()
	var left []float64
	for round := range max(o.Rounds, 1) + 1 {
		if err := r.fresh(); err != nil {
			return Row{}, err
		}
		before := held()
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(issueInProcess)
		for i := range n {
			g.Go(func() error {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				return r.call(i % len(r.forms))
			})
		}
		if err := g.Wait(); err != nil {
			return Row{}, fmt.Errorf("measure issue.memory_per_token: %w", err)
		}
		each := max(float64(held()-before)/float64(n), 0)
		if round == 0 { // caches and pools fill
			continue
		}
		left = append(left, each)
		o.Progress("issue.memory_per_token round %d: %.3g B", round, each)
	}
	return Absolute("issue.memory_per_token", "B", left, 8, "max"), nil
}

// held is how many bytes live that were allocated by issuance or for it.
func held() int64 {
	runtime.GC()
	runtime.GC() // the profile is that of the collection before
	records := make([]runtime.MemProfileRecord, 1024)
	for {
		n, ok := runtime.MemProfile(records, false)
		if ok {
			records = records[:n]
			break
		}
		records = make([]runtime.MemProfileRecord, n+n/4)
	}
	var sum int64
	for _, rec := range records {
		frames := runtime.CallersFrames(rec.Stack())
		for more := true; more; {
			var f runtime.Frame
			if f, more = frames.Next(); strings.Contains(f.Function, "/services/issuance") {
				sum += rec.InUseBytes()
				break
			}
		}
	}
	return sum
}
