package policies

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	json "github.com/go-json-experiment/json"
	"go.uber.org/zap"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/policy"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/registry"
)

const (
	maxBody = 3*policy.MaxText/2 + 64<<10 // text with its escapes
	timeout = 30 * time.Second
)

// Loader reads one identity.
type Loader interface {
	Load(ctx context.Context, tenant, entity string) (registry.Identity, uint64, error)
}

// API serves the policies to operators. All fields are required.
type API struct {
	Store      *Store
	Bus        Log
	History    History
	Exceptions Exceptions
	Loader     Loader
	Issuer     string // audience of operators' tokens
	Log        *zap.Logger
	Rand       io.Reader
	Now        func() time.Time

	replaying sync.Mutex
}

// Register adds the routes to mux below base, each for operators only: policies are
// everybody's.
func (a *API) Register(mux *http.ServeMux, base string, authorize func(scope string, h http.Handler) http.Handler) {
	for _, r := range []struct {
		route   string
		timeout time.Duration
		do      http.HandlerFunc
	}{
		{"GET " + base + "/v1/policies", timeout, a.show},
		{"POST " + base + "/v1/policies", timeout, a.apply},
		{"POST " + base + "/v1/policies/what-if", maxReplay, a.whatIf},
	} {
		mux.Handle(r.route, authorize(service.ScopeOperator, operators(func(w http.ResponseWriter, q *http.Request) {
			ctx, cancel := context.WithTimeout(q.Context(), r.timeout)
			defer cancel()
			r.do(w, q.WithContext(ctx))
		})))
	}
}

// operators lets only operators through: of another tenant, the scope counts nothing.
func operators(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c, _ := service.Caller(r.Context())
		switch {
		case !service.Operator(c):
			service.Problem(w, http.StatusForbidden, "not_an_operator", "policies are for operators of this installation")
			return
		case c.Actor != nil:
			service.Problem(w, http.StatusForbidden, "delegated", "policies are for operators themselves, not for who acts for them")
			return
		}
		h(w, r)
	})
}

// Shown is the set in force.
type Shown struct {
	Version     string           `json:"version"`
	Previous    string           `json:"previous,omitempty"`
	ActivatedAt time.Time        `json:"activated_at,omitzero"`
	By          string           `json:"by,omitempty"`
	Reason      string           `json:"reason,omitempty"`
	Policies    []policy.Summary `json:"policies"`
	Files       []policy.File    `json:"files"`
}

func (a *API) shown(set *policy.Set) Shown {
	out := Shown{Version: set.Version(), Policies: set.Policies(), Files: set.Files()}
	if at, ok := a.Store.Activation(); ok && at.Version == set.Version() {
		out.Previous, out.ActivatedAt, out.By, out.Reason = at.Previous, at.At, at.By, at.Reason
	}
	return out
}

func (a *API) show(w http.ResponseWriter, _ *http.Request) {
	set := a.Store.Active()
	if set == nil {
		a.unavailable(w, errors.New("the policies in force are not known"))
		return
	}
	service.JSON(w, http.StatusOK, a.shown(set))
}

// apply puts a set in force: body {"files":[{"name","text"}],"reason"?,"previous"?};
// 201 with the set when this process decides by it, 200 when it was in force before.
// With previous, the set in force must be that one.
func (a *API) apply(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Files    []policy.File `json:"files"`
		Reason   string        `json:"reason"`
		Previous string        `json:"previous"`
	}
	set, ok := a.read(w, r, &body, &body.Files)
	if !ok {
		return
	}
	if len(body.Reason) > 1024 {
		service.Problem(w, http.StatusUnprocessableEntity, "invalid_reason", "reason is longer than 1024 bytes")
		return
	}
	after, err := a.Bus.LastSequence(r.Context(), bus.StreamLog, filter)
	if err == nil {
		err = a.Store.Wait(r.Context(), after)
	}
	if err != nil {
		a.unavailable(w, err)
		return
	}
	now := a.Store.Active()
	version := ""
	if now != nil {
		version = now.Version()
	}
	c, _ := service.Caller(r.Context())
	switch {
	case body.Previous != "" && body.Previous != version:
		service.Problem(w, http.StatusConflict, "moved_on", "the policies in force are "+version+", not "+body.Previous+": look at them and decide again")
		return
	case version == set.Version():
		service.JSON(w, http.StatusOK, a.shown(now))
		return
	}
	why, err := a.lockout(r.Context(), set, c)
	switch {
	case err != nil:
		a.unavailable(w, err)
		return
	case why != "":
		service.Problem(w, http.StatusConflict, "lockout", "these policies would keep you from putting others in force: "+why)
		return
	}
	at, err := publish(r.Context(), a.Bus, a.Rand, a.Now(), set, events.PolicyActivated{Previous: version, By: c.Tenant + "/" + c.Subject, Reason: body.Reason}, after)
	if err == nil {
		err = a.Store.Wait(r.Context(), at)
	}
	switch {
	case errors.Is(err, bus.ErrConflict):
		service.Problem(w, http.StatusConflict, "moved_on", "other policies were put in force meanwhile: look at them and decide again")
	case err != nil:
		a.unavailable(w, err)
	default:
		service.JSON(w, http.StatusCreated, a.shown(set))
	}
}

// lockout says why set would refuse the caller the token by which it acts now; "" when
// it would not.
func (a *API) lockout(ctx context.Context, set *policy.Set, c token.Claims) (string, error) {
	s, _, err := a.Loader.Load(ctx, c.Tenant, c.Subject)
	if err != nil || s.Registration == nil {
		return "", err
	}
	reg := s.Registration
	now := a.Now()
	f := policy.Facts{Tenant: c.Tenant, Identity: c.Subject, Task: c.Task, Time: now, Context: events.DecisionContext{
		Kind: reg.Kind, Owner: reg.Owner, Feature: reg.Feature, IdentityPurpose: reg.Purpose, Risk: s.RiskAt(now), Grant: "jwt-bearer"}}
	if len(reg.Attestation) > 0 {
		f.Context.Attestation = reg.Attestation[0]
	}
	return set.Ask(f).Decide(service.ScopeOperator, a.Issuer).Why, nil
}

// read reads a strict JSON body and the set of policies in it, and answers what is
// wrong with either.
func (a *API) read(w http.ResponseWriter, r *http.Request, body any, files *[]policy.File) (*policy.Set, bool) {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		service.Problem(w, http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf("the body must be at most %d bytes", maxBody))
		return nil, false
	}
	if err := json.Unmarshal(b, body, json.RejectUnknownMembers(true)); err != nil {
		service.Problem(w, http.StatusBadRequest, "malformed_json", "the body must be one JSON object without unknown or doubled members: "+err.Error())
		return nil, false
	}
	set, err := policy.Parse(*files)
	switch {
	case errors.Is(err, policy.ErrInvalid):
		service.Problem(w, http.StatusUnprocessableEntity, "invalid_policy", err.Error())
	case err != nil:
		a.unavailable(w, err)
	default:
		return set, true
	}
	return nil, false
}

func (a *API) unavailable(w http.ResponseWriter, err error) {
	a.Log.Error("policies not served", zap.Error(err))
	w.Header().Set("Retry-After", "2")
	service.Problem(w, http.StatusServiceUnavailable, "unavailable", "the log cannot be reached or the policies in force are not known; try again in a few seconds")
}
