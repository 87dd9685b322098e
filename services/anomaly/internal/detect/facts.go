package detect

import (
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// Interval is a time in which something was revoked or frozen.
type Interval struct {
	From       time.Time
	Until      time.Time // zero: no end
	By         string
	Reason     string
	Revocation string
	What       string // what was ended, for people
	Freeze     bool
}

// Trust is one trust record between two tenants.
type Trust struct {
	ID       string
	From, To string // From delegates to To
	Scopes   []string
	MaxDepth int
	Since    time.Time
	Ended    time.Time // zero: in force
}

// Minted is a credential that one identity made.
type Minted struct {
	By, Tenant string
	Event      string
	At         time.Time
	Network    string
}

// maxMinted bounds how many minted credentials are remembered, oldest out first.
const maxMinted = 1 << 16

// maxIntervals bounds the intervals per revoked thing, oldest out first.
const maxIntervals = 8

// Facts is what detectors need of the log: registrations, revocations, trusts and
// announced changes, each with its event time, so that a decision depends on when
// things happened and not on which stream was read first. It must only be changed by
// one goroutine at a time.
type Facts struct {
	Config Config
	Off    map[string]bool // detectors that are switched off

	regs      map[pair]*events.Registration // tenant, identity
	alias     map[pair]string               // tenant, alias -> identity
	ended     map[Name][]Interval
	trusts    map[pair][]Trust   // from, to
	changes   map[pair]time.Time // tenant, object -> last announced change
	minted    map[string]Minted
	mintOrder []string
	tenants   map[string]bool
	peers     map[pair]*peers // tenant, owner

	superseded  map[pair]succession // tenant, old credential
	tokens      tokens
	decoys      map[pair]bool      // tenant, name
	departed    map[pair]time.Time // tenant, owner
	exposed     map[pair]exposure  // tenant, credential
	lately      map[lateKey]onlooker
	latelyOrder []lateKey
	latelyNext  int
}

// NewFacts returns facts of which nothing is known yet.
func NewFacts(c Config) *Facts {
	return &Facts{Config: c, Off: map[string]bool{}, peers: map[pair]*peers{}, lately: map[lateKey]onlooker{}, superseded: map[pair]succession{}, decoys: map[pair]bool{}, departed: map[pair]time.Time{}, exposed: map[pair]exposure{},
		regs: map[pair]*events.Registration{}, alias: map[pair]string{},
		ended: map[Name][]Interval{}, trusts: map[pair][]Trust{}, changes: map[pair]time.Time{},
		minted: map[string]Minted{}, tenants: map[string]bool{}}
}

type pair struct{ a, b string }

// Name is what can be ended: a thing by kind, tenant and id, or a handle.
type Name struct{ Kind, Tenant, ID string }

// HandleName is the name of a handle.
func HandleName(handle string) Name { return Name{ID: handle} }

// Register notes a registration; a later one replaces it.
func (f *Facts) Register(tenant string, r events.Registration) {
	f.tenants[tenant] = true
	f.regs[pair{tenant, r.Identity}] = &r
	for _, a := range r.Aliases {
		f.alias[pair{tenant, a}] = r.Identity
	}
}

// Registration finds an identity by its id or by an alias; nil when unknown.
func (f *Facts) Registration(tenant, name string) *events.Registration {
	if r := f.regs[pair{tenant, name}]; r != nil {
		return r
	}
	if id, ok := f.alias[pair{tenant, name}]; ok {
		return f.regs[pair{tenant, id}]
	}
	return nil
}

// Known reports whether the tenant is one of ours.
func (f *Facts) Known(tenant string) bool { return f.tenants[tenant] }

// End notes that the named thing was ended.
func (f *Facts) End(key Name, i Interval) {
	list := f.ended[key]
	for k := range list {
		if list[k].Revocation != "" && list[k].Revocation == i.Revocation && list[k].Freeze == i.Freeze {
			if i.From.Before(list[k].From) {
				list[k].From = i.From
			}
			return
		}
	}
	list = append(list, i)
	if len(list) > maxIntervals {
		list = list[1:]
	}
	f.ended[key] = list
}

// Lift ends the freezes under key at t; with a revocation id, that one only.
func (f *Facts) Lift(key Name, revocation string, t time.Time) {
	list := f.ended[key]
	for k := range list {
		if list[k].Freeze && (revocation == "" || list[k].Revocation == revocation) &&
			(list[k].Until.IsZero() || t.Before(list[k].Until)) {
			list[k].Until = t
		}
	}
}

// Ended finds the interval under key in which t lies by more than skew; a final end
// goes before a freeze, then the earlier one.
func (f *Facts) Ended(key Name, t time.Time, skew time.Duration) (Interval, bool) {
	var best Interval
	found := false
	for _, i := range f.ended[key] {
		if !t.After(i.From.Add(skew)) || !i.Until.IsZero() && !t.Before(i.Until) {
			continue
		}
		if !found || best.Freeze && !i.Freeze || best.Freeze == i.Freeze && i.From.Before(best.From) {
			best, found = i, true
		}
	}
	return best, found
}

// DeclareTrust notes a trust record.
func (f *Facts) DeclareTrust(t Trust) {
	f.tenants[t.From], f.tenants[t.To] = true, true
	k := pair{t.From, t.To}
	for i, o := range f.trusts[k] {
		if o.ID == t.ID && o.Since.Equal(t.Since) {
			t.Ended = o.Ended
			f.trusts[k][i] = t
			return
		}
	}
	f.trusts[k] = append(f.trusts[k], t)
}

// EndTrust notes that a trust record was revoked at t.
func (f *Facts) EndTrust(id string, t time.Time) {
	from, to, ok := strings.Cut(id, "->")
	if !ok {
		return
	}
	list := f.trusts[pair{from, to}]
	for i := range list {
		if list[i].ID == id && !list[i].Since.After(t) && (list[i].Ended.IsZero() || t.Before(list[i].Ended)) {
			list[i].Ended = t
		}
	}
}

// TrustAt finds the trust record from one tenant to another that was in force at t.
func (f *Facts) TrustAt(from, to string, t time.Time) (Trust, bool) {
	for _, r := range f.trusts[pair{from, to}] {
		if !t.Before(r.Since) && (r.Ended.IsZero() || t.Before(r.Ended)) {
			return r, true
		}
	}
	return Trust{}, false
}

// Announce notes a change that a lifecycle event announced about object.
func (f *Facts) Announce(tenant, object string, t time.Time) {
	k := pair{tenant, object}
	if t.After(f.changes[k]) {
		f.changes[k] = t
	}
}

// Announced reports whether a change about object was announced in the 24 hours before t.
func (f *Facts) Announced(tenant, object string, t time.Time) bool {
	at, ok := f.changes[pair{tenant, object}]
	return ok && !at.After(t.Add(Lateness)) && t.Sub(at) < 24*time.Hour
}

// Mint notes who made a credential.
func (f *Facts) Mint(credential string, m Minted) {
	k := strings.Clone(credential)
	if _, ok := f.minted[k]; ok {
		return
	}
	if len(f.mintOrder) == maxMinted {
		delete(f.minted, f.mintOrder[0])
		f.mintOrder = slices.Delete(f.mintOrder, 0, 1)
	}
	f.mintOrder = append(f.mintOrder, k)
	f.minted[k] = m
}

// MintedBy finds who made a credential.
func (f *Facts) MintedBy(credential string) (Minted, bool) {
	m, ok := f.minted[credential]
	return m, ok
}

// LiftRevocation ends the freeze of one revocation at t, under its handle and under
// the names that were noted with it.
func (f *Facts) LiftRevocation(handle, revocation string, t time.Time) {
	f.Lift(HandleName(handle), revocation, t)
	for key, list := range f.ended { // the outcome does not depend on the order
		if key.Kind != "" && slices.ContainsFunc(list, func(i Interval) bool { return i.Revocation == revocation }) {
			f.Lift(key, revocation, t)
		}
	}
}
