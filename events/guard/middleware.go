package guard

import (
	"context"
	"errors"
	"net/http"
	"strings"
)

// Middleware guards next: it answers RFC 6750 errors itself and puts the claims into
// the request's context, see FromContext. What it let through it also cuts: when a
// handle of the lineage is revoked or frozen, the token expires or the guard can no
// longer know, the request's context ends with the *Denial as cause, the handler can
// write no more, and the connection is closed, a hijacked one (WebSocket) included. A
// request that has had no answer yet is answered like one that was refused.
func (g *Guard) Middleware(scopes ...string) func(next http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			d, err := g.Decide(r.Context(), Request{Token: Presented(r), Scopes: scopes, HTTP: r})
			if denial, denied := errors.AsType[*Denial](err); denied {
				denial.Respond(w)
				return
			}
			g.Serve(w, r, d, next)
		})
	}
}

// Serve serves a request that Decide allowed as Middleware does, for whoever decides
// itself.
func (g *Guard) Serve(w http.ResponseWriter, r *http.Request, d Decision, next http.Handler) {
	ctx, cancel := g.Watch(WithDecision(r.Context(), d), d)
	defer cancel()
	guarded := newWriter(ctx, g, d, w)
	stop := context.AfterFunc(ctx, func() {
		if denial, cut := errors.AsType[*Denial](context.Cause(ctx)); cut {
			guarded.cut(denial)
		}
	})
	next.ServeHTTP(guarded, r.WithContext(ctx))
	stop()
	guarded.finish(ctx)
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
