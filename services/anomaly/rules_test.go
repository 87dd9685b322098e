package anomaly

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

const nightRule = `rules:
  - id: night-writes
    severity: high
    message: "{identity} wrote {count} times by night"
    references: [NHI5]
    respond: contain
    when: action_class == "write" && time.getHours() < 6
    count: {at_least: 3, within: 10m}
`

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	// Renamed into place, as editors do, so that nobody reads half a file.
	tmp := filepath.Join(dir, "."+name)
	if err := os.WriteFile(tmp, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}

// book returns a watcher with the rules of a directory.
func book(t *testing.T, dir string) *watcher {
	t.Helper()
	w := &watcher{env: env(nil)}
	w.engine.set(w.fresh())
	if err := w.rules.open(dir, time.Now); err != nil {
		t.Fatal(err)
	}
	return w
}

func nightWrite(t *testing.T, id string, minute int) events.Event {
	a := events.Activity{Identity: "bot", Action: "s3:PutObject", ActionClass: events.ClassWrite, Destination: "s3", Outcome: events.OutcomeSuccess}
	return event(t, "acme", id, time.Date(2026, 3, 2, 2, minute, 0, 0, time.UTC), events.APICalled{Activity: a})
}

// said applies an event and returns the alerts of rules that follow.
func said(t *testing.T, w *watcher, e events.Event) []events.AnomalyDetected {
	t.Helper()
	out, err := w.apply(w.engine.get(), e)
	if err != nil {
		t.Fatal(err)
	}
	var as []events.AnomalyDetected
	for _, o := range out {
		if a, ok := o.Payload.(events.AnomalyDetected); ok && strings.HasPrefix(a.Name, "RULE:") {
			as = append(as, a)
		}
	}
	return as
}

func TestRulesRaiseAlerts(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "night.yaml", nightRule)
	w := book(t, dir)
	if _, err := w.apply(w.engine.get(), event(t, "acme", "reg", t0, events.IdentityRegistered{Registration: events.Registration{Identity: "backup-bot", Kind: events.KindAgent,
		Owner: "ops", Feature: "backup", Purpose: "backs up", KillSwitch: "identity", Aliases: []string{"bot"}}})); err != nil {
		t.Fatal(err)
	}
	if as := append(said(t, w, nightWrite(t, "e1", 1)), said(t, w, nightWrite(t, "e2", 2))...); len(as) != 0 {
		t.Fatalf("%+v", as)
	}
	third := nightWrite(t, "e3", 3)
	as := said(t, w, third)
	if len(as) != 1 {
		t.Fatalf("%+v", as)
	}
	a := as[0]
	if a.Name != "RULE:night-writes" || a.Detector != "RULE-NIGHT-WRITES" || a.Identity != "backup-bot" || a.Owner != "ops" || a.Explanation != "bot wrote 3 times by night" ||
		a.Count != 3 || a.Threshold != 3 || !strings.Contains(a.Proposed.Command, "lanyard revoke identity:acme/backup-bot --freeze") {
		t.Errorf("%+v", a)
	}
	if d := cmp.Diff([]string{"e1", "e2", "e3"}, a.Evidence); d != "" {
		t.Error(d)
	}
	e, err := events.New(events.Origin{Source: source, Tenant: "acme", Time: t0, ID: "x"}, a)
	if err != nil {
		t.Fatal(err)
	}
	if err := events.Validate(e); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff(as, said(t, w, third)); d != "" {
		t.Errorf("the event delivered again leads to something else: %s", d)
	}
	if as := said(t, w, nightWrite(t, "e4", 4)); len(as) != 0 {
		t.Errorf("the incident is raised twice: %+v", as)
	}
	// What analysts expect is suppressed for rules too.
	w.expected.note("acme", events.AlertExpected{Alert: a.Alert, Detector: a.Detector, Identity: a.Identity, Value: a.Value, Severity: a.Severity, ExpectedAt: t0, Until: t0.AddDate(0, 1, 0)})
	w.rules.reset()
	for i, id := range []string{"f1", "f2", "f3"} {
		if as := said(t, w, nightWrite(t, id, 10+i)); len(as) != 0 {
			t.Errorf("%+v", as)
		}
	}
}

func TestRulesAreReplacedWhileRunning(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "night.yaml", nightRule)
	w := book(t, dir)
	said(t, w, nightWrite(t, "e1", 1))
	said(t, w, nightWrite(t, "e2", 2))
	if changed, err := w.rules.load(time.Now); changed || err != nil {
		t.Errorf("nothing changed: %v %v", changed, err)
	}
	write(t, dir, "broken.yaml", "rules: [{id: x, severity: low, message: m, when: colour == 1}]")
	if changed, err := w.rules.load(time.Now); changed || err == nil {
		t.Errorf("a broken rule is put in force: %v", err)
	}
	if s := w.rules.shown(); len(s.Rules) != 1 || !strings.Contains(s.Problem, "broken.yaml:1") {
		t.Errorf("%+v", s)
	}
	write(t, dir, "broken.yaml", "rules: [{id: any-iam, severity: low, message: m, when: 'action_class == \"iam\"'}]")
	if changed, err := w.rules.load(time.Now); !changed || err != nil {
		t.Errorf("%v %v", changed, err)
	}
	if s := w.rules.shown(); len(s.Rules) != 2 || s.Problem != "" {
		t.Errorf("%+v", s)
	}
	if as := said(t, w, nightWrite(t, "e3", 3)); len(as) != 1 {
		t.Errorf("what was counted before the change is lost: %+v", as)
	}
	if _, err := New(withRules(filepath.Join(dir, "missing"))); err == nil {
		t.Error("the service starts without its rules")
	}
}

func withRules(dir string) service.Env {
	e := env(nil)
	e.Config.Anomaly.Rules = dir
	return e
}
