package guard

import (
	"context"

	"github.com/lanyard-nhi/lanyard/events/token"
)

// Decision is a yes, and on what it stands.
type Decision struct {
	Claims token.Claims
}

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
