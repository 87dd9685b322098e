package rules

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lanyard-nhi/lanyard/events"
)

func compiler(t testing.TB) *Compiler {
	t.Helper()
	c, err := NewCompiler()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func rule(t testing.TB, d Draft) *Rule {
	t.Helper()
	if d.ID == "" {
		d.ID = "r"
	}
	if d.Severity == "" {
		d.Severity = events.SeverityMedium
	}
	if d.Message == "" {
		d.Message = "{identity}: {count} of {values}"
	}
	if d.Kind == "" {
		d.Kind, d.AtLeast = Count, 1
	}
	r, problems := compiler(t).Compile(d)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	return r
}

func use(n int, after time.Duration, a events.Activity) Event {
	if a.Identity == "" {
		a.Identity = "bot"
	}
	if a.Action == "" {
		a.Action = "s3:Put"
	}
	return Event{ID: fmt.Sprint("e", n), Type: "api_called", Tenant: "acme", Time: epoch().Add(after), Activity: &a}
}

func TestConditions(t *testing.T) {
	exp := epoch()
	e := use(1, 90*time.Minute, events.Activity{SourceIP: "10.1.2.3", ActionClass: events.ClassWrite, Scopes: []string{"a", "b"}, CredentialExp: &exp, Interactive: true, Bytes: 7,
		Delegation: []events.Party{{Tenant: "acme", Identity: "boss"}}, Outcome: events.OutcomeDenied, ToolArgsDest: []string{"evil.example"}})
	for text, want := range map[string]bool{
		`action == "s3:Put" && action_class == "write"`:              true,
		`in_cidr(source_ip, "10.0.0.0/8")`:                           true,
		`in_cidr(source_ip, "192.168.0.0/16")`:                       false,
		`in_cidr(source_country, "10.0.0.0/8")`:                      false,
		`time.getHours() < 6`:                                        true,
		`"b" in scopes && !("c" in scopes)`:                          true,
		`interactive && bytes > 6`:                                   true,
		`"acme/boss" in delegation`:                                  true,
		`credential_exp < time`:                                      true,
		`tool_args_dest.exists(d, d.endsWith(".example"))`:           true,
		`owner == "" && scopes.size() == 2 && lineage.size() == 0`:   true,
		`action.matches("^s3:(Put|Delete)") && outcome == "denied"`:  true,
		`event_type == "api_called" && tenant == "acme" && id=="e1"`: true,
		`action.lowerAscii().startsWith("S3")`:                       false,
	} {
		if got := rule(t, Draft{When: []string{text}}).match(&e) == 1; got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func TestConditionsThatAreWrong(t *testing.T) {
	for text, want := range map[string]string{
		``:                                  "empty",
		`idendity == "x"`:                   "did you mean 'identity'?",
		`action == 7`:                       "no matching overload",
		`action`:                            "of type string, want bool",
		`action == "x`:                      "Syntax error",
		strings.Repeat("(", 100) + "true":   "",
		strings.Repeat("true && ", 2000):    "",
		`in_cidr(bytes, "x")`:               "no matching overload",
		`colour == "red" && size == "huge"`: "there is no field colour",
	} {
		_, problems := compiler(t).compile(text)
		if len(problems) == 0 || !strings.Contains(problems[0].Message, want) {
			t.Errorf("%s: %v, want %q", clip(text, 40), problems, want)
		}
	}
}

func TestCostIsLimited(t *testing.T) {
	r := rule(t, Draft{When: []string{`scopes.all(a, scopes.all(b, scopes.all(c, a != b || b != c || a == c)))`}})
	e := use(1, 0, events.Activity{Scopes: make([]string, 256)})
	if r.match(&e) != 0 {
		t.Error("a condition beyond its cost holds")
	}
	if n, last := r.Errors(); n != 1 || !strings.Contains(last, "cost") {
		t.Errorf("%d errors, %q", n, last)
	}
}

// raised gives events in the order given and returns the alerts' counts.
func raised(e *Engine, es ...Event) []string {
	var out []string
	for _, ev := range es {
		for _, f := range e.Judge(ev) {
			out = append(out, fmt.Sprintf("%s %d %s", f.Rule.ID, f.Count, strings.Join(f.Group, ",")))
		}
	}
	return out
}

func TestKinds(t *testing.T) {
	const m = time.Minute
	put := func(n int, after time.Duration, resource string) Event {
		return use(n, after, events.Activity{Resource: resource})
	}
	act := func(n int, after time.Duration, action string) Event {
		return use(n, after, events.Activity{Action: action})
	}
	steps := []string{`action == "a"`, `action == "b"`, `action == "c"`}
	for name, c := range map[string]struct {
		d    Draft
		es   []Event
		want []string
	}{
		"single, once an hour":     {Draft{When: []string{"true"}}, []Event{put(1, 0, ""), put(2, m, ""), put(3, time.Hour, "")}, []string{"r 1 identity=bot", "r 1 identity=bot"}},
		"count":                    {Draft{Kind: Count, AtLeast: 3, Within: 10 * m, When: []string{"true"}}, []Event{put(1, 0, ""), put(2, 5*m, ""), put(3, 10*m, "")}, []string{"r 3 identity=bot"}},
		"count, too slow":          {Draft{Kind: Count, AtLeast: 3, Within: 10 * m, When: []string{"true"}}, []Event{put(1, 0, ""), put(2, 5*m, ""), put(3, 11*m, "")}, nil},
		"count, one id twice":      {Draft{Kind: Count, AtLeast: 3, Within: 10 * m, When: []string{"true"}}, []Event{put(1, 0, ""), put(2, m, ""), put(2, m, "")}, nil},
		"distinct":                 {Draft{Kind: Distinct, Of: "resource", AtLeast: 3, Within: 10 * m, When: []string{"true"}}, []Event{put(1, 0, "x"), put(2, m, "y"), put(3, 2*m, "y"), put(4, 3*m, "z")}, []string{"r 3 identity=bot"}},
		"distinct, not enough":     {Draft{Kind: Distinct, Of: "resource", AtLeast: 3, Within: 10 * m, When: []string{"true"}}, []Event{put(1, 0, "x"), put(2, m, "y"), put(3, 2*m, "y")}, nil},
		"distinct, too slow":       {Draft{Kind: Distinct, Of: "resource", AtLeast: 3, Within: 10 * m, When: []string{"true"}}, []Event{put(1, 0, "x"), put(2, 9*m, "y"), put(3, 11*m, "z")}, nil},
		"sequence":                 {Draft{Kind: Sequence, Within: 10 * m, When: steps}, []Event{act(1, 0, "a"), act(2, m, "x"), act(3, 2*m, "b"), act(4, 3*m, "c")}, []string{"r 3 identity=bot"}},
		"sequence, arrives late":   {Draft{Kind: Sequence, Within: 10 * m, When: steps}, []Event{act(4, 3*m, "c"), act(1, 0, "a"), act(3, 2*m, "b")}, []string{"r 3 identity=bot"}},
		"sequence, wrong order":    {Draft{Kind: Sequence, Within: 10 * m, When: steps}, []Event{act(1, 0, "c"), act(2, m, "b"), act(3, 2*m, "a")}, nil},
		"sequence, second attempt": {Draft{Kind: Sequence, Within: 3 * m, When: steps}, []Event{act(1, 0, "a"), act(2, 5*m, "a"), act(3, 6*m, "b"), act(4, 7*m, "c")}, []string{"r 3 identity=bot"}},
		"any order":                {Draft{Kind: AnyOrder, Within: 10 * m, When: steps}, []Event{act(1, 0, "c"), act(2, m, "a"), act(3, 2*m, "b")}, []string{"r 3 identity=bot"}},
		"any order, one missing":   {Draft{Kind: AnyOrder, Within: 10 * m, When: steps}, []Event{act(1, 0, "c"), act(2, m, "a"), act(3, 2*m, "a")}, nil},
		"groups": {Draft{Kind: Count, AtLeast: 2, Within: m, GroupBy: []string{"identity", "resource"}, When: []string{"true"}},
			[]Event{put(1, 0, "x"), put(2, 1, "y"), put(3, 2, "x")}, []string{"r 2 identity=bot,resource=x"}},
		"other tenant": {Draft{Tenants: []string{"globex"}, When: []string{"true"}}, []Event{put(1, 0, "x")}, nil},
	} {
		if d := cmp.Diff(c.want, raised(NewEngine([]*Rule{rule(t, c.d)}), c.es...)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
	}
}

// TestOrderDoesNotMatter shuffles events that arrive within the allowed lateness, twice
// each, and wants the same alerts.
func TestOrderDoesNotMatter(t *testing.T) {
	rs := []*Rule{
		rule(t, Draft{ID: "n", Kind: Count, AtLeast: 5, Within: 3 * time.Minute, When: []string{`action == "a"`}}),
		rule(t, Draft{ID: "d", Kind: Distinct, Of: "resource", AtLeast: 4, Within: 3 * time.Minute, When: []string{"true"}}),
		rule(t, Draft{ID: "s", Kind: Sequence, Within: 3 * time.Minute, When: []string{`action == "a"`, `action == "b"`, `action == "c"`}}),
	}
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 2))
		var es []Event
		for i := range 12 { // all within one hour, so that buckets do not depend on who completes a window
			es = append(es, use(i, time.Duration(r.IntN(540))*time.Second, events.Activity{Identity: fmt.Sprint("bot", r.IntN(2)),
				Action: []string{"a", "a", "b", "c"}[r.IntN(4)], Resource: fmt.Sprint(r.IntN(6))}))
		}
		names := func(es []Event) []string {
			var out []string
			e := NewEngine(rs)
			for _, ev := range es {
				for _, f := range e.Judge(ev) {
					out = append(out, f.Rule.ID+strings.Join(f.Group, ""))
				}
			}
			slices.Sort(out)
			return out
		}
		slices.SortFunc(es, func(a, b Event) int { return a.Time.Compare(b.Time) })
		want := names(es)
		for range 10 {
			mixed := append(slices.Clone(es), es...)
			r.Shuffle(len(mixed), func(i, j int) { mixed[i], mixed[j] = mixed[j], mixed[i] })
			if d := cmp.Diff(want, names(mixed)); d != "" {
				t.Fatalf("seed %d: %s", seed, d)
			}
		}
	}
}

func TestStateIsBounded(t *testing.T) {
	e := NewEngine([]*Rule{rule(t, Draft{ID: "n", Kind: Count, AtLeast: 10, Within: 24 * time.Hour, When: []string{"true"}})})
	for i := range maxGroups + 50 {
		e.Judge(use(i, 0, events.Activity{Identity: fmt.Sprint(i)}))
	}
	if _, s := e.Status(); s[0].Groups != maxGroups || s[0].Evicted != 50 {
		t.Errorf("%+v", s[0])
	}
	one := NewEngine([]*Rule{rule(t, Draft{ID: "n", Kind: Distinct, Of: "resource", AtLeast: 1000, Within: 24 * time.Hour, When: []string{"true"}})})
	for i := range 4000 {
		one.Judge(use(i, time.Duration(i), events.Activity{Resource: "same"}))
	}
	for _, el := range one.set.Load().rules[0].state.groups {
		if n := len(el.Value.(*kept).entries); n > 2064 {
			t.Errorf("%d entries", n)
		}
	}
}

func TestFloodIsHeldBack(t *testing.T) {
	e := NewEngine([]*Rule{rule(t, Draft{When: []string{"true"}, PerHour: 3})})
	var messages []string
	for i := range 10 {
		for _, f := range e.Judge(use(i, time.Second, events.Activity{Identity: fmt.Sprint(i)})) {
			messages = append(messages, f.Message)
		}
	}
	if len(messages) != 3 || !strings.Contains(messages[2], "last alert of this rule in this hour") {
		t.Errorf("%q", messages)
	}
	if _, s := e.Status(); s[0].HeldBack != 7 {
		t.Errorf("%+v", s[0])
	}
}

// TestReplaceKeepsState: a rule that did not change goes on with what it has counted.
func TestReplaceKeepsState(t *testing.T) {
	count := func(id string) *Rule {
		return rule(t, Draft{ID: id, Kind: Count, AtLeast: 3, Within: time.Minute, When: []string{"true"}})
	}
	e := NewEngine([]*Rule{count("a")})
	v, _ := e.Status()
	raised(e, use(1, 0, events.Activity{}), use(2, 1, events.Activity{}))
	e.Replace([]*Rule{count("a"), count("b")})
	if w, _ := e.Status(); w == v {
		t.Error("the version is the same")
	}
	if d := cmp.Diff([]string{"a 3 identity=bot"}, raised(e, use(3, 2, events.Activity{}))); d != "" {
		t.Error(d)
	}
	e.Replace([]*Rule{count("b")})
	if d := cmp.Diff([]string{"b 3 identity=bot"}, raised(e, use(4, 3, events.Activity{}), use(5, 4, events.Activity{}))); d != "" {
		t.Error(d)
	}
}

func TestMessages(t *testing.T) {
	r := rule(t, Draft{Message: "{{x} {identity} {count} {values} within {within} from {first} to {last}", Kind: Count, AtLeast: 2, Within: 90 * time.Minute, When: []string{"true"}})
	e := NewEngine([]*Rule{r})
	e.Judge(use(1, 0, events.Activity{}))
	f := e.Judge(use(2, time.Minute, events.Activity{}))
	want := "{x} bot 2 s3:Put within 1h30m from 2026-01-05T00:00:00Z to 2026-01-05T00:01:00Z"
	if len(f) != 1 || f[0].Message != want {
		t.Errorf("%+v", f)
	}
	if d := cmp.Diff([]string{"e1", "e2"}, f[0].Evidence); d != "" {
		t.Error(d)
	}
}

const good = `rules:
  - id: night-writes
    severity: high
    message: "{identity} wrote {count} times by night, {values}"
    references: [NHI5]
    when: action_class == "write" && time.getHours() < 6
    count: {at_least: 3, within: 10m}
  - id: many-secrets
    severity: critical
    message: "{count} secrets"
    respond: contain
    when: action_class == "secret"
    distinct: {of: resource, at_least: 4, within: 1h}
  - id: key-then-use
    severity: high
    message: key then use
    sequence:
      within: 15m
      steps:
        - when: action == "iam:CreateAccessKey"
        - when: |
            action == "sts:GetCallerIdentity" &&
              outcome == "success"
tests:
  - name: three writes at one
    events: [{at: 1h, action_class: write, repeat: 3, every: 1m}]
    raises: [night-writes]
  - name: by day it is fine
    events: [{at: 12h, action_class: write, repeat: 3, every: 1m}]
    raises: []
  - name: secrets
    events: [{action_class: secret, resource: "s-{n}", repeat: 4}]
    raises: [many-secrets]
`

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("good.yaml", good)
	lib, problems, err := compiler(t).Load(dir, nil)
	if err != nil || len(problems) > 0 || len(lib.Rules) != 3 || len(lib.Tests) != 3 {
		t.Fatalf("%v %v %+v", err, problems, lib)
	}
	report := lib.Run()
	if report.Failed != 0 {
		t.Errorf("%+v", report)
	}
	if d := cmp.Diff([]string{"key-then-use"}, report.Uncovered); d != "" {
		t.Error(d)
	}
	before, err := Fingerprint(dir)
	if err != nil {
		t.Fatal(err)
	}
	write("again.yaml", "rules:\n  - {id: night-writes, severity: low, message: m, when: 'true'}\n")
	if after, err := Fingerprint(dir); err != nil || after == before {
		t.Errorf("the fingerprint is the same: %v", err)
	}
	if _, problems, _ := compiler(t).Load(dir, nil); len(problems) != 1 || !strings.Contains(problems[0].Error(), "the id is taken by") {
		t.Errorf("%v", problems)
	}
	if _, _, err := compiler(t).Load(filepath.Join(dir, "missing"), nil); err == nil {
		t.Error("what is not there is read")
	}
	write("huge.yaml", strings.Repeat("#", maxFile+1))
	if _, _, err := compiler(t).Load(dir, nil); err == nil {
		t.Error("a huge file is read")
	}
}

