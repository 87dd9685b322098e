package service

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// SystemTenant is the tenant of operators and of Lanyard's own services.
const SystemTenant = "lanyard"

// Scopes of Lanyard's own HTTP APIs.
const (
	ScopeOperator = "lanyard.operator" // implies the others and every tenant; only of SystemTenant
	ScopeIntake   = "lanyard.intake"   // send events
	ScopeRead     = "lanyard.read"     // read identities, alerts, revocations
	ScopeRevoke   = "lanyard.revoke"   // preview and request revocations
	ScopeTriage   = "lanyard.triage"   // acknowledge alerts and mark them as expected

	ScopeIntrospect = "lanyard.introspect" // ask about tokens of the tenant (RFC 7662)
)

type callerKey struct{}

// Authorize serves h to callers whose bearer token the process's guard allows and
// whose token has scope; operators have every scope. An empty scope asks for a
// valid token only. Refusals carry the RFC 6750 challenge in WWW-Authenticate and
// an RFC 9457 problem as body: 401 invalid_token, 403 insufficient_scope, 503 when
// the guard cannot know (its lease ran out). h finds the caller with Caller; what it
// keeps open, such as a stream of alerts, is cut when the caller's token dies.
func (e Env) Authorize(scope string, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if e.Guard == nil {
			Problem(w, http.StatusServiceUnavailable, "no_guard", "this process has no guard, so nobody can be admitted")
			return
		}
		raw, ok := bearer(r)
		if !ok {
			refuse(w, &guard.Denial{Code: guard.CodeMissing})
			return
		}
		decision, err := e.Guard.Decide(r.Context(), guard.Request{Token: raw, HTTP: r})
		if err != nil {
			denial, ok := errors.AsType[*guard.Denial](err)
			if !ok {
				denial = &guard.Denial{Code: guard.CodeMalformed}
			}
			refuse(w, denial)
			return
		}
		claims := decision.Claims
		if scope != "" && !HasScope(claims, scope) {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="lanyard", error="insufficient_scope", scope=%q`, scope))
			Problem(w, http.StatusForbidden, guard.CodeScope, "the token lacks the scope "+scope)
			return
		}
		e.Guard.Serve(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, claims)), decision, h)
	})
}

// bearer is the token of an Authorization header with scheme Bearer, or DPoP
// (RFC 9449 section 7.1). Two headers are none.
func bearer(r *http.Request) (string, bool) {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return "", false
	}
	scheme, raw, ok := strings.Cut(values[0], " ")
	if !ok || !(strings.EqualFold(scheme, "Bearer") || strings.EqualFold(scheme, "DPoP")) {
		return "", false
	}
	raw = strings.TrimSpace(raw)
	return raw, raw != ""
}

// refuse answers a denial without telling the caller more than RFC 6750 names.
func refuse(w http.ResponseWriter, d *guard.Denial) {
	switch d.Code {
	case guard.CodeMissing:
		w.Header().Set("WWW-Authenticate", `Bearer realm="lanyard"`)
		Problem(w, http.StatusUnauthorized, d.Code, "send a Lanyard access token in the Authorization header")
	case guard.CodeStale:
		w.Header().Set("Retry-After", "1")
		Problem(w, http.StatusServiceUnavailable, d.Code, "this process cannot reach the kill feed, so it admits nobody; try again")
	case guard.CodeScope:
		w.Header().Set("WWW-Authenticate", `Bearer realm="lanyard", error="insufficient_scope"`)
		Problem(w, http.StatusForbidden, d.Code, "the token lacks a scope")
	default:
		w.Header().Set("WWW-Authenticate", `Bearer realm="lanyard", error="invalid_token"`)
		Problem(w, http.StatusUnauthorized, "invalid_token", "the access token is malformed, expired, revoked or not for this service")
	}
}

// Caller is the verified claims of the request's caller; ok is false outside a
// handler that Authorize wraps.
func Caller(ctx context.Context) (token.Claims, bool) {
	c, ok := ctx.Value(callerKey{}).(token.Claims)
	return c, ok
}

// WithCaller is ctx with a caller, for tests of handlers below Authorize.
func WithCaller(ctx context.Context, c token.Claims) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

// Operator reports whether c may act for every tenant.
func Operator(c token.Claims) bool {
	return c.Tenant == SystemTenant && hasWord(c.Scope, ScopeOperator)
}

// HasScope reports whether c has scope, or is an operator.
func HasScope(c token.Claims, scope string) bool {
	return Operator(c) || hasWord(c.Scope, scope)
}

func hasWord(list, word string) bool {
	for w := range strings.SplitSeq(list, " ") {
		if w == word {
			return true
		}
	}
	return false
}

// TenantOf is the one tenant a request acts for: the caller's own, or for
// operators the parameter ?tenant= when given. The error wraps
// events.ErrWrongTenant or events.ErrBadTenant and its text may be shown to the
// caller; events.Code names it.
func TenantOf(r *http.Request, c token.Claims) (string, error) {
	t, err := tenantParam(r, c)
	if err == nil && t == "" {
		t = c.Tenant
	}
	return t, err
}

// TenantFilter is TenantOf for reads: "" means every tenant, and is what operators
// get who do not name one.
func TenantFilter(r *http.Request, c token.Claims) (string, error) {
	t, err := tenantParam(r, c)
	if err == nil && t == "" && !Operator(c) {
		t = c.Tenant
	}
	return t, err
}

func tenantParam(r *http.Request, c token.Claims) (string, error) {
	t := r.URL.Query().Get("tenant")
	if t == "" {
		return "", nil
	}
	if t != c.Tenant && !Operator(c) {
		return "", fmt.Errorf("read tenant: %w: a caller of tenant %s may not act for another", events.ErrWrongTenant, c.Tenant)
	}
	if !events.ValidTenant(t) {
		return "", fmt.Errorf("read tenant: %w: want 1 to 63 of a-z, 0-9 and -", events.ErrBadTenant)
	}
	return t, nil
}
