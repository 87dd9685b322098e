// Package api is issuance's HTTP API for callers that hold a Lanyard token: the
// inventory, declarations, trust between tenants, exceptions to policy and the end of tasks. Only issuance
// imports it.
package api

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	json "github.com/go-json-experiment/json"
	"go.uber.org/zap"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/ledger"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/registry"
)

// Scopes of the writing calls; reading asks for service.ScopeRead.
const (
	ScopeDeclare = "lanyard.identity"
	ScopeTrust   = "lanyard.trust"
)

const (
	maxBody = 64 << 10
	timeout = 15 * time.Second
)

// Bus stores events durably.
type Bus interface {
	Publish(ctx context.Context, es ...events.Event) error
	LastSequence(ctx context.Context, stream, filter string) (uint64, error)
}

// Registry is what the API needs of the registry.
type Registry interface {
	Register(ctx context.Context, cause events.Event, reg events.Registration) (registry.Identity, error)
	CloseTask(cause events.Event, p events.TaskEnded) ([]events.Event, error)
	Settled(ctx context.Context, tenant string, reg events.Registration) (registry.Identity, bool, error)
}

// Loader reads one identity.
type Loader interface {
	Load(ctx context.Context, tenant, entity string) (registry.Identity, uint64, error)
}

// Inventory lists identities.
type Inventory interface {
	CatchUp(ctx context.Context) error
	Tenants(ctx context.Context) ([]string, error)
	List(ctx context.Context, tenant string) ([]registry.Summary, error)
}

// Ledger tells which handles are dead and which exceptions nobody has ended, and when it
// has heard of something.
type Ledger interface {
	Granted(tenant string) []ledger.Exception
	Wait(ctx context.Context, sequence uint64) error
	Dead(now time.Time, handles ...lineage.Handle) (lineage.Handle, string, bool)
}

// API is the handlers and what they stand on. All fields are required.
type API struct {
	Bus       Bus
	Registry  Registry
	Loader    Loader
	Inventory Inventory
	Ledger    Ledger
	Namer     *lineage.Namer
	Log       *zap.Logger
	Rand      io.Reader
	Now       func() time.Time
}

// Register adds the routes to mux below base, each behind authorize.
func (a *API) Register(mux *http.ServeMux, base string, authorize func(scope string, h http.Handler) http.Handler) {
	for _, r := range []struct {
		method, path, scope string
		do                  func(http.ResponseWriter, *http.Request)
	}{
		{"GET", "/v1/identities", service.ScopeRead, a.list},
		{"GET", "/v1/identities/{tenant}/{id...}", service.ScopeRead, a.show},
		{"POST", "/v1/identities", ScopeDeclare, a.declare},
		{"POST", "/v1/trusts", ScopeTrust, a.trust},
		{"POST", "/v1/tasks/{task...}", "", a.task},
		{"GET", "/v1/exceptions", service.ScopeRead, a.exceptions},
		{"POST", "/v1/exceptions", service.ScopeOperator, a.grantException},
		{"POST", "/v1/exceptions/{id}/end", service.ScopeOperator, a.endException},
	} {
		mux.Handle(r.method+" "+base+r.path, authorize(r.scope, http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			ctx, cancel := context.WithTimeout(q.Context(), timeout)
			defer cancel()
			r.do(w, q.WithContext(ctx))
		})))
	}
}

// list answers {"identities":[...]} of the caller's tenant; to operators, of every
// tenant or of ?tenant=.
func (a *API) list(w http.ResponseWriter, r *http.Request) {
	c, _ := service.Caller(r.Context())
	tenant, err := service.TenantFilter(r, c)
	if err != nil {
		service.Problem(w, http.StatusForbidden, events.Code(err), err.Error())
		return
	}
	list, err := a.inventory(r.Context(), tenant)
	if err != nil {
		a.unavailable(w, err)
		return
	}
	service.JSON(w, http.StatusOK, map[string]any{"identities": list})
}

