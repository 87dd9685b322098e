package events

import "time"

// IdentityKind is the kind of a non-human principal.
type IdentityKind string

// The kinds of identities.
const (
	KindAgent          IdentityKind = "agent"
	KindServiceAccount IdentityKind = "service_account"
	KindAPIKey         IdentityKind = "api_key"
	KindOAuthApp       IdentityKind = "oauth_app"
	KindWorkload       IdentityKind = "workload"
)

// Attestation names one way in which an identity may prove itself: a token of
// Issuer whose subject is Subject.
type Attestation struct {
	Issuer  string `json:"issuer"`  // OIDC issuer, compared byte for byte
	Subject string `json:"subject"` // value of the "sub" claim
}

// JWK is a public key (RFC 7517): EC on P-256 (ES256), OKP Ed25519 (EdDSA), or RSA of
// at least 2048 bits (RS256). Members of private keys have no place in it.
type JWK struct {
	KeyType   string `json:"kty"`
	Curve     string `json:"crv,omitempty"`
	X         string `json:"x,omitempty"` // base64url, as the next three
	Y         string `json:"y,omitempty"`
	N         string `json:"n,omitempty"`
	E         string `json:"e,omitempty"`
	KeyID     string `json:"kid,omitempty"`
	Algorithm string `json:"alg,omitempty"`
	Use       string `json:"use,omitempty"` // "sig" or absent
}

// Registration is what is known of an identity from its declaration.
type Registration struct {
	Identity    string        `json:"identity"` // id, unique within the tenant
	Kind        IdentityKind  `json:"kind"`
	Owner       string        `json:"owner"`                 // person or team that answers for it
	Feature     string        `json:"feature"`               // product feature that created it
	Purpose     string        `json:"purpose"`               // why it exists, in one line
	KillSwitch  string        `json:"kill_switch"`           // what to revoke to stop it: "identity", "feature" or "owner"
	Attestation []Attestation `json:"attestation,omitempty"` // empty: it cannot be issued credentials
	// Launchers are the people and services that may start tasks for it, by who vouches for
	// them. Empty: whoever can prove the identity. To launch is not to act: nothing that a
	// launcher may do passes to the identity.
	Launchers []Attestation `json:"launchers,omitempty"`
	Scopes    []string      `json:"scopes,omitempty"`    // the most it may ever be granted
	Audiences []string      `json:"audiences,omitempty"` // where it may ever be granted it
	Aliases   []string      `json:"aliases,omitempty"`   // names it has in other systems' logs, such as an ARN
	// Tools per task that are expected of an agent; used by detection as a
	// starting profile. Optional.
	Tools map[string][]string `json:"tools,omitempty"`
	// Backend is the shared identity in another system that it runs on, such as a
	// role's ARN. Several identities may name the same; each keeps its own lineage.
	Backend string `json:"backend,omitempty"`
	// Vendor makes or runs a third party's app or account. The next three are what is
	// known of the consent, and need a vendor.
	Vendor        string   `json:"vendor,omitempty"`
	GrantedScopes []string `json:"granted_scopes,omitempty"` // where it is installed, not Lanyard's
	ConsentedBy   string   `json:"consented_by,omitempty"`   // person
	DataReached   []string `json:"data_reached,omitempty"`
	// VendorManaged: the account lives inside the vendor's service, where the tenant
	// cannot see it. Unknowns is what is not known of it; one must be given.
	VendorManaged bool     `json:"vendor_managed,omitempty,omitzero"`
	Unknowns      []string `json:"unknowns,omitempty"`
	// Keys are public keys of a client without a platform that vouches for it: it proves
	// itself by assertions that it signs (private_key_jwt, RFC 7523), at most 4. They are
	// one more way beside Attestation. To end what a stolen key made, revoke the domain
	// urn:ietf:params:oauth:jwk-thumbprint:sha-256:<thumbprint> (RFC 9278).
	Keys []JWK `json:"keys,omitempty"`
	// DetailTypes are the types of authorization_details (RFC 9396) that it may be granted.
	DetailTypes []string `json:"authorization_details_types,omitempty"`
	// HeartbeatSeconds ends a task of the identity when neither a task.heartbeat came nor
	// a credential was issued for it for that long, 10 to 86400. 0: it has no such duty.
	HeartbeatSeconds int64 `json:"heartbeat_seconds,omitempty,omitzero"`
}

