// Package presence keeps the table of guards: which enforcement points are there
// and with which keys they sign their receipts. It follows the guards' presence
// stream in memory. Only revocation imports it.
package presence

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// Lapse is how long a guard is counted as present after it last said so, at least: the
// default lease and three missed presences. Within it the guard may still be
// following the feed though its own messages do not arrive.
const Lapse = 30 * time.Second

// unheard is how old its newest delivered presence may be when a guard renews its
// lease. So a guard that is not heard for this and its lease says yes no more.
const unheard = 15 * time.Second

// Errors of Verify.
var (
	// ErrUnknownGuard: no such point has ever stated its presence.
	ErrUnknownGuard = errors.New("receipt of a point that is not known")
	// ErrWrongTenant: the receipt came in under another tenant than the guard's.
	ErrWrongTenant = errors.New("receipt of another tenant's point")
)

// Follower is what the table needs of the bus.
type Follower interface {
	Follow(ctx context.Context, stream string, filters []string, from uint64, f func(bus.Stored) error) error
	LastSequence(ctx context.Context, stream, filter string) (uint64, error)
}

// Guard is one enforcement point.
type Guard struct {
	Tenant string    `json:"tenant"`
	Seen   time.Time `json:"seen"` // when its newest presence was stored
	events.GuardAttached
	key   ed25519.PublicKey
	jwk   string    // key as a JWK
	fresh time.Time // when the newest presence was stored that said that its lease is valid
}

// Present reports whether it counts as alive at now.
func (g Guard) Present(now time.Time) bool {
	return !g.Detached && now.Sub(g.Seen) <= max(Lapse, unheard+g.lease())
}

// expected reports whether it may be saying yes at now. A guard says yes only after
// its presence with a valid lease is stored; when it states that its lease has run
// out, it may have been renewed in that moment, so it is waited for a lease longer. One
// that serves stale goes on without a lease, and may have renewed it until unheard.
func (g Guard) expected(now time.Time) bool {
	after := g.lease()
	if g.StaleSeconds > 0 {
		after += unheard
	}
	return g.Present(now) && (g.Fresh || !g.fresh.IsZero() && now.Sub(g.fresh) <= after)
}

// lease is how long after its newest heartbeat it may say yes to anything, what it
// serves stale included, and a second.
func (g Guard) lease() time.Duration {
	return time.Duration((g.LeaseSeconds+g.StaleSeconds)*float64(time.Second)) + time.Second
}

// Table is safe for concurrent use.
type Table struct {
	mu       sync.Mutex
	guards   map[string]Guard // by point
	refused  func(point, tenant, why string)
	seq      uint64
	target   uint64
	aimed    bool
	ready    chan struct{}
	watchers []chan struct{}
}

// New makes an empty table. refused is called when a presence contradicts what is
// pinned; it must not block.
func New(refused func(point, tenant, why string)) *Table {
	return &Table{guards: map[string]Guard{}, refused: refused, ready: make(chan struct{})}
}

// Run follows the stream until ctx ends.
func (t *Table) Run(ctx context.Context, f Follower) error {
	last, err := f.LastSequence(ctx, bus.StreamGuard, ">")
	if err != nil {
		return fmt.Errorf("find end of presence stream: %w", err)
	}
	t.mu.Lock()
	if !t.aimed {
		t.target, t.aimed = last, true
	}
	from := t.seq + 1
	t.arrive()
	t.mu.Unlock()
	return f.Follow(ctx, bus.StreamGuard, []string{"nhi.guard.>"}, from, t.Apply)
}

// Ready is closed when everything that was in the stream at start is in the table.
func (t *Table) Ready() <-chan struct{} { return t.ready }

// arrive closes ready once the target is reached. t.mu is held.
func (t *Table) arrive() {
	if !t.aimed || t.seq < t.target {
		return
	}
	select {
	case <-t.ready:
	default:
		close(t.ready)
	}
}

