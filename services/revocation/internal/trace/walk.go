package trace

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/graph"
)

// early is how much before its issue the log is read from: producers' and the
// server's clocks differ, and the request came first.
const early = time.Minute

// walk reads what concerns one credential.
type walk struct {
	Tracer
	answer *Answer
	rec    graph.Record
	own    string // the credential's own handle
}

func (w walk) run(ctx context.Context) error {
	jti := w.rec.CredentialIssued.Credential
	for _, part := range []struct {
		stream, filter string
		take           func(bus.Stored) string
	}{
		{bus.StreamLog, "nhi.log.*.credential.*.*", w.credential},
		{bus.StreamLog, "nhi.log.*.delegation.created.*", w.delegation},
		{bus.StreamLog, "nhi.log.*.revocation.*.*", w.revocation()},
		{bus.StreamIn, "nhi.in.*.activity.*", w.activity},
		{bus.StreamAlert, "nhi.alert.>", func(s bus.Stored) string {
			p, err := events.As[events.AnomalyDetected](s.Event)
			if err != nil || p.Credential != jti {
				return ""
			}
			return fmt.Sprintf("alert %s (%s): %s", p.Detector, p.Severity, p.Explanation)
		}},
	} {
		from, err := w.seek(ctx, part.stream, part.filter, w.rec.IssuedAt.Add(-early))
		if err != nil {
			return err
		}
		for st, err := range w.Log.Read(ctx, part.stream, part.filter, from) {
			if err != nil {
				return fmt.Errorf("trace through %s: %w", part.stream, err)
			}
			if text := part.take(st); text != "" {
				w.add(st.Event, text)
			}
		}
	}
	return nil
}

func (w walk) add(e events.Event, text string) {
	switch {
	case !w.May(events.Tenant(e)):
		w.answer.Hidden++
	case len(w.answer.Timeline) >= Limit:
		w.answer.Truncated = true
	default:
		w.answer.Timeline = append(w.answer.Timeline, Moment{Time: e.Time(), Type: e.Type(), Tenant: events.Tenant(e), Summary: text, Event: e.ID()})
	}
}

// credential tells of the credential's own issue and end, of denials in its name,
// and of what was derived from it.
func (w walk) credential(st bus.Stored) string {
	jti := w.rec.CredentialIssued.Credential
	switch st.Event.Type() {
	case events.TypeCredentialIssued:
		p, err := events.As[events.CredentialIssued](st.Event)
		switch {
		case err != nil:
			return ""
		case p.Credential == jti:
			return fmt.Sprintf("issued to %s%s for task %s, scope %s, until %s, policy %s", p.Identity, proven(p), p.Task, strings.Join(p.Scope, " "), p.ExpiresAt.UTC().Format(time.TimeOnly), p.Policy)
		case !slices.Contains(p.Lineage, w.own):
			return ""
		}
		w.derived(events.Tenant(st.Event), p)
		return fmt.Sprintf("derived credential %s for %s, scope %s", p.Credential, p.Identity, strings.Join(p.Scope, " "))
	case events.TypeCredentialDenied:
		if p, err := events.As[events.CredentialDenied](st.Event); err == nil && p.Parent == jti {
			return fmt.Sprintf("denied an exchange to %s: %s (%s)", p.Identity, p.Reason, p.Code)
		}
	case events.TypeCredentialExpired:
		if p, err := events.As[events.CredentialExpired](st.Event); err == nil && p.Credential == jti {
			return "expired"
		}
	}
	return ""
}

// proven says who vouched for the workload.
func proven(p events.CredentialIssued) string {
	if p.Context == nil {
		return ""
	}
	return ", proven by " + p.Context.Attestation.Issuer + ","
}

func (w walk) derived(tenant string, p events.CredentialIssued) {
	switch {
	case len(w.answer.Descendants) >= Limit:
		w.answer.Truncated = true
	case w.May(tenant):
		w.answer.Descendants = append(w.answer.Descendants, Descendant{p.Credential, tenant, p.Identity, p.Task, p.Parent, p.ExpiresAt})
	}
}

func (w walk) delegation(st bus.Stored) string {
	p, err := events.As[events.DelegationCreated](st.Event)
	jti := w.rec.CredentialIssued.Credential
	switch {
	case err != nil:
	case p.Credential == jti:
		return fmt.Sprintf("delegated by %s/%s, depth %d", p.From.Tenant, p.From.Identity, p.Depth)
	case p.Parent == jti:
		return fmt.Sprintf("delegated to %s, depth %d, scope %s", p.Identity, p.Depth, strings.Join(p.Scope, " "))
	}
	return ""
}

// revocation tells of every revocation of a handle in the lineage. Further events
// name the revocation only, so those seen are remembered.
func (w walk) revocation() func(bus.Stored) string {
	ours := map[string]bool{}
	return func(st bus.Stored) string {
		switch st.Event.Type() {
		case events.TypeRevocationAccepted:
			p, err := events.As[events.RevocationAccepted](st.Event)
			if err != nil || ours[p.Revocation] || !slices.Contains(w.rec.Lineage, p.Handle) {
				return ""
			}
			ours[p.Revocation] = true
			return fmt.Sprintf("%s of %s %s by %s: %s", p.Mode, p.Target.Kind, p.Target.ID, p.By, p.Reason)
		case events.TypeRevocationClosed:
			if p, err := events.As[events.RevocationClosed](st.Event); err == nil && ours[p.Revocation] {
				return fmt.Sprintf("revocation closed: no guard honours it any more, %d credentials died", p.Descendants)
			}
		case events.TypeRevocationLifted:
			if p, err := events.As[events.RevocationLifted](st.Event); err == nil && ours[p.Revocation] {
				return fmt.Sprintf("freeze lifted by %s: %s", p.By, p.Reason)
			}
		}
		return ""
	}
}

// activity tells of calls made with the credential, or with one derived from it.
func (w walk) activity(st bus.Stored) string {
	var a events.Activity
	switch st.Event.Type() {
	case events.TypeToolCalled:
		p, err := events.As[events.ToolCalled](st.Event)
		if err != nil {
			return ""
		}
		a = p.Activity
	case events.TypeAPICalled:
		p, err := events.As[events.APICalled](st.Event)
		if err != nil {
			return ""
		}
		a = p.Activity
	case events.TypeTokenExchanged:
		p, err := events.As[events.TokenExchanged](st.Event)
		if err != nil {
			return ""
		}
		a = p.Activity
	}
	jti := w.rec.CredentialIssued.Credential
	switch {
	case a.Credential == jti:
		return call(a)
	case slices.Contains(a.Lineage, w.own):
		return call(a) + ", with a derived credential of " + a.Identity
	}
	return ""
}

func call(a events.Activity) string {
	what := a.Action
	if a.Tool != "" {
		what = "tool " + a.Tool + ", " + a.Action
	}
	text := fmt.Sprintf("%s at %s: %s", what, a.Destination, a.Outcome)
	if a.Error != "" {
		text += " (" + a.Error + ")"
	}
	return text
}
