package issuance

import (
	"bytes"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// refused waits until a first grant to name is refused, and returns the refusal.
func (w *world) refused(name string) answer {
	w.t.Helper()
	var a answer
	w.eventually(name+" refused", func() bool { a = w.post(w.bearer(name)); return a.status != 200 })
	return a
}

func (w *world) allowed(name string) {
	w.t.Helper()
	w.eventually(name+" allowed", func() bool { return w.post(w.bearer(name)).status == 200 })
}

func target(kind lineage.Kind, tenant, id string) events.Target {
	return events.Target{Kind: string(kind), Tenant: tenant, ID: id}
}

func TestLifecycle(t *testing.T) {
	w := newWorld(t)
	w.declare("acme", agent("bot"))
	other := agent("other")
	other.Owner, other.Feature = "bob", "billing"
	w.declare("acme", other)
	w.allowed("bot")

	w.publish("acme", events.OwnerDeparted{Owner: "alice", Reason: "left"})
	require.Contains(t, w.refused("bot").Description, "identity bot is frozen: owner alice departed: left")
	reg := agent("bot")
	reg.Owner = "carol"
	w.publish("acme", events.IdentityDeclared{Registration: reg})
	w.allowed("bot")
	w.publish("acme", events.OwnerDeparted{Owner: "carol", Successor: "dave"})
	w.eventually("moved to the successor", func() bool {
		r, _ := logged[events.IdentityRegistered](w, events.LogSubject("acme", "identity", "registered", "bot"))
		return r.Owner == "dave"
	})
	w.publish("acme", events.FeatureDisabled{Feature: "search", By: "pm", Reason: "bug"})
	require.Contains(t, w.refused("bot").Description, "feature search disabled by pm: bug")
	reg.Feature, reg.Owner = "search2", "dave"
	w.publish("acme", events.IdentityDeclared{Registration: reg})
	w.allowed("bot")

	w.record(target(lineage.KindOwner, "acme", "dave"), "rev-freeze", events.ModeFreeze)
	w.eventually("frozen", func() bool { return w.post(w.bearer("bot")).Error == "unauthorized_client" })
	w.allowed("other")
	w.publish("acme", events.RevocationLifted{Revocation: "rev-freeze", Handle: w.namer.Name("owner", "acme", "dave").String(), Reason: "false alarm", By: "ir", LiftedAt: time.Now()})
	w.allowed("bot")
	w.record(target(lineage.KindFeature, "acme", "search2"), "rev-kill", events.ModeRevoke)
	w.eventually("revoked", func() bool {
		n, err := w.conn.LastSequence(t.Context(), bus.StreamLog, events.LogSubject("acme", "identity", "revoked", "bot"))
		return err == nil && n > 0
	})
	require.Contains(t, w.post(w.bearer("bot")).Description, "identity bot is revoked")
	w.allowed("other")

	// No resurrection: a new declaration ends in the dead letters and changes nothing.
	w.publish("acme", events.IdentityDeclared{Registration: agent("bot")})
	w.eventually("dead letter", func() bool {
		for d, err := range w.conn.DeadLetters(t.Context(), 1) {
			require.NoError(t, err)
			if d.Service == Name {
				require.Contains(t, d.Reason, "never used again")
				return true
			}
		}
		return false
	})
	require.Contains(t, w.post(w.bearer("bot")).Description, "identity bot is revoked")

	w.publish("acme", events.IdentityRetired{IdentityChange: events.IdentityChange{Identity: "other", Reason: "done", By: "bob"}})
	require.Contains(t, w.refused("other").Description, "identity other is retired: done")
}

// TestDeadHandles: nothing is minted under a handle that the guard or the log calls
// dead, whatever it stands for, and losing Redis changes nothing about that.
func TestDeadHandles(t *testing.T) {
	w := newWorld(t)
	for _, n := range []string{"bot", "helper", "later"} {
		reg := agent(n)
		reg.Owner = n + "-owner"
		w.declare("acme", reg)
	}
	top, c := w.issue(w.bearer("bot"))
	w.record(target(lineage.KindTask, "acme", "task-2"), "rev-task", events.ModeRevoke)
	w.record(target(lineage.KindWorkload, "acme", "https://idp.example wl/later"), "rev-wl", events.ModeRevoke)
	require.Contains(t, w.refused("later").Description, "by revocation rev-wl")
	f := w.bearer("bot")
	f.Set("task", "task-2")
	a := w.post(f)
	require.Equal(t, "invalid_grant", a.Error)
	require.Contains(t, a.Description, "by revocation rev-task")

	w.kill(w.namer.Name(lineage.KindCredential, "acme", c.ID), "rev-cred", events.ModeRevoke) // the feed only
	w.eventually("parent dead", func() bool { a = w.post(w.exchange(top, "helper")); return a.status != 200 })
	require.Equal(t, "invalid_grant", a.Error)
	require.Contains(t, a.Description, "subject_token or something it hangs from is revoked")

	w.redis.FlushAll()
	require.Contains(t, w.post(w.bearer("later")).Description, "by revocation rev-wl")
	require.Equal(t, 200, w.post(w.bearer("helper")).status, "the index is folded again before a miss counts")

	w.redis.SetError("LOADING")
	a = w.post(w.bearer("nobody"))
	require.Equal(t, 503, a.status)
	require.Equal(t, "temporarily_unavailable", a.Error)
	require.NotEmpty(t, a.header.Get("Retry-After"))
	w.redis.SetError("")

	w.record(target(lineage.KindOwner, "acme", "helper-owner"), "rev-owner", events.ModeRevoke)
	w.eventually("revoked", func() bool { return w.post(w.bearer("helper")).Error == "unauthorized_client" })
	fresh := agent("fresh")
	fresh.Owner = "helper-owner"
	w.publish("acme", events.IdentityDeclared{Registration: fresh})
	w.eventually("dead letter", func() bool {
		for d, err := range w.conn.DeadLetters(t.Context(), 1) {
			require.NoError(t, err)
			if bytes.Contains([]byte(d.Reason), []byte("rev-owner")) {
				return true
			}
		}
		return false
	})
}

// TestRevokeWinsOverIssue lets revocations race with grants and exchanges in the very
// gap between the last check and the append. Whatever was handed out is dead
// afterwards for every guard, and what was minted after the revocation was known is
// nothing at all.
func TestRevokeWinsOverIssue(t *testing.T) {
	w := newWorld(t)
	const trees = 60
	for i := range trees {
		reg := agent(name("root", i))
		reg.Owner = name("owner", i)
		w.declare("acme", reg)
		child := agent(name("child", i))
		w.declare("acme", child)
	}
	var inGap atomic.Int64
	var pending atomic.Value
	pending.Store(func() {})
	w.failpoint = func() { pending.Load().(func())() }
	minted := 0
	for i := range trees {
		top, _ := w.issue(w.bearer(name("root", i)))
		kill := target(lineage.KindIdentity, "acme", name("root", i))
		if rand.IntN(2) == 0 {
			kill = target(lineage.KindOwner, "acme", name("owner", i))
		}
		form := w.exchange(top, name("child", i))
		if rand.IntN(2) == 0 {
			form = w.bearer(name("root", i))
		}
		done := make(chan struct{})
		var once sync.Once
		pending.Store(func() {
			once.Do(func() {
				inGap.Add(1)
				go func() {
					defer close(done)
					h := w.namer.Name(lineage.Kind(kill.Kind), "acme", kill.ID)
					w.kill(h, name("rev", i), events.ModeRevoke)
					w.record(kill, name("rev", i), events.ModeRevoke)
				}()
				if rand.IntN(2) == 0 {
					<-done // the revocation is complete before the append
				}
			})
		})
		a := w.post(form)
		<-done
		pending.Store(func() {})
		h := w.namer.Name(lineage.Kind(kill.Kind), "acme", kill.ID)
		w.eventually("guard knows", func() bool { _, dead := w.guard.Dead([]lineage.Handle{h}); return dead })
		for _, raw := range []string{top, a.AccessToken} {
			if raw == "" {
				continue
			}
			minted++
			c := w.claims(raw)
			_, dead := w.guard.Dead(c.Lineage)
			require.True(t, dead, "tree %d: a token outlives its ancestor", i)
		}
		after := w.post(w.bearer(name("root", i)))
		require.NotEqual(t, 200, after.status, "tree %d: minted after the revocation", i)
		require.NotEqual(t, 200, w.post(w.exchange(top, name("child", i))).status)
	}
	require.EqualValues(t, trees, inGap.Load(), "every race took place")
	require.GreaterOrEqual(t, minted, trees)
}

func name(s string, i int) string { return s + "-" + string(rune('a'+i/26)) + string(rune('a'+i%26)) }

func TestStaleFeedStopsIssuing(t *testing.T) {
	w := newWorld(t, func(w *world) { w.lease = time.Second })
	w.declare("acme", agent("bot"))
	w.allowed("bot")
	w.beatStop()
	w.eventually("stale", func() bool { return !w.guard.Status().Fresh })
	a := w.post(w.bearer("bot"))
	require.Equal(t, 503, a.status)
	require.Equal(t, "temporarily_unavailable", a.Error)
}

// call is a request to the API with a token.
func (w *world) call(method, path, bearer string, body any) (int, map[string]any) {
	w.t.Helper()
	b, err := json.Marshal(body)
	require.NoError(w.t, err)
	if s, ok := body.(string); ok {
		b = []byte(s)
	}
	req, err := http.NewRequest(method, w.url+path, bytes.NewReader(b))
	require.NoError(w.t, err)
	req.Header.Set("Content-Type", "application/json")
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(w.t, err)
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(w.t, err)
	out := map[string]any{}
	require.NoError(w.t, json.Unmarshal(raw, &out), string(raw))
	return resp.StatusCode, out
}

func TestAPI(t *testing.T) {
	w := newWorld(t)
	login := func(tenant, name, scope string) string {
		reg := agent(name)
		reg.Scopes, reg.Audiences = []string{scope}, []string{w.url}
		w.declare(tenant, reg)
		raw, _ := w.issue(url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {w.idp.token(t, "wl/"+name, w.url)}, "task": {"admin"}})
		return raw
	}
	op, reader, product := login("lanyard", "operator", "lanyard.operator"), login("acme", "reader", "lanyard.read"), login("acme", "product", "lanyard.identity")
	trusty := login("acme", "trusty", "lanyard.trust")

	body := map[string]any{"identity": "new/agent", "kind": "agent", "owner": "alice", "feature": "search", "purpose": "x", "kill_switch": "identity"}
	for name, c := range map[string]struct {
		method, path, bearer string
		body                 any
		status               int
		code                 string
	}{
		"no token":            {"GET", "/v1/identities", "", nil, 401, guard.CodeMissing},
		"reader declares":     {"POST", "/v1/identities", reader, body, 403, guard.CodeScope},
		"product reads":       {"GET", "/v1/identities", product, nil, 403, guard.CodeScope},
		"another tenant":      {"GET", "/v1/identities?tenant=globex", reader, nil, 403, "wrong_tenant"},
		"hidden":              {"GET", "/v1/identities/lanyard/operator", reader, nil, 404, "unknown_identity"},
		"unknown":             {"GET", "/v1/identities/acme/nobody", reader, nil, 404, "unknown_identity"},
		"declares for others": {"POST", "/v1/identities", product, with(body, "tenant", "globex"), 403, "wrong_tenant"},
		"no owner":            {"POST", "/v1/identities", product, with(body, "owner", nil), 422, "schema_violation"},
		"unknown member":      {"POST", "/v1/identities", product, with(body, "admin", true), 400, "malformed_json"},
		"doubled member":      {"POST", "/v1/identities", product, `{"identity":"a","identity":"b"}`, 400, "malformed_json"},
		"trust in oneself":    {"POST", "/v1/trusts", trusty, map[string]any{"to": "acme", "scopes": []string{"read"}, "max_depth": 1}, 422, "invalid_trust"},
		"trust for others":    {"POST", "/v1/trusts", trusty, map[string]any{"tenant": "globex", "to": "acme", "scopes": []string{"read"}, "max_depth": 1}, 403, "wrong_tenant"},
	} {
		status, got := w.call(c.method, c.path, c.bearer, c.body)
		require.Equal(t, c.status, status, "%s: %v", name, got)
		require.Equal(t, c.code, got["code"], name)
	}
	status, got := w.call("POST", "/v1/identities", product, body)
	require.Equal(t, 201, status, got)
	require.Equal(t, "active", got["status"])
	require.Equal(t, w.namer.Name("identity", "acme", "new/agent").String(), got["handle"])
	status, got = w.call("GET", "/v1/identities/acme/new/agent", reader, nil)
	require.Equal(t, 200, status)
	require.Equal(t, "alice", got["owner"])
	status, got = w.call("GET", "/v1/identities", reader, nil)
	require.Equal(t, 200, status)
	require.Len(t, got["identities"], 4)
	status, got = w.call("GET", "/v1/identities", op, nil)
	require.Equal(t, 200, status, got)
	require.Len(t, got["identities"], 5, "an operator sees every tenant")
	status, got = w.call("GET", "/v1/identities?tenant=acme", op, nil)
	require.Equal(t, 200, status, got)
	status, got = w.call("POST", "/v1/trusts", op, map[string]any{"tenant": "acme", "to": "globex", "scopes": []string{"read"}, "max_depth": 2})
	require.Equal(t, 201, status, got)
	require.Equal(t, "acme->globex", got["trust"])
	boss, far := agent("boss"), agent("far")
	w.declare("acme", boss)
	w.declare("globex", far)
	top, _ := w.issue(w.bearer("boss"))
	w.issue(w.exchange(top, "far")) // the trust counts as soon as the call has returned
	w.declare("globex", agent("reader"))
	form := w.bearer("boss")
	form.Set("tenant", "globex")
	require.Equal(t, "unauthorized_client", w.post(form).Error)
	w.declare("globex", boss)
	w.issue(form) // a second binding counts although the first is remembered
	_, e := logged[events.TrustDeclared](w, events.LogSubject("acme", "trust", "declared", "acme->globex"))
	require.NoError(t, events.Validate(e))

	w.record(target(lineage.KindTrust, "acme", "acme->globex"), "rev-1", events.ModeRevoke)
	w.eventually("trust is not declared again", func() bool {
		status, _ = w.call("POST", "/v1/trusts", trusty, map[string]any{"to": "globex", "scopes": []string{"read"}, "max_depth": 2})
		return status == 409
	})
}

