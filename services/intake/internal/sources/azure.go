package sources

import (
	"cmp"
	"regexp"
	"strings"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/neutral"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/records"
)

// AzureShape is records as diagnostic settings send them to an event hub or a storage
// account, and lists of the Monitor and Graph APIs.
var AzureShape = records.Shape{Lists: []string{"records", "value"}}

// Azure reads one record of the activity log, of a resource's audit log (such as Key
// Vault's), of Entra's audit log or of its sign-in logs, and the Kubernetes audit events
// that AKS wraps. Diagnostic settings give records no id of their own; it derives from
// what tells two apart. Of an operation that is told at its start and at its end the
// end counts.
func Azure(raw []byte, c neutral.Context) (neutral.Record, error) {
	d, err := neutral.Parse(raw)
	if err != nil {
		return read("Azure", neutral.Record{}, err)
	}
	if log := d.Text("properties", "log"); strings.HasPrefix(d.Text("category"), "kube-audit") && log != "" {
		if c.Instance == "" {
			c.Instance = last(d.Text("resourceId"), "/")
		}
		return Kubernetes([]byte(log), c)
	}
	a := azureRecord{Doc: d, props: d.Object("properties")}
	r, err := a.read(c)
	return read("Azure", r, err)
}

type azureRecord struct {
	neutral.Doc
	props neutral.Doc
}

// signIn reports a sign-in record. Records of the Graph API have no category and hold
// at the top what others hold in properties.
func (a azureRecord) signIn() bool {
	return strings.HasSuffix(a.Text("category"), "SignInLogs") || a.Text("category") == "" && a.Text("createdDateTime") != "" && a.Text("appId") != ""
}

// directory reports a record of Entra's audit log.
func (a azureRecord) directory() bool {
	return a.Text("category") == "AuditLogs" || a.Text("activityDisplayName") != "" || a.props.Text("activityDisplayName") != ""
}

func (a azureRecord) read(c neutral.Context) (neutral.Record, error) {
	var r neutral.Record
	switch a.result() {
	case "start", "started", "accept", "accepted", "begin":
		return r, neutral.Skip("the operation is told again when it ends")
	}
	if a.props == nil {
		a.props = a.Doc
	}
	tenant := cmp.Or(a.Text("tenantId"), a.props.Text("tenantId"), tenantOf(a.Text("resourceId")))
	r.Source = neutral.Source("azure:audit", cmp.Or(tenant, subscription(a.Text("resourceId")), c.Instance))
	var err error
	if r.Time, err = a.Time(path("properties", "createdDateTime"), path("createdDateTime"), path("properties", "activityDateTime"),
		path("activityDateTime"), path("eventTimestamp"), path("time")); err != nil {
		return r, err
	}
	switch {
	case a.signIn():
		r.Activity = a.signInActivity(tenant)
		r.ID = cmp.Or(a.props.Text("id"), a.Text("id"))
	case a.directory():
		r.Activity = a.directoryActivity(tenant)
		r.ID = cmp.Or(a.props.Text("id"), a.Text("id"))
	default:
		r.Activity = a.resourceActivity(tenant)
		r.ID = cmp.Or(a.Text("eventDataId"), a.props.Text("eventDataId"))
	}
	if r.Action == "" {
		return r, missing("operationName")
	}
	if r.ID == "" {
		r.ID = neutral.Derived(a.Text("time"), r.Time.String(), a.Text("correlationId"), r.Action, r.Resource, a.result(), a.Text("category"), r.Identity)
	}
	return r, nil
}

// result is the result of a record in lower case.
func (a azureRecord) result() string {
	return strings.ToLower(cmp.Or(a.Text("resultType"), a.Text("status", "value"), a.Text("status")))
}

// claim looks a claim up by its short name or by the end of its long one.
func (a azureRecord) claim(names ...string) string {
	for _, claims := range []neutral.Doc{a.Object("identity", "claims"), a.Object("claims"), a.Object("identity", "claim")} {
		for _, n := range names {
			if v := claims.Text(n); v != "" {
				return v
			}
			for _, prefix := range []string{"http://schemas.microsoft.com/identity/claims/", "http://schemas.xmlsoap.org/ws/2005/05/identity/claims/"} {
				if v := claims.Text(prefix + n); v != "" {
					return v
				}
			}
		}
	}
	return ""
}

