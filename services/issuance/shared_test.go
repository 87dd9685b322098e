package issuance

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
)

// TestTenAgentsOnOneRole: ten logical agents prove themselves by the same workload and
// run on the same backend role. Each is its own identity with its own lineage, picked
// by client_id, and one can be killed alone.
func TestTenAgentsOnOneRole(t *testing.T) {
	w := newWorld(t)
	const role = "arn:aws:iam::111122223333:role/agents"
	form := func(i int) url.Values {
		f := w.bearer("shared")
		f.Set("client_id", name("agent", i))
		return f
	}
	for i := range 10 {
		reg := agent(name("agent", i))
		reg.Backend, reg.Aliases = role, []string{role}
		reg.Attestation[0].Subject = "wl/shared"
		w.declare("acme", reg)
	}
	w.eventually("all bound", func() bool { return w.post(form(9)).status == 200 })
	require.Equal(t, "invalid_request", w.post(w.bearer("shared")).Error, "the workload alone does not say which of the ten")

	seen := map[string]bool{}
	lineages := make([][]lineage.Handle, 10)
	for i := range 10 {
		_, c := w.issue(form(i))
		require.Equal(t, name("agent", i), c.Subject)
		own := w.namer.Name(lineage.KindIdentity, "acme", name("agent", i))
		require.Contains(t, c.Lineage, own)
		require.False(t, seen[own.String()])
		seen[own.String()], lineages[i] = true, c.Lineage
	}

	victim := target(lineage.KindIdentity, "acme", name("agent", 3))
	h := w.namer.Name(lineage.KindIdentity, "acme", victim.ID)
	w.kill(h, "rev-3", events.ModeRevoke)
	w.record(victim, "rev-3", events.ModeRevoke)
	w.eventually("killed", func() bool { return w.post(form(3)).status != 200 && w.guard.Status().Sequence >= w.last })
	for i := range 10 {
		_, dead := w.guard.Dead(lineages[i])
		require.Equal(t, i == 3, dead, "token of agent %d", i)
		require.Equal(t, i != 3, w.post(form(i)).status == 200, "agent %d", i)
	}
}
