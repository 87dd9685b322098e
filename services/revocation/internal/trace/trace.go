// Package trace tells whose credential it is and what it did, from the log: its
// lineage up to the person who answers for it, and every call, exchange, derived
// credential, denial and revocation. It traces tasks, delegations, identities,
// revocations, managed secrets, alerts and single events the same way. Only
// revocation imports it.
package trace

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/graph"
)

// ErrUnknown: nothing on the log is called so.
var ErrUnknown = errors.New("no such thing")

// ErrBadQuery: the question makes no sense.
var ErrBadQuery = errors.New("bad question")

// Log is what a trace needs of the bus.
type Log interface {
	Read(ctx context.Context, stream, filter string, from uint64) iter.Seq2[bus.Stored, error]
	LastSequence(ctx context.Context, stream, filter string) (uint64, error)
}

// Graph is an index; what it does not hold is read from the log.
type Graph interface {
	Credential(ctx context.Context, id string) (graph.Record, error)
	Names(ctx context.Context, handles ...string) (map[string]events.Named, error)
}

// Limit is the most lines of a timeline and the most descendants, unless the query
// says less. Budget is how many records a trace reads.
const (
	Limit  = 2000
	Budget = 1_000_000
)

// lookBack is how far the log is searched for a name when it is too large to be read
// whole; recent how far back a thing that lives long is followed, unless told.
const (
	lookBack = 7 * 24 * time.Hour
	recent   = 24 * time.Hour
)

// The kinds of subjects beside those of handles.
const (
	KindRevocation = "revocation"
	KindSecret     = "secret"
	KindEvent      = "event" // an alert is one
)

// Query is the question.
type Query struct {
	ID     string
	Kind   string    // a kind of handle, or one of the above; empty: whatever is called ID
	Tenant string    // of the thing; empty: the caller's, or wherever it is found
	Since  time.Time // zero: from the credential's issue, for others a day ago
	Limit  int       // 0: Limit
}

// Step is one credential of a chain, or below the subject. Of a credential that the
// caller may not read nothing but Hidden is set.
type Step struct {
	Credential string              `json:"credential,omitempty"`
	Tenant     string              `json:"tenant,omitempty"`
	Identity   string              `json:"identity,omitempty"`
	Owner      string              `json:"owner,omitempty"`
	Feature    string              `json:"feature,omitempty"`
	Task       string              `json:"task,omitempty"`
	Purpose    string              `json:"purpose,omitempty"`
	Parent     string              `json:"parent,omitempty"`
	Delegation string              `json:"delegation,omitempty"`
	Policy     string              `json:"policy,omitempty"`
	Reasons    []string            `json:"policy_reasons,omitempty"`
	Exceptions []string            `json:"exceptions,omitempty"`
	Attested   *events.Attestation `json:"attested,omitempty"`
	LaunchedBy *events.Attestation `json:"launched_by,omitempty"`
	Audience   []string            `json:"audience,omitempty"`
	Scope      []string            `json:"scope,omitempty"`
	IssuedAt   time.Time           `json:"issued_at,omitzero"`
	ExpiresAt  time.Time           `json:"expires_at,omitzero"`
	Calls      int                 `json:"calls,omitzero"`  // made with it
	Denied     int                 `json:"denied,omitzero"` // of those and of exchanges
	LastCall   time.Time           `json:"last_call,omitzero"`
	Revocation string              `json:"revocation,omitempty"` // the first that ended it
	Hidden     bool                `json:"hidden,omitzero"`      // it belongs to a tenant the caller may not read

	lineage []string
}

// Subject is what was asked for. Its Step is that of the credential, or as much of it
// as is true of another thing.
type Subject struct {
	Kind        string `json:"kind"`
	ID          string `json:"id"`
	Handle      string `json:"handle,omitempty"`
	TokenSHA256 string `json:"token_sha256,omitempty"`
	KeyID       string `json:"key_id,omitempty"`
	Step
}

// Moment is one line of the timeline.
type Moment struct {
	Time    time.Time `json:"time"`
	Type    string    `json:"type"`
	Tenant  string    `json:"tenant,omitempty"` // empty: of a tenant the caller may not read
	Summary string    `json:"summary"`
	Event   string    `json:"event,omitempty"` // id
}

// Answer is a whole trace.
type Answer struct {
	Subject           Subject        `json:"subject"`
	Lineage           []events.Named `json:"lineage"` // root first; things of other tenants show their handle only
	Chain             []Step         `json:"chain"`   // credentials it was exchanged from, first one first
	Timeline          []Moment       `json:"timeline"`
	Descendants       []Step         `json:"descendants"`        // credentials below the subject
	Hidden            int            `json:"hidden"`             // records of tenants the caller may not read
	HiddenDescendants int            `json:"hidden_descendants"` // of those, credentials below the subject
	Since             time.Time      `json:"since"`              // nothing before it was read
	Read              int            `json:"read"`               // records
	Truncated         bool           `json:"truncated"`          // there is more than is shown
	Cut               string         `json:"cut,omitempty"`      // why, and what to do
}

