package trace

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/graph"
)

// credential tells of the credential's own issue and end, of denials in its name,
// and of what was derived from it.
func (w *walk) credential(st bus.Stored) string {
	s := w.answer.Subject
	switch st.Event.Type() {
	case events.TypeCredentialIssued:
		p, err := events.As[events.CredentialIssued](st.Event)
		switch {
		case err != nil:
			return ""
		case p.Credential == s.Credential:
			return fmt.Sprintf("issued to %s%s for task %s, scope %s, until %s, policy %s%s", p.Identity, w.proven(p.Context), p.Task,
				strings.Join(p.Scope, " "), p.ExpiresAt.UTC().Format(time.TimeOnly), p.Policy, because(p.Reasons, p.Exceptions))
		case w.handle == "" || !slices.Contains(p.Lineage, w.handle):
			return ""
		}
		w.below(graph.Record{Tenant: events.Tenant(st.Event), CredentialIssued: p})
		verb := "derived credential"
		if p.Parent == "" {
			verb = "issued credential"
		}
		return fmt.Sprintf("%s %s for %s, scope %s", verb, p.Credential, p.Identity, strings.Join(p.Scope, " "))
	case events.TypeCredentialDenied:
		p, err := events.As[events.CredentialDenied](st.Event)
		if err != nil || !w.concerns(events.Tenant(st.Event), p.Parent, p.Identity, p.Task) {
			return ""
		}
		if s := w.under[p.Parent]; s != nil {
			s.Denied++
		}
		what := "a credential"
		if p.Parent != "" {
			what = "an exchange"
		}
		return fmt.Sprintf("denied %s to %s: %s (%s), policy %s%s", what, p.Identity, p.Reason, p.Code, p.Policy, because(p.Reasons, nil))
	case events.TypeCredentialExpired:
		if p, err := events.As[events.CredentialExpired](st.Event); err == nil && w.known(p.Credential) {
			return "credential " + p.Credential + " expired"
		}
	}
	return ""
}

// because names the policies and exceptions that decided.
func because(reasons, exceptions []string) string {
	var b strings.Builder
	if len(reasons) > 0 {
		b.WriteString(" by " + strings.Join(reasons, ", "))
	}
	if len(exceptions) > 0 {
		b.WriteString(" under exception " + strings.Join(exceptions, ", "))
	}
	return b.String()
}

// known reports whether a credential is the subject or below it, whoever may see it.
func (w *walk) known(jti string) bool { return jti != "" && (w.under[jti] != nil || w.foreign[jti]) }

// concerns reports whether a record about a credential, an identity and a task is
// about the subject.
func (w *walk) concerns(tenant, credential, identity, task string) bool {
	s := w.answer.Subject
	switch {
	case w.known(credential):
		return true
	case tenant != s.Tenant:
		return false
	}
	switch lineage.Kind(s.Kind) {
	case lineage.KindIdentity:
		return identity == s.ID
	case lineage.KindTask:
		return task == s.ID && credential == ""
	}
	return false
}

// proven says who vouched for the workload.
func (w *walk) proven(c *events.DecisionContext) string {
	if c == nil || c.Attestation.Issuer == "" {
		return ""
	}
	text := ", proven by " + c.Attestation.Issuer + " as " + c.Attestation.Subject + ","
	if c.LaunchedBy != nil {
		text += " launched by " + c.LaunchedBy.Subject + " of " + c.LaunchedBy.Issuer + ","
	}
	return text
}

// party names one end of a delegation, to those who may know.
func (w *walk) party(p events.Party) string {
	if !w.May(p.Tenant) {
		return "another tenant"
	}
	return p.Tenant + "/" + p.Identity
}

func (w *walk) delegation(st bus.Stored) string {
	p, err := events.As[events.DelegationCreated](st.Event)
	switch {
	case err != nil:
	case p.Credential == w.answer.Subject.Credential, w.handle != "" && p.Handle == w.handle:
		text := fmt.Sprintf("delegated by %s to %s, depth %d, scope %s", w.party(p.From), p.Identity, p.Depth, strings.Join(p.Scope, " "))
		if w.May(p.From.Tenant) {
			text += " of " + strings.Join(p.Parents, " ")
		}
		return text
	case w.known(p.Parent), w.handle != "" && slices.Contains(p.Lineage, w.handle):
		return fmt.Sprintf("delegated to %s, depth %d, scope %s", p.Identity, p.Depth, strings.Join(p.Scope, " "))
	}
	return ""
}

