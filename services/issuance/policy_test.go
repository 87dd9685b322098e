package issuance

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/policies"
)

// permitOperators keeps a set from locking its author out.
const permitOperators = `@id("operators") permit (principal in Lanyard::Tenant::"lanyard", action, resource);` + "\n"

// apply puts text in force and returns its version.
func (w *world) apply(operator, text string) string {
	w.t.Helper()
	status, got := w.call("POST", "/v1/policies", operator, map[string]any{"files": []map[string]string{{"name": "test.cedar", "text": permitOperators + text}}})
	require.Contains(w.t, []int{200, 201}, status, got)
	return got["version"].(string)
}

func (w *world) operator() string {
	return w.login("lanyard", "operator", events.KindServiceAccount, "lanyard.operator")
}

// TestPolicies: what policies say of scopes, audiences, context, life and exceptions
// decides tokens, and the log says which of them did.
func TestPolicies(t *testing.T) {
	w := newWorld(t)
	op := w.operator()
	w.declare("acme", agent("bot"))
	w.declare("acme", agent("sub"))
	w.allowed("bot")
	version := w.apply(op, `
@id("acme") permit (principal in Lanyard::Tenant::"acme", action, resource);
@id("short") @max_ttl("90s") permit (principal in Lanyard::Tenant::"acme", action, resource) when { context.environment == "production" };
@id("no-writes") @reason("writes need a ticket") forbid (principal, action, resource == Lanyard::Audience::"https://a.example") when { context.scope == "write" };
@id("no-chains") forbid (principal, action, resource) when { context.depth > 0 && context.from.tenant == "acme" };
@id("no-risk") forbid (principal, action, resource) when { ["high", "critical"].contains(principal.risk) };`)

	form := w.bearer("bot")
	form.Set("scope", "read write")
	a := w.post(form)
	require.Equal(t, "invalid_scope", a.Error)
	require.Contains(t, a.Description, "scope write for https://a.example: writes need a ticket (policy no-writes)")
	denied, _ := logged[events.CredentialDenied](w, events.LogSubject("acme", "credential", "denied", "bot"))
	require.Equal(t, version, denied.Policy)
	require.Equal(t, []string{"no-writes"}, denied.Reasons)
	require.Equal(t, []string{"read", "write"}, denied.Context.Scope)

	form.Del("scope")
	form.Set("environment", "production")
	a = w.post(form)
	require.Equal(t, "read", a.Scope, "what was not asked for is what policies leave")
	require.LessOrEqual(t, a.ExpiresIn, int64(90))
	issued, e := logged[events.CredentialIssued](w, events.LogSubject("acme", "credential", "issued", "bot"))
	require.NoError(t, events.Validate(e))
	require.Equal(t, version, issued.Policy)
	require.Equal(t, []string{"acme", "short"}, issued.Reasons)
	require.True(t, issued.Context.OpenScope)
	require.Equal(t, "production", issued.Context.Environment)
	require.Equal(t, []string{"read", "write"}, issued.Context.Scope)
	form.Set("ttl", "600")
	a = w.post(form)
	require.Contains(t, a.Description, "ttl of 10m0s is above the ceiling of 1m30s")

	form = w.bearer("bot")
	form.Set("audience", "https://b.example")
	form.Set("scope", "write")
	parent, _ := w.issue(form)
	form = w.exchange(parent, "sub")
	form.Set("audience", "https://b.example")
	require.Contains(t, w.post(form).Description, "policy no-chains forbids it")

	granted := events.ExceptionGranted{Exception: "exc-1", Policy: "no-writes", Identity: "bot", Scopes: []string{"write"}, Owner: "ana", Reason: "migration", By: "lanyard/operator",
		GrantedAt: time.Now(), ReviewAt: time.Now().Add(time.Hour), ExpiresAt: time.Now().Add(time.Hour)}
	w.publish("acme", granted)
	form = w.bearer("bot")
	form.Set("scope", "read write")
	w.eventually("excepted", func() bool { return w.post(form).status == 200 })
	issued, _ = logged[events.CredentialIssued](w, events.LogSubject("acme", "credential", "issued", "bot"))
	require.Equal(t, []string{"exc-1"}, issued.Exceptions)
	other := w.bearer("sub")
	other.Set("scope", "write")
	require.Equal(t, "invalid_scope", w.post(other).Error, "the exception is the bot's alone")
	w.publish("acme", events.ExceptionEnded{Exception: "exc-1", By: "lanyard/operator", Reason: "done", EndedAt: time.Now()})
	w.eventually("lapsed to deny", func() bool { return w.post(form).Error == "invalid_scope" })

	w.publish("acme", events.RiskChanged{Identity: "bot", Level: "high", Previous: "low", Reason: "test"})
	require.Contains(t, w.refused("bot").Description, "policy no-risk forbids it")
	w.publish("acme", events.RiskChanged{Identity: "bot", Level: "low", Previous: "high", Reason: "test"})
	w.allowed("bot")
}

