package events

import "strings"

// TypePrefix and TypeSuffix frame every event type: "dev.lanyard.<noun>.<verb>.v1".
const (
	TypePrefix = "dev.lanyard."
	TypeSuffix = ".v1"
)

// The event types of the catalogue.
const (
	TypeIdentityDeclared    = "dev.lanyard.identity.declared.v1"
	TypeIdentityRegistered  = "dev.lanyard.identity.registered.v1"
	TypeIdentityFrozen      = "dev.lanyard.identity.frozen.v1"
	TypeIdentityRevoked     = "dev.lanyard.identity.revoked.v1"
	TypeIdentityReinstated  = "dev.lanyard.identity.reinstated.v1"
	TypeIdentityRetired     = "dev.lanyard.identity.retired.v1"
	TypeOwnerDeparted       = "dev.lanyard.owner.departed.v1"
	TypeFeatureDisabled     = "dev.lanyard.feature.disabled.v1"
	TypeTrustDeclared       = "dev.lanyard.trust.declared.v1"
	TypeCredentialIssued    = "dev.lanyard.credential.issued.v1"
	TypeCredentialDenied    = "dev.lanyard.credential.denied.v1"
	TypeCredentialExpired   = "dev.lanyard.credential.expired.v1"
	TypeDelegationCreated   = "dev.lanyard.delegation.created.v1"
	TypeToolCalled          = "dev.lanyard.activity.tool_called.v1"
	TypeAPICalled           = "dev.lanyard.activity.api_called.v1"
	TypeTokenExchanged      = "dev.lanyard.activity.token_exchanged.v1"
	TypeSecretExposed       = "dev.lanyard.secret.exposed.v1"
	TypeSecretPlaced        = "dev.lanyard.secret.placed.v1"
	TypeSecretTracked       = "dev.lanyard.secret.tracked.v1"
	TypeSecretUntracked     = "dev.lanyard.secret.untracked.v1"
	TypeAnomalyDetected     = "dev.lanyard.anomaly.detected.v1"
	TypeRiskChanged         = "dev.lanyard.risk.changed.v1"
	TypeAlertAcknowledged   = "dev.lanyard.alert.acknowledged.v1"
	TypeAlertExpected       = "dev.lanyard.alert.expected.v1"
	TypeAlertSuppressed     = "dev.lanyard.alert.suppressed.v1"
	TypeTaskEnded           = "dev.lanyard.task.ended.v1"
	TypeTaskHeartbeat       = "dev.lanyard.task.heartbeat.v1"
	TypeOwnerOverdue        = "dev.lanyard.owner.overdue.v1"
	TypeTaskClosed          = "dev.lanyard.task.closed.v1"
	TypeExceptionGranted    = "dev.lanyard.exception.granted.v1"
	TypeExceptionEnded      = "dev.lanyard.exception.ended.v1"
	TypePolicyPublished     = "dev.lanyard.policy.published.v1"
	TypePolicyActivated     = "dev.lanyard.policy.activated.v1"
	TypeRotationScheduled   = "dev.lanyard.rotation.scheduled.v1"
	TypeRotationPrepared    = "dev.lanyard.rotation.prepared.v1"
	TypeRotationActivated   = "dev.lanyard.rotation.activated.v1"
	TypeRotationRetired     = "dev.lanyard.rotation.retired.v1"
	TypeRotationFailed      = "dev.lanyard.rotation.failed.v1"
	TypeTimerDue            = "dev.lanyard.timer.due.v1"
	TypeRevocationRequested = "dev.lanyard.revocation.requested.v1"
	TypeRevocationProposed  = "dev.lanyard.revocation.proposed.v1"
	TypeRevocationRefused   = "dev.lanyard.revocation.refused.v1"
	TypeRevocationAccepted  = "dev.lanyard.revocation.accepted.v1"
	TypeRevocationEnforced  = "dev.lanyard.revocation.enforced.v1"
	TypeRevocationStuck     = "dev.lanyard.revocation.stuck.v1"
	TypeRevocationClosed    = "dev.lanyard.revocation.closed.v1"
	TypeRevocationLifted    = "dev.lanyard.revocation.lifted.v1"
	TypeDrillStarted        = "dev.lanyard.drill.started.v1"
	TypeDrillFinished       = "dev.lanyard.drill.finished.v1"
	TypeReceiptSigned       = "dev.lanyard.receipt.signed.v1"
	TypeGuardAttached       = "dev.lanyard.guard.attached.v1"
)

