package detect

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// concurrentInfo documents D14.
var concurrentInfo = Info{
	ID: "D14", Name: "concurrent_use",
	Catches:     "one credential or session in two places at once; the credential of a machine in the hands of somebody who works from elsewhere",
	Fields:      []string{"session", "jti", "credential", "source_ip", "source_asn", "vpce", "workload", "user_agent"},
	Method:      "the same session, token or credential from two networks, or by two attested workloads, within 5 minutes, unless the pair of places was already seen more than a day ago or new networks are usual for the identity (4 bits at least; without 20 uses of history only a session or token id counts); a machine's session from a network that is not usual for it, from which another identity that is bound to no machine worked within the hour before with the same client",
	StateBytes:  900,
	Explanation: "session {s} was used from {net1} and from {net2} within {dt}",
	Severity:    events.SeverityHigh,
	References:  []string{"NHI9", "NHI4", "T1550.001", "T1552.005"},
	Response:    RespondContain,
}

const (
	maxPlaces    = 8
	maxPairs     = 8
	pairBits     = 4.0 // bits that a new network must be worth
	nearBy       = time.Hour
	maxLately    = 1 << 15
	machineRole  = "ec2-role" // what intake calls the role of a machine
	machineStart = "i-"       // how the session of a machine's role begins
)

// places is where one identity's credentials were used lately.
type places struct {
	ring  []place
	pairs Set // pairs of places that were seen together
}

// place is one credential at one place.
type place struct {
	credential, network, workload uint32
	attested                      bool
	at                            int32Time
	since                         int32Time
	id                            string // of the first use there
	text                          string
}

func (p *places) bytes() int {
	if p == nil {
		return 0
	}
	n := 48 + cap(p.ring)*64 + cap(p.pairs)*16
	for _, x := range p.ring {
		n += len(x.id) + len(x.text)
	}
	return n
}

// onlooker is who was last seen at a network.
type onlooker struct {
	identity, tenant, name, event string
	agent                         uint32
	at                            time.Time
}

// concurrent is D14. Uses that a cloud service makes for an identity have no place.
func concurrent(in *Input, s *State) *Finding {
	a := in.Activity
	net := networkHash(a)
	if net == 0 {
		return nil
	}
	if f := misplaced(in, s, net); f != nil {
		return f
	}
	cred, strong := carrier(a)
	if cred == 0 {
		return nil
	}
	if s.places == nil {
		s.places = &places{}
	}
	now := place{credential: cred, network: net, workload: maskedHash(a.Workload), attested: a.WorkloadAttested, at: seconds(in.Time)}
	other := s.places.note(in, now)
	if other == nil {
		return nil
	}
	f := &s.facets[dimNetwork]
	if cfg := &in.Facts.Config; int(f.n) > cfg.SurpriseHistory {
		if f.bits(cfg.SurpriseCap) < pairBits {
			return nil
		}
	} else if !strong {
		return nil
	}
	pair := Hash("pair", string(rune(min(other.network, net))), string(rune(max(other.network, net))))
	if other.network == net {
		pair = Hash("pair", string(rune(min(other.workload, now.workload))), string(rune(max(other.workload, now.workload))))
	}
	usual := s.places.pairs.Usual(pair, in.Time)
	s.places.pairs.Hold(pair, in.Time, maxPairs)
	if usual {
		return nil
	}
	return twoPlaces(in, other)
}

// carrier hashes what ties uses together, and says whether only one workload holds it.
func carrier(a *events.Activity) (h uint32, strong bool) {
	switch {
	case a.JTI != "":
		return Hash("jti", a.JTI), true
	case a.Session != "" && a.Credential != "":
		return Hash("session", a.Session, a.Credential), true
	case a.Credential != "":
		return Hash("credential", a.Credential), len(a.Lineage) > 0
	case a.Session != "" && a.Tool == "":
		return Hash("session", a.Session), true
	}
	return 0, false
}

