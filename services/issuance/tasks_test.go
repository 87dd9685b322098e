package issuance

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// inTask is a token of an agent for a task, which it can show to Lanyard's own API.
func (w *world) inTask(name, task string) string {
	w.t.Helper()
	form := w.bearer(name)
	form.Set("task", task)
	form.Set("tenant", "acme")
	form.Set("audience", w.url)
	raw, _ := w.issue(form)
	return raw
}

func TestTaskEnds(t *testing.T) {
	w := newWorld(t)
	for _, n := range []string{"bot", "helper"} {
		reg := agent(n)
		reg.Audiences = append(reg.Audiences, w.url)
		w.declare("acme", reg)
	}
	w.declare("globex", agent("bot"))
	refused := func(name, task, tenant string) string {
		form := w.bearer(name)
		form.Set("task", task)
		form.Set("tenant", tenant)
		return w.post(form).Description
	}
	one, two := w.inTask("bot", "t-1"), w.inTask("bot", "t-2")
	form := w.exchange(one, "helper")
	form.Set("audience", w.url)
	passedOn, _ := w.issue(form)

	// A holder ends its own task, and no other.
	for name, c := range map[string]struct {
		bearer, path string
		body         any
		status       int
		code         any
	}{
		"no token":         {"", "/v1/tasks/t-1/end", map[string]any{"reason": "done"}, 401, "missing_token"},
		"another task":     {two, "/v1/tasks/t-1/end", map[string]any{"reason": "done"}, 403, "not_your_task"},
		"another tenant's": {one, "/v1/tasks/t-1/end", map[string]any{"tenant": "globex", "reason": "done"}, 403, "wrong_tenant"},
		"a helper's task":  {passedOn, "/v1/tasks/t-1/end", map[string]any{"reason": "done"}, 403, "delegated"},
		"no reason":        {one, "/v1/tasks/t-1/end", map[string]any{}, 422, "schema_violation"},
		"unknown member":   {one, "/v1/tasks/t-1/end", map[string]any{"reason": "done", "by": "x"}, 400, "malformed_json"},
		"nothing is ended": {one, "/v1/tasks/t-1/begin", map[string]any{"reason": "done"}, 404, "unknown_path"},
	} {
		status, got := w.call("POST", c.path, c.bearer, c.body)
		require.Equal(t, c.status, status, "%s: %v", name, got)
		require.Equal(t, c.code, got["code"], name)
	}
	w.inTask("bot", "t-1")
	status, got := w.call("POST", "/v1/tasks/t-1/end", one, map[string]any{"reason": "done"})
	require.Equal(t, 202, status, got)
	require.Contains(t, refused("bot", "t-1", "acme"), got["revocation"], "nothing is issued from the moment of the answer")
	require.NotEqual(t, 200, w.post(w.exchange(one, "helper")).status)
	w.inTask("bot", "t-2")
	w.inTask("helper", "t-2")
	require.Empty(t, refused("bot", "t-1", "globex"), "a task of the same name of another tenant goes on")
	closed, e := logged[events.TaskClosed](w, events.LogSubject("acme", "task", "closed", "t-1"))
	require.NoError(t, events.Validate(e))
	require.Equal(t, "bot", closed.By)
	require.Equal(t, 24*time.Hour, closed.ReusableAt.Sub(closed.ClosedAt))
	require.Equal(t, got["handle"], closed.Handle)

	// A product ends one: the same, and the revocation is asked for once.
	e = w.publish("acme", events.TaskEnded{Task: "t-2", Reason: "cancelled", By: "shop"})
	w.eventually("ended", func() bool { return refused("bot", "t-2", "acme") != "" })
	asked := func(task string) (list []events.RevocationRequested) {
		for s, err := range w.conn.Read(t.Context(), bus.StreamIn, "nhi.in.acme.revocation.requested", 1) {
			require.NoError(t, err)
			p, err := events.As[events.RevocationRequested](s.Event)
			require.NoError(t, err)
			require.NoError(t, events.Validate(s.Event))
			if p.Target.ID == task {
				list = append(list, p)
			}
		}
		return list
	}
	w.eventually("asked", func() bool { return len(asked("t-2")) == 1 })
	require.NoError(t, w.conn.Publish(t.Context(), e))
	require.Len(t, asked("t-1"), 1, "what the call did the handler of the event does not do again")
	r := asked("t-2")[0]
	require.Equal(t, events.ModeRevoke, r.Mode)
	require.Equal(t, events.Target{Kind: "task", Tenant: "acme", ID: "t-2"}, r.Target)
	require.Equal(t, "shop", r.RequestedBy)
	require.False(t, r.Automatic)

	// A task that nobody asked anything for ends too.
	w.publish("acme", events.TaskEnded{Task: "t-3", Reason: "never begun", By: "shop"})
	w.eventually("ended", func() bool { return refused("bot", "t-3", "acme") != "" })

	// One that reaches more credentials than a request may is asked for again, confirmed;
	// somebody else's request is not.
	last, e := logged[events.TaskClosed](w, events.LogSubject("acme", "task", "closed", "t-2"))
	require.NoError(t, events.Validate(e))
	refusal := events.RevocationRefused{Revocation: "somebody's", Mode: events.ModeRevoke, Code: "confirm_required", Reason: "51 live", Confirm: 51, By: "ana",
		Target: events.Target{Kind: "task", Tenant: "acme", ID: "t-2"}}
	w.publish("acme", refusal)
	refusal.Revocation = last.Revocation
	w.publish("acme", refusal)
	w.eventually("asked again", func() bool { return len(asked("t-2")) == 2 })
	require.EqualValues(t, 51, asked("t-2")[1].Confirm)
	w.eventually("closed again", func() bool {
		p, _ := logged[events.TaskClosed](w, events.LogSubject("acme", "task", "closed", "t-2"))
		return p.Revocation == events.RevocationID("acme", events.ConfirmedRequest("acme", last.Revocation))
	})
}