// IdentityDeclared is published by the product that created an identity.
type IdentityDeclared struct{ Registration }

// EventType implements Payload.
func (IdentityDeclared) EventType() string { return TypeIdentityDeclared }

// Entity implements Payload.
func (p IdentityDeclared) Entity() string { return p.Identity }

// IdentityRegistered states that issuance entered the identity in the registry.
type IdentityRegistered struct{ Registration }

// EventType implements Payload.
func (IdentityRegistered) EventType() string { return TypeIdentityRegistered }

// Entity implements Payload.
func (p IdentityRegistered) Entity() string { return p.Identity }

// IdentityChange is what the four state changes of an identity have in common.
type IdentityChange struct {
	Identity   string     `json:"identity"`
	Reason     string     `json:"reason"`
	By         string     `json:"by"`                   // who asked for it
	Revocation string     `json:"revocation,omitempty"` // id of the revocation that did it
	Until      *time.Time `json:"until,omitempty"`      // end of a freeze
}

// IdentityFrozen states that nothing is issued to the identity until it is reinstated.
type IdentityFrozen struct{ IdentityChange }

// EventType implements Payload.
func (IdentityFrozen) EventType() string { return TypeIdentityFrozen }

// Entity implements Payload.
func (p IdentityFrozen) Entity() string { return p.Identity }

// IdentityRevoked states that the identity is ended for good.
type IdentityRevoked struct{ IdentityChange }

// EventType implements Payload.
func (IdentityRevoked) EventType() string { return TypeIdentityRevoked }

// Entity implements Payload.
func (p IdentityRevoked) Entity() string { return p.Identity }

// IdentityReinstated ends a freeze.
type IdentityReinstated struct{ IdentityChange }

// EventType implements Payload.
func (IdentityReinstated) EventType() string { return TypeIdentityReinstated }

// Entity implements Payload.
func (p IdentityReinstated) Entity() string { return p.Identity }

// IdentityRetired states that the identity ended in good order.
type IdentityRetired struct{ IdentityChange }

// EventType implements Payload.
func (IdentityRetired) EventType() string { return TypeIdentityRetired }

// Entity implements Payload.
func (p IdentityRetired) Entity() string { return p.Identity }

// OwnerDeparted is published when a person or team no longer answers for its identities.
type OwnerDeparted struct {
	Owner     string `json:"owner"`
	Successor string `json:"successor,omitempty"`
	Reason    string `json:"reason,omitempty"`
}

// EventType implements Payload.
func (OwnerDeparted) EventType() string { return TypeOwnerDeparted }

// Entity implements Payload.
func (p OwnerDeparted) Entity() string { return p.Owner }

// OwnerOverdue states that the grace after the departure of an owner is over. Identities
// that still are theirs freeze.
type OwnerOverdue struct {
	Owner string `json:"owner"`
}

// EventType implements Payload.
func (OwnerOverdue) EventType() string { return TypeOwnerOverdue }

// Entity implements Payload.
func (p OwnerOverdue) Entity() string { return p.Owner }

// FeatureDisabled is published when a product feature is switched off.
type FeatureDisabled struct {
	Feature string `json:"feature"`
	Reason  string `json:"reason"`
	By      string `json:"by"`
}

// EventType implements Payload.
func (FeatureDisabled) EventType() string { return TypeFeatureDisabled }

// Entity implements Payload.
func (p FeatureDisabled) Entity() string { return p.Feature }

// TrustDeclared allows identities of one tenant to delegate to identities of
// another. It is stated in the log of the delegating tenant and ended by
// revoking its handle.
type TrustDeclared struct {
	Trust    string   `json:"trust"`     // id of the record: "<from>-><to>"
	To       string   `json:"to"`        // tenant that may receive delegations
	Scopes   []string `json:"scopes"`    // the most that may be delegated
	MaxDepth int      `json:"max_depth"` // longest chain through this record
	By       string   `json:"by"`
}

// EventType implements Payload.
func (TrustDeclared) EventType() string { return TypeTrustDeclared }

// Entity implements Payload.
func (p TrustDeclared) Entity() string { return p.Trust }
