package guard

import (
	"context"
	"time"

	"github.com/lanyard-nhi/lanyard/events/token"
)

// Decision is a yes, and on what it stands.
type Decision struct {
	Claims token.Claims
	// Class is the data class that the request named.
	Class string
	// Stale: the guard could not know any more and the class allows that for a while,
	// see ServeStale. Show it to whoever relies on the answer.
	Stale bool
	// Age is how long ago the guard last heard that it knows all.
	Age time.Duration

	on footing
}

// footing is what the decision stands on; one that was made by hand names the class only.
func (d Decision) footing() footing { return footing{d.Class, d.on.reading} }

// Decide is Check for callers that go on: with Watch, Tie or Conn what the token opens
// ends when the token's lineage does. The error is nil or a *Denial.
func (g *Guard) Decide(ctx context.Context, r Request) (Decision, error) {
	d, denial := g.decide(ctx, r)
	if denial == nil {
		return d, nil
	}
	denial.scopes = r.Scopes
	if g.metadata != nil {
		denial.metadata = g.metadata.String()
	}
	if g.cfg.Denied != nil {
		g.cfg.Denied(*denial)
	}
	return Decision{}, denial
}

type contextKey struct{}

// FromContext is the claims that Middleware verified.
func FromContext(ctx context.Context) (token.Claims, bool) {
	d, ok := DecisionFrom(ctx)
	return d.Claims, ok
}

// DecisionFrom is the decision by which Middleware let the request through.
func DecisionFrom(ctx context.Context) (Decision, bool) {
	d, ok := ctx.Value(contextKey{}).(Decision)
	return d, ok
}

// WithClaims is a context that carries verified claims, for whoever calls Check itself.
func WithClaims(ctx context.Context, c token.Claims) context.Context {
	return WithDecision(ctx, Decision{Claims: c})
}

// WithDecision is a context that carries a decision, for whoever calls Decide itself.
func WithDecision(ctx context.Context, d Decision) context.Context {
	return context.WithValue(ctx, contextKey{}, d)
}
