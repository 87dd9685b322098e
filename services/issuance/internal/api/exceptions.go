package api

import (
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/ledger"
)

// MaxException is the longest that an exception may last.
const MaxException = 90 * 24 * time.Hour

// The states of an exception that nobody has ended.
const (
	InForce   = "in_force"
	ReviewDue = "review_due" // in force, and nobody has looked at it again in time
	Expired   = "expired"
)

// ExceptionShown is the answer about one exception.
type ExceptionShown struct {
	ledger.Exception
	State string `json:"state"`
}

func shownException(e ledger.Exception, now time.Time) ExceptionShown {
	s := ExceptionShown{Exception: e, State: InForce}
	switch {
	case !now.Before(e.ExpiresAt):
		s.State = Expired
	case !now.Before(e.ReviewAt):
		s.State = ReviewDue
	}
	return s
}

// exceptions answers {"exceptions":[...]}, those that nobody has ended, the first that is
// due first. With ?due=<RFC 3339 time> only those whose review or end is not later.
func (a *API) exceptions(w http.ResponseWriter, r *http.Request) {
	c, _ := service.Caller(r.Context())
	tenant, err := service.TenantFilter(r, c)
	if err != nil {
		service.Problem(w, http.StatusForbidden, events.Code(err), err.Error())
		return
	}
	var due time.Time
	if text := r.URL.Query().Get("due"); text != "" {
		if due, err = time.Parse(time.RFC3339, text); err != nil {
			service.Problem(w, http.StatusUnprocessableEntity, "invalid_due", "due must be an RFC 3339 time, such as 2026-12-24T12:00:00Z")
			return
		}
	}
	if err := a.catchUp(r, "*"); err != nil {
		a.unavailable(w, err)
		return
	}
	out := []ExceptionShown{}
	for _, e := range a.Ledger.Granted(tenant) {
		if due.IsZero() || !e.ReviewAt.After(due) {
			out = append(out, shownException(e, a.Now()))
		}
	}
	service.JSON(w, http.StatusOK, map[string]any{"exceptions": out})
}

// catchUp waits until this process knows what the log says of an exception, "*" for all.
func (a *API) catchUp(r *http.Request, exception string) error {
	n, err := a.Bus.LastSequence(r.Context(), bus.StreamLog, events.LogSubject("*", "exception", "*", exception))
	if err != nil {
		return err
	}
	return a.Ledger.Wait(r.Context(), n)
}

// grantException makes exception.granted durable and answers 201 with it once this
// process acts on it. The body is what events.ExceptionGranted names, without exception,
// by and granted_at, and tenant.
func (a *API) grantException(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Tenant      string    `json:"tenant"`
		Policy      string    `json:"policy"`
		Identity    string    `json:"identity"`
		Feature     string    `json:"feature"`
		WholeTenant bool      `json:"whole_tenant"`
		Scopes      []string  `json:"scopes"`
		Audiences   []string  `json:"audiences"`
		Owner       string    `json:"owner"`
		Reason      string    `json:"reason"`
		ReviewAt    time.Time `json:"review_at"`
		ExpiresAt   time.Time `json:"expires_at"`
	}
	tenant, ok := read(w, r, &body, &body.Tenant)
	if !ok || !a.decides(w, r) {
		return
	}
	id := make([]byte, 8)
	if _, err := io.ReadFull(a.Rand, id); err != nil {
		a.unavailable(w, fmt.Errorf("draw id: %w", err))
		return
	}
	now := a.Now().UTC()
	p := events.ExceptionGranted{Exception: "exc-" + hex.EncodeToString(id), Policy: body.Policy, Identity: body.Identity,
		Feature: body.Feature, WholeTenant: body.WholeTenant, Scopes: body.Scopes, Audiences: body.Audiences, Owner: body.Owner,
		Reason: body.Reason, By: by(r), GrantedAt: now, ReviewAt: body.ReviewAt.UTC(), ExpiresAt: body.ExpiresAt.UTC()}
	if problem := unfit(p); problem != "" {
		service.Problem(w, http.StatusUnprocessableEntity, "invalid_exception", problem)
		return
	}
	if p.Identity != "" {
		s, _, err := a.Loader.Load(r.Context(), tenant, p.Identity)
		if err != nil {
			a.unavailable(w, err)
			return
		}
		if s.Registration == nil {
			service.Problem(w, http.StatusUnprocessableEntity, "unknown_identity", "there is no such identity in tenant "+tenant+": declare it first, or check its name")
			return
		}
	}
	if a.state(w, r, tenant, p) {
		service.JSON(w, http.StatusCreated, shownException(ledger.Exception{Tenant: tenant, ExceptionGranted: p}, now))
	}
}

