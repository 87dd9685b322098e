package sources

import (
	"cmp"
	"regexp"
	"strconv"
	"strings"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/neutral"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/records"
)

// GCPShape is LogEntry objects as a sink to Pub/Sub pushes them, one each, or as
// "gcloud logging read" and entries.list give them.
var GCPShape = records.Shape{Lists: []string{"entries"}, Unwrap: records.PubSub}

// GCP reads one Cloud Logging entry with an AuditLog payload: its id is insertId and its
// time is timestamp. Other log entries are skipped. Of a long-running operation the
// first entry counts.
func GCP(raw []byte, c neutral.Context) (neutral.Record, error) {
	d, err := neutral.Parse(raw)
	if err != nil {
		return read("GCP log", neutral.Record{}, err)
	}
	r, err := gcp(d, c)
	return read("GCP log", r, err)
}

func gcp(d neutral.Doc, c neutral.Context) (neutral.Record, error) {
	p := d.Object("protoPayload")
	r := neutral.Record{ID: d.Text("insertId")}
	if len(p) == 0 {
		return r, neutral.Skip("the log entry has no audit payload")
	}
	if t := p.Text("@type"); t != "" && !strings.HasSuffix(t, "AuditLog") {
		return r, neutral.Skip("the payload is no AuditLog")
	}
	if d.True("operation", "last") && !d.True("operation", "first") {
		return r, neutral.Skip("the end of an operation whose start was told before")
	}
	for _, name := range []string{"serviceName", "methodName"} {
		if p.Text(name) == "" {
			return r, missing("protoPayload." + name)
		}
	}
	var err error
	if r.Time, err = d.Time(path("timestamp"), path("receiveTimestamp")); err != nil {
		return r, err
	}
	g := gcpEntry{Doc: p, project: gcpProject(d, p)}
	if r.ID == "" {
		r.ID = neutral.Derived(d.Text("timestamp"), p.Text("authenticationInfo", "principalEmail"), p.Text("methodName"), p.Text("resourceName"))
	}
	r.Source = neutral.Source("gcp:audit", cmp.Or(g.project, c.Instance))
	r.Activity = g.activity(c)
	r.Session = d.Text("operation", "id")
	if gcpExchanges[last(p.Text("methodName"), ".")] {
		r.Form = neutral.Exchange
	}
	return r, nil
}

// gcpExchanges lists the methods that hand out a credential for another, by their last
// word. It is a read-only table.
var gcpExchanges = map[string]bool{"GenerateAccessToken": true, "GenerateIdToken": true, "SignJwt": true, "SignBlob": true, "ExchangeToken": true}

var gcpProjectName = regexp.MustCompile(`(?:^|/)projects/([a-z0-9:.-]+)`)

// gcpProject is the project that a resource belongs to.
func gcpProject(d, p neutral.Doc) string {
	if m := gcpProjectName.FindStringSubmatch(p.Text("resourceName")); m != nil && m[1] != "-" {
		return m[1]
	}
	if id := d.Text("resource", "labels", "project_id"); id != "" {
		return id
	}
	if m := gcpProjectName.FindStringSubmatch(d.Text("logName")); m != nil {
		return m[1]
	}
	return ""
}

type gcpEntry struct {
	neutral.Doc
	project string
}

func (g gcpEntry) activity(c neutral.Context) events.Activity {
	auth := g.Object("authenticationInfo")
	who := cmp.Or(auth.Text("principalEmail"), auth.Text("principalSubject"))
	meta := g.Object("requestMetadata")
	a := events.Activity{
		Identity:       cmp.Or(who, neutral.Unidentified(g.Text("serviceName"))),
		IdentityKind:   gcpKind(who),
		UserAgent:      neutral.Family(meta.Text("callerSuppliedUserAgent")),
		VPCEndpoint:    meta.Text("callerNetwork"),
		Destination:    g.Text("serviceName"),
		Action:         gcpAction(g.Text("methodName")),
		Resource:       g.Text("resourceName"),
		ResourceTenant: g.project,
		Count:          g.Number("numResponseItems"),
	}
	if key := auth.Text("serviceAccountKeyName"); key != "" {
		a.Credential = last(key, "/")
	}
	a.SourceIP, a.SourceService = neutral.From(cmp.Or(meta.Text("callerIp"), meta.Text("callerIP")))
	if a.SourceService == "private" {
		a.SourceService = "" // withheld by the source, which is not a place
	}
	a.Interactive = neutral.Browser(a.UserAgent)
	a.ActionClass = g.class(a.Action)
	a.Outcome, a.Error = g.outcome()
	chain := auth.Objects("serviceAccountDelegationInfo")
	for i := len(chain) - 1; i >= 0; i-- { // the log writes the first of the chain first
		if by := cmp.Or(chain[i].Text("firstPartyPrincipal", "principalEmail"), chain[i].Text("principalSubject")); by != "" {
			a.Delegation = append(a.Delegation, events.Party{Tenant: c.Tenant, Identity: by})
		}
	}
	a.DelegationDepth = len(a.Delegation)
	g.about(&a)
	return a
}

