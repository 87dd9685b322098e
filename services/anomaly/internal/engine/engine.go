// Package engine turns activities and lifecycle facts into alerts. It is a pure
// state machine: what it answers depends only on what it was given and in which
// order, never on a clock, so that reading the streams again makes the same state
// and the same alerts. Only the anomaly service imports it.
package engine

import (
	"strings"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/detect"
)

// Options of an Engine.
type Options struct {
	// Disabled detectors, by id. They keep their state but raise nothing.
	Disabled []string
	// AutoRevoke lets findings on deterministic evidence ask for revocations.
	AutoRevoke bool
	// MaxDepth is the longest delegation chain that policy allows. Default 4.
	MaxDepth int
	// Thresholds of the detectors; nil is detect.DefaultConfig.
	Thresholds *detect.Config
	// Expected finds the alert whose mark says that the suspect is expected. It must
	// depend on nothing but what was given to it in the order of the log. Nil: nothing is.
	Expected func(Suspect) (alert string, ok bool)
	// MaxIdentities bounds how many identities are remembered; the least recently
	// used one makes room. Default 2,000,000.
	MaxIdentities int
}

// Sizes of what is kept besides identities.
const (
	dedupeSize  = 1 << 19 // event ids per generation; two are kept
	outputsSize = 1 << 13 // causes whose outputs are kept for redelivery
	recentSize  = 1 << 13 // uses to which a revocation that arrives late is applied
)

// Meta is what the engine needs of an envelope.
type Meta struct {
	ID     string
	Source string
	Tenant string
	Time   time.Time // event time
}

// MetaOf reads it.
func MetaOf(e events.Event) Meta {
	return Meta{ID: e.ID(), Source: e.Source(), Tenant: events.Tenant(e), Time: e.Time()}
}

// Output is an event that the engine decided. Its id does not depend on what caused
// it, so the same conclusion is always the same event.
type Output struct {
	ID      string
	Tenant  string
	Time    time.Time
	Payload events.Payload
}

// Engine holds the state of every identity. It is safe for concurrent use; inputs
// are applied one at a time.
type Engine struct {
	mu        sync.Mutex
	opts      Options
	detectors []detect.Detector
	off       map[string]bool
	facts     *detect.Facts
	people    map[string]*identity // tenant NUL identity as the record names it
	lru       identity             // ring head, most recent next to it
	seen      dedupe
	outputs   outputs
	recent    []use
	recentAt  int
	autos     map[string][]time.Time // automatic revocations per tenant
}

// use is one activity that a revocation may still have to be applied to.
type use struct {
	meta Meta
	a    *events.Activity
}

// New returns an engine that knows nothing yet.
func New(o Options) *Engine {
	cfg := detect.DefaultConfig()
	if o.Thresholds != nil {
		cfg = *o.Thresholds
	}
	if o.MaxDepth > 0 {
		cfg.MaxDepth = o.MaxDepth
	}
	if o.MaxIdentities <= 0 {
		o.MaxIdentities = 2_000_000
	}
	e := &Engine{opts: o, detectors: detect.Activities(), off: map[string]bool{}, facts: detect.NewFacts(cfg),
		people: map[string]*identity{}, seen: newDedupe(dedupeSize), outputs: newOutputs(outputsSize), autos: map[string][]time.Time{}}
	e.lru.next, e.lru.prev = &e.lru, &e.lru
	for _, d := range o.Disabled {
		e.off[d] = true
		e.facts.Off[d] = true
	}
	return e
}

// Activity judges one use. The activity must not be changed afterwards.
func (e *Engine) Activity(m Meta, a *events.Activity) []Output {
	return e.once(m, func() []Output {
		in := detect.Prepare(m.ID, m.Tenant, m.Time, a, e.facts)
		p := e.identity(m.Tenant, home(m, a), a.Identity)
		if p.state.Uses == 0 {
			in.Joined()
		}
		e.remember(m, a)
		var out []Output
		raised := false
		for i := range e.detectors {
			d := &e.detectors[i]
			f := d.Judge(in, &p.state)
			if f == nil {
				continue
			}
			info := &d.Info
			if f.Detector != "" && f.Detector != d.ID {
				other, _ := detect.InfoOf(f.Detector)
				info = &other
			}
			if e.off[info.ID] {
				continue
			}
			raised = true
			out = append(out, e.raise(p, info, f, subject{id: m.ID, time: m.Time, tenant: m.Tenant, identity: a.Identity, foreign: in.Foreign(), reg: in.Reg, a: a})...)
		}
		p.state.Seen(in, !raised)
		if n := p.bytes(); n > detect.MaxBytes {
			p.state.Trim(n - detect.MaxBytes)
		}
		return out
	})
}

