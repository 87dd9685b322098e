package evaluate

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly"
	"github.com/lanyard-nhi/lanyard/services/intake/adapter"
)

// minCases is how many labelled cases a family needs to be held to a gate.
const minCases = 20

// labelledCase is one audit event as a system wrote it, and whether it must raise the
// family.
type labelledCase struct {
	Case     string
	Detector string // the family
	Expect   bool
	LogTypes []string `json:"log_types"`
	Event    json.RawMessage
}

// sources maps what a case says of its log to adapters of intake.
func sources(types []string) []string {
	var out []string
	for _, t := range types {
		t = strings.ToLower(t)
		for _, s := range [...][2]string{{"cloudtrail", "cloudtrail"}, {"eks", "kubernetes"}, {"kubernetes", "kubernetes"}, {"gcp", "gcp"}, {"azure", "azure"},
			{"github", "github"}, {"okta", "okta"}, {"openai", "openai"}, {"anthropic", "anthropic"}} {
			if strings.Contains(t, s[0]) && !slices.Contains(out, s[1]) {
				out = append(out, s[1])
			}
		}
	}
	if len(out) == 0 {
		return []string{"cloudtrail", "kubernetes", "gcp", "azure", "github", "okta"}
	}
	return out
}

// neutralOf reads a raw event with the adapters of intake; nil when none can.
func neutralOf(c labelledCase) (events.Event, bool) {
	seen := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, name := range sources(c.LogTypes) {
		a, ok := adapter.Find(adapter.Table(), name)
		if !ok {
			continue
		}
		items, err := a.Read(adapter.Input{Body: whole(name, c.Event, c.Case), Tenant: "public", Seen: seen, Limit: 10, Key: []byte("evaluation")})
		if err != nil {
			continue
		}
		for _, i := range items {
			if i.Err == nil {
				return i.Event, true
			}
		}
	}
	return events.Event{}, false
}

// whole gives a cut-down or redacted record the id, the time and the stage that real
// ones have; what is there and readable stays.
func whole(source string, raw json.RawMessage, id string) []byte {
	var m map[string]any
	if json.Unmarshal(raw, &m) != nil {
		return raw
	}
	const at = "2026-01-02T03:04:05Z"
	set := func(k, v string) {
		if s, ok := m[k].(string); !ok || s == "" || s == "redacted" {
			m[k] = v
		}
	}
	switch source {
	case "cloudtrail":
		set("eventID", id)
		set("eventTime", at)
	case "kubernetes":
		set("auditID", id)
		set("requestReceivedTimestamp", at)
		set("stage", "ResponseComplete")
	case "gcp":
		set("insertId", id)
		set("timestamp", at)
	case "azure":
		set("correlationId", id)
		set("time", at)
	case "github":
		set("_document_id", id)
		if _, ok := m["@timestamp"]; !ok {
			set("created_at", at)
		}
	case "okta":
		set("uuid", id)
		set("published", at)
	}
	b, err := json.Marshal(m)
	if err != nil {
		return raw
	}
	return b
}

// labelled puts every labelled event into an engine of its own and compares families.
func labelled(r *run) ([]Row, error) {
	cases, err := load[labelledCase](r, fileLabelled)
	if err != nil {
		return nil, err
	}
	type tally struct{ hit, pos, clean, neg, unread int }
	by := map[string]*tally{}
	for _, c := range cases {
		t := by[c.Detector]
		if t == nil {
			t = &tally{}
			by[c.Detector] = t
		}
		raised := false
		e, ok := neutralOf(c)
		if !ok {
			t.unread++
		} else if raised, err = raises(r.engine(), e, c.Detector); err != nil {
			return nil, err
		}
		switch {
		case c.Expect && raised:
			t.hit, t.pos = t.hit+1, t.pos+1
		case c.Expect:
			t.pos++
		case raised:
			t.neg++
		default:
			t.clean, t.neg = t.clean+1, t.neg+1
		}
	}
	var names []string
	for k := range by {
		names = append(names, k)
	}
	sort.Strings(names)
	recall, specificity, gated, n, unread := 0.0, 0.0, 0, 0, 0
	var rows []Row
	for _, k := range names {
		t := by[k]
		unread += t.unread
		note := fmt.Sprintf("%d of %d read by an adapter", t.pos+t.neg-t.unread, t.pos+t.neg)
		rows = append(rows, share("labelled.recall."+k, t.hit, t.pos).because(note), share("labelled.specificity."+k, t.clean, t.neg).because(note))
		if t.pos+t.neg < minCases || t.pos == 0 || t.neg == 0 {
			continue
		}
		recall += float64(t.hit) / float64(t.pos)
		specificity += float64(t.clean) / float64(t.neg)
		gated, n = gated+1, n+t.pos+t.neg
	}
	if gated == 0 {
		return append([]Row{missing("labelled.macro_recall", "no family has 20 cases"), missing("labelled.macro_specificity", "no family has 20 cases")}, rows...), nil
	}
	why := fmt.Sprintf("%d families with 20 cases or more; no adapter reads %d of %d events", gated, unread, len(cases))
	return append([]Row{
		number("labelled.macro_recall", recall/float64(gated), n).gated(atLeast, 0.95).because(why),
		number("labelled.macro_specificity", specificity/float64(gated), n).gated(atLeast, 0.97).because(why),
	}, rows...), nil
}

// raises reports whether the event raises an alert of the family.
func raises(g *anomaly.Engine, e events.Event, wanted string) (bool, error) {
	out, err := anomaly.Judge(g, e)
	if err != nil {
		return false, fmt.Errorf("judge %s: %w", e.ID(), err)
	}
	return slices.ContainsFunc(alerts(out), func(a events.AnomalyDetected) bool { return answers(a.Detector, []string{wanted}) }), nil
}
