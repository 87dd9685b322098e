package authzen

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/policy"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/ledger"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/registry"
)

var noon = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// book is a registry in memory, its index, and a guard's kill set.
type book struct {
	byRef  map[registry.Ref]registry.Identity
	loads  int
	feed   map[lineage.Handle]bool
	stale  bool
	failed bool
}

func (b *book) Load(_ context.Context, tenant, entity string) (registry.Identity, uint64, error) {
	b.loads++
	if b.failed {
		return registry.Identity{}, 0, errBroken
	}
	return b.byRef[registry.Ref{Tenant: tenant, Identity: entity}], 1, nil
}

func (b *book) CatchUp(context.Context) error { return nil }

func (b *book) Tenants(context.Context) ([]string, error) {
	set := map[string]bool{}
	for r := range b.byRef {
		set[r.Tenant] = true
	}
	return slices.Sorted(maps.Keys(set)), nil
}

func (b *book) All(_ context.Context, tenant string) (ids []string, err error) {
	for r := range b.byRef {
		if r.Tenant == tenant {
			ids = append(ids, r.Identity)
		}
	}
	slices.Sort(ids)
	return ids, nil
}

func (b *book) Dead(lin []lineage.Handle) (guard.Entry, bool) {
	return guard.Entry{}, slices.ContainsFunc(lin, func(h lineage.Handle) bool { return b.feed[h] })
}

func (b *book) Status() guard.Status { return guard.Status{Fresh: !b.stale} }

// settled is a ledger that has read the past.
type settled struct{ *ledger.Ledger }

func (settled) IsReady() bool { return true }

func registered(id string) registry.Identity {
	return registry.Identity{Registration: &events.Registration{Identity: id, Kind: events.KindAgent, Owner: "alice", Feature: "search",
		Attestation: []events.Attestation{{Issuer: "https://idp.example", Subject: "wl"}},
		Scopes:      []string{"write", "read"}, Audiences: []string{"https://b.example", "https://a.example"}}}
}

func newIdentities(t *testing.T) (*Identities, *book) {
	t.Helper()
	namer, err := lineage.NewNamer([]byte(strings.Repeat("k", 32)))
	require.NoError(t, err)
	past, future := noon.Add(-time.Hour), noon.Add(time.Hour)
	frozen := func(id string, until *time.Time) registry.Identity {
		s := registered(id)
		s.Freezes = map[string]registry.Freeze{"r1": {Reason: "x", Until: until}}
		return s
	}
	ended := registered("ended")
	ended.Ended = registry.StatusRevoked
	b := &book{feed: map[lineage.Handle]bool{}, byRef: map[registry.Ref]registry.Identity{
		{Tenant: "acme", Identity: "bot"}: registered("bot"), {Tenant: "acme", Identity: "team/bot"}: registered("team/bot"),
		{Tenant: "acme", Identity: "frozen"}: frozen("frozen", &future), {Tenant: "acme", Identity: "thawed"}: frozen("thawed", &past),
		{Tenant: "acme", Identity: "ended"}: ended, {Tenant: "acme-2", Identity: "bot"}: registered("bot"), {Tenant: "rival", Identity: "bot"}: registered("bot"),
	}}
	return &Identities{Policy: func() Policy { return cedarOf(t, policy.Default()) }, Loader: b, Inventory: b, Ledger: settled{ledger.New()}, KillSet: b,
		Namer: namer, Now: func() time.Time { return noon }}, b
}

func cedarOf(t *testing.T, files []policy.File) Cedar {
	t.Helper()
	set, err := policy.Parse(files)
	require.NoError(t, err)
	return Cedar{set, func(_ time.Time, tenant, identity, _ string) []events.ExceptionGranted {
		if tenant+"/"+identity != "acme/excepted" {
			return nil
		}
		return []events.ExceptionGranted{{Exception: "exc-1", Policy: "no-secrets"}}
	}}
}

