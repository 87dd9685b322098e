package evaluate

import (
	"slices"
	"sort"

	"github.com/lanyard-nhi/lanyard/events"
)

// families maps a detector to the families of the labels that it answers.
func families(detector string) []string {
	switch detector {
	case "D04":
		return []string{"TOKEN_REPLAY"}
	case "D05":
		return []string{"CROSS_TENANT"}
	case "D06", "D28":
		return []string{"DELEGATION"}
	case "D08":
		return []string{"SECRET_EXPOSED"}
	case "D10":
		return []string{"CTX_NETWORK"}
	case "D11":
		return []string{"CTX_WORKLOAD"}
	case "D12":
		return []string{"CTX_DESTINATION", "SENSITIVE_ACTION"}
	case "D13":
		return []string{"AGENT_INJECTION", "SENSITIVE_ACTION"}
	case "D14":
		return []string{"TOKEN_REPLAY", "CTX_NETWORK"}
	case "D16":
		return []string{"HUMAN_USE"}
	case "D20":
		return []string{"DENIED_PROBE", "RECON", "AUTH_BRUTE"}
	case "D21":
		return []string{"RATE"}
	case "D22":
		return []string{"RETRY_STORM"}
	case "D23":
		return []string{"SECRET_READ", "VOLUME_EXFIL"}
	case "D24":
		return []string{"PRIVESC"}
	case "D26":
		return []string{"DEF_EVASION"}
	case "D27":
		return []string{"PERSIST_CRED", "PERSIST_TRUST"}
	}
	return nil
}

// answers reports whether a detector answers one of the wanted families.
func answers(detector string, wanted []string) bool {
	return slices.ContainsFunc(families(detector), func(f string) bool { return slices.Contains(wanted, f) })
}

// attacks reads the recorded techniques in the order of event time.
func attacks(r *run) ([]use, []scenario, error) {
	records, err := load[neutral](r, fileAttacks)
	if err != nil {
		return nil, nil, err
	}
	scenarios, err := load[scenario](r, fileScenarios)
	if err != nil {
		return nil, nil, err
	}
	var us []use
	for _, n := range records {
		u, err := n.use()
		if err != nil {
			return nil, nil, err
		}
		us = append(us, u)
	}
	sort.SliceStable(us, func(i, j int) bool { return us[i].meta.Time.Before(us[j].meta.Time) })
	return us, scenarios, nil
}

// finds reports whether the alert is about the scenario: an accepted family, one of
// its entities and one of its events. mine is whether it holds one of its events.
func (s scenario) finds(a events.AnomalyDetected) (found, mine bool) {
	mine = slices.ContainsFunc(a.Evidence, func(id string) bool { return slices.Contains(s.EventIDs, id) })
	return mine && answers(a.Detector, s.Detectors) && s.names(a.Identity, a.Session), mine
}

// techniques replays recorded attack techniques and asks of each for an alert of an
// accepted family that names the right entity and holds one of its events.
func techniques(r *run) ([]Row, error) {
	us, scenarios, err := attacks(r)
	if err != nil {
		return nil, err
	}
	g := r.engine()
	var raised []events.AnomalyDetected
	for _, u := range us {
		raised = append(raised, alerts(g.Activity(u.meta, u.a))...)
	}
	found, wrong := 0, 0
	var lost string
	for _, sc := range scenarios {
		ok := false
		for _, a := range raised {
			f, mine := sc.finds(a)
			ok = ok || f
			if mine && !sc.names(a.Identity, a.Session) {
				wrong++
			}
		}
		if ok {
			found++
		} else {
			lost += " " + sc.Scenario
		}
	}
	row := share("techniques.found", found, len(scenarios)).gated(atLeast, round(34.0/35))
	if lost != "" {
		row.Why = "not found:" + lost
	}
	return []Row{row, number("techniques.wrong_entity", float64(wrong), len(raised)).gated(atMost, 0)}, nil
}
