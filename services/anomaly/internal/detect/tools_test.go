package detect

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// call is one tool call of the task "triage" in run number run, one run per day.
func call(run int, tool string, dests ...string) act {
	a := use(time.Duration(run)*25*time.Hour, "tool:"+tool, func(a *events.Activity) {
		a.Tool, a.Task, a.Session, a.ToolArgsDest = tool, "triage", fmt.Sprint("run-", run), dests
	})
	return a
}

func usualRuns(n int) []act {
	var out []act
	for i := range n {
		out = append(out, call(i, "search_mail"), call(i, "send_mail", "team@acme.example"))
	}
	return out
}

func TestNewTool(t *testing.T) {
	declaredTools := NewFacts(DefaultConfig())
	declaredTools.Register("acme", events.Registration{Identity: "bot", Tools: map[string][]string{"triage": {"search_mail", "send_mail"}}})
	for _, c := range []struct {
		name  string
		f     *Facts
		as    []act
		want  events.Severity
		about string
	}{
		{"a new write tool after five runs", nil, append(usualRuns(5), call(5, "delete_file")), events.SeverityHigh, "delete_file"},
		{"after four runs nothing is known", nil, append(usualRuns(4), call(4, "delete_file")), "", ""},
		{"a new destination", nil, append(usualRuns(5), call(5, "send_mail", "eve@evil.example")), events.SeverityHigh, "eve@evil.example"},
		{"destinations in one text", nil, append(usualRuns(5), call(5, "send_mail", "Team@ACME.example, eve@evil.example")), events.SeverityHigh, "eve@evil.example"},
		{"the usual destination, spelled otherwise", nil, append(usualRuns(5), call(5, "send_mail", " TEAM@acme.example ")), "", ""},
		{"a new read tool", nil, append(usualRuns(5), call(5, "list_files")), "", ""},
		{"a new read tool against a declared list", declaredTools, []act{call(0, "list_files")}, events.SeverityMedium, "list_files"},
		{"a new write tool against a declared list", declaredTools, []act{call(0, "delete_file")}, events.SeverityHigh, "delete_file"},
		{"a declared tool", declaredTools, []act{call(0, "send_mail", "anyone@acme.example")}, "", ""},
		{"another task has its own profile", declaredTools, []act{use(0, "tool:delete_file", func(a *events.Activity) { a.Tool, a.Task = "delete_file", "clean" })}, "", ""},
		{"no destination recorded", nil, append(usualRuns(5), call(5, "send_mail")), "", ""},
		{"a call that failed", nil, append(usualRuns(5), func() act {
			a := call(5, "delete_file")
			a.Outcome = events.OutcomeError
			return a
		}()), "", ""},
		{"a call that was denied", nil, append(usualRuns(5), func() act {
			a := call(5, "delete_file")
			a.Outcome = events.OutcomeDenied
			return a
		}()), events.SeverityHigh, "delete_file"},
		{"the class goes before the name", nil, append(usualRuns(5), func() act {
			a := call(5, "delete_file")
			a.ActionClass = events.ClassRead
			return a
		}()), "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := play(t, "D13", c.f, c.as...)
			wantOne(t, got, c.want)
			if len(got) == 1 && !strings.Contains(got[0].Explanation, c.about) {
				t.Errorf("%q is not in %q", c.about, got[0].Explanation)
			}
		})
	}
	// What raised an alert is raised again within the day, and is usual a day later.
	again := append(usualRuns(5), call(5, "send_mail", "eve@evil.example"))
	soon := call(5, "send_mail", "eve@evil.example")
	soon.after += time.Hour
	if got := play(t, "D13", nil, append(again, soon)...); len(got) != 2 {
		t.Errorf("within the day: %d findings, want 2", len(got))
	}
	if got := play(t, "D13", nil, append(usualRuns(5), call(5, "send_mail", "eve@evil.example"), call(6, "send_mail", "new@acme.example"))...); len(got) != 1 {
		t.Errorf("a day later: %d findings, want 1", len(got))
	}
}