// TestCedar: the questions of enforcement points are decided by the policies that decide
// tokens, over the facts of the registry and what the question says of the task.
func TestCedar(t *testing.T) {
	ids, b := newIdentities(t)
	risky := registered("risky")
	risky.Risk, risky.RiskSince = "high", noon.Add(-23*time.Hour)
	b.byRef[registry.Ref{Tenant: "acme", Identity: "risky"}] = risky
	risky.RiskSince = noon.Add(-24 * time.Hour)
	b.byRef[registry.Ref{Tenant: "acme", Identity: "calm"}] = risky
	b.byRef[registry.Ref{Tenant: "acme", Identity: "excepted"}] = registered("excepted")
	rules := cedarOf(t, []policy.File{{Name: "a.cedar", Text: `@id("all") permit (principal, action, resource);
@id("no-risk") forbid (principal, action, resource) when { principal.risk == "high" };
@id("no-secrets") forbid (principal, action, resource) when { context.data_sensitivity == "secret" && context.task != "audit" };`}})
	ids.Policy = func() Policy { return rules }
	h := serverFor(t, "https://issuer.example", ids.Open)
	in := func(subject, context string) string {
		return strings.TrimSuffix(about(subject, "read", "https://a.example"), "}") + `,"context":` + context + `}`
	}
	for body, want := range map[string]string{
		in("acme/bot", `{}`):                            `{"decision":true,"context":{"policy_version":"V","reasons":["all"]}}`,
		in("acme/calm", `{}`):                           `{"decision":true,"context":{"policy_version":"V","reasons":["all"]}}`,
		in("acme/risky", `{}`):                          `{"decision":false,"context":{"policy_version":"V","reasons":["no-risk"]}}`,
		in("acme/bot", `{"data_sensitivity":"secret"}`): `{"decision":false,"context":{"policy_version":"V","reasons":["no-secrets"]}}`,
		in("acme/bot", `{"data_sensitivity":"secret","task":"audit","other":[1]}`): `{"decision":true,"context":{"policy_version":"V","reasons":["all"]}}`,
		in("acme/bot", `{"data_sensitivity":7}`):                                   `{"decision":false,"context":{"policy_version":"V","reasons":["context_not_text"]}}`,
		in("acme/excepted", `{"data_sensitivity":"secret"}`):                       `{"decision":true,"context":{"exceptions":["exc-1"],"policy_version":"V","reasons":["all"]}}`,
	} {
		w := ask(h, "/access/v1/evaluation", body)
		require.Equal(t, 200, w.Code, w.Body.String())
		require.JSONEq(t, strings.ReplaceAll(want, "V", rules.Version()), w.Body.String(), body)
	}
	ids.Policy = func() Policy { return nil }
	require.Equal(t, 503, ask(h, "/access/v1/evaluation", in("acme/bot", `{}`)).Code, "no policies are known yet")
}

func about(subject, action, audience string) string {
	return fmt.Sprintf(`{"subject":{"type":"identity","id":%q},"action":{"name":%q},"resource":{"type":"audience","id":%q}}`, subject, action, audience)
}

func TestIdentities(t *testing.T) {
	ids, _ := newIdentities(t)
	h := serverFor(t, "https://issuer.example", ids.Open)
	const a, permit = "https://a.example", `{"decision":true,"context":{"policy_version":"cedar/273bda99b4604f28","reasons":["registered"]}}`
	const silent, policy = `{"decision":false}`, `{"decision":false,"context":{"policy_version":"cedar/273bda99b4604f28","reasons":[]}}`
	because := func(reason string) string {
		return `{"decision":false,"context":{"policy_version":"invariants/1","reasons":["` + reason + `"]}}`
	}
	for name, c := range map[string]struct{ as, body, want string }{
		"permitted":                 {"acme/pep", about("acme/bot", "read", a), permit},
		"an id with a slash":        {"acme/pep", about("acme/team/bot", "read", a), permit},
		"a freeze that is over":     {"acme/pep", about("acme/thawed", "read", a), permit},
		"scope not registered":      {"acme/pep", about("acme/bot", "admin", a), policy},
		"audience not registered":   {"acme/pep", about("acme/bot", "read", "https://c.example"), policy},
		"another kind of resource":  {"acme/pep", strings.Replace(about("acme/bot", "read", a), "audience", "tool", 1), policy},
		"unknown":                   {"acme/pep", about("acme/nobody", "read", a), because("identity_unknown")},
		"no id":                     {"acme/pep", about("acme/", "read", a), because("identity_unknown")},
		"wildcard":                  {"acme/pep", about("acme/*", "read", a), because("identity_unknown")},
		"frozen":                    {"acme/pep", about("acme/frozen", "read", a), because("identity_frozen")},
		"revoked":                   {"acme/pep", about("acme/ended", "read", a), because("identity_revoked")},
		"another kind of subject":   {"acme/pep", strings.Replace(about("acme/bot", "read", a), "identity", "user", 1), because("subject_type_unknown")},
		"another tenant's":          {"acme/pep", about("rival/bot", "read", a), silent},
		"another tenant's, unknown": {"acme/pep", about("rival/nobody", "read", a), silent},
		"a tenant like ours":        {"acme/pep", about("acme-2/bot", "read", a), silent},
		"no tenant":                 {"acme/pep", about("bot", "read", a), silent},
		"operator":                  {"lanyard/operator", about("rival/bot", "read", a), permit},
		"operator, bad tenant":      {"lanyard/operator", about("Rival*/bot", "read", a), silent},
	} {
		t.Run(name, func(t *testing.T) {
			w := ask(h, "/access/v1/evaluation", c.body, as(c.as))
			require.Equal(t, 200, w.Code, w.Body.String())
			require.JSONEq(t, c.want, w.Body.String())
		})
	}
}

