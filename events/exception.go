package events

import "time"

// ExceptionGranted lifts one policy of a tenant for a while, for one identity, for the
// identities of one feature, or for all of the tenant. Exactly one of Identity, Feature
// and WholeTenant is given. Nothing has to happen for it to end: whoever decides compares
// ExpiresAt with the present. It is stated in the log of the tenant.
type ExceptionGranted struct {
	Exception   string    `json:"exception"` // id
	Policy      string    `json:"policy"`    // @id of the forbid that it lifts
	Identity    string    `json:"identity,omitempty"`
	Feature     string    `json:"feature,omitempty"`
	WholeTenant bool      `json:"whole_tenant,omitempty,omitzero"`
	Scopes      []string  `json:"scopes,omitempty"`    // it holds for these only; none: any
	Audiences   []string  `json:"audiences,omitempty"` // it holds for these only; none: any
	Owner       string    `json:"owner"`               // person or team that answers for it
	Reason      string    `json:"reason"`
	By          string    `json:"by"` // who granted it: "<tenant>/<identity>"
	GrantedAt   time.Time `json:"granted_at"`
	ReviewAt    time.Time `json:"review_at"`  // by when somebody looks at it again; not after ExpiresAt
	ExpiresAt   time.Time `json:"expires_at"` // from here it lifts nothing
}

// EventType implements Payload.
func (ExceptionGranted) EventType() string { return TypeExceptionGranted }

// Entity implements Payload.
func (p ExceptionGranted) Entity() string { return p.Exception }

// ExceptionEnded states that an exception lifts nothing any more, or that somebody has
// taken note that it expired.
type ExceptionEnded struct {
	Exception string    `json:"exception"`
	Reason    string    `json:"reason"`
	By        string    `json:"by"` // who ended it: "<tenant>/<identity>"
	EndedAt   time.Time `json:"ended_at"`
}

// EventType implements Payload.
func (ExceptionEnded) EventType() string { return TypeExceptionEnded }

// Entity implements Payload.
func (p ExceptionEnded) Entity() string { return p.Exception }
