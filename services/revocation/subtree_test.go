package revocation

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/state"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/graph"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/ledger"
)

// node is a credential of a made-up delegation tree.
type node struct {
	parent *node
	tenant string
	events.CredentialIssued
}

func (n *node) handles(t testing.TB) []lineage.Handle {
	t.Helper()
	var out []lineage.Handle
	for _, s := range n.Lineage {
		h, err := lineage.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, h)
	}
	return out
}

// forest is random delegation trees over five tenants, with the names of what
// hangs above them.
type forest struct {
	names *lineage.Namer
	now   time.Time
	nodes []*node
	named map[string]events.Named
}

var tenants = []string{"acme", "globex", "initech", "umbrella", "hooli"}

func grow(names *lineage.Namer, now time.Time, rng *rand.Rand, n int) *forest {
	f := &forest{names: names, now: now, named: map[string]events.Named{}}
	for i := range n {
		var parent *node
		if i > 0 && rng.IntN(8) > 0 {
			parent = f.nodes[rng.IntN(len(f.nodes))]
			if len(parent.Lineage) > lineage.Max-8 {
				parent = nil
			}
		}
		f.add(i, parent, rng)
	}
	return f
}

func (f *forest) add(i int, parent *node, rng *rand.Rand) {
	n := &node{parent: parent, tenant: tenants[rng.IntN(len(tenants))]}
	if parent != nil && rng.IntN(2) == 0 {
		n.tenant = parent.tenant
	}
	id := fmt.Sprintf("agent-%d", rng.IntN(40))
	add := func(kind lineage.Kind, tenant, id string) {
		h := f.names.Name(kind, tenant, id).String()
		if slices.Contains(n.Lineage, h) {
			return
		}
		n.Lineage = append(n.Lineage, h)
		named := events.Named{Handle: h, Kind: string(kind), Tenant: tenant, ID: id}
		n.Names = append(n.Names, named)
		f.named[h] = named
	}
	if parent == nil {
		add(lineage.KindDomain, "", "https://idp.test")
		add(lineage.KindKey, "", "kid-1")
	} else {
		n.Lineage = slices.Clone(parent.Lineage)
		if parent.tenant != n.tenant {
			add(lineage.KindTrust, parent.tenant, parent.tenant+"->"+n.tenant)
		}
		n.Delegation = fmt.Sprint("delegation-", i)
		add(lineage.KindDelegation, n.tenant, n.Delegation)
	}
	add(lineage.KindTenant, n.tenant, n.tenant)
	add(lineage.KindOwner, n.tenant, fmt.Sprint("owner-", rng.IntN(4)))
	add(lineage.KindFeature, n.tenant, fmt.Sprint("feature-", rng.IntN(4)))
	add(lineage.KindIdentity, n.tenant, id)
	if parent == nil {
		n.Task = fmt.Sprint("task-", rng.IntN(60))
		add(lineage.KindTask, n.tenant, n.Task)
	} else {
		n.Task = parent.Task
		n.Parent = parent.CredentialIssued.Credential
	}
	n.CredentialIssued.Credential = fmt.Sprint("jti-", i)
	add(lineage.KindCredential, n.tenant, n.CredentialIssued.Credential)
	n.TokenSHA256, n.Identity, n.KeyID, n.Policy = fmt.Sprintf("%064x", i+1), id, "kid-1", "test/1"
	n.IssuedAt, n.ExpiresAt = f.now, f.now.Add(time.Duration(60+rng.IntN(800))*time.Second)
	n.Audience, n.Scope = []string{"https://a.test"}, []string{"read"}
	f.nodes = append(f.nodes, n)
}

// issue puts a credential on the log.
func (w *world) issue(n *node) {
	w.t.Helper()
	e, err := events.New(events.Origin{Source: "/lanyard/issuance", Tenant: n.tenant, Time: n.IssuedAt, ID: n.TokenSHA256}, n.CredentialIssued)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.bus.Publish(w.t.Context(), e); err != nil {
		w.t.Fatal(err)
	}
}

// redis gives the world the real graph on a real projection.
func (w *world) redis() (*graph.Graph, *miniredis.Miniredis) {
	w.t.Helper()
	m := miniredis.RunT(w.t)
	store, err := state.Open(w.t.Context(), "redis://"+m.Addr())
	if err != nil {
		w.t.Fatal(err)
	}
	g := graph.New(store, w.bus, w.names, w.clock.now)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = g.Run(ctx) })
	w.stops = append(w.stops, func() { cancel(); wg.Wait(); _ = store.Close() })
	return g, m
}

// TestSiblingsUntouched: what a guard rejects after a revoke is exactly what hangs
// from the handle, in every tenant: not one less, not one more. The preview's and
// the closure's numbers are that number.
func TestSiblingsUntouched(t *testing.T) {
	sizes := []int{1, 30, 200, 1000}
	if testing.Short() {
		sizes = sizes[:3]
	}
	for i, size := range sizes {
		t.Run(fmt.Sprint(size, " credentials"), func(t *testing.T) { siblings(t, uint64(i), size) })
	}
}

