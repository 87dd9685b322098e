package sources

import (
	"cmp"
	"strings"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/neutral"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/records"
)

// GitHubShape is what audit log streaming and the REST API give: arrays or lines.
var GitHubShape = records.Shape{}

// GitHub reads one event of an organization's or enterprise's audit log: its id is
// _document_id and its time @timestamp, in milliseconds.
func GitHub(raw []byte, c neutral.Context) (neutral.Record, error) {
	d, err := neutral.Parse(raw)
	if err != nil {
		return read("GitHub audit", neutral.Record{}, err)
	}
	r, err := gitHub(d, c)
	return read("GitHub audit", r, err)
}

func gitHub(d neutral.Doc, c neutral.Context) (neutral.Record, error) {
	action := d.Text("action")
	r := neutral.Record{ID: d.Text("_document_id")}
	if action == "" {
		return r, missing("action")
	}
	var err error
	if r.Time, err = d.Time(path("@timestamp"), path("at_sign_timestamp"), path("created_at")); err != nil {
		return r, err
	}
	if r.ID == "" {
		r.ID = neutral.Derived(r.Time.String(), action, d.Text("actor"), d.Text("repo"), d.Text("org"), d.Text("run_number"), d.Text("request_id"))
	}
	org := cmp.Or(d.Text("org"), d.Text("org", "0"), d.Text("business"))
	r.Source = neutral.Source("github:audit", cmp.Or(org, c.Instance))
	who := cmp.Or(d.Text("actor"), d.Text("programmatic_access_type"))
	a := events.Activity{
		Identity:       cmp.Or(who, neutral.Unidentified("github")),
		IdentityKind:   gitHubKind(d, who),
		Credential:     cmp.Or(d.Text("hashed_token"), d.Text("token_id")),
		SourceCountry:  d.Text("actor_location", "country_code"),
		UserAgent:      neutral.Family(d.Text("user_agent")),
		Workload:       gitHubWorkload(d),
		Destination:    "github.com/" + strings.ToLower(org),
		Action:         action,
		ActionClass:    gitHubClass(action, d.Text("operation_type")),
		Resource:       cmp.Or(d.Text("repo"), d.Text("repository"), d.Text("team"), d.Text("hook_id"), org),
		ResourceTenant: org,
		Target:         cmp.Or(d.Text("user"), d.Text("integration"), d.Text("oauth_application_name")),
		Scopes:         strings.FieldsFunc(d.Text("token_scopes"), func(r rune) bool { return r == ',' || r == ' ' }),
		Outcome:        events.OutcomeSuccess,
	}
	if a.Target == who {
		a.Target = ""
	}
	a.SourceIP, a.SourceService = neutral.From(d.Text("actor_ip"))
	a.Interactive = neutral.Browser(a.UserAgent)
	if neutral.Holds(action, ".access_denied", ".failed_login", ".rejected") || d.Text("operation_type") == "authentication" && d.Text("conclusion") == "failure" {
		a.Outcome, a.Error = events.OutcomeDenied, action
	} else if d.Text("conclusion") == "failure" {
		a.Outcome, a.Error = events.OutcomeError, "conclusion failure"
	}
	r.Activity = a
	return r, nil
}

// gitHubKind tells programs from people by what they signed in with.
func gitHubKind(d neutral.Doc, who string) events.IdentityKind {
	access := d.Text("programmatic_access_type")
	switch {
	case d.True("actor_is_agent"):
		return events.KindAgent
	case strings.Contains(access, "GitHub App"), d.True("actor_is_bot"), strings.HasSuffix(who, "[bot]"):
		return events.KindOAuthApp
	case strings.Contains(access, "personal access token"), strings.Contains(access, "token"):
		return events.KindAPIKey
	case strings.Contains(access, "key"):
		return events.KindWorkload
	}
	return ""
}

func gitHubWorkload(d neutral.Doc) string {
	if id := cmp.Or(d.Text("workflow_id"), d.Text("name")); id != "" && strings.HasPrefix(d.Text("action"), "workflows.") {
		return "workflow:" + id
	}
	return d.Text("programmatic_access_type")
}

// gitHubClass groups an action by its category, the part before the first dot, and by
// what the log says of the operation.
func gitHubClass(action, operation string) events.ActionClass {
	category, name, _ := strings.Cut(action, ".")
	switch category {
	case "git":
		if name == "push" {
			return events.ClassWrite
		}
		return events.ClassRead
	case "workflows", "environment":
		return events.ClassExec
	case "audit_log_streaming", "secret_scanning", "secret_scanning_push_protection", "repository_secret_scanning", "repository_vulnerability_alerts", "protected_branch":
		return events.ClassLog
	case "org", "team", "members", "integration_installation", "oauth_application", "oauth_authorization", "personal_access_token", "deploy_key",
		"public_key", "hook", "org_credential_authorization", "role", "sso", "enterprise", "business":
		if operation == "access" || reads(name) {
			return events.ClassRead
		}
		return events.ClassIAM
	}
	if operation == "access" || reads(name) {
		return events.ClassRead
	}
	return events.ClassWrite
}
