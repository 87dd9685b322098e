package events

import "time"

// Outcome of an action.
type Outcome string

// The outcomes of an action.
const (
	OutcomeSuccess   Outcome = "success"
	OutcomeDenied    Outcome = "denied"
	OutcomeThrottled Outcome = "throttled"
	OutcomeError     Outcome = "error"
)

// ActionClass groups actions by what they can do.
type ActionClass string

// The classes of actions.
const (
	ClassRead   ActionClass = "read"
	ClassWrite  ActionClass = "write"
	ClassIAM    ActionClass = "iam"
	ClassSecret ActionClass = "secret"
	ClassExec   ActionClass = "exec"
	ClassLog    ActionClass = "log"
)

// Activity is the neutral "credential used" record: who did what, where, with
// which credential. Required are Identity, Action, Outcome and Destination;
// everything else is optional and its absence is not novelty. The event's id is
// the source record's id and its time is event time.
type Activity struct {
	Identity          string       `json:"identity"`
	IdentityKind      IdentityKind `json:"identity_kind,omitempty"`
	IdentityTenant    string       `json:"identity_tenant,omitempty"` // tenant of the identity, when it differs
	Owner             string       `json:"owner,omitempty"`
	Credential        string       `json:"credential,omitempty"` // jti or provider's key id, never a secret
	CredentialVersion string       `json:"credential_version,omitempty"`
	CredentialExp     *time.Time   `json:"credential_exp,omitempty"`
	JTI               string       `json:"jti,omitempty"`      // token id, when Credential names something else
	Confirmation      string       `json:"cnf,omitempty"`      // thumbprint of the key that the use was bound to
	Audience          []string     `json:"audience,omitempty"` // whom the credential was for
	Lineage           []string     `json:"lineage,omitempty"`  // handles, root first
	Session           string       `json:"session,omitempty"`
	Delegation        []Party      `json:"delegation,omitempty"` // actor chain, nearest first
	DelegationDepth   int          `json:"delegation_depth,omitempty,omitzero"`
	Scopes            []string     `json:"scopes,omitempty"`
	ParentScopes      []string     `json:"parent_scopes,omitempty"`
	SourceIP          string       `json:"source_ip,omitempty"`
	SourceASN         string       `json:"source_asn,omitempty"`
	SourceCountry     string       `json:"source_country,omitempty"`
	SourceService     string       `json:"source_service,omitempty"`
	VPCEndpoint       string       `json:"vpce,omitempty"`
	UserAgent         string       `json:"user_agent,omitempty"` // family, versions stripped
	TLSFingerprint    string       `json:"tls_fp,omitempty"`
	Workload          string       `json:"workload,omitempty"`
	WorkloadAttested  bool         `json:"workload_attested,omitempty,omitzero"`
	Tool              string       `json:"tool,omitempty"`
	ToolArgsDest      []string     `json:"tool_args_dest,omitempty"` // destinations in the arguments
	ArgsHash          string       `json:"args_hash,omitempty"`      // keyed hash of all arguments; equal calls are equal
	Task              string       `json:"task,omitempty"`
	Destination       string       `json:"destination"`
	Action            string       `json:"action"`
	ActionClass       ActionClass  `json:"action_class,omitempty"`
	Resource          string       `json:"resource,omitempty"`
	ResourceTenant    string       `json:"resource_tenant,omitempty"`
	Target            string       `json:"target,omitempty"`    // identity that an IAM action is about
	MintedID          string       `json:"minted_id,omitempty"` // credential or identity that the action made
	Outcome           Outcome      `json:"outcome"`
	Error             string       `json:"error,omitempty"`
	Interactive       bool         `json:"interactive,omitempty,omitzero"`
	Bytes             int64        `json:"bytes,omitempty,omitzero"`
	Count             int64        `json:"count,omitempty,omitzero"`
	ObservedTime      *time.Time   `json:"observed_time,omitempty"` // when intake saw it
	RawRef            string       `json:"raw_ref,omitempty"`
}

// ToolCalled states that an agent called a tool.
type ToolCalled struct{ Activity }

// EventType implements Payload.
func (ToolCalled) EventType() string { return TypeToolCalled }

// Entity implements Payload.
func (p ToolCalled) Entity() string { return p.Identity }

// APICalled states that an identity called an API.
type APICalled struct{ Activity }

// EventType implements Payload.
func (APICalled) EventType() string { return TypeAPICalled }

// Entity implements Payload.
func (p APICalled) Entity() string { return p.Identity }

// TokenExchanged states that an identity exchanged a credential for another.
type TokenExchanged struct{ Activity }

// EventType implements Payload.
func (TokenExchanged) EventType() string { return TypeTokenExchanged }

// Entity implements Payload.
func (p TokenExchanged) Entity() string { return p.Identity }
