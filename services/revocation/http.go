package revocation

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	json "github.com/go-json-experiment/json"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/receipt"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/accept"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/ledger"
	"go.uber.org/zap"
)

const (
	maxBody = 64 << 10         // bytes of a request
	maxWait = 60 * time.Second // of a long poll
)

// ask is the body of a preview and of a revocation.
type ask struct {
	Mode       events.Mode   `json:"mode"`
	Target     events.Target `json:"target"`
	Reason     string        `json:"reason"`
	TTLSeconds int64         `json:"ttl_seconds"`
	Confirm    int64         `json:"confirm"`
	Approval   bool          `json:"approval"` // instead of confirm: a second person approves it
}

// http is the API. Reads need the scope lanyard.read, the rest lanyard.revoke.
func (r *revoker) http(env service.Env, more ...func(*http.ServeMux, service.Env)) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("POST /v1/revocations/preview", env.Authorize(service.ScopeRevoke, r.api(r.postPreview)))
	mux.Handle("POST /v1/revocations", env.Authorize(service.ScopeRevoke, r.api(r.postRevocation)))
	mux.Handle("POST /v1/revocations/{id}/approve", env.Authorize(service.ScopeRevoke, r.api(r.postApproval)))
	mux.Handle("GET /v1/revocations/{id}", env.Authorize(service.ScopeRead, r.api(r.getRevocation)))
	mux.Handle("GET /v1/revocations/{id}/receipts", env.Authorize(service.ScopeRead, r.api(r.getReceipts)))
	mux.Handle("GET /v1/revocations", env.Authorize(service.ScopeRead, r.api(r.listRevocations)))
	mux.Handle("GET /v1/guards", env.Authorize(service.ScopeRead, r.api(r.listGuards)))
	mux.Handle("GET /v1/trace/{id}", env.Authorize(service.ScopeRead, r.api(r.getTrace)))
	for _, routes := range more {
		routes(mux, env)
	}
	return mux
}

// httpError is an answer other than success.
type httpError struct {
	status       int
	code, detail string
}

func (e *httpError) Error() string { return e.code + ": " + e.detail }

// api answers with what f returns, or with its error as a problem.
func (r *revoker) api(f func(w http.ResponseWriter, q *http.Request, caller token.Claims) (status int, answer any, err error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		caller, ok := service.Caller(q.Context())
		if !ok {
			service.Problem(w, http.StatusUnauthorized, "missing_token", "nobody is known to have asked")
			return
		}
		status, answer, err := f(w, q, caller)
		if lines, ok := answer.(ndjson); ok && err == nil {
			w.Header().Set("Content-Type", receipt.MediaType)
			w.Header().Set("Cache-Control", "no-store")
			w.WriteHeader(status)
			_, _ = w.Write(lines) // whoever hung up has been told
			return
		}
		if err == nil {
			service.JSON(w, status, answer)
			return
		}
		e := r.explain(q, err)
		service.Problem(w, e.status, e.code, e.detail)
	})
}

// explain makes an answer of an error. What is not the caller's doing is logged.
func (r *revoker) explain(q *http.Request, err error) *httpError {
	if e, ok := errors.AsType[*httpError](err); ok {
		return e
	}
	switch {
	case errors.Is(err, errBadRequest):
		return &httpError{http.StatusBadRequest, "invalid_request", err.Error()}
	case errors.Is(err, errMismatch):
		return &httpError{http.StatusConflict, "idempotency_mismatch", errMismatch.Error()}
	case errors.Is(err, events.ErrWrongTenant), errors.Is(err, events.ErrBadTenant):
		return &httpError{http.StatusForbidden, events.Code(err), err.Error()}
	case gone(err):
		return &httpError{http.StatusNotFound, "unknown_revocation", "there is no such revocation"}
	}
	r.log.Error("request failed", zap.String("method", q.Method), zap.String("path", q.URL.Path), zap.Error(err))
	return &httpError{http.StatusServiceUnavailable, "unavailable", "it could not be done now; asking again with the same Idempotency-Key is safe"}
}

func readAsk(w http.ResponseWriter, q *http.Request) (ask, error) {
	var a ask
	if err := readJSON(w, q, &a); err != nil {
		return a, err
	}
	if a.Mode == "" {
		a.Mode = events.ModeRevoke
	}
	return a, nil
}

