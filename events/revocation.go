package events

import "time"

// Mode of a revocation.
type Mode string

// The modes of a revocation.
const (
	ModeRevoke Mode = "revoke" // end a handle for good
	ModeFreeze Mode = "freeze" // the same, reversible, with an end
	ModeLift   Mode = "lift"   // end a freeze
)

// Target names what a revocation is about. Either Handle, or Kind, Tenant and ID.
type Target struct {
	Handle string `json:"handle,omitempty"`
	Kind   string `json:"kind,omitempty"` // see lineage.Kind
	Tenant string `json:"tenant,omitempty"`
	ID     string `json:"id,omitempty"`
}

// RevocationRequested asks for a revocation. Its event id is the request id and
// decides the revocation's id, so asking twice with one id is asking once.
type RevocationRequested struct {
	Mode        Mode     `json:"mode"`
	Target      Target   `json:"target"`
	Reason      string   `json:"reason"`
	RequestedBy string   `json:"requested_by"`
	TTLSeconds  int64    `json:"ttl_seconds,omitempty,omitzero"` // of a freeze; 0 means the default
	Confirm     int64    `json:"confirm,omitempty,omitzero"`     // previewed number of descendants, for broad handles
	Automatic   bool     `json:"automatic,omitempty,omitzero"`   // asked by a detector
	Evidence    []string `json:"evidence,omitempty"`             // event ids
	Approval    bool     `json:"approval,omitempty,omitzero"`    // instead of confirm: let a second person approve it
	Approves    string   `json:"approves,omitempty"`             // the proposed revocation that requested_by approves by this
}

// EventType implements Payload.
func (RevocationRequested) EventType() string { return TypeRevocationRequested }

// Entity implements Payload.
func (p RevocationRequested) Entity() string {
	if p.Target.Handle != "" {
		return p.Target.Handle
	}
	return p.Target.ID
}

// RevocationRefused states that a request was not carried out and why.
type RevocationRefused struct {
	Revocation string `json:"revocation"`
	Mode       Mode   `json:"mode"`
	Target     Target `json:"target"`
	By         string `json:"by"`
	Code       string `json:"code"`   // unknown_target, forbidden, confirm_required, cap_exceeded, already_revoked, not_frozen, unsafe_server
	Reason     string `json:"reason"` // for people
	// Existing is the revocation that already holds the handle, with already_revoked.
	Existing string `json:"existing,omitempty"`
	// Confirm is what a request must confirm to be carried out, with confirm_required,
	// when it was known.
	Confirm int64 `json:"confirm,omitempty,omitzero"`
}

// EventType implements Payload.
func (RevocationRefused) EventType() string { return TypeRevocationRefused }

// Entity implements Payload.
func (p RevocationRefused) Entity() string { return p.Revocation }

// RevocationProposed states that a broad request waits for a second person's approval.
// It ends as accepted, or as refused with confirm_required when
// nobody approved it in time.
type RevocationProposed struct {
	Revocation  string    `json:"revocation"`
	Mode        Mode      `json:"mode"`
	Target      Target    `json:"target"`
	Handle      string    `json:"handle"`
	Reason      string    `json:"reason"`
	By          string    `json:"by"`
	TTLSeconds  int64     `json:"ttl_seconds,omitempty,omitzero"`
	Descendants int64     `json:"descendants"` // live credentials under the handle when it was proposed
	ProposedAt  time.Time `json:"proposed_at"`
	ExpiresAt   time.Time `json:"expires_at"` // unless it is approved before
}

// EventType implements Payload.
func (RevocationProposed) EventType() string { return TypeRevocationProposed }

// Entity implements Payload.
func (p RevocationProposed) Entity() string { return p.Revocation }

// ExpectedGuard is a guard that must answer a revocation.
type ExpectedGuard struct {
	Point    string    `json:"point"`
	Tenant   string    `json:"tenant"`
	LeaseEnd time.Time `json:"lease_end"` // at the latest then it refuses by itself
}

// RevocationAccepted states that the kill entry is durable. It is a promise: from
// here it is never lost.
type RevocationAccepted struct {
	Revocation  string          `json:"revocation"`
	Mode        Mode            `json:"mode"`
	Target      Target          `json:"target"`
	Handle      string          `json:"handle"`
	Reason      string          `json:"reason"`
	By          string          `json:"by"`
	AcceptedAt  time.Time       `json:"accepted_at"`
	Until       *time.Time      `json:"until,omitempty"` // end of a freeze
	Epoch       uint64          `json:"epoch"`
	Sequence    uint64          `json:"sequence"`    // of the kill entry in the kill feed
	Guards      []ExpectedGuard `json:"guards"`      // alive at accept time
	Descendants int64           `json:"descendants"` // live credentials under the handle at accept time
	Tenants     []string        `json:"tenants"`     // tenants in which they live
	ApprovedBy  string          `json:"approved_by,omitempty"`
}

// EventType implements Payload.
func (RevocationAccepted) EventType() string { return TypeRevocationAccepted }

// Entity implements Payload.
func (p RevocationAccepted) Entity() string { return p.Revocation }

// ReceiptOutcome is what a guard or downstream answers to a revocation.
type ReceiptOutcome string

// The outcomes of a receipt.
const (
	ReceiptEnforced         ReceiptOutcome = "enforced"
	ReceiptAlreadyDead      ReceiptOutcome = "already_dead"
	ReceiptUnsupportedUntil ReceiptOutcome = "unsupported_until"
	ReceiptUnreachable      ReceiptOutcome = "unreachable"
	ReceiptRefused          ReceiptOutcome = "refused"
	// ReceiptLeaseExpired is stated by revocation, not by the guard: the guard
	// did not answer, and the lease within which it could still say yes ran out.
	ReceiptLeaseExpired ReceiptOutcome = "lease_expired"
)

