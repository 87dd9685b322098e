package engine

import (
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/detect"
)

// Bounds of the incidents kept per identity.
const (
	maxIncidents = 6
	maxEvidence  = 3
	maxIDLen     = 64
	maxName      = 256            // longer names of identities are kept as a prefix and a hash
	window       = time.Hour      // of one incident
	riskLasts    = 24 * time.Hour // how long a risk level stays without a new alert
)

// identity is everything kept of one identity.
type identity struct {
	key        string
	prev, next *identity
	state      detect.State
	incidents  []incident
	risk       events.Severity
	riskUntil  time.Time
}

// incident collects what one detector finds about one identity within one hour of
// event time. The window is fixed, not sliding, so that it does not depend on the
// order of arrival.
type incident struct {
	detector    string
	hour        int64
	severity    events.Severity
	count       int64
	first, last time.Time
	touched     int64
	evidence    []string
}

// home is the identity's tenant when it is not the one that reports.
func home(m Meta, a *events.Activity) string {
	if a.IdentityTenant == m.Tenant {
		return ""
	}
	return a.IdentityTenant
}

// identity finds or makes the state of an identity as one tenant sees it. The
// reporting tenant is part of the key: what one tenant reports never changes what
// another is told.
func (e *Engine) identity(tenant, home, name string) *identity {
	if len(name) > maxName {
		name = name[:maxName/2] + events.DeterministicID(name)
	}
	var buf [320]byte
	b := append(append(append(append(append(buf[:0], tenant...), 0), home...), 0), name...)
	p, ok := e.people[string(b)]
	if !ok {
		if len(e.people) >= e.opts.MaxIdentities {
			old := e.lru.prev
			old.unlink()
			delete(e.people, old.key)
		}
		p = &identity{key: string(b)}
		e.people[p.key] = p
	} else {
		p.unlink()
	}
	p.prev, p.next = &e.lru, e.lru.next
	p.prev.next, p.next.prev = p, p
	return p
}

func (p *identity) unlink() { p.prev.next, p.next.prev = p.next, p.prev }

func (p *identity) bytes() int {
	n := len(p.key) + 120 + p.state.Bytes() + cap(p.incidents)*136
	for _, i := range p.incidents {
		n += cap(i.evidence) * 16
		for _, s := range i.evidence {
			n += len(s)
		}
	}
	return n
}

func hourOf(t time.Time) int64 {
	s := t.Unix()
	h := s / 3600
	if s%3600 < 0 {
		h--
	}
	return h
}

// evidence reports whether the event is already part of the incident it belongs to.
func (p *identity) evidence(detector string, t time.Time, id string) bool {
	for _, i := range p.incidents {
		if i.detector == detector && i.hour == hourOf(t) {
			return slices.Contains(i.evidence, id)
		}
	}
	return false
}

// collect adds one finding to its incident and reports whether it is new or worse
// than before.
func (p *identity) collect(detector string, severity events.Severity, t time.Time, ids []string) (*incident, bool) {
	h := hourOf(t)
	var touched int64
	for i := range p.incidents {
		touched = max(touched, p.incidents[i].touched)
	}
	for i := range p.incidents {
		c := &p.incidents[i]
		if c.detector != detector || c.hour != h {
			continue
		}
		c.count++
		c.touched = touched + 1
		c.add(t, ids)
		if rank(severity) <= rank(c.severity) {
			return c, false
		}
		c.severity = severity
		return c, true
	}
	c := incident{detector: detector, hour: h, severity: severity, count: 1, first: t, last: t, touched: touched + 1}
	c.add(t, ids)
	if len(p.incidents) < maxIncidents {
		p.incidents = append(p.incidents, c)
		return &p.incidents[len(p.incidents)-1], true
	}
	old := 0
	for i := range p.incidents {
		if p.incidents[i].touched < p.incidents[old].touched {
			old = i
		}
	}
	p.incidents[old] = c
	return &p.incidents[old], true
}

func (c *incident) add(t time.Time, ids []string) {
	if t.Before(c.first) {
		c.first = t
	}
	if t.After(c.last) {
		c.last = t
	}
	for _, id := range ids {
		if len(c.evidence) < maxEvidence && len(id) <= maxIDLen && !slices.Contains(c.evidence, id) {
			c.evidence = append(c.evidence, strings.Clone(id))
		}
	}
}

// rank orders severities, 0 for none.
func rank(s events.Severity) int {
	return 1 + slices.Index([]events.Severity{events.SeverityLow, events.SeverityMedium, events.SeverityHigh, events.SeverityCritical}, s)
}

// shift moves a severity by steps, within the scale.
func shift(s events.Severity, steps int) events.Severity {
	all := [...]events.Severity{events.SeverityLow, events.SeverityMedium, events.SeverityHigh, events.SeverityCritical}
	return all[min(max(rank(s)-1+steps, 0), len(all)-1)]
}
