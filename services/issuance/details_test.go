package issuance

import (
	"encoding/json"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// details reads what a token request answered.
func (w *world) details(form url.Values) (status int, code string, granted []token.Detail, raw string) {
	w.t.Helper()
	status, _, body := w.formPost("/oauth2/token", "", form)
	var a struct {
		Error       string         `json:"error"`
		AccessToken string         `json:"access_token"`
		Details     []token.Detail `json:"authorization_details"`
	}
	require.NoError(w.t, json.Unmarshal([]byte(body), &a), body)
	return status, a.Error, a.Details, a.AccessToken
}

// TestAuthorizationDetails: RFC 9396 from the request to introspection and the log.
func TestAuthorizationDetails(t *testing.T) {
	w := newWorld(t)
	for name, types := range map[string][]string{"bot": {"payment", "report"}, "helper": {"payment"}, "plain": nil} {
		reg := agent(name)
		reg.DetailTypes = types
		w.declare("acme", reg)
	}
	w.declare("globex", func() events.Registration { r := agent("far"); r.DetailTypes = []string{"payment"}; return r }())
	w.publish("acme", events.TrustDeclared{Trust: "acme->globex", To: "globex", Scopes: []string{"read"}, MaxDepth: 2, By: "alice"})
	mine := w.checker("acme")
	const pay, report = `{"type":"payment","locations":["https://bank.example"],"actions":["initiate","status"],"identifier":"account-7"}`, `{"type":"report"}`
	ask := func(form url.Values, details string) url.Values {
		if details == "" {
			return form
		}
		return setting(form, "authorization_details", details)
	}
	status, _, granted, parent := w.details(ask(w.bearer("bot"), "["+pay+","+report+"]"))
	require.Equal(t, 200, status)
	want := []token.Detail{{Type: "payment", Locations: []string{"https://bank.example"}, Actions: []string{"initiate", "status"}, Identifier: "account-7"}, {Type: "report"}}
	require.Equal(t, want, granted)
	require.Equal(t, want, w.claims(parent).Details)
	_, _, body := w.formPost("/oauth2/introspect", mine, url.Values{"token": {parent}})
	require.Contains(t, body, `"authorization_details":[`+pay+","+report+"]")
	issued, _ := logged[events.CredentialIssued](w, events.LogSubject("acme", "credential", "issued", "bot"))
	require.Equal(t, []events.Detail{events.Detail(want[0]), events.Detail(want[1])}, issued.Details)

	none, _ := w.issue(w.bearer("bot"))
	require.Nil(t, w.claims(none).Details)
	w.eventually("trust known", func() bool { _, code, _, _ := w.details(w.exchange(parent, "far")); return code == "" })

	for name, c := range map[string]struct {
		form url.Values
		want []token.Detail
		code string
	}{
		"inherited as far as the actor may": {w.exchange(parent, "helper"), want[:1], ""},
		"inherited by who may none":         {w.exchange(parent, "plain"), nil, ""},
		"dropped":                           {ask(w.exchange(parent, "helper"), "[]"), nil, ""},
		"narrowed":                          {ask(w.exchange(parent, "helper"), `[{"type":"payment","locations":["https://bank.example"],"actions":["status"],"identifier":"account-7"}]`), []token.Detail{{Type: "payment", Locations: []string{"https://bank.example"}, Actions: []string{"status"}, Identifier: "account-7"}}, ""},
		"trust says nothing of details":     {w.exchange(parent, "far"), nil, ""},
		"asked through that trust":          {ask(w.exchange(parent, "far"), "["+pay+"]"), nil, "invalid_authorization_details"},
		"another action":                    {ask(w.exchange(parent, "helper"), `[{"type":"payment","locations":["https://bank.example"],"actions":["cancel"],"identifier":"account-7"}]`), nil, "invalid_authorization_details"},
		"another location":                  {ask(w.exchange(parent, "helper"), `[{"type":"payment","locations":["https://evil.example"],"actions":["status"],"identifier":"account-7"}]`), nil, "invalid_authorization_details"},
		"every location":                    {ask(w.exchange(parent, "helper"), `[{"type":"payment","actions":["status"],"identifier":"account-7"}]`), nil, "invalid_authorization_details"},
		"another account":                   {ask(w.exchange(parent, "helper"), `[{"type":"payment","locations":["https://bank.example"],"actions":["status"],"identifier":"account-8"}]`), nil, "invalid_authorization_details"},
		"a type the actor may not":          {ask(w.exchange(parent, "helper"), "["+report+"]"), nil, "invalid_authorization_details"},
		"of a parent without any":           {ask(w.exchange(none, "helper"), "["+pay+"]"), nil, "invalid_authorization_details"},
		"a type that is not registered":     {ask(w.bearer("helper"), "["+report+"]"), nil, "invalid_authorization_details"},
		"a member that nobody knows":        {ask(w.bearer("bot"), `[{"type":"payment","amount":"1"}]`), nil, "invalid_authorization_details"},
		"not JSON":                          {ask(w.bearer("bot"), `x`), nil, "invalid_authorization_details"},
		"an object":                         {ask(w.bearer("bot"), pay), nil, "invalid_authorization_details"},
		"a type in another case":            {ask(w.bearer("bot"), `[{"type":"Payment"}]`), nil, "invalid_authorization_details"},
		"one good, one not":                 {ask(w.bearer("bot"), "["+report+`,{"type":"admin"}]`), nil, "invalid_authorization_details"},
	} {
		status, code, granted, raw := w.details(c.form)
		require.Equal(t, c.code, code, name)
		if c.code != "" {
			require.Equal(t, 400, status, name)
			continue
		}
		require.Equal(t, c.want, granted, name)
		require.Equal(t, c.want, w.claims(raw).Details, name)
	}
}