// inventory is the identities of one tenant, or of all when tenant is empty.
func (a *API) inventory(ctx context.Context, tenant string) ([]registry.Summary, error) {
	if err := a.Inventory.CatchUp(ctx); err != nil {
		return nil, err
	}
	tenants := []string{tenant}
	if tenant == "" {
		var err error
		if tenants, err = a.Inventory.Tenants(ctx); err != nil {
			return nil, err
		}
	}
	all := []registry.Summary{}
	for _, t := range tenants {
		list, err := a.Inventory.List(ctx, t)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

// Shown is the answer about one identity.
type Shown struct {
	registry.Summary
	RegisteredAt time.Time                  `json:"registered_at,omitzero"`
	Freezes      map[string]registry.Freeze `json:"freezes,omitempty"`
	EndedBy      string                     `json:"ended_by,omitempty"`
	Handle       string                     `json:"handle"`
}

func (a *API) show(w http.ResponseWriter, r *http.Request) {
	c, _ := service.Caller(r.Context())
	tenant, id := r.PathValue("tenant"), r.PathValue("id")
	if !events.ValidTenant(tenant) || tenant != c.Tenant && !service.Operator(c) {
		notFound(w)
		return
	}
	s, _, err := a.Loader.Load(r.Context(), tenant, id)
	if err != nil {
		a.unavailable(w, err)
		return
	}
	if s.Registration == nil {
		notFound(w)
		return
	}
	service.JSON(w, http.StatusOK, a.shown(tenant, s))
}

func (a *API) shown(tenant string, s registry.Identity) Shown {
	now := a.Now()
	return Shown{
		Summary:      registry.Summary{Tenant: tenant, Registration: *s.Registration, Status: s.Status(now), Why: s.Why(now)},
		RegisteredAt: s.RegisteredAt, Freezes: s.Freezes, EndedBy: s.EndedBy,
		Handle: a.Namer.Name(lineage.KindIdentity, tenant, s.Registration.Identity).String(),
	}
}

// declare makes identity.declared durable and registers it in the same call, by the
// same function as the handler of declarations from the bus; 201 with the identity. One
// that is registered just so is answered with 200 and leaves no trace.
func (a *API) declare(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Tenant string `json:"tenant"`
		events.Registration
	}
	tenant, ok := read(w, r, &body, &body.Tenant)
	if !ok {
		return
	}
	e, err := a.event(r, tenant, events.IdentityDeclared{Registration: body.Registration})
	if err != nil {
		a.unavailable(w, err)
		return
	}
	if err := events.Validate(e); err != nil {
		service.Problem(w, http.StatusUnprocessableEntity, events.Code(err), err.Error())
		return
	}
	s, settled, err := a.Registry.Settled(r.Context(), tenant, body.Registration)
	if err == nil && settled {
		service.JSON(w, http.StatusOK, a.shown(tenant, s))
		return
	}
	if err == nil {
		err = a.Bus.Publish(r.Context(), e)
	}
	if err != nil {
		a.unavailable(w, err)
		return
	}
	s, err = a.Registry.Register(r.Context(), e, body.Registration)
	switch {
	case errors.Is(err, registry.ErrIncomplete):
		service.Problem(w, http.StatusUnprocessableEntity, "incomplete", err.Error())
	case errors.Is(err, registry.ErrEnded):
		service.Problem(w, http.StatusConflict, "ended", err.Error())
	case errors.Is(err, registry.ErrDeadHandle):
		service.Problem(w, http.StatusConflict, "revoked", err.Error())
	case err != nil || s.Registration == nil:
		a.unavailable(w, err)
	default:
		service.JSON(w, http.StatusCreated, a.shown(tenant, s))
	}
}

// trust declares that identities of the caller's tenant may delegate to those of
// another: body {"tenant"?, "to", "scopes", "max_depth"}; 201 with the record. The
// record's id is "<from>-><to>"; one that was revoked is never declared again.
func (a *API) trust(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Tenant   string   `json:"tenant"`
		To       string   `json:"to"`
		Scopes   []string `json:"scopes"`
		MaxDepth int      `json:"max_depth"`
	}
	from, ok := read(w, r, &body, &body.Tenant)
	if !ok {
		return
	}
	if !events.ValidTenant(body.To) || body.To == from || len(body.Scopes) == 0 || body.MaxDepth < 1 {
		service.Problem(w, http.StatusUnprocessableEntity, "invalid_trust", "give another tenant as to, at least one scope, and a max_depth of at least 1")
		return
	}
	c, _ := service.Caller(r.Context())
	t := events.TrustDeclared{Trust: from + "->" + body.To, To: body.To, Scopes: body.Scopes, MaxDepth: body.MaxDepth, By: c.Tenant + "/" + c.Subject}
	h := a.Namer.Name(lineage.KindTrust, from, t.Trust)
	if _, rev, dead := a.Ledger.Dead(a.Now(), h); dead {
		service.Problem(w, http.StatusConflict, "revoked", "this trust is under revocation "+rev)
		return
	}
	if err := a.declareTrust(r, from, t); err != nil {
		a.unavailable(w, err)
		return
	}
	service.JSON(w, http.StatusCreated, struct {
		From string `json:"from"`
		events.TrustDeclared
		Handle string `json:"handle"`
	}{from, t, h.String()})
}

