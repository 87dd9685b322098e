package events

import (
	"strings"
	"time"
)

// TaskEnded is published when a piece of work is over: by a product of the task's tenant,
// by the holder of its credentials, or by rotation when its heartbeats stopped. The
// credentials of the task end with it. The id of a task names one piece of work, whoever
// takes part in it: whoever shares the id shares its end.
type TaskEnded struct {
	Task   string `json:"task"`
	Reason string `json:"reason"`
	By     string `json:"by"` // who says so
}

// EventType implements Payload.
func (TaskEnded) EventType() string { return TypeTaskEnded }

// Entity implements Payload.
func (p TaskEnded) Entity() string { return p.Task }

// TaskClosed states that nothing is issued for a task any more. Its credentials are ended
// by a revocation, when there are any.
type TaskClosed struct {
	Task       string    `json:"task"`
	Handle     string    `json:"handle"`
	Revocation string    `json:"revocation"` // id that the revocation has, if there is one
	Reason     string    `json:"reason"`
	By         string    `json:"by"`
	ClosedAt   time.Time `json:"closed_at"`
	// ReusableAt is when the id may name another piece of work.
	ReusableAt time.Time `json:"reusable_at"`
}

// EventType implements Payload.
func (TaskClosed) EventType() string { return TypeTaskClosed }

// Entity implements Payload.
func (p TaskClosed) Entity() string { return p.Task }

// RevocationOf is the id of the revocation that a revocation.requested leads to.
func RevocationOf(request Event) string {
	return RevocationID(Tenant(request), request.ID())
}

// RevocationID is RevocationOf for the tenant and the id of the request.
func RevocationID(tenant, request string) string {
	return DeterministicID("revocation", tenant, request)
}

// ConfirmedRequest is the id of the request that repeats, confirmed, one that was refused
// as revocation; see RevocationRefused.Confirm.
func ConfirmedRequest(tenant, revocation string) string {
	return DeterministicID("confirmed", tenant, revocation)
}

// EndOfTask is the request to revoke what was issued for a task that ended, as issuance
// makes it of the task.ended that says so. now is the time that it states.
func EndOfTask(ended Event, p TaskEnded, now time.Time) (Event, error) {
	const most = 900
	reason := "task ended: " + p.Reason
	if len(reason) > most {
		reason = reason[:most] + "..."
	}
	return New(Origin{Source: "/lanyard/issuance", Tenant: Tenant(ended), Time: now, Cause: &ended}, RevocationRequested{Mode: ModeRevoke,
		Target: Target{Kind: "task", Tenant: Tenant(ended), ID: p.Task}, Reason: strings.ToValidUTF8(reason, ""), RequestedBy: p.By})
}

// TaskHeartbeat is published while a piece of work goes on. A task whose identity was
// registered with HeartbeatSeconds ends when none came for that long; for others it means
// nothing.
type TaskHeartbeat struct {
	Task string `json:"task"`
}

// EventType implements Payload.
func (TaskHeartbeat) EventType() string { return TypeTaskHeartbeat }

// Entity implements Payload.
func (p TaskHeartbeat) Entity() string { return p.Task }
