package rules

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/lanyard-nhi/lanyard/events"
)

// Bounds of what is read.
const (
	maxFile  = 256 << 10 // bytes of one file
	maxFiles = 500
	maxRules = 500
)

// Problem is something that is wrong with a rule, and where.
type Problem struct {
	File    string `json:"file,omitempty"`
	Line    int    `json:"line,omitempty"`
	Column  int    `json:"column,omitempty"`
	Rule    string `json:"rule,omitempty"`
	Step    int    `json:"-"` // of the condition it is about, -1 for the rule
	Message string `json:"message"`
}

// Error implements error.
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
		if p.Column > 0 {
			fmt.Fprintf(&b, ":%d", p.Column)
		}
	}
	if b.Len() > 0 {
		b.WriteString(": ")
	}
	if p.Rule != "" {
		b.WriteString("rule " + clip(p.Rule, 40) + ": ")
	}
	b.WriteString(p.Message)
	return b.String()
}

// File is one file of rules and tests.
type File struct {
	Name  string
	Rules []*Rule
	Tests []Test
}

// Reader reads the text of a file in another language into drafts.
type Reader func(name string, text []byte) ([]Written, []Problem)

// Written is a draft with the place it was written at.
type Written struct {
	Draft
	Line       int   // of the rule
	Conditions []int // line of each condition
}

// text is a scalar with its place.
type text struct {
	value        string
	line, column int
	block        bool // the text begins on the next line
}

// UnmarshalYAML implements yaml.Unmarshaler.
func (t *text) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return fmt.Errorf("line %d: want text", n.Line)
	}
	*t = text{n.Value, n.Line, n.Column, n.Style == yaml.LiteralStyle || n.Style == yaml.FoldedStyle}
	return nil
}

// place is where in the file a position inside the text is.
func (t text) place(line, column int) (int, int) {
	switch {
	case t.block:
		return t.line + line, column
	case line == 1:
		return t.line, t.column + column - 1
	}
	return t.line + line - 1, column
}

type fileSpec struct {
	Rules []ruleSpec `yaml:"rules"`
	Tests []testSpec `yaml:"tests"`
}

type ruleSpec struct {
	ID         text       `yaml:"id"`
	Title      string     `yaml:"title"`
	Severity   string     `yaml:"severity"`
	Message    string     `yaml:"message"`
	References []string   `yaml:"references"`
	Tenants    []string   `yaml:"tenants"`
	Respond    string     `yaml:"respond"`
	GroupBy    []string   `yaml:"group_by"`
	MaxPerHour int        `yaml:"max_per_hour"`
	When       *text      `yaml:"when"`
	Count      *countSpec `yaml:"count"`
	Distinct   *countSpec `yaml:"distinct"`
	Sequence   *stepsSpec `yaml:"sequence"`
	AnyOrder   *stepsSpec `yaml:"any_order"`
}

type countSpec struct {
	Of      string `yaml:"of"`
	AtLeast int    `yaml:"at_least"`
	Within  text   `yaml:"within"`
}

type stepsSpec struct {
	Within text       `yaml:"within"`
	Steps  []stepSpec `yaml:"steps"`
}

type stepSpec struct {
	When text `yaml:"when"`
}

// ParseFile reads one YAML file of rules and tests. All problems are returned at once.
func (c *Compiler) ParseFile(name string, raw []byte) (File, []Problem) {
	f := File{Name: name}
	var spec fileSpec
	d := yaml.NewDecoder(bytes.NewReader(raw))
	d.KnownFields(true)
	if err := d.Decode(&spec); err != nil && !errors.Is(err, io.EOF) {
		return f, yamlProblems(name, err)
	}
	if err := d.Decode(&struct{}{}); !errors.Is(err, io.EOF) {
		return f, []Problem{{File: name, Message: "the file holds more than one document: put all rules under one 'rules:'"}}
	}
	var problems []Problem
	for _, s := range spec.Rules {
		r, wrong := c.rule(s)
		for _, p := range wrong {
			p.File = name
			problems = append(problems, p)
		}
		if r != nil {
			r.File = name
			f.Rules = append(f.Rules, r)
		}
	}
	for _, s := range spec.Tests {
		t, wrong := s.test()
		t.File = name
		for _, p := range wrong {
			p.File = name
			problems = append(problems, p)
		}
		f.Tests = append(f.Tests, t)
	}
	return f, problems
}

