package ocsf

import (
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// Weakness is one posture finding about one identity.
type Weakness struct {
	ID          string // the same weakness always has the same
	Tenant      string
	Identity    string
	Kind        string // of identity
	Owner       string
	Feature     string
	Check       string // such as "over_scoped"
	Severity    events.Severity
	Explanation string
	Action      string // what to do, with the exact command
	References  []string
	FirstUsed   time.Time
	LastUsed    time.Time
	Credentials []ProgrammaticCredential
	Granted     []string
	Unused      []string
	Policy      string // smaller policy, Cedar
	At          time.Time
}

// Posture is the IAM Analysis Finding of a weakness.
func Posture(w Weakness) Finding {
	f := base(IAMAnalysisFinding, "IAM Analysis Finding", w.Severity, Context{Tenant: w.Tenant, Created: w.At})
	f.Message = w.Explanation
	f.Metadata.EventCode = w.Check
	f.FindingInfo = FindingInfo{UID: w.ID, Title: w.Check + ": " + w.Identity, Desc: w.Explanation, CreatedTime: f.Time,
		Analytic: Analytic{UID: w.Check, Name: w.Check, TypeID: 1, Type: "Rule"}, Attacks: attacks(w.References),
		FirstSeenTime: ms(w.FirstUsed), LastSeenTime: ms(w.LastUsed), Types: []string{w.Check}, DataSources: []string{"lanyard"},
		Traits: traits(events.AnomalyDetected{Feature: w.Feature, References: w.References})}
	f.Resources = []Resource{resource(w.Tenant, w.Identity, w.Kind, w.Owner, w.Feature)}
	f.Remediation = &Remediation{Desc: w.Action}
	f.User = &User{UID: w.Identity, Name: w.Identity, Type: "Service", TypeID: 4, ProgrammaticCredentials: w.Credentials}
	// The class asks for at least one of its analyses; these metrics are always known.
	f.IdentityActivityMetrics = &IdentityActivityMetrics{FirstSeenTime: ms(w.FirstUsed), LastSeenTime: ms(w.LastUsed),
		LastAuthenticationTime: ms(w.LastUsed), ProgrammaticCredentials: w.Credentials}
	if len(w.Granted) > 0 {
		r := PermissionAnalysisResult{GrantedPrivileges: w.Granted, AnalyzedPrivilegesCount: len(w.Granted), UnusedPrivilegesCount: len(w.Unused)}
		if w.Policy != "" {
			r.Policy = &Policy{Name: "proposed for " + w.Identity, Type: "Cedar", Desc: "permits what was used and nothing else",
				Data: PolicyText{Language: "cedar", Text: w.Policy}}
		}
		f.PermissionAnalysisResults = []PermissionAnalysisResult{r}
	}
	f.Observables = []Observable{{Name: "user.name", Type: "User Name", TypeID: 4, Value: w.Identity}}
	return f
}
