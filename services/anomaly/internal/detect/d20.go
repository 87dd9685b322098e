package detect

import (
	"fmt"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// deniedWidth is the slot of D20; two slots are judged together: 10 minutes.
const deniedWidth = 5 * time.Minute

// deniedProbeInfo documents D20.
var deniedProbeInfo = Info{
	ID: "D20", Name: "denied_probe",
	Catches:     "an identity that tries many different things it may not do",
	Fields:      []string{"outcome", "action", "resource", "destination"},
	Method:      "different (action, resource) pairs denied within 10 minutes >= max(5, 4 x own 99th percentile per 5 minutes); repeating one denied call counts once; calls that a cloud service made on the identity's behalf do not count",
	StateBytes:  800,
	Explanation: "{n} different actions were denied between {t1} and {t2}; usual at most {q} in 5 minutes",
	Severity:    events.SeverityMedium,
	References:  []string{"NHI5", "T1087.004", "T1580", "T1526"},
	Response:    RespondContain,
}

// deniedProbe is D20.
func deniedProbe(in *Input, s *State) *Finding {
	a := in.Activity
	if a.Outcome != events.OutcomeDenied || a.SourceService != "" {
		return nil
	}
	if s.denied == nil {
		s.denied = &Window{}
	}
	c := s.denied.add(Hash(a.Action, object(a)), in.Time, deniedWidth, in.ID)
	usual := s.denied.habit.q99()
	threshold := max(in.Facts.Config.DeniedMin, in.Facts.Config.HabitFactor*usual)
	if c.n < threshold {
		return nil
	}
	s.denied.alarm(c, deniedWidth)
	sev := events.SeverityMedium
	if c.n >= 2*threshold {
		sev = events.SeverityHigh
	}
	return &Finding{
		Severity: sev,
		Explanation: fmt.Sprintf("%s different actions or resources were denied to %s between %s and %s, the last one %s on %s; usual is at most %d in 5 minutes (%d earlier intervals with denials), the threshold is %d",
			c.number(), clip(a.Identity), stamp(c.from), stamp(c.to), clip(a.Action), clip(object(a)), usual, s.denied.habit.total, threshold),
		Value:     fmt.Sprintf("%s different denied calls between %s and %s", c.number(), stamp(c.from), stamp(c.to)),
		Baseline:  fmt.Sprintf("at most %d different denied calls in 5 minutes, over %d intervals", usual, s.denied.habit.total),
		Count:     int64(c.n),
		Threshold: float64(threshold),
		Response:  RespondContain,
		Evidence:  c.ids,
		Since:     c.since,
	}
}
