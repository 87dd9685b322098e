package evaluate

import (
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly"
)

// repoEvent is one act of an identity in a public repository.
type repoEvent struct {
	Repo, ID, Kind, Act, Via string
	Dirs                     []string
	TS                       int64
}

// botStream is the acts of one automation identity: a bot in one repository, which is
// what it holds a credential for.
type botStream struct {
	name string
	es   []repoEvent
}

// activity is the act as the identity name would report it.
func (e repoEvent) activity(name string) *events.Activity {
	return &events.Activity{Identity: name, Action: "git:" + e.Act, ActionClass: events.ClassWrite, Destination: e.Repo,
		Workload: e.Via, Resource: strings.Join(e.Dirs, ","), Outcome: events.OutcomeSuccess}
}

// streams groups the acts of bots by identity, in event time.
func streams(r *run) ([]botStream, error) {
	if v, ok := r.cache["streams"].([]botStream); ok {
		return v, nil
	}
	es, err := load[repoEvent](r, fileBots)
	if err != nil {
		return nil, err
	}
	by := map[string][]repoEvent{}
	for _, e := range es {
		if e.Kind == "bot" {
			by[e.Repo+" "+e.ID] = append(by[e.Repo+" "+e.ID], e)
		}
	}
	var out []botStream
	for k, v := range by {
		sort.SliceStable(v, func(i, j int) bool { return v[i].TS < v[j].TS })
		out = append(out, botStream{k, v})
	}
	sort.Slice(out, func(i, j int) bool { return out[i].name < out[j].name })
	r.cache["streams"] = out
	return out, nil
}

// uses are the acts of a stream as activities.
func (b botStream) uses() []use {
	var out []use
	for i, e := range b.es {
		out = append(out, use{anomaly.Meta{ID: fmt.Sprintf("%s#%d", b.name, i), Source: "repositories", Tenant: "public", Time: time.Unix(e.TS, 0).UTC()}, e.activity(b.name)})
	}
	return out
}

// Detectors whose alerts the bots' rows count.
func novelty(d string) bool { return d == "D10" || d == "D11" || d == "D12" || d == "D13" }

// Sizes of the identity swaps.
const (
	swaps       = 170
	swapHistory = 50 // acts that make an identity's history
	swapActs    = 10 // acts within which a swap is to be found
	swapSeed    = 20260101
)

// bots replays the activity of automation without a known attack: every alert on it
// is a nuisance. Then it lets one identity's credential be used for acts of another.
func bots(r *run) ([]Row, error) {
	bs, err := streams(r)
	if err != nil {
		return nil, err
	}
	by := map[string]int{}
	days, autos := 0, 0
	for _, b := range bs {
		g := r.engine()
		day := int64(-1)
		for i, u := range b.uses() {
			if d := b.es[i].TS / 86400; d != day {
				day = d
				days++
			}
			out := g.Activity(u.meta, u.a)
			autos += revokes(out)
			for _, a := range alerts(out) {
				by[a.Detector]++
			}
		}
	}
	total, novel := 0, 0
	for d, n := range by {
		total += n
		if novelty(d) {
			novel += n
		}
	}
	rate := func(n int) float64 { return 1000 * float64(n) / float64(days) }
	rows := []Row{
		number("bots.novelty_per_1k_days", rate(novel), days).gated(atMost, 0.60),
		number("bots.dormant_per_1k_days", rate(by["D17"]), days).gated(atMost, 0.20),
		number("bots.rate_per_1k_days", rate(by["D21"]), days).gated(atMost, 0.15),
		number("bots.all_per_1k_days", rate(total), days).gated(atMost, 1.5).because(fmt.Sprint("by detector: ", by)),
		number("bots.automatic_revocations", float64(autos), days).gated(atMost, 0),
	}
	for _, same := range []bool{false, true} {
		hit, n := swapped(r, bs, same)
		row := share("bots.swap_recall", hit, n).gated(atLeast, 0.90)
		if same {
			row = share("bots.swap_recall_same_destination", hit, n).because("the thief stays in the victim's repository: fewer dimensions differ; no gate")
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// swapped counts the swaps that are found within ten acts. same keeps the victim's
// destination.
func swapped(r *run, bs []botStream, same bool) (hit, n int) {
	var known []botStream
	for _, b := range bs {
		if len(b.es) >= swapHistory {
			known = append(known, b)
		}
	}
	if len(known) < 2 {
		return 0, 0
	}
	rnd := rand.New(rand.NewPCG(swapSeed, 1))
	for i := range swaps {
		victim := known[i%len(known)]
		at := len(victim.es)/2 + rnd.IntN(len(victim.es)-len(victim.es)/2)
		other := known[rnd.IntN(len(known))]
		for other.name == victim.name {
			other = known[rnd.IntN(len(known))]
		}
		from := rnd.IntN(max(1, len(other.es)-swapActs))
		g := r.engine()
		for _, u := range (botStream{victim.name, victim.es[:at]}).uses() {
			g.Activity(u.meta, u.a)
		}
		n++
		if foundSwap(g, victim, at, other.es[from:min(from+swapActs, len(other.es))], same) {
			hit++
		}
	}
	return hit, n
}

// foundSwap lets the other's acts come a minute apart after the victim's at-th one.
func foundSwap(g *anomaly.Engine, victim botStream, at int, acts []repoEvent, same bool) bool {
	for j, e := range acts {
		a := e.activity(victim.name)
		if same {
			a.Destination = victim.es[at].Repo
		}
		m := anomaly.Meta{ID: fmt.Sprintf("swap#%d", j), Source: "swap", Tenant: "public", Time: time.Unix(victim.es[at].TS, 0).UTC().Add(time.Duration(j) * time.Minute)}
		for _, x := range alerts(g.Activity(m, a)) {
			if novelty(x.Detector) {
				return true
			}
		}
	}
	return false
}
