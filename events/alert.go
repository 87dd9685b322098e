package events

import "time"

// AlertAcknowledged states that somebody looks after an alert.
type AlertAcknowledged struct {
	Alert          string    `json:"alert"` // id
	Note           string    `json:"note,omitempty"`
	By             string    `json:"by"` // "<tenant>/<identity>"
	AcknowledgedAt time.Time `json:"acknowledged_at"`
}

// EventType implements Payload.
func (AlertAcknowledged) EventType() string { return TypeAlertAcknowledged }

// Entity implements Payload.
func (p AlertAcknowledged) Entity() string { return p.Alert }

// AlertExpected states that what an alert is about is expected: until Until, the same
// detector raises no alert about the same identity with the same value, unless it is
// worse than Severity. The newest statement about an alert holds; one whose Until is not
// after ExpectedAt ends the expectation.
type AlertExpected struct {
	Alert      string    `json:"alert"` // id of the alert that it was said of
	Detector   string    `json:"detector"`
	Identity   string    `json:"identity"`
	Value      string    `json:"value"`
	AnyValue   bool      `json:"any_value,omitempty,omitzero"` // whatever the value
	Severity   Severity  `json:"severity"`
	Until      time.Time `json:"until"`
	Reason     string    `json:"reason"`
	By         string    `json:"by"` // "<tenant>/<identity>"
	ExpectedAt time.Time `json:"expected_at"`
}

// EventType implements Payload.
func (AlertExpected) EventType() string { return TypeAlertExpected }

// Entity implements Payload.
func (p AlertExpected) Entity() string { return p.Alert }

// AlertSuppressed states that an alert was not raised because it is expected, with what
// it would have said. The event's time is that of the evidence.
type AlertSuppressed struct {
	Alert       string   `json:"alert"`    // id that the alert would have had
	Expected    string   `json:"expected"` // id of the alert that was marked as expected
	Detector    string   `json:"detector"`
	Identity    string   `json:"identity"`
	Value       string   `json:"value"`
	Severity    Severity `json:"severity"`
	Explanation string   `json:"explanation"`
	Evidence    []string `json:"evidence"` // event ids
}

// EventType implements Payload.
func (AlertSuppressed) EventType() string { return TypeAlertSuppressed }

// Entity implements Payload.
func (p AlertSuppressed) Entity() string { return p.Alert }