// resourceActivity is what was done to a resource of a subscription.
func (a azureRecord) resourceActivity(tenant string) events.Activity {
	op := cmp.Or(a.Text("operationName", "value"), a.Text("operationName"))
	resource := strings.ToLower(cmp.Or(a.Text("resourceId"), a.props.Text("resourceId")))
	user := a.claim("upn", "name", "emailaddress")
	app := cmp.Or(a.claim("objectidentifier", "oid"), a.claim("appid"))
	out := events.Activity{
		Identity:       cmp.Or(app, user, a.Text("caller"), a.Text("identity"), neutral.Unidentified(cmp.Or(tenant, "azure"))),
		IdentityTenant: a.claim("tenantid", "tid"),
		Credential:     a.claim("appidacr_keyid", "kid"),
		JTI:            a.claim("uti"),
		UserAgent:      neutral.Family(cmp.Or(a.props.Text("clientInfo"), a.Text("httpRequest", "userAgent"))),
		Action:         op,
		ActionClass:    azureClass(op, a.Text("category")),
		Destination:    cmp.Or(provider(op), provider(resource), a.Text("resourceProviderName", "value"), "azure"),
		Resource:       cmp.Or(a.props.Text("id"), resource),
		ResourceTenant: tenant,
	}
	if app != "" && user == "" {
		out.IdentityKind = events.KindServiceAccount
	} else if user != "" {
		out.Identity = user
	}
	ip := cmp.Or(a.Text("callerIpAddress"), a.claim("ipaddr"), a.Text("httpRequest", "clientIpAddress"))
	out.SourceIP, out.SourceService = neutral.From(ip)
	out.Interactive = neutral.Browser(out.UserAgent)
	out.Outcome, out.Error = azureOutcome(a.result(), cmp.Or(a.Text("resultSignature"), a.Text("subStatus", "value"), a.Text("httpStatusCode")))
	return out
}

// signInActivity is a sign-in of an application or a person.
func (a azureRecord) signInActivity(tenant string) events.Activity {
	p := a.props
	who := cmp.Or(p.Text("servicePrincipalId"), p.Text("userPrincipalName"), p.Text("userId"), p.Text("appId"))
	out := events.Activity{
		Identity:       cmp.Or(who, neutral.Unidentified(cmp.Or(tenant, "entra"))),
		IdentityTenant: cmp.Or(p.Text("homeTenantId"), tenant),
		Credential:     cmp.Or(p.Text("servicePrincipalCredentialKeyId"), p.Text("federatedCredentialId")),
		Confirmation:   p.Text("servicePrincipalCredentialThumbprint"),
		JTI:            p.Text("uniqueTokenIdentifier"),
		Session:        p.Text("sessionId"),
		SourceCountry:  cmp.Or(p.Text("location", "countryOrRegion"), a.Text("location")),
		SourceASN:      asn(p.Text("autonomousSystemNumber")),
		UserAgent:      neutral.Family(p.Text("userAgent")),
		Action:         "entra:signIn",
		Destination:    cmp.Or(p.Text("resourceDisplayName"), p.Text("resourceId"), "entra"),
		Resource:       p.Text("resourceId"),
		ResourceTenant: cmp.Or(p.Text("resourceTenantId"), tenant),
		Interactive:    p.True("isInteractive"),
	}
	if p.Text("servicePrincipalId") != "" || p.Text("userPrincipalName") == "" && p.Text("userId") == "" {
		out.IdentityKind = events.KindServiceAccount
	} else {
		out.Workload = p.Text("appDisplayName")
	}
	out.SourceIP, out.SourceService = neutral.From(cmp.Or(p.Text("ipAddress"), a.Text("callerIpAddress")))
	code := cmp.Or(p.Text("status", "errorCode"), a.Text("resultType"))
	switch strings.ToLower(code) {
	case "0", "", "success", "succeeded":
		out.Outcome = events.OutcomeSuccess
	case "90055", "50196":
		out.Outcome, out.Error = events.OutcomeThrottled, "AADSTS"+code
	default:
		out.Outcome, out.Error = events.OutcomeDenied, "AADSTS"+code
	}
	return out
}

// directoryActivity is a change in the directory. Detectors know the changes that
// matter by the names that the Graph API gives them.
func (a azureRecord) directoryActivity(tenant string) events.Activity {
	p := a.props
	name := cmp.Or(p.Text("activityDisplayName"), a.Text("operationName"))
	app := cmp.Or(p.Text("initiatedBy", "app", "servicePrincipalId"), p.Text("initiatedBy", "app", "appId"), p.Text("initiatedBy", "app", "displayName"))
	user := cmp.Or(p.Text("initiatedBy", "user", "userPrincipalName"), p.Text("initiatedBy", "user", "id"))
	out := events.Activity{
		Identity:       cmp.Or(app, user, neutral.Unidentified(cmp.Or(tenant, "entra"))),
		IdentityTenant: cmp.Or(p.Text("initiatedBy", "user", "homeTenantId"), tenant),
		Action:         cmp.Or(directoryActions[strings.ToLower(name)], name),
		ActionClass:    events.ClassIAM,
		Destination:    cmp.Or(p.Text("loggedByService"), a.Text("loggedByService"), "entra"),
		Resource:       p.Text("targetResources", "0", "displayName"),
		ResourceTenant: tenant,
		Target:         cmp.Or(p.Text("targetResources", "0", "userPrincipalName"), p.Text("targetResources", "0", "id")),
	}
	if app != "" {
		out.IdentityKind = events.KindServiceAccount
	}
	out.SourceIP, out.SourceService = neutral.From(cmp.Or(p.Text("initiatedBy", "user", "ipAddress"), a.Text("callerIpAddress")))
	for _, x := range p.Objects("additionalDetails") {
		if strings.EqualFold(x.Text("key"), "User-Agent") {
			out.UserAgent = neutral.Family(x.Text("value"))
		}
	}
	out.Outcome, out.Error = azureOutcome(strings.ToLower(cmp.Or(p.Text("result"), a.result())), p.Text("resultReason"))
	if out.Outcome != events.OutcomeSuccess {
		out.Error = "failure"
	}
	return out
}

