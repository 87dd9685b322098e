package bench

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"runtime"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lanyard-nhi/lanyard/services/internal/bus/raw"
)

// bareRecord is as large as what issuance writes about a token.
func bareRecord(int) raw.Message {
	return raw.Message{Subject: "nhi.alert." + benchTenant + ".low.bench", Data: make([]byte, 2000)}
}

// signatures returns what is done about each token at least: it verifies one signature and
// makes one, of the size of what issuance handles.
func signatures() (func() error, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	proof, claims := make([]byte, 400), make([]byte, 700)
	sum := sha256.Sum256(proof)
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		return nil, err
	}
	return func() error {
		sum := sha256.Sum256(proof)
		if !ecdsa.VerifyASN1(&key.PublicKey, sum[:], sig) {
			return errors.New("the signature does not verify")
		}
		sum = sha256.Sum256(claims)
		_, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
		return err
	}, nil
}

// everyCore does work on every core until the window ends, hands each to done, and
// returns how often per second.
func (r *issueRig) everyCore(ctx context.Context, work, done func() error) (float64, error) {
	var n atomic.Int64
	start := time.Now()
	end := start.Add(r.window)
	g, ctx := errgroup.WithContext(ctx)
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			for time.Now().Before(end) && ctx.Err() == nil {
				if err := errors.Join(work(), done()); err != nil {
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

// bareCrypto is the signatures and nothing else.
func (r *issueRig) bareCrypto(ctx context.Context) (float64, error) {
	work, err := signatures()
	if err != nil {
		return 0, err
	}
	return r.everyCore(ctx, work, func() error { return nil })
}

// bareRecorded is the signatures and one durable record each: the records of 64 tokens
// are one batch, and batches follow one another while signatures are made.
func (r *issueRig) bareRecorded(ctx context.Context) (float64, error) {
	work, err := signatures()
	if err != nil {
		return 0, err
	}
	c, err := raw.Dial(r.server)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	signed := make(chan struct{}, 4*issueInProcess) // more would not be waiting callers
	written := make(chan struct{})
	go func() {
		defer close(written)
		for n := 0; ; n = 0 {
			for range issueInProcess {
				if _, open := <-signed; !open {
					break
				}
				n++
			}
			if n == 0 {
				return
			}
			if _, err := c.Batches(ctx, n, n, bareRecord); err != nil {
				cancel(err)
				return
			}
		}
	}()
	rate, err := r.everyCore(ctx, work, func() error {
		select {
		case signed <- struct{}{}:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	close(signed)
	<-written
	return rate, err
}

// bareRecords is what the log allows when each of the clients waits for its record: on
// the same server, durable batches of as many records as there are clients, one batch
// after the other, without HTTP, attestation, decision or signature.
func (r *issueRig) bareRecords(ctx context.Context) (float64, error) {
	c, err := raw.Dial(r.server)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	const n = issueClients * 8
	var total int
	var took time.Duration
	for took < r.window {
		d, err := c.Batches(ctx, n, issueClients, bareRecord)
		if err != nil {
			return 0, err
		}
		total, took = total+n, took+d
	}
	return float64(total) / took.Seconds(), nil
}
