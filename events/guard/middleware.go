package guard

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/lanyard-nhi/lanyard/events/token"
)

type contextKey struct{}

// FromContext is the claims that Middleware verified.
func FromContext(ctx context.Context) (token.Claims, bool) {
	c, ok := ctx.Value(contextKey{}).(token.Claims)
	return c, ok
}

// WithClaims is a context that carries verified claims, for whoever calls Check itself.
func WithClaims(ctx context.Context, c token.Claims) context.Context {
	return context.WithValue(ctx, contextKey{}, c)
}

// Middleware guards next: it answers RFC 6750 errors itself and puts the claims
// into the request's context, see FromContext.
func (g *Guard) Middleware(scopes ...string) func(next http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			claims, err := g.Check(r.Context(), Request{Token: Presented(r), Scopes: scopes, HTTP: r})
			if d, denied := errors.AsType[*Denial](err); denied {
				d.Respond(w)
				return
			}
			next.ServeHTTP(w, r.WithContext(WithClaims(r.Context(), claims)))
		})
	}
}

// Presented is the token in the Authorization header (RFC 6750 section 2.1, RFC 9449
// section 7.1), "" when there is none or more than one. Tokens in a query or a form
// are not looked at.
func Presented(r *http.Request) string {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return ""
	}
	scheme, raw, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") && !strings.EqualFold(scheme, "DPoP") {
		return ""
	}
	return raw
}
