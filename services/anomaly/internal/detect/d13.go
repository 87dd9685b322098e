package detect

import (
	"fmt"
	"strings"
	"time"
	"unicode"

	"github.com/lanyard-nhi/lanyard/events"
)

const (
	// minRuns is how many runs of a task make a baseline when none is declared.
	minRuns = 5
	// maxDestinations bounds what one call adds to a profile.
	maxDestinations = 16
)

// newActionInfo documents D13.
var newActionInfo = Info{
	ID: "D13", Name: "new_action_or_tool",
	Catches:     "an agent that calls a tool, or writes to a destination, that this task never used; an identity that takes a sensitive action for the first time",
	Fields:      []string{"tool", "tool_args_dest", "resource of a deleting tool", "task", "session", "action", "identity.registered tools"},
	Method:      "per (identity, task): the declared tools and what earlier runs used, once a tool list is declared or 5 runs are known. New write tool or new destination of a write: high. A new mailbox at a company whose mailboxes the task already writes to is not new; at a public mail provider it is. New read tool against a declared list: medium. Without a tool: first use of an action of the sensitive list, unless the registration declares it. A call that failed is neither judged nor learned; a denied one is judged. What raised an alert becomes usual only when it is used again a day later",
	StateBytes:  1700,
	Explanation: "task {t} used tool {x} for the first time ({n} earlier runs); wrote to {arg}, which no earlier run did",
	Severity:    events.SeverityHigh,
	References:  []string{"NHI5", "AML.T0053", "AML.T0051.001", "AML.T0086"},
	Response:    RespondContain,
}

// task is the profile of one task of one identity.
type task struct {
	name     uint32 // Hash of the task's name
	last     int32Time
	runs     uint16
	sessions [4]uint32 // the last runs, to count each once
	next     uint8
	values   Set // tools and destinations
}

// newAction is D13. A record without a tool is judged by its action alone.
func newAction(in *Input, s *State) *Finding {
	if in.Activity.Tool == "" {
		return sensitiveAction(in, s)
	}
	return newTool(in, s)
}

func sensitiveAction(in *Input, s *State) *Finding {
	a := in.Activity
	if in.Tags&TagSensitive == 0 || a.Outcome == events.OutcomeError || a.Outcome == events.OutcomeThrottled || a.SourceService != "" ||
		declared(in) || s.Actions.Usual(Hash(a.Action), in.Time) {
		return nil
	}
	how := "took"
	if !in.Succeeded() {
		how = "was denied"
	}
	return &Finding{
		Severity: events.SeverityMedium,
		Explanation: fmt.Sprintf("%s %s the sensitive action %s on %s at %s; %s, and no registration names it",
			clip(a.Identity), how, clip(a.Action), clip(object(a)), stamp(in.Time), s.past(a.Action)),
		Value:     clip(a.Action),
		Baseline:  s.past(a.Action),
		Count:     1,
		Threshold: 1,
		Response:  RespondContain,
	}
}

func newTool(in *Input, s *State) *Finding {
	a := in.Activity
	if a.Outcome == events.OutcomeError || a.Outcome == events.OutcomeThrottled {
		return nil // nothing was done, and nothing is learned from it
	}
	t := s.task(Hash(a.Task), in.Time)
	write := writes(a)
	var expected []string
	if in.Reg != nil {
		expected = in.Reg.Tools[a.Task]
	}
	earlier := t.run(in)
	learned := earlier >= minRuns
	tool := Hash("tool", a.Tool)
	isDeclared := false
	for _, e := range expected {
		isDeclared = isDeclared || e == a.Tool
	}
	newTool := !isDeclared && !t.values.Usual(tool, in.Time) && (learned && write || len(expected) > 0)
	var fresh []string
	for _, d := range destinations(a, write) {
		h := Hash("dest", d)
		unusual := learned && !t.values.Usual(h, in.Time)
		if dom := company(d); dom != "" {
			// A new mailbox at a company that the task already writes to is a colleague.
			house := Hash("domain", dom)
			if t.values.Usual(house, in.Time) {
				unusual = false
			}
			if !unusual {
				s.learn(t, house, in.Time)
			}
		}
		if unusual {
			fresh = append(fresh, d)
			s.hold(t, h, in.Time)
		} else {
			s.learn(t, h, in.Time)
		}
	}
	if newTool {
		s.hold(t, tool, in.Time)
	} else {
		s.learn(t, tool, in.Time)
	}
	if !newTool && len(fresh) == 0 {
		return nil
	}
	return toolFinding(a, newTool, write, fresh, earlier, expected)
}

func toolFinding(a *events.Activity, newTool, write bool, fresh []string, earlier int, expected []string) *Finding {
	sev, kind := events.SeverityMedium, "read"
	if write {
		sev, kind = events.SeverityHigh, "write"
	}
	name := "without a name"
	if a.Task != "" {
		name = clip(a.Task)
	}
	var what, value []string
	if newTool {
		what = append(what, fmt.Sprintf("used the %s tool %s for the first time", kind, clip(a.Tool)))
		value = append(value, "tool "+clip(a.Tool))
	}
	if len(fresh) > 0 {
		what = append(what, fmt.Sprintf("wrote with %s to %s, which no earlier run did", clip(a.Tool), clip(strings.Join(fresh, ", "))))
		value = append(value, "destination "+clip(strings.Join(fresh, ", ")))
	}
	base := fmt.Sprintf("%d earlier runs", earlier)
	if len(expected) > 0 {
		base += fmt.Sprintf(" and %d declared tools (%s)", len(expected), clip(strings.Join(expected, ", ")))
	}
	return &Finding{
		Severity:    sev,
		Explanation: fmt.Sprintf("the task %s of %s %s (%s; outcome %s)", name, clip(a.Identity), strings.Join(what, " and "), base, clip(string(a.Outcome))),
		Value:       strings.Join(value, "; "),
		Baseline:    base,
		Count:       int64(len(value)),
		Threshold:   1,
		Response:    RespondContain,
	}
}

