package revocation

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/graph"
)

func everything(string) bool { return true }

// walked is a graph in memory whose subtrees are all the same.
type walked struct {
	*tree
	records []graph.Record
}

func (g walked) Walk(_ context.Context, _ string, _ time.Time, f func(graph.Record) bool) error {
	for _, r := range g.records {
		if !f(r) {
			break
		}
	}
	return nil
}

// TestBlastCountsEverythingOnce: whatever the trees look like, every live credential is
// counted once on every level, and what is not named is in more.
func TestBlastCountsEverythingOnce(t *testing.T) {
	w := newWorld(t)
	f := grow(w.names, w.clock.now(), rand.New(rand.NewPCG(5, 5)), 800)
	var counted blastCount
	live, identities := map[string]int64{}, map[string]map[string]bool{}
	for _, n := range f.nodes {
		counted.add(graph.Record{Tenant: n.tenant, CredentialIssued: n.CredentialIssued})
		live[n.tenant]++
		if identities[n.tenant] == nil {
			identities[n.tenant] = map[string]bool{}
		}
		identities[n.tenant][n.Identity] = true
	}
	b := counted.tree(live, func(tenant string) bool { return tenant != "globex" })
	if len(b.Tenants) != len(tenants) || b.More != 0 || b.Cut {
		t.Fatalf("tree: %+v", b)
	}
	for _, tenant := range b.Tenants {
		if tenant.Credentials != live[tenant.Tenant] {
			t.Errorf("%s: %d credentials, want %d", tenant.Tenant, tenant.Credentials, live[tenant.Tenant])
		}
		if len(tenant.Identities)+tenant.More != len(identities[tenant.Tenant]) || len(tenant.Identities) > blastWidth {
			t.Errorf("%s: %d identities and %d more, want %d", tenant.Tenant, len(tenant.Identities), tenant.More, len(identities[tenant.Tenant]))
		}
		if hidden := tenant.Tenant == "globex"; tenant.Hidden != hidden || hidden != (len(tenant.Identities) == 0) {
			t.Errorf("%s: hidden %v with %d identities named", tenant.Tenant, tenant.Hidden, len(tenant.Identities))
		}
		for _, of := range tenant.Identities {
			var sum int64
			for _, task := range of.Tasks {
				sum += task.Credentials
			}
			if of.More == 0 && sum != of.Credentials {
				t.Errorf("%s/%s: %d credentials, %d in its tasks", tenant.Tenant, of.Identity, of.Credentials, sum)
			}
		}
	}
}

func TestBlastIsBounded(t *testing.T) {
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	var counted blastCount
	for i := range blastWalk + 5 {
		counted.add(graph.Record{Tenant: fmt.Sprint("t", i%30), CredentialIssued: events.CredentialIssued{
			Identity: fmt.Sprint("a", i%900), Task: fmt.Sprint("task-", i), ExpiresAt: now.Add(time.Duration(i) * time.Second)}})
	}
	b := counted.tree(map[string]int64{"t7": 1_000_000}, everything)
	if !b.Cut || len(b.Tenants) != blastWidth || b.More != 10 {
		t.Fatalf("%d tenants and %d more, cut %v", len(b.Tenants), b.More, b.Cut)
	}
	first := b.Tenants[0]
	if first.Tenant != "t7" || first.Credentials != 1_000_000 || len(first.Identities) != blastWidth || first.More != 10 {
		t.Errorf("the largest tenant: %s with %d credentials, %d identities and %d more", first.Tenant, first.Credentials, len(first.Identities), first.More)
	}
	counted = blastCount{}
	for i := range 25 {
		counted.add(graph.Record{Tenant: "acme", CredentialIssued: events.CredentialIssued{Identity: "a", Task: fmt.Sprint(i % 23), ExpiresAt: now.Add(time.Duration(i) * time.Second)}})
	}
	of := counted.tree(nil, everything).Tenants[0].Identities[0]
	if len(of.Tasks) != blastWidth || of.More != 3 || of.Tasks[0].Credentials != 2 || !of.Tasks[0].Until.Equal(now.Add(23*time.Second)) {
		t.Errorf("tasks: %+v", of)
	}
}

// TestPreviewNamesOwners: the owner of an identity is its own, not that of who
// delegated to it, and what belongs to other tenants is not named to a tenant.
func TestPreviewNamesOwners(t *testing.T) {
	w := newWorld(t)
	r := w.start()
	register := func(tenant, identity, owner, feature string) {
		e, err := events.New(events.Origin{Source: "/lanyard/issuance", Tenant: tenant, Time: w.clock.now(), ID: tenant + identity},
			events.IdentityRegistered{Registration: events.Registration{Identity: identity, Kind: events.KindAgent, Owner: owner, Feature: feature, Purpose: "tests", KillSwitch: "identity"}})
		if err == nil {
			err = w.bus.Publish(t.Context(), e)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	register("acme", "boss", "ana", "orders")
	register("acme", "worker", "bob", "orders")
	names := []events.Named{{Kind: string(lineage.KindOwner), Tenant: "acme", ID: "ana"}, {Kind: string(lineage.KindFeature), Tenant: "acme", ID: "orders"}}
	record := func(tenant, identity string, names ...events.Named) graph.Record {
		return graph.Record{Tenant: tenant, CredentialIssued: events.CredentialIssued{Credential: tenant + identity, Identity: identity, Task: "t1", Names: names, ExpiresAt: w.clock.now().Add(time.Minute)}}
	}
	g := walked{w.tree, []graph.Record{
		record("acme", "boss", names...),
		record("acme", "worker", append(names, events.Named{Kind: string(lineage.KindOwner), Tenant: "acme", ID: "bob"})...),
		record("globex", "spy", append(names, events.Named{Kind: string(lineage.KindOwner), Tenant: "globex", ID: "eve"})...),
	}}
	r.graph = g
	p := preview{Handle: "x"}
	if err := r.tour(t.Context(), &p, map[string]int64{"acme": 2, "globex": 1}, token.Claims{Tenant: "acme"}, w.clock.now()); err != nil {
		t.Fatal(err)
	}
	got, err := json.Marshal(p.Tree)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"tenants":[{"tenant":"acme","credentials":2,"identities":[` +
		`{"identity":"boss","owner":"ana","feature":"orders","credentials":1,"tasks":[{"task":"t1","credentials":1,"until":"2026-03-01T12:01:00Z"}],"more":0},` +
		`{"identity":"worker","owner":"bob","feature":"orders","credentials":1,"tasks":[{"task":"t1","credentials":1,"until":"2026-03-01T12:01:00Z"}],"more":0}],"more":0},` +
		`{"tenant":"globex","credentials":1,"hidden":true,"identities":[],"more":1}],"more":0,"cut":false}`
	if string(got) != want {
		t.Errorf("tree\n%s\nwant\n%s", got, want)
	}
}
