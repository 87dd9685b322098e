// Package rules judges uses of identities by conditions that a SOC writes itself: CEL
// over the neutral event, with counts, distinct values and sequences within windows of
// event time. State is bounded and a rule cannot cost more than its limit. Only the
// anomaly service imports it.
package rules

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// Limits of what a rule may ask for.
const (
	MaxWithin  = 24 * time.Hour // longest window
	MaxCount   = 1000           // highest threshold
	maxSteps   = 8
	maxPerHour = 1000 // most alerts of a rule, per tenant and hour
	maxText    = 1024
	lateness   = 10 * time.Minute // how long late events still count
)

// Kind is what a rule waits for.
type Kind string

// The kinds.
const (
	Count    Kind = "count"     // so many events
	Distinct Kind = "distinct"  // so many different values
	Sequence Kind = "sequence"  // one event of each step, in this order
	AnyOrder Kind = "any_order" // one event of each step
)

// Draft is a rule before it is compiled. The zero values mean what the comments say.
type Draft struct {
	ID         string // a-z, 0-9 and "-", at most 26; unique
	Title      string
	Severity   events.Severity
	Message    string // text of the alert; {field}, {count}, {values}, {within}, {first} and {last} are filled in
	References []string
	Tenants    []string // none: every tenant
	Contain    bool     // propose to freeze the identity; false: to look at it
	GroupBy    []string // none: identity
	Kind       Kind
	When       []string // one condition, or one per step
	AtLeast    int
	Of         string        // Distinct: the field whose values are counted
	Within     time.Duration // 0 when one event is enough
	PerHour    int           // most alerts per tenant and hour; 0: 100
	Origin     string        // where it was written, such as "sigma"
}

// Rule is a compiled rule.
type Rule struct {
	Draft
	File    string
	Line    int
	Hash    string // of all that decides what it raises
	steps   []*expression
	table   *table
	message []part
}

// Compile checks a draft. The problems have the step they belong to, -1 for the rule, and
// positions inside its condition.
func (c *Compiler) Compile(d Draft) (*Rule, []Problem) {
	var problems []Problem
	add := func(step int, p position) {
		problems = append(problems, Problem{Rule: d.ID, Step: step, Line: p.Line, Column: p.Column, Message: p.Message})
	}
	for _, m := range d.check(c.table) {
		add(-1, position{Message: m})
	}
	if len(d.GroupBy) == 0 {
		d.GroupBy = []string{"identity"}
	}
	if d.PerHour == 0 {
		d.PerHour = 100
	}
	r := &Rule{Draft: d, table: c.table}
	for i, text := range d.When {
		x, wrong := c.compile(text)
		for _, p := range wrong {
			add(i, p)
		}
		r.steps = append(r.steps, x)
	}
	var unknown []string
	r.message, unknown = parts(d.Message, c.table)
	for _, u := range unknown {
		add(-1, position{Message: "message: {" + u + "} is no field of the event, and not count, values, within, first or last"})
	}
	r.Hash = events.DeterministicID(fmt.Sprintf("%#v", d))
	if len(problems) > 0 {
		return nil, problems
	}
	return r, nil
}

// check says what is wrong with a draft besides its conditions.
func (d *Draft) check(t *table) []string {
	var out []string
	bad := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if !validID(d.ID) {
		bad("id %q: want 1 to 26 of a-z, 0-9 and -, a letter first", clip(d.ID, 40))
	}
	switch d.Severity {
	case events.SeverityLow, events.SeverityMedium, events.SeverityHigh, events.SeverityCritical:
	default:
		bad("severity %q: want low, medium, high or critical", clip(string(d.Severity), 40))
	}
	if d.Message == "" || len(d.Message) > maxText {
		bad("message: say in 1 to %d bytes what happened", maxText)
	}
	for _, f := range d.GroupBy {
		if t.kinds[f] == "" {
			bad("group_by: %q is no field of the event", clip(f, 40))
		}
	}
	if len(d.GroupBy) > 5 {
		bad("group_by: at most 5 fields")
	}
	for _, n := range d.Tenants {
		if !events.ValidTenant(n) {
			bad("tenants: %q is no tenant", clip(n, 40))
		}
	}
	if len(d.References) > 16 {
		bad("references: at most 16")
	}
	for _, r := range d.References {
		if r == "" || len(r) > 64 {
			bad("references: want 1 to 64 bytes each")
		}
	}
	if d.PerHour < 0 || d.PerHour > maxPerHour {
		bad("max_per_hour: want 1 to %d", maxPerHour)
	}
	return append(out, d.checkKind(t)...)
}

func (d *Draft) checkKind(t *table) []string {
	var out []string
	bad := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	switch d.Kind {
	case Count, Distinct:
		if len(d.When) != 1 {
			bad("%s needs one condition", d.Kind)
		}
		if d.AtLeast < 1 || d.AtLeast > MaxCount {
			bad("%s: at_least must be 1 to %d", d.Kind, MaxCount)
		}
	case Sequence, AnyOrder:
		if len(d.When) < 2 || len(d.When) > maxSteps {
			bad("%s needs 2 to %d steps", d.Kind, maxSteps)
		}
	default:
		bad("kind %q is not known", d.Kind)
	}
	if d.Kind == Distinct && t.kinds[d.Of] == "" {
		bad("distinct: %q is no field of the event", clip(d.Of, 40))
	}
	if single := d.Kind == Count && d.AtLeast == 1; !single && (d.Within < time.Second || d.Within > MaxWithin) {
		bad("within: want 1s to 24h")
	}
	return out
}

func validID(s string) bool {
	if s == "" || len(s) > 26 || s[0] < 'a' || s[0] > 'z' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// Detector is the rule's name on the bus, such as "RULE-NIGHT-WRITES".
func (r *Rule) Detector() string { return "RULE-" + strings.ToUpper(r.ID) }

// Name is the rule's name in alerts, such as "RULE:night-writes".
func (r *Rule) Name() string { return "RULE:" + r.ID }

// Conditions are the CEL texts, one per step.
func (r *Rule) Conditions() []string { return slices.Clone(r.When) }

// Waits says what the rule waits for, for people.
func (r *Rule) Waits() string {
	by := " per " + strings.Join(r.GroupBy, ", ")
	switch {
	case r.Kind == Count && r.AtLeast == 1:
		return "one event" + by
	case r.Kind == Count:
		return fmt.Sprintf("at least %d events within %s%s", r.AtLeast, span(r.Within), by)
	case r.Kind == Distinct:
		return fmt.Sprintf("at least %d different values of %s within %s%s", r.AtLeast, r.Of, span(r.Within), by)
	case r.Kind == Sequence:
		return fmt.Sprintf("%d steps in this order within %s%s", len(r.steps), span(r.Within), by)
	}
	return fmt.Sprintf("%d steps in any order within %s%s", len(r.steps), span(r.Within), by)
}

// Errors is how many evaluations failed and what the last one said.
func (r *Rule) Errors() (n int64, last string) {
	for _, x := range r.steps {
		n += x.errors.Load()
		if p := x.last.Load(); p != nil {
			last = *p
		}
	}
	return n, last
}

// match evaluates the steps; bit i is step i.
func (r *Rule) match(e *Event) uint32 {
	if len(r.Tenants) > 0 && !slices.Contains(r.Tenants, e.Tenant) {
		return 0
	}
	var mask uint32
	for i, x := range r.steps {
		if x.holds(e) {
			mask |= 1 << i
		}
	}
	return mask
}

// span writes a duration without parts that are zero.
func span(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-2]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-2]
	}
	return s
}

func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n] + "..."
}