// yamlProblems splits an error of the YAML decoder into its lines.
func yamlProblems(name string, err error) []Problem {
	var out []Problem
	for l := range strings.SplitSeq(strings.TrimPrefix(err.Error(), "yaml: unmarshal errors:\n"), "\n") {
		p := Problem{File: name, Message: strings.TrimPrefix(strings.TrimSpace(l), "yaml: ")}
		if _, err := fmt.Sscanf(p.Message, "line %d: ", &p.Line); err == nil {
			_, p.Message, _ = strings.Cut(p.Message, ": ")
		}
		p.Message, _, _ = strings.Cut(p.Message, " in type rules.")
		out = append(out, p)
	}
	return out
}

// rule compiles one rule and places its problems in the file.
func (c *Compiler) rule(s ruleSpec) (*Rule, []Problem) {
	d := Draft{ID: s.ID.value, Title: s.Title, Severity: events.Severity(s.Severity), Message: s.Message, References: s.References,
		Tenants: s.Tenants, GroupBy: s.GroupBy, PerHour: s.MaxPerHour, Origin: "cel"}
	var conditions []text
	var problems []Problem
	bad := func(line int, format string, args ...any) {
		problems = append(problems, Problem{Line: line, Rule: d.ID, Step: -1, Message: fmt.Sprintf(format, args...)})
	}
	within := func(t text) {
		var err error
		if d.Within, err = time.ParseDuration(t.value); err != nil {
			bad(t.line, "within %q: want a span such as 10m", clip(t.value, 40))
		}
	}
	switch s.Respond {
	case "", "alert":
	case "contain":
		d.Contain = true
	default:
		bad(s.ID.line, "respond %q: want alert or contain; a rule never revokes", clip(s.Respond, 40))
	}
	if s.When != nil {
		conditions = append(conditions, *s.When)
	}
	ways := 0
	for _, given := range []bool{s.Count != nil, s.Distinct != nil, s.Sequence != nil, s.AnyOrder != nil} {
		if given {
			ways++
		}
	}
	if ways > 1 {
		bad(s.ID.line, "give one of count, distinct, sequence and any_order, or none of them")
		return nil, problems
	}
	d.Kind, d.AtLeast = Count, 1
	switch {
	case s.Count != nil:
		d.AtLeast = s.Count.AtLeast
		within(s.Count.Within)
	case s.Distinct != nil:
		d.Kind, d.AtLeast, d.Of = Distinct, s.Distinct.AtLeast, s.Distinct.Of
		within(s.Distinct.Within)
	case s.Sequence != nil, s.AnyOrder != nil:
		steps := s.Sequence
		d.Kind = Sequence
		if steps == nil {
			steps, d.Kind = s.AnyOrder, AnyOrder
		}
		if s.When != nil {
			bad(s.When.line, "a %s has a condition per step, and no when of its own", d.Kind)
			return nil, problems
		}
		within(steps.Within)
		for _, x := range steps.Steps {
			conditions = append(conditions, x.When)
		}
	}
	for _, x := range conditions {
		d.When = append(d.When, x.value)
	}
	r, wrong := c.Compile(d)
	for _, p := range wrong {
		if p.Step >= 0 && p.Step < len(conditions) {
			p.Line, p.Column = conditions[p.Step].place(max(p.Line, 1), max(p.Column, 1))
		} else {
			p.Line, p.Column = s.ID.line, 0
		}
		problems = append(problems, p)
	}
	if len(problems) > 0 {
		return nil, problems
	}
	r.Line = s.ID.line
	return r, nil
}

