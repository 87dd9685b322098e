// Package sigma reads Sigma 2.1 rules and correlations into the drafts that package rules
// compiles: one matcher, one set of limits. What the neutral event cannot answer is refused
// with the reason. Only the anomaly service imports it.
//
// Supported are the modifiers contains, startswith, endswith, re (i, m, s), cidr, gt, gte,
// lt, lte, all, exists, cased and neq; conditions of and, or, not, parentheses, "1 of" and
// "all of"; and the correlations event_count, value_count, temporal and temporal_ordered.
package sigma

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/rules"
)

// maxDocuments bounds the documents of one file, maxDepth how deep a condition nests.
const (
	maxDocuments = 100
	maxDepth     = 32
)

// document is a rule or a correlation.
type document struct {
	Title       string       `yaml:"title"`
	ID          string       `yaml:"id"`
	Name        string       `yaml:"name"`
	Level       string       `yaml:"level"`
	Tags        []string     `yaml:"tags"`
	Logsource   yaml.Node    `yaml:"logsource"`
	Detection   yaml.Node    `yaml:"detection"`
	Correlation *correlation `yaml:"correlation"`
	Filter      *yaml.Node   `yaml:"filter"`
	Action      string       `yaml:"action"`
	line        int
	cel         string
	at          int // line of the condition
}

type correlation struct {
	Type      string         `yaml:"type"`
	Rules     []string       `yaml:"rules"`
	GroupBy   []string       `yaml:"group-by"`
	Timespan  string         `yaml:"timespan"`
	Generate  bool           `yaml:"generate"`
	Aliases   yaml.Node      `yaml:"aliases"`
	Condition map[string]any `yaml:"condition"`
}

// Read is a rules.Reader.
func Read(name string, raw []byte) ([]rules.Written, []rules.Problem) {
	var problems []rules.Problem
	bad := func(line int, err error) {
		problems = append(problems, rules.Problem{File: name, Line: line, Message: err.Error()})
	}
	var docs []*document
	for dec := yaml.NewDecoder(bytes.NewReader(raw)); ; {
		var n yaml.Node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			break
		}
		d := &document{line: n.Line}
		if err == nil {
			err = n.Decode(d)
		}
		if err != nil {
			bad(n.Line, errors.New(strings.TrimPrefix(err.Error(), "yaml: ")))
			return nil, problems
		}
		if docs = append(docs, d); len(docs) > maxDocuments {
			bad(n.Line, fmt.Errorf("more than %d documents in one file", maxDocuments))
			return nil, problems
		}
	}
	for _, d := range docs {
		if d.Correlation == nil {
			if line, err := d.translate(); err != nil {
				bad(max(line, d.line), err)
			}
		}
	}
	if len(problems) > 0 {
		return nil, problems
	}
	out, silent := []rules.Written{}, map[*document]bool{}
	for _, d := range docs {
		if d.Correlation == nil {
			continue
		}
		w, used, err := d.correlate(docs)
		if err != nil {
			bad(d.line, err)
			continue
		}
		for _, u := range used {
			silent[u] = silent[u] || !d.Correlation.Generate
		}
		out = append(out, w)
	}
	for _, d := range docs {
		if d.Correlation == nil && !silent[d] {
			w := d.written()
			w.Kind, w.AtLeast, w.When, w.Conditions = rules.Count, 1, []string{d.cel}, []int{d.at}
			out = append(out, w)
		}
	}
	return out, problems
}

// written is what rules and correlations have alike.
func (d *document) written() rules.Written {
	text := strings.ReplaceAll(d.Title, "{", "{{")
	if len(text) > 300 {
		text = text[:300]
	}
	w := rules.Written{Line: d.line, Draft: rules.Draft{ID: d.slug(), Title: d.Title, Severity: severity(d.Level), Origin: "sigma",
		Message: strings.ToValidUTF8(text, "") + ": {identity}, {count} of {values}"}}
	for _, t := range d.Tags {
		if id, ok := strings.CutPrefix(strings.ToLower(t), "attack.t"); ok && len(w.References) < 16 && len(id) < 32 {
			w.References = append(w.References, "T"+id)
		}
	}
	return w
}

// slug is an id that is short enough, from the name and what identifies the rule.
func (d *document) slug() string {
	from := d.Name
	if from == "" {
		from = d.Title
	}
	s := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9':
			return r
		}
		return '-'
	}, strings.ToLower(from))
	s = strings.Trim(strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '-' }), "-"), "-")
	if s == "" || s[0] < 'a' {
		s = "s-" + s
	}
	return strings.Trim(s[:min(len(s), 19)], "-") + "-" + events.DeterministicID(d.ID, d.Name, d.Title)[:6]
}

func severity(level string) events.Severity {
	switch level {
	case "informational", "low":
		return events.SeverityLow
	case "high":
		return events.SeverityHigh
	case "critical":
		return events.SeverityCritical
	}
	return events.SeverityMedium
}