// about fills what an action on identities is about and what it made.
func (g gcpEntry) about(a *events.Activity) {
	switch method := last(g.Text("methodName"), "."); {
	case method == "CreateServiceAccountKey" || method == "UploadServiceAccountKey":
		a.Target = last(a.Resource, "/")
		if name := g.Text("response", "name"); name != "" {
			a.MintedID = last(name, "/")
		}
	case method == "CreateServiceAccount":
		a.MintedID = g.Text("response", "email")
	case gcpExchanges[method]:
		a.Target = last(a.Resource, "/")
	case strings.EqualFold(method, "SetIamPolicy"):
		for _, delta := range g.Objects("serviceData", "policyDelta", "bindingDeltas") {
			if delta.Text("action") == "ADD" {
				_, a.Target, _ = strings.Cut(delta.Text("member"), ":")
				return
			}
		}
	}
}

func gcpKind(who string) events.IdentityKind {
	switch {
	case strings.HasSuffix(who, "gserviceaccount.com"):
		return events.KindServiceAccount
	case strings.HasPrefix(who, "principal://"), strings.HasPrefix(who, "principalSet://"):
		return events.KindWorkload
	}
	return ""
}

var gcpKube = regexp.MustCompile(`^io\.k8s\.(?:[a-z0-9.]+\.)?v[0-9][a-z0-9]*\.([a-z]+)(?:\.([a-z]+))?\.([a-z]+)$`)

// gcpAction is the method; one of a GKE cluster is spelled as Kubernetes' own log
// spells it.
func gcpAction(method string) string {
	m := gcpKube.FindStringSubmatch(method)
	switch {
	case m == nil:
		return method
	case m[2] != "":
		return m[1] + "/" + m[2] + ":" + m[3]
	}
	return m[1] + ":" + m[3]
}

func (g gcpEntry) class(action string) events.ActionClass {
	service, method := g.Text("serviceName"), last(g.Text("methodName"), ".")
	kind := g.Text("authorizationInfo", "0", "permissionType")
	switch {
	case method == "AccessSecretVersion", service == "cloudkms.googleapis.com" && strings.HasSuffix(method, "Decrypt"), strings.HasPrefix(action, "secrets:get"):
		return events.ClassSecret
	case strings.HasPrefix(action, "pods/exec"), strings.HasPrefix(action, "pods/attach"):
		return events.ClassExec
	case gcpExchanges[method]:
		return events.ClassIAM
	case reads(method) || reads(last(action, ":")), strings.HasSuffix(kind, "_READ"):
		return events.ClassRead
	case service == "iam.googleapis.com", service == "iamcredentials.googleapis.com", strings.EqualFold(method, "SetIamPolicy"):
		return events.ClassIAM
	case service == "logging.googleapis.com", service == "monitoring.googleapis.com":
		return events.ClassLog
	}
	return events.ClassWrite
}

// outcome reads google.rpc.Status. A refused permission may stand in an entry without
// a status.
func (g gcpEntry) outcome() (events.Outcome, string) {
	code := g.Number("status", "code")
	name := "status " + strconv.FormatInt(code, 10)
	switch code {
	case 0:
		for _, p := range g.Objects("authorizationInfo") {
			if p.Text("granted") == "false" {
				return events.OutcomeDenied, "permission not granted"
			}
		}
		return events.OutcomeSuccess, ""
	case 7, 16:
		return events.OutcomeDenied, name
	case 8:
		return events.OutcomeThrottled, name
	}
	return events.OutcomeError, name
}
