package service

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// Topology is who consumes and produces what, made from the services' handler
// tables. Permissions and diagrams derive from it.
type Topology struct {
	Services []Node `json:"services"`
}

// Node is one service.
type Node struct {
	Service   string        `json:"service"`
	Exclusive bool          `json:"exclusive,omitempty"` // one process at a time consumes
	HTTP      bool          `json:"http,omitempty"`      // it has an HTTP API
	Consumes  []Edge        `json:"consumes,omitempty"`
	Produces  []Edge        `json:"produces,omitempty"`
	Feed      bool          `json:"feed,omitempty"`   // it writes the kill feed
	Timers    bool          `json:"timers,omitempty"` // it sets durable timers
	Reads     []string      `json:"reads"`            // streams that it may read without consuming them
	Sweep     bool          `json:"sweep,omitempty"`  // it takes what nobody handles in NHI_IN
	Points    []Enforcement `json:"points,omitempty"` // it runs guards beside its process's own
}

// Edge is an event type on its way.
type Edge struct {
	Type    string `json:"type"`
	Stream  string `json:"stream"`
	Subject string `json:"subject"` // with "*" for the tenant and the rest
}

// NewTopology derives the topology. Whoever may emit revocation.accepted writes the
// kill feed, since accepting is an entry there; whoever handles or publishes
// timer.due sets timers, since a timer comes back to its owner.
func NewTopology(services []Service) (Topology, error) {
	var t Topology
	for _, s := range services {
		if s.Name == "" || events.Token(s.Name) != s.Name {
			return Topology{}, fmt.Errorf("derive topology: %q cannot name a service", s.Name)
		}
		if slices.ContainsFunc(t.Services, func(n Node) bool { return n.Service == s.Name }) {
			return Topology{}, fmt.Errorf("derive topology: two services are called %s", s.Name)
		}
		n, err := newNode(s)
		if err != nil {
			return Topology{}, fmt.Errorf("derive topology of %s: %w", s.Name, err)
		}
		t.Services = append(t.Services, n)
	}
	slices.SortFunc(t.Services, func(a, b Node) int { return cmp.Compare(a.Service, b.Service) })
	return t, nil
}

func newNode(s Service) (Node, error) {
	n := Node{Service: s.Name, Exclusive: s.Exclusive, HTTP: s.HTTP != nil, Sweep: s.Sweep, Points: s.Points}
	reads := append([]string{bus.StreamLog, bus.StreamKill}, s.Reads...)
	produced := slices.Clone(s.Publishes)
	for _, h := range s.Handlers {
		e, err := edge(h.Type)
		if err != nil {
			return n, err
		}
		n.Consumes = append(n.Consumes, e)
		reads = append(reads, e.Stream)
		produced = append(produced, h.Emits...)
		n.Timers = n.Timers || h.Type == events.TypeTimerDue
	}
	for _, p := range produced {
		e, err := edge(p)
		if err != nil {
			return n, err
		}
		n.Produces = append(n.Produces, e)
		reads = append(reads, e.Stream)
		n.Feed = n.Feed || p == events.TypeRevocationAccepted
		n.Timers = n.Timers || p == events.TypeTimerDue
	}
	if s.Sweep {
		reads = append(reads, bus.StreamIn)
	}
	if n.Feed { // whoever writes the feed reads who follows it and what they answer
		reads = append(reads, bus.StreamGuard, bus.StreamReceipt)
	}
	n.Consumes, n.Produces = sorted(n.Consumes), sorted(n.Produces)
	slices.Sort(reads)
	n.Reads = slices.Compact(reads)
	return n, nil
}

// edge finds where a type travels by asking the bus what it would consume.
func edge(eventType string) (Edge, error) {
	filters := bus.Filters(bus.Spec{Service: "x", Handlers: []bus.Handler{{Type: eventType}}})
	for stream, subjects := range filters {
		if stream != bus.StreamDead && len(subjects) == 1 {
			return Edge{Type: eventType, Stream: stream, Subject: subjects[0]}, nil
		}
	}
	return Edge{}, fmt.Errorf("%w: %q", events.ErrUnknownType, eventType)
}

func sorted(es []Edge) []Edge {
	slices.SortFunc(es, func(a, b Edge) int { return cmp.Compare(a.Type, b.Type) })
	return slices.Compact(es)
}

// short is the type without what every type has: "identity.declared".
func short(eventType string) string {
	return strings.TrimSuffix(strings.TrimPrefix(eventType, events.TypePrefix), events.TypeSuffix)
}

// Text is the topology for a terminal.
func (t Topology) Text() string {
	var b strings.Builder
	for i, n := range t.Services {
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(n.Service)
		if n.Exclusive {
			b.WriteString(" (one at a time)")
		}
		b.WriteByte('\n')
		line := func(label string, items []string) {
			for _, it := range items {
				fmt.Fprintf(&b, "  %-9s %s\n", label, it)
				label = ""
			}
		}
		if n.HTTP {
			line("serves", []string{"http"})
		}
		line("consumes", edges(n.Consumes))
		if n.Sweep {
			line("", []string{"whatever else is in " + bus.StreamIn + ", into the dead letters"})
		}
		line("produces", edges(n.Produces))
		if n.Feed {
			line("", []string{"the kill feed"})
		}
		if n.Timers {
			line("sets", []string{"durable timers"})
		}
		line("reads", []string{strings.Join(n.Reads, " ")})
	}
	return b.String()
}

func edges(es []Edge) []string {
	out := make([]string, len(es))
	for i, e := range es {
		out[i] = fmt.Sprintf("%-26s %s", short(e.Type), e.Subject)
	}
	return out
}

// JSON is the topology for programs.
func (t Topology) JSON() ([]byte, error) { return json.MarshalIndent(t, "", "  ") }

// Mermaid is the topology as a Mermaid flowchart: one arrow per pair of services,
// labelled with the types that travel from one to the other. Products are whoever
// publishes what comes from outside, the SOC is whoever subscribes to alerts.
func (t Topology) Mermaid() string {
	var b strings.Builder
	b.WriteString("flowchart LR\n  products([products])\n  soc([SOC])\n  guards([guards])\n")
	for _, n := range t.Services {
		fmt.Fprintf(&b, "  %s[%s]\n", n.Service, n.Service)
	}
	arrow := func(from string, types []string, to string) {
		if len(types) > 0 {
			fmt.Fprintf(&b, "  %s -->|%s| %s\n", from, strings.Join(types, "<br>"), to)
		}
	}
	for _, to := range t.Services {
		var outside []string
		for _, c := range to.Consumes {
			if c.Stream == bus.StreamIn {
				outside = append(outside, short(c.Type))
			}
		}
		arrow("products", outside, to.Service)
		for _, from := range t.Services {
			arrow(from.Service, common(from.Produces, to.Consumes), to.Service)
		}
		var answers []string
		for _, c := range to.Consumes {
			if c.Stream == bus.StreamReceipt || c.Stream == bus.StreamGuard {
				answers = append(answers, short(c.Type))
			}
		}
		arrow("guards", answers, to.Service)
	}
	for _, from := range t.Services {
		if from.Feed {
			arrow(from.Service, []string{"kill feed"}, "guards")
		}
		if slices.ContainsFunc(from.Produces, func(e Edge) bool { return e.Stream == bus.StreamAlert }) {
			arrow(from.Service, []string{"alerts"}, "soc")
		}
	}
	return b.String()
}

// common are the short names of the types that from produces and to consumes.
func common(from, to []Edge) []string {
	var out []string
	for _, e := range from {
		if slices.Contains(to, e) {
			out = append(out, short(e.Type))
		}
	}
	return out
}
