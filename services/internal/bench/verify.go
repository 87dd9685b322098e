package bench

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
)

const (
	verifyIssuer   = "https://issuer.example"
	verifyAudience = "https://api.example"
	verifyTokens   = 64 // different tokens, so that none stays in a cache line
)

// Verify measures a whole decision of the guard (lineage of 8 against 1,000,000
// revoked handles) beside the bare verification of the same signatures, and the
// memory of the kill set, and the decision on a token that was seen before.
func Verify(ctx context.Context, o Options) ([]Row, error) {
	handles, calls := 1_000_000, 2000
	if o.Short {
		handles, calls = 100_000, 300
	}
	var rows []Row
	for _, alg := range []string{token.ES256, token.EdDSA} {
		r, err := newVerifyRig(ctx, alg, -1)
		if err != nil {
			return nil, fmt.Errorf("bench verify: %w", err)
		}
		bytes, err := r.fill(handles)
		if err != nil {
			r.stop()
			return nil, fmt.Errorf("bench verify: %w", err)
		}
		metric := "verify.cold" // of the tokens that issuance signs
		if alg != token.ES256 {
			metric += "." + strings.ToLower(alg)
		}
		ours, limit, err := Compare(ctx, o, metric,
			func(ctx context.Context) (float64, error) { return r.measure(ctx, calls) },
			func(context.Context) (float64, error) { return r.limit, nil })
		r.stop()
		if err != nil {
			return nil, fmt.Errorf("bench verify: %w", err)
		}
		rows = append(rows, Ratio(metric, "ns/op", "bare "+alg+" verification of the same bytes", ours, limit, 1.3, "max"))
		if alg == token.EdDSA {
			rows = append(rows, Absolute("guard.bytes_per_handle", "B", []float64{bytes}, 24, "max"))
		}
	}
	warm, err := verifyWarm(ctx, handles, calls)
	if err != nil {
		return nil, fmt.Errorf("bench verify: %w", err)
	}
	return append(rows, Absolute("verify.warm", "ns/op", warm, 5000, "max")), nil
}

// verifyWarm is the times of decisions on tokens that the guard has seen before.
func verifyWarm(ctx context.Context, handles, calls int) ([]float64, error) {
	r, err := newVerifyRig(ctx, token.ES256, 0)
	if err != nil {
		return nil, err
	}
	defer r.stop()
	if _, err := r.fill(handles); err != nil {
		return nil, err
	}
	var out []float64
	for range 5 {
		start := time.Now()
		for i := range calls {
			if _, err := r.guard.Check(ctx, guard.Request{Token: r.tokens[i%len(r.tokens)]}); err != nil {
				return nil, fmt.Errorf("decide: %w (%s)", err, r.guard.Status().Problem)
			}
		}
		out = append(out, float64(time.Since(start).Nanoseconds())/float64(calls))
	}
	return out[1:], nil // in the first the tokens become known
}

// verifyRig is a guard on a feed that only beats.
type verifyRig struct {
	guard  *guard.Guard
	stop   func()
	public crypto.PublicKey
	tokens []string
	limit  float64 // of the last measure
}

func newVerifyRig(ctx context.Context, alg string, hot int) (*verifyRig, error) {
	signer, err := verifySigner(alg)
	if err != nil {
		return nil, err
	}
	feed, err := verifySigner(token.EdDSA)
	if err != nil {
		return nil, err
	}
	r := &verifyRig{public: signer.Key().Public}
	now := time.Now()
	for i := range verifyTokens {
		c := token.Claims{Issuer: verifyIssuer, Subject: "agent-7", Audience: token.Strings{verifyAudience}, ClientID: "agent-7",
			IssuedAt: now.Unix(), Expires: now.Add(time.Hour).Unix(), ID: fmt.Sprintf("%032x", i), Scope: "orders.read orders.write",
			Tenant: "acme", Task: "task-9"}
		for range 8 {
			h, err := randomHandle()
			if err != nil {
				return nil, err
			}
			c.Lineage = append(c.Lineage, h)
		}
		raw, err := signer.Sign(token.TypAccess, c)
		if err != nil {
			return nil, err
		}
		r.tokens = append(r.tokens, raw)
	}
	r.guard, err = guard.New(guard.Config{Point: "bench", Tenant: "acme", Issuer: verifyIssuer, Audience: verifyAudience,
		Keys: token.NewKeySet(signer.Key()), FeedKey: feed.Key().Public.(ed25519.PublicKey), Feed: &beatingFeed{signer: feed}, HotTokens: hot})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		defer close(done)
		done <- r.guard.Run(ctx)
	}()
	r.stop = func() {
		cancel()
		for range done { // it ends with its context
		}
	}
	select {
	case <-r.guard.Ready():
		return r, nil
	case err := <-done:
		cancel()
		return nil, fmt.Errorf("run guard: %w", err)
	case <-ctx.Done():
		r.stop()
		return nil, ctx.Err()
	}
}

func verifySigner(alg string) (token.Signer, error) {
	if alg == token.ES256 {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return token.Signer{}, err
		}
		return token.NewSigner("", k)
	}
	_, k, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return token.Signer{}, err
	}
	return token.NewSigner("", k)
}