// task finds or makes the profile of a task; the least recently used one makes room.
func (s *State) task(name uint32, at time.Time) *task {
	sec := seconds(at)
	old := 0
	for i := range s.tasks {
		if s.tasks[i].name == name {
			s.tasks[i].last = max(s.tasks[i].last, sec)
			return &s.tasks[i]
		}
		if s.tasks[i].last < s.tasks[old].last {
			old = i
		}
	}
	t := task{name: name, last: sec}
	if len(s.tasks) < maxTasks {
		s.tasks = append(s.tasks, t)
		return &s.tasks[len(s.tasks)-1]
	}
	s.tasks[old] = t
	return &s.tasks[old]
}

func (s *State) learn(t *task, h uint32, at time.Time) { t.values.Learn(h, at, s.room(t)) }
func (s *State) hold(t *task, h uint32, at time.Time)  { t.values.Hold(h, at, s.room(t)) }

// room is how many values t may hold: what the other tasks leave, at least 8.
func (s *State) room(t *task) int {
	used := 0
	for i := range s.tasks {
		if s.tasks[i].name != t.name {
			used += len(s.tasks[i].values)
		}
	}
	return max(maxTaskValues-used, 8)
}

// run counts the run that the input belongs to, once, and returns how many earlier
// ones there are. Without a session the credential names the run, and without both
// the hour does.
func (t *task) run(in *Input) int {
	id := in.Activity.Session
	if id == "" {
		id = in.Activity.Credential
	}
	if id == "" {
		id = in.Time.UTC().Truncate(time.Hour).Format(time.RFC3339)
	}
	h := Hash("run", id)
	for _, s := range t.sessions {
		if s == h {
			return int(t.runs) - 1
		}
	}
	t.sessions[t.next] = h
	t.next = (t.next + 1) % uint8(len(t.sessions))
	if t.runs < 1<<16-1 {
		t.runs++
	}
	return int(t.runs) - 1
}

// destinations lists where a write goes, in one spelling: what the record names, and
// for a deleting tool the object that is lost.
func destinations(a *events.Activity, write bool) []string {
	if !write {
		return nil
	}
	var out []string
	add := func(s string) {
		for _, d := range strings.FieldsFunc(strings.ToLower(s), func(r rune) bool {
			return r == ',' || r == ';' || unicode.IsSpace(r)
		}) {
			if len(out) < maxDestinations {
				out = append(out, d)
			}
		}
	}
	for _, d := range a.ToolArgsDest {
		add(d)
	}
	if a.Resource != "" && destroys(a.Tool) {
		add(a.Resource)
	}
	return out
}

// company is the domain of a mailbox, "" for what is no mailbox and for providers at
// which anybody has one.
func company(dest string) string {
	i := strings.LastIndexByte(dest, '@')
	if i <= 0 || i+1 == len(dest) {
		return ""
	}
	switch d := dest[i+1:]; d {
	case "gmail.com", "googlemail.com", "outlook.com", "hotmail.com", "live.com", "msn.com", "yahoo.com", "ymail.com", "aol.com",
		"icloud.com", "me.com", "mac.com", "proton.me", "protonmail.com", "pm.me", "gmx.com", "gmx.de", "gmx.net", "web.de", "mail.com",
		"mail.ru", "yandex.com", "yandex.ru", "qq.com", "163.com", "126.com", "zoho.com", "tutanota.com", "fastmail.com", "mailinator.com":
		return ""
	default:
		return d
	}
}

// writes reports whether a tool call changes something: by its class when the record
// has one, otherwise by the tool's first word.
func writes(a *events.Activity) bool {
	switch a.ActionClass {
	case events.ClassRead, events.ClassLog:
		return false
	case "":
		switch verb(a.Tool) {
		case "get", "list", "search", "read", "find", "fetch", "query", "describe", "lookup", "view", "show", "count",
			"check", "head", "browse", "open", "load", "inspect", "summarize", "grep", "ls", "cat", "stat":
			return false
		}
	}
	return true
}

func destroys(tool string) bool {
	switch verb(tool) {
	case "delete", "remove", "cancel", "drop", "purge", "destroy", "revoke", "erase", "truncate", "rm":
		return true
	}
	return false
}

// verb is the first word of a tool's name, lower case, behind its last namespace.
func verb(tool string) string {
	if i := strings.LastIndexAny(tool, "./:"); i >= 0 && i+1 < len(tool) {
		tool = tool[i+1:]
	}
	end := len(tool)
	for i := 1; i < len(tool); i++ {
		c := tool[i]
		if c == '_' || c == '-' || c == ' ' || c >= 'A' && c <= 'Z' && tool[i-1] >= 'a' && tool[i-1] <= 'z' {
			end = i
			break
		}
	}
	return strings.ToLower(tool[:end])
}
