package detect

import (
	"math"
	"strings"

	"github.com/lanyard-nhi/lanyard/events"
)

// dim is one dimension of the context of a use.
type dim uint8

// The dimensions. The first four say where from; they change together.
const (
	dimNetwork dim = iota
	dimCountry
	dimWorkload
	dimAgent
	dimDestination
	dimObject
	dimAction
	dims
)

const whereFrom = dimDestination // dimensions below it change together

// dimNames are the words of explanations; dimCaps bound the values kept of each;
// dimDetector is the detector that answers for it. They are read-only tables.
var (
	dimNames    = [dims]string{"network", "country", "workload", "client", "destination", "kind of resource", "action"}
	dimCaps     = [dims]int{20, 8, 16, 12, 24, 32, maxActions}
	dimDetector = [dims]string{"D10", "D10", "D11", "D11", "D12", "D12", "D13"}
)

// facet is the profile of one identity in one dimension. Its values of dimAction are
// State.Actions.
type facet struct {
	values  Set
	n       uint32 // uses that had the dimension
	singles uint32 // values that were seen once so far
	day     uint16 // day of the last new value, since 1970
	fresh   uint8  // new values on that day
}

// bits is the surprise of a value never seen: by Good-Turing the chance of a new
// value is the share of uses whose value was seen once, with the half of Krichevsky
// and Trofimov, -log2((n1+0.5)/(N+1)).
func (f *facet) bits(limit float64) float64 {
	return min(limit, -math.Log2(f.newShare()))
}

func (f *facet) newShare() float64 {
	return min((float64(f.singles)+0.5)/(float64(f.n)+1), 1)
}

// count keeps the counters when value i (-1: new) is seen at a day.
func (f *facet) count(s Set, i int) {
	f.n++
	switch {
	case i < 0:
		f.singles++
	case s[i].n == 1 && f.singles > 0:
		f.singles--
	}
}

// admit reports whether one more new value may train on the day, and notes it.
func (f *facet) admit(day uint16, limit int) bool {
	if f.day != day {
		f.day, f.fresh = day, 0
	}
	if int(f.fresh) >= limit {
		return false
	}
	f.fresh++
	return true
}

// contextOf hashes what the record says in every dimension; 0 is nothing, and nothing
// is not new. Calls of tools are judged by task elsewhere.
func contextOf(a *events.Activity) (h [dims]uint32) {
	h[dimNetwork] = networkHash(a)
	h[dimCountry] = hashOf(a.SourceCountry)
	h[dimWorkload] = maskedHash(a.Workload)
	h[dimAgent] = hashOf(clientOf(a.UserAgent))
	h[dimDestination] = hashOf(a.Destination)
	if a.Tool == "" {
		h[dimAction] = Hash(a.Action)
		h[dimObject] = maskedHash(classOf(a.Resource))
	}
	return h
}

// textOf is what contextOf hashed, for people.
func textOf(a *events.Activity, d dim) string {
	switch d {
	case dimNetwork:
		return networkText(a)
	case dimCountry:
		return clip(a.SourceCountry)
	case dimWorkload:
		return clip(a.Workload)
	case dimAgent:
		return clip(clientOf(a.UserAgent))
	case dimDestination:
		return clip(a.Destination)
	case dimObject:
		return clip(classOf(a.Resource))
	default:
		return clip(a.Action)
	}
}

func hashOf(s string) uint32 {
	if s == "" {
		return 0
	}
	return Hash(s)
}

// maskedHash hashes s with every run of digits as one mark: the number of a build or
// of an instance does not make a new workload.
func maskedHash(s string) uint32 {
	if s == "" {
		return 0
	}
	h := uint32(2166136261)
	digit := false
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= '0' && c <= '9' {
			if digit {
				continue
			}
			digit, c = true, '#'
		} else {
			digit = false
		}
		h = (h ^ uint32(c)) * 16777619
	}
	return h | 1
}

// networkHash names the network a use came from: the autonomous system, the endpoint
// in a private cloud network, or the prefix of the address (24 bits of IPv4, 48 of
// IPv6). A call that a service made on the identity's behalf has none.
func networkHash(a *events.Activity) uint32 {
	switch {
	case a.SourceService != "":
		return 0
	case a.SourceASN != "":
		return Hash("asn", a.SourceASN)
	case a.VPCEndpoint != "":
		return Hash("vpce", a.VPCEndpoint)
	case a.SourceIP != "":
		return Hash("ip", prefixOf(a.SourceIP))
	}
	return 0
}

func networkText(a *events.Activity) string {
	switch {
	case a.SourceASN != "" && a.SourceIP != "":
		return "AS" + clip(strings.TrimPrefix(a.SourceASN, "AS")) + " (" + clip(a.SourceIP) + ")"
	case a.SourceASN != "":
		return "AS" + clip(strings.TrimPrefix(a.SourceASN, "AS"))
	}
	return network(a)
}

func prefixOf(ip string) string {
	if i := strings.LastIndexByte(ip, '.'); i > 0 {
		return ip[:i]
	}
	groups := 0
	for i := 0; i < len(ip); i++ {
		if ip[i] == ':' {
			if groups++; groups == 3 {
				return ip[:i]
			}
		}
	}
	return ip
}

// clientOf is the family of a user agent, without version.
func clientOf(s string) string {
	if i := strings.IndexAny(s, "/ ("); i > 0 {
		return s[:i]
	}
	return s
}

// classOf is the kind of a resource: the name before "=", an ARN up to its first
// slash, otherwise the text itself.
func classOf(s string) string {
	if i := strings.IndexByte(s, '='); i > 0 {
		return s[:i]
	}
	if strings.HasPrefix(s, "arn:") {
		if i := strings.IndexByte(s, '/'); i > 0 {
			return s[:i]
		}
	}
	return s
}

// values is the set that holds the values of a dimension.
func (s *State) values(d dim) *Set {
	if d == dimAction {
		return &s.Actions
	}
	return &s.facets[d].values
}
