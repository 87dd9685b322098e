package detect

import (
	"fmt"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// secretExposedInfo documents D08.
var secretExposedInfo = Info{
	ID: "D08", Name: "secret_exposed",
	Catches:     "a scanner's report that a live secret stands in a document, commit, chat or log, and its use from somewhere new afterwards",
	Fields:      []string{"secret.exposed", "identity", "credential", "where", "public"},
	Method:      "one report is enough; high, critical when the place is public and the credential is known. Critical again when the reported credential is used within 30 days from a network, workload or client that the identity never came from",
	Explanation: "a secret of {identity} was found in {where} at {t} by {scanner}",
	Severity:    events.SeverityHigh,
	References:  []string{"NHI2", "T1552.001", "T1552.008", "AML.T0055"},
	Response:    RespondContain,
}

// Exposed is D08 on a scanner's report.
func Exposed(p *events.SecretExposed) *Finding {
	sev, where := events.SeverityHigh, "a place that is not public"
	if p.Public {
		where = "a public place"
		if p.Credential != "" {
			sev = events.SeverityCritical
		}
	}
	who := p.Identity
	if who == "" {
		who = "an identity that the scanner could not name"
	}
	return &Finding{
		Severity: sev,
		Explanation: fmt.Sprintf("a secret of %s (fingerprint %s) was found in %s, %s, at %s by %s",
			clip(who), clip(p.Fingerprint), clip(p.Where), where, stamp(p.FoundAt), clip(p.Scanner)),
		Value:      "found in " + clip(p.Where),
		Baseline:   "secrets stand in the secret store only",
		Count:      1,
		Threshold:  1,
		Response:   RespondContain,
		Credential: p.Credential,
	}
}

// exposedFor is how long after a report a use from somewhere new belongs to it.
const exposedFor = 30 * 24 * time.Hour

// exposure is that a credential was found where it should not be.
type exposure struct {
	at           time.Time
	where, event string
}

// NoteExposed keeps a report; the earliest one about a credential counts.
func (f *Facts) NoteExposed(tenant, event string, p *events.SecretExposed) {
	k := pair{tenant, p.Credential}
	if e, ok := f.exposed[k]; p.Credential == "" || ok && !p.FoundAt.Before(e.at) || !ok && len(f.exposed) >= maxMinted {
		return
	}
	f.exposed[k] = exposure{at: p.FoundAt, where: p.Where, event: event}
}

// exposedUse is D08 on a use of a credential that a scanner reported.
func exposedUse(in *Input, s *State) *Finding {
	if len(in.Facts.exposed) == 0 {
		return nil
	}
	a := in.Activity
	e, ok := in.Facts.exposed[pair{in.Tenant, a.Credential}]
	dt := in.Time.Sub(e.at)
	if !ok || a.Credential == "" || dt < 0 || dt > exposedFor || !s.changed(in) {
		return nil
	}
	return &Finding{
		Severity: events.SeverityCritical,
		Explanation: fmt.Sprintf("the credential %s of %s was found in %s at %s, and %s later it was used from where it never came from: %s on %s from %s",
			clip(a.Credential), clip(a.Identity), clip(e.where), stamp(e.at), dt.Round(time.Second), clip(a.Action), clip(a.Destination), network(a)),
		Value:     "used from " + network(a),
		Baseline:  "used from where it always was",
		Count:     1,
		Threshold: 1,
		Response:  RespondContain,
		Evidence:  []string{e.event},
		Since:     e.at,
	}
}
