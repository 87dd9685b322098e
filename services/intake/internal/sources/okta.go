package sources

import (
	"cmp"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/neutral"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/records"
)

// OktaShape is LogEvent objects as the System Log API and log streaming give them, and
// the event hooks that carry them.
var OktaShape = records.Shape{Lists: []string{"events"}, Unwrap: func(v jsontext.Value) ([]jsontext.Value, error) {
	if data, ok := records.Member(v, "data"); ok && data.Kind() == '{' {
		if list, ok := records.Member(data, "events"); ok && list.Kind() == '[' {
			return []jsontext.Value{list}, nil // an event hook
		}
	}
	if detail, ok := records.Member(v, "detail"); ok && detail.Kind() == '{' && records.Text(v, "detail-type") != "" {
		return []jsontext.Value{detail}, nil // log streaming to EventBridge
	}
	return nil, nil
}}

// Okta reads one LogEvent of Okta's System Log: its id is uuid and its time published.
func Okta(raw []byte, c neutral.Context) (neutral.Record, error) {
	d, err := neutral.Parse(raw)
	if err != nil {
		return read("Okta", neutral.Record{}, err)
	}
	r, err := okta(d, c)
	return read("Okta", r, err)
}

func okta(d neutral.Doc, c neutral.Context) (neutral.Record, error) {
	r := neutral.Record{ID: d.Text("uuid"), Source: neutral.Source("okta:system", c.Instance)}
	for _, name := range []string{"eventType", "uuid"} {
		if d.Text(name) == "" {
			return r, missing(name)
		}
	}
	var err error
	if r.Time, err = d.Time(path("published")); err != nil {
		return r, err
	}
	actor, client, security := d.Object("actor"), d.Object("client"), d.Object("securityContext")
	who := cmp.Or(actor.Text("id"), actor.Text("alternateId"))
	action := d.Text("eventType")
	a := events.Activity{
		Identity:      cmp.Or(who, neutral.Unidentified("okta")),
		IdentityKind:  oktaKind(actor.Text("type"), d.Text("transaction", "detail", "requestApiTokenId")),
		Credential:    cmp.Or(d.Text("transaction", "detail", "requestApiTokenId"), d.Text("debugContext", "debugData", "tokenId")),
		Session:       cmp.Or(known(d.Text("authenticationContext", "externalSessionId")), known(d.Text("authenticationContext", "rootSessionId"))),
		SourceCountry: client.Text("geographicalContext", "country"),
		SourceASN:     asn(security.Text("asNumber")),
		UserAgent:     neutral.Family(client.Text("userAgent", "rawUserAgent")),
		Destination:   "okta",
		Action:        action,
		ActionClass:   oktaClass(action),
		Confirmation:  known(d.Text("debugContext", "debugData", "dpopThumbprint")),
	}
	if actor.Text("type") == "User" && actor.Text("alternateId") != "" {
		a.Identity = actor.Text("alternateId")
	}
	a.SourceIP, a.SourceService = neutral.From(client.Text("ipAddress"))
	a.Interactive = neutral.Browser(a.UserAgent)
	a.Workload = known(client.Text("id"))
	for _, t := range d.Objects("target") {
		name := cmp.Or(t.Text("alternateId"), t.Text("displayName"), t.Text("id"))
		switch kind := t.Text("type"); {
		case kind == "AppInstance" && a.Resource == "":
			a.Resource, a.Destination = name, "okta:"+cmp.Or(t.Text("displayName"), name)
		case (kind == "User" || kind == "PublicClientApp" || kind == "AppUser") && a.Target == "" && name != a.Identity:
			a.Target = name
		case strings.Contains(strings.ToLower(kind), "token") && a.MintedID == "":
			a.MintedID = t.Text("id")
		case a.Resource == "":
			a.Resource = cmp.Or(kind, "target") + "=" + name
		}
	}
	a.Outcome, a.Error = oktaOutcome(d.Text("outcome", "result"), action)
	r.Activity = a
	if strings.HasPrefix(action, "app.oauth2.") && strings.Contains(action, "token.grant") {
		r.Form = neutral.Exchange
	}
	return r, nil
}

// known is s, unless it is one of the words for nothing.
func known(s string) string {
	if s == "unknown" || s == "trs-unknown" {
		return ""
	}
	return s
}

func oktaKind(actor, apiToken string) events.IdentityKind {
	switch {
	case actor == "PublicClientApp" || actor == "PublicClientAppEntity":
		return events.KindOAuthApp
	case actor == "SystemPrincipal":
		return events.KindWorkload
	case apiToken != "":
		return events.KindAPIKey
	}
	return ""
}

func oktaClass(action string) events.ActionClass {
	switch {
	case neutral.Holds(action, "log_stream", "policy.", "zone."):
		return events.ClassLog
	case strings.HasPrefix(action, "user.session"), strings.HasPrefix(action, "user.authentication"), strings.HasPrefix(action, "app.oauth2"):
		return events.ClassRead
	case neutral.Holds(action, "api_token", "privilege", "lifecycle", "membership", "idp.", "grant", "account."):
		return events.ClassIAM
	case reads(last(action, ".")):
		return events.ClassRead
	}
	return events.ClassWrite
}

// oktaOutcome reads an outcome; what is limited says so in the event's type.
func oktaOutcome(result, action string) (events.Outcome, string) {
	if neutral.Holds(action, "rate_limit") {
		return events.OutcomeThrottled, action
	}
	switch result {
	case "FAILURE":
		if neutral.Holds(action, "authentication", "session", "authorization", "sign", "oauth2", "unauth") {
			return events.OutcomeDenied, result
		}
		return events.OutcomeError, result
	case "DENY", "ABANDONED", "REJECTED":
		return events.OutcomeDenied, result
	case "RATE_LIMIT":
		return events.OutcomeThrottled, result
	}
	return events.OutcomeSuccess, "" // SUCCESS, ALLOW, SKIPPED, CHALLENGE, UNKNOWN
}