// Place compiles what another reader has written.
func (c *Compiler) Place(name string, ws []Written) ([]*Rule, []Problem) {
	var out []*Rule
	var problems []Problem
	for _, w := range ws {
		r, wrong := c.Compile(w.Draft)
		for _, p := range wrong {
			p.File, p.Column = name, 0
			p.Line = w.Line
			if p.Step >= 0 && p.Step < len(w.Conditions) {
				p.Line = w.Conditions[p.Step]
			}
			problems = append(problems, p)
		}
		if r != nil {
			r.File, r.Line = name, w.Line
			out = append(out, r)
		}
	}
	return out, problems
}

// Library is what a file or directory holds.
type Library struct {
	Rules []*Rule // in the order of their ids
	Tests []Test
	Files int
}

// Load reads a file, or the *.yaml and *.yml files of a directory and what is under it.
// Files ending in .yml are Sigma's and are read by sigma. Ids must be unique. All problems
// are returned at once; the error is about reading.
func (c *Compiler) Load(path string, sigma Reader) (Library, []Problem, error) {
	names, err := listFiles(path)
	if err != nil {
		return Library{}, nil, err
	}
	var lib Library
	var problems []Problem
	lib.Files = len(names)
	for _, name := range names {
		raw, err := readFile(name)
		if err != nil {
			return lib, nil, err
		}
		if strings.HasSuffix(name, ".yml") && sigma != nil {
			ws, wrong := sigma(name, raw)
			rs, worse := c.Place(name, ws)
			lib.Rules = append(lib.Rules, rs...)
			problems = append(append(problems, wrong...), worse...)
			continue
		}
		f, wrong := c.ParseFile(name, raw)
		lib.Rules = append(lib.Rules, f.Rules...)
		lib.Tests = append(lib.Tests, f.Tests...)
		problems = append(problems, wrong...)
	}
	slices.SortFunc(lib.Rules, func(a, b *Rule) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.File, b.File)) })
	for i := 1; i < len(lib.Rules); i++ {
		if a, b := lib.Rules[i-1], lib.Rules[i]; a.ID == b.ID {
			problems = append(problems, Problem{File: b.File, Line: b.Line, Rule: b.ID, Message: fmt.Sprintf("the id is taken by %s:%d", a.File, a.Line)})
		}
	}
	if len(lib.Rules) > maxRules {
		problems = append(problems, Problem{File: path, Message: fmt.Sprintf("%d rules; at most %d are judged", len(lib.Rules), maxRules)})
	}
	return lib, problems, nil
}

// listFiles names the files to read, in order.
func listFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read rules: %w", err)
	}
	if !info.IsDir() {
		names := []string{path}
		// The tests of a Sigma rule stand beside it.
		beside := strings.TrimSuffix(path, filepath.Ext(path)) + "_test.yaml"
		if _, err := os.Stat(beside); err == nil && beside != path {
			names = append(names, beside)
		}
		return names, nil
	}
	var names []string
	err = filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p != path && strings.HasPrefix(d.Name(), ".") {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if ext := filepath.Ext(p); !d.IsDir() && (ext == ".yaml" || ext == ".yml") {
			names = append(names, p)
		}
		if len(names) > maxFiles {
			return fmt.Errorf("more than %d files", maxFiles)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read rules in %s: %w", path, err)
	}
	return names, nil
}

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read rules: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read rules %s: %w", name, err)
	}
	if len(raw) > maxFile {
		return nil, fmt.Errorf("read rules %s: more than %d bytes", name, maxFile)
	}
	return raw, nil
}

// Fingerprint changes when what Load would read changes.
func Fingerprint(path string) (string, error) {
	names, err := listFiles(path)
	if err != nil {
		return "", err
	}
	var all []string
	for _, name := range names {
		raw, err := readFile(name)
		if err != nil {
			return "", err
		}
		all = append(all, name, string(raw))
	}
	return events.DeterministicID(all...), nil
}
