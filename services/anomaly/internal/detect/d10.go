package detect

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// The joint score: D10 to D13 look at different dimensions of the same use, and one
// surprise is rarely worth a person's time; together they are.
const (
	sessionSpan = time.Hour // of the evidence that is added up
	moreShare   = 0.25      // of the bits of a further use with new values
	moreMost    = 8.0       // bits that further uses may add
	whereShare  = 0.5       // of the weaker surprises about where a use came from
	sensitive   = 4.0       // bits of a new action that is on a list
	peerWeight  = 5.0       // own uses at which peers weigh half
	wideBits    = 3.0       // of a dimension that is worth counting as new
	seenMost    = 12        // different new values that are told apart in a session
)

const jointMethod = "bits = sum over the dimensions of min(12, -log2((n1+0.5)/(N+1))) for values never seen in N uses, n1 of whose values were seen once; peers of the same owner weigh 5/(5+N); " +
	"network, country, workload and client count as the largest and half of the rest; further uses of a session with new values count a quarter, 8 bits at most, when two dimensions are new; 4 bits for an action of a list, 8 bits less after an announced change. " +
	"Alert at 16 bits within an hour, containment at 22. A dimension counts after 20 uses. Values of a use with 8 bits or more, and more than 5 new ones a day, train only when they come again a day later"

var (
	newNetworkInfo = Info{ID: "D10", Name: "new_network",
		Catches: "an identity that is used from a network or country it never came from, with other things that are new",
		Fields:  []string{"source_ip", "source_asn", "source_country", "vpce"}, Method: jointMethod, StateBytes: 700,
		Explanation: "first use of network {n} in {N} uses ({b} bits); together {s} bits in this hour, the threshold is {t}",
		Severity:    events.SeverityMedium, References: []string{"NHI9", "NHI2", "T1078.004"}, Response: RespondContain}
	newWorkloadInfo = Info{ID: "D11", Name: "new_workload",
		Catches: "an identity that is used by a workload or client that never held it, with other things that are new",
		Fields:  []string{"workload", "user_agent"}, Method: jointMethod, StateBytes: 600,
		Explanation: "first use of workload {w} in {N} uses ({b} bits); together {s} bits in this hour, the threshold is {t}",
		Severity:    events.SeverityMedium, References: []string{"NHI9", "T1552.005", "T1550.001"}, Response: RespondContain}
	newDestinationInfo = Info{ID: "D12", Name: "new_destination",
		Catches: "an identity that reaches a system or kind of resource it never reached, with other things that are new",
		Fields:  []string{"destination", "resource"}, Method: jointMethod, StateBytes: 1000,
		Explanation: "first access to {d} in {N} uses ({b} bits); {k} of {n} peers use it; together {s} bits in this hour, the threshold is {t}",
		Severity:    events.SeverityMedium, References: []string{"NHI5", "NHI8", "T1526", "T1021.007"}, Response: RespondContain}
)

// session adds up what was surprising about one identity within an hour.
type session struct {
	start int32Time
	first int32Time     // oldest of ids
	bits  [dims]float32 // largest per dimension
	more  float32       // of further uses
	seen  []uint32      // new values, told apart
	said  []uint32      // values of an alert of the last day
	ids   []string
	top   string // the detector that speaks for the session
}

// surprise is one new value.
type surprise struct {
	d     dim
	bits  float64
	n     uint32 // uses before
	once  uint32 // values seen once
	peers int    // that use the value
	of    int    // peers there are
}

// unfamiliar is D10 to D13 on one use.
func unfamiliar(in *Input, s *State) *Finding {
	cfg := &in.Facts.Config
	h := contextOf(in.Activity)
	var found [dims]surprise
	total := 0.0
	for d := range dims {
		if h[d] == 0 {
			continue
		}
		found[d] = s.surpriseOf(in, d, h[d])
		if !in.Facts.Off[dimDetector[d]] {
			total += found[d].bits
		}
	}
	f := s.collect(in, h, &found, total)
	s.train(in, h, total >= cfg.SurpriseHold)
	return f
}

