package detect

import (
	"fmt"
	"math"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// rateInfo documents D21.
var rateInfo = Info{
	ID: "D21", Name: "rate_burst",
	Catches:     "an identity that is used far more in an hour than ever before",
	Fields:      []string{"time"},
	Method:      "uses in an hour of event time >= 30, more than 2 x the own busiest hour, and beyond the mean by 5 standard deviations of a negative binomial of the own mean and variance over active hours; once 20 active hours are known. The hour of an incident trains a day later",
	StateBytes:  80,
	Explanation: "{n} uses since {t}; usual {m} an hour, at most {x}, the threshold is {q}; last action {a}",
	Severity:    events.SeverityLow,
	References:  []string{"T1496", "AML.T0034.002"},
	Response:    RespondContain,
}

// rateBurst is D21. It stands behind D17 in the table, which makes the rhythm.
func rateBurst(in *Input, s *State) *Finding {
	if s.rhythm == nil {
		s.rhythm = &rhythm{}
	}
	r, cfg := s.rhythm, &in.Facts.Config
	if !r.tick(seconds(in.Time)) || int(r.hours) < cfg.RateHours || int(r.count) < cfg.RateMin {
		return nil
	}
	threshold := max(cfg.RateFactor*float64(r.busiest), r.tail(cfg.RateSigma))
	if float64(r.count) <= threshold {
		return nil
	}
	r.alarmed = true
	a := in.Activity
	sev := events.SeverityLow
	if float64(r.count) > 4*threshold {
		sev = events.SeverityMedium
	}
	start := time.Unix(int64(r.hour)*3600, 0)
	return &Finding{
		Severity: sev,
		Explanation: fmt.Sprintf("%s was used %d times since %s, the last time for %s on %s; usual is %.1f in an active hour and at most %d (%d hours), the threshold is %.0f",
			clip(a.Identity), r.count, stamp(start), clip(a.Action), clip(a.Destination), r.mean, r.busiest, r.hours, math.Floor(threshold)),
		Value:     fmt.Sprintf("%d uses since %s", r.count, stamp(start)),
		Baseline:  fmt.Sprintf("mean %.1f and at most %d uses over %d active hours", r.mean, r.busiest, r.hours),
		Count:     int64(r.count),
		Threshold: math.Floor(threshold),
		Response:  RespondContain,
	}
}
