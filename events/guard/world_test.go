package guard

import (
	"context"
	"crypto/ed25519"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
)

const (
	testIssuer   = "https://issuer.example"
	testAudience = "https://orders.acme.example"
)

// memFeed is a kill feed in memory with the stream's rules: one message per
// subject, sequences that only grow. It pushes nothing by itself.
type memFeed struct {
	mu      sync.Mutex
	stored  []Message
	last    uint64
	push    func(Message)
	answers []events.Event
	refuse  error // of Answer
	broken  error // of Fill
	fills   int
	froms   []uint64 // of fills
	head    []byte   // of a snapshot
	parts   map[string][]byte
}

func (f *memFeed) Subscribe(_ context.Context, push func(Message)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.push = push
	return nil
}

func (f *memFeed) Fill(_ context.Context, from uint64, deliver func(Message) error) (uint64, error) {
	f.mu.Lock()
	stored, last, broken := slices.Clone(f.stored), f.last, f.broken
	f.fills++
	f.froms = append(f.froms, from)
	f.mu.Unlock()
	if broken != nil {
		return 0, broken
	}
	for _, m := range stored {
		if m.Sequence >= from {
			if err := deliver(m); err != nil {
				return 0, err
			}
		}
	}
	return last, nil
}

func (f *memFeed) Answer(_ context.Context, e events.Event) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse != nil {
		return f.refuse
	}
	f.answers = append(f.answers, e)
	return nil
}

// store adds a message as the stream would.
func (f *memFeed) store(name string, data []byte) Message {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last++
	m := Message{Sequence: f.last, Subject: "nhi.kill." + name, Data: data}
	f.stored = slices.DeleteFunc(f.stored, func(o Message) bool { return o.Subject == m.Subject })
	f.stored = append(f.stored, m)
	return m
}

// send stores a message and pushes it.
func (f *memFeed) send(name string, data []byte) Message {
	m := f.store(name, data)
	f.mu.Lock()
	push := f.push
	f.mu.Unlock()
	if push != nil {
		push(m)
	}
	return m
}

func (f *memFeed) receipts(t fataler) []events.ReceiptSigned {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []events.ReceiptSigned
	for _, e := range f.answers {
		if e.Type() == events.TypeReceiptSigned {
			r, err := events.As[events.ReceiptSigned](e)
			if err != nil {
				t.Fatalf("receipt: %v", err)
			}
			out = append(out, r)
		}
	}
	return out
}

func (f *memFeed) presence(t fataler) []events.GuardAttached {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []events.GuardAttached
	for _, e := range f.answers {
		if e.Type() == events.TypeGuardAttached {
			p, err := events.As[events.GuardAttached](e)
			if err != nil {
				t.Fatalf("presence: %v", err)
			}
			out = append(out, p)
		}
	}
	return out
}

type fataler interface {
	Fatalf(format string, args ...any)
	Helper()
}

// keyring is the keys of a test deployment; made once, they are only read.
type keyring struct {
	issuer, feed, stranger token.Signer
	feedKey                ed25519.PublicKey
}

