package issuance

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
)

// TestOwnerGrace: who departs leaves an alert and a grace; at its end what nobody else
// answers for freezes. A feature that is switched off has no grace.
func TestOwnerGrace(t *testing.T) {
	w := newWorld(t, func(w *world) {
		w.configure = func(c *config.Config) { c.Issuance.OwnerGrace = config.Duration(24 * time.Hour) }
	})
	for _, n := range []string{"bot", "moved", "other"} {
		reg := agent(n)
		reg.Feature = n
		w.declare("acme", reg)
	}
	alerts := func() (list []events.AnomalyDetected) {
		for s, err := range w.conn.Read(t.Context(), bus.StreamAlert, "nhi.alert.acme.>", 1) {
			require.NoError(t, err)
			require.NoError(t, events.Validate(s.Event))
			p, err := events.As[events.AnomalyDetected](s.Event)
			require.NoError(t, err)
			list = append(list, p)
		}
		return list
	}
	gone := w.publish("acme", events.OwnerDeparted{Owner: "alice", Reason: "left"})
	w.eventually("alert", func() bool { return len(alerts()) == 1 })
	a := alerts()[0]
	require.Equal(t, "alice", a.Owner)
	require.EqualValues(t, 3, a.Count)
	require.Equal(t, []string{gone.ID()}, a.Evidence)
	require.Contains(t, a.Explanation, gone.Time().Add(24*time.Hour).UTC().Format(time.RFC3339))
	w.allowed("bot")
	require.NoError(t, w.conn.Publish(t.Context(), gone))
	w.publish("acme", events.OwnerDeparted{Owner: "nobody-of-ours"})

	reg := agent("moved")
	reg.Feature, reg.Owner = "moved", "carol"
	w.publish("acme", events.IdentityDeclared{Registration: reg})
	w.eventually("moved", func() bool {
		r, _ := logged[events.IdentityRegistered](w, events.LogSubject("acme", "identity", "registered", "moved"))
		return r.Owner == "carol"
	})
	w.publish("acme", events.FeatureDisabled{Feature: "other", By: "pm", Reason: "bug"})
	require.Contains(t, w.refused("other").Description, "feature other disabled by pm: bug")

	w.publish("acme", events.OwnerOverdue{Owner: "alice"})
	require.Contains(t, w.refused("bot").Description, "owner alice departed: nobody else has answered for it since")
	w.allowed("moved")
	require.Len(t, alerts(), 1, "one alert for an owner")
	reg = agent("bot")
	reg.Owner = "dave"
	w.publish("acme", events.IdentityDeclared{Registration: reg})
	w.allowed("bot")

	// A successor takes over at once.
	w.publish("acme", events.OwnerDeparted{Owner: "dave", Successor: "erin"})
	w.eventually("moved to the successor", func() bool {
		r, _ := logged[events.IdentityRegistered](w, events.LogSubject("acme", "identity", "registered", "bot"))
		return r.Owner == "erin"
	})
	w.allowed("bot")
}

// TestHeartbeat: the record of a first credential says which signs of life its task owes,
// and the holder gives them with its own token.
func TestHeartbeat(t *testing.T) {
	w := newWorld(t)
	reg := agent("bot")
	reg.HeartbeatSeconds, reg.Audiences = 60, append(reg.Audiences, w.url)
	w.declare("acme", reg)
	helper := agent("helper")
	helper.Audiences = append(helper.Audiences, w.url)
	w.declare("acme", helper)
	tok := w.inTask("bot", "run/7")
	issued, _ := logged[events.CredentialIssued](w, events.LogSubject("acme", "credential", "issued", "bot"))
	require.EqualValues(t, 60, issued.HeartbeatSeconds)
	form := w.exchange(tok, "helper")
	form.Set("audience", w.url)
	w.issue(form)
	issued, _ = logged[events.CredentialIssued](w, events.LogSubject("acme", "credential", "issued", "helper"))
	require.Zero(t, issued.HeartbeatSeconds, "whoever helps owes none")

	status, got := w.call("POST", "/v1/tasks/run/7/heartbeat", tok, nil)
	require.Equal(t, 202, status, got)
	status, got = w.call("POST", "/v1/tasks/run/8/heartbeat", tok, nil)
	require.Equal(t, 403, status)
	require.Equal(t, "not_your_task", got["code"])
	for s, err := range w.conn.Read(t.Context(), bus.StreamIn, "nhi.in.acme.task.heartbeat", 1) {
		require.NoError(t, err)
		require.NoError(t, events.Validate(s.Event))
		require.Equal(t, "run/7", s.Event.Subject())
	}
}
