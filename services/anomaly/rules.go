package anomaly

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/detect"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/engine"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/rules"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/sigma"
	"go.uber.org/zap"
)

// The SOC's own rules, for the command that checks and tests them without a running
// Lanyard.
type (
	// Rule is a compiled rule.
	Rule = rules.Rule
	// RuleLibrary is what a file or directory of rules holds; Run runs its tests.
	RuleLibrary = rules.Library
	// RuleProblem is what is wrong with a rule, and where.
	RuleProblem = rules.Problem
	// RuleReport is how the tests went.
	RuleReport = rules.Report
)

// LoadRules reads and compiles the rules of a file or directory.
func LoadRules(path string) (RuleLibrary, []RuleProblem, error) {
	c, err := rules.NewCompiler()
	if err != nil {
		return RuleLibrary{}, nil, err
	}
	return c.Load(path, sigma.Read)
}

// look is how often the directory of rules is looked at for changes.
const look = 2 * time.Second

// keepRaised is of how many events what the rules raised is kept, for an event that the
// bus delivers again.
const keepRaised = 8192

// rulebook is the rules in force. Its engine is replaced when the process takes over.
type rulebook struct {
	path   string
	engine atomic.Pointer[rules.Engine]

	mu       sync.Mutex
	rules    []*Rule
	print    string // fingerprint of what was read last
	loadedAt time.Time
	problem  string // why what was read last is not in force
	raised   map[string][]engine.Output
	order    []string
}

// open reads the rules for the first time: what is wrong with them stops the start.
func (b *rulebook) open(path string, now func() time.Time) error {
	b.path = path
	b.engine.Store(rules.NewEngine(nil))
	b.raised = map[string][]engine.Output{}
	if path == "" {
		return nil
	}
	if _, err := b.load(now); err != nil {
		return fmt.Errorf("read anomaly.rules: %w", err)
	}
	return nil
}

// load puts what the directory holds in force when it has changed and is right. The rules
// in force stay otherwise.
func (b *rulebook) load(now func() time.Time) (changed bool, err error) {
	print, err := rules.Fingerprint(b.path)
	b.mu.Lock()
	defer b.mu.Unlock()
	if err != nil || print == b.print {
		return false, err
	}
	b.print = print
	lib, problems, err := LoadRules(b.path)
	for _, p := range problems {
		err = errors.Join(err, p)
	}
	if err != nil {
		b.problem = err.Error()
		return false, err
	}
	b.rules, b.problem, b.loadedAt = lib.Rules, "", now().UTC()
	b.engine.Load().Replace(lib.Rules)
	return true, nil
}

// reset forgets what the rules have counted, for a state that is rebuilt.
func (b *rulebook) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.engine.Store(rules.NewEngine(b.rules))
	b.raised, b.order = map[string][]engine.Output{}, nil
}

// follow looks at the directory until ctx ends.
func (w *watcher) follow(ctx context.Context) error {
	if w.rules.path == "" {
		<-ctx.Done()
		return ctx.Err()
	}
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		changed, err := w.rules.load(w.env.Now)
		if err != nil {
			w.env.Log.Error("changed rules are not put in force", zap.String("path", w.rules.path), zap.Error(err))
		}
		if changed {
			version, s := w.rules.engine.Load().Status()
			w.env.Log.Info("rules put in force", zap.String("version", version), zap.Int("rules", len(s)))
		}
	}
}

// judge gives an activity to the rules. An event that comes again leads to the same.
func (b *rulebook) judge(g *engine.Engine, x *expectations, e events.Event) ([]engine.Output, error) {
	ev, ok, err := rules.EventOf(e)
	if err != nil || !ok {
		return nil, err
	}
	key := e.Source() + "\x00" + e.ID()
	b.mu.Lock()
	known, again := b.raised[key]
	b.mu.Unlock()
	if again {
		return known, nil
	}
	var out []engine.Output
	for _, f := range b.engine.Load().Judge(ev) {
		out = append(out, alertOf(g, x, f))
	}
	if len(out) > 0 {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.raised[key] = out
		if b.order = append(b.order, key); len(b.order) > keepRaised {
			delete(b.raised, b.order[0])
			b.order = b.order[1:]
		}
	}
	return out, nil
}

