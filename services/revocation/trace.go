package revocation

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/trace"
	"go.uber.org/zap"
)

// traceTime bounds a trace, in which it says what it has not read.
const traceTime = 50 * time.Second

func (r *revoker) getTrace(_ http.ResponseWriter, q *http.Request, caller token.Claims) (int, any, error) {
	query, err := r.traceQuery(q)
	if err != nil {
		return 0, nil, err
	}
	ctx, cancel := context.WithTimeout(q.Context(), traceTime)
	defer cancel()
	settle, done := context.WithTimeout(ctx, graphWait)
	defer done()
	if err := r.graph.Settle(settle); err != nil {
		r.log.Warn("graph does not catch up; the log is searched instead", zap.Error(err))
	}
	operator := service.Operator(caller)
	t := trace.Tracer{Log: r.bus, Graph: r.graph, Handle: r.names.Name, Now: r.now, Life: r.keep, Tenant: caller.Tenant,
		May: func(tenant string) bool { return operator || tenant == caller.Tenant && tenant != "" }}
	a, err := t.Trace(ctx, query)
	switch {
	case errors.Is(err, trace.ErrUnknown):
		return 0, nil, &httpError{http.StatusNotFound, "unknown_credential", "nothing on the log is called so: " + err.Error()}
	case errors.Is(err, trace.ErrBadQuery):
		return 0, nil, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	return http.StatusOK, a, err
}

// traceQuery reads kind, tenant, since (a time, or how long ago) and limit.
func (r *revoker) traceQuery(q *http.Request) (trace.Query, error) {
	values := q.URL.Query()
	query := trace.Query{ID: q.PathValue("id"), Kind: values.Get("kind"), Tenant: values.Get("tenant")}
	if text := values.Get("since"); text != "" {
		at, err := time.Parse(time.RFC3339, text)
		if d, derr := time.ParseDuration(text); derr == nil && d > 0 {
			at, err = r.now().Add(-d), nil
		}
		if err != nil {
			return query, fmt.Errorf("%w: since is %q, want a time as in RFC 3339, or how long ago, such as 36h", errBadRequest, text)
		}
		query.Since = at
	}
	if text := values.Get("limit"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > trace.Limit {
			return query, fmt.Errorf("%w: limit is %q, want 1 to %d", errBadRequest, text, trace.Limit)
		}
		query.Limit = n
	}
	return query, nil
}
