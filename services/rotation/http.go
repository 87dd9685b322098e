package rotation

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/rotation/internal/stages"
	"go.uber.org/zap"
)

const (
	scopeRotate = "lanyard.rotate" // ask for a rotation
	maxBody     = 4 << 10
	maxReason   = 512
)

// errBusy: a rotation is under way.
var errBusy = errors.New("a rotation of the signing key is under way")

// request is the body of POST /v1/rotations.
type request struct {
	Object string `json:"object"` // "signing-key"
	Reason string `json:"reason"` // for people; required
}

// answer is the body of GET /v1/rotations.
type answer struct {
	Object    string            `json:"object"`
	InUse     string            `json:"in_use,omitempty"` // kid that signs, known after the first rotation
	Next      time.Time         `json:"next,omitzero"`    // when the next stage is due
	NextKind  string            `json:"next_kind,omitempty"`
	Rotations []stages.Rotation `json:"rotations"` // newest first
}

// http is the rotations API. The signing key belongs to the deployment, so only
// callers of the system tenant may touch it.
func (r *rotator) http(env service.Env) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /v1/rotations", env.Authorize(service.ScopeRead, r.own(r.list)))
	mux.Handle("POST /v1/rotations", env.Authorize(scopeRotate, r.own(r.start)))
	return mux
}

// own serves h to callers of the system tenant.
func (r *rotator) own(h http.HandlerFunc) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		c, ok := service.Caller(q.Context())
		if !ok || c.Tenant != service.SystemTenant {
			service.Problem(w, http.StatusForbidden, "wrong_tenant", "the signing key belongs to the deployment: only the tenant "+service.SystemTenant+" may see and rotate it")
			return
		}
		h(w, q)
	})
}

func (r *rotator) list(w http.ResponseWriter, q *http.Request) {
	s, _, err := r.keys.Load(q.Context(), service.SystemTenant, stages.SigningKey)
	if err != nil {
		r.unavailable(w, err)
		return
	}
	set, err := r.armed(q.Context())
	if err != nil {
		r.unavailable(w, err)
		return
	}
	a := answer{Object: stages.SigningKey, InUse: s.InUse, Next: set.At, NextKind: set.Kind, Rotations: []stages.Rotation{}}
	if s.Current.Stage != "" {
		a.Rotations = append(append(a.Rotations, s.Current), s.Past...)
	}
	service.JSON(w, http.StatusOK, a)
}

// start begins a rotation before its time. 202: it is scheduled and durable.
func (r *rotator) start(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, q.Body, maxBody))
	if err != nil {
		service.Problem(w, http.StatusRequestEntityTooLarge, "too_large", "the body is larger than 4 KiB or was cut off")
		return
	}
	var req request
	if err := json.Unmarshal(body, &req, json.RejectUnknownMembers(true)); err != nil {
		service.Problem(w, http.StatusBadRequest, "malformed_json", `want {"object":"signing-key","reason":"..."}`)
		return
	}
	req.Reason = strings.TrimSpace(req.Reason)
	switch {
	case req.Object != stages.SigningKey:
		service.Problem(w, http.StatusNotFound, "unknown_object", "only signing-key can be rotated")
		return
	case req.Reason == "" || len(req.Reason) > maxReason:
		service.Problem(w, http.StatusBadRequest, "reason_required", "say why, in at most 512 bytes")
		return
	}
	caller, _ := service.Caller(q.Context())
	now := r.now()
	s, _, err := r.keys.Decide(q.Context(), service.SystemTenant, stages.SigningKey, func(s stages.State) ([]events.Event, error) {
		p := stages.Start(s, now, "asked by "+caller.Subject+": "+req.Reason)
		if p == nil {
			return nil, errBusy
		}
		return r.state(s, p, now)
	})
	switch {
	case errors.Is(err, errBusy):
		service.Problem(w, http.StatusConflict, "rotation_under_way", errBusy.Error()+": it is "+string(s.Current.Stage))
		return
	case err != nil:
		r.unavailable(w, err)
		return
	}
	if err := r.arm(q.Context(), s); err != nil { // the rotation is scheduled; catch-up sets its timer
		r.log.Warn("cannot set the timer of a rotation yet", zap.Error(err))
	}
	r.log.Info("rotation asked for", zap.String("rotation", s.Current.ID), zap.String("by", caller.Subject))
	service.JSON(w, http.StatusAccepted, s.Current)
}

func (r *rotator) unavailable(w http.ResponseWriter, err error) {
	r.log.Error("rotations API cannot answer", zap.Error(err))
	service.Problem(w, http.StatusServiceUnavailable, "unavailable", "the log did not answer; try again")
}