// alertOf writes a finding as an alert, or as the fact that it was expected.
func alertOf(g *engine.Engine, x *expectations, f rules.Finding) engine.Output {
	tenant, a := f.Event.Tenant, f.Event.Activity
	r := f.Rule
	p := events.AnomalyDetected{
		Alert:    events.DeterministicID("rule", tenant, r.ID, strings.Join(f.Group, "\x00"), f.Bucket.Format(time.RFC3339)),
		Detector: r.Detector(), Name: r.Name(), Severity: r.Severity, Score: ruleScore(r.Severity),
		Identity: a.Identity, Owner: a.Owner, Credential: a.Credential, Task: detect.Clip(a.Task, 250), Session: detect.Clip(a.Session, 250),
		Explanation: f.Message, Value: detect.Clip(strings.Join(f.Values, ", "), 1000), Baseline: detect.Clip("the rule asks for "+r.Waits(), 1000),
		Count: f.Count, Threshold: float64(max(r.AtLeast, len(r.When))), Evidence: f.Evidence,
		FirstSeen: f.First, LastSeen: f.Last, References: append([]string{}, r.References...),
	}
	home := tenant
	foreign := a.IdentityTenant != "" && a.IdentityTenant != tenant
	if foreign {
		home = a.IdentityTenant
	} else if reg := g.Registration(tenant, a.Identity); reg != nil {
		p.Identity, p.Owner, p.Feature, p.Purpose = reg.Identity, reg.Owner, reg.Feature, reg.Purpose
	}
	p.Proposed = events.Proposed{Response: "alert", Command: "lanyard identity show " + engine.Quote(home+"/"+p.Identity)}
	if r.Contain {
		p.Proposed = events.Proposed{Response: "contain", Command: fmt.Sprintf("lanyard revoke %s --freeze --reason %s --confirm",
			engine.Quote("identity:"+home+"/"+p.Identity), engine.Quote(r.Name()+" "+p.Alert))}
	}
	o := engine.Output{Tenant: tenant, Time: f.Event.Time, ID: events.DeterministicID("rule-alert", p.Alert), Payload: p}
	if mark, ok := x.of(engine.Suspect{Tenant: tenant, Detector: p.Detector, Identity: p.Identity, Value: p.Value, Severity: p.Severity, Time: f.Event.Time}); ok {
		o.ID = events.DeterministicID("rule-suppressed", p.Alert, mark)
		o.Payload = events.AlertSuppressed{Alert: p.Alert, Expected: mark, Detector: p.Detector, Identity: p.Identity, Value: p.Value,
			Severity: p.Severity, Explanation: p.Explanation, Evidence: p.Evidence}
	}
	return o
}

func ruleScore(s events.Severity) float64 {
	return map[events.Severity]float64{events.SeverityLow: 20, events.SeverityMedium: 45, events.SeverityHigh: 70, events.SeverityCritical: 90}[s]
}

// RuleShown is a rule in force as the API answers it.
type RuleShown struct {
	ID        string   `json:"id"`
	Title     string   `json:"title,omitempty"`
	Severity  string   `json:"severity"`
	Waits     string   `json:"waits"`
	When      []string `json:"when"` // CEL
	Origin    string   `json:"origin"`
	File      string   `json:"file"`
	Line      int      `json:"line"`
	Groups    int      `json:"groups"`
	Evicted   int64    `json:"evicted"`
	HeldBack  int64    `json:"held_back"`
	Errors    int64    `json:"errors"`
	LastError string   `json:"last_error,omitempty"`
}

// RulesShown is the rules in force. Problem says why what the directory holds now is not.
type RulesShown struct {
	Version  string      `json:"version"`
	LoadedAt time.Time   `json:"loaded_at,omitzero"`
	Problem  string      `json:"problem,omitempty"`
	Rules    []RuleShown `json:"rules"`
}

// ShowRule describes a compiled rule.
func ShowRule(r *Rule) RuleShown {
	n, last := r.Errors()
	return RuleShown{ID: r.ID, Title: r.Title, Severity: string(r.Severity), Waits: r.Waits(), When: r.Conditions(), Origin: r.Origin,
		File: r.File, Line: r.Line, Errors: n, LastError: last}
}

func (b *rulebook) shown() RulesShown {
	version, list := b.engine.Load().Status()
	b.mu.Lock()
	out := RulesShown{Version: version, LoadedAt: b.loadedAt, Problem: b.problem, Rules: []RuleShown{}}
	b.mu.Unlock()
	for _, s := range list {
		x := ShowRule(s.Rule)
		x.Groups, x.Evicted, x.HeldBack = s.Groups, s.Evicted, s.HeldBack
		out.Rules = append(out.Rules, x)
	}
	return out
}
