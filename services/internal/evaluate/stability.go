package evaluate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly"
)

const disorderSeed = 20260401

// workload is the kit's positive injections and the recorded attacks in one stream.
func workload(r *run) ([]delivery, error) {
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
	var all []delivery
	for _, f := range append(certainFamilies(), likelyFamilies()...) {
		for i := range 3 {
			if len(known) == 0 {
				break
			}
			t := newTrial(known, "order-"+f.name, i)
			f.positive(t)
			all = append(all, append(t.history, t.out...)...)
		}
	}
	us, _, err := attacks(r)
	if err != nil {
		return nil, err
	}
	for _, u := range us {
		all = append(all, delivery{id: u.meta.ID, at: u.meta.Time, do: func(g *anomaly.Engine) []anomaly.Output { return g.Activity(u.meta, u.a) }})
	}
	sort.SliceStable(all, func(i, j int) bool { return all[i].at.Before(all[j].at) })
	return all, nil
}

// certainDetector reports whether order and lateness must not change what it says.
func certainDetector(d string) bool {
	return slices.Contains([]string{"D01", "D02", "D04", "D05", "D06", "D07", "D08"}, d)
}

// disorder delivers a workload in order and as real logs arrive, and compares.
func disorder(r *run) ([]Row, error) {
	all, err := workload(r)
	if err != nil {
		return nil, err
	}
	inOrder, certain := said(r.engine(), all)
	rnd := rand.New(rand.NewPCG(disorderSeed, 1))
	late := slices.Clone(all)
	for i := range late {
		late[i].delay = lateness(rnd)
		if hash(groupOf(late[i].id))%20 == 0 { // a partition that is half an hour late
			late[i].delay += 30 * time.Minute
		}
		if rnd.IntN(100) < twicePercent {
			again := late[i]
			again.delay += lateness(rnd)
			late = append(late, again)
		}
	}
	sort.SliceStable(late, func(i, j int) bool { return late[i].at.Add(late[i].delay).Before(late[j].at.Add(late[j].delay)) })
	shuffled, certainLate := said(r.engine(), late)
	both, either := 0, len(shuffled)
	for k := range inOrder {
		if shuffled[k] {
			both++
		} else {
			either++
		}
	}
	equal := 1.0
	for k := range certain {
		if !certainLate[k] {
			equal = 0
		}
	}
	if len(certain) != len(certainLate) {
		equal = 0
	}
	return []Row{
		number("disorder.jaccard", float64(both)/math.Max(1, float64(either)), either).gated(atLeast, 0.98),
		number("disorder.certain_identical", equal, len(certain)).gated(atLeast, 1),
	}, nil
}

// groupOf is what events of one source of the workload have in common.
func groupOf(id string) string {
	if i := strings.LastIndexAny(id, "-#"); i > 0 {
		return id[:i]
	}
	return id
}

// said collects the ids of all alerts, and those of detectors that are certain.
func said(g *anomaly.Engine, ds []delivery) (all, certain map[string]bool) {
	all, certain = map[string]bool{}, map[string]bool{}
	for _, d := range ds {
		for _, a := range alerts(d.do(g)) {
			all[a.Alert] = true
			if certainDetector(a.Detector) {
				certain[a.Alert] = true
			}
		}
	}
	return all, certain
}

// explained checks every alert of the workload: what must be there is there, its
// evidence was delivered, and its numbers fit each other and the text.
func explained(r *run) ([]Row, error) {
	all, err := workload(r)
	if err != nil {
		return nil, err
	}
	g := r.engine()
	good, n := 0, 0
	why := map[string]int{}
	seen := map[string]time.Time{}
	for _, d := range all {
		seen[d.id] = d.at
		for _, a := range alerts(d.do(g)) {
			n++
			if p := wrong(a, seen); p != "" {
				why[a.Detector+" "+p]++
			} else {
				good++
			}
		}
	}
	row := share("explanation.complete_and_true", good, n).gated(atLeast, 1)
	if len(why) > 0 {
		row = row.because(fmt.Sprint(why))
	}
	return []Row{row}, nil
}

