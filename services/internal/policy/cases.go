package policy

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/lanyard-nhi/lanyard/events"
)

// Case is a test of a set: a question and the answer that is wanted.
type Case struct {
	File      string      `yaml:"-"`
	Line      int         `yaml:"-"`
	Name      string      `yaml:"name"`
	Identity  CaseSubject `yaml:"identity"`
	Scope     string      `yaml:"scope"`
	Audience  string      `yaml:"audience"`
	Context   CaseContext `yaml:"context"`
	Exception []string    `yaml:"exceptions"` // ids of forbids to which it has exceptions
	Expect    CaseExpect  `yaml:"expect"`
}

// CaseSubject is who asks. Tenant and name are required.
type CaseSubject struct {
	Tenant        string `yaml:"tenant"`
	Name          string `yaml:"name"`
	Kind          string `yaml:"kind"` // agent when it is left out
	Owner         string `yaml:"owner"`
	Feature       string `yaml:"feature"`
	Purpose       string `yaml:"purpose"`
	Backend       string `yaml:"backend"`
	Vendor        string `yaml:"vendor"`
	VendorManaged bool   `yaml:"vendor_managed"`
	Risk          string `yaml:"risk"`
}

// CaseContext is the context of the schema.
type CaseContext struct {
	Task        string            `yaml:"task"`
	Purpose     string            `yaml:"purpose"`
	Environment string            `yaml:"environment"`
	Sensitivity string            `yaml:"data_sensitivity"`
	Attestation CaseAttestation   `yaml:"attestation"`
	Claims      map[string]string `yaml:"claims"`
	Grant       string            `yaml:"grant"` // jwt-bearer when it is left out
	Depth       int               `yaml:"depth"`
	From        *CaseFrom         `yaml:"from"`
	TTL         time.Duration     `yaml:"ttl"`
	Time        time.Time         `yaml:"time"` // CaseTime when it is left out
}

// CaseAttestation is who vouched for the workload, and as what.
type CaseAttestation struct {
	Issuer  string `yaml:"issuer"`
	Subject string `yaml:"subject"`
}

// CaseFrom is who delegated.
type CaseFrom struct {
	Tenant   string `yaml:"tenant"`
	Identity string `yaml:"identity"`
}

// CaseExpect is the answer that is wanted. What is left out is not compared, but for
// the decision.
type CaseExpect struct {
	Decision string   `yaml:"decision"` // allow or deny
	Reasons  []string `yaml:"reasons"`
	MaxTTL   string   `yaml:"max_ttl"` // as in @max_ttl; "none": no policy bounds the life
	LeansOn  []string `yaml:"leans_on"`
}

// CaseTime is when a case happens that names no time: noon of a Monday, in UTC.
func CaseTime() time.Time { return time.Date(2026, 1, 5, 12, 0, 0, 0, time.UTC) }