// RevocationEnforced states that one enforcement point no longer honours the handle.
type RevocationEnforced struct {
	Revocation string         `json:"revocation"`
	Point      string         `json:"point"`
	Outcome    ReceiptOutcome `json:"outcome"`
	AppliedAt  time.Time      `json:"applied_at"`
	LatencyMS  float64        `json:"latency_ms"`        // from accept to applied
	Receipt    string         `json:"receipt,omitempty"` // compact JWS, absent for lease_expired
	Key        string         `json:"key,omitempty"`     // public JWK that the receipt was verified with
	// Secret is the handle of the managed secret that was ended; the point is then
	// "<downstream>/<handle>". Absent for guards.
	Secret string `json:"secret,omitempty"`
}

// EventType implements Payload.
func (RevocationEnforced) EventType() string { return TypeRevocationEnforced }

// Entity implements Payload.
func (p RevocationEnforced) Entity() string { return secretEntity(p.Revocation, p.Secret) }

// secretEntity is the entity of what is said of one managed secret: each has a history
// of its own, so that a million of them do not meet in one.
func secretEntity(revocation, secret string) string {
	if secret == "" {
		return revocation
	}
	return revocation + "/" + secret
}

// RevocationStuck states what could not be ended, who owns it and what to do.
type RevocationStuck struct {
	Revocation   string `json:"revocation"`
	Point        string `json:"point"`
	Owner        string `json:"owner"`
	Reason       string `json:"reason"`
	Compensation string `json:"compensation"`
	Secret       string `json:"secret,omitempty"` // as in RevocationEnforced
}

// EventType implements Payload.
func (RevocationStuck) EventType() string { return TypeRevocationStuck }

// Entity implements Payload.
func (p RevocationStuck) Entity() string { return secretEntity(p.Revocation, p.Secret) }

// RevocationClosed states that the set of receipts is complete.
type RevocationClosed struct {
	Revocation  string                 `json:"revocation"`
	Handle      string                 `json:"handle"`
	ClosedAt    time.Time              `json:"closed_at"`
	Expected    int                    `json:"expected"`
	Outcomes    map[ReceiptOutcome]int `json:"outcomes"`
	Descendants int64                  `json:"descendants"` // found by the cascade, also those minted after accept
	Tenants     []string               `json:"tenants"`
	MerkleRoot  string                 `json:"merkle_root"` // RFC 6962 root over the receipts, base64
	LastMS      float64                `json:"accept_to_last_receipt_ms"`
	// Statement is the closure signed by the kill feed's key, see package receipt.
	Statement string `json:"statement,omitempty"`
}

// EventType implements Payload.
func (RevocationClosed) EventType() string { return TypeRevocationClosed }

// Entity implements Payload.
func (p RevocationClosed) Entity() string { return p.Revocation }

// RevocationLifted states that a freeze ended.
type RevocationLifted struct {
	Revocation string    `json:"revocation"` // the freeze that ended
	Handle     string    `json:"handle"`
	Reason     string    `json:"reason"`
	By         string    `json:"by"`
	LiftedAt   time.Time `json:"lifted_at"`
}

// EventType implements Payload.
func (RevocationLifted) EventType() string { return TypeRevocationLifted }

// Entity implements Payload.
func (p RevocationLifted) Entity() string { return p.Revocation }

// ReceiptSigned carries a guard's signed receipt to revocation.
type ReceiptSigned struct {
	Revocation string         `json:"revocation"`
	Handle     string         `json:"handle"`
	Point      string         `json:"point"`
	Outcome    ReceiptOutcome `json:"outcome"`
	Epoch      uint64         `json:"epoch"`
	Sequence   uint64         `json:"sequence"`
	AppliedAt  time.Time      `json:"applied_at"`
	Until      *time.Time     `json:"until,omitempty"` // for unsupported_until
	JWS        string         `json:"jws"`             // compact, EdDSA, over the fields above
}

// EventType implements Payload.
func (ReceiptSigned) EventType() string { return TypeReceiptSigned }

// Entity implements Payload.
func (p ReceiptSigned) Entity() string { return p.Revocation }

// GuardAttached is a guard's presence: who it is, what it follows and how fresh
// it is. It is stated again every few seconds.
type GuardAttached struct {
	Point        string   `json:"point"`         // id of the enforcement point
	Audience     string   `json:"audience"`      // what it guards
	PublicJWK    string   `json:"public_jwk"`    // key that signs its receipts (RFC 8037)
	LeaseSeconds float64  `json:"lease_seconds"` //
	Epoch        uint64   `json:"epoch"`         // of the kill feed
	Sequence     uint64   `json:"sequence"`      // applied up to here
	Fresh        bool     `json:"fresh"`         // its lease is valid
	Detached     bool     `json:"detached"`      // it stopped in good order
	KeyIDs       []string `json:"key_ids"`       // token signing keys it knows
	// StaleSeconds is how long after the end of its lease it may still say yes to some
	// requests, because an operator said so; 0: it closes.
	StaleSeconds float64   `json:"stale_seconds,omitempty,omitzero"`
	At           time.Time `json:"at"`
}

// EventType implements Payload.
func (GuardAttached) EventType() string { return TypeGuardAttached }

// Entity implements Payload.
func (p GuardAttached) Entity() string { return p.Point }