// unfit says what is wrong with an exception that is asked for, and what to do.
func unfit(p events.ExceptionGranted) string {
	scopes := 0
	for _, given := range []bool{p.Identity != "", p.Feature != "", p.WholeTenant} {
		if given {
			scopes++
		}
	}
	switch {
	case p.Policy == "" || p.Owner == "" || p.Reason == "":
		return "an exception needs policy, the id of the policy that it lifts, an owner who answers for it, and a reason"
	case scopes != 1:
		return "say whom it holds for by exactly one of identity, feature and whole_tenant"
	case p.ExpiresAt.IsZero() || p.ReviewAt.IsZero():
		return "an exception needs expires_at and review_at, as RFC 3339 times"
	case !p.ExpiresAt.After(p.GrantedAt):
		return "expires_at has passed"
	case p.ExpiresAt.After(p.GrantedAt.Add(MaxException)):
		return "expires_at is more than 90 days away: what is needed for longer belongs into the policy"
	case !p.ReviewAt.After(p.GrantedAt) || p.ReviewAt.After(p.ExpiresAt):
		return "review_at must lie ahead and not after expires_at"
	}
	return ""
}

// endException ends an exception at once: body {"reason"}; 200. One that had been ended
// stays as it is.
func (a *API) endException(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Tenant string `json:"tenant"`
		Reason string `json:"reason"`
	}
	if _, ok := read(w, r, &body, &body.Tenant); !ok || !a.decides(w, r) {
		return
	}
	id := r.PathValue("id")
	if err := a.catchUp(r, id); err != nil {
		a.unavailable(w, err)
		return
	}
	p := events.ExceptionEnded{Exception: id, Reason: body.Reason, By: by(r), EndedAt: a.Now().UTC()}
	for _, e := range a.Ledger.Granted(body.Tenant) {
		if e.Exception == id {
			if a.state(w, r, e.Tenant, p) {
				service.JSON(w, http.StatusOK, ended{e.Tenant, id, true})
			}
			return
		}
	}
	n, err := a.Bus.LastSequence(r.Context(), bus.StreamLog, events.LogSubject("*", "exception", "ended", id))
	switch {
	case err != nil:
		a.unavailable(w, err)
	case n == 0:
		service.Problem(w, http.StatusNotFound, "unknown_exception", "there is no such exception: 'lanyard exception list' shows those that are not ended")
	default:
		service.JSON(w, http.StatusOK, ended{body.Tenant, id, true})
	}
}

// ended is the answer about an exception that lifts nothing any more.
type ended struct {
	Tenant    string `json:"tenant,omitempty"`
	Exception string `json:"exception"`
	Ended     bool   `json:"ended"`
}

// state makes a fact about an exception durable and waits until this process acts on it.
// It answers errors itself.
func (a *API) state(w http.ResponseWriter, r *http.Request, tenant string, p events.Payload) bool {
	e, err := a.event(r, tenant, p)
	if err != nil {
		a.unavailable(w, err)
		return false
	}
	if err := events.Validate(e); err != nil {
		service.Problem(w, http.StatusUnprocessableEntity, events.Code(err), err.Error())
		return false
	}
	if err = a.Bus.Publish(r.Context(), e); err == nil {
		err = a.catchUp(r, p.Entity())
	}
	if err != nil {
		a.unavailable(w, err)
		return false
	}
	return true
}

func by(r *http.Request) string {
	c, _ := service.Caller(r.Context())
	return c.Tenant + "/" + c.Subject
}

// decides reports whether the caller may decide about exceptions: an operator, in person.
// Neither an agent nor whoever an operator delegated to may, so that nobody's agent lifts
// the policy that binds it. It answers errors itself.
func (a *API) decides(w http.ResponseWriter, r *http.Request) bool {
	c, _ := service.Caller(r.Context())
	if !service.Operator(c) {
		service.Problem(w, http.StatusForbidden, "not_an_operator", "only an operator may decide about exceptions: ask one")
		return false
	}
	if delegated(c) {
		service.Problem(w, http.StatusForbidden, "delegated", "an exception is decided with one's own token, not with one that was delegated")
		return false
	}
	s, _, err := a.Loader.Load(r.Context(), c.Tenant, c.Subject)
	if err != nil {
		a.unavailable(w, err)
		return false
	}
	if s.Registration == nil || s.Registration.Kind == events.KindAgent {
		service.Problem(w, http.StatusForbidden, "agent", "an agent may not decide about exceptions: ask a person")
		return false
	}
	return true
}

func delegated(c token.Claims) bool { return c.Actor != nil }