// surpriseOf is the surprise of value h of dimension d, nothing when it is usual.
func (s *State) surpriseOf(in *Input, d dim, h uint32) surprise {
	cfg := &in.Facts.Config
	f := &s.facets[d]
	if int(f.n) < cfg.SurpriseHistory || s.values(d).Usual(h, in.Time) {
		return surprise{}
	}
	out := surprise{d: d, n: f.n, once: f.singles}
	p := f.newShare()
	if out.peers, out.of = in.Facts.peersWith(in, d, h); out.of > 1 {
		w := peerWeight / (peerWeight + float64(f.n))
		if out.peers >= 3 { // several of the same owner took it up: a roll-out
			w = max(w, float64(out.peers)/(float64(out.peers)+peerWeight))
		}
		p = (1-w)*p + w*(float64(out.peers)+0.5)/(float64(out.of)+1)
	}
	out.bits = max(min(cfg.SurpriseCap, -math.Log2(p)), 0)
	return out
}

// train notes the values of a use. held ones become usual a day later.
func (s *State) train(in *Input, h [dims]uint32, held bool) {
	cfg := &in.Facts.Config
	day := uint16(int64(seconds(in.Time)) / 86400)
	for d := range dims {
		if h[d] == 0 {
			continue
		}
		f, set := &s.facets[d], s.values(d)
		i := set.find(h[d])
		f.count(*set, i)
		if d == dimAction {
			continue // Seen does it, after every detector has looked
		}
		if i < 0 {
			in.Facts.peerTook(in, d, h[d])
			if int(f.n) > cfg.SurpriseHistory && !f.admit(day, cfg.FreshPerDay) {
				set.Hold(h[d], in.Time, dimCaps[d])
				continue
			}
		}
		if held {
			set.Hold(h[d], in.Time, dimCaps[d])
		} else {
			set.Learn(h[d], in.Time, dimCaps[d])
		}
	}
}

// collect adds the surprises to the session and judges it.
func (s *State) collect(in *Input, h [dims]uint32, found *[dims]surprise, total float64) *Finding {
	if total <= 0 {
		return nil
	}
	at := seconds(in.Time)
	c := s.session
	if c == nil || gapOf(at, c.start) >= sessionSpan {
		c = c.next(at)
		s.session = c
	}
	if !c.add(in, h, found) {
		return nil
	}
	cfg := &in.Facts.Config
	sum := c.sum()
	extra := 0.0
	if in.Tags != 0 && found[dimAction].bits > 0 {
		extra = sensitive
	}
	announced := in.Reg != nil && in.Facts.Announced(in.Tenant, in.Reg.Identity, in.Time)
	if announced {
		extra -= cfg.AnnouncedBits
	}
	if sum+extra < cfg.SurpriseAlert {
		return nil
	}
	if c.top == "" {
		c.top = c.strongest()
	}
	return c.finding(in, found, sum, extra, announced)
}

func gapOf(a, b int32Time) time.Duration {
	if a < b {
		a, b = b, a
	}
	return time.Duration(a-b) * time.Second
}

// next begins a session. What an alert was raised about less than a day ago is not
// raised again.
func (c *session) next(at int32Time) *session {
	n := &session{start: at}
	if c != nil && gapOf(at, c.start) < quarantine {
		if n.said = c.said; c.top != "" {
			n.said = append(slices.Clip(c.seen), c.said...)
			n.said = n.said[:min(len(n.said), seenMost)]
		}
	}
	return n
}