func TestForeignSubjectsAreNotEvenLoaded(t *testing.T) {
	ids, b := newIdentities(t)
	h := serverFor(t, "https://issuer.example", ids.Open)
	ask(h, "/access/v1/evaluation", about("rival/bot", "read", "https://a.example"))
	require.Zero(t, b.loads)
	b.failed = true
	require.Equal(t, 200, ask(h, "/access/v1/evaluation", about("rival/bot", "read", "https://a.example")).Code)
	require.Equal(t, 503, ask(h, "/access/v1/evaluation", about("acme/bot", "read", "https://a.example")).Code)
}

// TestDeadHandles: whatever the identity hangs from, on the feed or on the log only.
func TestDeadHandles(t *testing.T) {
	for name, target := range map[string]events.Target{
		"identity": {Kind: "identity", Tenant: "acme", ID: "bot"}, "owner": {Kind: "owner", Tenant: "acme", ID: "alice"},
		"feature": {Kind: "feature", Tenant: "acme", ID: "search"}, "tenant": {Kind: "tenant", Tenant: "acme", ID: "acme"},
		"domain": {Kind: "domain", ID: "https://idp.example"}, "workload": {Kind: "workload", Tenant: "acme", ID: "https://idp.example wl"},
		"other": {Kind: "owner", Tenant: "rival", ID: "alice"},
	} {
		for _, where := range []string{"feed", "log"} {
			t.Run(name+" on the "+where, func(t *testing.T) {
				ids, b := newIdentities(t)
				handle := ids.Namer.Name(lineage.Kind(target.Kind), target.Tenant, target.ID)
				if where == "feed" {
					b.feed[handle] = true
				} else {
					ids.Ledger = settled{killed(t, handle, target)}
				}
				h := serverFor(t, "https://issuer.example", ids.Open)
				d := unmarshal[Decision](t, ask(h, "/access/v1/evaluation", about("acme/bot", "read", "https://a.example")).Body.Bytes())
				require.Equal(t, name == "other", d.Decision)
				if name != "other" {
					require.Equal(t, []any{ReasonDead}, d.Context["reasons"])
				}
			})
		}
	}
}

// TestOneAttestationIsEnough: a dead domain leaves what another vouches for.
func TestOneAttestationIsEnough(t *testing.T) {
	ids, b := newIdentities(t)
	two := b.byRef[registry.Ref{Tenant: "acme", Identity: "bot"}]
	two.Registration.Attestation = append(two.Registration.Attestation, events.Attestation{Issuer: "https://other.example", Subject: "wl"})
	none := b.byRef[registry.Ref{Tenant: "acme", Identity: "thawed"}]
	none.Registration.Attestation = nil
	h := serverFor(t, "https://issuer.example", ids.Open)
	decision := func(id string) bool {
		return unmarshal[Decision](t, ask(h, "/access/v1/evaluation", about("acme/"+id, "read", "https://a.example")).Body.Bytes()).Decision
	}
	b.feed[ids.Namer.Name(lineage.KindDomain, "", "https://idp.example")] = true
	require.True(t, decision("bot"))
	require.True(t, decision("thawed"), "nothing vouches for it, so nothing that vouches is dead")
	require.False(t, decision("team/bot"))
	b.feed[ids.Namer.Name(lineage.KindWorkload, "acme", "https://other.example wl")] = true
	require.False(t, decision("bot"))
}

func TestNotCurrentIsNoDecision(t *testing.T) {
	ids, b := newIdentities(t)
	h := serverFor(t, "https://issuer.example", ids.Open)
	body := about("acme/bot", "read", "https://a.example")
	b.stale = true
	require.Equal(t, 503, ask(h, "/access/v1/evaluation", body).Code)
	b.stale = false
	require.Equal(t, 200, ask(h, "/access/v1/evaluation", body).Code)
	ids.Ledger = ledger.New()
	require.Equal(t, 503, ask(h, "/access/v1/evaluation", body).Code)
	_, err := ids.Open(context.Background())
	require.Error(t, err, "no caller")
}