// SecretExposed raises what a scanner reports.
func (e *Engine) SecretExposed(m Meta, p *events.SecretExposed) []Output {
	return e.once(m, func() []Output {
		name := p.Entity()
		e.facts.NoteExposed(m.Tenant, m.ID, p)
		return e.log(m, "D08", m.Tenant, name, nil, detect.Exposed(p))
	})
}

// DelegationCreated judges one step of acting for another on both of its sides.
func (e *Engine) DelegationCreated(m Meta, p *events.DelegationCreated) []Output {
	return e.once(m, func() []Output {
		out := e.log(m, "D06", m.Tenant, p.Identity, p.Lineage, detect.Delegated(e.facts, m.Tenant, m.Time, p))
		if p.From.Identity != "" && p.From.Tenant != "" {
			from := e.identity(p.From.Tenant, "", p.From.Identity)
			out = append(out, e.log(m, "D28", p.From.Tenant, p.From.Identity, nil, detect.FannedOut(&from.state, m.Tenant, m.ID, m.Time, p))...)
		}
		return out
	})
}

// log raises a finding on an event of the log.
func (e *Engine) log(m Meta, detector, tenant, name string, lineage []string, f *detect.Finding) []Output {
	if f == nil || e.off[detector] {
		return nil
	}
	info, _ := detect.InfoOf(detector)
	return e.raise(e.identity(tenant, "", name), &info, f, subject{id: m.ID, time: m.Time, tenant: tenant, identity: name,
		reg: e.facts.Registration(tenant, name), a: &events.Activity{Identity: name, Credential: f.Credential, Lineage: lineage}})
}

// Registered notes a registration.
func (e *Engine) Registered(m Meta, r events.Registration) {
	e.once(m, func() []Output { e.facts.Register(m.Tenant, r); return nil })
}

// TrustDeclared notes a trust record from the event's tenant to another.
func (e *Engine) TrustDeclared(m Meta, p *events.TrustDeclared) {
	e.once(m, func() []Output {
		e.facts.DeclareTrust(detect.Trust{ID: p.Trust, From: m.Tenant, To: p.To, Scopes: p.Scopes, MaxDepth: p.MaxDepth, Since: m.Time})
		return nil
	})
}

// Rotated notes a change that was announced: new keys are then expected.
func (e *Engine) Rotated(m Meta, p events.Rotation) {
	e.once(m, func() []Output { e.facts.Announce(m.Tenant, p.Object, m.Time); return nil })
}

// Activated notes that a successor took over from the key before it.
func (e *Engine) Activated(m Meta, p events.Rotation) {
	e.once(m, func() []Output {
		e.facts.Announce(m.Tenant, p.Object, m.Time)
		e.facts.Supersede(m.Tenant, p.Previous, p.KeyID, p.Object, m.Time)
		return nil
	})
}

// OwnerDeparted notes that an owner left and nobody took over.
func (e *Engine) OwnerDeparted(m Meta, p *events.OwnerDeparted) {
	e.once(m, func() []Output {
		if p.Successor == "" {
			e.facts.Departed(m.Tenant, p.Owner, m.Time)
		}
		return nil
	})
}

// Decoy notes that a credential or a resource of the tenant is a decoy.
func (e *Engine) Decoy(tenant, name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.facts.Decoy(tenant, name)
}

