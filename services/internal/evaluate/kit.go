package evaluate

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"sort"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly"
)

// Seeds and sizes of the injection kit. They are part of the figures.
const (
	kitSeed    = 20260201
	kitTrials  = 20  // per family, of each of what must and must not be found
	kitHistory = 300 // acts of the victim before
)

// Lateness of real audit logs, in seconds: half within 200, 99 % within 540, all
// within 610; 21 % come twice.
const (
	lateHalf, lateMost, lateAll = 200, 540, 610
	twicePercent                = 21
)

// delivery is one event on its way to the engine. truth marks what was injected.
type delivery struct {
	id    string
	at    time.Time // event time
	delay time.Duration
	truth bool
	do    func(*anomaly.Engine) []anomaly.Output
}

// trial is one injection into the activity of one real identity.
type trial struct {
	rnd     *rand.Rand
	name    string
	at      time.Time // of the injection
	n       int
	history []delivery
	out     []delivery
	usual   events.Activity // what the victim usually does
}

// family is one kind of injection: what answers it, and how it is made.
type family struct {
	name      string
	detectors []string
	certain   bool // deterministic: recall 1 and nothing false, under disorder
	positive  func(*trial)
	negative  func(*trial)
}

// use adds one activity of the victim, after the start of the injection. truth marks
// it as what the trial is about.
func (t *trial) use(after time.Duration, truth bool, change func(*events.Activity)) *delivery {
	a := t.usual
	change(&a)
	id := fmt.Sprintf("%s-%d", t.name, t.n)
	m := anomaly.Meta{ID: id, Source: "kit", Tenant: "public", Time: t.at.Add(after)}
	t.n++
	t.out = append(t.out, delivery{id: id, at: m.Time, truth: truth, do: func(g *anomaly.Engine) []anomaly.Output { return g.Activity(m, &a) }})
	return &t.out[len(t.out)-1]
}

// fact adds an event of the log.
func (t *trial) fact(after time.Duration, do func(*anomaly.Engine, anomaly.Meta) []anomaly.Output) {
	id := fmt.Sprintf("%s-f%d", t.name, t.n)
	m := anomaly.Meta{ID: id, Source: "kit-log", Tenant: "public", Time: t.at.Add(after)}
	t.n++
	t.out = append(t.out, delivery{id: id, at: m.Time, do: func(g *anomaly.Engine) []anomaly.Output { return do(g, m) }})
}

// register registers the victim with changes.
func (t *trial) register(change func(*events.Registration)) {
	reg := events.Registration{Identity: t.usual.Identity, Kind: events.KindServiceAccount, Owner: "team", Feature: "builds", Purpose: "builds", KillSwitch: "identity"}
	change(&reg)
	t.fact(-time.Minute, func(g *anomaly.Engine, m anomaly.Meta) []anomaly.Output { g.Registered(m, reg); return nil })
}

// newTrial takes a seeded stretch of a real stream as the victim's history. The stream
// has no network and no credential: each identity gets one of its own.
func newTrial(bs []botStream, name string, i int) *trial {
	rnd := rand.New(rand.NewPCG(kitSeed, uint64(i)^hash(name)))
	b := bs[rnd.IntN(len(bs))]
	to := swapHistory + rnd.IntN(len(b.es)-swapHistory+1)
	t := &trial{rnd: rnd, name: fmt.Sprintf("%s-%d", name, i)}
	us := (botStream{b.name + " " + t.name, b.es[max(0, to-kitHistory):to]}).uses() // a victim of its own
	h := hash(b.name)
	for _, u := range us {
		u.a.SourceIP = fmt.Sprintf("10.%d.%d.7", h%250, h/250%250)
		u.a.UserAgent, u.a.Credential, u.a.Session = "builder/3.1", fmt.Sprintf("key-%x", h), ""
		t.history = append(t.history, delivery{id: u.meta.ID, at: u.meta.Time, do: func(g *anomaly.Engine) []anomaly.Output { return g.Activity(u.meta, u.a) }})
	}
	last := us[len(us)-1]
	t.usual = *last.a
	t.at = last.meta.Time.Add(10 * time.Minute)
	return t
}

