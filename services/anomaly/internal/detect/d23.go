package detect

import (
	"fmt"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

const (
	// readWidth is the slot of D23; two slots are judged together: one hour.
	readWidth = 30 * time.Minute
	// secretsMin is the number of different secrets that is never normal without a
	// history of it.
	secretsMin = 10
	// batchMin is the number of different batch reads of secrets that stands for at
	// least as many: services return up to 10 or 20 secrets per batch.
	batchMin = 3
	// objectsMin and objectsHistory guard the rule for other resources.
	objectsMin     = 50
	objectsHistory = 24
)

// massReadInfo documents D23.
var massReadInfo = Info{
	ID: "D23", Name: "mass_read",
	Catches:     "an identity that reads many different secrets or objects, or hands out a whole data store in one call",
	Fields:      []string{"action", "action_class", "resource", "target", "outcome"},
	Method:      "different secrets read within an hour >= max(10, 4 x own 99th percentile per half hour), or >= 3 different batch reads; other resources >= max(50, 4 x own 99th percentile) once 24 half hours are known; sharing a snapshot, image or bucket outside the tenant. Exact up to 32 values per half hour, linear counting beyond",
	StateBytes:  2800,
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
	batch, w := in.Tags&TagSecretBatch != 0, &s.secrets
	if batch {
		w = &s.batches
	}
	if *w == nil {
		*w = &Window{}
	}
	h := Hash("secret", object(a))
	if batch && a.Resource == "" {
		h = Hash("batch", in.ID) // the record does not name what was read
	}
	c := (*w).add(h, in.Time, readWidth, in.ID)
	past := &(*w).habit
	usual := past.q99()
	threshold, unit := max(secretsMin, 4*usual), "different secrets"
	if batch {
		threshold, unit = max(batchMin, 4*usual), "different batches of secrets"
	}
	if c.n < threshold {
		return nil
	}
	(*w).alarm(c, readWidth)
	return &Finding{
		Severity: events.SeverityHigh,
		Explanation: fmt.Sprintf("%d %s were read by %s between %s and %s, the last one %s with %s; usual is at most %d in half an hour (%d earlier half hours with reads), the threshold is %d",
			c.n, unit, clip(a.Identity), stamp(c.from), stamp(c.to), clip(object(a)), clip(a.Action), usual, past.total, threshold),
		Value:     fmt.Sprintf("%d %s between %s and %s", c.n, unit, stamp(c.from), stamp(c.to)),
		Baseline:  fmt.Sprintf("at most %d in half an hour, over %d half hours", usual, past.total),
		Count:     int64(c.n),
		Threshold: float64(threshold),
		Response:  RespondContain,
		Evidence:  c.ids,
	}
}

func objectsRead(in *Input, s *State) *Finding {
	a := in.Activity
	if s.objects == nil {
		s.objects = &Window{}
	}
	c := s.objects.add(Hash(a.Resource), in.Time, readWidth, in.ID)
	usual := s.objects.habit.q99()
	threshold := max(objectsMin, 4*usual)
	if c.n < threshold || s.objects.habit.total < objectsHistory {
		return nil
	}
	s.objects.alarm(c, readWidth)
	return &Finding{
		Severity: events.SeverityMedium,
		Explanation: fmt.Sprintf("about %d different resources were read by %s between %s and %s, the last one %s; usual is at most %d in half an hour (%d earlier half hours), the threshold is %d",
			c.n, clip(a.Identity), stamp(c.from), stamp(c.to), clip(a.Resource), usual, s.objects.habit.total, threshold),
		Value:     fmt.Sprintf("about %d different resources between %s and %s", c.n, stamp(c.from), stamp(c.to)),
		Baseline:  fmt.Sprintf("at most %d in half an hour, over %d half hours", usual, s.objects.habit.total),
		Count:     int64(c.n),
		Threshold: float64(threshold),
		Response:  RespondContain,
		Evidence:  c.ids,
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
		Explanation: fmt.Sprintf("%s changed who may read %s with %s at %s (%s); it never did in %d earlier uses",
			clip(a.Identity), clip(object(a)), clip(a.Action), stamp(in.Time), to, s.Uses),
		Value:     "a whole data store handed out by " + clip(a.Action),
		Baseline:  fmt.Sprintf("0 such calls in %d earlier uses", s.Uses),
		Count:     1,
		Threshold: 1,
		Response:  RespondContain,
	}
}
