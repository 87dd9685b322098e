package detect

import "time"

// Config holds the thresholds of the detectors that have one to turn. The zero value
// is not usable; take DefaultConfig and change what should differ.
type Config struct {
	MaxDepth int // D06: longest delegation chain that policy allows

	SupersededGrace time.Duration // D03: how long an old key may still be used

	SurpriseAlert    float64 // D10-D13: bits of a session that raise an alert
	SurpriseContain  float64 // D10-D13: bits that ask for containment
	SurpriseHold     float64 // D10-D13: bits of one use from which its values do not train for a day
	SurpriseCap      float64 // D10-D13: most bits of one dimension
	SurpriseHistory  int     // D10-D13: uses with the dimension before it counts
	FreshPerDay      int     // D10-D13: new values per dimension and day that train at once
	AnnouncedBits    float64 // D10-D13: what an announced change takes off
	ConcurrentWindow time.Duration
	DormantMin       time.Duration // D17: no silence shorter than this is dormancy
	DormantFactor    float64       // D17: times the own 99.5 % gap
	DormantHistory   int           // D17: gaps that make a habit
	DormantLife      time.Duration // D17: life that makes a habit
	RateMin          int           // D21: no hour with fewer uses is a burst
	RateFactor       float64       // D21: times the own busiest hour
	RateSigma        float64       // D21: standard deviations of the negative binomial
	RateHours        int           // D21: active hours that make a habit
	LoopTool         int           // D22: equal tool calls in a row
	LoopFailures     int           // D22: equal failing calls in a row
	DeniedMin        int           // D20: different denied things that are never normal
	HabitFactor      int           // D20, D23, D28: times the own 99th percentile
	SecretsMin       int           // D23: different secrets an hour that are never normal
	ObjectsMin       int           // D23: different other resources an hour that may be too many
}

// DefaultConfig is what detection runs with when nothing else is said.
func DefaultConfig() Config {
	return Config{
		MaxDepth:         4,
		SupersededGrace:  24 * time.Hour,
		SurpriseAlert:    16,
		SurpriseContain:  22,
		SurpriseHold:     8,
		SurpriseCap:      12,
		SurpriseHistory:  20,
		FreshPerDay:      5,
		AnnouncedBits:    8,
		ConcurrentWindow: 5 * time.Minute,
		DormantMin:       30 * 24 * time.Hour,
		DormantFactor:    4,
		DormantHistory:   10,
		DormantLife:      90 * 24 * time.Hour,
		RateMin:          30,
		RateFactor:       2,
		RateSigma:        5,
		RateHours:        20,
		LoopTool:         6,
		LoopFailures:     10,
		DeniedMin:        5,
		HabitFactor:      4,
		SecretsMin:       10,
		ObjectsMin:       50,
	}
}
