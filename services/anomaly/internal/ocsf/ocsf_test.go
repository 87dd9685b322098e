package ocsf

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// attribute, object and schema are the standard's classes, resolved; see testdata.
type attribute struct {
	Type        string
	Requirement string
	Array       bool
	Enum        []string
}

type object struct {
	UID         int
	Attributes  map[string]attribute
	Constraints map[string][]string
}

type schema struct {
	Classes, Objects map[string]object
	Types            map[string]string
}

func load(t *testing.T) schema {
	t.Helper()
	raw, err := os.ReadFile("testdata/classes.json")
	if err != nil {
		t.Fatal(err)
	}
	var s schema
	if err := json.Unmarshal(raw, &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// check lists how v breaks what the standard says of o.
func (s schema) check(at string, o object, v map[string]any) []string {
	var faults []string
	bad := func(format string, args ...any) { faults = append(faults, at+": "+fmt.Sprintf(format, args...)) }
	for name, a := range o.Attributes {
		if _, ok := v[name]; !ok && a.Requirement == "required" {
			bad("lacks %s", name)
		}
	}
	for kind, names := range o.Constraints {
		n := 0
		for _, name := range names {
			if _, ok := v[name]; ok {
				n++
			}
		}
		if kind == "at_least_one" && n == 0 || kind == "just_one" && n != 1 {
			bad("%s of %v, has %d", kind, names, n)
		}
	}
	for name, value := range v {
		a, ok := o.Attributes[name]
		if !ok {
			bad("has no attribute %s", name)
			continue
		}
		list, isList := value.([]any)
		if isList != a.Array {
			bad("%s: array is %v, want %v", name, isList, a.Array)
			continue
		}
		if !isList {
			list = []any{value}
		}
		for i, x := range list {
			faults = append(faults, s.value(fmt.Sprintf("%s/%s[%d]", at, name, i), a, x)...)
		}
	}
	return faults
}

func (s schema) value(at string, a attribute, v any) []string {
	if len(a.Enum) > 0 && !slices.Contains(a.Enum, fmt.Sprint(v)) {
		return []string{fmt.Sprintf("%s: %v is not among %v", at, v, a.Enum)}
	}
	ok := false
	switch s.Types[a.Type] {
	case "string_t":
		x, is := v.(string)
		ok = is && x != ""
	case "integer_t", "long_t":
		x, is := v.(float64)
		ok = is && x == float64(int64(x))
		if a.Type == "timestamp_t" {
			ok = ok && x > 1e12 && x < 1e13 // milliseconds, this century
		}
	case "float_t":
		_, ok = v.(float64)
	case "boolean_t":
		_, ok = v.(bool)
	case "json_t":
		ok = true
	default:
		o, known := s.Objects[a.Type]
		m, is := v.(map[string]any)
		if a.Type == "object" && is {
			return nil // whatever the source has
		}
		if !known || !is {
			return []string{fmt.Sprintf("%s: %v is no %s", at, v, a.Type)}
		}
		return s.check(at, o, m)
	}
	if !ok {
		return []string{fmt.Sprintf("%s: %v is no %s", at, v, a.Type)}
	}
	return nil
}

// validate holds a finding to its class and to OCSF's rules across attributes.
func validate(t *testing.T, f any) {
	t.Helper()
	s := load(t)
	raw, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	var v map[string]any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	for _, o := range s.Classes {
		if float64(o.UID) != v["class_uid"] {
			continue
		}
		for _, fault := range s.check("", o, v) {
			t.Error(fault)
		}
		if v["type_uid"] != v["class_uid"].(float64)*100+v["activity_id"].(float64) {
			t.Errorf("type_uid is %v", v["type_uid"])
		}
		return
	}
	t.Errorf("class %v is not known", v["class_uid"])
}

var t0 = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)

func full() events.AnomalyDetected {
	return events.AnomalyDetected{Alert: "a1", Detector: "D13", Name: "new_action_or_tool", Severity: events.SeverityHigh, Score: 74.5,
		Identity: "mail-bot", Owner: "mail team", Feature: "triage", Purpose: "sorts mail", Credential: "jti1", Task: "t1", Session: "s1",
		Explanation: "task t1 used tool send_mail for the first time (40 runs)", Value: "send_mail", Baseline: "read_mail, label_mail", Count: 1, Threshold: 1,
		Evidence: []string{"e1", "e2"}, FirstSeen: t0, LastSeen: t0.Add(time.Minute), References: []string{"NHI5", "AML.T0053", "AML.T0051.001", "T1078.004", "T15x", "Tactic"},
		Proposed: events.Proposed{Response: "contain", Command: "lanyard revoke identity:acme/mail-bot --freeze --confirm"}}
}

func TestAlertsFollowTheClass(t *testing.T) {
	least := events.AnomalyDetected{Alert: "a2", Detector: "D01", Name: "use_after_revoke", Severity: events.SeverityLow, Identity: "x", Explanation: "e", FirstSeen: t0, LastSeen: t0, Evidence: []string{}}
	for _, a := range []events.AnomalyDetected{full(), least} {
		for _, c := range []Context{
			{Tenant: "acme", Created: t0},
			{Tenant: "acme", Event: "ev", Correlation: "co", Created: t0, Repeated: true},
			{Tenant: "acme", Created: t0, State: State{Acknowledged: "acme/ann", Detail: "looked at by acme/ann"}},
			{Tenant: "acme", Created: t0, State: State{Acknowledged: "acme/ann", Expected: "acme/bob", Detail: "expected"}},
		} {
			validate(t, Alert(a, c))
		}
	}
}

func TestAlertIsComplete(t *testing.T) {
	a := full()
	f := Alert(a, Context{Tenant: "acme", Created: t0})
	raw, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{a.Alert, a.Detector, a.Name, a.Identity, a.Owner, a.Feature, a.Purpose, a.Credential, a.Task, a.Session, a.Explanation,
		a.Value, a.Baseline, "e1", "e2", a.Proposed.Command, `"threshold":1`, "NHI5", "AML.T0051.001", "T1078.004"} {
		if !strings.Contains(string(raw), want) {
			t.Errorf("%q is not in the finding", want)
		}
	}
	if n := len(f.FindingInfo.Attacks); n != 3 {
		t.Errorf("%d techniques, want 3: %s", n, raw)
	}
	if f.SeverityID != 4 || f.RiskLevelID != 3 || f.StatusID != 1 || f.ActivityID != 1 || !*f.IsAlert || f.FindingInfo.Analytic.TypeID != 2 {
		t.Errorf("%s", raw)
	}
}

func TestStateOfAlerts(t *testing.T) {
	for _, c := range []struct {
		s                State
		status, activity int
		alert            bool
	}{
		{State{}, 1, 1, true},
		{State{Acknowledged: "a"}, 2, 2, true},
		{State{Expected: "a"}, 3, 2, false},
		{State{Acknowledged: "a", Expected: "b"}, 3, 2, false},
	} {
		f := Alert(full(), Context{Tenant: "acme", Created: t0, State: c.s})
		if f.StatusID != c.status || f.ActivityID != c.activity || *f.IsAlert != c.alert || f.TypeUID != 200400+c.activity {
			t.Errorf("%+v: status %d activity %d alert %v", c.s, f.StatusID, f.ActivityID, *f.IsAlert)
		}
	}
}

func TestAnalyticTypes(t *testing.T) {
	for detector, want := range map[string]int{"D01": 1, "REV": 1, "RULE:night-writes": 1, "D13": 2, "D10": 3, "D99": 2} {
		if got := analytic(events.AnomalyDetected{Detector: detector}).TypeID; got != want {
			t.Errorf("%s has type %d, want %d", detector, got, want)
		}
	}
}

func TestPostureFollowsTheClass(t *testing.T) {
	validate(t, Posture(Weakness{ID: "w", Tenant: "acme", Identity: "x", Kind: "agent", Check: "stale", Severity: events.SeverityLow, Explanation: "e", Action: "do", At: t0}))
	w := Weakness{ID: "w", Tenant: "acme", Identity: "x", Kind: "agent", Owner: "o", Feature: "f", Check: "over_scoped", Severity: events.SeverityMedium, Explanation: "e", Action: "do",
		References: []string{"NHI5"}, FirstUsed: t0, LastUsed: t0, Credentials: []ProgrammaticCredential{{UID: "c", Type: "at+jwt", LastUsedTime: t0.UnixMilli()}},
		Granted: []string{"a", "b"}, Unused: []string{"b"}, Policy: "permit(principal, action, resource);", At: t0}
	f := Posture(w)
	validate(t, f)
	if r := f.PermissionAnalysisResults[0]; r.UnusedPrivilegesCount != 1 || r.Policy.Data.Text != w.Policy {
		t.Errorf("%+v", r)
	}
}

// TestValidatorBites shows that the validator refuses what the standard refuses.
func TestValidatorBites(t *testing.T) {
	s := load(t)
	whole := func() map[string]any {
		raw, err := json.Marshal(Alert(full(), Context{Tenant: "acme", Created: t0}))
		if err != nil {
			t.Fatal(err)
		}
		var v map[string]any
		if err := json.Unmarshal(raw, &v); err != nil {
			t.Fatal(err)
		}
		return v
	}
	for name, spoil := range map[string]func(v map[string]any){
		"missing":    func(v map[string]any) { delete(v, "severity_id") },
		"deep":       func(v map[string]any) { delete(v["finding_info"].(map[string]any), "uid") },
		"enum":       func(v map[string]any) { v["status_id"] = 42.0 },
		"unknown":    func(v map[string]any) { v["colour"] = "red" },
		"type":       func(v map[string]any) { v["time"] = "now" },
		"seconds":    func(v map[string]any) { v["time"] = 1772445600.0 },
		"array":      func(v map[string]any) { v["evidences"] = map[string]any{} },
		"constraint": func(v map[string]any) { delete(v["evidences"].([]any)[0].(map[string]any), "actor") },
	} {
		v := whole()
		spoil(v)
		if len(s.check("", s.Classes["detection_finding"], v)) == 0 {
			t.Errorf("%s: nothing is said", name)
		}
	}
}