// readJSON reads a body strictly; an empty one leaves v as it is.
func readJSON(w http.ResponseWriter, q *http.Request, v any) error {
	b, err := io.ReadAll(http.MaxBytesReader(w, q.Body, maxBody))
	if err != nil {
		return &httpError{http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf("the body is larger than %d bytes, or broke off", maxBody)}
	}
	if len(b) == 0 {
		return nil
	}
	if err := json.Unmarshal(b, v, json.RejectUnknownMembers(true)); err != nil {
		return fmt.Errorf("%w: %w", errBadRequest, err)
	}
	return nil
}

// authority is the tenant that a caller's request is decided for.
func authority(c token.Claims) string {
	if c.Tenant == service.SystemTenant && !service.Operator(c) {
		return "" // a service of the system tenant is no operator
	}
	return c.Tenant
}

func (r *revoker) postRevocation(w http.ResponseWriter, q *http.Request, caller token.Claims) (int, any, error) {
	a, err := readAsk(w, q)
	if err != nil {
		return 0, nil, err
	}
	return r.submit(q, caller, events.RevocationRequested{Mode: a.Mode, Target: a.Target, Reason: a.Reason, RequestedBy: caller.Subject,
		TTLSeconds: a.TTLSeconds, Confirm: a.Confirm, Approval: a.Approval})
}

