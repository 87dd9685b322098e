package detect

import (
	"fmt"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// orphanGrace is how long an identity may be used while its owner's departure is handled.
const orphanGrace = 24 * time.Hour

// orphanInfo documents D09.
var orphanInfo = Info{
	ID: "D09", Name: "orphan_active",
	Catches:     "an identity whose owner left, that has no new owner and is still used",
	Fields:      []string{"identity.registered owner", "owner.departed"},
	Method:      "the registered owner departed more than 24 h before the use; raised once, a registration with another owner ends it",
	StateBytes:  16,
	Explanation: "owner {o} left {n} days ago; {identity} is still used",
	Severity:    events.SeverityMedium,
	References:  []string{"NHI1", "T1078.004"},
	Response:    RespondAlert,
}

// Departed notes that an owner left at t; the earliest time counts.
func (f *Facts) Departed(tenant, owner string, t time.Time) {
	k := pair{tenant, owner}
	if at, ok := f.departed[k]; !ok || t.Before(at) {
		f.departed[k] = t
	}
}

// orphanActive is D09.
func orphanActive(in *Input, s *State) *Finding {
	if in.Reg == nil || len(in.Facts.departed) == 0 {
		return nil
	}
	at, ok := in.Facts.departed[pair{in.Tenant, in.Reg.Owner}]
	dt := in.Time.Sub(at)
	if !ok || dt <= orphanGrace || !s.once("orphan "+in.Reg.Owner, in.Time) {
		return nil
	}
	a := in.Activity
	return &Finding{
		Severity: events.SeverityMedium,
		Explanation: fmt.Sprintf("the owner %s of %s left at %s, %.1f days before this use (%s on %s); nobody has taken it over",
			clip(in.Reg.Owner), clip(a.Identity), stamp(at), days(dt), clip(a.Action), clip(a.Destination)),
		Value:     fmt.Sprintf("used %.1f days after its owner left", days(dt)),
		Baseline:  "an owner who answers for it",
		Count:     1,
		Threshold: 1,
		Response:  RespondAlert,
	}
}

// once reports whether what is said for the first time about the identity, and notes it.
func (s *State) once(what string, t time.Time) bool {
	h := Hash("once", what)
	first := s.Actions.find(h) < 0
	s.Actions.Hold(h, t, maxActions)
	return first
}
