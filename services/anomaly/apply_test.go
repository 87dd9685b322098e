package anomaly

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// history makes every detector raise something.
func history(t *testing.T) []events.Event {
	use := func(id string, after time.Duration, a events.Activity) events.Event { return called(t, id, after, a) }
	exp := t0
	es := []events.Event{
		event(t, "acme", "r1", t0, events.IdentityRegistered{Registration: events.Registration{Identity: "bot", Kind: events.KindAgent, Owner: "o", Feature: "f", Purpose: "p",
			KillSwitch: "identity", Tools: map[string][]string{"t": {"read_mail"}}}}),
		event(t, "globex", "r2", t0, events.IdentityRegistered{Registration: events.Registration{Identity: "other", Kind: events.KindAgent, Owner: "o", Feature: "f", Purpose: "p", KillSwitch: "identity"}}),
		event(t, "acme", "v", t0, events.RevocationAccepted{Revocation: "rv", Mode: events.ModeRevoke, Handle: "AAAAAAAAAAAAAAAA", AcceptedAt: t0, By: "ops", Reason: "x",
			Target: events.Target{Kind: "task", Tenant: "acme", ID: "t"}}),
		use("d01", time.Minute, events.Activity{Identity: "bot", Action: "x:y", Lineage: []string{"AAAAAAAAAAAAAAAA"}, Credential: "jti"}),
		use("d02", time.Hour, events.Activity{Identity: "bot", Action: "x:y", CredentialExp: &exp}),
		use("d05", time.Minute, events.Activity{Identity: "bot", Action: "x:y", ResourceTenant: "globex"}),
		use("d06", time.Minute, events.Activity{Identity: "bot", Action: "x:y", DelegationDepth: 9}),
		event(t, "acme", "d08", t0, events.SecretExposed{Fingerprint: "f1", Identity: "bot", Where: "repo", Scanner: "s", FoundAt: t0}),
		event(t, "acme", "d13", t0, events.ToolCalled{Activity: events.Activity{Identity: "bot", Action: "tool:send_mail", Tool: "send_mail", Task: "t", Destination: "mail", Outcome: events.OutcomeSuccess}}),
		use("d16", time.Minute, events.Activity{Identity: "bot", Action: "signin:ConsoleLogin", Interactive: true}),
		use("d24", time.Minute, events.Activity{Identity: "bot", Action: "iam:PutUserPolicy", Resource: "userName=bot"}),
		use("d26", time.Minute, events.Activity{Identity: "bot", Action: "cloudtrail:StopLogging"}),
		use("d27", time.Minute, events.Activity{Identity: "bot", Action: "iam:UpdateAssumeRolePolicy", Resource: "r"}),
		event(t, "globex", "dl", t0, events.DelegationCreated{Delegation: "dl", Handle: "AAAAAAAAAAAAAAAA", Identity: "other", From: events.Party{Tenant: "acme", Identity: "bot"},
			Parent: "p", Credential: "c", Task: "t", Depth: 1, Scope: []string{"a"}, Parents: []string{"a"}, ExpiresAt: t0, ParentExp: t0}),
	}
	for i := range 12 {
		es = append(es,
			use(fmt.Sprint("d20-", i), time.Minute, events.Activity{Identity: "bot", Action: "x:y", Resource: fmt.Sprint(i), Outcome: events.OutcomeDenied}),
			use(fmt.Sprint("d23-", i), time.Minute, events.Activity{Identity: "bot", Action: "secretsmanager:GetSecretValue", Resource: fmt.Sprint(i)}))
	}
	for i := range 150 {
		es = append(es, event(t, "acme", fmt.Sprint("sp", i), t0, events.DelegationCreated{Delegation: fmt.Sprint("s", i), Handle: "AAAAAAAAAAAAAAAA", Identity: fmt.Sprint("child", i),
			From: events.Party{Tenant: "acme", Identity: "bot"}, Parent: "p", Credential: fmt.Sprint("c", i), Task: "t", Depth: 1, Scope: []string{}, ExpiresAt: t0, ParentExp: t0}))
	}
	return es
}

// TestEverythingSaidIsValid holds every event the service states to its schema and to
// what an alert promises, with every detector speaking.
func TestEverythingSaidIsValid(t *testing.T) {
	e := env(nil)
	e.Config.Anomaly.AutoRevoke = true
	s, err := New(e)
	if err != nil {
		t.Fatal(err)
	}
	handle := map[string]func(events.Event) ([]events.Event, error){}
	for _, h := range s.Handlers {
		handle[h.Type] = func(c events.Event) ([]events.Event, error) { return h.Do(t.Context(), c) }
	}
	spoke, automatic := map[string]bool{}, 0
	for _, cause := range append(history(t), habits(t)...) {
		out, err := handle[cause.Type()](cause)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range out {
			if err := events.Validate(o); err != nil {
				t.Errorf("%s: %v\n%s", o.Type(), err, o.Data())
			}
			if _, err := events.Subject(o); err != nil {
				t.Error(err)
			}
			switch o.Type() {
			case events.TypeAnomalyDetected:
				a, err := events.As[events.AnomalyDetected](o)
				if err != nil {
					t.Fatal(err)
				}
				spoke[a.Detector] = true
				if !strings.Contains(a.Proposed.Command, "lanyard ") || len(a.Evidence) == 0 || a.FirstSeen.IsZero() {
					t.Errorf("incomplete: %+v", a)
				}
				t.Logf("%s %-8s %5.1f %s | %s", a.Detector, a.Severity, a.Score, a.Explanation, a.Proposed.Command)
			case events.TypeRevocationRequested:
				automatic++
			}
		}
	}
	for _, d := range Catalog() {
		if !spoke[d.ID] {
			t.Errorf("%s raised nothing", d.ID)
		}
	}
	if automatic == 0 || automatic > 6 { // 5 within ten minutes, and one an hour later
		t.Errorf("%d automatic revocations, want 1 to 6", automatic)
	}
}

func TestBadPayloadIsPermanent(t *testing.T) {
	s, err := New(env(nil))
	if err != nil {
		t.Fatal(err)
	}
	e := called(t, "x", 0, events.Activity{Identity: "bot", Action: "a"})
	if err := e.SetData("application/json", []byte(`{"identity":7}`)); err != nil {
		t.Fatal(err)
	}
	for _, h := range s.Handlers {
		if h.Type == e.Type() {
			if _, err := h.Do(t.Context(), e); err == nil {
				t.Error("a payload that cannot be read is accepted")
			}
		}
	}
}
