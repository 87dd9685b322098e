package rules

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	strict "github.com/go-json-experiment/json"
	"gopkg.in/yaml.v3"

	"github.com/lanyard-nhi/lanyard/events"
)

// maxTestEvents bounds the events of one test.
const maxTestEvents = 20_000

// epoch is the time that offsets of tests count from: a Monday, 00:00 UTC.
func epoch() time.Time { return time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC) }

// Test is one case: events, and the ids of the rules that they must raise.
type Test struct {
	File   string
	Line   int
	Name   string
	Events []Event
	Raises []string // sorted; a rule that raises twice is there twice
}

// Result is how a test went.
type Result struct {
	File   string   `json:"file"`
	Line   int      `json:"line"`
	Name   string   `json:"name"`
	Faults []string `json:"faults"` // none: it holds
	Said   []string `json:"said,omitempty"`
}

// Report is how all tests went.
type Report struct {
	Results   []Result `json:"results"`
	Failed    int      `json:"failed"`
	Uncovered []string `json:"uncovered"` // rules that no test raises
}

type testSpec struct {
	Name   text        `yaml:"name"`
	Events []eventSpec `yaml:"events"`
	Raises *[]string   `yaml:"raises"`
}

// eventSpec is an activity with when it happens; the activity's members stand beside.
type eventSpec struct {
	line     int
	at       time.Duration
	time     time.Time
	repeat   int
	every    time.Duration
	id       string
	tenant   string
	kind     string
	activity map[string]any
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (s *eventSpec) UnmarshalYAML(n *yaml.Node) error {
	m := map[string]any{}
	if err := n.Decode(&m); err != nil {
		return err
	}
	*s = eventSpec{line: n.Line, repeat: 1, every: time.Second, tenant: "acme", kind: "api_called", activity: m}
	take := func(name string, f func(string) error) error {
		v, ok := m[name]
		if !ok {
			return nil
		}
		delete(m, name)
		if at, is := v.(time.Time); is {
			v = at.Format(time.RFC3339Nano)
		}
		if err := f(fmt.Sprint(v)); err != nil {
			return fmt.Errorf("line %d: %s: %w", n.Line, name, err)
		}
		return nil
	}
	span := func(d *time.Duration) func(string) error {
		return func(v string) (err error) { *d, err = time.ParseDuration(v); return err }
	}
	for _, x := range []struct {
		name string
		read func(string) error
	}{
		{"at", span(&s.at)}, {"every", span(&s.every)},
		{"time", func(v string) (err error) { s.time, err = time.Parse(time.RFC3339Nano, v); return err }},
		{"repeat", func(v string) error { _, err := fmt.Sscan(v, &s.repeat); return err }},
		{"id", func(v string) error { s.id = v; return nil }},
		{"tenant", func(v string) error { s.tenant = v; return nil }},
		{"event_type", func(v string) error { s.kind = v; return nil }},
	} {
		if err := take(x.name, x.read); err != nil {
			return err
		}
	}
	return nil
}

// test makes the events of a case.
func (s testSpec) test() (Test, []Problem) {
	t := Test{Line: s.Name.line, Name: s.Name.value}
	var problems []Problem
	bad := func(line int, format string, args ...any) {
		problems = append(problems, Problem{Line: line, Message: "test " + clip(t.Name, 60) + ": " + fmt.Sprintf(format, args...)})
	}
	if t.Name == "" {
		bad(s.Name.line, "give it a name")
	}
	if s.Raises == nil {
		bad(s.Name.line, "give raises, the ids of the rules that the events raise; [] for none")
	} else {
		t.Raises = slices.Sorted(slices.Values(*s.Raises))
	}
	for _, e := range s.Events {
		if e.repeat < 1 || len(t.Events)+e.repeat > maxTestEvents {
			bad(e.line, "repeat must be 1 or more, and a test has at most %d events", maxTestEvents)
			continue
		}
		for n := range e.repeat {
			ev, err := e.event(len(t.Events), n)
			if err != nil {
				bad(e.line, "%s", err)
				break
			}
			t.Events = append(t.Events, ev)
		}
	}
	return t, problems
}

// event makes the n-th repetition; "{n}" in any text is its number, from 1.
func (s eventSpec) event(place, n int) (Event, error) {
	m := map[string]any{"identity": "bot", "action": "test:Action", "destination": "test", "outcome": "success"}
	for k, v := range s.activity {
		m[k] = v
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return Event{}, err
	}
	raw = []byte(strings.ReplaceAll(string(raw), "{n}", fmt.Sprint(n+1)))
	var a events.Activity
	if err := strict.Unmarshal(raw, &a, strict.RejectUnknownMembers(true)); err != nil {
		return Event{}, fmt.Errorf("the event is no activity: %w", err)
	}
	at := s.time
	if at.IsZero() {
		at = epoch().Add(s.at)
	}
	id := s.id
	if id == "" {
		id = fmt.Sprintf("event-%d", place+1)
	}
	return Event{ID: id, Type: s.kind, Tenant: s.tenant, Time: at.Add(time.Duration(n) * s.every).UTC(), Activity: &a}, nil
}

// Run runs the tests, each against fresh state.
func (l Library) Run() Report {
	report := Report{Results: []Result{}, Uncovered: []string{}}
	covered := map[string]bool{}
	for _, t := range l.Tests {
		e := NewEngine(l.Rules)
		before := make([]int64, len(l.Rules))
		for i, rule := range l.Rules {
			before[i], _ = rule.Errors()
		}
		raised, said := []string{}, []string{}
		for _, ev := range t.Events {
			for _, f := range e.Judge(ev) {
				raised = append(raised, f.Rule.ID)
				said = append(said, f.Rule.ID+": "+f.Message)
				covered[f.Rule.ID] = true
			}
		}
		slices.Sort(raised)
		r := Result{File: t.File, Line: t.Line, Name: t.Name, Faults: []string{}, Said: said}
		if !slices.Equal(raised, t.Raises) {
			r.Faults = append(r.Faults, "want "+listed(t.Raises)+", got "+listed(raised))
		}
		for i, rule := range l.Rules {
			if n, last := rule.Errors(); n > before[i] {
				r.Faults = append(r.Faults, fmt.Sprintf("the condition of %s failed: %s", rule.ID, last))
			}
		}
		if len(r.Faults) > 0 {
			report.Failed++
		}
		report.Results = append(report.Results, r)
	}
	for _, rule := range l.Rules {
		if !covered[rule.ID] {
			report.Uncovered = append(report.Uncovered, rule.ID)
		}
	}
	return report
}

func listed(ids []string) string {
	if len(ids) == 0 {
		return "nothing raised"
	}
	return strings.Join(ids, ", ")
}
