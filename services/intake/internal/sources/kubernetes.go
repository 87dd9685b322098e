package sources

import (
	"cmp"
	"regexp"
	"strings"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/neutral"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/records"
)

// KubernetesShape is an audit.k8s.io/v1 EventList as the webhook backend posts it, or
// the lines of the log backend, also as EKS puts them into CloudWatch Logs.
var KubernetesShape = records.Shape{Lists: []string{"items"}, Unwrap: records.CloudWatch}

// Kubernetes reads one audit.k8s.io/v1 Event: its id is auditID and its time that of
// the request. A request is told once per stage; the one at its end counts, and for
// exec, attach and portforward, which go on for hours, the one at its start too, with
// the same id.
func Kubernetes(raw []byte, c neutral.Context) (neutral.Record, error) {
	d, err := neutral.Parse(raw)
	if err != nil {
		return read("Kubernetes audit", neutral.Record{}, err)
	}
	r, err := kubernetes(d, c)
	return read("Kubernetes audit", r, err)
}

func kubernetes(d neutral.Doc, c neutral.Context) (neutral.Record, error) {
	r := neutral.Record{ID: d.Text("auditID"), Source: neutral.Source("k8s:audit", c.Instance)}
	if k := d.Text("kind"); k != "" && k != "Event" {
		return r, neutral.Skip("kind " + k + " is no audit event")
	}
	k := kube{Doc: d, object: d.Object("objectRef")}
	switch d.Text("stage") {
	case "RequestReceived":
		return r, neutral.Skip("the request is told again when it ends")
	case "ResponseStarted":
		if !k.streams() {
			return r, neutral.Skip("the request is told again when it ends")
		}
	}
	if d.Text("verb") == "" {
		return r, missing("verb")
	}
	var err error
	if r.Time, err = d.Time(path("requestReceivedTimestamp"), path("stageTimestamp")); err != nil {
		return r, err
	}
	if r.ID == "" {
		r.ID = neutral.Derived(d.Text("requestReceivedTimestamp"), d.Text("user", "username"), d.Text("verb"), d.Text("requestURI"), k.name())
	}
	r.Activity = k.activity(c)
	if r.Action == "serviceaccounts/token:create" {
		r.Form = neutral.Exchange
	}
	return r, nil
}

type kube struct {
	neutral.Doc
	object neutral.Doc
}

func (k kube) activity(c neutral.Context) events.Activity {
	user := k.Text("user", "username")
	extra := k.Object("user", "extra")
	namespace := k.object.Text("namespace")
	a := events.Activity{
		Identity:     cmp.Or(user, neutral.Unidentified("kubernetes")),
		IdentityKind: kubeKind(user),
		Credential:   extra.Text("authentication.kubernetes.io/credential-id", "0"),
		UserAgent:    neutral.Family(k.Text("userAgent")),
		Destination:  strings.Trim(cmp.Or(c.Instance, "kubernetes")+"/"+namespace, "/"),
		Action:       k.action(),
		Resource:     k.name(),
	}
	a.JTI = strings.TrimPrefix(a.Credential, "JTI=")
	if a.JTI == a.Credential {
		a.JTI = ""
	}
	if pod := extra.Text("authentication.kubernetes.io/pod-name", "0"); pod != "" {
		a.Workload, a.WorkloadAttested = "pod:"+template(pod), true
	} else if node := extra.Text("authentication.kubernetes.io/node-name", "0"); node != "" {
		a.Workload, a.WorkloadAttested = "node:"+node, true
	}
	a.SourceIP, a.SourceService = neutral.From(k.Text("sourceIPs", "0"))
	a.ActionClass = k.class()
	a.Outcome, a.Error = k.outcome()
	if who := k.Text("impersonatedUser", "username"); who != "" {
		a.Delegation = []events.Party{{Tenant: c.Tenant, Identity: who}}
		a.Target = who
	}
	if a.Action == "serviceaccounts/token:create" {
		a.Target = "system:serviceaccount:" + namespace + ":" + k.object.Text("name")
		a.MintedID = k.Text("annotations", "authentication.kubernetes.io/issued-credential-identifier")
	}
	return a
}

func kubeKind(user string) events.IdentityKind {
	switch {
	case strings.HasPrefix(user, "system:serviceaccount:"):
		return events.KindServiceAccount
	case strings.HasPrefix(user, "system:") && user != "system:anonymous":
		return events.KindWorkload
	}
	return ""
}

// generated is what controllers append to the names of pods.
var generated = regexp.MustCompile(`(-[a-f0-9]{8,10})?-[a-z0-9]{5}$|-[0-9]+$`)

// template is a pod's name without what differs from pod to pod.
func template(pod string) string { return generated.ReplaceAllString(pod, "") }

func (k kube) kind() string {
	kind := k.object.Text("resource")
	if sub := k.object.Text("subresource"); sub != "" {
		kind += "/" + sub
	}
	return kind
}

func (k kube) action() string {
	if kind := k.kind(); kind != "" {
		return kind + ":" + k.Text("verb")
	}
	return "url:" + k.Text("verb")
}

// name is what the request is about.
func (k kube) name() string {
	if k.object.Text("resource") == "" {
		uri, _, _ := strings.Cut(k.Text("requestURI"), "?")
		return uri
	}
	return strings.Trim(strings.Join([]string{k.object.Text("namespace"), k.object.Text("resource"), k.object.Text("name")}, "/"), "/")
}

// streams reports a request that is a session.
func (k kube) streams() bool {
	switch k.kind() {
	case "pods/exec", "pods/attach", "pods/portforward", "nodes/proxy", "pods/proxy", "services/proxy":
		return true
	}
	return false
}

func (k kube) class() events.ActionClass {
	reading := reads(k.Text("verb")) || k.Text("verb") == "head"
	resource := k.object.Text("resource")
	switch {
	case k.streams():
		return events.ClassExec
	case resource == "secrets" && reading:
		return events.ClassSecret
	case reading || strings.HasSuffix(resource, "reviews"):
		return events.ClassRead
	case k.object.Text("apiGroup") == "rbac.authorization.k8s.io", resource == "serviceaccounts", resource == "certificatesigningrequests",
		strings.HasSuffix(resource, "rolebindings"), strings.HasSuffix(resource, "roles"):
		return events.ClassIAM
	}
	return events.ClassWrite
}

func (k kube) outcome() (events.Outcome, string) {
	code := k.Number("responseStatus", "code")
	o := outcomeOf(code)
	switch {
	case k.Text("annotations", "authorization.k8s.io/decision") == "forbid":
		o = events.OutcomeDenied
	case k.Text("stage") == "Panic":
		o = events.OutcomeError
	}
	if o == events.OutcomeSuccess {
		return o, ""
	}
	return o, cmp.Or(k.Text("responseStatus", "reason"), k.Text("responseStatus", "code"), k.Text("stage"))
}