func with(m map[string]any, k string, v any) map[string]any {
	out := map[string]any{}
	for a, b := range m {
		out[a] = b
	}
	if out[k] = v; v == nil {
		delete(out, k)
	}
	return out
}

func TestSigningKeyRotates(t *testing.T) {
	w := newWorld(t)
	w.declare("acme", agent("bot"))
	first, err := w.ring.Signer()
	require.NoError(t, err)
	old, _ := w.issue(w.bearer("bot"))
	r := events.Rotation{Rotation: "rot-1", Object: "signing-key", At: time.Now(), Reason: "due"}
	w.publish("lanyard", events.RotationScheduled{Rotation: r})
	subject := events.LogSubject("lanyard", "rotation", "prepared", "signing-key")
	w.eventually("prepared", func() bool {
		n, err := w.conn.LastSequence(t.Context(), bus.StreamLog, subject)
		return err == nil && n > 0
	})
	p, _ := logged[events.RotationPrepared](w, subject)
	require.Equal(t, first.ID, p.Previous)
	var published jose.JSONWebKey
	require.NoError(t, json.Unmarshal([]byte(p.PublicJWK), &published))
	require.True(t, published.IsPublic())
	var set jose.JSONWebKeySet
	require.NoError(t, json.Unmarshal(w.get("/.well-known/jwks.json"), &set))
	require.Len(t, set.Keys, 2, "published before it signs")
	_, c := w.issue(w.bearer("bot"))
	require.Contains(t, c.Lineage, w.namer.Name(lineage.KindKey, "", first.ID))

	w.publish("lanyard", events.RotationActivated{Rotation: p.Rotation})
	second := func() bool { s, err := w.ring.Signer(); return err == nil && s.ID == p.KeyID }
	w.eventually("activated", second)
	_, c = w.issue(w.bearer("bot"))
	require.Contains(t, c.Lineage, w.namer.Name(lineage.KindKey, "", p.KeyID))
	w.declare("acme", agent("helper"))
	_, c = w.issue(w.exchange(old, "helper"))
	require.Contains(t, c.Lineage, w.namer.Name(lineage.KindKey, "", p.KeyID), "a child dies with the key that signed it too")
	require.Contains(t, c.Lineage, w.namer.Name(lineage.KindKey, "", first.ID))

	w.publish("lanyard", events.RotationRetired{Rotation: p.Rotation})
	w.eventually("retired", func() bool {
		require.NoError(t, json.Unmarshal(w.get("/.well-known/jwks.json"), &set))
		return len(set.Keys) == 1
	})
	require.Contains(t, w.post(w.exchange(old, "helper")).Description, "not a token that this issuer signed")
}
