package revocation

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/trace"
)

// story is a delegation across tenants: acme's bot exchanges its credential into
// globex, whose helper calls a tool; then acme revokes the task.
type story struct {
	w    *world
	a, b events.CredentialIssued
	revs string
}

func (s *story) put(tenant, id string, after time.Duration, p events.Payload) {
	s.w.t.Helper()
	e, err := events.New(events.Origin{Source: "/test", Tenant: tenant, Time: s.w.clock.now().Add(after), ID: id}, p)
	if err != nil {
		s.w.t.Fatal(err)
	}
	if err := s.w.bus.write(func() error { return s.w.bus.putAll([]events.Event{e}) }); err != nil {
		s.w.t.Fatal(err)
	}
}

func tell(t *testing.T) *story {
	w := newWorld(t)
	s := &story{w: w, revs: "rev-1"}
	now := w.clock.now()
	named := func(kind lineage.Kind, tenant, id string) events.Named {
		return events.Named{Handle: w.names.Name(kind, tenant, id).String(), Kind: string(kind), Tenant: tenant, ID: id}
	}
	handles := func(all []events.Named) (out []string) {
		for _, n := range all {
			out = append(out, n.Handle)
		}
		return out
	}
	own := []events.Named{named("domain", "", "https://idp.acme.test"), named("key", "", "kid-1"), named("tenant", "acme", "acme"), named("owner", "acme", "ana@acme.test"),
		named("feature", "acme", "reports"), named("identity", "acme", "bot"), named("task", "acme", "t1"), named("credential", "acme", "jti-a")}
	other := []events.Named{named("trust", "acme", "acme->globex"), named("delegation", "globex", "dlg-1"), named("tenant", "globex", "globex"), named("owner", "globex", "gus@globex.test"),
		named("identity", "globex", "helper"), named("credential", "globex", "jti-b")}
	s.a = events.CredentialIssued{Credential: "jti-a", TokenSHA256: fmt.Sprintf("%064x", 1), Identity: "bot", Task: "t1", Audience: []string{"https://a.test"}, Scope: []string{"read", "write"},
		Lineage: handles(own), Names: own, IssuedAt: now, ExpiresAt: now.Add(5 * time.Minute), KeyID: "kid-1", Policy: "cedar/1", Reasons: []string{"allow-reports"}, Exceptions: []string{"exc-7"},
		Context: &events.DecisionContext{Kind: events.KindAgent, Owner: "ana@acme.test", Feature: "reports", Grant: "jwt-bearer", Purpose: "nightly",
			Attestation: events.Attestation{Issuer: "https://idp.acme.test", Subject: "pod/bot"}, LaunchedBy: &events.Attestation{Issuer: "https://sso.acme.test", Subject: "ana"},
			Scope: []string{"read", "write"}, Audience: []string{"https://a.test"}}}
	s.b = events.CredentialIssued{Credential: "jti-b", TokenSHA256: fmt.Sprintf("%064x", 2), Identity: "helper", Task: "t1", Parent: "jti-a", Delegation: "dlg-1", Audience: []string{"https://b.test"}, Scope: []string{"read"},
		Lineage: append(handles(own), handles(other)...), Names: other[1:], IssuedAt: now.Add(time.Second), ExpiresAt: now.Add(4 * time.Minute), KeyID: "kid-1", Policy: "cedar/1"}
	s.put("acme", "e-reg", -time.Hour, events.IdentityRegistered{Registration: events.Registration{Identity: "bot", Kind: events.KindAgent, Owner: "ana@acme.test", Feature: "reports", Purpose: "reports", KillSwitch: "identity"}})
	s.put("acme", "e-other", 0, events.CredentialDenied{Request: "r0", Identity: "stranger", Code: "invalid_scope", Reason: "unrelated", Policy: "cedar/1"})
	s.put("acme", "e-a", 0, s.a)
	s.put("globex", "e-d", time.Second, events.DelegationCreated{Delegation: "dlg-1", Handle: other[1].Handle, Identity: "helper", From: events.Party{Tenant: "acme", Identity: "bot"},
		Parent: "jti-a", Credential: "jti-b", Trust: "acme->globex", Task: "t1", Depth: 1, Scope: []string{"read"}, Parents: []string{"read", "write"}, Audience: []string{"https://b.test"},
		Lineage: s.b.Lineage, ExpiresAt: s.b.ExpiresAt, ParentExp: s.a.ExpiresAt})
	s.put("globex", "e-b", time.Second, s.b)
	s.put("acme", "e-deny", 2*time.Second, events.CredentialDenied{Request: "r1", Identity: "bot", Parent: "jti-a", Task: "t1", Code: "invalid_scope", Reason: "admin is not granted", Policy: "cedar/1"})
	s.put("acme", "e-call", 3*time.Second, events.ToolCalled{Activity: events.Activity{Identity: "bot", Credential: "jti-a", Tool: "sql", Action: "query", Destination: "warehouse", Outcome: events.OutcomeSuccess}})
	s.put("globex", "e-callb", 4*time.Second, events.APICalled{Activity: events.Activity{Identity: "helper", Credential: "jti-b", Action: "get", Destination: "globex-secret-store", Outcome: events.OutcomeSuccess}})
	s.put("acme", "e-acc", 5*time.Second, events.RevocationAccepted{Revocation: s.revs, Mode: events.ModeRevoke, Target: events.Target{Kind: "task", Tenant: "acme", ID: "t1"}, Handle: own[6].Handle,
		Reason: "leaked in acme", By: "ana", AcceptedAt: now.Add(5 * time.Second), Epoch: 1, Sequence: 9, Guards: []events.ExpectedGuard{}, Descendants: 2, Tenants: []string{"acme", "globex"}})
	s.put("acme", "e-enf", 5*time.Second, events.RevocationEnforced{Revocation: s.revs, Point: "gate", Outcome: events.ReceiptEnforced, AppliedAt: now.Add(5 * time.Second), LatencyMS: 3.5})
	s.put("acme", "e-clo", 6*time.Second, events.RevocationClosed{Revocation: s.revs, Handle: own[6].Handle, ClosedAt: now.Add(6 * time.Second), Expected: 1,
		Outcomes: map[events.ReceiptOutcome]int{events.ReceiptEnforced: 1}, Descendants: 2, Tenants: []string{"acme", "globex"}, MerkleRoot: strings.Repeat("A", 43) + "="})
	w.clock.move(10 * time.Second)
	return s
}

