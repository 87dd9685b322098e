package evaluate

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly"
)

const (
	mixedSeed   = 20260301
	perScenario = 10_000 // events of background per scenario
	mixedRounds = 5
)

// incidentKey is what one incident is: one identity and one hour.
func incidentKey(tenant string, a events.AnomalyDetected) string {
	return tenant + "|" + a.Identity + "|" + a.FirstSeen.UTC().Truncate(time.Hour).Format(time.RFC3339)
}

// mixed puts recorded attacks into the activity of automation, one per 10,000 events,
// and asks how many of the incidents that a person would be shown are attacks. Low
// severity is posture, which nobody is paged for.
func mixed(r *run) ([]Row, error) {
	bs, err := streams(r)
	if err != nil {
		return nil, err
	}
	us, scenarios, err := attacks(r)
	if err != nil {
		return nil, err
	}
	var background []use
	for _, b := range bs {
		background = append(background, b.uses()...)
	}
	sort.SliceStable(background, func(i, j int) bool { return background[i].meta.Time.Before(background[j].meta.Time) })
	n := max(1, len(background)/perScenario)
	rnd := rand.New(rand.NewPCG(mixedSeed, 1))
	good, all, found, tried := 0, 0, 0, 0
	for range mixedRounds {
		order := rnd.Perm(len(scenarios))
		picked := order[:min(n, len(order))]
		g, f, a := mixedRound(r, background, us, scenarios, picked, rnd)
		good, all, found, tried = good+g, all+a, found+f, tried+len(picked)
	}
	return []Row{
		share("mixed.incident_precision", good, all).gated(atLeast, 0.80).
			because(fmt.Sprintf("incidents of medium and higher severity; %d rounds of %d attacks in %d events", mixedRounds, n, len(background))),
		share("mixed.attacks_found", found, tried),
	}, nil
}

// mixedRound replays the background with the picked scenarios moved into it.
func mixedRound(r *run, background, us []use, scenarios []scenario, picked []int, rnd *rand.Rand) (good, found, all int) {
	stream := slices.Clone(background)
	truth := map[string]int{}
	for _, k := range picked {
		at := background[rnd.IntN(len(background))].meta.Time
		first := true
		var shift time.Duration
		for _, u := range us {
			if !slices.Contains(scenarios[k].EventIDs, u.meta.ID) {
				continue
			}
			if first {
				shift, first = at.Sub(u.meta.Time), false
			}
			u.meta.Time = u.meta.Time.Add(shift)
			truth[u.meta.ID] = k
			stream = append(stream, u)
		}
	}
	sort.SliceStable(stream, func(i, j int) bool { return stream[i].meta.Time.Before(stream[j].meta.Time) })
	g := r.engine()
	incidents := map[string]bool{}
	hit := map[int]bool{}
	for _, u := range stream {
		for _, a := range alerts(g.Activity(u.meta, u.a)) {
			if a.Severity == events.SeverityLow {
				continue
			}
			key := incidentKey(u.meta.Tenant, a)
			ok := false
			for _, id := range a.Evidence {
				if k, mine := truth[id]; mine && scenarios[k].names(a.Identity, a.Session) {
					ok, hit[k] = true, true
				}
			}
			incidents[key] = incidents[key] || ok
		}
	}
	for _, ok := range incidents {
		if ok {
			good++
		}
	}
	return good, len(hit), len(incidents)
}

// stolen asks after how many events of a stolen role session it is found: recorded
// thefts of a machine's credential, and seeded ones in which the session of a busy
// identity goes on from elsewhere.
func stolen(r *run) ([]Row, error) {
	us, scenarios, err := attacks(r)
	if err != nil {
		return nil, err
	}
	worst, n := 0, 0
	for _, sc := range scenarios {
		if !slices.Contains(sc.Detectors, "TOKEN_REPLAY") {
			continue
		}
		g, seen, at := r.engine(), 0, 0
		for _, u := range us {
			if !slices.Contains(sc.EventIDs, u.meta.ID) {
				continue
			}
			bound := u.a.Session != "" && u.a.Workload != ""
			if bound {
				seen++
			}
			for _, a := range alerts(g.Activity(u.meta, u.a)) {
				if at == 0 && bound && answers(a.Detector, sc.Detectors) {
					at = seen
				}
			}
		}
		n++
		if at == 0 {
			at = 1 << 20
		}
		worst = max(worst, at)
	}
	rows := []Row{number("stolen_session.recorded_delay_events", float64(worst), n).gated(atMost, 2)}
	if n == 0 {
		rows = []Row{missing("stolen_session.recorded_delay_events", "no recorded theft of a session in the data")}
	}
	bs, err := streams(r)
	if err != nil {
		return rows, nil // the seeded ones need activity; the recorded ones stand alone
	}
	var delays []int
	for i := range 5 * kitTrials {
		var known []botStream
		for _, b := range bs {
			if len(b.es) >= swapHistory {
				known = append(known, b)
			}
		}
		if len(known) == 0 {
			break
		}
		delays = append(delays, seededTheft(r.engine(), newTrial(known, "stolen", i)))
	}
	slices.Sort(delays)
	if len(delays) > 0 {
		rows = append(rows, number("stolen_session.seeded_delay_events_p99", float64(delays[(len(delays)*99+99)/100-1]), len(delays)).gated(atMost, 2))
	}
	return rows, nil
}

// seededTheft lets the session go on from elsewhere while its owner works, and returns
// the thief's event at which it was found.
func seededTheft(g *anomaly.Engine, t *trial) int {
	own := func(a *events.Activity) { success(a); a.Session = "session-" + t.name }
	t.use(0, false, own)
	t.use(2*time.Minute, false, own)
	for k := range 5 {
		t.use(3*time.Minute+time.Duration(k)*10*time.Second, true, func(a *events.Activity) { own(a); a.SourceIP, a.UserAgent = "203.0.113.9", "curl/8" })
	}
	for _, d := range t.history {
		d.do(g)
	}
	n := 0
	for _, d := range t.out {
		if d.truth {
			n++
		}
		for _, a := range alerts(d.do(g)) {
			if d.truth && (a.Detector == "D14" || a.Detector == "D10") {
				return n
			}
		}
	}
	return 1 << 20
}
