package issuance

import (
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
)

// login declares an identity of a kind that may ask for scope, and returns its token.
func (w *world) login(tenant, name string, kind events.IdentityKind, scope string) string {
	reg := agent(name)
	reg.Kind, reg.Scopes, reg.Audiences = kind, []string{scope}, []string{w.url}
	w.declare(tenant, reg)
	raw, _ := w.issue(url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:jwt-bearer"}, "assertion": {w.idp.token(w.t, "wl/"+name, w.url)}, "task": {"admin"}})
	return raw
}

func TestExceptions(t *testing.T) {
	w := newWorld(t)
	op := w.login("lanyard", "operator", events.KindServiceAccount, "lanyard.operator")
	pretender := w.login("acme", "pretender", events.KindServiceAccount, "lanyard.operator")
	robot := w.login("lanyard", "robot", events.KindAgent, "lanyard.operator")
	reader := w.login("acme", "reader", events.KindServiceAccount, "lanyard.read")
	helper := agent("helper")
	helper.Kind, helper.Scopes, helper.Audiences = events.KindServiceAccount, []string{"lanyard.operator"}, []string{w.url}
	w.declare("lanyard", helper)
	form := w.exchange(op, "helper")
	form.Set("audience", w.url)
	passedOn, _ := w.issue(form)
	w.declare("acme", agent("bot"))

	now := time.Now().UTC().Truncate(time.Second)
	at := func(d time.Duration) string { return now.Add(d).Format(time.RFC3339) }
	const day = 24 * time.Hour
	body := map[string]any{"tenant": "acme", "policy": "no-production", "identity": "bot", "owner": "ana@acme.example",
		"reason": "migration", "review_at": at(3 * day), "expires_at": at(7 * day), "scopes": []string{"read"}}
	for name, c := range map[string]struct {
		bearer string
		body   any
		status int
		code   string
	}{
		"no token":                     {"", body, 401, guard.CodeMissing},
		"another scope":                {reader, with(body, "tenant", nil), 403, guard.CodeScope},
		"operator of another tenant":   {pretender, with(body, "tenant", nil), 403, "not_an_operator"},
		"an agent":                     {robot, body, 403, "agent"},
		"delegated by an operator":     {passedOn, body, 403, "delegated"},
		"no owner":                     {op, with(body, "owner", nil), 422, "invalid_exception"},
		"no policy":                    {op, with(body, "policy", nil), 422, "invalid_exception"},
		"no reason":                    {op, with(body, "reason", nil), 422, "invalid_exception"},
		"for nobody":                   {op, with(body, "identity", nil), 422, "invalid_exception"},
		"for two":                      {op, with(body, "feature", "search"), 422, "invalid_exception"},
		"for all and one":              {op, with(body, "whole_tenant", true), 422, "invalid_exception"},
		"no end":                       {op, with(body, "expires_at", nil), 422, "invalid_exception"},
		"no review":                    {op, with(body, "review_at", nil), 422, "invalid_exception"},
		"ended before it began":        {op, with(with(body, "expires_at", at(-day)), "review_at", at(-2*day)), 422, "invalid_exception"},
		"too long":                     {op, with(body, "expires_at", at(90*day+time.Hour)), 422, "invalid_exception"},
		"review after the end":         {op, with(body, "review_at", at(8*day)), 422, "invalid_exception"},
		"for somebody unknown":         {op, with(body, "identity", "nobody"), 422, "unknown_identity"},
		"identity of another tenant":   {op, with(body, "tenant", "globex"), 422, "unknown_identity"},
		"an owner that is no id":       {op, with(body, "owner", "ana\n"), 422, "schema_violation"},
		"unknown member":               {op, with(body, "exception", "exc-1"), 400, "malformed_json"},
		"a tenant that cannot be":      {op, with(body, "tenant", "ACME"), 422, "invalid_tenant"},
		"granted_by is not for asking": {op, with(body, "by", "somebody"), 400, "malformed_json"},
	} {
		status, got := w.call("POST", "/v1/exceptions", c.bearer, c.body)
		require.Equal(t, c.status, status, "%s: %v", name, got)
		require.Equal(t, c.code, got["code"], name)
	}
	list := func(bearer, query string) []any {
		status, got := w.call("GET", "/v1/exceptions"+query, bearer, nil)
		require.Equal(t, 200, status, got)
		return got["exceptions"].([]any)
	}
	require.Empty(t, list(op, ""), "what was refused was not granted")

	status, got := w.call("POST", "/v1/exceptions", op, body)
	require.Equal(t, 201, status, got)
	require.Equal(t, "lanyard/operator", got["by"])
	require.Equal(t, "in_force", got["state"])
	id := got["exception"].(string)
	p, e := logged[events.ExceptionGranted](w, events.LogSubject("acme", "exception", "granted", id))
	require.NoError(t, events.Validate(e))
	require.Equal(t, "bot", p.Identity)
	status, got = w.call("POST", "/v1/exceptions", op, with(with(with(body, "identity", nil), "whole_tenant", true), "tenant", "globex"))
	require.Equal(t, 201, status, got)

	require.Len(t, list(op, ""), 2)
	require.Len(t, list(op, "?tenant=globex"), 1)
	require.Len(t, list(reader, ""), 1, "a tenant sees its own")
	require.Empty(t, list(op, "?due="+url.QueryEscape(at(2*day))))
	require.Len(t, list(op, "?due="+url.QueryEscape(at(3*day))), 2)
	status, got = w.call("GET", "/v1/exceptions?due=soon", op, nil)
	require.Equal(t, 422, status)
	require.Equal(t, "invalid_due", got["code"])
	status, _ = w.call("GET", "/v1/exceptions?tenant=globex", reader, nil)
	require.Equal(t, 403, status)

	for name, c := range map[string]struct {
		bearer, id string
		body       any
		status     int
		code       any
	}{
		"a pretender ends":   {pretender, id, map[string]any{"reason": "x"}, 403, "not_an_operator"},
		"an agent ends":      {robot, id, map[string]any{"reason": "x"}, 403, "agent"},
		"no reason":          {op, id, map[string]any{}, 422, "schema_violation"},
		"an unknown one":     {op, "exc-0", map[string]any{"reason": "x"}, 404, "unknown_exception"},
		"of another tenant":  {op, id, map[string]any{"tenant": "globex", "reason": "x"}, 404, "unknown_exception"},
		"a subject as an id": {op, "%3E", map[string]any{"reason": "x"}, 404, "unknown_exception"},
	} {
		status, got := w.call("POST", "/v1/exceptions/"+c.id+"/end", c.bearer, c.body)
		require.Equal(t, c.status, status, "%s: %v", name, got)
		require.Equal(t, c.code, got["code"], name)
	}
	require.Len(t, list(op, ""), 2)
	for range 2 { // an end that was reached is an outcome, not an error
		status, got = w.call("POST", "/v1/exceptions/"+id+"/end", op, map[string]any{"reason": "done"})
		require.Equal(t, 200, status, got)
		require.Equal(t, true, got["ended"])
	}
	require.Len(t, list(op, ""), 1)
}