// Channel is the part of the subject space that an event type travels on.
type Channel string

// The channels. See Subject for the grammar of each.
const (
	ChannelIn      Channel = "in"      // what products publish
	ChannelLog     Channel = "log"     // lifecycle facts, written by services only
	ChannelAlert   Channel = "alert"   // what a SOC subscribes to
	ChannelReceipt Channel = "receipt" // signed receipts of guards
	ChannelGuard   Channel = "guard"   // presence of guards
	ChannelTimer   Channel = "timer"   // durable timers that fired
)

// TypeInfo is one row of the catalogue.
type TypeInfo struct {
	Type    string
	Noun    string
	Verb    string
	Channel Channel
	New     func() Payload // pointer to a zero payload, to decode into
}

// Catalogue lists every event type, in a fixed order. It is a read-only table.
var Catalogue = []TypeInfo{
	{TypeIdentityDeclared, "identity", "declared", ChannelIn, func() Payload { return new(IdentityDeclared) }},
	{TypeIdentityRegistered, "identity", "registered", ChannelLog, func() Payload { return new(IdentityRegistered) }},
	{TypeIdentityFrozen, "identity", "frozen", ChannelLog, func() Payload { return new(IdentityFrozen) }},
	{TypeIdentityRevoked, "identity", "revoked", ChannelLog, func() Payload { return new(IdentityRevoked) }},
	{TypeIdentityReinstated, "identity", "reinstated", ChannelLog, func() Payload { return new(IdentityReinstated) }},
	{TypeIdentityRetired, "identity", "retired", ChannelLog, func() Payload { return new(IdentityRetired) }},
	{TypeOwnerDeparted, "owner", "departed", ChannelIn, func() Payload { return new(OwnerDeparted) }},
	{TypeOwnerOverdue, "owner", "overdue", ChannelLog, func() Payload { return new(OwnerOverdue) }},
	{TypeFeatureDisabled, "feature", "disabled", ChannelIn, func() Payload { return new(FeatureDisabled) }},
	{TypeTrustDeclared, "trust", "declared", ChannelLog, func() Payload { return new(TrustDeclared) }},
	{TypeTaskEnded, "task", "ended", ChannelIn, func() Payload { return new(TaskEnded) }},
	{TypeTaskHeartbeat, "task", "heartbeat", ChannelIn, func() Payload { return new(TaskHeartbeat) }},
	{TypeTaskClosed, "task", "closed", ChannelLog, func() Payload { return new(TaskClosed) }},
	{TypeExceptionGranted, "exception", "granted", ChannelLog, func() Payload { return new(ExceptionGranted) }},
	{TypeExceptionEnded, "exception", "ended", ChannelLog, func() Payload { return new(ExceptionEnded) }},
	{TypeCredentialIssued, "credential", "issued", ChannelLog, func() Payload { return new(CredentialIssued) }},
	{TypeCredentialDenied, "credential", "denied", ChannelLog, func() Payload { return new(CredentialDenied) }},
	{TypeCredentialExpired, "credential", "expired", ChannelLog, func() Payload { return new(CredentialExpired) }},
	{TypeDelegationCreated, "delegation", "created", ChannelLog, func() Payload { return new(DelegationCreated) }},
	{TypeToolCalled, "activity", "tool_called", ChannelIn, func() Payload { return new(ToolCalled) }},
	{TypeAPICalled, "activity", "api_called", ChannelIn, func() Payload { return new(APICalled) }},
	{TypeTokenExchanged, "activity", "token_exchanged", ChannelIn, func() Payload { return new(TokenExchanged) }},
	{TypeSecretExposed, "secret", "exposed", ChannelIn, func() Payload { return new(SecretExposed) }},
	{TypeSecretPlaced, "secret", "placed", ChannelIn, func() Payload { return new(SecretPlaced) }},
	{TypeSecretTracked, "secret", "tracked", ChannelLog, func() Payload { return new(SecretTracked) }},
	{TypeSecretUntracked, "secret", "untracked", ChannelLog, func() Payload { return new(SecretUntracked) }},
	{TypeAnomalyDetected, "anomaly", "detected", ChannelAlert, func() Payload { return new(AnomalyDetected) }},
	{TypeRiskChanged, "risk", "changed", ChannelLog, func() Payload { return new(RiskChanged) }},
	{TypeAlertAcknowledged, "alert", "acknowledged", ChannelLog, func() Payload { return new(AlertAcknowledged) }},
	{TypeAlertExpected, "alert", "expected", ChannelLog, func() Payload { return new(AlertExpected) }},
	{TypeAlertSuppressed, "alert", "suppressed", ChannelLog, func() Payload { return new(AlertSuppressed) }},
	{TypePolicyPublished, "policy", "published", ChannelLog, func() Payload { return new(PolicyPublished) }},
	{TypePolicyActivated, "policy", "activated", ChannelLog, func() Payload { return new(PolicyActivated) }},
	{TypeRotationScheduled, "rotation", "scheduled", ChannelLog, func() Payload { return new(RotationScheduled) }},
	{TypeRotationPrepared, "rotation", "prepared", ChannelLog, func() Payload { return new(RotationPrepared) }},
	{TypeRotationActivated, "rotation", "activated", ChannelLog, func() Payload { return new(RotationActivated) }},
	{TypeRotationRetired, "rotation", "retired", ChannelLog, func() Payload { return new(RotationRetired) }},
	{TypeRotationFailed, "rotation", "failed", ChannelLog, func() Payload { return new(RotationFailed) }},
	{TypeTimerDue, "timer", "due", ChannelTimer, func() Payload { return new(TimerDue) }},
	{TypeRevocationRequested, "revocation", "requested", ChannelIn, func() Payload { return new(RevocationRequested) }},
	{TypeRevocationProposed, "revocation", "proposed", ChannelLog, func() Payload { return new(RevocationProposed) }},
	{TypeRevocationRefused, "revocation", "refused", ChannelLog, func() Payload { return new(RevocationRefused) }},
	{TypeRevocationAccepted, "revocation", "accepted", ChannelLog, func() Payload { return new(RevocationAccepted) }},
	{TypeRevocationEnforced, "revocation", "enforced", ChannelLog, func() Payload { return new(RevocationEnforced) }},
	{TypeRevocationStuck, "revocation", "stuck", ChannelLog, func() Payload { return new(RevocationStuck) }},
	{TypeRevocationClosed, "revocation", "closed", ChannelLog, func() Payload { return new(RevocationClosed) }},
	{TypeRevocationLifted, "revocation", "lifted", ChannelLog, func() Payload { return new(RevocationLifted) }},
	{TypeDrillStarted, "drill", "started", ChannelLog, func() Payload { return new(DrillStarted) }},
	{TypeDrillFinished, "drill", "finished", ChannelLog, func() Payload { return new(DrillFinished) }},
	{TypeReceiptSigned, "receipt", "signed", ChannelReceipt, func() Payload { return new(ReceiptSigned) }},
	{TypeGuardAttached, "guard", "attached", ChannelGuard, func() Payload { return new(GuardAttached) }},
}

var byType = func() map[string]TypeInfo {
	m := make(map[string]TypeInfo, len(Catalogue))
	for _, t := range Catalogue {
		m[t.Type] = t
	}
	return m
}()

// Lookup finds a type of the catalogue.
func Lookup(eventType string) (TypeInfo, bool) {
	t, ok := byType[eventType]
	return t, ok
}

const schemaBase = "https://lanyard.dev/schemas/"

// SchemaID is the dataschema URI of an event type: the $id of its JSON Schema.
func SchemaID(eventType string) string {
	name := strings.TrimSuffix(strings.TrimPrefix(eventType, TypePrefix), TypeSuffix)
	return schemaBase + name + ".v1.json"
}
