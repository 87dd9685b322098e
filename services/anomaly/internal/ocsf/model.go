package ocsf

// Finding is one event of class 2004 or 2008. Times are milliseconds since 1970, UTC.
type Finding struct {
	ActivityID   int    `json:"activity_id"`
	ActivityName string `json:"activity_name"`
	CategoryUID  int    `json:"category_uid"`
	CategoryName string `json:"category_name"`
	ClassUID     int    `json:"class_uid"`
	ClassName    string `json:"class_name"`
	TypeUID      int    `json:"type_uid"`
	TypeName     string `json:"type_name"`
	SeverityID   int    `json:"severity_id"`
	Severity     string `json:"severity"`
	StatusID     int    `json:"status_id"`
	Status       string `json:"status"`
	StatusDetail string `json:"status_detail,omitempty"`
	Time         int64  `json:"time"`
	StartTime    int64  `json:"start_time,omitempty"`
	EndTime      int64  `json:"end_time,omitempty"`
	Count        int64  `json:"count,omitempty"`
	Message      string `json:"message"`

	Metadata    Metadata     `json:"metadata"`
	FindingInfo FindingInfo  `json:"finding_info"`
	Resources   []Resource   `json:"resources"`
	Remediation *Remediation `json:"remediation,omitempty"`
	Observables []Observable `json:"observables,omitempty"`
	Unmapped    any          `json:"unmapped,omitempty"`

	// Of Detection Finding only.
	IsAlert         *bool             `json:"is_alert,omitempty"`
	Confidence      string            `json:"confidence,omitempty"`
	ConfidenceID    int               `json:"confidence_id,omitempty"`
	RiskScore       *int              `json:"risk_score,omitempty"`
	RiskLevel       string            `json:"risk_level,omitempty"`
	RiskLevelID     int               `json:"risk_level_id,omitempty"`
	RiskDetails     string            `json:"risk_details,omitempty"`
	Evidences       []Evidence        `json:"evidences,omitempty"`
	AnomalyAnalyses []AnomalyAnalysis `json:"anomaly_analyses,omitempty"`

	// Of IAM Analysis Finding only.
	User                      *User                      `json:"user,omitempty"`
	IdentityActivityMetrics   *IdentityActivityMetrics   `json:"identity_activity_metrics,omitempty"`
	PermissionAnalysisResults []PermissionAnalysisResult `json:"permission_analysis_results,omitempty"`
}

// Metadata is where the finding comes from.
type Metadata struct {
	Version        string  `json:"version"` // of OCSF
	Product        Product `json:"product"`
	UID            string  `json:"uid,omitempty"` // id of the event that states it
	CorrelationUID string  `json:"correlation_uid,omitempty"`
	TenantUID      string  `json:"tenant_uid"`
	EventCode      string  `json:"event_code,omitempty"`
}

// Product is us.
type Product struct {
	Name       string `json:"name"`
	VendorName string `json:"vendor_name"`
	Version    string `json:"version,omitempty"`
}

// FindingInfo is what was found, by which analytic.
type FindingInfo struct {
	UID                string         `json:"uid"`
	Title              string         `json:"title"`
	Desc               string         `json:"desc"`
	Analytic           Analytic       `json:"analytic"`
	Attacks            []Attack       `json:"attacks,omitempty"`
	CreatedTime        int64          `json:"created_time"`
	FirstSeenTime      int64          `json:"first_seen_time,omitempty"`
	LastSeenTime       int64          `json:"last_seen_time,omitempty"`
	RelatedEvents      []RelatedEvent `json:"related_events,omitempty"`
	RelatedEventsCount int            `json:"related_events_count,omitempty"`
	Traits             []Trait        `json:"traits,omitempty"`
	Types              []string       `json:"types"`
	DataSources        []string       `json:"data_sources,omitempty"`
}

// Analytic is the detector or rule.
type Analytic struct {
	UID    string `json:"uid"`
	Name   string `json:"name"`
	TypeID int    `json:"type_id"` // 1 Rule, 2 Behavioral, 3 Statistical
	Type   string `json:"type"`
}

// Attack is one technique of ATT&CK or ATLAS.
type Attack struct {
	Technique    *Named `json:"technique,omitempty"`
	SubTechnique *Named `json:"sub_technique,omitempty"`
}