func (s *story) tracer(tenant string) trace.Tracer {
	return trace.Tracer{Log: s.w.bus, Graph: s.w.tree, Handle: s.w.names.Name, Now: s.w.clock.now, Life: 16 * time.Minute, Tenant: tenant,
		May: func(of string) bool { return tenant == "lanyard" || of == tenant && of != "" }}
}

// TestTrace: whatever of it one asks for, the log tells the whole story, to each
// tenant its own part of it.
func TestTrace(t *testing.T) {
	s := tell(t)
	for _, c := range []struct {
		name, tenant  string
		query         trace.Query
		kind          string
		want, without []string
		hidden        bool
	}{
		{"jti", "acme", trace.Query{ID: "jti-a"}, "credential", []string{"ana@acme.test", "pod/bot", "exc-7", "allow-reports", "tool sql, query", "admin is not granted", "leaked in acme", "gate: enforced", "closed"},
			[]string{"helper", "globex", "jti-b", "unrelated", "secret-store"}, true},
		{"hash", "acme", trace.Query{ID: s.a.TokenSHA256}, "credential", []string{"jti-a"}, []string{"helper"}, true},
		{"operator", "lanyard", trace.Query{ID: "jti-a"}, "credential", []string{"globex-secret-store", "helper", "jti-b", "delegated to helper"}, []string{"unrelated"}, false},
		{"receiver", "globex", trace.Query{ID: "jti-b"}, "credential", []string{"globex-secret-store", "delegated by another tenant to helper", "revoke by another tenant", "of another tenant"},
			[]string{"ana", "write", "leaked", "acme.test", "\"acme\"", "reports", "warehouse", "pod/bot"}, true},
		{"chain", "lanyard", trace.Query{ID: "jti-b"}, "credential", []string{"https://sso.acme.test", "pod/bot", "gus@globex.test"}, nil, false},
		{"task", "acme", trace.Query{ID: "t1"}, "task", []string{"jti-a", "tool sql, query", "leaked in acme"}, []string{"helper"}, true},
		{"task by name", "lanyard", trace.Query{Kind: "task", Tenant: "acme", ID: "t1"}, "task", []string{"jti-a", "jti-b"}, nil, false},
		{"identity", "acme", trace.Query{ID: "bot"}, "identity", []string{"registered", "jti-a", "admin is not granted", "leaked in acme"}, []string{"helper", "unrelated"}, true},
		{"delegation", "globex", trace.Query{ID: "dlg-1"}, "delegation", []string{"jti-b", "delegated by another tenant"}, []string{"ana", "warehouse"}, true},
		{"revocation", "acme", trace.Query{ID: "rev-1"}, "revocation", []string{"leaked in acme", "jti-a", "gate: enforced", "tool sql"}, []string{"helper"}, true},
		{"event", "acme", trace.Query{ID: "e-call"}, "event", []string{"tool sql, query"}, []string{"leaked"}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, err := s.tracer(c.tenant).Trace(t.Context(), c.query)
			if err != nil {
				t.Fatal(err)
			}
			b, err := json.Marshal(a)
			if err != nil {
				t.Fatal(err)
			}
			if a.Subject.Kind != c.kind || a.Truncated || (a.Hidden > 0) != c.hidden {
				t.Errorf("kind %s (want %s), truncated %v, hidden %d", a.Subject.Kind, c.kind, a.Truncated, a.Hidden)
			}
			for _, text := range c.want {
				if !strings.Contains(string(b), text) {
					t.Errorf("%q is missing in %s", text, b)
				}
			}
			for _, text := range c.without {
				if strings.Contains(string(b), text) {
					t.Errorf("%q is in %s", text, b)
				}
			}
		})
	}
}

