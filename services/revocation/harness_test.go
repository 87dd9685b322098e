package revocation

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"maps"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/accept"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/graph"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/journal"
	"go.uber.org/zap"
)

type keyPair struct {
	public ed25519.PublicKey
	signer token.Signer
}

func newKey(seed byte) keyPair {
	s := make([]byte, ed25519.SeedSize)
	s[0] = seed
	private := ed25519.NewKeyFromSeed(s)
	signer, err := token.NewSigner("", private)
	if err != nil {
		panic(err)
	}
	return keyPair{private.Public().(ed25519.PublicKey), signer}
}

var feedKey = newKey(1)

func newNamer(t testing.TB) *lineage.Namer {
	t.Helper()
	n, err := lineage.NewNamer(make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// world is everything outside the service: it survives crashes.
type world struct {
	t     testing.TB
	clock *clock
	bus   *memory
	names *lineage.Namer
	tree  *tree
	dir   string
	sweep func(*config.Config)
	stops []func()
}

func newWorld(t testing.TB) *world {
	c := newClock()
	w := &world{t: t, clock: c, bus: newMemory(t, c), names: newNamer(t), dir: t.TempDir(), tree: &tree{live: map[string]map[string]int64{}, named: map[string]events.Named{}}}
	t.Cleanup(w.stop)
	return w
}

func (w *world) stop() {
	for _, f := range w.stops {
		f()
	}
	w.stops = nil
}

// tree is a graph in memory.
type tree struct {
	mu    sync.Mutex
	live  map[string]map[string]int64
	named map[string]events.Named
	err   error
}

func (g *tree) set(n events.Named, live map[string]int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.named[n.Handle], g.live[n.Handle] = n, live
}

func (g *tree) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
}

func (g *tree) Settle(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

func (g *tree) Near(context.Context) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err == nil
}

func (g *tree) Count(_ context.Context, handle string, _ time.Time) (map[string]int64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.live[handle]), g.err
}

func (g *tree) Names(_ context.Context, handles ...string) (map[string]events.Named, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := map[string]events.Named{}
	for _, h := range handles {
		if n, ok := g.named[h]; ok {
			out[h] = n
		}
	}
	return out, g.err
}

func (g *tree) Credential(context.Context, string) (graph.Record, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return graph.Record{}, g.err
	}
	return graph.Record{}, graph.ErrUnknown
}

func (g *tree) Walk(context.Context, string, time.Time, func(graph.Record) bool) error { return g.err }

// named makes a thing known to the graph with live credentials in its tenant.
func (w *world) named(kind lineage.Kind, tenant, id string, live int64) events.Target {
	h := w.names.Name(kind, tenant, id).String()
	w.tree.set(events.Named{Handle: h, Kind: string(kind), Tenant: tenant, ID: id}, map[string]int64{tenant: live})
	return events.Target{Kind: string(kind), Tenant: tenant, ID: id}
}

// settings are the service's, with small limits.
func (w *world) settings() config.Config {
	var c config.Config
	c.Data = w.dir
	c.Issuance.MaxTTL = config.Duration(15 * time.Minute)
	c.Revocation = config.Revocation{Heartbeat: config.Duration(time.Second), Objective: config.Duration(time.Minute), Breadth: 50, Cap: 5, ApprovalWindow: config.Duration(15 * time.Minute),
		FreezeTTL: config.Duration(time.Hour)}
	if w.sweep != nil {
		w.sweep(&c)
	}
	return c
}