func hash(s string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(s)) // a hash never fails
	return h.Sum64()
}

// disorder gives every injected delivery the lateness of real logs, and some twice.
func (t *trial) disorder() {
	for i := range t.out {
		if t.out[i].delay == 0 {
			t.out[i].delay = lateness(t.rnd)
		}
		if t.rnd.IntN(100) < twicePercent {
			again := t.out[i]
			again.delay += lateness(t.rnd)
			t.out = append(t.out, again)
		}
	}
}

func lateness(r *rand.Rand) time.Duration {
	switch p := r.IntN(100); {
	case p < 50:
		return time.Duration(r.IntN(lateHalf)) * time.Second
	case p < 99:
		return time.Duration(lateHalf+r.IntN(lateMost-lateHalf)) * time.Second
	default:
		return time.Duration(lateMost+r.IntN(lateAll-lateMost)) * time.Second
	}
}

// found runs the trial and reports whether one of the detectors raised an alert that
// holds an injected event.
func (t *trial) found(g *anomaly.Engine, detectors []string) bool {
	all := append(slices.Clone(t.history), t.out...)
	sort.SliceStable(all, func(i, j int) bool { return all[i].at.Add(all[i].delay).Before(all[j].at.Add(all[j].delay)) })
	truth := map[string]bool{}
	for _, d := range all {
		if d.truth {
			truth[d.id] = true
		}
	}
	hit := false
	for _, d := range all {
		for _, a := range alerts(d.do(g)) {
			if slices.Contains(detectors, a.Detector) && slices.ContainsFunc(a.Evidence, func(id string) bool { return truth[id] }) {
				hit = true
			}
		}
	}
	return hit
}

// injected runs the kit.
func injected(r *run) ([]Row, error) {
	bs, err := streams(r)
	if err != nil {
		return nil, err
	}
	var known []botStream
	for _, b := range bs {
		if len(b.es) >= swapHistory {
			known = append(known, b)
		}
	}
	if len(known) == 0 {
		return []Row{missing("injected.certain_recall", "no identity in the data has history enough")}, nil
	}
	var rows []Row
	var hit, n, wrong, clean, sfalse, sclean int
	recall, families := 0.0, 0
	for _, f := range append(certainFamilies(), likelyFamilies()...) {
		got, bad := 0, 0
		for i := range kitTrials {
			p := newTrial(known, f.name+"+", i)
			f.positive(p)
			q := newTrial(known, f.name+"-", i)
			f.negative(q)
			if f.certain {
				p.disorder()
				q.disorder()
			}
			if p.found(r.engine(), f.detectors) {
				got++
			}
			if q.found(r.engine(), f.detectors) {
				bad++
			}
		}
		if f.certain {
			hit, n, wrong, clean = hit+got, n+kitTrials, wrong+bad, clean+kitTrials
		} else {
			recall, families = recall+float64(got)/kitTrials, families+1
			sfalse, sclean = sfalse+bad, sclean+kitTrials
		}
		rows = append(rows, share("injected.recall."+f.name, got, kitTrials), share("injected.false."+f.name, bad, kitTrials))
	}
	head := []Row{
		share("injected.certain_recall", hit, n).gated(atLeast, 1).because("D01 to D07, late, out of order and doubled"),
		number("injected.certain_false", float64(wrong), clean).gated(atMost, 0),
		number("injected.likely_macro_recall", recall/float64(families), families*kitTrials).gated(atLeast, 0.90).because("D10 to D17 and D20 to D24"),
		share("injected.likely_false", sfalse, sclean).because("near misses of the same families; no gate"),
	}
	return append(append(head, drift(r, known)...), rows...), nil
}