// RevocationAccepted notes the end of a handle and of what it stands for, and
// applies it to the uses that arrived before it.
func (e *Engine) RevocationAccepted(m Meta, p *events.RevocationAccepted) []Output {
	return e.once(m, func() []Output {
		i := detect.Interval{From: p.AcceptedAt, By: p.By, Reason: p.Reason, Revocation: p.Revocation,
			What: strings.TrimSpace("the " + p.Target.Kind + " " + p.Target.ID), Freeze: p.Mode == events.ModeFreeze}
		if p.Target.Kind == "" {
			i.What = "the lineage handle " + p.Handle
		}
		if i.Freeze && p.Until != nil {
			i.Until = *p.Until
		}
		e.facts.End(detect.HandleName(p.Handle), i)
		if p.Target.Kind != "" {
			e.facts.End(detect.Name{Kind: p.Target.Kind, Tenant: p.Target.Tenant, ID: p.Target.ID}, i)
		}
		if p.Target.Kind == "trust" && p.Mode == events.ModeRevoke {
			e.facts.EndTrust(p.Target.ID, p.AcceptedAt)
		}
		return e.reconsider(p.AcceptedAt)
	})
}

// RevocationLifted ends a freeze.
func (e *Engine) RevocationLifted(m Meta, p *events.RevocationLifted) {
	e.once(m, func() []Output { e.facts.LiftRevocation(p.Handle, p.Revocation, p.LiftedAt); return nil })
}

// IdentityEnded notes that an identity was revoked or retired (for good), or frozen.
func (e *Engine) IdentityEnded(m Meta, p events.IdentityChange, freeze bool) []Output {
	return e.once(m, func() []Output {
		i := detect.Interval{From: m.Time, By: p.By, Reason: p.Reason, Revocation: p.Revocation, What: "the identity " + p.Identity, Freeze: freeze}
		if freeze && p.Until != nil {
			i.Until = *p.Until
		}
		e.facts.End(detect.Name{Kind: "identity", Tenant: m.Tenant, ID: p.Identity}, i)
		return e.reconsider(m.Time)
	})
}

// IdentityReinstated ends the freezes of an identity.
func (e *Engine) IdentityReinstated(m Meta, p events.IdentityChange) {
	e.once(m, func() []Output {
		e.facts.Lift(detect.Name{Kind: "identity", Tenant: m.Tenant, ID: p.Identity}, "", m.Time)
		return nil
	})
}

// remember keeps the use for a revocation that arrives after it.
func (e *Engine) remember(m Meta, a *events.Activity) {
	if len(e.recent) < recentSize {
		e.recent = append(e.recent, use{m, a})
		return
	}
	e.recent[e.recentAt] = use{m, a}
	e.recentAt = (e.recentAt + 1) % recentSize
}

// reconsider applies D01 to the remembered uses after from.
func (e *Engine) reconsider(from time.Time) []Output {
	if e.off["D01"] {
		return nil
	}
	var out []Output
	d := &e.detectors[0] // D01
	for i := range e.recent {
		u := e.recent[(e.recentAt+i)%len(e.recent)]
		if !u.meta.Time.After(from) {
			continue
		}
		in := detect.Prepare(u.meta.ID, u.meta.Tenant, u.meta.Time, u.a, e.facts)
		p := e.identity(u.meta.Tenant, home(u.meta, u.a), u.a.Identity)
		if f := d.Judge(in, &p.state); f != nil && !p.evidence(d.ID, u.meta.Time, u.meta.ID) {
			out = append(out, e.raise(p, &d.Info, f, subject{id: u.meta.ID, time: u.meta.Time, tenant: u.meta.Tenant, identity: u.a.Identity, foreign: in.Foreign(), reg: in.Reg, a: u.a})...)
		}
	}
	return out
}

// Stats are the engine's sizes.
type Stats struct {
	Identities int
	Remembered int // event ids kept for de-duplication
}

// Stats reads them.
func (e *Engine) Stats() Stats {
	e.mu.Lock()
	defer e.mu.Unlock()
	return Stats{Identities: len(e.people), Remembered: e.seen.len()}
}

// Largest is the estimated size in bytes of the largest identity's state.
func (e *Engine) Largest() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, p := range e.people {
		n = max(n, p.bytes())
	}
	return n
}
