package issuance

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
)

// TestLaunchIsNotExecution: who may start an agent's tasks is named apart from what the
// agent may do. What the launcher may do never becomes the agent's, and what they launched
// ends with them.
func TestLaunchIsNotExecution(t *testing.T) {
	w := newWorld(t)
	reg := agent("bot")
	reg.Launchers = []events.Attestation{{Issuer: w.idp.issuer, Subject: "people/ana"}}
	w.declare("acme", reg)
	w.declare("acme", agent("helper"))
	// ana is registered too and may do more than the agent.
	boss := agent("ana")
	boss.Scopes = append(boss.Scopes, "admin")
	boss.Attestation = []events.Attestation{{Issuer: w.idp.issuer, Subject: "people/ana"}}
	w.declare("acme", boss)
	by := func(subject string, more ...string) url.Values {
		form := w.bearer("bot")
		form.Set("launch_token", w.idp.token(t, subject, w.url))
		for i := 0; i < len(more); i += 2 {
			form.Set(more[i], more[i+1])
		}
		return form
	}

	raw, c := w.issue(by("people/ana"))
	require.Equal(t, "bot", c.Subject)
	require.Equal(t, "read", c.Scope)
	ana := w.namer.Name(lineage.KindWorkload, "acme", w.idp.issuer+" people/ana")
	require.Contains(t, c.Lineage, ana)
	issued, _ := logged[events.CredentialIssued](w, events.LogSubject("acme", "credential", "issued", "bot"))
	require.Equal(t, &events.Attestation{Issuer: w.idp.issuer, Subject: "people/ana"}, issued.Context.LaunchedBy)

	for name, c := range map[string]struct {
		form       url.Values
		code, text string
	}{
		"the launcher's own scope":    {by("people/ana", "scope", "admin"), "invalid_scope", "admin is not among those of identity bot"},
		"nobody launches it":          {w.bearer("bot"), "invalid_request", "launch_token is missing"},
		"somebody else":               {by("people/bob"), "unauthorized_client", "may not start tasks of bot"},
		"the agent itself":            {by("wl/bot"), "unauthorized_client", "may not start tasks of bot"},
		"a token for another service": {by("people/ana", "launch_token", w.idp.token(t, "people/ana", "https://other.example")), "invalid_grant", "launch_token: "},
		"no token":                    {by("people/ana", "launch_token", "x"), "invalid_grant", "launch_token: "},
	} {
		a := w.post(c.form)
		require.Equal(t, c.code, a.Error, name)
		require.Contains(t, a.Description, c.text, name)
	}

	once := by("people/ana")
	w.issue(once)
	a := w.post(once)
	require.Equal(t, "invalid_grant", a.Error)
	require.Contains(t, a.Description, "used before")

	exchange := w.exchange(raw, "helper")
	exchange.Set("launch_token", w.idp.token(t, "people/ana", w.url))
	require.Contains(t, w.post(exchange).Description, "leave launch_token out")
	_, child := w.issue(w.exchange(raw, "helper"))
	require.Contains(t, child.Lineage, ana, "what is passed on ends with the launcher too")

	w.kill(ana, "rev-ana", events.ModeRevoke)
	w.eventually("the launcher's tasks end", func() bool { return w.post(w.exchange(raw, "helper")).Error == "invalid_grant" })
	w.record(events.Target{Kind: string(lineage.KindWorkload), Tenant: "acme", ID: w.idp.issuer + " people/ana"}, "rev-ana", events.ModeRevoke)
	require.Contains(t, w.post(by("people/ana")).Description, "rev-ana", "nor do they start others")
}
