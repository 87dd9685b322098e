package pipelinetest

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// Log is what the log says, gathered while its invariants are checked.
type Log struct {
	Events      int
	Credentials map[string]events.CredentialIssued // by jti
	Revocations map[string]*Revocation             // by id
	Problems    []string                           // invariants that do not hold
}

// Revocation is one revocation as the log tells it.
type Revocation struct {
	Accepted []events.RevocationAccepted
	Enforced map[string]int // times, by point
	Closed   int
}

// CheckLog reads the whole log and checks what must hold whatever happened:
//
//   - every event is there once, in its own tenant, under a known subject;
//   - a revocation is accepted once, is closed at most once and after it was accepted,
//     is closed when every guard it expects has answered, and has one outcome a guard;
//   - credentials go to registered identities only, never after the identity was
//     revoked; an exchanged one lives no longer than its parent and has its parent's
//     whole lineage above its own;
//   - no delegation passes on more than its giver held.
func CheckLog(ctx context.Context, log interface {
	Read(ctx context.Context, stream, filter string, from uint64) iter.Seq2[bus.Stored, error]
}) (*Log, error) {
	l := &Log{Credentials: map[string]events.CredentialIssued{}, Revocations: map[string]*Revocation{}}
	c := &checker{Log: l, seen: map[string]uint64{}, alive: map[[2]string]bool{}, dead: map[[2]string]bool{}}
	for st, err := range log.Read(ctx, bus.StreamLog, "nhi.log.>", 1) {
		if err != nil {
			return nil, fmt.Errorf("read the log: %w", err)
		}
		l.Events++
		c.event(st)
	}
	for id, r := range l.Revocations {
		c.revocation(id, r)
	}
	return l, nil
}

type checker struct {
	*Log
	seen  map[string]uint64
	alive map[[2]string]bool // registered identities by tenant and id
	dead  map[[2]string]bool // revoked ones
}

func (c *checker) problem(st bus.Stored, format string, args ...any) {
	c.Problems = append(c.Problems, fmt.Sprintf("%d %s: ", st.Sequence, st.Subject)+fmt.Sprintf(format, args...))
}

func (c *checker) event(st bus.Stored) {
	e := st.Event
	key := e.Source() + " " + e.ID()
	if before, ok := c.seen[key]; ok {
		c.problem(st, "the event is already at %d", before)
	}
	c.seen[key] = st.Sequence
	if want, err := events.Subject(e); err != nil || want != st.Subject {
		c.problem(st, "the event belongs to %q (%v)", want, err)
	}
	who := [2]string{events.Tenant(e), e.Subject()}
	switch e.Type() {
	case events.TypeIdentityRegistered:
		c.alive[who] = true
	case events.TypeIdentityRevoked:
		c.dead[who] = true
	case events.TypeCredentialIssued:
		read(c, st, func(p events.CredentialIssued) { c.issued(st, who, p) })
	case events.TypeDelegationCreated:
		read(c, st, func(p events.DelegationCreated) { c.delegated(st, p) })
	case events.TypeRevocationAccepted:
		read(c, st, func(p events.RevocationAccepted) {
			r := c.of(p.Revocation)
			r.Accepted = append(r.Accepted, p)
		})
	case events.TypeRevocationEnforced:
		read(c, st, func(p events.RevocationEnforced) {
			r := c.of(p.Revocation)
			if len(r.Accepted) == 0 {
				c.problem(st, "enforced before it was accepted")
			}
			r.Enforced[p.Point]++
		})
	case events.TypeRevocationClosed:
		read(c, st, func(p events.RevocationClosed) {
			r := c.of(p.Revocation)
			if len(r.Accepted) == 0 {
				c.problem(st, "closed before it was accepted")
			}
			r.Closed++
		})
	}
}

func read[P events.Payload](c *checker, st bus.Stored, f func(P)) {
	p, err := events.As[P](st.Event)
	if err != nil {
		c.problem(st, "%v", err)
		return
	}
	f(p)
}

func (c *checker) of(id string) *Revocation {
	r, ok := c.Revocations[id]
	if !ok {
		r = &Revocation{Enforced: map[string]int{}}
		c.Revocations[id] = r
	}
	return r
}

func (c *checker) issued(st bus.Stored, who [2]string, p events.CredentialIssued) {
	if _, ok := c.Credentials[p.Credential]; ok {
		c.problem(st, "credential %s was issued before", p.Credential)
	}
	c.Credentials[p.Credential] = p
	if !c.alive[who] {
		c.problem(st, "credential for an identity that is not registered")
	}
	if c.dead[who] {
		c.problem(st, "credential for a revoked identity")
	}
	if len(p.Lineage) == 0 || p.ExpiresAt.Sub(p.IssuedAt) > 15*time.Minute {
		c.problem(st, "credential without lineage, or for too long")
	}
	parent, ok := c.Credentials[p.Parent]
	if p.Parent == "" || !ok {
		return
	}
	if p.ExpiresAt.After(parent.ExpiresAt) {
		c.problem(st, "credential outlives its parent")
	}
	for _, h := range parent.Lineage {
		if !slices.Contains(p.Lineage, h) {
			c.problem(st, "the parent's handle %s is missing", h)
		}
	}
}

func (c *checker) delegated(st bus.Stored, p events.DelegationCreated) {
	for _, scope := range p.Scope {
		if !slices.Contains(p.Parents, scope) {
			c.problem(st, "delegation passes on %q, which its giver did not hold", scope)
		}
	}
}

func (c *checker) revocation(id string, r *Revocation) {
	bad := func(format string, args ...any) {
		c.Problems = append(c.Problems, "revocation "+id+": "+fmt.Sprintf(format, args...))
	}
	if len(r.Accepted) != 1 || r.Closed > 1 {
		bad("accepted %d times, closed %d times", len(r.Accepted), r.Closed)
		return
	}
	for point, n := range r.Enforced {
		if n != 1 {
			bad("%s has %d outcomes", point, n)
		}
	}
	if r.Closed == 0 {
		return
	}
	for _, g := range r.Accepted[0].Guards {
		if r.Enforced[g.Point] == 0 {
			bad("closed without an outcome of %s", g.Point)
		}
	}
}