func TestIdentitySearches(t *testing.T) {
	ids, _ := newIdentities(t)
	h := serverFor(t, "https://issuer.example", ids.Open)
	search := func(who, kind, body string, key string) (out []string) {
		w := ask(h, "/access/v1/search/"+kind, body, as(who))
		require.Equal(t, 200, w.Code, w.Body.String())
		for _, r := range unmarshal[answer](t, w.Body.Bytes()).Results {
			out = append(out, r[key])
		}
		return out
	}
	readers := about("", "read", "https://a.example")
	require.Equal(t, []string{"acme/bot", "acme/team/bot", "acme/thawed"}, search("acme/pep", "subject", readers, "id"))
	require.Equal(t, []string{"rival/bot"}, search("rival/pep", "subject", readers, "id"))
	require.Equal(t, []string{"acme-2/bot", "acme/bot", "acme/team/bot", "acme/thawed", "rival/bot"}, search("lanyard/operator", "subject", readers, "id"))
	require.Empty(t, search("acme/pep", "subject", strings.Replace(readers, "identity", "user", 1), "id"))

	mine, theirs := about("acme/bot", "read", ""), about("rival/bot", "read", "")
	require.Equal(t, []string{"https://a.example", "https://b.example"}, search("acme/pep", "resource", mine, "id"))
	require.Empty(t, search("acme/pep", "resource", theirs, "id"))
	require.Empty(t, search("acme/pep", "resource", about("acme/frozen", "read", ""), "id"))
	require.Empty(t, search("acme/pep", "resource", about("acme/nobody", "read", ""), "id"))
	require.Empty(t, search("acme/pep", "resource", strings.Replace(mine, "audience", "tool", 1), "id"))

	require.Equal(t, []string{"read", "write"}, search("acme/pep", "action", about("acme/bot", "", "https://a.example"), "name"))
	require.Empty(t, search("acme/pep", "action", about("rival/bot", "", "https://a.example"), "name"))
	require.Empty(t, search("acme/pep", "action", about("acme/bot", "", "https://c.example"), "name"))
}

// numbered permits everything and is replaced whenever it decided.
type numbered struct {
	n    int
	next func()
	err  error
}

func (p numbered) Version() string { return fmt.Sprint("v", p.n) }

func (p numbered) Decide(Question) (Verdict, error) {
	p.next()
	return Verdict{Allowed: true, Reasons: []string{"all"}}, p.err
}

func TestABatchIsOfOneVersion(t *testing.T) {
	ids, b := newIdentities(t)
	n := 1
	ids.Policy = func() Policy { return numbered{n: n, next: func() { n++ }} }
	h := serverFor(t, "https://issuer.example", ids.Open)
	body := about("acme/bot", "read", "https://a.example")
	batch := body[:len(body)-1] + `,"evaluations":[{},{},{}]}`
	for _, want := range []string{"v1", "v4"} {
		list := unmarshal[struct{ Evaluations []Decision }](t, ask(h, "/access/v1/evaluations", batch).Body.Bytes()).Evaluations
		require.Len(t, list, 3)
		for _, d := range list {
			require.Equal(t, want, d.Context["policy_version"])
		}
	}
	require.Equal(t, 2, b.loads, "an identity is loaded once for a request")
	ids.Policy = func() Policy { return numbered{n: 9, next: func() {}, err: errors.New("the policy broke")} }
	w := ask(h, "/access/v1/evaluation", body)
	require.Equal(t, 503, w.Code)
	require.NotContains(t, w.Body.String(), "true")
}

// killed is a ledger that has read of one revocation.
func killed(t *testing.T, handle lineage.Handle, target events.Target) *ledger.Ledger {
	t.Helper()
	tenant := target.Tenant
	if tenant == "" {
		tenant = service.SystemTenant
	}
	e, err := events.New(events.Origin{Source: "/test", Tenant: tenant, Time: noon}, events.RevocationAccepted{
		Revocation: "r1", Mode: events.ModeRevoke, Target: target, Handle: handle.String(), Reason: "test", By: "ir", AcceptedAt: noon,
		Guards: []events.ExpectedGuard{}, Tenants: []string{}})
	require.NoError(t, err)
	l := ledger.New()
	l.Apply(bus.Stored{Event: e, Sequence: 1})
	require.Equal(t, 1, l.Size())
	return l
}