func TestToolNames(t *testing.T) {
	for tool, want := range map[string]string{
		"send_email": "send", "getBalance": "get", "mail.send_email": "send", "github/create_issue": "create",
		"mcp:files/delete-file": "delete", "ls": "ls", "": "", "x.": "x.",
	} {
		if got := verb(tool); got != want {
			t.Errorf("verb(%q) = %q, want %q", tool, got, want)
		}
	}
}

func TestCatalog(t *testing.T) {
	seen := map[string]bool{}
	for _, i := range Catalog() {
		if seen[i.ID] || i.Name == "" || i.Catches == "" || len(i.Fields) == 0 || i.Method == "" || i.Explanation == "" ||
			i.Severity == "" || len(i.References) == 0 || i.Response == "" {
			t.Errorf("incomplete or doubled: %+v", i)
		}
		seen[i.ID] = true
	}
	for _, d := range Activities() {
		if !seen[d.ID] {
			t.Errorf("%s is not in the catalogue", d.ID)
		}
	}
	if _, ok := InfoOf("D99"); ok {
		t.Error("D99 is no detector")
	}
}

func TestTagsOf(t *testing.T) {
	for action, want := range map[string]Tag{
		"iam:CreateUser": TagCreate, "IAM:createuser": TagCreate, "lambda:AddPermission20150331v2": TagTrust,
		"lambda:UpdateFunctionCode20150331": TagSensitive, "s3:GetObject": 0, "": 0, strings.Repeat("x", 1<<16): 0,
		"20150331": 0, "v2": 0,
	} {
		if got := TagsOf(action); got != want {
			t.Errorf("TagsOf(%.40q) = %b, want %b", action, got, want)
		}
	}
}

func TestDistinct(t *testing.T) {
	for _, n := range []int{0, 1, exactMax, exactMax + 1, 100, 1000, 1500} {
		var d distinct
		for i := range n {
			d.add(Hash("v", fmt.Sprint(i)))
			d.add(Hash("v", fmt.Sprint(i)))
		}
		got, slack := d.count(), n/8
		if n <= exactMax {
			slack = 0
		}
		if got < n-slack || got > n+slack {
			t.Errorf("%d different values counted as %d", n, got)
		}
	}
}

func TestFannedOut(t *testing.T) {
	spawn := func(s *State, n int, at time.Time) int {
		found := 0
		for i := range n {
			p := &events.DelegationCreated{Identity: fmt.Sprint("child-", i), From: events.Party{Tenant: "acme", Identity: "boss"}}
			if f := FannedOut(s, "acme", fmt.Sprint(at.Unix(), i), at.Add(time.Duration(i)*time.Second), p); f != nil {
				check(t, f)
				found++
			}
		}
		return found
	}
	var fresh State
	if n := spawn(&fresh, 40, t0); n > 0 {
		t.Errorf("40 children of a new agent: %d findings", n)
	}
	var habit State
	for i := range 12 {
		spawn(&habit, 3, t0.Add(time.Duration(i)*2*time.Hour))
	}
	if n := spawn(&habit, 19, t0.Add(50*time.Hour)); n > 0 {
		t.Errorf("19 children with a habit of 3: %d findings", n)
	}
	if n := spawn(&habit, 40, t0.Add(60*time.Hour)); n == 0 {
		t.Error("40 children with a habit of 3: no finding")
	}
}

func TestQuantile(t *testing.T) {
	var h habit
	if h.q99() != 0 {
		t.Error("a habit without a past")
	}
	for range 99 {
		h.add(2, 0, false)
	}
	h.add(60, 0, false)
	if got := h.q99(); got != 2 {
		t.Errorf("q99 = %d, want 2", got)
	}
	h.add(60, 0, false)
	h.add(60, 0, false)
	if got := h.q99(); got != 64 {
		t.Errorf("q99 = %d, want 64", got)
	}
}