// TestPoliciesAPI: who may put which policies in force.
func TestPoliciesAPI(t *testing.T) {
	w := newWorld(t)
	op := w.operator()
	foreign := w.login("acme", "pretender", events.KindServiceAccount, "lanyard.operator")
	reader := w.login("lanyard", "reader", events.KindServiceAccount, "lanyard.read")
	files := func(text string) map[string]any {
		return map[string]any{"files": []map[string]string{{"name": "test.cedar", "text": text}}}
	}
	status, shown := w.call("GET", "/v1/policies", op, nil)
	require.Equal(t, 200, status)
	builtin := shown["version"].(string)
	require.Equal(t, "registered", shown["policies"].([]any)[0].(map[string]any)["id"])
	for name, c := range map[string]struct {
		bearer string
		body   any
		status int
		code   string
	}{
		"no token":       {"", files(permitOperators), 401, "missing_token"},
		"another scope":  {reader, files(permitOperators), 403, "missing_scope"},
		"another tenant": {foreign, files(permitOperators), 403, ""},
		"not JSON":       {op, "{", 400, "malformed_json"},
		"unknown member": {op, with(files(permitOperators), "force", true), 400, "malformed_json"},
		"no files":       {op, map[string]any{}, 422, "invalid_policy"},
		"not valid":      {op, files(permitOperators + "permit (principal, action, resource);"), 422, "invalid_policy"},
		"locks out":      {op, files(`@id("a") permit (principal in Lanyard::Tenant::"acme", action, resource);`), 409, "lockout"},
		"other previous": {op, with(files(permitOperators), "previous", "cedar/0123456789abcdef"), 409, "moved_on"},
		"endless reason": {op, with(files(permitOperators), "reason", strings.Repeat("x", 1025)), 422, "invalid_reason"},
		"a huge body":    {op, files(strings.Repeat("/", 4<<20)), 413, "too_large"},
	} {
		status, got := w.call("POST", "/v1/policies", c.bearer, c.body)
		require.Equal(t, c.status, status, "%s: %v", name, got)
		if c.code != "" && c.status != 401 && c.bearer != reader {
			require.Equal(t, c.code, got["code"], name)
		}
	}
	status, got := w.call("POST", "/v1/policies", op, with(with(files(permitOperators), "previous", builtin), "reason", "test"))
	require.Equal(t, 201, status, got)
	require.Equal(t, builtin, got["previous"])
	require.Equal(t, "lanyard/operator", got["by"])
	status, again := w.call("POST", "/v1/policies", op, files(permitOperators))
	require.Equal(t, 200, status, "the same set is in force already")
	require.Equal(t, got["activated_at"], again["activated_at"])
	_, shown = w.call("GET", "/v1/policies", op, nil)
	require.Equal(t, got["version"], shown["version"])
}

