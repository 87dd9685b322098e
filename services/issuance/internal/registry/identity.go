// Package registry knows every identity: who answers for it, which feature made it,
// why it exists, how it proves itself, and whether it may be issued anything. Only
// issuance imports it.
//
// The truth about an identity is the fold of its events on the log. Each decision is
// a pure function of that fold and is appended under the condition that the fold is
// still current. The index in Redis only finds candidates.
package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/attest"
)

// Status of an identity.
type Status string

// The states of an identity.
const (
	StatusUnknown Status = "unknown"
	StatusActive  Status = "active"
	StatusFrozen  Status = "frozen"
	StatusRevoked Status = "revoked"
	StatusRetired Status = "retired"
)

// Identity is the folded state of one identity. The zero value is an unknown one.
type Identity struct {
	Registration *events.Registration `json:"registration,omitempty"`
	RegisteredAt time.Time            `json:"registered_at,omitzero"`
	// Freezes in force by key: the id of the revocation, or the text that By of a
	// freeze without one holds (see ownerKey, featureKey).
	Freezes map[string]Freeze `json:"freezes,omitempty"`
	// Risk as risk.changed last had it, and since when. See RiskAt.
	Risk      string    `json:"risk,omitempty"`
	RiskSince time.Time `json:"risk_since,omitzero"`
	Ended     Status    `json:"ended,omitempty"` // StatusRevoked or StatusRetired
	Reason    string    `json:"reason,omitempty"`
	EndedBy   string    `json:"ended_by,omitempty"` // revocation id, or who asked
	// Causes are the ids of the latest events that changed the identity, newest last. A
	// cause that is delivered again finds itself here, even when it was undone since.
	Causes []string `json:"causes,omitempty"`
}

const maxCauses = 32

// Freeze is one reason why nothing is issued for now.
type Freeze struct {
	Reason string     `json:"reason"`
	By     string     `json:"by"`
	Until  *time.Time `json:"until,omitempty"`
}

// Fold applies one event of the log to the state. It is pure and total.
func Fold(s Identity, e bus.Stored) Identity {
	switch e.Event.Type() {
	case events.TypeIdentityRegistered, events.TypeIdentityFrozen, events.TypeIdentityReinstated,
		events.TypeIdentityRevoked, events.TypeIdentityRetired:
	case events.TypeRiskChanged:
		if p, err := events.As[events.RiskChanged](e.Event); err == nil {
			s.Risk, s.RiskSince = p.Level, e.Event.Time()
		}
		return s
	default:
		return s // credentials come and go without a trace in the state
	}
	if c := events.Extension(e.Event, events.ExtCausation); c != "" && !slices.Contains(s.Causes, c) {
		s.Causes = append(slices.Clone(s.Causes[max(0, len(s.Causes)-maxCauses+1):]), c)
	}
	switch e.Event.Type() {
	case events.TypeIdentityRegistered:
		if p, err := events.As[events.IdentityRegistered](e.Event); err == nil && s.Ended == "" {
			s.Registration = &p.Registration
			s.RegisteredAt = e.Event.Time()
		}
	case events.TypeIdentityFrozen:
		if p, err := events.As[events.IdentityFrozen](e.Event); err == nil {
			s.Freezes = cloneWith(s.Freezes, changeKey(p.IdentityChange), Freeze{p.Reason, p.By, p.Until})
		}
	case events.TypeIdentityReinstated:
		if p, err := events.As[events.IdentityReinstated](e.Event); err == nil {
			s.Freezes = cloneWithout(s.Freezes, changeKey(p.IdentityChange))
		}
	case events.TypeIdentityRevoked:
		if p, err := events.As[events.IdentityRevoked](e.Event); err == nil {
			s = end(s, StatusRevoked, p.IdentityChange)
		}
	case events.TypeIdentityRetired:
		if p, err := events.As[events.IdentityRetired](e.Event); err == nil && s.Ended == "" {
			s = end(s, StatusRetired, p.IdentityChange)
		}
	}
	return s
}