// declareTrust makes t durable and waits until this process acts on it.
func (a *API) declareTrust(r *http.Request, from string, t events.TrustDeclared) error {
	e, err := a.event(r, from, t)
	if err != nil {
		return err
	}
	if err := a.Bus.Publish(r.Context(), e); err != nil {
		return err
	}
	n, err := a.Bus.LastSequence(r.Context(), bus.StreamLog, events.LogSubject(from, "trust", "declared", t.Trust))
	if err != nil {
		return err
	}
	return a.Ledger.Wait(r.Context(), n)
}

func (a *API) event(r *http.Request, tenant string, p events.Payload) (events.Event, error) {
	id := make([]byte, 16)
	if _, err := io.ReadFull(a.Rand, id); err != nil {
		return events.Event{}, fmt.Errorf("draw id: %w", err)
	}
	return events.New(events.Origin{Source: registry.Source, Tenant: tenant, Time: a.Now(),
		Discriminator: hex.EncodeToString(id), Traceparent: r.Header.Get("Traceparent")}, p)
}

// read reads a strict JSON body and settles the tenant: the caller's own unless an
// operator names another. It answers errors itself.
func read(w http.ResponseWriter, r *http.Request, body any, tenant *string) (string, bool) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		service.Problem(w, http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf("the body must be at most %d bytes", maxBody))
		return "", false
	}
	if err := json.Unmarshal(b, body, json.RejectUnknownMembers(true)); err != nil {
		service.Problem(w, http.StatusBadRequest, "malformed_json", "the body must be one JSON object without unknown or doubled members: "+err.Error())
		return "", false
	}
	c, _ := service.Caller(r.Context())
	switch {
	case *tenant == "":
		return c.Tenant, true
	case *tenant != c.Tenant && !service.Operator(c):
		service.Problem(w, http.StatusForbidden, events.Code(events.ErrWrongTenant), "you may act for your own tenant only")
		return "", false
	case !events.ValidTenant(*tenant):
		service.Problem(w, http.StatusUnprocessableEntity, events.Code(events.ErrBadTenant), "tenant must be 1 to 63 characters of a-z, 0-9 and -")
		return "", false
	}
	return *tenant, true
}

func notFound(w http.ResponseWriter) {
	service.Problem(w, http.StatusNotFound, "unknown_identity", "there is no such identity in a tenant you may see")
}

func (a *API) unavailable(w http.ResponseWriter, err error) {
	a.Log.Error("request not served", zap.Error(err))
	w.Header().Set("Retry-After", "2")
	service.Problem(w, http.StatusServiceUnavailable, "unavailable", "the log or the index cannot be reached; try again in a few seconds")
}
