// Package ocsf writes findings in the Open Cybersecurity Schema Framework 1.8: alerts
// as Detection Finding (class 2004) and posture as IAM Analysis Finding (class 2008).
// It only converts. The anomaly service imports it, nobody else.
package ocsf

import (
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// Version of OCSF that the findings follow.
const Version = "1.8.0"

// The classes, and the category they belong to.
const (
	DetectionFinding   = 2004
	IAMAnalysisFinding = 2008
	category           = 2
)

// Activities of a finding.
const (
	create = 1
	update = 2
)

// State is what people made of an alert.
type State struct {
	Acknowledged string // by whom; empty: nobody did
	Expected     string // by whom it was marked as expected; empty: it is not
	Detail       string // in one sentence
}

// Context is what the envelope and the stream know of an alert.
type Context struct {
	Tenant      string
	Event       string // id of the event that states it
	Correlation string
	Created     time.Time // when it was stated
	Repeated    bool      // it is not the first that is said of this alert
	State       State
}

// Alert is the Detection Finding of an alert. Everything that the alert says is in it;
// what OCSF has no place for is in unmapped, under the alert's own names.
func Alert(a events.AnomalyDetected, c Context) Finding {
	f := base(DetectionFinding, "Detection Finding", a.Severity, c)
	f.StartTime, f.EndTime = ms(a.FirstSeen), ms(a.LastSeen)
	f.Message = a.Explanation
	f.FindingInfo = FindingInfo{
		UID: a.Alert, Title: a.Detector + " " + a.Name + ": " + a.Identity, Desc: a.Explanation,
		Analytic: analytic(a), Attacks: attacks(a.References), CreatedTime: f.Time,
		FirstSeenTime: f.StartTime, LastSeenTime: f.EndTime,
		RelatedEventsCount: len(a.Evidence), Traits: traits(a), Types: []string{a.Name}, DataSources: []string{"lanyard"},
	}
	f.Metadata.EventCode = a.Detector
	f.Resources = []Resource{resource(c.Tenant, a.Identity, "non-human identity", a.Owner, a.Feature)}
	if a.Proposed.Command != "" {
		f.Remediation = &Remediation{Desc: "Proposed response: " + a.Proposed.Response + ". Run: " + a.Proposed.Command}
	}
	alert := c.State.Expected == ""
	f.IsAlert = &alert
	f.Confidence, f.ConfidenceID = "Medium", 2
	if f.FindingInfo.Analytic.TypeID == 1 {
		f.Confidence, f.ConfidenceID = "High", 3
	}
	score := int(a.Score)
	f.RiskScore, f.RiskDetails = &score, a.Explanation
	f.RiskLevel, f.RiskLevelID = risk(a.Severity)
	user := User{UID: a.Identity, Name: a.Identity, Type: "Service", TypeID: 4}
	if a.Credential != "" {
		user.ProgrammaticCredentials = []ProgrammaticCredential{{UID: a.Credential, LastUsedTime: ms(a.LastSeen)}}
	}
	actor := Actor{User: user}
	if a.Session != "" {
		actor.Session = &Session{UID: a.Session, CredentialUID: a.Credential}
	}
	for _, id := range a.Evidence {
		f.FindingInfo.RelatedEvents = append(f.FindingInfo.RelatedEvents, RelatedEvent{UID: id})
		f.Evidences = append(f.Evidences, Evidence{UID: id, Name: "event " + id, Actor: actor})
	}
	f.AnomalyAnalyses = analyses(a)
	f.Observables = []Observable{{Name: "evidences[].actor.user.name", Type: "User Name", TypeID: 4, Value: a.Identity}}
	f.Unmapped = struct {
		Threshold float64 `json:"threshold"`
		Response  string  `json:"proposed_response"`
		Command   string  `json:"proposed_command"`
	}{a.Threshold, a.Proposed.Response, a.Proposed.Command}
	return f
}

// base is what every finding has.
func base(class int, name string, s events.Severity, c Context) Finding {
	f := Finding{
		ActivityID: create, ActivityName: "Create", CategoryUID: category, CategoryName: "Findings",
		ClassUID: class, ClassName: name, StatusID: 1, Status: "New", Time: ms(c.Created),
		Metadata: Metadata{Version: Version, Product: Product{Name: "Lanyard", VendorName: "Lanyard"}, UID: c.Event,
			CorrelationUID: c.Correlation, TenantUID: c.Tenant},
	}
	if c.State.Acknowledged != "" {
		f.StatusID, f.Status = 2, "In Progress"
	}
	if c.State.Expected != "" {
		f.StatusID, f.Status = 3, "Suppressed"
	}
	f.StatusDetail = c.State.Detail
	if c.Repeated || f.StatusID != 1 {
		f.ActivityID, f.ActivityName = update, "Update"
	}
	f.TypeUID, f.TypeName = class*100+f.ActivityID, name+": "+f.ActivityName
	f.SeverityID, f.Severity = severity(s)
	return f
}

func severity(s events.Severity) (int, string) {
	switch s {
	case events.SeverityLow:
		return 2, "Low"
	case events.SeverityMedium:
		return 3, "Medium"
	case events.SeverityHigh:
		return 4, "High"
	case events.SeverityCritical:
		return 5, "Critical"
	}
	return 0, "Unknown"
}

func risk(s events.Severity) (string, int) {
	id, name := severity(s)
	return name, max(id-1, 0)
}

// statistical detectors compare with a distribution. It is a read-only table.
var statistical = []string{"D10", "D11", "D12", "D17", "D21", "D25"}

// deterministic detectors need one event and a fact. It is a read-only table.
var deterministic = []string{"D01", "D02", "D03", "D04", "D05", "D06", "D07", "D08", "D09", "D16", "D18", "D26", "D27", "REV"}

func analytic(a events.AnomalyDetected) Analytic {
	x := Analytic{UID: a.Detector, Name: a.Name, TypeID: 2, Type: "Behavioral"}
	switch {
	case strings.HasPrefix(a.Detector, "RULE"), slices.Contains(deterministic, a.Detector):
		x.TypeID, x.Type = 1, "Rule"
	case slices.Contains(statistical, a.Detector):
		x.TypeID, x.Type = 3, "Statistical"
	}
	return x
}

// attacks are the techniques among the references: T1078.004 (ATT&CK) or AML.T0051
// (ATLAS).
func attacks(references []string) []Attack {
	var out []Attack
	for _, r := range references {
		t, atlas := strings.CutPrefix(r, "AML.")
		parent, sub, dotted := strings.Cut(t, ".")
		if len(parent) < 2 || parent[0] != 'T' || strings.Trim(parent[1:], "0123456789") != "" || strings.Trim(sub, "0123456789") != "" {
			continue
		}
		if atlas {
			parent = "AML." + parent
		}
		x := Attack{Technique: &Named{UID: parent}}
		if dotted {
			x.SubTechnique = &Named{UID: r}
		}
		out = append(out, x)
	}
	return out
}

func traits(a events.AnomalyDetected) []Trait {
	var out []Trait
	for _, t := range []Trait{
		{"identity", "feature", []string{a.Feature}}, {"identity", "purpose", []string{a.Purpose}},
		{"use", "task", []string{a.Task}}, {"use", "credential", []string{a.Credential}}, {"use", "session", []string{a.Session}},
	} {
		if t.Values[0] != "" {
			out = append(out, t)
		}
	}
	var owasp []string
	for _, r := range a.References {
		if strings.HasPrefix(r, "NHI") || strings.HasPrefix(r, "ASI") {
			owasp = append(owasp, r)
		}
	}
	if len(owasp) > 0 {
		out = append(out, Trait{"reference", "owasp", owasp})
	}
	return out
}

func resource(tenant, identity, kind, owner, feature string) Resource {
	r := Resource{UID: tenant + "/" + identity, Name: identity, Type: kind}
	if owner != "" {
		r.Owner = &Owner{Name: owner}
	}
	if feature != "" {
		r.Labels = []string{"feature:" + feature}
	}
	return r
}

// analyses carry the value and the baseline, with the counts they rest on.
func analyses(a events.AnomalyDetected) []AnomalyAnalysis {
	seen := Observed{ObservationParameter: a.Name, ObservationType: a.Detector, ObservedPattern: a.Explanation,
		Observations: []Observation{{Value: orUnknown(a.Value), Count: &a.Count}}}
	usual := Observed{ObservationParameter: a.Name, ObservationType: a.Detector,
		Observations: []Observation{{Value: orUnknown(a.Baseline)}}}
	return []AnomalyAnalysis{{
		AnalysisTargets: []Target{{Name: a.Identity, Type: "identity"}},
		Anomalies:       []Observed{seen}, Baselines: []Observed{usual},
	}}
}

func orUnknown(s string) string {
	if s == "" {
		return "not recorded"
	}
	return s
}

// ms is OCSF's timestamp_t; a time that is not known is 0 and left out.
func ms(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}