// directoryActions spells changes of Entra's audit log as Graph calls, by their name in
// lower case. It is a read-only table.
var directoryActions = map[string]string{
	"add service principal":                                         "microsoft.graph/servicePrincipals/create",
	"add application":                                               "microsoft.graph/applications/create",
	"add service principal credentials":                             "microsoft.graph/applications/addPassword",
	"add passwordcredential":                                        "microsoft.graph/applications/addPassword",
	"add app role assignment to service principal":                  "microsoft.graph/servicePrincipals/appRoleAssignments/create",
	"add delegated permission grant":                                "microsoft.graph/oauth2PermissionGrants/create",
	"consent to application":                                        "microsoft.graph/oauth2PermissionGrants/create",
	"add federated identity credential":                             "microsoft.graph/applications/federatedIdentityCredentials/create",
	"update application \u2013 certificates and secrets management": "microsoft.graph/applications/addKey",
}

var (
	providerName     = regexp.MustCompile(`(?i)(?:^|/providers/)(microsoft\.[a-z0-9.]+|[a-z0-9]+\.[a-z0-9.]+)(?:/|$)`)
	subscriptionName = regexp.MustCompile(`(?i)^/subscriptions/([^/]+)`)
	tenantName       = regexp.MustCompile(`(?i)^/tenants/([^/]+)`)
)

func provider(s string) string {
	if m := providerName.FindStringSubmatch(s); m != nil {
		return strings.ToLower(m[1])
	}
	return ""
}

func subscription(resource string) string { return first(subscriptionName, resource) }

func tenantOf(resource string) string { return first(tenantName, resource) }

func first(re *regexp.Regexp, s string) string {
	if m := re.FindStringSubmatch(s); m != nil {
		return strings.ToLower(m[1])
	}
	return ""
}

// azureClass groups an operation. Its last word says what it does; "action" stands for
// what is neither reading, writing nor deleting.
func azureClass(op, category string) events.ActionClass {
	op = strings.ToLower(op)
	switch {
	case neutral.Holds(op, "listkeys", "secretget", "keyget", "secrets/getsecret", "listsecrets", "listcredentials", "listaccountsas", "listservicesas", "begingetaccess"),
		op == "secretlist", op == "vaultget":
		return events.ClassSecret
	case neutral.Holds(op, "runcommand", "/extensions/write", "/runbooks/write", "/jobs/write"):
		return events.ClassExec
	case strings.HasPrefix(op, "microsoft.authorization/"), strings.HasPrefix(op, "microsoft.managedidentity/"), neutral.Holds(op, "regeneratekey"):
		return events.ClassIAM
	case neutral.Holds(op, "diagnosticsettings/", "/flowlogs/", "microsoft.insights/", "microsoft.security/"):
		return events.ClassLog
	case strings.HasSuffix(op, "/read"), reads(last(op, "/")), category == "AuditEvent" && strings.HasSuffix(op, "get"):
		return events.ClassRead
	}
	return events.ClassWrite
}

// azureOutcome reads a result and what explains it.
func azureOutcome(result, why string) (events.Outcome, string) {
	low := strings.ToLower(result + " " + why)
	failed := neutral.Holds(strings.ToLower(result), "fail", "error", "cancel", "timeout")
	switch {
	case neutral.Holds(low, "forbidden", "unauthor", "authorizationfailed", "denied"), strings.HasSuffix(low, " 401"), strings.HasSuffix(low, " 403"):
		return events.OutcomeDenied, cmp.Or(why, result)
	case neutral.Holds(low, "toomanyrequests", "throttl"), strings.HasSuffix(low, " 429"):
		return events.OutcomeThrottled, cmp.Or(why, result)
	case failed:
		return events.OutcomeError, cmp.Or(why, result)
	}
	return events.OutcomeSuccess, ""
}

// asn writes a number as the name of an autonomous system.
func asn(number string) string {
	if number == "" || number == "0" {
		return ""
	}
	return "AS" + strings.TrimPrefix(number, "AS")
}