// revocation tells of every revocation of a handle in the lineage, or below. Further
// events name the revocation only, so those seen are remembered.
func (w *walk) revocation(st bus.Stored) string {
	switch st.Event.Type() {
	case events.TypeRevocationAccepted:
		p, err := events.As[events.RevocationAccepted](st.Event)
		if err != nil || !w.hit[p.Handle] && !w.ours[p.Revocation] {
			return ""
		}
		w.ours[p.Revocation] = true
		w.seen = true
		if !w.May(events.Tenant(st.Event)) {
			// That it was ended, and when, is known to whoever holds it: its guards refuse it.
			w.moment(Moment{Time: st.Event.Time(), Type: st.Event.Type(), Summary: string(p.Mode) + " by another tenant"})
			p.Revocation = "of another tenant"
			w.revoked = append(w.revoked, p)
			return "hidden"
		}
		w.revoked = append(w.revoked, p)
		return fmt.Sprintf("%s of %s %s by %s: %s", p.Mode, p.Target.Kind, p.Target.ID, p.By, p.Reason)
	case events.TypeRevocationRefused:
		p, err := events.As[events.RevocationRefused](st.Event)
		if err == nil && (w.ours[p.Revocation] || p.Target.Handle != "" && w.hit[p.Target.Handle]) {
			return fmt.Sprintf("%s refused to %s: %s (%s)", p.Mode, p.By, p.Reason, p.Code)
		}
	case events.TypeRevocationEnforced:
		if p, err := events.As[events.RevocationEnforced](st.Event); err == nil && w.ours[p.Revocation] {
			return fmt.Sprintf("%s: %s after %.1f ms", p.Point, p.Outcome, p.LatencyMS)
		}
	case events.TypeRevocationStuck:
		if p, err := events.As[events.RevocationStuck](st.Event); err == nil && w.ours[p.Revocation] {
			return fmt.Sprintf("stuck at %s of %s: %s; %s", p.Point, p.Owner, p.Reason, p.Compensation)
		}
	case events.TypeRevocationClosed:
		if p, err := events.As[events.RevocationClosed](st.Event); err == nil && w.ours[p.Revocation] {
			return fmt.Sprintf("revocation closed: nothing honours it any more, %d credentials died", p.Descendants)
		}
	case events.TypeRevocationLifted:
		if p, err := events.As[events.RevocationLifted](st.Event); err == nil && w.ours[p.Revocation] {
			return fmt.Sprintf("freeze lifted by %s: %s", p.By, p.Reason)
		}
	}
	return ""
}

// secret tells of managed secrets that were made under the subject.
func (w *walk) secret(st bus.Stored) string {
	s := secretOf(st.Event)
	own := w.answer.Subject.Kind == KindSecret && s.Secret == w.answer.Subject.ID && events.Tenant(st.Event) == w.answer.Subject.Tenant
	if !own && (w.handle == "" || !slices.Contains(s.Lineage, w.handle)) {
		return ""
	}
	verb := "tracked"
	if strings.Contains(st.Event.Type(), ".untracked.") {
		verb = "gone"
	}
	text := fmt.Sprintf("secret %s of %s at %s (%s) %s", s.Secret, s.Identity, s.Downstream, s.Account, verb)
	if s.Reason != "" {
		text += ": " + s.Reason
	}
	return text
}

func (w *walk) task(st bus.Stored) string {
	if p, err := events.As[events.TaskClosed](st.Event); err == nil && w.hit[p.Handle] {
		return fmt.Sprintf("task %s ended by %s: %s", p.Task, p.By, p.Reason)
	}
	return ""
}

// identity tells what became of the subject's identity.
func (w *walk) identity(st bus.Stored) string {
	switch st.Event.Type() {
	case events.TypeIdentityRegistered:
		if p, err := events.As[events.IdentityRegistered](st.Event); err == nil {
			return fmt.Sprintf("registered: %s of %s, feature %s, for: %s", p.Kind, p.Owner, p.Feature, p.Purpose)
		}
	case events.TypeRiskChanged:
		if p, err := events.As[events.RiskChanged](st.Event); err == nil {
			return fmt.Sprintf("risk %s, was %s: %s", p.Level, p.Previous, p.Reason)
		}
	case events.TypeIdentityFrozen:
		if p, err := events.As[events.IdentityFrozen](st.Event); err == nil {
			return change("frozen", p.IdentityChange)
		}
	case events.TypeIdentityRevoked:
		if p, err := events.As[events.IdentityRevoked](st.Event); err == nil {
			return change("revoked", p.IdentityChange)
		}
	case events.TypeIdentityReinstated:
		if p, err := events.As[events.IdentityReinstated](st.Event); err == nil {
			return change("reinstated", p.IdentityChange)
		}
	case events.TypeIdentityRetired:
		if p, err := events.As[events.IdentityRetired](st.Event); err == nil {
			return change("retired", p.IdentityChange)
		}
	}
	return ""
}

