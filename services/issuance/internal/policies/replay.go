package policies

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/policy"
)

// History is what a replay needs of the bus.
type History interface {
	SequenceAt(ctx context.Context, stream, filter string, t time.Time) (uint64, error)
	Read(ctx context.Context, stream, filter string, from uint64) iter.Seq2[bus.Stored, error]
}

// Exceptions are those in force for an identity of a feature.
type Exceptions func(now time.Time, tenant, identity, feature string) []events.ExceptionGranted

// maxChanges is how many changes a replay lists; it counts the others.
const maxChanges = 20_000

// The two kinds of change.
const (
	Gain = "gain"
	Lose = "lose"
)

// Why a decision could not be replayed.
const (
	NoPolicy  = "refused before any policy was asked"
	NoContext = "recorded without its context"
)

// Change is access that an identity would gain or lose.
type Change struct {
	Change   string    `json:"change"`
	Tenant   string    `json:"tenant"`
	Identity string    `json:"identity"`
	Scope    string    `json:"scope"`
	Audience string    `json:"audience"`
	Count    int       `json:"count"` // decisions
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	Policies []string  `json:"policies"` // that decide the latest of them now; none permits when empty
}

// Totals is how a replay went.
type Totals struct {
	Version     string         `json:"version"`
	Since       time.Time      `json:"since"`
	Decisions   int            `json:"decisions"` // replayed
	Same        int            `json:"same"`
	Gaining     int            `json:"gaining"` // decisions in which something would be gained
	Losing      int            `json:"losing"`
	Shorter     int            `json:"shorter"` // tokens that would live shorter
	Changes     int            `json:"changes"`
	Unlisted    int            `json:"unlisted"` // occurrences of changes beyond those listed
	NotReplayed map[string]int `json:"not_replayed"`
}

// access is what changes are counted by.
type access struct{ change, tenant, identity, scope, audience string }

// replay decides past requests again by set. Its memory is bounded by maxChanges.
type replay struct {
	set        *policy.Set
	exceptions Exceptions
	now        time.Time
	totals     Totals
	changes    map[access]*Change
}

func newReplay(set *policy.Set, x Exceptions, now, since time.Time) *replay {
	return &replay{set: set, exceptions: x, now: now, changes: map[access]*Change{},
		totals: Totals{Version: set.Version(), Since: since, NotReplayed: map[string]int{}}}
}

// run replays what h holds since then; progress is called now and again.
func (r *replay) run(ctx context.Context, h History, progress func(Totals)) error {
	for _, verb := range []string{"issued", "denied"} {
		filter := events.LogSubject("*", "credential", verb, "*")
		from, err := h.SequenceAt(ctx, bus.StreamLog, filter, r.totals.Since)
		if err != nil {
			return err
		}
		if from == 0 {
			continue
		}
		for s, err := range h.Read(ctx, bus.StreamLog, filter, from) {
			if err != nil {
				return fmt.Errorf("read past decisions: %w", err)
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			r.event(s.Event)
			if n := r.totals.Decisions; n > 0 && n%5000 == 0 {
				progress(r.totals)
			}
		}
	}
	r.totals.Changes = len(r.changes)
	return nil
}

func (r *replay) event(e events.Event) {
	switch e.Type() {
	case events.TypeCredentialIssued:
		if p, err := events.As[events.CredentialIssued](e); err == nil {
			r.decision(e, p.Identity, p.Task, p.Context, p.Scope, p.Policy, p.ExpiresAt.Sub(p.IssuedAt))
		}
	case events.TypeCredentialDenied:
		if p, err := events.As[events.CredentialDenied](e); err == nil {
			r.decision(e, p.Identity, p.Task, p.Context, nil, p.Policy, 0)
		}
	}
}

// decision decides one request again. granted is the scope that it got.
func (r *replay) decision(e events.Event, identity, task string, c *events.DecisionContext, granted []string, version string, life time.Duration) {
	if c == nil {
		why := NoContext
		if e.Type() == events.TypeCredentialDenied && len(version) > 0 && version == invariants {
			why = NoPolicy
		}
		r.totals.NotReplayed[why]++
		return
	}
	tenant := events.Tenant(e)
	f := policy.Facts{Tenant: tenant, Identity: identity, Task: task, Time: e.Time(), Context: *c}
	for _, x := range r.exceptions(r.now, tenant, identity, c.Feature) {
		f.Exceptions = append(f.Exceptions, policy.Exception{ID: x.Exception, Policy: x.Policy, Scopes: x.Scopes, Audiences: x.Audiences})
	}
	would := r.set.Ask(f).Rule(c.Scope, c.Audience, c.OpenScope)
	r.totals.Decisions++
	gains, losses := 0, 0
	for _, scope := range c.Scope {
		was, is := slices.Contains(granted, scope), slices.Contains(would.Scope, scope)
		if was == is {
			continue
		}
		change := Lose
		if is {
			change = Gain
			gains++
		} else {
			losses++
		}
		for _, audience := range c.Audience {
			r.count(access{change, tenant, identity, scope, audience}, e.Time(), reasons(would, scope))
		}
	}
	switch {
	case gains > 0:
		r.totals.Gaining++
	case losses > 0:
		r.totals.Losing++
	default:
		r.totals.Same++
		if would.MaxTTL > 0 && life > would.MaxTTL {
			r.totals.Shorter++
		}
	}
}

// reasons is why scope would be granted or not: the forbids that stand against it, or
// against what was asked together with it.
func reasons(r policy.Ruling, scope string) []string {
	var own []string
	for _, d := range r.Denials {
		if d.Scope == scope {
			own = append(own, d.Reasons...)
		}
	}
	if len(own) == 0 {
		return append([]string{}, r.Reasons...)
	}
	slices.Sort(own)
	return slices.Compact(own)
}

func (r *replay) count(a access, at time.Time, policies []string) {
	c := r.changes[a]
	if c == nil {
		if len(r.changes) >= maxChanges {
			r.totals.Unlisted++
			return
		}
		c = &Change{Change: a.change, Tenant: a.tenant, Identity: a.identity, Scope: a.scope, Audience: a.audience, First: at, Last: at}
		r.changes[a] = c
	}
	c.Count++
	if at.Before(c.First) {
		c.First = at
	}
	if !at.Before(c.Last) {
		c.Last, c.Policies = at, policies
	}
}

// list is the changes, losses first, the most frequent first.
func (r *replay) list() []*Change {
	out := make([]*Change, 0, len(r.changes))
	for _, c := range r.changes {
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *Change) int {
		return cmp.Or(-cmp.Compare(a.Change, b.Change), -cmp.Compare(a.Count, b.Count), cmp.Compare(a.Tenant, b.Tenant),
			cmp.Compare(a.Identity, b.Identity), cmp.Compare(a.Scope, b.Scope), cmp.Compare(a.Audience, b.Audience))
	})
	return out
}
