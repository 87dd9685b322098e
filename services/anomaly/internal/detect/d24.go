package detect

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// chainSpan is how close together the steps of one chain are.
const chainSpan = time.Hour

// privescInfo documents D24.
var privescInfo = Info{
	ID: "D24", Name: "privesc_chain",
	Catches:     "an identity that makes a principal and gives it rights, gives rights to itself, gives rights to a role and takes that role, uses a key that another identity made from the same network, or gives administration to somebody for the first time",
	Fields:      []string{"action", "target", "resource", "minted_id", "credential", "source_ip", "outcome"},
	Method:      "automaton over successful create, grant, credential, pass and assume steps about one principal within 1 h: a grant with any other step fires, a grant to oneself fires alone; a minted long-lived credential used from its maker's network within 1 h under another name fires; so does the first use of an action of a list that gives administration by its name (medium). Silent when the registration declares every action, or when the same chain is usual (first alerted about more than a day ago)",
	StateBytes:  700,
	Explanation: "{id} created {x} at {t1} and granted it rights at {t2}",
	Severity:    events.SeverityHigh,
	References:  []string{"NHI5", "T1098.001", "T1098.003", "T1548.005"},
	Response:    RespondContain,
}

// stepTags are the tags that make a step of a chain. stepWords name them.
const stepTags = TagCreate | TagGrant | TagCredential | TagPass | TagAssume

// step is one link of a chain.
type step struct {
	tag    Tag
	target uint32 // Hash of the principal it is about
	at     time.Time
	id     string
	known  bool // declared by the registration
}

// privescChain is D24.
func privescChain(in *Input, s *State) *Finding {
	a := in.Activity
	if !in.Succeeded() {
		return nil
	}
	if f := mintedUse(in); f != nil {
		return f
	}
	if a.MintedID != "" && in.Tags&TagCredential != 0 {
		in.Facts.Mint(a.MintedID, Minted{By: a.Identity, Tenant: in.Tenant, Event: in.ID, At: in.Time, Network: a.SourceIP})
	}
	tag := in.Tags & stepTags
	if tag == 0 {
		return administration(in, s)
	}
	name := principal(a.Target)
	if a.Target == "" {
		name = principal(a.Resource)
	}
	if name == "" {
		return administration(in, s)
	}
	now := step{tag: tag, target: Hash(name), at: in.Time, known: declared(in)}
	if len(in.ID) <= maxIDLen {
		now.id = strings.Clone(in.ID)
	}
	if len(s.steps) == maxSteps {
		s.steps = append(s.steps[:0], s.steps[1:]...)
	}
	s.steps = append(s.steps, now)
	if f := chain(in, s, name, now); f != nil {
		return f
	}
	return administration(in, s)
}

// administration judges an action that gives administration by its name alone.
func administration(in *Input, s *State) *Finding {
	a := in.Activity
	if in.Tags&TagAdmin == 0 || declared(in) || platform(a) || s.Actions.Usual(Hash(a.Action), in.Time) {
		return nil
	}
	return &Finding{
		Severity: events.SeverityMedium,
		Explanation: fmt.Sprintf("%s gave administration with %s on %s at %s; %s, and no registration names it",
			clip(a.Identity), clip(a.Action), clip(object(a)), stamp(in.Time), s.past(a.Action)),
		Value:     clip(a.Action),
		Baseline:  s.past(a.Action),
		Count:     1,
		Threshold: 1,
		Response:  RespondAlert,
	}
}

// chain judges the steps about one principal around the newest one.
func chain(in *Input, s *State, name string, now step) *Finding {
	a := in.Activity
	var steps []step
	var kinds Tag
	known := true
	for _, st := range s.steps {
		if d := st.at.Sub(now.at); st.target == now.target && d <= chainSpan && -d <= chainSpan {
			steps, kinds, known = append(steps, st), kinds|st.tag, known && st.known
		}
	}
	self := now.tag&TagGrant != 0 && name == principal(a.Identity)
	if !self && (kinds&TagGrant == 0 || kinds == TagGrant) || known {
		return nil
	}
	sort.SliceStable(steps, func(i, j int) bool { return steps[i].at.Before(steps[j].at) })
	h := Hash("chain", fmt.Sprint(uint32(kinds)), fmt.Sprint(self))
	if s.Actions.Usual(h, in.Time) {
		return nil
	}
	s.Actions.Hold(h, in.Time, maxActions)
	var words, ids []string
	for _, st := range steps {
		words = append(words, stepWord(st.tag)+" at "+stamp(st.at))
		if st.id != "" && st.id != in.ID {
			ids = append(ids, st.id)
		}
	}
	about := name
	if self {
		about = "itself"
	}
	return &Finding{
		Severity: events.SeverityHigh,
		Explanation: fmt.Sprintf("%s raised the rights of %s in %s within %s: %s (last action %s)",
			clip(a.Identity), clip(about), plural(len(steps), "step"), steps[len(steps)-1].at.Sub(steps[0].at).Round(time.Second), strings.Join(words, ", "), clip(a.Action)),
		Value:     plural(len(steps), "step") + " about " + clip(about),
		Baseline:  fmt.Sprintf("no such chain more than a day ago (%d earlier uses)", s.Uses),
		Count:     int64(len(steps)),
		Threshold: 2,
		Response:  RespondContain,
		Evidence:  ids,
		Since:     steps[0].at,
	}
}

// mintedUse finds a key that another identity made shortly before, in the same place.
func mintedUse(in *Input) *Finding {
	a := in.Activity
	if a.Credential == "" {
		return nil
	}
	m, ok := in.Facts.MintedBy(a.Credential)
	dt := in.Time.Sub(m.At)
	if !ok || m.Tenant != in.Tenant || m.By == a.Identity || m.Network == "" || m.Network != a.SourceIP || dt < 0 || dt > chainSpan {
		return nil
	}
	return &Finding{
		Severity: events.SeverityHigh,
		Explanation: fmt.Sprintf("%s created the key %s of %s at %s, and it was used %s later from the same network %s (%s on %s)",
			clip(m.By), clip(a.Credential), clip(a.Identity), stamp(m.At), dt.Round(time.Second), network(a), clip(a.Action), clip(a.Destination)),
		Value:     fmt.Sprintf("key minted by %s used %.0f s later", clip(m.By), dt.Seconds()),
		Baseline:  "a key is used by the workload that it was made for, elsewhere",
		Count:     2,
		Threshold: 2,
		Response:  RespondRevoke,
		Evidence:  []string{m.Event},
		Since:     m.At,
	}
}

func stepWord(t Tag) string {
	var out []string
	for _, w := range []struct {
		tag  Tag
		word string
	}{{TagCreate, "created"}, {TagGrant, "granted rights"}, {TagCredential, "made a credential"}, {TagPass, "passed it on"}, {TagAssume, "took it"}} {
		if t&w.tag != 0 {
			out = append(out, w.word)
		}
	}
	return strings.Join(out, " and ")
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	return fmt.Sprintf("%d %ss", n, word)
}