// note keeps the place and finds another one of the same credential within the window.
func (p *places) note(in *Input, now place) *place {
	var other *place
	mine := -1
	old := 0
	for i := range p.ring {
		x := &p.ring[i]
		if x.at < p.ring[old].at {
			old = i
		}
		if x.credential != now.credential {
			continue
		}
		if x.network == now.network && x.workload == now.workload {
			mine = i
			continue
		}
		moved := x.network != now.network || x.attested && now.attested && x.workload != now.workload
		if moved && gapOf(x.at, now.at) <= in.Facts.Config.ConcurrentWindow && (other == nil || x.at > other.at) {
			c := *x
			other = &c
		}
	}
	if mine >= 0 {
		p.ring[mine].at = max(p.ring[mine].at, now.at)
		return other
	}
	now.since, now.text = now.at, Clip(networkText(in.Activity), 48)
	if len(in.ID) <= maxIDLen {
		now.id = strings.Clone(in.ID)
	}
	if len(p.ring) < maxPlaces {
		p.ring = append(slices.Grow(p.ring, 1), now)
	} else {
		p.ring[old] = now
	}
	return other
}

func twoPlaces(in *Input, other *place) *Finding {
	a := in.Activity
	what := "the credential " + clip(a.Credential)
	switch {
	case a.JTI != "":
		what = "the token " + clip(a.JTI)
	case a.Session != "":
		what = "the session " + clip(a.Session)
	}
	dt := gapOf(other.at, seconds(in.Time))
	var ids []string
	if other.id != "" {
		ids = []string{other.id}
	}
	return &Finding{
		Severity: events.SeverityHigh,
		Explanation: fmt.Sprintf("%s of %s was used from %s and, within %s, from %s (%s on %s at %s); one credential is in two places, and the pair was never seen together before",
			what, clip(a.Identity), other.text, dt, networkText(a), clip(a.Action), clip(a.Destination), stamp(in.Time)),
		Value:     fmt.Sprintf("two places within %.0f s", dt.Seconds()),
		Baseline:  fmt.Sprintf("one place within %.0f s, or a pair that is usual", in.Facts.Config.ConcurrentWindow.Seconds()),
		Count:     2,
		Threshold: 1,
		Response:  RespondContain,
		Evidence:  ids,
		Since:     other.since.time(),
	}
}

// misplaced finds the credential of a machine at a network where another identity,
// bound to no machine, worked shortly before with the same client.
func misplaced(in *Input, s *State, net uint32) *Finding {
	a := in.Activity
	agent := hashOf(clientOf(a.UserAgent))
	k := lateKey{in.Tenant, net}
	if !machine(a) {
		if agent != 0 {
			in.Facts.noteAt(k, onlooker{identity: a.Identity, tenant: in.Tenant, name: clip(a.Identity), event: in.ID, agent: agent, at: in.Time})
		}
		return nil
	}
	o, ok := in.Facts.lately[k]
	if !ok || o.identity == a.Identity || o.agent != agent || agent == 0 {
		return nil
	}
	dt := in.Time.Sub(o.at)
	if dt < -Lateness || dt > nearBy || known(&s.facets[dimNetwork].values, net, in.Time) {
		return nil
	}
	return &Finding{
		Severity: events.SeverityHigh,
		Explanation: fmt.Sprintf("the credential of a machine (session %s of %s) was used from %s with the client %s at %s, from where %s worked with the same client %s before; a machine's credential is used on the machine",
			clip(a.Session), clip(a.Identity), networkText(a), clip(clientOf(a.UserAgent)), stamp(in.Time), o.name, dt.Round(time.Second)),
		Value:     "network " + networkText(a),
		Baseline:  "networks on which no one else works",
		Count:     2,
		Threshold: 1,
		Response:  RespondContain,
		Evidence:  []string{o.event},
		Since:     o.at,
	}
}

// known reports whether the network was in use a day before.
func known(s *Set, h uint32, t time.Time) bool {
	i := s.find(h)
	return i >= 0 && time.Duration(int64(seconds(t))-int64((*s)[i].first))*time.Second >= quarantine
}

// machine reports whether the credential is bound to a machine.
func machine(a *events.Activity) bool {
	return a.Workload == machineRole || strings.HasPrefix(a.Session, machineStart)
}

type lateKey struct {
	tenant  string
	network uint32
}

// noteAt remembers who worked at a network, the newest; oldest notes go first.
func (f *Facts) noteAt(k lateKey, o onlooker) {
	if old, ok := f.lately[k]; ok {
		if o.at.After(old.at) {
			f.lately[k] = o
		}
		return
	}
	if len(f.latelyOrder) == maxLately {
		delete(f.lately, f.latelyOrder[f.latelyNext])
		f.latelyOrder[f.latelyNext] = k
		f.latelyNext = (f.latelyNext + 1) % maxLately
	} else {
		f.latelyOrder = append(f.latelyOrder, k)
	}
	f.lately[k] = o
}
