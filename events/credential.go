package events

import "time"

// Named is one handle with the thing it stands for. Names of other tenants are
// never written: a lineage that crosses tenants shows foreign handles only.
type Named struct {
	Handle string `json:"handle"`
	Kind   string `json:"kind"`   // see lineage.Kind
	Tenant string `json:"tenant"` // tenant the id belongs to
	ID     string `json:"id"`
}

// CredentialIssued states that a token exists. It is on the log before the token
// is handed out.
type CredentialIssued struct {
	Credential  string    `json:"credential"`   // jti
	TokenSHA256 string    `json:"token_sha256"` // lower-case hex; for tracing a leaked token, never for decisions
	Identity    string    `json:"identity"`
	Task        string    `json:"task"`
	Request     string    `json:"request,omitempty"`
	Parent      string    `json:"parent,omitempty"`     // jti of the credential it was exchanged for
	Delegation  string    `json:"delegation,omitempty"` // id of the delegation step
	Audience    []string  `json:"audience"`
	Scope       []string  `json:"scope"`
	Lineage     []string  `json:"lineage"` // handles, root first
	Names       []Named   `json:"names"`   // the part of the lineage this tenant may name
	IssuedAt    time.Time `json:"issued_at"`
	ExpiresAt   time.Time `json:"expires_at"`
	KeyID       string    `json:"key_id"` // kid of the signing key
	Policy      string    `json:"policy"` // version of the policy that decided

	Reasons    []string         `json:"policy_reasons,omitempty"` // ids of the policies that decided
	Exceptions []string         `json:"exceptions,omitempty"`     // ids of the exceptions without which it would have been denied
	Context    *DecisionContext `json:"context,omitempty"`        // what was decided over
	// Details are the authorization_details of the token (RFC 9396).
	Details []Detail `json:"authorization_details,omitempty"`
	// HeartbeatSeconds is how long the task goes on without a sign of life; 0: for ever.
	HeartbeatSeconds int64 `json:"heartbeat_seconds,omitempty,omitzero"`
}

// Detail is one element of authorization_details (RFC 9396 section 2.2).
type Detail struct {
	Type       string   `json:"type"`
	Locations  []string `json:"locations,omitempty"`
	Actions    []string `json:"actions,omitempty"`
	DataTypes  []string `json:"datatypes,omitempty"`
	Identifier string   `json:"identifier,omitempty"`
	Privileges []string `json:"privileges,omitempty"`
}

// DecisionContext is what a policy decided over, beyond what the event itself says: as
// much as another version of the policies needs to decide the same case. Purpose,
// Environment and Sensitivity are the workload's own word.
type DecisionContext struct {
	Kind            IdentityKind `json:"kind"`
	Owner           string       `json:"owner"`
	Feature         string       `json:"feature"`
	IdentityPurpose string       `json:"identity_purpose,omitempty"`
	Backend         string       `json:"backend,omitempty"`
	Vendor          string       `json:"vendor,omitempty"`
	VendorManaged   bool         `json:"vendor_managed,omitempty,omitzero"`
	Risk            string       `json:"risk,omitempty"` // of the identity; empty: nothing is known
	Grant           string       `json:"grant"`          // jwt-bearer, client_credentials, token-exchange
	Purpose         string       `json:"purpose,omitempty"`
	Environment     string       `json:"environment,omitempty"`
	Sensitivity     string       `json:"data_sensitivity,omitempty"`
	Attestation     Attestation  `json:"attestation"`
	// LaunchedBy is who started the task, when it was somebody else than the workload.
	LaunchedBy *Attestation `json:"launched_by,omitempty"`
	// Claims of the attestation that the configuration shows to policies, by name.
	Claims     map[string]string `json:"claims,omitempty"`
	Depth      int               `json:"depth,omitempty,omitzero"` // delegations above the credential
	Width      int64             `json:"width,omitempty,omitzero"` // exchanges of the parent so far, with this one
	From       *Party            `json:"from,omitempty"`           // who delegated
	TTLSeconds int64             `json:"ttl_seconds,omitempty,omitzero"`
	// OpenScope: no scope was asked for, so those that are denied are dropped. Scope and
	// Audience are what was up for decision.
	OpenScope bool     `json:"open_scope,omitempty,omitzero"`
	Scope     []string `json:"scope"`
	Audience  []string `json:"audience"`
}

