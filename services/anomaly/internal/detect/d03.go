package detect

import (
	"fmt"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// supersededInfo documents D03.
var supersededInfo = Info{
	ID: "D03", Name: "superseded_use",
	Catches:     "an old key or secret that is still used after its successor took over and the grace is past",
	Fields:      []string{"credential", "credential_version", "rotation.activated"},
	Method:      "use.time > time of the takeover + grace (24 h), both event times; high after twice the grace, or when the use also comes from where the identity never came from",
	Explanation: "{old} was replaced by {new} at {t}; {identity} still used it {dt} later",
	Severity:    events.SeverityMedium,
	References:  []string{"NHI7", "T1078.004"},
	Response:    RespondContain,
}

// succession is that one credential took the place of another.
type succession struct {
	by, object string
	at         time.Time
}

// Supersede notes that next took over from old at t; the earliest takeover counts.
func (f *Facts) Supersede(tenant, old, next, object string, t time.Time) {
	if old == "" || old == next {
		return
	}
	k := pair{tenant, old}
	if s, ok := f.superseded[k]; ok && !t.Before(s.at) || !ok && len(f.superseded) >= maxMinted {
		return
	}
	f.superseded[k] = succession{by: next, object: object, at: t}
}

// supersededUse is D03.
func supersededUse(in *Input, s *State) *Finding {
	if len(in.Facts.superseded) == 0 {
		return nil
	}
	a, grace := in.Activity, in.Facts.Config.SupersededGrace
	old := a.CredentialVersion
	r, ok := in.Facts.superseded[pair{in.Tenant, old}]
	if old == "" || !ok {
		old = a.Credential
		if r, ok = in.Facts.superseded[pair{in.Tenant, old}]; old == "" || !ok {
			return nil
		}
	}
	dt := in.Time.Sub(r.at)
	if dt <= grace {
		return nil
	}
	sev, also := events.SeverityMedium, ""
	if dt > 2*grace {
		sev = events.SeverityHigh
	}
	if s.changed(in) {
		sev, also = events.SeverityHigh, ", from where it never came from"
	}
	return &Finding{
		Severity: sev,
		Explanation: fmt.Sprintf("%s of %s was replaced by %s at %s; %s still used it %s later for %s on %s from %s%s",
			clip(old), clip(r.object), clip(r.by), stamp(r.at), clip(a.Identity), dt.Round(time.Second), clip(a.Action), clip(a.Destination), network(a), also),
		Value:     fmt.Sprintf("used %.0f s after the takeover", dt.Seconds()),
		Baseline:  fmt.Sprintf("no use later than %s plus %s", stamp(r.at), grace),
		Count:     int64(dt / time.Second),
		Threshold: grace.Seconds(),
		Response:  RespondContain,
	}
}