// TestHotSwapUnderLoad: while two sets that contradict each other take turns, every
// request is answered, by one of them and wholly by it, in this process and in another.
func TestHotSwapUnderLoad(t *testing.T) {
	const swaps, clients = 30, 6
	w := newWorld(t)
	op := w.operator()
	for i := range clients {
		w.declare("acme", agent(name("bot", i)))
		w.allowed(name("bot", i))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	other := policies.NewStore(zap.NewNop()) // of another process
	go func() { _ = other.Run(ctx, w.conn) }()

	// Set "read" allows reading by two policies that always decide together and forbids
	// writing; set "write" the reverse. A mix allows both, none, or by other reasons.
	text := func(may string) string {
		return fmt.Sprintf(`@id("%[1]s-1") permit (principal in Lanyard::Tenant::"acme", action, resource);
@id("%[1]s-2") permit (principal, action, resource) when { context.scope != "lanyard.operator" };
@id("%[1]s-only") forbid (principal in Lanyard::Tenant::"acme", action, resource) unless { context.scope == %[1]q };`, may)
	}
	version := map[string]string{"read": w.apply(op, text("read")), "write": w.apply(op, text("write"))}
	w.eventually("the other process has caught up", func() bool { s := other.Active(); return s != nil && s.Version() == version["write"] })
	from, err := w.conn.LastSequence(t.Context(), bus.StreamLog, ">")
	require.NoError(t, err)

	stop := make(chan struct{})
	var load sync.WaitGroup
	var mu sync.Mutex
	scopes := map[string]int{}
	for i := range clients {
		load.Go(func() {
			form := w.bearer(name("bot", i))
			form.Del("scope")
			for {
				select {
				case <-stop:
					return
				default:
				}
				a := w.post(form)
				if a.status != http.StatusOK {
					t.Errorf("a request failed: %d %s %s", a.status, a.Error, a.Description)
					return
				}
				mu.Lock()
				scopes[a.Scope]++
				mu.Unlock()
			}
		})
	}
	for i := range swaps {
		w.apply(op, text([]string{"read", "write"}[i%2]))
	}
	close(stop)
	load.Wait()
	require.Len(t, scopes, 2, "%v", scopes)
	require.Positive(t, scopes["read"])
	require.Positive(t, scopes["write"])
	n := 0
	for s, err := range w.conn.Read(t.Context(), bus.StreamLog, events.LogSubject("acme", "credential", "issued", "*"), from+1) {
		require.NoError(t, err)
		c, err := events.As[events.CredentialIssued](s.Event)
		require.NoError(t, err)
		require.Len(t, c.Scope, 1)
		may := c.Scope[0]
		require.Equal(t, version[may], c.Policy, "a token for %s", may)
		require.Equal(t, []string{may + "-1", may + "-2"}, c.Reasons)
		n++
	}
	require.Equal(t, scopes["read"]+scopes["write"], n)
	require.GreaterOrEqual(t, n, swaps, "too little load to show anything")
	w.eventually("the other process follows", func() bool { return other.Active().Version() == version["write"] })
	versions := []string{version["read"], version["write"]}
	slices.Sort(versions)
	t.Logf("%d tokens during %d swaps between %v: %v", n, swaps, versions, scopes)
}

// TestRiskEndsLiveCredentials: when the risk of an identity rises, the live credentials
// that policies no longer allow are asked to be frozen, the others are left alone.
func TestRiskEndsLiveCredentials(t *testing.T) {
	w := newWorld(t)
	op := w.operator()
	w.declare("acme", agent("bot"))
	w.allowed("bot")
	w.apply(op, `@id("acme") permit (principal in Lanyard::Tenant::"acme", action, resource);
@id("calm-only") forbid (principal, action, resource) when { principal.risk == "high" && context.scope == "write" };`)
	form := w.bearer("bot")
	_, reads := w.issue(form)
	form.Set("scope", "write")
	_, writes := w.issue(form)
	asked := func() map[string]events.Mode {
		out := map[string]events.Mode{}
		for s, err := range w.conn.Read(t.Context(), bus.StreamIn, "nhi.in.acme.revocation.requested", 1) {
			require.NoError(t, err)
			p, err := events.As[events.RevocationRequested](s.Event)
			require.NoError(t, err)
			require.Equal(t, "credential", p.Target.Kind)
			out[p.Target.ID] = p.Mode
		}
		return out
	}
	w.publish("acme", events.RiskChanged{Identity: "bot", Level: "high", Previous: "low", Reason: "test"})
	w.eventually("frozen", func() bool { return asked()[writes.ID] == events.ModeFreeze })
	require.NotContains(t, asked(), reads.ID)

	narrower := agent("bot")
	narrower.Scopes = []string{"write"}
	w.publish("acme", events.IdentityDeclared{Registration: narrower})
	w.eventually("revoked", func() bool { return asked()[reads.ID] == events.ModeRevoke })
	n := len(asked())

	// New policies end what they forbid, here the operator's own token too.
	form = w.bearer("bot")
	w.publish("acme", events.RiskChanged{Identity: "bot", Level: "low", Previous: "high", Reason: "test"})
	form.Set("scope", "write")
	w.eventually("calm", func() bool { return w.post(form).status == http.StatusOK })
	_, third := w.issue(form)
	w.apply(op, `@id("no-acme") forbid (principal in Lanyard::Tenant::"acme", action, resource);`)
	w.eventually("ended by policy", func() bool { return asked()[third.ID] == events.ModeRevoke })
	require.Greater(t, len(asked()), n)
}
