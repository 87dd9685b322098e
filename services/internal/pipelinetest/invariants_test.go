package pipelinetest

import (
	"context"
	"iter"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// tale is a log that a test makes up.
type tale struct {
	t      *testing.T
	stored []bus.Stored
}

func (l *tale) add(tenant string, p events.Payload) *tale {
	e, err := events.New(events.Origin{Source: "/test", Tenant: tenant, Time: time.Unix(1700000000, int64(len(l.stored)))}, p)
	if err != nil {
		l.t.Fatal(err)
	}
	return l.event(e)
}

func (l *tale) event(e events.Event) *tale {
	s, err := events.Subject(e)
	if err != nil {
		l.t.Fatal(err)
	}
	l.stored = append(l.stored, bus.Stored{Event: e, Subject: s, Stream: bus.StreamLog, Sequence: uint64(len(l.stored) + 1)})
	return l
}

func (l *tale) Read(context.Context, string, string, uint64) iter.Seq2[bus.Stored, error] {
	return func(yield func(bus.Stored, error) bool) {
		for _, s := range l.stored {
			if !yield(s, nil) {
				return
			}
		}
	}
}

// TestCheckLog: each invariant is noticed when it is broken, and a good log passes.
func TestCheckLog(t *testing.T) {
	t0 := time.Unix(1700000000, 0)
	registered := events.IdentityRegistered{Registration: events.Registration{Identity: "a"}}
	credential := func(jti, parent string, minutes int, lineage ...string) events.CredentialIssued {
		return events.CredentialIssued{Credential: jti, Identity: "a", Parent: parent, Lineage: lineage, IssuedAt: t0, ExpiresAt: t0.Add(time.Duration(minutes) * time.Minute)}
	}
	accepted := events.RevocationAccepted{Revocation: "r", Guards: []events.ExpectedGuard{{Point: "p"}, {Point: "q"}}}
	enforced := func(point string) events.RevocationEnforced {
		return events.RevocationEnforced{Revocation: "r", Point: point, Outcome: events.ReceiptEnforced}
	}
	closed := events.RevocationClosed{Revocation: "r"}
	dead := events.IdentityRevoked{IdentityChange: events.IdentityChange{Identity: "a"}}
	for _, c := range []struct {
		name string
		tell func(l *tale)
		want string // part of the problem, "" for none
	}{
		{"good", func(l *tale) {
			l.add("acme", registered).add("acme", credential("1", "", 5, "h1")).add("acme", credential("2", "1", 4, "h1", "h2")).
				add("acme", events.DelegationCreated{Identity: "a", Scope: []string{"x"}, Parents: []string{"x", "y"}}).
				add("acme", accepted).add("acme", enforced("p")).add("acme", enforced("q")).add("acme", closed).add("acme", dead)
		}, ""},
		{"open revocation", func(l *tale) { l.add("acme", accepted).add("acme", enforced("p")) }, ""},
		{"an event twice", func(l *tale) { l.add("acme", registered).event(l.stored[0].Event) }, "already at 1"},
		{"another tenant's subject", func(l *tale) {
			l.add("acme", registered)
			l.stored[0].Subject = strings.Replace(l.stored[0].Subject, "acme", "globex", 1)
		}, "belongs to"},
		{"unregistered", func(l *tale) { l.add("globex", registered).add("acme", credential("1", "", 5, "h")) }, "not registered"},
		{"issued after the revoke", func(l *tale) { l.add("acme", registered).add("acme", dead).add("acme", credential("1", "", 5, "h")) }, "revoked identity"},
		{"no lineage", func(l *tale) { l.add("acme", registered).add("acme", credential("1", "", 5)) }, "without lineage"},
		{"too long", func(l *tale) { l.add("acme", registered).add("acme", credential("1", "", 16, "h")) }, "too long"},
		{"a jti twice", func(l *tale) {
			l.add("acme", registered).add("acme", credential("1", "", 5, "h")).add("acme", credential("1", "", 4, "h"))
		}, "issued before"},
		{"outlives its parent", func(l *tale) {
			l.add("acme", registered).add("acme", credential("1", "", 4, "h")).add("acme", credential("2", "1", 5, "h"))
		}, "outlives"},
		{"lost lineage", func(l *tale) {
			l.add("acme", registered).add("acme", credential("1", "", 5, "h", "i")).add("acme", credential("2", "1", 5, "h"))
		}, "handle i is missing"},
		{"widened scope", func(l *tale) {
			l.add("acme", events.DelegationCreated{Identity: "a", Scope: []string{"x"}, Parents: []string{"y"}})
		}, "did not hold"},
		{"accepted twice", func(l *tale) {
			again := accepted
			again.Reason = "again"
			l.add("acme", accepted).add("acme", again)
		}, "accepted 2 times"},
		{"closed, never accepted", func(l *tale) { l.add("acme", closed) }, "before it was accepted"},
		{"closed too early", func(l *tale) { l.add("acme", accepted).add("acme", enforced("p")).add("acme", closed) }, "without an outcome of q"},
		{"two outcomes of one guard", func(l *tale) {
			l.add("acme", accepted).add("acme", enforced("p")).add("acme", enforced("p"))
		}, "2 outcomes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := &tale{t: t}
			c.tell(l)
			log, err := CheckLog(t.Context(), l)
			if err != nil {
				t.Fatal(err)
			}
			got := strings.Join(log.Problems, "\n")
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("problems: %q, want %q", got, c.want)
			}
		})
	}
}
