package anomaly

import (
	"sync/atomic"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/engine"
)

// holder hands out the current engine.
type holder struct{ p atomic.Pointer[engine.Engine] }

func (h *holder) get() *engine.Engine  { return h.p.Load() }
func (h *holder) set(e *engine.Engine) { h.p.Store(e) }

// apply gives one event to what the service knows of it.
func (w *watcher) apply(g *engine.Engine, e events.Event) ([]engine.Output, error) {
	if e.Type() == events.TypeAlertExpected {
		return note(e, func(p events.AlertExpected) { w.expected.note(events.Tenant(e), p) })
	}
	out, err := apply(g, e)
	if err != nil {
		return nil, err
	}
	raised, err := w.rules.judge(g, &w.expected, e)
	return append(out, raised...), err
}

// apply gives one event to the engine. Types that detection does not use are
// nothing to it; an error means that the payload cannot be read.
func apply(g *engine.Engine, e events.Event) ([]engine.Output, error) {
	m := engine.MetaOf(e)
	switch e.Type() {
	case events.TypeToolCalled:
		return with(e, func(p events.ToolCalled) []engine.Output { return g.Activity(m, &p.Activity) })
	case events.TypeAPICalled:
		return with(e, func(p events.APICalled) []engine.Output { return g.Activity(m, &p.Activity) })
	case events.TypeTokenExchanged:
		return with(e, func(p events.TokenExchanged) []engine.Output { return g.Activity(m, &p.Activity) })
	case events.TypeSecretExposed:
		return with(e, func(p events.SecretExposed) []engine.Output { return g.SecretExposed(m, &p) })
	case events.TypeDelegationCreated:
		return with(e, func(p events.DelegationCreated) []engine.Output { return g.DelegationCreated(m, &p) })
	case events.TypeRevocationAccepted:
		return with(e, func(p events.RevocationAccepted) []engine.Output { return g.RevocationAccepted(m, &p) })
	case events.TypeIdentityRevoked:
		return with(e, func(p events.IdentityRevoked) []engine.Output { return g.IdentityEnded(m, p.IdentityChange, false) })
	case events.TypeIdentityRetired:
		return with(e, func(p events.IdentityRetired) []engine.Output { return g.IdentityEnded(m, p.IdentityChange, false) })
	case events.TypeIdentityFrozen:
		return with(e, func(p events.IdentityFrozen) []engine.Output { return g.IdentityEnded(m, p.IdentityChange, true) })
	case events.TypeIdentityReinstated:
		return note(e, func(p events.IdentityReinstated) { g.IdentityReinstated(m, p.IdentityChange) })
	case events.TypeIdentityRegistered:
		return note(e, func(p events.IdentityRegistered) { g.Registered(m, p.Registration) })
	case events.TypeOwnerDeparted:
		return note(e, func(p events.OwnerDeparted) { g.OwnerDeparted(m, &p) })
	case events.TypeTrustDeclared:
		return note(e, func(p events.TrustDeclared) { g.TrustDeclared(m, &p) })
	case events.TypeRevocationLifted:
		return note(e, func(p events.RevocationLifted) { g.RevocationLifted(m, &p) })
	case events.TypeRotationPrepared:
		return note(e, func(p events.RotationPrepared) { g.Rotated(m, p.Rotation) })
	case events.TypeRotationActivated:
		return note(e, func(p events.RotationActivated) { g.Activated(m, p.Rotation) })
	}
	return nil, nil
}

func with[P events.Payload](e events.Event, f func(P) []engine.Output) ([]engine.Output, error) {
	p, err := events.As[P](e)
	if err != nil {
		return nil, err
	}
	return f(p), nil
}

func note[P events.Payload](e events.Event, f func(P)) ([]engine.Output, error) {
	return with(e, func(p P) []engine.Output { f(p); return nil })
}
