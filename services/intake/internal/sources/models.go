package sources

import (
	"cmp"
	"strings"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/neutral"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/records"
)

// ModelsShape is a page of a list, as the admin APIs of model providers give it.
var ModelsShape = records.Shape{Lists: []string{"data"}}

// OpenAI reads one audit log object of OpenAI's admin API: its id is id and its time
// effective_at.
func OpenAI(raw []byte, c neutral.Context) (neutral.Record, error) {
	d, err := neutral.Parse(raw)
	if err != nil {
		return read("OpenAI audit", neutral.Record{}, err)
	}
	r, err := openAI(d, c)
	return read("OpenAI audit", r, err)
}

func openAI(d neutral.Doc, c neutral.Context) (neutral.Record, error) {
	action := d.Text("type")
	r := neutral.Record{ID: d.Text("id"), Source: neutral.Source("openai:audit", c.Instance)}
	if r.ID == "" {
		return r, missing("id")
	}
	if action == "" {
		return r, missing("type")
	}
	var err error
	if r.Time, err = d.Time(path("effective_at"), path("created_at")); err != nil {
		return r, err
	}
	actor, about := d.Object("actor"), d.Object(action)
	session, key := actor.Object("session"), actor.Object("api_key")
	a := events.Activity{
		Destination: "openai",
		Action:      action,
		ActionClass: modelsClass(action),
		Outcome:     events.OutcomeSuccess,
		Resource:    d.Text("project", "id"),
	}
	if len(key) > 0 {
		a.Credential = key.Text("id")
		a.Identity = cmp.Or(key.Text("service_account", "id"), key.Text("user", "email"), key.Text("user", "id"), key.Text("id"))
		a.Owner = key.Text("user", "email")
		a.IdentityKind = events.KindAPIKey
		if key.Text("type") == "service_account" || key.Text("service_account", "id") != "" {
			a.IdentityKind = events.KindServiceAccount
		}
	} else {
		a.Identity = cmp.Or(session.Text("user", "email"), session.Text("user", "id"))
		a.Interactive = true
	}
	a.Identity = cmp.Or(a.Identity, neutral.Unidentified("openai"))
	a.SourceIP, a.SourceService = neutral.From(cmp.Or(session.Text("ip_address"), key.Text("ip_address")))
	a.UserAgent = neutral.Family(cmp.Or(session.Text("user_agent"), key.Text("user_agent")))
	a.TLSFingerprint = cmp.Or(session.Text("ja4"), session.Text("ja3"))
	a.SourceCountry = session.Text("ip_address_details", "country")
	a.SourceASN = asn(session.Text("ip_address_details", "asn"))
	if id := cmp.Or(about.Text("id"), about.Text("data", "id")); id != "" {
		a.Resource = id
		if strings.HasSuffix(action, ".created") && a.ActionClass == events.ClassIAM {
			a.MintedID = id
		}
	}
	a.Target = cmp.Or(about.Text("data", "email"), about.Text("email"))
	for _, s := range about.List("data", "scopes") {
		a.Scopes = append(a.Scopes, neutral.Text(s))
	}
	if action == "login.failed" || action == "logout.failed" {
		a.Outcome, a.Error = events.OutcomeDenied, cmp.Or(about.Text("error_code"), action)
	}
	r.Activity = a
	return r, nil
}

// modelsClass groups the events of a model provider: what is about keys, people and
// rights is IAM, what is about limits and guardrails is like a log.
func modelsClass(action string) events.ActionClass {
	switch {
	case neutral.Holds(action, "rate_limit", "guardrail", "moderation", "audit", "data_retention"):
		return events.ClassLog
	case neutral.Holds(action, "api_key", "service_account", "user", "invite", "role", "certificate", "group", "scim", "sso", "workspace_member", "integration", "connector", "mcp"):
		return events.ClassIAM
	case strings.HasPrefix(action, "login"), strings.HasPrefix(action, "logout"), neutral.Holds(action, "viewed", "listed", "accessed", "exported", "downloaded", "sign_in"):
		return events.ClassRead
	}
	return events.ClassWrite
}

// Anthropic reads one activity of Anthropic's compliance API: its id is id and its time
// created_at.
func Anthropic(raw []byte, c neutral.Context) (neutral.Record, error) {
	d, err := neutral.Parse(raw)
	if err != nil {
		return read("Anthropic audit", neutral.Record{}, err)
	}
	r, err := anthropic(d, c)
	return read("Anthropic audit", r, err)
}

func anthropic(d neutral.Doc, c neutral.Context) (neutral.Record, error) {
	action := cmp.Or(d.Text("type"), d.Text("event"))
	r := neutral.Record{ID: d.Text("id")}
	if r.ID == "" {
		return r, missing("id")
	}
	if action == "" {
		return r, missing("type")
	}
	var err error
	if r.Time, err = d.Time(path("created_at"), path("timestamp")); err != nil {
		return r, err
	}
	org := cmp.Or(d.Text("organization_id"), d.Text("organization_uuid"))
	r.Source = neutral.Source("anthropic:audit", cmp.Or(org, c.Instance))
	actor := d.Object("actor")
	key := cmp.Or(actor.Text("api_key_id"), actor.Text("admin_api_key_id"))
	a := events.Activity{
		Identity:       cmp.Or(actor.Text("service_account_id"), actor.Text("email_address"), actor.Text("user_id"), key, actor.Text("type"), neutral.Unidentified("anthropic")),
		Credential:     key,
		UserAgent:      neutral.Family(actor.Text("user_agent")),
		Destination:    "anthropic",
		Action:         action,
		ActionClass:    modelsClass(action),
		Resource:       subject(d),
		ResourceTenant: org,
		Outcome:        events.OutcomeSuccess,
	}
	switch {
	case actor.Text("service_account_id") != "":
		a.IdentityKind = events.KindServiceAccount
	case key != "":
		a.IdentityKind = events.KindAPIKey
	case strings.HasPrefix(actor.Text("type"), "user"):
		a.Interactive = true
	}
	a.SourceIP, a.SourceService = neutral.From(actor.Text("ip_address"))
	if a.ActionClass == events.ClassIAM && strings.HasSuffix(action, "created") {
		a.MintedID = cmp.Or(d.Text("api_key_id"), d.Text("service_account_id"))
	}
	a.Target = cmp.Or(d.Text("target_user_id"), d.Text("invited_email"))
	if neutral.Holds(action, "failed", "denied", "blocked") {
		a.Outcome, a.Error = events.OutcomeDenied, action
	}
	r.Activity = a
	return r, nil
}

// subject is the id of what an activity is about: the first of the members that are
// named for it.
func subject(d neutral.Doc) string {
	for _, name := range []string{"claude_file_id", "claude_chat_id", "claude_project_id", "claude_artifact_id", "api_key_id", "workspace_id", "file_id", "integration_id", "mcp_server_id"} {
		if id := d.Text(name); id != "" {
			return strings.TrimSuffix(name, "_id") + "=" + id
		}
	}
	return ""
}