// Tracer makes traces.
type Tracer struct {
	Log   Log
	Graph Graph
	// May reports whether the caller may read what belongs to a tenant. Names that
	// belong to none (issuers and keys) are shown to those for whom May("") is true, and
	// to others where their own tenant's records have them.
	May func(tenant string) bool
	// Tenant is the caller's.
	Tenant string
	// Handle names a thing.
	Handle func(kind lineage.Kind, tenant, id string) lineage.Handle
	Now    func() time.Time
	// Life is the longest life of a credential.
	Life time.Duration
	// Budget is how many records are read; 0: the constant.
	Budget int
}

// Trace answers a query. The error wraps ErrUnknown when there is nothing that the
// caller may know of, ErrBadQuery when the query is senseless.
func (t Tracer) Trace(ctx context.Context, q Query) (Answer, error) {
	if t.Budget == 0 {
		t.Budget = Budget
	}
	if q.Limit <= 0 || q.Limit > Limit {
		q.Limit = Limit
	}
	a := Answer{Timeline: []Moment{}, Descendants: []Step{}, Chain: []Step{}, Lineage: []events.Named{}}
	w := &walk{Tracer: t, query: q, answer: &a, under: map[string]*Step{}, hit: map[string]bool{}, ours: map[string]bool{}, left: t.Budget,
		names: map[string]events.Named{}, foreign: map[string]bool{}}
	if err := w.find(ctx); err != nil {
		return Answer{}, fmt.Errorf("trace: %w", err)
	}
	if err := w.run(ctx); err != nil {
		return Answer{}, fmt.Errorf("trace: %w", err)
	}
	if err := w.finish(ctx); err != nil {
		return Answer{}, fmt.Errorf("trace: %w", err)
	}
	slices.SortStableFunc(a.Timeline, func(x, y Moment) int { return cmp.Or(x.Time.Compare(y.Time), cmp.Compare(x.Event, y.Event)) })
	a.Read = t.Budget - w.left
	return a, nil
}

// step is what a caller who may read the record's tenant sees of a credential.
func step(r graph.Record) Step {
	s := Step{Credential: r.CredentialIssued.Credential, Tenant: r.Tenant, Identity: r.Identity, Task: r.Task, Parent: r.Parent, Delegation: r.Delegation,
		Policy: r.Policy, Reasons: r.Reasons, Exceptions: r.Exceptions, Audience: r.Audience, Scope: r.Scope,
		IssuedAt: r.IssuedAt, ExpiresAt: r.ExpiresAt, lineage: r.Lineage}
	for _, n := range r.Names { // the last is the nearest
		switch lineage.Kind(n.Kind) {
		case lineage.KindOwner:
			s.Owner = n.ID
		case lineage.KindFeature:
			s.Feature = n.ID
		}
	}
	if c := r.Context; c != nil {
		s.Owner, s.Feature = cmp.Or(c.Owner, s.Owner), cmp.Or(c.Feature, s.Feature)
		s.Purpose, s.LaunchedBy = c.Purpose, c.LaunchedBy
		if c.Attestation.Issuer != "" {
			s.Attested = &c.Attestation
		}
	}
	return s
}

// seek finds the first sequence of what was stored at or after a time, by halving.
// A few messages too many are no harm.
func (t Tracer) seek(ctx context.Context, stream, filter string, at time.Time) (uint64, error) {
	last, err := t.Log.LastSequence(ctx, stream, filter)
	if err != nil {
		return 0, fmt.Errorf("find end of %s: %w", stream, err)
	}
	lo, hi := uint64(1), last+1
	for lo < hi {
		mid := lo + (hi-lo)/2
		stored, err := t.next(ctx, stream, filter, mid)
		if err != nil {
			return 0, err
		}
		if stored.Sequence == 0 || !stored.Time.Before(at) {
			hi = mid
		} else {
			lo = stored.Sequence + 1
		}
	}
	return lo, nil
}

func (t Tracer) next(ctx context.Context, stream, filter string, from uint64) (bus.Stored, error) {
	for st, err := range t.Log.Read(ctx, stream, filter, from) {
		if err != nil {
			return bus.Stored{}, fmt.Errorf("read %s: %w", stream, err)
		}
		return st, nil
	}
	return bus.Stored{}, nil
}
