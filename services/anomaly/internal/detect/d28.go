package detect

import (
	"fmt"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

const (
	// spawnWidth is the slot of D28; two slots are judged together: one hour.
	spawnWidth = 30 * time.Minute
	// spawnMax is too many children in an hour for an identity without a history.
	spawnMax = 100
	// spawnMin is never too many; spawnHistory is how many half hours make a habit.
	spawnMin     = 20
	spawnHistory = 5
)

// fanOutInfo documents D28.
var fanOutInfo = Info{
	ID: "D28", Name: "agent_fan_out",
	Catches:     "an agent that delegates to an unusual number of others",
	Fields:      []string{"delegation.created", "from", "identity"},
	Method:      "different receivers within an hour >= max(20, 4 x own 99th percentile per half hour) once 5 half hours are known, 100 before",
	StateBytes:  800,
	Explanation: "{agent} delegated to {n} others between {t1} and {t2}; usual at most {q} in half an hour",
	Severity:    events.SeverityMedium,
	References:  []string{"NHI5", "AML.T0034.002", "AML.T0103"},
	Response:    RespondContain,
}

// FannedOut is D28 on the delegating side of a delegation; s is the state of the
// identity that delegates.
func FannedOut(s *State, tenant, id string, t time.Time, p *events.DelegationCreated) *Finding {
	if s.spawned == nil {
		s.spawned = &Window{}
	}
	c := s.spawned.add(Hash(tenant, p.Identity), t, spawnWidth, id)
	usual, threshold := s.spawned.habit.q99(), spawnMax
	if s.spawned.habit.total >= spawnHistory {
		threshold = max(spawnMin, 4*usual)
	}
	if c.n < threshold {
		return nil
	}
	s.spawned.alarm(c, spawnWidth)
	return &Finding{
		Severity: events.SeverityMedium,
		Explanation: fmt.Sprintf("%s delegated to %s others between %s and %s; usual is at most %d in half an hour (%d earlier half hours), the threshold is %d",
			clip(p.From.Identity), c.number(), stamp(c.from), stamp(c.to), usual, s.spawned.habit.total, threshold),
		Value:     fmt.Sprintf("%s receivers between %s and %s", c.number(), stamp(c.from), stamp(c.to)),
		Baseline:  fmt.Sprintf("at most %d in half an hour, over %d half hours", usual, s.spawned.habit.total),
		Count:     int64(c.n),
		Threshold: float64(threshold),
		Response:  RespondContain,
		Evidence:  c.ids,
		Since:     c.since,
	}
}