// TestTraceCounts: the tree has what was done with each credential and what ended it.
func TestTraceCounts(t *testing.T) {
	s := tell(t)
	a, err := s.tracer("lanyard").Trace(t.Context(), trace.Query{ID: "jti-a"})
	if err != nil {
		t.Fatal(err)
	}
	if a.Subject.Calls != 1 || a.Subject.Denied != 1 || a.Subject.Revocation != "rev-1" || len(a.Lineage) != 8 || a.Lineage[3].ID != "ana@acme.test" {
		t.Errorf("subject %+v, lineage %v", a.Subject, a.Lineage)
	}
	if len(a.Descendants) != 1 || a.Descendants[0].Credential != "jti-b" || a.Descendants[0].Calls != 1 || a.Descendants[0].Revocation != "rev-1" {
		t.Errorf("descendants %+v", a.Descendants)
	}
	b, err := s.tracer("globex").Trace(t.Context(), trace.Query{ID: "jti-b"})
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Chain) != 1 || !b.Chain[0].Hidden || b.Chain[0].Credential != "" || len(b.Lineage) != 14 || b.Lineage[0].ID != "" || b.Lineage[13].ID != "jti-b" {
		t.Errorf("chain %+v, lineage %v", b.Chain, b.Lineage)
	}
}

func TestTraceRefuses(t *testing.T) {
	s := tell(t)
	for _, c := range []struct {
		tenant string
		query  trace.Query
		want   error
	}{
		{"globex", trace.Query{ID: "jti-a"}, trace.ErrUnknown},
		{"globex", trace.Query{ID: s.a.TokenSHA256}, trace.ErrUnknown},
		{"globex", trace.Query{ID: "bot"}, trace.ErrUnknown},
		{"globex", trace.Query{ID: "rev-1"}, trace.ErrUnknown},
		{"globex", trace.Query{ID: "e-call"}, trace.ErrUnknown},
		{"globex", trace.Query{Kind: "task", Tenant: "acme", ID: "t1"}, trace.ErrUnknown},
		{"globex", trace.Query{Kind: "tenant", ID: "acme"}, trace.ErrUnknown},
		{"acme", trace.Query{ID: "never seen"}, trace.ErrUnknown},
		{"acme", trace.Query{Kind: "task", ID: "t9"}, trace.ErrUnknown},
		{"acme", trace.Query{Kind: "color", ID: "red"}, trace.ErrBadQuery},
		{"acme", trace.Query{}, trace.ErrBadQuery},
	} {
		if a, err := s.tracer(c.tenant).Trace(t.Context(), c.query); !errors.Is(err, c.want) {
			t.Errorf("%s asks for %+v: %v, want %v (%+v)", c.tenant, c.query, err, c.want, a.Subject)
		}
	}
}

// TestTraceSaysWhatItCut: a trace that may not read on says so.
func TestTraceSaysWhatItCut(t *testing.T) {
	s := tell(t)
	tr := s.tracer("acme")
	tr.Budget = 6
	a, err := tr.Trace(t.Context(), trace.Query{Kind: "credential", ID: "jti-a"})
	if err != nil || !a.Truncated || a.Cut == "" {
		t.Errorf("a budget of 6: truncated %v %q (%v)", a.Truncated, a.Cut, err)
	}
	a, err = s.tracer("acme").Trace(t.Context(), trace.Query{ID: "jti-a", Limit: 2})
	if err != nil || !a.Truncated || len(a.Timeline) != 2 || a.Subject.Calls != 1 {
		t.Errorf("limit 2: %d lines, truncated %v, %d calls (%v)", len(a.Timeline), a.Truncated, a.Subject.Calls, err)
	}
	since := s.w.clock.now().Add(-11 * time.Second)
	a, err = s.tracer("acme").Trace(t.Context(), trace.Query{Kind: "task", ID: "t1", Since: since})
	if err != nil || !a.Since.Equal(since) {
		t.Errorf("since %v: %v (%v)", since, a.Since, err)
	}
}
