package registry

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/bus/bustest"
)

// plain decides over the whole log, read anew each time: slow and surely right.
type plain struct {
	log   *bus.Conn
	mu    sync.Mutex
	loads int
}

func (p *plain) Load(ctx context.Context, tenant, id string) (Identity, uint64, error) {
	var s Identity
	var last uint64
	for st, err := range p.log.Read(ctx, bus.StreamLog, events.EntityFilter(tenant, id), 1) {
		if err != nil {
			return s, 0, err
		}
		s, last = Fold(s, st), st.Sequence
	}
	p.mu.Lock()
	p.loads++
	p.mu.Unlock()
	return s, last, nil
}

func (p *plain) Decide(ctx context.Context, tenant, id string, decide func(Identity) ([]events.Event, error)) (Identity, bus.Ack, error) {
	for {
		s, last, err := p.Load(ctx, tenant, id)
		if err != nil {
			return s, bus.Ack{}, err
		}
		es, err := decide(s)
		if err != nil || len(es) == 0 {
			return s, bus.Ack{Sequence: last}, err
		}
		ack, err := p.log.Append(ctx, bus.Batch{Events: es, Expect: &bus.Expect{Filter: events.EntityFilter(tenant, id), Sequence: last}})
		if errors.Is(err, bus.ErrConflict) {
			continue
		}
		for _, e := range es {
			s = Fold(s, bus.Stored{Event: e})
		}
		return s, ack, err
	}
}

// TestRememberedIsNeverFooled: a process that remembers an identity as active finds out
// about what another did to it by the condition of its own append, and asks the log
// before it refuses.
func TestRememberedIsNeverFooled(t *testing.T) {
	log := bustest.Start(t)
	mine, other := &plain{log: log}, &plain{log: log}
	r := Remember(mine, log)
	ctx := t.Context()
	n := 0
	issue := func(s Identity) ([]events.Event, error) {
		if s.Status(t0) != StatusActive {
			return nil, errors.New(string(s.Status(t0)))
		}
		n++
		e, err := events.New(events.Origin{Source: "/test", Tenant: "acme", Time: t0.AddDate(0, 0, n)},
			events.CredentialDenied{Request: "r", Identity: "agent-1"})
		return []events.Event{e}, err
	}
	put := func(p events.Payload) {
		_, _, err := other.Decide(ctx, "acme", "agent-1", func(Identity) ([]events.Event, error) {
			e, err := events.New(events.Origin{Source: "/test", Tenant: "acme", Time: t0}, p)
			return []events.Event{e}, err
		})
		require.NoError(t, err)
	}
	try := func() error { _, _, err := r.Decide(ctx, "acme", "agent-1", issue); return err }

	require.EqualError(t, try(), "unknown")
	put(events.IdentityRegistered{Registration: registration()})
	require.NoError(t, try(), "a refusal is never decided from memory")
	loads := mine.loads
	for range 5 {
		require.NoError(t, try())
	}
	require.Equal(t, loads, mine.loads, "the hot path does not read")
	put(events.IdentityFrozen{IdentityChange: change("r1", "ir")})
	require.EqualError(t, try(), "frozen")
	put(events.IdentityReinstated{IdentityChange: change("r1", "ir")})
	require.NoError(t, try())
	put(events.IdentityRevoked{IdentityChange: change("r2", "ir")})
	require.EqualError(t, try(), "revoked")
	require.EqualError(t, try(), "revoked")

	last, err := log.LastSequence(ctx, bus.StreamLog, events.LogSubject("acme", "identity", "revoked", "agent-1"))
	require.NoError(t, err)
	minted, err := log.LastSequence(ctx, bus.StreamLog, events.LogSubject("acme", "credential", "*", "agent-1"))
	require.NoError(t, err)
	require.Less(t, minted, last, "nothing after the revocation")
}
