package detect

import (
	"fmt"
	"strings"

	"github.com/lanyard-nhi/lanyard/events"
)

// replayInfo documents D04.
var replayInfo = Info{
	ID: "D04", Name: "token_replay",
	Catches:     "a token in the hands of somebody else: bound to another key, from another network and another workload or client, or accepted where it was not meant for",
	Fields:      []string{"jti", "lineage", "credential", "cnf", "audience", "destination", "source_ip", "source_asn", "workload", "user_agent"},
	Method:      "per token id: another cnf than before; or another network together with another workload or client (another network alone is a change of address); or a destination that is a URL and none of the audiences, with success. The last 65,536 to 131,072 tokens are remembered",
	Explanation: "token {jti} was used from {net1} with {client1} at {t1}; again from {net2} with {client2}",
	Severity:    events.SeverityCritical,
	References:  []string{"NHI4", "T1550.001", "AML.T0091.000"},
	Response:    RespondRevoke,
}

// holding is how a token was first used.
type holding struct {
	cnf, network, workload, agent uint32
	text, event                   string
	at                            int32Time
}

// tokenReplay is D04.
func tokenReplay(in *Input, _ *State) *Finding {
	a := in.Activity
	if f := astray(in); f != nil {
		return f
	}
	id := a.JTI
	if id == "" && len(a.Lineage) > 0 {
		id = a.Credential
	}
	if id == "" {
		return nil
	}
	now := holding{cnf: hashOf(a.Confirmation), network: networkHash(a), workload: maskedHash(a.Workload), agent: hashOf(clientOf(a.UserAgent)), at: seconds(in.Time)}
	k := pair{in.IdentityTenant(), id}
	first, ok := in.Facts.tokens.get(k)
	if !ok {
		now.event, now.text = strings.Clone(in.ID), held(a)
		in.Facts.tokens.put(k, now)
		return nil
	}
	what := ""
	switch {
	case differ(first.cnf, now.cnf):
		what = "bound to another key"
	case differ(first.network, now.network) && (differ(first.workload, now.workload) || differ(first.agent, now.agent)):
		what = "from another network and by another holder"
	default:
		return nil
	}
	return &Finding{
		Severity: events.SeverityCritical,
		Explanation: fmt.Sprintf("the token %s of %s was first used %s; %s apart it was used %s (%s on %s at %s), %s",
			clip(id), clip(a.Identity), first.text, gapOf(first.at, now.at), held(a), clip(a.Action), clip(a.Destination), stamp(in.Time), what),
		Value:     held(a),
		Baseline:  first.text,
		Count:     2,
		Threshold: 1,
		Response:  RespondRevoke,
		Evidence:  []string{first.event},
		Since:     first.at.time(),
	}
}

func differ(a, b uint32) bool { return a != 0 && b != 0 && a != b }

// held says where and by what a token is used.
func held(a *events.Activity) string {
	t := "from " + network(a)
	if a.Workload != "" {
		t += " by the workload " + Clip(a.Workload, 60)
	}
	if a.UserAgent != "" {
		t += " with the client " + Clip(clientOf(a.UserAgent), 40)
	}
	if a.Confirmation != "" {
		t += " with the key " + Clip(a.Confirmation, 48)
	}
	return t
}

// astray finds a token that was accepted by whom it was not meant for.
func astray(in *Input) *Finding {
	a := in.Activity
	if len(a.Audience) == 0 || !in.Succeeded() || !strings.Contains(a.Destination, "://") {
		return nil
	}
	for _, x := range a.Audience {
		if !strings.Contains(x, "://") || x == a.Destination || strings.HasPrefix(a.Destination, strings.TrimSuffix(x, "/")+"/") {
			return nil
		}
	}
	return &Finding{
		Severity: events.SeverityCritical,
		Explanation: fmt.Sprintf("a credential of %s for %s was accepted by %s for %s at %s; it was not meant for it",
			clip(a.Identity), clip(strings.Join(a.Audience, ", ")), clip(a.Destination), clip(a.Action), stamp(in.Time)),
		Value:     "destination " + clip(a.Destination),
		Baseline:  "audience " + clip(strings.Join(a.Audience, ", ")),
		Count:     1,
		Threshold: 1,
		Response:  RespondRevoke,
	}
}

// tokens remembers how tokens were first used, in two generations: between size and
// twice as many.
type tokens struct{ now, old map[pair]holding }

const tokensSize = 1 << 16

func (t *tokens) get(k pair) (holding, bool) {
	if h, ok := t.now[k]; ok {
		return h, true
	}
	h, ok := t.old[k]
	return h, ok
}

func (t *tokens) put(k pair, h holding) {
	if len(t.now) >= tokensSize || t.now == nil {
		t.now, t.old = map[pair]holding{}, t.now
	}
	t.now[k] = h
}