func change(what string, p events.IdentityChange) string {
	return fmt.Sprintf("%s %s by %s: %s", p.Identity, what, p.By, p.Reason)
}

// activity tells of calls made with the credential, or with one derived from it.
func (w *walk) activity(st bus.Stored) string {
	a, ok := activityOf(st.Event)
	if !ok {
		return ""
	}
	tenant := events.Tenant(st.Event)
	of := tenant
	if a.IdentityTenant != "" {
		of = a.IdentityTenant
	}
	mine := w.under[a.Credential]
	if mine == nil && !w.foreign[a.Credential] && (w.handle == "" || !slices.Contains(a.Lineage, w.handle)) &&
		!w.concerns(of, a.Credential, a.Identity, a.Task) {
		return ""
	}
	text := call(a)
	switch {
	case mine != nil:
		mine.Calls++
		if a.Outcome == events.OutcomeDenied {
			mine.Denied++
		}
		if st.Event.Time().After(mine.LastCall) {
			mine.LastCall = st.Event.Time()
		}
		if a.Credential != w.answer.Subject.Credential {
			text += ", with credential " + a.Credential + " of " + a.Identity
		}
	case !w.May(of):
		text += ", with a derived credential of another tenant"
	default:
		text += ", by " + a.Identity
	}
	return text
}

func activityOf(e events.Event) (events.Activity, bool) {
	switch e.Type() {
	case events.TypeToolCalled:
		p, err := events.As[events.ToolCalled](e)
		return p.Activity, err == nil
	case events.TypeAPICalled:
		p, err := events.As[events.APICalled](e)
		return p.Activity, err == nil
	case events.TypeTokenExchanged:
		p, err := events.As[events.TokenExchanged](e)
		return p.Activity, err == nil
	}
	return events.Activity{}, false
}

func call(a events.Activity) string {
	what := a.Action
	if a.Tool != "" {
		what = "tool " + a.Tool + ", " + a.Action
	}
	text := fmt.Sprintf("%s at %s: %s", what, a.Destination, a.Outcome)
	if a.Resource != "" {
		text = fmt.Sprintf("%s of %s at %s: %s", what, a.Resource, a.Destination, a.Outcome)
	}
	if a.Error != "" {
		text += " (" + a.Error + ")"
	}
	return text
}

func (w *walk) alert(st bus.Stored) string {
	p, err := events.As[events.AnomalyDetected](st.Event)
	if err != nil || !w.known(p.Credential) && !w.concerns(events.Tenant(st.Event), p.Credential, p.Identity, p.Task) {
		return ""
	}
	return alerted(p)
}

func alerted(p events.AnomalyDetected) string {
	return fmt.Sprintf("alert %s (%s): %s", p.Detector, p.Severity, p.Explanation)
}

// correlated tells of everything that one event is part of.
func (w *walk) correlated(st bus.Stored) string {
	if events.Extension(st.Event, events.ExtCorrelation) != w.correlation && st.Event.ID() != w.correlation && st.Event.ID() != w.eventID {
		return ""
	}
	if p, err := events.As[events.AnomalyDetected](st.Event); err == nil {
		return alerted(p)
	}
	if a, ok := activityOf(st.Event); ok {
		return a.Identity + ": " + call(a)
	}
	for _, take := range []func(bus.Stored) string{w.identity, w.anyRevocation} {
		if text := take(st); text != "" {
			return text
		}
	}
	return st.Event.Subject()
}

// anyRevocation tells of a revocation that came of the event.
func (w *walk) anyRevocation(st bus.Stored) string {
	if p, err := events.As[events.RevocationAccepted](st.Event); err == nil {
		w.ours[p.Revocation] = true
	}
	if p, err := events.As[events.RevocationRequested](st.Event); err == nil {
		return fmt.Sprintf("%s of %s %s asked by %s: %s", p.Mode, p.Target.Kind, p.Target.ID, p.RequestedBy, p.Reason)
	}
	return w.revocation(st)
}
