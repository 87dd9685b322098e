// Package trace tells whose credential it is and what it did, from the log: its
// lineage up to the person who answers for it, and every call, exchange, derived
// credential, denial and revocation. Only revocation imports it.
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
var ErrUnknown = errors.New("no such credential")

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

// Subject is the credential that was asked for.
type Subject struct {
	Credential  string    `json:"credential"`
	TokenSHA256 string    `json:"token_sha256"`
	Tenant      string    `json:"tenant"`
	Identity    string    `json:"identity"`
	Owner       string    `json:"owner"`
	Feature     string    `json:"feature"`
	Task        string    `json:"task"`
	Parent      string    `json:"parent"`
	Delegation  string    `json:"delegation"`
	Policy      string    `json:"policy"`
	KeyID       string    `json:"key_id"`
	Audience    []string  `json:"audience"`
	Scope       []string  `json:"scope"`
	IssuedAt    time.Time `json:"issued_at"`
	ExpiresAt   time.Time `json:"expires_at"`
}

// Moment is one line of the timeline.
type Moment struct {
	Time    time.Time `json:"time"`
	Type    string    `json:"type"`
	Tenant  string    `json:"tenant"`
	Summary string    `json:"summary"`
	Event   string    `json:"event"` // id
}

// Descendant is a credential derived from the subject.
type Descendant struct {
	Credential string    `json:"credential"`
	Tenant     string    `json:"tenant"`
	Identity   string    `json:"identity"`
	Task       string    `json:"task"`
	Parent     string    `json:"parent"`
	ExpiresAt  time.Time `json:"expires_at"`
}

// Answer is a whole trace.
type Answer struct {
	Subject     Subject        `json:"subject"`
	Lineage     []events.Named `json:"lineage"` // root first; things of other tenants show their handle only
	Timeline    []Moment       `json:"timeline"`
	Descendants []Descendant   `json:"descendants"`
	Hidden      int            `json:"hidden"`    // events of tenants the caller may not read
	Truncated   bool           `json:"truncated"` // there was more than Limit
}

// Limit is the most lines of a timeline, and the most descendants.
const Limit = 2000

// Tracer makes traces.
type Tracer struct {
	Log   Log
	Graph Graph
	// May reports whether the caller may read what belongs to a tenant ("": to none).
	May func(tenant string) bool
	// Handle names a thing.
	Handle func(kind lineage.Kind, tenant, id string) lineage.Handle
}

// Trace traces a credential by its jti or its token's SHA-256 in hex. The error
// wraps ErrUnknown when there is none that the caller may know of.
func (t Tracer) Trace(ctx context.Context, id string) (Answer, error) {
	rec, err := t.Graph.Credential(ctx, id)
	if err != nil {
		if rec, err = t.scan(ctx, id); err != nil {
			return Answer{}, err
		}
	}
	if !t.May(rec.Tenant) {
		return Answer{}, fmt.Errorf("trace: %w", ErrUnknown)
	}
	a := Answer{Subject: subject(rec), Timeline: []Moment{}, Descendants: []Descendant{}}
	if a.Lineage, err = t.lineage(ctx, rec); err != nil {
		return Answer{}, err
	}
	w := walk{Tracer: t, answer: &a, rec: rec, own: t.Handle(lineage.KindCredential, rec.Tenant, rec.CredentialIssued.Credential).String()}
	if err := w.run(ctx); err != nil {
		return Answer{}, err
	}
	slices.SortStableFunc(a.Timeline, func(x, y Moment) int { return cmp.Or(x.Time.Compare(y.Time), cmp.Compare(x.Event, y.Event)) })
	return a, nil
}

// scan looks for a credential in the log.
func (t Tracer) scan(ctx context.Context, id string) (graph.Record, error) {
	for st, err := range t.Log.Read(ctx, bus.StreamLog, events.LogSubject("*", "credential", "issued", "*"), 1) {
		if err != nil {
			return graph.Record{}, fmt.Errorf("look for credential in log: %w", err)
		}
		p, err := events.As[events.CredentialIssued](st.Event)
		if err == nil && (p.Credential == id || p.TokenSHA256 == id) {
			return graph.Record{Tenant: events.Tenant(st.Event), CredentialIssued: p}, nil
		}
	}
	return graph.Record{}, fmt.Errorf("trace: %w", ErrUnknown)
}

func subject(r graph.Record) Subject {
	s := Subject{Credential: r.CredentialIssued.Credential, TokenSHA256: r.TokenSHA256, Tenant: r.Tenant, Identity: r.Identity, Task: r.Task,
		Parent: r.Parent, Delegation: r.Delegation, Policy: r.Policy, KeyID: r.KeyID, Audience: r.Audience, Scope: r.Scope,
		IssuedAt: r.IssuedAt, ExpiresAt: r.ExpiresAt}
	for _, n := range r.Names { // the last is the nearest
		switch lineage.Kind(n.Kind) {
		case lineage.KindOwner:
			s.Owner = n.ID
		case lineage.KindFeature:
			s.Feature = n.ID
		}
	}
	return s
}

// lineage names the handles the caller may know the names of.
func (t Tracer) lineage(ctx context.Context, r graph.Record) ([]events.Named, error) {
	names := map[string]events.Named{}
	if found, err := t.Graph.Names(ctx, r.Lineage...); err == nil {
		names = found
	}
	for _, n := range r.Names {
		names[n.Handle] = n
	}
	out := make([]events.Named, len(r.Lineage))
	for i, h := range r.Lineage {
		out[i] = events.Named{Handle: h}
		if n, ok := names[h]; ok && t.May(n.Tenant) {
			out[i] = n
		}
	}
	return out, nil
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
