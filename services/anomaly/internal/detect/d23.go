package detect

import (
	"fmt"
	"strconv"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

const (
	// readWidth is the slot of D23; two slots are judged together: one hour.
	readWidth = 30 * time.Minute
	// batchSize is how many secrets a batch read counts as when the record does not
	// say; services return up to 10 or 20. batchMax bounds what the record says.
	batchSize = 4
	batchMax  = 20
	// objectsHistory guards the rule for other resources.
	objectsHistory = 24
)

// massReadInfo documents D23.
var massReadInfo = Info{
	ID: "D23", Name: "mass_read",
	Catches:     "an identity that reads many different secrets or objects, or hands out a whole data store in one call",
	Fields:      []string{"action", "action_class", "resource", "target", "outcome"},
	Method:      "different secrets read within an hour >= max(10, 4 x own 99th percentile per half hour), a batch read counting as the number that the record states, or 4; other resources >= max(50, 4 x own 99th percentile) once 24 half hours are known; sharing a snapshot, image or bucket outside the tenant. Exact up to 16 values per half hour, linear counting beyond",
	StateBytes:  1600,
	Explanation: "{n} different secrets were read between {t1} and {t2}; usual at most {q} in half an hour",
	Severity:    events.SeverityHigh,
	References:  []string{"NHI2", "T1555.006", "T1530", "T1619", "T1537"},
	Response:    RespondContain,
}

// massRead is D23.
func massRead(in *Input, s *State) *Finding {
	if !in.Succeeded() {
		return nil
	}
	a := in.Activity
	switch {
	case in.Tags&TagShare != 0:
		return shared(in, s)
	case in.Tags&(TagSecret|TagSecretBatch) != 0 || a.ActionClass == events.ClassSecret && in.Tags == 0:
		return secretsRead(in, s)
	case a.ActionClass == events.ClassRead && a.Resource != "" && a.Tool == "":
		return objectsRead(in, s)
	}
	return nil
}

func secretsRead(in *Input, s *State) *Finding {
	a := in.Activity
	if s.secrets == nil {
		s.secrets = &Window{}
	}
	w := s.secrets
	name, n := object(a), 1
	if in.Tags&TagSecretBatch != 0 {
		n = batchSize
		if a.Count > 0 {
			n = int(min(a.Count, batchMax))
		}
		if a.Resource == "" {
			name = in.ID // the record does not name what was read
		}
	}
	c := w.add(Hash("secret", name), in.Time, readWidth, in.ID)
	for i := 1; i < n; i++ {
		c = w.add(Hash("secret", name, strconv.Itoa(i)), in.Time, readWidth, in.ID)
	}
	usual := w.habit.q99()
	threshold := max(in.Facts.Config.SecretsMin, in.Facts.Config.HabitFactor*usual)
	if c.n < threshold {
		return nil
	}
	w.alarm(c, readWidth)
	return &Finding{
		Severity: events.SeverityHigh,
		Explanation: fmt.Sprintf("%s different secrets were read by %s between %s and %s, the last one %s with %s; usual is at most %d in half an hour (%d earlier half hours with reads), the threshold is %d",
			c.number(), clip(a.Identity), stamp(c.from), stamp(c.to), clip(object(a)), clip(a.Action), usual, w.habit.total, threshold),
		Value:     fmt.Sprintf("%s different secrets between %s and %s", c.number(), stamp(c.from), stamp(c.to)),
		Baseline:  fmt.Sprintf("at most %d in half an hour, over %d half hours", usual, w.habit.total),
		Count:     int64(c.n),
		Threshold: float64(threshold),
		Response:  RespondContain,
		Evidence:  c.ids,
		Since:     c.since,
	}
}

func objectsRead(in *Input, s *State) *Finding {
	a := in.Activity
	if s.objects == nil {
		s.objects = &Window{}
	}
	c := s.objects.add(Hash(a.Resource), in.Time, readWidth, in.ID)
	usual := s.objects.habit.q99()
	threshold := max(in.Facts.Config.ObjectsMin, in.Facts.Config.HabitFactor*usual)
	if c.n < threshold || s.objects.habit.total < objectsHistory {
		return nil
	}
	s.objects.alarm(c, readWidth)
	return &Finding{
		Severity: events.SeverityMedium,
		Explanation: fmt.Sprintf("%s different resources were read by %s between %s and %s, the last one %s; usual is at most %d in half an hour (%d earlier half hours), the threshold is %d",
			c.number(), clip(a.Identity), stamp(c.from), stamp(c.to), clip(a.Resource), usual, s.objects.habit.total, threshold),
		Value:     fmt.Sprintf("%s different resources between %s and %s", c.number(), stamp(c.from), stamp(c.to)),
		Baseline:  fmt.Sprintf("at most %d in half an hour, over %d half hours", usual, s.objects.habit.total),
		Count:     int64(c.n),
		Threshold: float64(threshold),
		Response:  RespondContain,
		Evidence:  c.ids,
		Since:     c.since,
	}
}

// shared judges a call that makes a whole store readable for others. A record that
// names the identity's own tenant as receiver, or an action that is usual, is silent.
func shared(in *Input, s *State) *Finding {
	a := in.Activity
	if declared(in) || s.Actions.Usual(Hash(a.Action), in.Time) || a.Target != "" && a.Target == in.IdentityTenant() {
		return nil
	}
	to := "the receiver is not in the record"
	if a.Target != "" {
		to = "the receiver is " + clip(a.Target)
	}
	return &Finding{
		Severity: events.SeverityHigh,
		Explanation: fmt.Sprintf("%s changed who may read %s with %s at %s (%s); %s",
			clip(a.Identity), clip(object(a)), clip(a.Action), stamp(in.Time), to, s.past(a.Action)),
		Value:     "a whole data store handed out by " + clip(a.Action),
		Baseline:  s.past(a.Action),
		Count:     1,
		Threshold: 1,
		Response:  RespondContain,
	}
}
