package detect

import (
	"fmt"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// dormantInfo documents D17.
var dormantInfo = Info{
	ID: "D17", Name: "dormant_wakeup",
	Catches:     "an identity that is used again after a silence that is long even for it",
	Fields:      []string{"time"},
	Method:      "silence > max(30 d, 4 x own 99.5th percentile of the gaps of an hour and more, 1.25 x own longest gap) once 10 such gaps are known; a life of less than 90 days, or shorter than the silence, needs a second sign: a new network, workload or client, or an action of a list. A yearly job has a yearly gap. High when the use is also new in its context (8 bits) or on a list",
	StateBytes:  80,
	Explanation: "silent for {d} days (longest earlier gap {g}); now {action} on {destination}",
	Severity:    events.SeverityMedium,
	References:  []string{"NHI1", "T1078.004"},
	Response:    RespondContain,
}

// longestSlack is how much longer than the longest gap a silence may be.
const longestSlack = 1.25

// dormantWakeup is D17.
func dormantWakeup(in *Input, s *State) *Finding {
	if s.rhythm == nil {
		s.rhythm = &rhythm{}
	}
	r, cfg := s.rhythm, &in.Facts.Config
	d := r.gap(seconds(in.Time))
	usual, longest, n := r.q995(), time.Duration(r.widest)*time.Second, r.total
	limit := max(cfg.DormantMin, time.Duration(cfg.DormantFactor*float64(usual)), time.Duration(longestSlack*float64(longest)))
	r.keep(d)
	if int(n) < cfg.DormantHistory || d <= limit {
		return nil
	}
	life := gapOf(r.last, r.first) - d
	if (life < cfg.DormantLife || life < d) && in.Tags == 0 && !s.changed(in) {
		return nil // too short a life to know its habit, and it does what it always did
	}
	a := in.Activity
	sev, also := events.SeverityMedium, ""
	if c := s.session; c != nil && gapOf(c.start, seconds(in.Time)) < sessionSpan && c.sum() >= cfg.SurpriseHold {
		sev, also = events.SeverityHigh, fmt.Sprintf("; it is also new in its context (%.1f bits)", c.sum())
	} else if in.Tags != 0 {
		sev, also = events.SeverityHigh, "; the action is on the list of sensitive ones"
	}
	return &Finding{
		Severity: sev,
		Explanation: fmt.Sprintf("%s was silent for %.1f days and woke up at %s with %s on %s from %s; its longest earlier silence of %d was %.1f days, the threshold is %.1f%s",
			clip(a.Identity), days(d), stamp(in.Time), clip(a.Action), clip(a.Destination), network(a), n, days(longest), days(limit), also),
		Value:     fmt.Sprintf("silent for %.1f days", days(d)),
		Baseline:  fmt.Sprintf("%d silences of an hour or more, the longest %.1f days, 99.5 %% within %.1f days", n, days(longest), days(usual)),
		Count:     int64(days(d)),
		Threshold: days(limit),
		Response:  RespondContain,
	}
}

// changed reports whether where this use came from was never seen before it.
func (s *State) changed(in *Input) bool {
	at := seconds(in.Time)
	for d, h := range contextOf(in.Activity) {
		if dim(d) >= whereFrom || h == 0 || s.facets[d].n < 2 {
			continue
		}
		set := *s.values(dim(d))
		if i := set.find(h); i < 0 || set[i].first == at && set[i].n == 1 {
			return true
		}
	}
	return false
}

func days(d time.Duration) float64 { return d.Hours() / 24 }