// ParseCases reads a file of tests: {cases: [...]}. Unknown keys are errors.
func ParseCases(file string, text []byte) ([]Case, error) {
	var doc struct {
		Cases []yaml.Node `yaml:"cases"`
	}
	if err := strict(text, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	out := make([]Case, 0, len(doc.Cases))
	for i := range doc.Cases {
		n := &doc.Cases[i]
		c := Case{File: file, Line: n.Line}
		raw, err := yaml.Marshal(n)
		if err == nil {
			err = strict(raw, &c)
		}
		if err == nil {
			err = c.complete()
		}
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, n.Line, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s: no cases: write a list under 'cases:'", file)
	}
	return out, nil
}

func strict(text []byte, out any) error {
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	err := d.Decode(out)
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

func (c *Case) complete() error {
	var missing []string
	for _, f := range []struct{ name, value string }{{"name", c.Name}, {"identity.tenant", c.Identity.Tenant}, {"identity.name", c.Identity.Name},
		{"scope", c.Scope}, {"audience", c.Audience}, {"expect.decision", c.Expect.Decision}} {
		if f.value == "" {
			missing = append(missing, f.name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("case %q: give %s", c.Name, strings.Join(missing, ", "))
	}
	if c.Expect.Decision != "allow" && c.Expect.Decision != "deny" {
		return fmt.Errorf("case %q: expect.decision must be allow or deny", c.Name)
	}
	if t := c.Expect.MaxTTL; t != "" && t != "none" {
		if _, err := time.ParseDuration(t); err != nil {
			return fmt.Errorf(`case %q: expect.max_ttl must be a duration such as "2m", or none`, c.Name)
		}
	}
	return nil
}

func (c *Case) facts() Facts {
	i, x := c.Identity, c.Context
	f := Facts{Tenant: i.Tenant, Identity: i.Name, Task: x.Task, Time: x.Time, Context: events.DecisionContext{
		Kind: events.IdentityKind(cmp.Or(i.Kind, string(events.KindAgent))), Owner: i.Owner, Feature: i.Feature, IdentityPurpose: i.Purpose,
		Backend: i.Backend, Vendor: i.Vendor, VendorManaged: i.VendorManaged, Risk: i.Risk, Grant: cmp.Or(x.Grant, "jwt-bearer"),
		Purpose: x.Purpose, Environment: x.Environment, Sensitivity: x.Sensitivity, Claims: x.Claims,
		Attestation: events.Attestation{Issuer: x.Attestation.Issuer, Subject: x.Attestation.Subject},
		Depth:       x.Depth, TTLSeconds: int64(x.TTL / time.Second)}}
	if f.Time.IsZero() {
		f.Time = CaseTime()
	}
	if x.From != nil {
		f.Context.From = &events.Party{Tenant: x.From.Tenant, Identity: x.From.Identity}
	}
	for _, p := range c.Exception {
		f.Exceptions = append(f.Exceptions, Exception{ID: p, Policy: p})
	}
	return f
}

// Result is how a case went.
type Result struct {
	Name    string   `json:"name"`
	File    string   `json:"file"`
	Line    int      `json:"line"`
	Faults  []string `json:"faults,omitempty"` // none: it went as expected
	Allowed bool     `json:"allowed"`
	Reasons []string `json:"reasons"`
}

// Report is how the tests of a set went. Uncovered are the policies that decided no
// case.
type Report struct {
	Version   string   `json:"version"`
	Results   []Result `json:"results"`
	Failed    int      `json:"failed"`
	Uncovered []string `json:"uncovered"`
}

// Test runs the cases.
func (s *Set) Test(cases []Case) Report {
	report := Report{Version: s.version, Results: []Result{}, Uncovered: []string{}}
	decided := map[string]bool{}
	for i := range cases {
		c := &cases[i]
		v := s.Ask(c.facts()).Decide(c.Scope, c.Audience)
		for _, id := range v.Reasons {
			decided[id] = true
		}
		for _, id := range v.Exceptions { // here an exception has the id of what it lifts
			decided[id] = true
		}
		r := Result{Name: c.Name, File: c.File, Line: c.Line, Allowed: v.Allowed, Reasons: append([]string{}, v.Reasons...), Faults: c.faults(v)}
		if len(r.Faults) > 0 {
			report.Failed++
		}
		report.Results = append(report.Results, r)
	}
	for _, p := range s.Policies() {
		if !decided[p.ID] {
			report.Uncovered = append(report.Uncovered, p.ID)
		}
	}
	return report
}

func (c *Case) faults(v Verdict) []string {
	var out []string
	differ := func(what, want, got string) {
		if want != got {
			out = append(out, fmt.Sprintf("%s: want %s, got %s", what, want, got))
		}
	}
	got := "allow"
	if !v.Allowed {
		got = "deny"
	}
	if got != c.Expect.Decision {
		because := v.Why
		if v.Allowed {
			because = "permitted by " + strings.Join(v.Reasons, ", ")
		}
		out = append(out, fmt.Sprintf("decision: want %s, got %s: %s", c.Expect.Decision, got, because))
	}
	list := func(ids []string) string {
		return "[" + strings.Join(slices.Sorted(slices.Values(ids)), ", ") + "]"
	}
	if c.Expect.Reasons != nil {
		differ("reasons", list(c.Expect.Reasons), list(v.Reasons))
	}
	if c.Expect.LeansOn != nil {
		differ("leans_on", list(c.Expect.LeansOn), list(v.Exceptions))
	}
	if c.Expect.MaxTTL != "" {
		want, _ := time.ParseDuration(c.Expect.MaxTTL) // complete has looked; none is 0
		differ("max_ttl", ttl(want), ttl(v.MaxTTL))
	}
	return out
}

func ttl(d time.Duration) string {
	if d == 0 {
		return "none"
	}
	return d.String()
}