// start starts the service, as after a boot: nothing but the world is left of an
// earlier one. The closure task is not run; tests call due.
func (w *world) start() *revoker {
	w.t.Helper()
	r, err := w.boot()
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) boot() (*revoker, error) {
	j, records, err := journal.Open(filepath.Join(w.dir, "revocation", "journal"))
	if err != nil {
		return nil, err
	}
	epoch, err := readEpoch(filepath.Join(w.dir, "feed.epoch"), journal.Epoch(records))
	if err != nil {
		return nil, err
	}
	own := w.guard("service-revocation", "lanyard")
	env := service.Env{Config: w.settings(), Log: zap.NewNop(), Now: w.clock.now, Rand: rand.Reader, Namer: w.names}
	r := newRevoker(env, parts{bus: w.bus, guard: own, graph: w.tree, book: steps{j, w.bus}, signer: feedKey.signer, epoch: epoch,
		standing: journal.Standing(records, w.clock.now())})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for _, f := range []func(context.Context) error{r.ledger.Run, func(ctx context.Context) error { return r.table.Run(ctx, w.bus) }, r.mend, r.gather, r.beat} {
		wg.Go(func() {
			for ctx.Err() == nil { // tasks are started again when they fail
				_ = f(ctx)
			}
		})
	}
	w.stops = append(w.stops, func() {
		cancel()
		wg.Wait()
		_ = j.Close()
	})
	return r, nil
}

// steps is a journal whose writes are steps that a test may let fail.
type steps struct {
	j *journal.Journal
	m *memory
}

func (s steps) Append(ctx context.Context, rec journal.Record) error {
	return s.m.do("journal "+string(rec.Stage), func() error { return s.j.Append(ctx, rec) })
}

func (s steps) Note(rec journal.Record) { s.j.Note(rec) }
func (s steps) Flush() error            { return s.j.Flush() }

// guard starts a real guard on the world's kill feed.
func (w *world) guard(point, tenant string) *guard.Guard {
	w.t.Helper()
	g, err := guard.New(guard.Config{Point: point, Tenant: tenant, Issuer: "https://issuer.test", Audience: "https://" + point + ".test",
		Keys: token.NewKeySet(), FeedKey: feedKey.public, Feed: feed{w.bus}, Now: w.clock.now, Presence: time.Hour,
		StateFile: filepath.Join(w.dir, point+".json")})
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Run(ctx) })
	w.stops = append(w.stops, func() { cancel(); wg.Wait() })
	return g
}

// request makes a request's event durable and returns it.
func (w *world) request(tenant, id string, p events.RevocationRequested) (events.Event, accept.Request) {
	w.t.Helper()
	if p.Mode == "" {
		p.Mode = events.ModeRevoke
	}
	if p.Reason == "" {
		p.Reason = "test"
	}
	if p.RequestedBy == "" {
		p.RequestedBy = "operator"
	}
	e, err := events.New(events.Origin{Source: "/test", Tenant: tenant, Time: w.clock.now(), ID: id}, p)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.bus.write(func() error { return w.bus.putAll([]events.Event{e}) }); err != nil { // no step of the service
		w.t.Fatal(err)
	}
	return e, accept.Request{Revocation: ID(tenant, e.ID()), Tenant: tenant, RevocationRequested: p}
}

// revoke requests and accepts.
func (w *world) revoke(r *revoker, tenant, id string, p events.RevocationRequested) result {
	w.t.Helper()
	e, req := w.request(tenant, id, p)
	res, err := r.accept(w.t.Context(), e, req)
	if err != nil {
		w.t.Fatal(err)
	}
	return res
}

// receipts delivers every receipt that guards have answered and that was not
// delivered before, as the bus would.
func (w *world) receipts(r *revoker, from uint64) uint64 {
	for st, err := range w.bus.Read(w.t.Context(), bus.StreamReceipt, ">", from) {
		if err != nil {
			w.t.Fatal(err)
		}
		p, err := events.As[events.ReceiptSigned](st.Event)
		if err != nil {
			w.t.Fatal(err)
		}
		if _, err := r.receipt(w.t.Context(), st.Event, p); err != nil {
			w.t.Errorf("receipt of %s refused: %v", p.Point, err)
		}
		from = st.Sequence + 1
	}
	return from
}

// present waits until n guards are in the table.
func (w *world) present(r *revoker, n int) {
	w.t.Helper()
	until(w.t, fmt.Sprintf("%d guards are present", n), func() bool { return len(r.table.Expected(w.clock.now())) >= n })
}
