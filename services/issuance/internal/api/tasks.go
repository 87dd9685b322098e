package api

import (
	"net/http"
	"strings"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

// task routes POST /v1/tasks/{task}/end and /v1/tasks/{task}/heartbeat; ids of tasks may
// hold slashes.
func (a *API) task(w http.ResponseWriter, r *http.Request) {
	task, ends := strings.CutSuffix(r.PathValue("task"), "/end")
	task, beats := strings.CutSuffix(task, "/heartbeat")
	c, _ := service.Caller(r.Context())
	switch {
	case ends == beats || task == "":
		service.Problem(w, http.StatusNotFound, "unknown_path", "POST to /v1/tasks/{task}/end or /v1/tasks/{task}/heartbeat")
	case c.Task != task:
		service.Problem(w, http.StatusForbidden, "not_your_task", "with a token one speaks for the task that it is for, no other")
	case delegated(c):
		service.Problem(w, http.StatusForbidden, "delegated", "whoever began a task speaks for it, not whom they delegated to")
	case beats:
		a.heartbeat(w, r, task)
	default:
		a.endTask(w, r, task)
	}
}

// heartbeat is a sign of life of the caller's own task, without a body; 202 once it is
// durable. Only registrations with heartbeat_seconds ask for it.
func (a *API) heartbeat(w http.ResponseWriter, r *http.Request, task string) {
	c, _ := service.Caller(r.Context())
	e, err := a.event(r, c.Tenant, events.TaskHeartbeat{Task: task})
	if err == nil {
		if err := events.Validate(e); err != nil {
			service.Problem(w, http.StatusUnprocessableEntity, events.Code(err), err.Error())
			return
		}
		err = a.Bus.Publish(r.Context(), e)
	}
	if err != nil {
		a.unavailable(w, err)
		return
	}
	service.JSON(w, http.StatusAccepted, map[string]string{"tenant": c.Tenant, "task": task})
}

// endTask ends the task of the caller's own token: body {"reason"}; 202 once nothing is
// issued for it any more. Its credentials, the caller's own too, end with the revocation
// that the answer names, in a moment. Products end the tasks of their tenant with the
// event task.ended.
func (a *API) endTask(w http.ResponseWriter, r *http.Request, task string) {
	var body struct {
		Tenant string `json:"tenant"`
		Reason string `json:"reason"`
	}
	if _, ok := read(w, r, &body, &body.Tenant); !ok {
		return
	}
	c, _ := service.Caller(r.Context())
	if body.Tenant != "" && body.Tenant != c.Tenant {
		service.Problem(w, http.StatusForbidden, "not_your_task", "a task of another tenant is not yours")
		return
	}
	ended := events.TaskEnded{Task: task, Reason: body.Reason, By: c.Subject}
	cause, err := a.event(r, c.Tenant, ended)
	if err != nil {
		a.unavailable(w, err)
		return
	}
	if err := events.Validate(cause); err != nil {
		service.Problem(w, http.StatusUnprocessableEntity, events.Code(err), err.Error())
		return
	}
	if err := a.closeTask(r, cause, ended); err != nil {
		a.unavailable(w, err)
		return
	}
	h := a.Namer.Name(lineage.KindTask, c.Tenant, task)
	_, rev, _ := a.Ledger.Dead(a.Now(), h)
	service.JSON(w, http.StatusAccepted, map[string]string{"tenant": c.Tenant, "task": task, "handle": h.String(), "revocation": rev})
}

// closeTask makes the end of a task durable with what follows from it, as the handler of
// task.ended does, and waits until this process issues nothing for it.
func (a *API) closeTask(r *http.Request, cause events.Event, p events.TaskEnded) error {
	follow, err := a.Registry.CloseTask(cause, p)
	if err != nil {
		return err
	}
	if err := a.Bus.Publish(r.Context(), append([]events.Event{cause}, follow...)...); err != nil {
		return err
	}
	n, err := a.Bus.LastSequence(r.Context(), bus.StreamLog, events.LogSubject(events.Tenant(cause), "task", "closed", p.Task))
	if err != nil {
		return err
	}
	return a.Ledger.Wait(r.Context(), n)
}