func end(s Identity, status Status, c events.IdentityChange) Identity {
	if s.Ended == StatusRevoked {
		return s
	}
	s.Ended, s.Reason, s.EndedBy = status, c.Reason, changeKey(c)
	return s
}

func changeKey(c events.IdentityChange) string {
	if c.Revocation != "" {
		return c.Revocation
	}
	return c.By
}

func cloneWith(m map[string]Freeze, k string, v Freeze) map[string]Freeze {
	out := make(map[string]Freeze, len(m)+1)
	for a, b := range m {
		out[a] = b
	}
	out[k] = v
	return out
}

func cloneWithout(m map[string]Freeze, k string) map[string]Freeze {
	out := make(map[string]Freeze, len(m))
	for a, b := range m {
		if a != k {
			out[a] = b
		}
	}
	return out
}

// Status at now. A freeze whose end has passed no longer counts.
func (s Identity) Status(now time.Time) Status {
	switch {
	case s.Ended != "":
		return s.Ended
	case s.Registration == nil:
		return StatusUnknown
	case s.frozen(now) != nil:
		return StatusFrozen
	}
	return StatusActive
}

// riskLasts is how long a level holds when nothing renews it; detection, which states
// levels, forgets them after the same time and states no fall.
const riskLasts = 24 * time.Hour

// RiskAt is the risk level at now, "" when nothing is known.
func (s Identity) RiskAt(now time.Time) string {
	if now.Sub(s.RiskSince) >= riskLasts {
		return ""
	}
	return s.Risk
}

// Why the identity is not active at now, for people; "" when it is active.
func (s Identity) Why(now time.Time) string {
	switch s.Status(now) {
	case StatusRevoked, StatusRetired:
		return s.Reason
	case StatusFrozen:
		return s.frozen(now).Reason
	}
	return ""
}

func (s Identity) frozen(now time.Time) *Freeze {
	keys := make([]string, 0, len(s.Freezes))
	for k, f := range s.Freezes {
		if f.Until == nil || now.Before(*f.Until) {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil
	}
	f := s.Freezes[slices.Min(keys)]
	return &f
}

// Attests reports whether the identity may prove itself as that subject of issuer, which
// may be one of its own keys.
func (s Identity) Attests(issuer, subject string) bool {
	if s.Registration == nil {
		return false
	}
	return slices.Contains(s.Registration.Attestation, events.Attestation{Issuer: issuer, Subject: subject}) ||
		subject == s.Registration.Identity && attest.OwnKey(issuer, s.Registration.Keys)
}

// MayLaunch reports whether that subject of issuer may start tasks for the identity.
func (s Identity) MayLaunch(issuer, subject string) bool {
	return s.Registration != nil && (len(s.Registration.Launchers) == 0 ||
		slices.Contains(s.Registration.Launchers, events.Attestation{Issuer: issuer, Subject: subject}))
}

// Errors of decisions. None of them is mended by trying again.
var (
	ErrIncomplete = errors.New("the declaration is incomplete")
	ErrEnded      = errors.New("the identity has ended and its id is never used again")
	ErrDeadHandle = errors.New("a revocation forbids it")
)

// Alive reports an error when a handle is dead. The registry asks for the handles of
// a declaration's tenant, owner, feature and identity.
type Alive func(kind lineage.Kind, id string) error

// Declare decides what a declaration changes: nothing when it is already so.
func Declare(s Identity, reg events.Registration, alive Alive) ([]events.Payload, error) {
	if err := complete(reg); err != nil {
		return nil, err
	}
	if s.Ended != "" {
		return nil, fmt.Errorf("declare identity %s: %w: it was %s: %s", reg.Identity, ErrEnded, s.Ended, s.Reason)
	}
	for _, h := range []struct {
		kind lineage.Kind
		id   string
	}{{lineage.KindIdentity, reg.Identity}, {lineage.KindOwner, reg.Owner}, {lineage.KindFeature, reg.Feature}} {
		if err := alive(h.kind, h.id); err != nil {
			return nil, fmt.Errorf("declare identity %s: %w: %w", reg.Identity, ErrDeadHandle, err)
		}
	}
	if s.Registration != nil && same(*s.Registration, reg) {
		return nil, nil
	}
	out := []events.Payload{events.IdentityRegistered{Registration: reg}}
	if s.Registration == nil {
		return out, nil
	}
	// A new owner or feature ends the freeze that the old one brought.
	for _, k := range []struct {
		key, what string
		changed   bool
	}{
		{ownerKey(s.Registration.Owner), "moved to owner " + reg.Owner, reg.Owner != s.Registration.Owner},
		{featureKey(s.Registration.Feature), "moved to feature " + reg.Feature, reg.Feature != s.Registration.Feature},
	} {
		if _, frozen := s.Freezes[k.key]; frozen && k.changed {
			out = append(out, events.IdentityReinstated{IdentityChange: events.IdentityChange{
				Identity: reg.Identity, Reason: k.what, By: k.key}})
		}
	}
	return out, nil
}

func complete(r events.Registration) error {
	err := r.Check()
	if err == nil {
		err = attest.CheckClientKeys(r.Keys)
	}
	if err != nil {
		return fmt.Errorf("declare identity %q: %w: %w", r.Identity, ErrIncomplete, err)
	}
	return nil
}

// same compares what two registrations say, not how.
func same(a, b events.Registration) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	if errX != nil || errY != nil {
		return reflect.DeepEqual(a, b)
	}
	return string(x) == string(y)
}