// Apply enters one presence. The first key and tenant seen for a point stay
// until it detaches or lapses: whoever comes with others meanwhile is refused.
func (t *Table) Apply(st bus.Stored) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.seq = max(t.seq, st.Sequence)
	defer t.moved()
	p, err := events.As[events.GuardAttached](st.Event)
	if err != nil {
		return nil // not a presence; the stream takes nothing else that is valid
	}
	tenant := events.Tenant(st.Event)
	k, err := token.ParseJWK([]byte(p.PublicJWK))
	if err != nil {
		t.refused(p.Point, tenant, "its key cannot be read")
		return nil
	}
	key, ok := k.Public.(ed25519.PublicKey)
	if !ok {
		t.refused(p.Point, tenant, "its key is not Ed25519")
		return nil
	}
	if old, ok := t.guards[p.Point]; ok && old.Present(st.Time) && (old.Tenant != tenant || !old.key.Equal(key)) {
		t.refused(p.Point, tenant, "another guard holds this point")
		return nil
	}
	jwk, err := token.Key{Public: key}.JWK()
	if err != nil {
		t.refused(p.Point, tenant, "its key cannot be written")
		return nil
	}
	g := Guard{Tenant: tenant, Seen: st.Time, GuardAttached: p, key: key, jwk: string(jwk), fresh: st.Time}
	if !p.Fresh {
		g.fresh = t.guards[p.Point].fresh
	}
	t.guards[p.Point] = g
	return nil
}

// moved tells who waits. t.mu is held.
func (t *Table) moved() {
	t.arrive()
	for _, c := range t.watchers {
		close(c)
	}
	t.watchers = nil
}

// Settle waits until the table holds every presence that is stored now.
func (t *Table) Settle(ctx context.Context, f Follower) error {
	last, err := f.LastSequence(ctx, bus.StreamGuard, ">")
	if err != nil {
		return fmt.Errorf("find end of presence stream: %w", err)
	}
	for {
		changed := t.Watch()
		t.mu.Lock()
		done := t.seq >= last
		t.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for guards' presence: %w", ctx.Err())
		}
	}
}

// Watch is closed at the next change.
func (t *Table) Watch() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := make(chan struct{})
	t.watchers = append(t.watchers, c)
	return c
}

// Expected is every guard that must answer a revocation accepted at now, by point.
func (t *Table) Expected(now time.Time) []events.ExpectedGuard {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []events.ExpectedGuard
	for _, g := range t.guards {
		if g.expected(now) {
			out = append(out, events.ExpectedGuard{Point: g.Point, Tenant: g.Tenant, LeaseEnd: now.Add(g.lease()).UTC()})
		}
	}
	slices.SortFunc(out, func(a, b events.ExpectedGuard) int { return strings.Compare(a.Point, b.Point) })
	return out
}

// List is every guard of a tenant ("": all) that is known, by point.
func (t *Table) List(tenant string) []Guard {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := []Guard{}
	for _, g := range t.guards {
		if tenant == "" || g.Tenant == tenant {
			out = append(out, g)
		}
	}
	slices.SortFunc(out, func(a, b Guard) int { return cmp.Compare(a.Point, b.Point) })
	return out
}

// Verify checks that a receipt which came in under tenant is signed by the guard it
// names and says what its signature covers. It returns the guard's key as a JWK.
func (t *Table) Verify(tenant string, p events.ReceiptSigned) (jwk string, err error) {
	t.mu.Lock()
	g, ok := t.guards[p.Point]
	t.mu.Unlock()
	switch {
	case !ok:
		return "", fmt.Errorf("verify receipt of %q: %w", p.Point, ErrUnknownGuard)
	case g.Tenant != tenant:
		return "", fmt.Errorf("verify receipt of %q: %w", p.Point, ErrWrongTenant)
	}
	return g.jwk, guard.VerifyReceipt(p, g.key)
}
