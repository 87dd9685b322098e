package issuance

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// formPost posts a form and returns status, headers and body.
func (w *world) formPost(path, bearer string, form url.Values) (int, http.Header, string) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, w.url+path, strings.NewReader(form.Encode()))
	require.NoError(w.t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if bearer != "" {
		r.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := http.DefaultClient.Do(r)
	require.NoError(w.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	require.NoError(w.t, err)
	return resp.StatusCode, resp.Header, strings.TrimSpace(string(b))
}

// checker is a token of a resource server of a tenant that may introspect.
func (w *world) checker(tenant string) string {
	w.t.Helper()
	reg := agent("checker-" + tenant)
	reg.Scopes, reg.Audiences = []string{"lanyard.introspect", "read"}, []string{w.url}
	w.declare(tenant, reg)
	form := w.bearer(reg.Identity)
	form.Set("scope", "lanyard.introspect")
	form.Set("audience", w.url)
	raw, _ := w.issue(form)
	return raw
}

const dead = `{"active":false}`

// TestIntrospection: RFC 7662 with what only the issuer knows.
func TestIntrospection(t *testing.T) {
	w := newWorld(t)
	w.declare("acme", agent("bot"))
	w.declare("acme", agent("helper"))
	mine, foreign := w.checker("acme"), w.checker("globex")
	parent, _ := w.issue(w.bearer("bot"))
	raw, c := w.issue(w.exchange(parent, "helper"))
	ask := func(as, raw string) string {
		t.Helper()
		status, header, body := w.formPost("/oauth2/introspect", as, url.Values{"token": {raw}, "token_type_hint": {"access_token"}})
		require.Equal(t, 200, status, body)
		require.Equal(t, "no-store", header.Get("Cache-Control"))
		return body
	}
	var got struct {
		Active                                                         bool
		Iss, Sub, Scope, Jti, Tenant, Task, Aud, Client_id, Token_type string
		Exp, Iat                                                       int64
		Act                                                            map[string]any
	}
	require.NoError(t, json.Unmarshal([]byte(ask(mine, raw)), &got))
	require.True(t, got.Active)
	require.Equal(t, []any{w.url, "helper", "read", c.ID, "acme", "task-1", "https://a.example", "helper", "Bearer"},
		[]any{got.Iss, got.Sub, got.Scope, got.Jti, got.Tenant, got.Task, got.Aud, got.Client_id, got.Token_type})
	require.Equal(t, []int64{c.Expires, c.IssuedAt}, []int64{got.Exp, got.Iat})
	require.Equal(t, "helper", got.Act["sub"])

	require.Equal(t, dead, ask(foreign, raw), "of another tenant")
	require.Equal(t, dead, ask(mine, w.idp.token(t, "wl/bot", w.url)), "not ours")
	require.Equal(t, dead, ask(mine, "x"))
	require.Equal(t, dead, ask(mine, raw[:len(raw)-4]+"AAAA"))

	key := newSigner(t, "")
	bound := w.prove(w.bearer("bot"), key.proof("POST", w.url+"/oauth2/token", w.nonce(key)))
	require.Contains(t, ask(mine, bound.AccessToken), `"token_type":"DPoP"`)
	require.Contains(t, ask(mine, bound.AccessToken), `"cnf":{"jkt":"`+key.thumbprint()+`"}`)

	for name, as := range map[string]string{"nobody": "", "without the scope": parent, "not a token": "x"} {
		status, header, body := w.formPost("/oauth2/introspect", as, url.Values{"token": {raw}})
		require.Equal(t, 401, status, "%s: %s", name, body)
		require.NotEmpty(t, header.Get("WWW-Authenticate"), name)
	}
	form := w.bearer("checker-acme")
	form.Set("scope", "read")
	form.Set("audience", w.url)
	unable, _ := w.issue(form)
	status, _, _ := w.formPost("/oauth2/introspect", unable, url.Values{"token": {raw}})
	require.Equal(t, 403, status, "without the scope")
	status, _, body := w.formPost("/oauth2/introspect", mine, url.Values{})
	require.Equal(t, 400, status)
	require.Contains(t, body, "invalid_request")

	// What the parent hangs from dies, by the feed or by the log alone.
	w.kill(w.namer.Name(lineage.KindIdentity, "acme", "bot"), "rev-1", events.ModeRevoke)
	w.eventually("dead by the feed", func() bool { return ask(mine, raw) == dead && ask(mine, parent) == dead })
	other, _ := w.issue(w.bearer("helper"))
	w.record(events.Target{Kind: string(lineage.KindIdentity), Tenant: "acme", ID: "helper"}, "rev-2", events.ModeFreeze)
	w.eventually("dead by the log", func() bool { return ask(mine, other) == dead })
}

// TestRevocationEndpoint: whoever has a token ends it; the answer comes when it is in
// force, and asking again asks for nothing new.
func TestRevocationEndpoint(t *testing.T) {
	w := newWorld(t)
	w.declare("acme", agent("bot"))
	w.declare("acme", agent("helper"))
	mine := w.checker("acme")
	var asked atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { // what revocation does first
		defer close(done)
		_ = w.conn.Run(ctx, bus.Spec{Service: "revocation", Handlers: []bus.Handler{
			bus.On(func(_ context.Context, e events.Event, p events.RevocationRequested) ([]events.Event, error) {
				asked.Add(1)
				if events.Tenant(e) != "acme" || p.RequestedBy != "bot" || p.Target.Kind != "credential" || p.Mode != events.ModeRevoke {
					t.Errorf("asked for %+v", p)
				}
				w.kill(w.namer.Name(lineage.KindCredential, p.Target.Tenant, p.Target.ID), "rev-"+p.Target.ID, p.Mode)
				return nil, nil
			})}})
	}()
	t.Cleanup(func() { cancel(); <-done })
	raw, _ := w.issue(w.bearer("bot"))
	child, _ := w.issue(w.exchange(raw, "helper"))
	sibling, _ := w.issue(w.bearer("bot"))
	live := func(raw string) bool {
		_, _, body := w.formPost("/oauth2/introspect", mine, url.Values{"token": {raw}})
		return body != dead
	}
	for range 3 {
		status, header, body := w.formPost("/oauth2/revoke", "", url.Values{"token": {raw}, "token_type_hint": {"access_token"}})
		require.Equal(t, 200, status, body)
		require.Empty(t, body)
		require.Equal(t, "no-store", header.Get("Cache-Control"))
	}
	require.False(t, live(raw))
	require.False(t, live(child), "what was made of it ends too")
	require.True(t, live(sibling))
	require.EqualValues(t, 1, asked.Load())

	for name, form := range map[string]url.Values{"unknown": {"token": {"x"}}, "of an issuer of attestations": {"token": {w.idp.token(t, "wl/bot", w.url)}},
		"changed": {"token": {sibling[:len(sibling)-4] + "AAAA"}}, "an odd hint": {"token": {"x"}, "token_type_hint": {"pass"}}} {
		status, _, body := w.formPost("/oauth2/revoke", "", form)
		require.Equal(t, 200, status, "%s: %s", name, body)
	}
	require.True(t, live(sibling))
	for name, c := range map[string]struct {
		form url.Values
		code string
	}{"no token": {url.Values{}, "invalid_request"}, "twice": {url.Values{"token": {"a", "b"}}, "invalid_request"},
		"refresh token": {url.Values{"token": {"x"}, "token_type_hint": {"refresh_token"}}, "unsupported_token_type"}} {
		status, _, body := w.formPost("/oauth2/revoke", "", c.form)
		require.Equal(t, 400, status, name)
		require.Contains(t, body, c.code, name)
	}
}

// TestRevocationNotInForce: when nothing carries it out, the endpoint does not say that
// it is done.
func TestRevocationNotInForce(t *testing.T) {
	w := newWorld(t)
	w.declare("acme", agent("bot"))
	raw, _ := w.issue(w.bearer("bot"))
	status, header, body := w.formPost("/oauth2/revoke", "", url.Values{"token": {raw}})
	require.Equal(t, 503, status, body)
	require.Equal(t, "2", header.Get("Retry-After"))
	require.Contains(t, body, "temporarily_unavailable")
}

// TestRevocationOfMuch: a credential from which more was derived than a request may reach
// unconfirmed ends all the same, and somebody else's refused request is not confirmed.
func TestRevocationOfMuch(t *testing.T) {
	w := newWorld(t)
	w.declare("acme", agent("bot"))
	var confirms []int64
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { // revocation, with a breadth of nothing
		defer close(done)
		_ = w.conn.Run(ctx, bus.Spec{Service: "revocation", Handlers: []bus.Handler{
			bus.On(func(_ context.Context, e events.Event, p events.RevocationRequested) ([]events.Event, error) {
				confirms = append(confirms, p.Confirm)
				if p.Confirm == 51 {
					w.kill(w.namer.Name(lineage.KindCredential, p.Target.Tenant, p.Target.ID), "rev-"+p.Target.ID, p.Mode)
					return nil, nil
				}
				refused, err := events.New(events.Origin{Source: "/test", Tenant: "acme", Time: time.Now(), Cause: &e},
					events.RevocationRefused{Revocation: events.RevocationOf(e), Mode: p.Mode, Target: p.Target, By: p.RequestedBy,
						Code: "confirm_required", Reason: "51 live", Confirm: 51})
				return []events.Event{refused}, err
			}, events.TypeRevocationRefused)}})
	}()
	raw, c := w.issue(w.bearer("bot"))
	w.publish("acme", events.RevocationRefused{Revocation: "somebody's", Mode: events.ModeRevoke, Code: "confirm_required", Reason: "51 live", Confirm: 51,
		By: "ana", Target: events.Target{Kind: "credential", Tenant: "acme", ID: c.ID}})
	status, _, body := w.formPost("/oauth2/revoke", "", url.Values{"token": {raw}})
	require.Equal(t, 200, status, body)
	cancel()
	<-done
	require.Equal(t, []int64{0, 51}, confirms)
}