// EventType implements Payload.
func (CredentialIssued) EventType() string { return TypeCredentialIssued }

// Entity implements Payload.
func (p CredentialIssued) Entity() string { return p.Identity }

// CredentialDenied states that a request was refused and why.
type CredentialDenied struct {
	Request  string   `json:"request"`
	Identity string   `json:"identity"`
	Task     string   `json:"task,omitempty"`
	Parent   string   `json:"parent,omitempty"`
	Code     string   `json:"code"`   // OAuth error code
	Reason   string   `json:"reason"` // for people
	Audience []string `json:"audience,omitempty"`
	Scope    []string `json:"scope,omitempty"`
	Policy   string   `json:"policy"`

	Reasons []string         `json:"policy_reasons,omitempty"` // ids of the policies that decided
	Context *DecisionContext `json:"context,omitempty"`        // what was decided over; absent when no policy was asked
}

// EventType implements Payload.
func (CredentialDenied) EventType() string { return TypeCredentialDenied }

// Entity implements Payload.
func (p CredentialDenied) Entity() string { return p.Identity }

// CredentialExpired states that a credential reached its end.
type CredentialExpired struct {
	Credential string    `json:"credential"`
	Identity   string    `json:"identity"`
	ExpiredAt  time.Time `json:"expired_at"`
}

// EventType implements Payload.
func (CredentialExpired) EventType() string { return TypeCredentialExpired }

// Entity implements Payload.
func (p CredentialExpired) Entity() string { return p.Identity }

// Party is one end of a delegation step.
type Party struct {
	Tenant   string `json:"tenant"`
	Identity string `json:"identity"`
}

// DelegationCreated states one step of acting for another. It is stated in the
// log of the receiving tenant; From is the acting credential's identity.
type DelegationCreated struct {
	Delegation string    `json:"delegation"` // id of the step
	Handle     string    `json:"handle"`
	Identity   string    `json:"identity"`        // the actor that received the delegation
	From       Party     `json:"from"`            // who delegated
	Parent     string    `json:"parent"`          // jti of the delegating credential
	Credential string    `json:"credential"`      // jti of the new credential
	Trust      string    `json:"trust,omitempty"` // trust record, when tenants differ
	Task       string    `json:"task"`            //
	Depth      int       `json:"depth"`           // 1 for the first step
	Scope      []string  `json:"scope"`           // what was passed on
	Parents    []string  `json:"parents_scope"`   // what the parent held
	Audience   []string  `json:"audience"`        //
	Lineage    []string  `json:"lineage"`         // of the new credential
	ExpiresAt  time.Time `json:"expires_at"`      //
	ParentExp  time.Time `json:"parent_expires_at"`
}

// EventType implements Payload.
func (DelegationCreated) EventType() string { return TypeDelegationCreated }

// Entity implements Payload.
func (p DelegationCreated) Entity() string { return p.Identity }

// SecretExposed is published by a scanner that found a secret where it must not be.
type SecretExposed struct {
	Fingerprint string    `json:"fingerprint"`          // keyed fingerprint of the secret, never the secret
	Identity    string    `json:"identity,omitempty"`   // whose it is, when known
	Credential  string    `json:"credential,omitempty"` // jti or managed id, when known
	Where       string    `json:"where"`                // document, commit or channel
	Public      bool      `json:"public"`
	Scanner     string    `json:"scanner"`
	FoundAt     time.Time `json:"found_at"`
}

// EventType implements Payload.
func (SecretExposed) EventType() string { return TypeSecretExposed }

// Entity implements Payload.
func (p SecretExposed) Entity() string {
	if p.Identity != "" {
		return p.Identity
	}
	return p.Fingerprint
}
