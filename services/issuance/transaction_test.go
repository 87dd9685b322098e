package issuance

import (
	"errors"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/grant"
)

const domain = "prod.example.org"

// transact is the form by which a workload asks for a transaction token.
func (w *world) transact(subject, kind, workload, scope string) url.Values {
	form := w.exchange(subject, workload)
	form.Set("subject_token_type", kind)
	form.Set("requested_token_type", grant.TypeTransaction)
	form.Set("audience", domain)
	form.Set("scope", scope)
	return form
}

// TestTransactionTokens: a workload that got an access token turns it into a transaction
// token, others replace it, and it dies with what the access token hangs from.
func TestTransactionTokens(t *testing.T) {
	w := newWorld(t, func(w *world) { w.configure = func(c *config.Config) { c.Issuance.TransactionDomain = domain } })
	w.declare("acme", agent("bot"))
	w.declare("acme", agent("outside")) // may not ask for any
	for _, name := range []string{"gateway", "orders"} {
		reg := agent(name)
		reg.Audiences = []string{domain}
		w.declare("acme", reg)
	}
	form := w.bearer("bot")
	form.Set("scope", "read write")
	access, parent := w.issue(form)
	open := func(raw string) token.Transaction {
		t.Helper()
		txn, err := token.OpenTransaction(raw, ringKeys{w.ring})
		require.NoError(t, err)
		return txn
	}
	first := setting(setting(w.transact(access, grant.TypeAccessToken, "gateway", "read write"), "request_details", `{"order": 7}`), "request_context", `{"ip":"192.0.2.1"}`)
	a := w.post(first)
	require.Equal(t, 200, a.status, a.Description)
	require.Equal(t, "N_A", a.TokenType)
	require.Equal(t, grant.TypeTransaction, a.IssuedType)
	txn := open(a.AccessToken)
	require.Equal(t, []string{w.url, domain, "acme/bot", "read write", "wl/gateway", "acme", "task-1", `{"order":7}`, `{"ip":"192.0.2.1"}`},
		[]string{txn.Issuer, txn.Audience, txn.Subject, txn.Scope, txn.Requester, txn.Tenant, txn.Task, string(txn.Facts), string(txn.Context)})
	require.LessOrEqual(t, txn.Expires, parent.Expires)
	require.Equal(t, parent.Lineage, txn.Lineage[:len(parent.Lineage)])
	require.Contains(t, txn.Lineage, w.namer.Name(lineage.KindIdentity, "acme", "gateway"))
	issued, _ := logged[events.CredentialIssued](w, events.LogSubject("acme", "credential", "issued", "gateway"))
	require.Equal(t, []string{txn.ID, token.HashText(a.AccessToken), parent.ID, ""}, []string{issued.Credential, issued.TokenSHA256, issued.Parent, issued.Delegation})

	for s, err := range w.conn.Read(t.Context(), bus.StreamIn, "nhi.in.acme.activity.token_exchanged", 1) {
		require.NoError(t, err)
		act, err := events.As[events.TokenExchanged](s.Event)
		require.NoError(t, err)
		require.Equal(t, txn.ID, act.MintedID)
		require.Empty(t, act.Delegation, "detection must not take it for a delegation that comes back")
		require.Zero(t, act.DelegationDepth)
	}

	replaced := w.post(w.transact(a.AccessToken, grant.TypeTransaction, "orders", "read"))
	require.Equal(t, 200, replaced.status, replaced.Description)
	next := open(replaced.AccessToken)
	require.Equal(t, "read", next.Scope)
	require.Equal(t, "wl/orders", next.Requester)
	for _, same := range [][2]string{{txn.Txn, next.Txn}, {txn.Subject, next.Subject}, {txn.Audience, next.Audience}, {string(txn.Facts), string(next.Facts)}, {string(txn.Context), string(next.Context)}} {
		require.Equal(t, same[0], same[1])
	}
	require.NotEqual(t, txn.ID, next.ID)
	require.LessOrEqual(t, next.Expires, txn.Expires)
	again := w.post(w.transact(replaced.AccessToken, grant.TypeTransaction, "gateway", "read"))
	require.Equal(t, 200, again.status, "a transaction may come back: %s", again.Description)

	onward := w.exchange(a.AccessToken, "orders")
	for name, c := range map[string]struct {
		form url.Values
		code string
	}{
		"wider than the access token": {w.transact(access, grant.TypeAccessToken, "gateway", "read admin"), "invalid_scope"},
		"wider than before":           {w.transact(replaced.AccessToken, grant.TypeTransaction, "gateway", "read write"), "invalid_scope"},
		"no scope":                    {w.transact(access, grant.TypeAccessToken, "gateway", ""), "invalid_scope"},
		"another domain":              {setting(w.transact(access, grant.TypeAccessToken, "gateway", "read"), "audience", "test.example.org"), "invalid_target"},
		"no domain":                   {setting(w.transact(access, grant.TypeAccessToken, "gateway", "read"), "audience", ""), "invalid_target"},
		"by who may ask for none":     {w.transact(access, grant.TypeAccessToken, "outside", "read"), "invalid_target"},
		"facts that change":           {setting(w.transact(a.AccessToken, grant.TypeTransaction, "orders", "read"), "request_details", `{"order":8}`), "invalid_request"},
		"context that changes":        {setting(w.transact(a.AccessToken, grant.TypeTransaction, "orders", "read"), "request_context", `{}`), "invalid_request"},
		"facts that are no object":    {setting(w.transact(access, grant.TypeAccessToken, "gateway", "read"), "request_details", `[1]`), "invalid_request"},
		"facts that are doubled":      {setting(w.transact(access, grant.TypeAccessToken, "gateway", "read"), "request_details", `{"a":1,"a":2}`), "invalid_request"},
		"with details":                {setting(w.transact(access, grant.TypeAccessToken, "gateway", "read"), "authorization_details", `[]`), "invalid_request"},
		"as an access token":          {onward, "invalid_grant"},
		"named for what it is not":    {w.transact(access, grant.TypeTransaction, "gateway", "read"), "invalid_grant"},
		"back to an access token":     {setting(onward, "subject_token_type", grant.TypeTransaction), "invalid_request"},
		"a stranger's":                {w.transact(w.idp.token(t, "wl/bot", w.url), grant.TypeAccessToken, "gateway", "read"), "invalid_grant"},
	} {
		got := w.post(c.form)
		require.Equal(t, c.code, got.Error, "%s: %s", name, got.Description)
	}

	_, _, body := w.formPost("/oauth2/revoke", "", url.Values{"token": {a.AccessToken}})
	require.Contains(t, body, "unsupported_token_type", "it must not look revoked")
	g := w.resource()
	check := func(raw, in, scope string) string {
		_, err := g.CheckTransaction(t.Context(), guard.TransactionRequest{Token: raw, Domain: in, Scopes: []string{scope}})
		d, _ := errors.AsType[*guard.Denial](err)
		if d == nil {
			return ""
		}
		return d.Code
	}
	require.Empty(t, check(a.AccessToken, domain, "write"))
	require.Empty(t, check(replaced.AccessToken, domain, "read"))
	require.Equal(t, guard.CodeScope, check(replaced.AccessToken, domain, "write"))
	require.Equal(t, guard.CodeAudience, check(a.AccessToken, "test.example.org", "read"))
	require.Equal(t, guard.CodeMalformed, check(access, domain, "read"), "an access token is none")
	require.Equal(t, guard.CodeMissing, check("", domain, "read"))
	require.Equal(t, guard.CodeMalformed, denial(t, g, a.AccessToken, "read"), "it is no access token")
	w.kill(w.namer.Name(lineage.KindCredential, "acme", parent.ID), "rev-1", events.ModeRevoke)
	w.eventually("dead with the access token", func() bool {
		return check(a.AccessToken, domain, "write") == guard.CodeRevoked && check(replaced.AccessToken, domain, "read") == guard.CodeRevoked
	})
	w.eventually("not replaced", func() bool {
		return w.post(w.transact(a.AccessToken, grant.TypeTransaction, "orders", "read")).Error == "invalid_grant"
	})
	payload, _, err := token.Open(a.AccessToken, token.TypTransaction, ringKeys{w.ring})
	require.NoError(t, err)
	require.NotContains(t, string(payload), access, "the access token does not travel inside")
}

// TestNoTransactionTokens: without a configured domain there are none.
func TestNoTransactionTokens(t *testing.T) {
	w := newWorld(t)
	w.declare("acme", agent("bot"))
	w.declare("acme", agent("helper"))
	access, _ := w.issue(w.bearer("bot"))
	require.Equal(t, "invalid_request", w.post(w.transact(access, grant.TypeAccessToken, "helper", "read")).Error)
}
