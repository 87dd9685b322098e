// Package mapping makes records of any source neutral by expressions in the
// configuration, written in CEL (Common Expression Language). Only intake imports it.
//
// Expressions are compiled and type-checked once; evaluating one is bounded in steps,
// reaches nothing outside the record and cannot loop forever.
package mapping

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types/ref"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/neutral"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/records"
)

// Limits of an expression.
const (
	maxSource = 4096   // characters
	maxCost   = 50_000 // steps of one evaluation, as CEL counts them
)

// ErrNoMatch means that no mapping takes the record.
var ErrNoMatch = errors.New("no mapping takes the record")

// Mapping is one kind of record.
type Mapping struct {
	Name   string            // part of the events' source
	Match  string            // boolean expression: whether the record is of this kind; empty: it is
	Form   string            // api_called, tool_called or token_exchanged; empty: by the field tool
	Fields map[string]string // expression by name of the neutral event's field, besides id and time
}

// Set is the compiled mappings, in order.
type Set struct{ list []compiled }

type compiled struct {
	name   string
	match  cel.Program // nil: always
	form   string
	fields []field
}

type field struct {
	name    string
	program cel.Program
	target  target
}

// Shape is how records of a mapped source may arrive.
var Shape = records.Shape{Lists: []string{"records", "events"}}

// Compile compiles mappings. hash is what the function hash uses. Every error names the
// mapping and the field.
func Compile(list []Mapping, hash neutral.Hasher) (Set, error) {
	env, err := environment(hash)
	if err != nil {
		return Set{}, fmt.Errorf("compile mappings: %w", err)
	}
	var (
		s    Set
		errs []error
	)
	for _, m := range list {
		c, err := compile(env, m)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.list = append(s.list, c)
	}
	return s, errors.Join(errs...)
}

func compile(env *cel.Env, m Mapping) (compiled, error) {
	c := compiled{name: m.Name, form: m.Form}
	var errs []error
	bad := func(what string, err error) {
		errs = append(errs, fmt.Errorf("mapping %q: %s: %w", m.Name, what, err))
	}
	switch m.Form {
	case "", "api_called", "tool_called", "token_exchanged":
	default:
		bad("form", fmt.Errorf("%q is none of api_called, tool_called, token_exchanged", m.Form))
	}
	if m.Match != "" {
		p, err := program(env, m.Match, cel.BoolType)
		if err != nil {
			bad("match", err)
		}
		c.match = p
	}
	for _, need := range []string{"time", "identity", "action", "destination"} {
		if m.Fields[need] == "" {
			bad("field "+need, errors.New("is missing; every event has it"))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Fields)) {
		t, ok := targets[name]
		if !ok {
			bad("field "+name, fmt.Errorf("the neutral event has no such field; it has %s", strings.Join(slices.Sorted(maps.Keys(targets)), ", ")))
			continue
		}
		p, err := program(env, m.Fields[name], t.types...)
		if err != nil {
			bad("field "+name, err)
			continue
		}
		c.fields = append(c.fields, field{name, p, t})
	}
	return c, errors.Join(errs...)
}

// program compiles an expression whose value is of one of types, or only known when it
// is evaluated.
func program(env *cel.Env, source string, types ...*cel.Type) (cel.Program, error) {
	if len(source) > maxSource {
		return nil, fmt.Errorf("has %d characters, at most %d are allowed", len(source), maxSource)
	}
	ast, issues := env.Compile(source)
	if err := issues.Err(); err != nil {
		return nil, err
	}
	out, fits := ast.OutputType(), false
	var names []string
	for _, t := range types {
		fits = fits || t.IsAssignableType(out)
		names = append(names, t.String())
	}
	if !fits && !out.IsExactType(cel.DynType) {
		return nil, fmt.Errorf("gives %s, want %s", out, strings.Join(names, " or "))
	}
	return env.Program(ast, cel.CostLimit(maxCost), cel.EvalOptions(cel.OptOptimize))
}

// Read makes one raw record neutral by the first mapping that takes it.
func (s Set) Read(raw []byte, c neutral.Context) (neutral.Record, error) {
	d, err := neutral.Parse(raw)
	if err != nil {
		return neutral.Record{}, fmt.Errorf("read mapped record: %w", err)
	}
	vars := map[string]any{"record": map[string]any(d), "instance": c.Instance, "tenant": c.Tenant}
	for _, m := range s.list {
		if m.match != nil {
			v, err := evaluate(m.match, vars)
			if err != nil {
				return neutral.Record{}, fmt.Errorf("read record by mapping %q: match: %w", m.name, err)
			}
			if v == nil || v.Value() != true {
				continue
			}
		}
		r, err := m.read(vars, c)
		if err != nil {
			return neutral.Record{ID: r.ID}, fmt.Errorf("read record by mapping %q: %w", m.name, err)
		}
		return r, nil
	}
	return neutral.Record{}, fmt.Errorf("read mapped record: %w", ErrNoMatch)
}

func (m compiled) read(vars map[string]any, c neutral.Context) (neutral.Record, error) {
	r := neutral.Record{Source: neutral.Source("mapped:"+m.name, c.Instance)}
	for _, f := range m.fields {
		v, err := evaluate(f.program, vars)
		if err == nil && v != nil {
			err = f.target.set(&r, v)
		}
		if err != nil {
			return r, fmt.Errorf("field %s: %w", f.name, err)
		}
	}
	for _, need := range []struct{ name, value string }{{"identity", r.Identity}, {"action", r.Action}, {"destination", r.Destination}} {
		if need.value == "" {
			return r, fmt.Errorf("%w: %s is missing", events.ErrSchema, need.name)
		}
	}
	if r.Time.IsZero() {
		return r, fmt.Errorf("%w: time is missing", events.ErrSchema)
	}
	r.Outcome = cmp.Or(r.Outcome, events.OutcomeSuccess)
	if r.ID == "" {
		r.ID = neutral.Derived(m.name, r.Time.Format(time.RFC3339Nano), r.Identity, r.Action, r.Resource, r.Credential, r.Session, string(r.Outcome))
	}
	switch {
	case m.form == "token_exchanged":
		r.Form = neutral.Exchange
	case m.form == "tool_called", m.form == "" && r.Tool != "":
		r.Form = neutral.ToolCall
	}
	return r, nil
}

// evaluate runs a program. A member that the record lacks makes the value absent, which
// is nothing new; every other failure is an error.
func evaluate(p cel.Program, vars map[string]any) (ref.Val, error) {
	v, _, err := p.Eval(vars)
	switch {
	case err == nil:
		return v, nil
	case strings.Contains(err.Error(), "no such key"), strings.Contains(err.Error(), "no such attribute"):
		return nil, nil
	}
	return nil, fmt.Errorf("%w: %w", events.ErrSchema, err)
}
