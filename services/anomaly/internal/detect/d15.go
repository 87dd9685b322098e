package detect

import (
	"fmt"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// sharedInfo documents D15.
var sharedInfo = Info{
	ID: "D15", Name: "shared_identity",
	Catches:     "one identity that several workloads use side by side for days",
	Fields:      []string{"workload"},
	Method:      "at least two workloads (digits masked) with 20 % of the uses each, 20 uses or more together, whose times of use overlap by 3 days; a change from one to the next, such as blue and green, does not. Raised once",
	StateBytes:  16,
	Explanation: "{id} serves {k} workloads side by side",
	Severity:    events.SeverityLow,
	References:  []string{"NHI9", "T1078"},
	Response:    RespondAlert,
}

const (
	sharedDays  = 3 * 24 * time.Hour
	sharedShare = 0.2
	sharedMin   = 20
)

// sharedIdentity is D15. It stands behind D10 in the table, which keeps the workloads.
func sharedIdentity(in *Input, s *State) *Finding {
	set := s.facets[dimWorkload].values
	if len(set) < 2 || in.Activity.Workload == "" {
		return nil
	}
	mine := set.find(maskedHash(in.Activity.Workload))
	if mine < 0 {
		return nil
	}
	total := 0
	for i := range set {
		total += int(set[i].n)
	}
	least := max(int(sharedShare*float64(total)), 2)
	if total < sharedMin || int(set[mine].n) < least {
		return nil
	}
	k := 1
	for i := range set {
		if i == mine || int(set[i].n) < least {
			continue
		}
		from, to := max(set[i].first, set[mine].first), min(set[i].last, set[mine].last)
		if to > from && time.Duration(to-from)*time.Second >= sharedDays {
			k++
		}
	}
	if k < 2 || !s.once("shared", in.Time) {
		return nil
	}
	a := in.Activity
	return &Finding{
		Severity: events.SeverityLow,
		Explanation: fmt.Sprintf("%s is used by %d workloads side by side for 3 days or more, each with at least %d of %d uses; one of them is %s",
			clip(a.Identity), k, least, total, clip(a.Workload)),
		Value:     fmt.Sprintf("%d workloads side by side", k),
		Baseline:  "one workload, or one after the other",
		Count:     int64(k),
		Threshold: 1,
		Response:  RespondAlert,
	}
}