func randomHandle() (lineage.Handle, error) {
	var h lineage.Handle
	_, err := rand.Read(h[:])
	return h, err
}

// fill revokes n handles and returns what each costs in bytes of live heap.
func (r *verifyRig) fill(n int) (float64, error) {
	before := liveHeap()
	now := time.Now()
	var seed [8]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return 0, err
	}
	if err := r.guard.Block(revokes(n, binary.LittleEndian.Uint64(seed[:]), now)); err != nil {
		return 0, err
	}
	return (liveHeap() - before) / float64(n), nil
}

func revokes(n int, seed uint64, now time.Time) iter.Seq[guard.Entry] {
	return func(yield func(guard.Entry) bool) {
		var in [16]byte
		for i := range n {
			binary.LittleEndian.PutUint64(in[:8], seed)
			binary.LittleEndian.PutUint64(in[8:], uint64(i))
			sum := sha256.Sum256(in[:])
			e := guard.Entry{Mode: events.ModeRevoke, Revocation: fmt.Sprintf("%x", sum[16:]), Reason: "leaked in a public repository",
				By: "alice@acme.example", At: now, Keep: now.Add(time.Hour), Epoch: 1}
			copy(e.Handle[:], sum[:])
			if !yield(e) {
				return
			}
		}
	}
}

func liveHeap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// measure is the median time of a decision in nanoseconds; r.limit becomes that of a
// bare verification. The two take turns call by call, and single calls are timed,
// because whoever else uses the processor would spoil a sum of one of them.
func (r *verifyRig) measure(ctx context.Context, calls int) (float64, error) {
	bare, err := r.bare()
	if err != nil {
		return 0, err
	}
	ours, limit := make([]float64, calls), make([]float64, calls)
	for i := range calls {
		start := time.Now()
		_, err := r.guard.Check(ctx, guard.Request{Token: r.tokens[i%len(r.tokens)]})
		between := time.Now()
		ok := bare(i % len(r.tokens))
		ours[i], limit[i] = float64(between.Sub(start).Nanoseconds()), float64(time.Since(between).Nanoseconds())
		if err != nil {
			return 0, fmt.Errorf("decide: %w (%s)", err, r.guard.Status().Problem)
		}
		if !ok {
			return 0, errors.New("verify bare signature: it does not verify")
		}
	}
	r.limit = Median(limit)
	return Median(ours), nil
}

// bare verifies the signature of the i-th token over the same bytes. Everything is
// decoded before.
func (r *verifyRig) bare() (func(i int) bool, error) {
	type signed struct{ input, sig, der []byte }
	var all []signed
	for _, raw := range r.tokens {
		i := strings.LastIndexByte(raw, '.')
		sig, err := base64.RawURLEncoding.DecodeString(raw[i+1:])
		if err != nil {
			return nil, err
		}
		all = append(all, signed{[]byte(raw[:i]), sig, derSignature(sig)})
	}
	return func(i int) bool {
		s := all[i]
		if k, ok := r.public.(ed25519.PublicKey); ok {
			return ed25519.Verify(k, s.input, s.sig)
		}
		digest := sha256.Sum256(s.input)
		return ecdsa.VerifyASN1(r.public.(*ecdsa.PublicKey), digest[:], s.der)
	}, nil
}

// derSignature is the ASN.1 form of r || s that the standard library takes.
func derSignature(sig []byte) []byte {
	integer := func(b []byte) []byte {
		for len(b) > 1 && b[0] == 0 {
			b = b[1:]
		}
		if b[0] >= 0x80 {
			b = append([]byte{0}, b...)
		}
		return append([]byte{2, byte(len(b))}, b...)
	}
	body := append(integer(sig[:32]), integer(sig[32:64])...)
	return append([]byte{0x30, byte(len(body))}, body...)
}

// beatingFeed is a kill feed without entries.
type beatingFeed struct {
	signer token.Signer
	mu     sync.Mutex
	newest guard.Message
}

func (f *beatingFeed) beat() (guard.Message, error) {
	raw, err := guard.SealHeartbeat(f.signer, guard.Heartbeat{Epoch: 1, Time: time.Now()})
	if err != nil {
		return guard.Message{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.newest = guard.Message{Sequence: f.newest.Sequence + 1, Subject: "nhi.kill." + guard.HeartbeatName, Data: raw}
	return f.newest, nil
}

// Subscribe sends a heartbeat every second.
func (f *beatingFeed) Subscribe(ctx context.Context, push func(guard.Message)) error {
	go func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			m, err := f.beat()
			if err != nil {
				return // the guard goes stale and the bench says so
			}
			push(m)
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return nil
}

// Fill finds the newest heartbeat.
func (f *beatingFeed) Fill(_ context.Context, from uint64, take func(guard.Message) error) (uint64, error) {
	f.mu.Lock()
	m := f.newest
	f.mu.Unlock()
	if m.Sequence == 0 || m.Sequence < from {
		return m.Sequence, nil
	}
	return m.Sequence, take(m)
}

// Answer takes presence.
func (f *beatingFeed) Answer(context.Context, events.Event) error { return nil }
