// Package evaluate measures detection on recorded and injected activity and holds
// the figures to their gates. It knows forms of data, never a data set: identities,
// addresses and times may be re-keyed. The command line imports it.
package evaluate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/services/anomaly"
)

// Options of a run.
type Options struct {
	Dir      string // of the data; a folder "detection" in it is preferred
	Only     string // prefix of the metrics to compute; "" is all
	Ablate   bool   // also every detector off and every threshold a quarter up and down
	Now      func() time.Time
	Progress func(format string, args ...any)
}

// run is what the metrics share.
type run struct {
	dir    string
	now    func() time.Time
	tuning tuning
	cache  map[string]any
}

// tuning is what an ablation changes.
type tuning struct {
	disabled   []string
	thresholds *anomaly.Thresholds
}

// engine returns a fresh one.
func (r *run) engine() *anomaly.Engine {
	return anomaly.NewEngine(anomaly.EngineOptions{Disabled: r.tuning.disabled, Thresholds: r.tuning.thresholds, AutoRevoke: true})
}

// metric computes the rows whose names begin with one of its names.
type metric struct {
	name  string
	files []string
	rows  []string // what it makes, for a row that says what is missing
	do    func(*run) ([]Row, error)
}

// metrics lists them in the order of the table.
func metrics() []metric {
	return []metric{
		{"labelled", []string{fileLabelled}, []string{"labelled.macro_recall", "labelled.macro_specificity"}, labelled},
		{"techniques", []string{fileAttacks, fileScenarios}, []string{"techniques.found"}, techniques},
		{"bots", []string{fileBots}, []string{"bots.novelty_per_1k_days"}, bots},
		{"agents", []string{fileAgents}, []string{"agents.hijack_recall"}, hijacked},
		{"loops", []string{fileAgents}, []string{"loops.by_sixth_call"}, loops},
		{"injected", []string{fileBots}, []string{"injected.certain_recall", "injected.certain_false", "injected.likely_macro_recall"}, injected},
		{"stolen_session", []string{fileAttacks, fileScenarios}, []string{"stolen_session.recorded_delay_events"}, stolen},
		{"mixed", []string{fileAttacks, fileScenarios, fileBots}, []string{"mixed.incident_precision"}, mixed},
		{"disorder", []string{fileAttacks, fileScenarios, fileBots}, []string{"disorder.jaccard", "disorder.certain_identical"}, disorder},
		{"explanation", []string{fileAttacks, fileScenarios, fileBots}, []string{"explanation.complete_and_true"}, explained},
		{"memory", nil, nil, memory},
		{"speed", []string{fileBots}, []string{"speed.decode_and_detect_per_second"}, speed},
	}
}

// Files of the data, by form.
const (
	fileLabelled  = "panther_cases.jsonl"
	fileAttacks   = "stratus.neutral.jsonl.gz"
	fileScenarios = "scenarios.jsonl"
	fileBots      = "git_bot.jsonl.gz"
	fileAgents    = "agentdojo.jsonl.gz"
)

// Run computes every metric whose name begins with Only.
func Run(ctx context.Context, o Options) (Report, error) {
	r := &run{dir: o.Dir, now: o.Now, cache: map[string]any{}}
	if st, err := os.Stat(filepath.Join(o.Dir, "detection")); err == nil && st.IsDir() {
		r.dir = filepath.Join(o.Dir, "detection")
	}
	if _, err := os.Stat(r.dir); err != nil {
		return Report{}, fmt.Errorf("open data: %w", err)
	}
	var rep Report
	known := false
	for _, m := range metrics() {
		if group, _, _ := strings.Cut(o.Only, "."); group != "" && group != m.name {
			continue
		}
		known = true
		if ctx.Err() != nil {
			return rep, ctx.Err()
		}
		start := r.now()
		rows, err := m.rowsOf(r)
		if err != nil {
			return rep, fmt.Errorf("evaluate %s: %w", m.name, err)
		}
		if o.Progress != nil {
			o.Progress("%s: %s", m.name, r.now().Sub(start).Round(time.Millisecond))
		}
		for _, row := range rows {
			if strings.HasPrefix(row.Metric, o.Only) {
				rep.Rows = append(rep.Rows, row)
			}
		}
	}
	if o.Ablate {
		rows, err := ablation(ctx, r, rep)
		if err != nil {
			return rep, err
		}
		rep.Ablation = rows
	}
	if !known {
		return rep, fmt.Errorf("there is no metric %q; have %s", o.Only, strings.Join(Names(), ", "))
	}
	return rep, nil
}

// Names are the groups of metrics.
func Names() []string {
	var out []string
	for _, m := range metrics() {
		out = append(out, m.name)
	}
	return out
}

// rowsOf runs the metric, or says which file it misses.
func (m metric) rowsOf(r *run) ([]Row, error) {
	for _, f := range m.files {
		if _, err := os.Stat(filepath.Join(r.dir, f)); errors.Is(err, fs.ErrNotExist) {
			var out []Row
			for _, name := range m.rows {
				out = append(out, missing(name, f+" is not in the data directory"))
			}
			return out, nil
		}
	}
	return m.do(r)
}

// load reads a file once per run.
func load[T any](r *run, name string) ([]T, error) {
	if v, ok := r.cache[name].([]T); ok {
		return v, nil
	}
	v, err := read[T](r.dir, name)
	if err != nil {
		return nil, err
	}
	r.cache[name] = v
	return v, nil
}