func siblings(t *testing.T, seed uint64, size int) {
	w := newWorld(t)
	rng := rand.New(rand.NewPCG(seed, 7))
	f := grow(w.names, w.clock.now(), rng, size)
	g, _ := w.redis()
	for _, n := range f.nodes {
		w.issue(n)
	}
	until(t, "the graph holds all", func() bool { return g.Settle(t.Context()) == nil })
	r := w.start()
	r.graph = g
	guard := w.guard("a", "acme")
	w.present(r, 2)
	dead := map[string]bool{}
	for i := range 8 {
		victim := f.nodes[rng.IntN(len(f.nodes))]
		named := f.named[victim.Lineage[rng.IntN(len(victim.Lineage))]]
		if dead[named.Handle] {
			continue
		}
		var live int64
		for _, n := range f.nodes {
			if slices.Contains(n.Lineage, named.Handle) {
				live++
			}
		}
		p := request(events.Target{Handle: named.Handle})
		if i%2 == 0 {
			p = request(events.Target{Kind: named.Kind, Tenant: named.Tenant, ID: named.ID})
		}
		p.Confirm, p.RequestedBy = max(live, 1), fmt.Sprint("operator-", i)
		res := w.revoke(r, "lanyard", fmt.Sprint("req-", i), p)
		if res.Status != ledger.StatusAccepted {
			t.Fatalf("revoke of %+v: %+v", named, res)
		}
		dead[named.Handle] = true
		h, _ := lineage.Parse(named.Handle)
		until(t, "the guard has it", func() bool { _, ok := guard.Dead([]lineage.Handle{h}); return ok })
		for _, n := range f.nodes {
			want := slices.ContainsFunc(n.Lineage, func(h string) bool { return dead[h] })
			if _, got := guard.Dead(n.handles(t)); got != want {
				t.Fatalf("after %s %s: %s of %s rejected: %v, want %v", named.Kind, named.ID, n.CredentialIssued.Credential, n.tenant, got, want)
			}
		}
		s, err := r.ledger.Get(t.Context(), res.ID)
		if err != nil || s.Accepted.Descendants != live {
			t.Fatalf("%s %s: %d descendants on the log, want %d (%v)", named.Kind, named.ID, s.Accepted.Descendants, live, err)
		}
	}
}

func TestGraph(t *testing.T) {
	w := newWorld(t)
	f := grow(w.names, w.clock.now(), rand.New(rand.NewPCG(3, 3)), 300)
	g, redis := w.redis()
	for _, n := range f.nodes {
		w.issue(n)
	}
	check := func(what string) {
		t.Helper()
		if err := g.Settle(t.Context()); err != nil {
			t.Fatal(err)
		}
		now := w.clock.now()
		for h, named := range f.named {
			want, walked := map[string]int64{}, map[string]bool{}
			for _, n := range f.nodes {
				if slices.Contains(n.Lineage, h) && n.ExpiresAt.After(now) {
					want[n.tenant]++
					walked[n.CredentialIssued.Credential] = true
				}
			}
			got, err := g.Count(t.Context(), h, now)
			if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Fatalf("%s: count under %s %s is %v, want %v (%v)", what, named.Kind, named.ID, got, want, err)
			}
			if err := g.Walk(t.Context(), h, now, func(r graph.Record) bool {
				if !walked[r.CredentialIssued.Credential] {
					t.Fatalf("%s: the walk under %s meets %s", what, named.ID, r.CredentialIssued.Credential)
				}
				delete(walked, r.CredentialIssued.Credential)
				return true
			}); err != nil || len(walked) > 0 {
				t.Fatalf("%s: the walk under %s misses %v (%v)", what, named.ID, walked, err)
			}
		}
	}
	check("fresh")
	n := f.nodes[7]
	for _, id := range []string{n.CredentialIssued.Credential, n.TokenSHA256} {
		if r, err := g.Credential(t.Context(), id); err != nil || r.CredentialIssued.Credential != n.CredentialIssued.Credential || r.Tenant != n.tenant {
			t.Errorf("credential by %s: %+v, %v", id, r, err)
		}
	}
	if g.Near(t.Context()) {
		t.Error("near before it is known where the log ended")
	}
	for range 4 {
		if err := g.Watch(t.Context()); err != nil {
			t.Fatal(err)
		}
		w.clock.move(time.Second)
	}
	if !g.Near(t.Context()) {
		t.Error("not near though it holds all")
	}
	redis.FlushAll()
	if g.Near(t.Context()) {
		t.Error("near right after a flush")
	}
	until(t, "the view begins again", func() bool { _, err := g.Credential(t.Context(), n.TokenSHA256); return err == nil })
	check("after a flush")
	if !g.Near(t.Context()) {
		t.Error("not near after it was folded again")
	}
	w.clock.move(5 * time.Minute)
	if err := g.Prune(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("five minutes later")
	w.clock.move(30 * time.Minute)
	for range 2 {
		if err := g.Prune(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := g.Credential(t.Context(), n.TokenSHA256); !errors.Is(err, graph.ErrUnknown) {
		t.Errorf("a credential outlived its grace: %v", err)
	}
	for _, k := range redis.Keys() {
		if strings.HasPrefix(k, state.Prefix(graph.View)) && k != state.Prefix(graph.View)+"names" {
			t.Errorf("%s is left after everything has expired", k)
		}
	}
}
