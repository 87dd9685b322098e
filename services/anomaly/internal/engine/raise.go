package engine

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/detect"
)

// Limits of automatic revocation, per tenant.
const (
	autoMax    = 5
	autoWindow = 10 * time.Minute
)

// subject is what a finding is about.
type subject struct {
	id       string // event id
	time     time.Time
	tenant   string
	identity string // as the record names it
	foreign  bool   // it belongs to another tenant of ours
	reg      *events.Registration
	a        *events.Activity
}

// name is the registered id, or the record's name when there is none.
func (s subject) name() string {
	if s.reg != nil {
		return s.reg.Identity
	}
	return s.identity
}

// home is the tenant in whose registry the identity stands.
func (s subject) home() string {
	if s.foreign {
		return s.a.IdentityTenant
	}
	return s.tenant
}

// raise puts a finding into its incident and returns the events that follow, none
// when the incident is known and did not get worse.
func (e *Engine) raise(p *identity, info *detect.Info, f *detect.Finding, s subject) []Output {
	sev := e.severity(info, f, s)
	if out, ok := e.suppress(p, info, f, s, sev); ok {
		return out
	}
	c, notify := p.collect(incidentOf(info, f), sev, s.time, append(slices.Clone(f.Evidence), s.id))
	if !f.Since.IsZero() && f.Since.Before(c.first) {
		c.first = f.Since
	}
	if !notify {
		return nil
	}
	alert := e.alert(info, f, s, c, sev)
	out := []Output{{
		ID:      events.DeterministicID("anomaly", alert.Alert, string(sev)),
		Tenant:  s.tenant,
		Time:    s.time,
		Payload: alert,
	}}
	if r, ok := p.riskTo(sev, s.time); ok {
		r.Identity, r.Reason, r.Alert = s.name(), info.ID+" "+info.Name, alert.Alert
		out = append(out, Output{ID: events.DeterministicID("risk", alert.Alert, r.Level), Tenant: s.tenant, Time: s.time, Payload: r})
	}
	if r, ok := e.automatic(info, f, s, alert); ok {
		out = append(out, Output{ID: events.DeterministicID("automatic", alert.Alert), Tenant: s.tenant, Time: s.time, Payload: r})
	}
	return out
}

// incidentOf is what tells the finding's incident from others of the identity.
func incidentOf(info *detect.Info, f *detect.Finding) string {
	if f.Incident != "" {
		return f.Incident
	}
	return info.ID
}

// severity is the finding's, one step higher for a privileged identity and one lower
// when a lifecycle event announced a change of it in the last 24 hours.
func (e *Engine) severity(info *detect.Info, f *detect.Finding, s subject) events.Severity {
	sev := f.Severity
	if s.reg == nil {
		return sev
	}
	if privileged(s.reg) {
		sev = shift(sev, 1)
	}
	switch info.ID {
	case "D13", "D24", "D26", "D27":
		if e.facts.Announced(s.tenant, s.reg.Identity, s.time) {
			sev = shift(sev, -1)
		}
	}
	return sev
}

func privileged(r *events.Registration) bool {
	for _, s := range r.Scopes {
		if s == "*" || strings.HasSuffix(s, ":*") || strings.Contains(strings.ToLower(s), "admin") {
			return true
		}
	}
	return false
}

func (e *Engine) alert(info *detect.Info, f *detect.Finding, s subject, c *incident, sev events.Severity) events.AnomalyDetected {
	start := time.Unix(c.hour*3600, 0).UTC()
	evidence := slices.Clone(f.Evidence)
	for _, id := range append(slices.Clone(c.evidence), s.id) {
		if !slices.Contains(evidence, id) {
			evidence = append(evidence, id)
		}
	}
	a := events.AnomalyDetected{
		// The hour, not the first evidence, tells incidents apart: which of two events
		// is seen first depends on the order of arrival, the hour does not.
		Alert:       events.DeterministicID("alert", s.tenant, incidentOf(info, f), s.a.IdentityTenant, s.identity, start.Format(time.RFC3339)),
		Detector:    info.ID,
		Name:        info.Name,
		Severity:    sev,
		Score:       score(sev, f),
		Identity:    s.name(),
		Credential:  s.a.Credential,
		Task:        detect.Clip(s.a.Task, 250),
		Session:     detect.Clip(s.a.Session, 250),
		Explanation: f.Explanation,
		Value:       f.Value,
		Baseline:    f.Baseline,
		Count:       f.Count,
		Threshold:   f.Threshold,
		Evidence:    evidence,
		FirstSeen:   c.first.UTC(),
		LastSeen:    c.last.UTC(),
		References:  info.References,
	}
	if f.Credential != "" {
		a.Credential = f.Credential
	}
	if s.reg != nil {
		a.Owner, a.Feature, a.Purpose = s.reg.Owner, s.reg.Feature, s.reg.Purpose
		if s.reg.Identity != s.identity {
			a.Explanation += "; the log's name " + detect.Clip(s.identity, 160) + " is an alias of " + s.reg.Identity
		}
	} else if s.foreign {
		a.Explanation += "; the identity belongs to tenant " + s.a.IdentityTenant + ", which knows its owner"
	} else {
		a.Owner = s.a.Owner
		a.Explanation += "; the identity is not registered, so nobody is known to answer for it"
	}
	a.Explanation, a.Value, a.Baseline = detect.Clip(a.Explanation, 2000), detect.Clip(a.Value, 1000), detect.Clip(a.Baseline, 1000)
	a.Proposed = propose(f, s, a)
	return a
}

