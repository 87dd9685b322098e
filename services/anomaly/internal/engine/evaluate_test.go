package engine

import (
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// families maps a detector to the labels of the evaluation data that it answers.
var families = map[string][]string{
	"D04": {"TOKEN_REPLAY"}, "D05": {"CROSS_TENANT"}, "D06": {"DELEGATION"}, "D08": {"SECRET_EXPOSED"},
	"D13": {"AGENT_INJECTION", "SENSITIVE_ACTION"}, "D16": {"HUMAN_USE"}, "D20": {"DENIED_PROBE", "RECON", "AUTH_BRUTE"},
	"D23": {"SECRET_READ", "VOLUME_EXFIL"}, "D24": {"PRIVESC"}, "D26": {"DEF_EVASION"},
	"D27": {"PERSIST_CRED", "PERSIST_TRUST"},
}

type scenario struct {
	Scenario  string
	Detectors []string
	Entities  []string
	EventIDs  []string `json:"event_ids"`
}

// names reports whether an alert's identity is one of the scenario's entities. A
// session of an assumed role is the role.
func (s scenario) names(identity, session string) bool {
	for _, e := range s.Entities {
		if e == identity {
			return true
		}
		if _, role, ok := strings.Cut(e, ":assumed-role/"); ok {
			role, _, _ = strings.Cut(role, "/")
			account := strings.Split(e, ":")[4]
			if strings.Contains(identity, ":"+account+":") && (strings.HasSuffix(identity, "/"+role) || session == role) {
				return true
			}
		}
		if strings.Contains(e, ":federated-user/") && strings.HasPrefix(identity, "arn:aws:iam::"+strings.Split(e, ":")[4]) {
			return true
		}
	}
	return false
}

// TestAttackTechniques replays real records of cloud attack techniques and asks of
// each for an alert of an accepted family that names the right identity and holds one
// of the technique's events.
func TestAttackTechniques(t *testing.T) {
	onData(t, []string{"stratus.neutral.jsonl.gz", "scenarios.jsonl"}, func(t *testing.T, files []io.Reader) {
		attackTechniques(t, lines[neutral](t, files[0]), lines[scenario](t, files[1]))
	})
}

func attackTechniques(t *testing.T, records []neutral, scenarios []scenario) {
	sort.SliceStable(records, func(i, j int) bool { return records[i].Time < records[j].Time })
	g := New(Options{})
	var raised []events.AnomalyDetected
	for _, n := range records {
		m, a := n.activity(t)
		raised = append(raised, alerts(g.Activity(m, a))...)
	}
	found, used := 0, map[string]int{}
	wrong := 0
	for _, sc := range scenarios {
		ok := false
		var by, other []string
		for _, a := range raised {
			mine := slices.ContainsFunc(a.Evidence, func(id string) bool { return slices.Contains(sc.EventIDs, id) })
			accepted := slices.ContainsFunc(families[a.Detector], func(f string) bool { return slices.Contains(sc.Detectors, f) })
			switch {
			case mine && accepted && sc.names(a.Identity, a.Session):
				ok = true
				by = append(by, a.Detector)
			case mine:
				other = append(other, a.Detector)
				if !sc.names(a.Identity, a.Session) {
					wrong++
				}
			}
		}
		if ok {
			found++
			for _, d := range by {
				used[d]++
			}
		}
		t.Logf("%-70s found=%-5v by %v, also %v (accepted %v)", sc.Scenario, ok, by, other, sc.Detectors)
	}
	t.Logf("techniques found: %d of %d; detectors: %v; alerts: %d; alerts that name another identity: %d", found, len(scenarios), used, len(raised), wrong)
	if found*35 < 34*len(scenarios) {
		t.Errorf("found %d of %d techniques, want at least 34 of 35", found, len(scenarios))
	}
	if len(used) < 6 {
		t.Errorf("only %d detectors found something: %v", len(used), used)
	}
	if wrong > 0 {
		t.Errorf("%d alerts name another identity", wrong)
	}
}

type gitEvent struct {
	T, Repo, ID, Kind, Act string
	Dirs                   []string
	TS                     int64
}

// TestNuisance replays the activity of automation in public repositories, in which no
// attack is known: every alert is a nuisance.
func TestNuisance(t *testing.T) {
	onData(t, []string{"git_bot.jsonl.gz"}, func(t *testing.T, files []io.Reader) { nuisance(t, lines[gitEvent](t, files[0])) })
}

func nuisance(t *testing.T, es []gitEvent) {
	g := New(Options{})
	days := map[string]bool{}
	by := map[string]int{}
	var autos, n int
	gone := New(Options{AutoRevoke: true})
	for i, e := range es {
		if e.Kind != "bot" {
			continue
		}
		n++
		at := time.Unix(e.TS, 0).UTC()
		m := Meta{ID: fmt.Sprintf("git-%d", i), Source: "git", Tenant: "public", Time: at}
		a := &events.Activity{Identity: e.ID, Action: "git:" + e.Act, ActionClass: events.ClassWrite, Destination: e.Repo,
			Resource: strings.Join(e.Dirs, ","), Outcome: events.OutcomeSuccess}
		days[e.ID+at.Format(time.DateOnly)] = true
		for _, al := range alerts(g.Activity(m, a)) {
			by[al.Detector]++
		}
		for _, o := range gone.Activity(m, a) {
			if _, ok := o.Payload.(events.RevocationRequested); ok {
				autos++
			}
		}
	}
	total := 0
	for _, c := range by {
		total += c
	}
	rate := 1000 * float64(total) / float64(len(days))
	t.Logf("%d events of bots, %d identity-days: %d alerts %v, %.2f per 1,000 identities and day; automatic revocations: %d", n, len(days), total, by, rate, autos)
	if rate > 1.5 || autos > 0 {
		t.Errorf("%.2f alerts per 1,000 identities and day (at most 1.5), %d automatic revocations (none)", rate, autos)
	}
}

type agentRun struct {
	Path, Suite, Pipeline, Label string
	UserTask                     string `json:"user_task"`
	Calls                        []struct {
		Tool string
		Args map[string]any
		OK   *bool // absent: the outcome is not recorded
	}
}

// destinationArgs are the arguments that say where a call of the agents' tools goes.
var destinationArgs = []string{"recipient", "recipients", "participants", "email", "cc", "bcc", "url", "channel", "user", "to", "iban"}

// objectArgs are the arguments that name what a call is about.
var objectArgs = []string{"file_id", "email_id", "event_id", "id"}

func (r agentRun) replay(g *Engine, at time.Time) []events.AnomalyDetected {
	var out []events.AnomalyDetected
	for i, c := range r.Calls {
		a := &events.Activity{Identity: "agent/" + r.Suite, IdentityKind: events.KindAgent, Action: "tool:" + c.Tool, Tool: c.Tool,
			Task: r.UserTask, Session: r.Path, Destination: r.Suite, Outcome: events.OutcomeSuccess}
		if c.OK != nil && !*c.OK {
			a.Outcome = events.OutcomeError
		}
		for _, k := range destinationArgs {
			a.ToolArgsDest = append(a.ToolArgsDest, texts(c.Args[k])...)
		}
		for _, k := range objectArgs {
			if v := texts(c.Args[k]); len(v) > 0 && a.Resource == "" {
				a.Resource = k + "=" + v[0]
			}
		}
		m := Meta{ID: fmt.Sprintf("%s#%d", r.Path, i), Source: "agents", Tenant: "public", Time: at.Add(time.Duration(i) * time.Second)}
		for _, al := range alerts(g.Activity(m, a)) {
			if al.Detector == "D13" {
				out = append(out, al)
			}
		}
	}
	return out
}

func texts(v any) []string {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		var out []string
		for _, x := range v {
			out = append(out, texts(x)...)
		}
		return out
	case float64:
		return []string{fmt.Sprintf("%g", v)}
	default:
		return []string{fmt.Sprint(v)}
	}
}