// submit makes a caller's request durable and accepts it.
func (r *revoker) submit(q *http.Request, caller token.Claims, p events.RevocationRequested) (int, any, error) {
	tenant := authority(caller)
	if tenant == "" {
		return 0, nil, &httpError{http.StatusForbidden, accept.CodeForbidden, "only operators of this tenant may revoke"}
	}
	id := q.Header.Get("Idempotency-Key")
	switch {
	case len(id) > 128:
		return 0, nil, &httpError{http.StatusBadRequest, "invalid_request", "Idempotency-Key is longer than 128 bytes"}
	case id == "":
		var b [16]byte
		if _, err := io.ReadFull(r.rand, b[:]); err != nil {
			return 0, nil, fmt.Errorf("make request id: %w", err)
		}
		id = hex.EncodeToString(b[:])
	}
	req := accept.Request{Revocation: ID(tenant, id), Tenant: tenant, RevocationRequested: p}
	if err := check(req); err != nil {
		return 0, nil, err
	}
	e, err := events.New(events.Origin{Source: source, Tenant: tenant, Time: r.now(), ID: id, Traceparent: q.Header.Get("Traceparent")}, p)
	if err != nil {
		return 0, nil, err
	}
	if err := events.Validate(e); err != nil {
		return 0, nil, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	if err := r.bus.Publish(q.Context(), e); err != nil && !errors.Is(err, bus.ErrUnknownOutcome) {
		return 0, nil, err
	}
	// From here the request is durable: whoever hangs up does not undo it.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(q.Context()), 30*time.Second)
	defer cancel()
	res, err := r.accept(ctx, e, req)
	if err != nil {
		return 0, nil, err
	}
	return r.answer(ctx, res)
}

// postApproval approves what somebody else proposed.
func (r *revoker) postApproval(w http.ResponseWriter, q *http.Request, caller token.Claims) (int, any, error) {
	var body struct {
		Reason string `json:"reason"` // absent: the proposal's
	}
	if err := readJSON(w, q, &body); err != nil {
		return 0, nil, err
	}
	id := q.PathValue("id")
	var p *events.RevocationProposed
	err := r.ledger.Inspect(q.Context(), id, func(s *ledger.State) {
		if visible(s, caller) {
			p = s.Proposed
		}
	})
	switch {
	case err != nil:
		return 0, nil, err
	case p == nil:
		return 0, nil, &httpError{http.StatusNotFound, accept.CodeUnknownTarget, "there is no proposed revocation of this id"}
	}
	return r.submit(q, caller, events.RevocationRequested{Mode: p.Mode, Target: plain(p.Target), Reason: cmp.Or(body.Reason, p.Reason),
		RequestedBy: caller.Subject, Approves: id})
}

// answer makes the HTTP answer of what became of a request.
func (r *revoker) answer(ctx context.Context, res result) (int, any, error) {
	status := map[string]int{accept.CodeUnknownTarget: http.StatusNotFound, accept.CodeForbidden: http.StatusForbidden,
		accept.CodeConfirm: http.StatusConflict, accept.CodeCap: http.StatusTooManyRequests, accept.CodeNotFrozen: http.StatusConflict,
		accept.CodeUnsafe: http.StatusServiceUnavailable}[res.Code]
	if status != 0 {
		return 0, nil, &httpError{status, res.Code, res.Reason}
	}
	if res.Pending {
		return http.StatusAccepted, view{Revocation: res.ID, State: ledger.StatusPending, Missing: []string{}, Tenants: []string{}, Receipts: []receiptView{}}, nil
	}
	s, err := r.ledger.Get(ctx, res.ID)
	if gone(err) { // it is another process's, which is just putting it on the log
		return http.StatusOK, view{Revocation: res.ID, State: ledger.StatusAccepted, Code: res.Code, Reason: res.Reason,
			Missing: []string{}, Tenants: []string{}, Receipts: []receiptView{}}, nil
	}
	if err != nil {
		return 0, nil, err
	}
	v := viewOf(s, r.now())
	if res.Code != "" {
		v.Code = res.Code
		return http.StatusOK, v, nil
	}
	return http.StatusAccepted, v, nil
}

func (r *revoker) getRevocation(_ http.ResponseWriter, q *http.Request, caller token.Claims) (int, any, error) {
	var wait time.Duration
	if text := q.URL.Query().Get("wait"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil || d < 0 {
			return 0, nil, fmt.Errorf("%w: wait is %q, want a duration such as 30s", errBadRequest, text)
		}
		wait = min(d, maxWait)
	}
	id := q.PathValue("id")
	ctx, cancel := context.WithTimeout(q.Context(), wait)
	defer cancel()
	for {
		changed := r.ledger.Watch(id)
		s, err := r.ledger.Get(q.Context(), id)
		if err != nil && !(gone(err) && wait > 0) {
			r.ledger.Unwatch(id, changed)
			return 0, nil, err
		}
		if err == nil && !visible(s, caller) {
			r.ledger.Unwatch(id, changed)
			return 0, nil, fmt.Errorf("show revocation %s: %w", id, ledger.ErrUnknown)
		}
		if err == nil && (s.Status() == ledger.StatusClosed || s.Status() == ledger.StatusRefused || s.Closed != nil) {
			r.ledger.Unwatch(id, changed)
			return http.StatusOK, viewOf(s, r.now()), nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			r.ledger.Unwatch(id, changed)
			if err != nil {
				return 0, nil, err
			}
			return http.StatusOK, viewOf(s, r.now()), nil
		}
	}
}

// visible: operators see every revocation, others those of their own tenant's log
// and those whose target is their tenant's.
func visible(s *ledger.State, c token.Claims) bool {
	return service.Operator(c) || s.Tenant == c.Tenant || s.Accepted != nil && s.Accepted.Target.Tenant == c.Tenant
}

func (r *revoker) listRevocations(_ http.ResponseWriter, q *http.Request, caller token.Claims) (int, any, error) {
	tenant, err := service.TenantFilter(q, caller)
	if err != nil {
		return 0, nil, err
	}
	limit := 100
	if text := q.URL.Query().Get("limit"); text != "" {
		if limit, err = strconv.Atoi(text); err != nil || limit < 1 || limit > 1000 {
			return 0, nil, fmt.Errorf("%w: limit is %q, want 1 to 1000", errBadRequest, text)
		}
	}
	out := []view{}
	switch status := q.URL.Query().Get("status"); status {
	case "":
	case string(ledger.StatusProposed):
		for _, p := range r.ledger.Proposed(tenant) {
			if len(out) < limit {
				out = append(out, proposal(p))
			}
		}
		return http.StatusOK, out, nil
	default:
		return 0, nil, fmt.Errorf("%w: status is %q, want proposed", errBadRequest, status)
	}
	for _, s := range r.ledger.List(tenant, limit) {
		out = append(out, listed(s))
	}
	return http.StatusOK, out, nil
}

func (r *revoker) listGuards(_ http.ResponseWriter, q *http.Request, caller token.Claims) (int, any, error) {
	tenant, err := service.TenantFilter(q, caller)
	if err != nil {
		return 0, nil, err
	}
	now := r.now()
	out := []guardView{}
	for _, g := range r.table.List(tenant) {
		out = append(out, guardView{Guard: g, Present: g.Present(now)})
	}
	return http.StatusOK, out, nil
}
