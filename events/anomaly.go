package events

import "time"

// Severity of an alert.
type Severity string

// The severities, lowest first.
const (
	SeverityLow      Severity = "low"
	SeverityMedium   Severity = "medium"
	SeverityHigh     Severity = "high"
	SeverityCritical Severity = "critical"
)

// Proposed is what an alert asks for.
type Proposed struct {
	Response string `json:"response"` // alert, contain or revoke
	Command  string `json:"command"`  // the exact command that does it
}

// AnomalyDetected is an alert: a conclusion that behaviour left its baseline.
type AnomalyDetected struct {
	Alert       string    `json:"alert"`    // id; the same evidence always yields the same id
	Detector    string    `json:"detector"` // such as "D13"
	Name        string    `json:"name"`     // such as "new_action_or_tool"
	Severity    Severity  `json:"severity"`
	Score       float64   `json:"score"` // 0 to 100
	Identity    string    `json:"identity"`
	Owner       string    `json:"owner,omitempty"`
	Feature     string    `json:"feature,omitempty"`
	Purpose     string    `json:"purpose,omitempty"`
	Credential  string    `json:"credential,omitempty"`
	Task        string    `json:"task,omitempty"`
	Session     string    `json:"session,omitempty"`
	Explanation string    `json:"explanation"` // one plain sentence with the numbers
	Value       string    `json:"value"`       // what was seen
	Baseline    string    `json:"baseline"`    // what was usual
	Count       int64     `json:"count"`       // how much of it was seen
	Threshold   float64   `json:"threshold"`   // what it was compared with
	Evidence    []string  `json:"evidence"`    // event ids
	FirstSeen   time.Time `json:"first_seen"`  // event time of the first evidence
	LastSeen    time.Time `json:"last_seen"`   // event time of the last evidence
	References  []string  `json:"references"`  // OWASP NHI, ATT&CK, ATLAS ids
	Proposed    Proposed  `json:"proposed"`
}

// EventType implements Payload.
func (AnomalyDetected) EventType() string { return TypeAnomalyDetected }

// Entity implements Payload.
func (p AnomalyDetected) Entity() string { return p.Identity }

// RiskChanged states that the risk level of an identity changed.
type RiskChanged struct {
	Identity string `json:"identity"`
	Level    string `json:"level"` // low, medium, high, critical
	Previous string `json:"previous"`
	Reason   string `json:"reason"`
	Alert    string `json:"alert,omitempty"`
}

// EventType implements Payload.
func (RiskChanged) EventType() string { return TypeRiskChanged }

// Entity implements Payload.
func (p RiskChanged) Entity() string { return p.Identity }
