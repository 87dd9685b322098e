package events

// PolicyPublished is a part of a policy set's text. The parts of a set and the
// PolicyActivated that puts it in force are stored together, in order; both belong to
// the tenant of the operators.
type PolicyPublished struct {
	Version string `json:"version"` // of the set, see PolicyActivated
	Part    int    `json:"part"`    // from 1; a file that is large has several
	Parts   int    `json:"parts"`   // of the set
	File    string `json:"file"`
	Text    string `json:"text"` // Cedar; the file's text is that of its parts in order
}

// EventType implements Payload.
func (PolicyPublished) EventType() string { return TypePolicyPublished }

// Entity implements Payload.
func (p PolicyPublished) Entity() string { return p.Version }

// PolicyActivated states that a policy set decides from now on, in every process that
// has read it.
type PolicyActivated struct {
	Version  string `json:"version"`            // "cedar/" and a hash of the content
	Previous string `json:"previous,omitempty"` // version in force before; empty: the one that is built in
	Parts    int    `json:"parts"`
	Policies int    `json:"policies"` // how many the set has
	By       string `json:"by"`       // who activated it
	Reason   string `json:"reason,omitempty"`
}

// EventType implements Payload.
func (PolicyActivated) EventType() string { return TypePolicyActivated }

// Entity implements Payload.
func (p PolicyActivated) Entity() string { return p.Version }
