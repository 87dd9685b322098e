package detect

import (
	"fmt"

	"github.com/lanyard-nhi/lanyard/events"
)

// secretExposedInfo documents D08.
var secretExposedInfo = Info{
	ID: "D08", Name: "secret_exposed",
	Catches:     "a scanner's report that a live secret stands in a document, commit, chat or log",
	Fields:      []string{"secret.exposed", "identity", "credential", "where", "public"},
	Method:      "one report is enough; high, critical when the place is public and the credential is known",
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
