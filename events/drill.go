package events

import "time"

// DrillOutcome is what a drill has shown.
type DrillOutcome string

// The outcomes of a drill.
const (
	DrillProven    DrillOutcome = "proven"     // every enforcement point refuses what the drill revoked
	DrillNotClosed DrillOutcome = "not_closed" // some did not answer in time, or still accept it
	DrillNotRun    DrillOutcome = "not_run"    // nothing could be revoked, so nothing is shown
)

// DrillStarted states that a canary credential is about to be minted and revoked, to
// see that the kill switch works.
type DrillStarted struct {
	Drill     string    `json:"drill"`
	By        string    `json:"by"`   // who asked for it; "schedule"
	Task      string    `json:"task"` // that the canary is minted for
	StartedAt time.Time `json:"started_at"`
}

// EventType implements Payload.
func (DrillStarted) EventType() string { return TypeDrillStarted }

// Entity implements Payload.
func (p DrillStarted) Entity() string { return p.Drill }

// DrillPoint is what one enforcement point did in a drill.
type DrillPoint struct {
	Point     string         `json:"point"`
	Outcome   ReceiptOutcome `json:"outcome,omitempty"` // empty: it did not answer
	LatencyMS float64        `json:"latency_ms"`        // from accept to applied
}

// MaxDrillPoints is how many points a DrillFinished lists, the slowest of them.
const MaxDrillPoints = 256

// DrillFinished states what a drill has shown.
type DrillFinished struct {
	Drill      string       `json:"drill"`
	Outcome    DrillOutcome `json:"outcome"`
	Reason     string       `json:"reason,omitempty"`     // of an outcome other than proven
	Revocation string       `json:"revocation,omitempty"` // absent when nothing was revoked
	Credential string       `json:"credential,omitempty"` // jti of the canary
	StartedAt  time.Time    `json:"started_at"`
	FinishedAt time.Time    `json:"finished_at"`
	// From the request to the revocation: until it was accepted (durable), until this
	// service's own guard refused the canary itself, until the revocation was closed.
	AcceptedMS float64 `json:"accepted_ms"`
	RefusedMS  float64 `json:"refused_ms"`
	ClosedMS   float64 `json:"closed_ms"`
	// Expected is how many points had to answer.
	Expected int          `json:"expected"`
	Points   []DrillPoint `json:"points"`
}

// EventType implements Payload.
func (DrillFinished) EventType() string { return TypeDrillFinished }

// Entity implements Payload.
func (p DrillFinished) Entity() string { return p.Drill }