func ownerKey(owner string) string     { return "owner:" + owner }
func featureKey(feature string) string { return "feature:" + feature }

// freeze decides a freeze; nothing when it is in force already or comes too late.
func freeze(s Identity, c events.IdentityChange) []events.Payload {
	if s.Registration == nil || s.Ended != "" {
		return nil
	}
	if f, ok := s.Freezes[changeKey(c)]; ok && sameTime(f.Until, c.Until) {
		return nil
	}
	return []events.Payload{events.IdentityFrozen{IdentityChange: c}}
}

func sameTime(a, b *time.Time) bool {
	return a == b || a != nil && b != nil && a.Equal(*b)
}

// revoke decides the end of an identity; nothing when it was revoked before.
func revoke(s Identity, c events.IdentityChange) []events.Payload {
	if s.Registration == nil || s.Ended == StatusRevoked {
		return nil
	}
	return []events.Payload{events.IdentityRevoked{IdentityChange: c}}
}

// reinstate ends one freeze.
func reinstate(s Identity, c events.IdentityChange) []events.Payload {
	if _, ok := s.Freezes[changeKey(c)]; !ok || s.Ended != "" {
		return nil
	}
	return []events.Payload{events.IdentityReinstated{IdentityChange: c}}
}

// depart decides what the departure of an owner does to one of its identities: it
// moves to the successor, or is frozen until somebody declares a new owner.
func depart(s Identity, p events.OwnerDeparted) []events.Payload {
	if s.Registration == nil || s.Ended != "" || s.Registration.Owner != p.Owner {
		return nil
	}
	if p.Successor != "" && p.Successor != p.Owner {
		reg := *s.Registration
		reg.Owner = p.Successor
		return []events.Payload{events.IdentityRegistered{Registration: reg}}
	}
	reason := "owner " + p.Owner + " departed"
	if p.Reason != "" {
		reason += ": " + p.Reason
	}
	return freeze(s, events.IdentityChange{Identity: s.Registration.Identity, Reason: reason, By: ownerKey(p.Owner)})
}

// disable decides what switching a feature off does to one of its identities.
func disable(s Identity, p events.FeatureDisabled) []events.Payload {
	if s.Registration == nil || s.Registration.Feature != p.Feature {
		return nil
	}
	return freeze(s, events.IdentityChange{Identity: s.Registration.Identity, By: featureKey(p.Feature),
		Reason: "feature " + p.Feature + " disabled by " + p.By + ": " + p.Reason})
}