// add notes the surprises of one use and reports whether there were any. A further
// use with new values weighs when at least two dimensions are new: one new dimension
// over and over is a new workload, two are somebody else.
func (c *session) add(in *Input, h [dims]uint32, found *[dims]surprise) bool {
	any, again := false, float32(0)
	for d := range dims {
		b := float32(found[d].bits)
		if b <= 0 || in.Facts.Off[dimDetector[d]] || slices.Contains(c.said, h[d]) {
			continue
		}
		any = true
		if !slices.Contains(c.seen, h[d]) && len(c.seen) < seenMost {
			c.seen = append(c.seen, h[d])
		}
		again += moreShare * min(b, c.bits[d])
		c.bits[d] = max(c.bits[d], b)
	}
	if !any {
		return false
	}
	if c.wide() {
		c.more = min(c.more+again, moreMost)
	}
	if len(c.ids) < maxIDs && len(in.ID) <= maxIDLen && !slices.Contains(c.ids, in.ID) {
		c.ids = append(c.ids, strings.Clone(in.ID))
		if at := seconds(in.Time); c.first == 0 || at < c.first {
			c.first = at
		}
	}
	return true
}

// wide reports whether at least two dimensions are new; those of where a use came
// from are one.
func (c *session) wide() bool {
	n, where := 0, false
	for d, b := range c.bits {
		switch {
		case b < wideBits:
		case dim(d) >= whereFrom:
			n++
		default:
			where = true
		}
	}
	return n > 1 || n == 1 && where
}

// sum is the joint score of the session in bits.
func (c *session) sum() float64 {
	top, rest, other := 0.0, 0.0, float64(c.more)
	for d, b := range c.bits {
		switch {
		case dim(d) >= whereFrom:
			other += float64(b)
		case float64(b) > top:
			rest += top
			top = float64(b)
		default:
			rest += float64(b)
		}
	}
	return other + top + whereShare*rest
}

// strongest is the detector of the dimension with the most bits; the first one wins.
func (c *session) strongest() string {
	best := dim(0)
	for d := range dims {
		if c.bits[d] > c.bits[best] {
			best = d
		}
	}
	return dimDetector[best]
}

func (c *session) finding(in *Input, found *[dims]surprise, sum, extra float64, announced bool) *Finding {
	a, cfg := in.Activity, &in.Facts.Config
	var now, before []string
	for d := range dims {
		switch f := found[d]; {
		case f.bits > 0:
			t := fmt.Sprintf("%s %s (never in %d uses, %d values seen once: %.1f bits", dimNames[d], textOf(a, d), f.n, f.once, f.bits)
			if f.of > 1 {
				t += fmt.Sprintf("; %d of %d identities of the same owner use it", f.peers, f.of)
			}
			now = append(now, t+")")
		case c.bits[d] > 0:
			before = append(before, fmt.Sprintf("%s (%.1f bits)", dimNames[d], c.bits[d]))
		}
	}
	text := fmt.Sprintf("%s used %s at %s with what is new to it: %s", clip(a.Identity), clip(a.Action), stamp(in.Time), strings.Join(now, ", "))
	if len(before) > 0 {
		text += "; earlier in this hour also new: " + strings.Join(before, ", ")
	}
	if c.more > 0 {
		text += fmt.Sprintf("; further uses add %.1f bits", c.more)
	}
	if in.Tags != 0 && found[dimAction].bits > 0 {
		text += fmt.Sprintf("; the action is on the list of sensitive ones (%.0f bits)", sensitive)
	}
	if announced {
		text += fmt.Sprintf("; a change was announced (%.0f bits less)", cfg.AnnouncedBits)
	}
	text += fmt.Sprintf("; together %.1f bits, the threshold is %.0f", sum+extra, cfg.SurpriseAlert)
	out := &Finding{Detector: c.top, Incident: "context", Severity: events.SeverityMedium, Explanation: text,
		Value:    fmt.Sprintf("%.1f bits: %s", sum+extra, strings.Join(now, ", ")),
		Baseline: fmt.Sprintf("less than %.0f bits within an hour", cfg.SurpriseAlert),
		Count:    int64(math.Round(sum + extra)), Threshold: cfg.SurpriseAlert, Response: RespondAlert, Evidence: slices.Clone(c.ids), Since: c.first.time()}
	if sum+extra >= cfg.SurpriseContain {
		out.Severity, out.Response = events.SeverityHigh, RespondContain
	}
	return out
}