// translate makes the CEL of a rule. The line is that of what is wrong.
func (d *document) translate() (int, error) {
	switch {
	case d.Filter != nil:
		return d.line, errors.New("filters are not supported: write the exception into the rule with 'and not'")
	case d.Action != "":
		return d.line, fmt.Errorf("action %q belongs to rule collections of Sigma 1 and is not supported: write one document per rule", clip(d.Action))
	case d.Title == "":
		return d.line, errors.New("title is missing")
	case d.Detection.Kind != yaml.MappingNode:
		return d.line, errors.New("detection is missing")
	}
	var source struct{ Product, Service, Category string }
	if err := d.Logsource.Decode(&source); err != nil || d.Logsource.Kind != yaml.MappingNode {
		return d.line, errors.New("logsource is missing")
	}
	cloudtrail := source.Product == "aws" && (source.Service == "cloudtrail" || source.Service == "")
	if !cloudtrail && source.Product != "lanyard" {
		return d.Logsource.Line, fmt.Errorf("logsource product %q service %q is not supported: want aws/cloudtrail, whose field names are translated, or product lanyard with the neutral event's own", clip(source.Product), clip(source.Service))
	}
	p := parser{fields: known(), cloudtrail: cloudtrail, searches: map[string]string{}}
	var condition *yaml.Node
	for i := 0; i+1 < len(d.Detection.Content); i += 2 {
		key, value := d.Detection.Content[i], d.Detection.Content[i+1]
		switch key.Value {
		case "condition":
			condition = value
			continue
		case "timeframe":
			return key.Line, errors.New("timeframe belongs to Sigma 1: use a correlation with timespan")
		}
		text, err := p.search(value, 0)
		if err != nil {
			return max(p.line, value.Line), fmt.Errorf("%s: %w", clip(key.Value), err)
		}
		p.searches[key.Value] = text
		p.names = append(p.names, key.Value)
	}
	if condition == nil || condition.Kind != yaml.ScalarNode {
		return d.Detection.Line, errors.New("condition is missing, or a list: give one condition")
	}
	text, err := p.condition(condition.Value)
	if err != nil {
		return condition.Line, fmt.Errorf("condition: %w", err)
	}
	d.cel, d.at = text, condition.Line
	return 0, nil
}

// correlate makes the draft of a correlation, with the rules it rests on.
func (d *document) correlate(docs []*document) (rules.Written, []*document, error) {
	c, w := d.Correlation, d.written()
	var used []*document
	for _, name := range c.Rules {
		i := slices.IndexFunc(docs, func(x *document) bool {
			return x.Correlation == nil && (x.Name == name || x.ID == name) && name != ""
		})
		if i < 0 {
			return w, nil, fmt.Errorf("correlation: there is no rule %q in this file; correlations of correlations are not supported", clip(name))
		}
		used = append(used, docs[i])
	}
	if len(used) == 0 || d.Title == "" {
		return w, nil, errors.New("correlation: title and rules are needed")
	}
	if c.Aliases.Kind != 0 {
		return w, nil, errors.New("correlation: aliases are not supported; all rules have the neutral event's fields")
	}
	var err error
	if w.Within, err = timespan(c.Timespan); err != nil {
		return w, nil, err
	}
	for _, f := range c.GroupBy {
		name, err := groupField(f)
		if err != nil {
			return w, nil, err
		}
		w.GroupBy = append(w.GroupBy, name)
	}
	w.Message = strings.ReplaceAll(w.Message, "{count} of {values}", "{count} within {within}: {values}")
	var each []string
	for _, u := range used {
		each = append(each, u.cel)
		w.Conditions = append(w.Conditions, u.at)
	}
	switch c.Type {
	case "temporal", "temporal_ordered":
		w.Kind, w.When = rules.AnyOrder, each
		if c.Type == "temporal_ordered" {
			w.Kind = rules.Sequence
		}
		return w, used, nil
	case "event_count", "value_count":
		w.Kind, w.When, w.Conditions = rules.Count, []string{strings.Join(each, " || ")}, []int{d.line}
		if w.AtLeast, err = threshold(c.Condition); err != nil {
			return w, nil, err
		}
		if c.Type == "value_count" {
			field, _ := c.Condition["field"].(string)
			if w.Of, err = groupField(field); err != nil {
				return w, nil, err
			}
			w.Kind = rules.Distinct
		}
		return w, used, nil
	}
	return w, nil, fmt.Errorf("correlation type %q is not supported: want event_count, value_count, temporal or temporal_ordered", clip(c.Type))
}

func threshold(c map[string]any) (int, error) {
	for name, v := range c {
		n, ok := v.(int)
		switch {
		case name == "field":
			continue
		case name == "gte" && ok:
			return n, nil
		case name == "gt" && ok && n < rules.MaxCount:
			return n + 1, nil
		}
		return 0, fmt.Errorf("correlation condition %q is not supported: want gte or gt with a number; fewer than so many would need to wait for what does not come", clip(name))
	}
	return 0, errors.New("correlation condition is missing: give gte or gt")
}

// timespan reads Sigma's spans: 30s, 5m, 1h, 1d.
func timespan(s string) (time.Duration, error) {
	if days, ok := strings.CutSuffix(s, "d"); ok {
		s = days + "h"
		d, err := time.ParseDuration(s)
		if err == nil && d <= rules.MaxWithin {
			return 24 * d, nil
		}
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, fmt.Errorf("timespan %q: want 30s, 5m, 1h or 1d", clip(s))
	}
	return d, nil
}

func clip(s string) string {
	if len(s) > 60 {
		return strings.ToValidUTF8(s[:60], "") + "..."
	}
	return s
}