// TestHijackedAgents learns each task from the benign runs of all agents but one and
// judges the runs of that one.
func TestHijackedAgents(t *testing.T) {
	onData(t, []string{"agentdojo.jsonl.gz"}, func(t *testing.T, files []io.Reader) { hijackedAgents(t, lines[agentRun](t, files[0])) })
}

func hijackedAgents(t *testing.T, all []agentRun) {
	tasks := map[string][]agentRun{}
	for _, run := range all {
		if run.Label == "benign" || run.Label == "hijacked" {
			tasks[run.Suite+"/"+run.UserTask] = append(tasks[run.Suite+"/"+run.UserTask], run)
		}
	}
	var hit, hijacked, false_, benign int
	for _, runs := range tasks {
		for _, left := range runs {
			g := New(Options{})
			at := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
			for _, b := range runs {
				if b.Label == "benign" && b.Pipeline != left.Pipeline {
					b.replay(g, at)
					at = at.Add(25 * time.Hour)
				}
			}
			got := len(left.replay(g, at)) > 0
			if left.Label == "benign" {
				benign++
				if got {
					false_++
				}
				continue
			}
			hijacked++
			if got {
				hit++
			}
		}
	}
	recall, alarm := float64(hit)/float64(hijacked), float64(false_)/float64(benign)
	t.Logf("hijacked runs found: %d of %d (%.2f %%); benign runs with an alert: %d of %d (%.2f %%)", hit, hijacked, 100*recall, false_, benign, 100*alarm)
	if recall < 0.97 || alarm > 0.02 {
		t.Errorf("recall %.3f (want 0.97), false alarms %.3f (at most 0.02)", recall, alarm)
	}
}