// wrong says what is missing or untrue in an alert, "" when nothing is.
func wrong(a events.AnomalyDetected, seen map[string]time.Time) string {
	switch {
	case a.Explanation == "" || a.Value == "" || a.Baseline == "" || a.Proposed.Command == "" || len(a.References) == 0:
		return "a field is missing"
	case len(a.Evidence) == 0 || a.FirstSeen.IsZero() || a.LastSeen.Before(a.FirstSeen):
		return "no evidence or no times"
	case a.Owner == "" && !strings.Contains(a.Explanation, "not registered") && !strings.Contains(a.Explanation, "knows its owner"):
		return "no owner"
	case a.Count <= 0 || a.Threshold < 0 || float64(a.Count)+0.5 < math.Floor(a.Threshold):
		return "the count is below the threshold"
	}
	if !strings.Contains(a.Explanation, a.Identity) {
		return "the identity is not named"
	}
	last := a.Evidence[len(a.Evidence)-1]
	if at, ok := seen[last]; !ok || at.After(a.LastSeen) || at.Before(a.FirstSeen.Add(-time.Second)) {
		return "the evidence is not an event of its time"
	}
	if n := leading(a.Value); n >= 0 && !strings.Contains(a.Explanation, strconv.FormatFloat(n, 'f', -1, 64)) {
		return "the value is not in the text"
	}
	return ""
}

// leading is the number a text begins with, -1 when it begins with none.
func leading(s string) float64 {
	f := strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == ':' })
	if len(f) == 0 {
		return -1
	}
	n, err := strconv.ParseFloat(f[0], 64)
	if err != nil {
		return -1
	}
	return n
}

// memory measures ordinary identities on the heap, and one that is given everything.
func memory(r *run) ([]Row, error) {
	const n = 100_000
	g := r.engine()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	at := time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)
	uses := 0
	for i := range n {
		id := fmt.Sprintf("arn:aws:iam::111122223333:role/service-%07d", i)
		for k := range 12 {
			a := &events.Activity{Identity: id, Action: "s3:" + [4]string{"GetObject", "PutObject", "ListBucket", "HeadObject"}[k%4], Destination: "s3@eu-west-1",
				SourceIP: fmt.Sprintf("10.0.%d.7", i%250), UserAgent: "aws-sdk-go/2", Workload: "job", Resource: fmt.Sprintf("arn:aws:s3:::bucket-%d/key", k%2), Outcome: events.OutcomeSuccess}
			if i%20 == 0 && k == 3 {
				a.Outcome = events.OutcomeDenied
			}
			g.Activity(anomaly.Meta{ID: strconv.Itoa(uses), Source: "m", Tenant: "acme", Time: at.Add(time.Duration(uses) * time.Millisecond)}, a)
			uses++
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(g)
	mean := (float64(after.HeapAlloc) - float64(before.HeapAlloc)) / n
	wild := r.engine()
	for i := range 20_000 {
		v := strconv.Itoa(i)
		a := &events.Activity{Identity: "bot", Action: "x:" + v, Destination: v, Resource: v, SourceIP: fmt.Sprintf("10.%d.%d.1", i/250%250, i%250), SourceCountry: v, Workload: "w" + v, UserAgent: "u" + v,
			Session: v, Credential: "k" + v, Outcome: []events.Outcome{events.OutcomeSuccess, events.OutcomeDenied}[i%2]}
		wild.Activity(anomaly.Meta{ID: "event-" + v, Source: "m", Tenant: "acme", Time: at.Add(time.Duration(i) * time.Second)}, a)
	}
	return []Row{
		number("memory.bytes_per_identity_mean", math.Round(mean), n).gated(atMost, 1536).because("heap of 100,000 identities of 12 uses, de-duplication and recent uses included"),
		number("memory.bytes_per_identity_most", float64(wild.Largest()), 20_000).gated(atMost, 8192).because("one identity that is given 20,000 values in every dimension"),
	}, nil
}

// speed measures decode and all detectors on one core.
func speed(r *run) ([]Row, error) {
	bs, err := streams(r)
	if err != nil {
		return nil, err
	}
	var data [][]byte
	var metas []anomaly.Meta
	for _, b := range bs {
		for _, u := range b.uses() {
			d, err := encode(u.a)
			if err != nil {
				return nil, err
			}
			data, metas = append(data, d), append(metas, u.meta)
			if len(data) == 50_000 {
				break
			}
		}
	}
	rate := 0.0
	for range 3 {
		g := r.engine()
		start := r.now()
		for i, d := range data {
			a, err := decode(d)
			if err != nil {
				return nil, err
			}
			g.Activity(metas[i], a)
		}
		rate = max(rate, float64(len(data))/math.Max(r.now().Sub(start).Seconds(), 1e-9))
	}
	return []Row{
		number("speed.decode_and_detect_per_second", math.Round(rate), len(data)).gated(atLeast, 100_000).because("one goroutine, recorded activity, the best of three rounds: other work on the machine slows it"),
		missing("speed.end_to_end_per_second", "measured by lanyard bench detect, which starts a bus").gated(atLeast, 25_000),
	}, nil
}