// score is 20, 45, 70 or 90 by severity, plus up to 9 for how far the count is beyond
// the threshold.
func score(sev events.Severity, f *detect.Finding) float64 {
	base := map[events.Severity]float64{events.SeverityLow: 20, events.SeverityMedium: 45, events.SeverityHigh: 70, events.SeverityCritical: 90}[sev]
	if f.Count > 0 && f.Threshold > 0 && float64(f.Count) > f.Threshold {
		base += 9 * (1 - f.Threshold/float64(f.Count))
	}
	return math.Round(base*10) / 10
}

// target is what a response would act on: the credential when Lanyard issued it (it
// carries a lineage), the identity otherwise.
func target(s subject, credential string) events.Target {
	tenant := s.home()
	if credential != "" && (len(s.a.Lineage) > 0 || credential != s.a.Credential) {
		return events.Target{Kind: "credential", Tenant: tenant, ID: credential}
	}
	return events.Target{Kind: "identity", Tenant: tenant, ID: s.name()}
}

// propose writes the response with the exact command that does it.
func propose(f *detect.Finding, s subject, a events.AnomalyDetected) events.Proposed {
	reason := quote(a.Detector + " " + a.Name + " " + a.Alert)
	switch f.Response {
	case detect.RespondRevoke:
		t := target(s, a.Credential)
		return events.Proposed{Response: string(f.Response), Command: fmt.Sprintf("lanyard revoke %s --reason %s --confirm", quote(t.Kind+":"+t.Tenant+"/"+t.ID), reason)}
	case detect.RespondContain:
		return events.Proposed{Response: string(f.Response), Command: fmt.Sprintf("lanyard revoke %s --freeze --reason %s --confirm", quote("identity:"+s.home()+"/"+s.name()), reason)}
	}
	return events.Proposed{Response: string(detect.RespondAlert), Command: "lanyard identity show " + quote(s.home()+"/"+s.name())}
}

// quote makes s one word of a POSIX shell.
func quote(s string) string {
	if s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_-:/@.,+=", r))
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// riskTo raises the risk level of the identity. A level lasts 24 hours of event time.
func (p *identity) riskTo(sev events.Severity, t time.Time) (events.RiskChanged, bool) {
	was := p.risk
	if was == "" || t.After(p.riskUntil) {
		was = events.SeverityLow
	}
	if rank(sev) <= rank(was) {
		return events.RiskChanged{}, false
	}
	p.risk, p.riskUntil = sev, t.Add(riskLasts)
	return events.RiskChanged{Level: string(sev), Previous: string(was)}, true
}

// automatic asks for a revocation when the operator allows it, the evidence is
// deterministic, the alert is at least high and the tenant's limit is not reached. A
// credential is revoked; an identity is only frozen, and only a registered one.
func (e *Engine) automatic(info *detect.Info, f *detect.Finding, s subject, a events.AnomalyDetected) (events.RevocationRequested, bool) {
	if !e.opts.AutoRevoke || info.Response != detect.RespondRevoke || f.Response != detect.RespondRevoke || rank(a.Severity) < rank(events.SeverityHigh) {
		return events.RevocationRequested{}, false
	}
	t := target(s, a.Credential)
	if s.foreign || t.Kind == "identity" && s.reg == nil {
		return events.RevocationRequested{}, false
	}
	near := 0
	for _, at := range e.autos[s.tenant] {
		if d := s.time.Sub(at); d < autoWindow && -d < autoWindow {
			near++
		}
	}
	if near >= autoMax {
		return events.RevocationRequested{}, false
	}
	list := append(e.autos[s.tenant], s.time)
	if len(list) > 2*autoMax {
		list = slices.Clone(list[1:])
	}
	e.autos[s.tenant] = list
	mode := events.ModeRevoke
	if t.Kind == "identity" {
		mode = events.ModeFreeze
	}
	return events.RevocationRequested{Mode: mode, Target: t, Reason: detect.Clip(info.ID+" "+info.Name+": "+a.Explanation, 480),
		RequestedBy: "anomaly/" + info.ID, Automatic: true, Evidence: a.Evidence}, true
}