func newKeyring(t testing.TB) keyring {
	t.Helper()
	sign := func() token.Signer {
		_, private, err := ed25519.GenerateKey(nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := token.NewSigner("", private)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	k := keyring{issuer: sign(), feed: sign(), stranger: sign()}
	k.feedKey = k.feed.Private.Public().(ed25519.PublicKey)
	return k
}

// token is an access token whose lineage is root, h.
func (k keyring) token(t fataler, h lineage.Handle, iat time.Time, change ...func(*token.Claims)) string {
	t.Helper()
	c := token.Claims{
		Issuer: testIssuer, Subject: "agent-" + h.String(), Audience: token.Strings{testAudience}, ClientID: "agent",
		IssuedAt: iat.Unix(), Expires: iat.Add(1000 * time.Hour).Unix(), ID: "jti-" + h.String(), Scope: "read write",
		Tenant: "acme", Lineage: []lineage.Handle{handle(1 << 40), h},
	}
	for _, f := range change {
		f(&c)
	}
	raw, err := k.issuer.Sign(token.TypAccess, c)
	if err != nil {
		t.Fatalf("sign token: %v", err)
	}
	return raw
}

func (k keyring) entry(t fataler, s token.Signer, e Entry) []byte {
	t.Helper()
	b, err := SealEntry(s, e)
	if err != nil {
		t.Fatalf("seal entry: %v", err)
	}
	return b
}

func (k keyring) beat(t fataler, s token.Signer, h Heartbeat) []byte {
	t.Helper()
	b, err := SealHeartbeat(s, h)
	if err != nil {
		t.Fatalf("seal heartbeat: %v", err)
	}
	return b
}

// world is one guard on one feed with clocks that only the test moves. Nothing runs
// in the background: the follower's steps are called by settle.
type world struct {
	t     fataler
	keys  keyring
	feed  *memFeed
	file  string // "": kept stands for it
	kept  memory
	now   time.Time
	boot  time.Duration
	g     *Guard
	queue chan arrival
	sync  bool // caught up and following
	err   error
}

func newWorld(t fataler, keys keyring, file string) *world {
	w := &world{t: t, keys: keys, feed: &memFeed{}, file: file,
		now: time.Unix(1_800_000_000, 0), boot: time.Hour}
	w.start()
	return w
}

// start begins a new life of the guard, on the same state file.
func (w *world) start() {
	cfg := Config{
		Point: "orders", Tenant: "acme", Issuer: testIssuer, Audience: testAudience,
		Keys: token.NewKeySet(w.keys.issuer.Key()), FeedKey: w.keys.feedKey, Feed: w.feed, StateFile: w.file,
		Now: func() time.Time { return w.now }, Boot: func() time.Duration { return w.boot },
	}
	var k keeper = &w.kept
	if w.file != "" {
		k = &files{path: w.file}
	}
	g, err := newGuard(cfg, k)
	if err != nil {
		w.t.Fatalf("start guard: %v", err)
	}
	w.g, w.sync = g, false
	if err := g.persist(); err != nil {
		w.t.Fatalf("start guard: %v", err)
	}
	g.attached.Store(true) // nobody else listens
	w.queue = make(chan arrival, queueLength)
	queue := w.queue
	_ = w.feed.Subscribe(context.Background(), func(m Message) { g.arrive(m, queue) })
}

func (w *world) advance(d time.Duration) { w.now, w.boot = w.now.Add(d), w.boot+d }

// settle does what follow does until nothing is left to do.
func (w *world) settle() {
	ctx := context.Background()
	w.err = nil
	if !w.sync {
		if w.err = w.g.resync(ctx, w.queue); w.err != nil {
			return
		}
		w.sync = true
	}
	for len(w.queue) > 0 {
		again, err := w.g.step(ctx, <-w.queue)
		if err != nil {
			w.err = err
		}
		if again {
			w.g.leaseEnd.Store(0)
			if w.err = w.g.resync(ctx, w.queue); w.err != nil {
				w.sync = false
				return
			}
		}
	}
}

// answer delivers the receipts that are due.
func (w *world) answer() {
	w.g.answers.mu.Lock()
	batch := w.g.answers.items
	w.g.answers.items = nil
	w.g.answers.mu.Unlock()
	failed, _ := w.g.deliver(context.Background(), batch)
	w.g.answers.putBack(failed)
}

// check is the code of the denial, "" when allowed.
func (w *world) check(raw string) string {
	_, err := w.g.Check(context.Background(), Request{Token: raw})
	return denied(w.t, err)
}

func denied(t fataler, err error) string {
	t.Helper()
	if err == nil {
		return ""
	}
	d, ok := errors.AsType[*Denial](err)
	if !ok {
		t.Fatalf("error is no denial: %v", err)
	}
	return d.Code
}