func TestProblemsHavePlaces(t *testing.T) {
	for text, want := range map[string]string{
		"rules:\n  - id: a\n    severity: low\n    message: m\n    when: actoin == \"x\"\n":                                                                              `f.yaml:5:11: rule a: there is no field actoin (did you mean 'action'?)`,
		"rules:\n  - id: a\n    severity: low\n    message: m\n    when: |\n      action == \"x\" &&\n      bites > 3\n":                                                 `f.yaml:7:1: rule a: there is no field bites (did you mean 'bytes'?)`,
		"rules:\n  - id: A\n    severity: low\n    message: m\n    when: 'true'\n":                                                                                       `f.yaml:2: rule A: id "A": want 1 to 26`,
		"rules:\n  - id: a\n    severity: loud\n    message: m\n    when: 'true'\n":                                                                                      `f.yaml:2: rule a: severity "loud"`,
		"rules:\n  - id: a\n    severity: low\n    message: '{who}'\n    when: 'true'\n":                                                                                 `{who} is no field`,
		"rules:\n  - id: a\n    severity: low\n    message: m\n    when: 'true'\n    respond: revoke\n":                                                                  `a rule never revokes`,
		"rules:\n  - id: a\n    severity: low\n    message: m\n    when: 'true'\n    count: {at_least: 2, within: 30d}\n":                                                `within "30d": want a span`,
		"rules:\n  - id: a\n    severity: low\n    message: m\n    when: 'true'\n    count: {at_least: 2000, within: 1h}\n":                                              `at_least must be 1 to 1000`,
		"rules:\n  - id: a\n    severity: low\n    message: m\n    when: 'true'\n    count: {at_least: 2, within: 1h}\n    distinct: {of: x, at_least: 2, within: 1h}\n": `one of count, distinct`,
		"rules:\n  - id: a\n    severity: low\n    message: m\n    when: 'true'\n    distinct: {of: colour, at_least: 2, within: 1h}\n":                                  `"colour" is no field`,
		"rules:\n  - id: a\n    severity: low\n    message: m\n    when: 'true'\n    sequence: {within: 1h, steps: []}\n":                                                `no when of its own`,
		"rules:\n  - id: a\n    severity: low\n    message: m\n    sequence: {within: 1h, steps: [{when: 'true'}]}\n":                                                    `needs 2 to 8 steps`,
		"rules:\n  - id: a\n    colour: red\n": `f.yaml:3: field colour not found`,
		"rules: [":                             `f.yaml:`,
		"rules: []\n---\nrules: []\n":          `more than one document`,
		"tests:\n  - name: x\n    events: [{colour: red}]\n    raises: []\n":     `f.yaml:3: test x: the event is no activity`,
		"tests:\n  - name: x\n    events: []\n":                                  `give raises`,
		"tests:\n  - name: x\n    events: [{at: soon}]\n    raises: []\n":        `f.yaml:3: at:`,
		"tests:\n  - name: x\n    events: [{repeat: 1000000}]\n    raises: []\n": `at most 20000 events`,
	} {
		_, problems := compiler(t).ParseFile("f.yaml", []byte(text))
		if len(problems) == 0 || !strings.Contains(problems[0].Error(), want) {
			t.Errorf("%q:\n got %v\nwant %s", text, problems, want)
		}
	}
}

func TestFailingTestSaysWhat(t *testing.T) {
	f, problems := compiler(t).ParseFile("f.yaml", []byte("rules:\n  - {id: a, severity: low, message: m, when: 'true'}\ntests:\n  - name: none\n    events: [{}]\n    raises: []\n"))
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	report := Library{Rules: f.Rules, Tests: f.Tests}.Run()
	if report.Failed != 1 || report.Results[0].Faults[0] != "want nothing raised, got a" || report.Results[0].Line != 4 {
		t.Errorf("%+v", report)
	}
}

func FuzzParseFile(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("rules: [{id: a, when: [x]}]"))
	c, err := NewCompiler()
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		file, _ := c.ParseFile("f", raw)
		for _, r := range file.Rules {
			e := use(1, 0, events.Activity{})
			r.match(&e)
		}
	})
}

func BenchmarkJudge(b *testing.B) {
	e := NewEngine([]*Rule{rule(b, Draft{When: []string{`action_class == "write" && action.startsWith("iam:")`}, Kind: Count, AtLeast: 5, Within: time.Minute})})
	ev := use(1, 0, events.Activity{ActionClass: events.ClassRead})
	for b.Loop() {
		e.Judge(ev)
	}
}
