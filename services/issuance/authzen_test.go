package issuance

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
)

// TestAuthZEN: an enforcement point with a Lanyard token asks about an identity of its
// tenant, before and after it is revoked.
func TestAuthZEN(t *testing.T) {
	w := newWorld(t)
	pep := agent("pep")
	pep.Scopes, pep.Audiences = []string{"lanyard.authorize", "read"}, []string{w.url}
	w.declare("acme", pep)
	w.declare("acme", agent("bot"))
	form := w.bearer("pep")
	form.Set("scope", "lanyard.authorize")
	form.Set("audience", w.url)
	tok, _ := w.issue(form)
	form.Set("scope", "read")
	weak, _ := w.issue(form)
	ask := func(tok, path, body string) (int, string) {
		q, err := http.NewRequest("POST", w.url+path, strings.NewReader(body))
		require.NoError(t, err)
		q.Header.Set("Content-Type", "application/json")
		if tok != "" {
			q.Header.Set("Authorization", "Bearer "+tok)
		}
		resp, err := http.DefaultClient.Do(q)
		require.NoError(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(b)
	}
	const body = `{"subject":{"type":"identity","id":"acme/bot"},"action":{"name":"read"},"resource":{"type":"audience","id":"https://a.example"}}`
	status, text := ask("", "/access/v1/evaluation", body)
	require.Equal(t, 401, status, text)
	status, text = ask(weak, "/access/v1/evaluation", body)
	require.Equal(t, 403, status, text)
	status, text = ask(tok, "/access/v1/evaluation", body)
	require.Equal(t, 200, status, text)
	require.Contains(t, text, `"decision":true`)
	status, text = ask(tok, "/access/v1/search/subject", body)
	require.Equal(t, 200, status, text)
	require.Contains(t, text, `"id":"acme/bot"`)
	w.kill(w.record(events.Target{Kind: "identity", Tenant: "acme", ID: "bot"}, "rev-1", events.ModeRevoke), "rev-1", events.ModeRevoke)
	w.eventually("denied", func() bool {
		status, text = ask(tok, "/access/v1/evaluation", body)
		return status == 200 && strings.Contains(text, `"decision":false`)
	})
}
