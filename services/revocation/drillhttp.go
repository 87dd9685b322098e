package revocation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/drill"
)

// routes are the API of drills. To run one needs the scope lanyard.revoke, to read lanyard.read.
func (d *drills) routes(mux *http.ServeMux, env service.Env) {
	mux.Handle("POST /v1/drills", env.Authorize(service.ScopeRevoke, d.api(d.post)))
	mux.Handle("GET /v1/drills", env.Authorize(service.ScopeRead, d.api(d.list)))
	mux.Handle("GET /v1/drills/{id}", env.Authorize(service.ScopeRead, d.api(d.get)))
}

// tenant is the query's, or the caller's.
func drillTenant(q *http.Request, caller token.Claims) (string, error) {
	tenant, err := service.TenantFilter(q, caller)
	return cmp.Or(tenant, caller.Tenant), err
}

func (d *drills) post(_ http.ResponseWriter, q *http.Request, caller token.Claims) (int, any, error) {
	tenant, err := drillTenant(q, caller)
	if err != nil {
		return 0, nil, err
	}
	if authority(caller) == "" {
		return 0, nil, &httpError{http.StatusForbidden, "forbidden", "only operators of this tenant may run drills"}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(q.Context()), 30*time.Second)
	defer cancel()
	s, err := d.ask(ctx, tenant, caller.Subject)
	if errors.Is(err, errBusy) {
		return 0, nil, &httpError{http.StatusTooManyRequests, "busy", errBusy.Error()}
	}
	if err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, drill.Drill{Tenant: tenant, Started: s.DrillStarted}, nil
}

// get waits for the end of a drill, at most ?wait.
func (d *drills) get(_ http.ResponseWriter, q *http.Request, caller token.Claims) (int, any, error) {
	tenant, err := drillTenant(q, caller)
	if err != nil {
		return 0, nil, err
	}
	var wait time.Duration
	if text := q.URL.Query().Get("wait"); text != "" {
		if wait, err = time.ParseDuration(text); err != nil || wait < 0 {
			return 0, nil, fmt.Errorf("%w: wait is %q, want a duration such as 30s", errBadRequest, text)
		}
	}
	ctx, cancel := context.WithTimeout(q.Context(), min(wait, maxWait))
	defer cancel()
	for {
		found, changed, ok := d.book.Get(tenant, q.PathValue("id"))
		if ok && found.Finished != nil {
			return http.StatusOK, found, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			if !ok {
				return 0, nil, &httpError{http.StatusNotFound, "unknown_drill", "there is no such drill of " + tenant + "; only the newest are kept at hand"}
			}
			return http.StatusOK, found, nil
		}
	}
}

// drillStatus is what is known of a tenant's kill switch, and when it is overdue.
type drillStatus struct {
	drill.Status
	EverySeconds float64 `json:"every_seconds"` // 0: no schedule
	Overdue      bool    `json:"overdue"`
}

func (d *drills) list(_ http.ResponseWriter, q *http.Request, caller token.Claims) (int, any, error) {
	tenant, err := service.TenantFilter(q, caller)
	if err != nil {
		return 0, nil, err
	}
	scheduled := map[string]bool{}
	for _, t := range d.conf.Tenants {
		scheduled[t] = d.conf.Every > 0
	}
	tenants := []string{tenant}
	if tenant == "" {
		tenants = d.book.Tenants()
		for _, t := range d.conf.Tenants {
			if scheduled[t] && d.book.Status(t).Drills == 0 {
				tenants = append(tenants, t)
			}
		}
	}
	out := []drillStatus{}
	for _, t := range tenants {
		s := drillStatus{Status: d.book.Status(t)}
		if scheduled[t] {
			s.EverySeconds = time.Duration(d.conf.Every).Seconds()
			s.Overdue = s.Status.Overdue(time.Duration(d.conf.Every), d.born, d.now())
		}
		out = append(out, s)
	}
	return http.StatusOK, out, nil
}

// drillTypes are the events that drills append and publish.
func drillTypes() []string {
	return []string{events.TypeDrillStarted, events.TypeDrillFinished, events.TypeIdentityDeclared}
}