// Named is an object that is known by its id.
type Named struct {
	UID string `json:"uid"`
}

// RelatedEvent is one event of evidence.
type RelatedEvent struct {
	UID string `json:"uid"`
}

// Trait is one thing that is known about the finding.
type Trait struct {
	Category string   `json:"category,omitempty"`
	Name     string   `json:"name"`
	Values   []string `json:"values"`
}

// Evidence is who acted, and the event that shows it.
type Evidence struct {
	UID   string `json:"uid"`
	Name  string `json:"name,omitempty"`
	Actor Actor  `json:"actor"`
}

// Actor is the identity with its session.
type Actor struct {
	User    User     `json:"user"`
	Session *Session `json:"session,omitempty"`
}

// Session of the actor.
type Session struct {
	UID           string `json:"uid"`
	CredentialUID string `json:"credential_uid,omitempty"`
}

// User is an identity; type 4 is a service.
type User struct {
	UID                     string                   `json:"uid"`
	Name                    string                   `json:"name"`
	Type                    string                   `json:"type"`
	TypeID                  int                      `json:"type_id"`
	ProgrammaticCredentials []ProgrammaticCredential `json:"programmatic_credentials,omitempty"`
}

// ProgrammaticCredential is one credential of an identity.
type ProgrammaticCredential struct {
	UID          string `json:"uid"`
	Type         string `json:"type,omitempty"`
	LastUsedTime int64  `json:"last_used_time,omitempty"`
}

// Resource is what is affected: the identity, with its owner.
type Resource struct {
	UID    string   `json:"uid"`
	Name   string   `json:"name"`
	Type   string   `json:"type"`
	Owner  *Owner   `json:"owner,omitempty"`
	Labels []string `json:"labels,omitempty"`
}

// Owner is a person or team.
type Owner struct {
	Name string `json:"name"`
}

// Remediation is what to do, with the exact command.
type Remediation struct {
	Desc string `json:"desc"`
}

// Observable lets a SOC pivot on a value without knowing the class.
type Observable struct {
	Name   string `json:"name"`
	Type   string `json:"type"`
	TypeID int    `json:"type_id"`
	Value  string `json:"value"`
}

// AnomalyAnalysis is the explanation: what was seen and what is usual.
type AnomalyAnalysis struct {
	AnalysisTargets []Target   `json:"analysis_targets"`
	Anomalies       []Observed `json:"anomalies"`
	Baselines       []Observed `json:"baselines,omitempty"`
}

// Target is what was analysed.
type Target struct {
	Name string `json:"name"`
	Type string `json:"type"`
}

// Observed is a parameter with its observations.
type Observed struct {
	ObservationParameter string        `json:"observation_parameter"`
	ObservationType      string        `json:"observation_type,omitempty"`
	ObservedPattern      string        `json:"observed_pattern,omitempty"`
	Observations         []Observation `json:"observations"`
}

// Observation is one value, and how often.
type Observation struct {
	Value string `json:"value"`
	Count *int64 `json:"count,omitempty"`
}

// IdentityActivityMetrics is how an identity is used.
type IdentityActivityMetrics struct {
	FirstSeenTime           int64                    `json:"first_seen_time,omitempty"`
	LastSeenTime            int64                    `json:"last_seen_time,omitempty"`
	LastAuthenticationTime  int64                    `json:"last_authentication_time,omitempty"`
	ProgrammaticCredentials []ProgrammaticCredential `json:"programmatic_credentials,omitempty"`
}

// PermissionAnalysisResult is granted minus used, with the policy that would do.
type PermissionAnalysisResult struct {
	GrantedPrivileges       []string `json:"granted_privileges"`
	AnalyzedPrivilegesCount int      `json:"analyzed_privileges_count"`
	UnusedPrivilegesCount   int      `json:"unused_privileges_count"`
	Policy                  *Policy  `json:"policy,omitempty"`
}

// Policy is a proposed policy.
type Policy struct {
	Name      string     `json:"name"`
	Type      string     `json:"type"`
	Desc      string     `json:"desc"`
	IsApplied bool       `json:"is_applied"`
	Data      PolicyText `json:"data"`
}

// PolicyText is the text of a policy.
type PolicyText struct {
	Language string `json:"language"`
	Text     string `json:"text"`
}
