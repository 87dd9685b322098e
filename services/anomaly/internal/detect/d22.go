package detect

import (
	"fmt"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// retryInfo documents D22.
var retryInfo = Info{
	ID: "D22", Name: "retry_storm",
	Catches:     "the same call over and over: an agent in a loop, or a client that retries what keeps failing",
	Fields:      []string{"action", "args_hash", "resource", "destination", "outcome", "session"},
	Method:      "equal calls in a row: 6 of a tool with equal arguments in one session, whatever their outcome; 10 of anything that fails, at most 10 minutes apart. A success, or another call, ends the run. Silent when the same loop is usual (first alerted about more than a day ago)",
	StateBytes:  350,
	Explanation: "{tool} was called {n} times in a row with the same arguments since {t}, last outcome {e}",
	Severity:    events.SeverityLow,
	References:  []string{"T1499", "AML.T0034.002", "AML.T0029"},
	Response:    RespondContain,
}

const (
	maxRuns  = 4                // runs followed at once: sessions of one identity interleave
	runPause = 10 * time.Minute // between two calls of one run
)

// repeat is the runs of equal calls of one identity.
type repeat struct {
	runs  []equal
	loops Set // loops that an alert was raised about
}

// equal is one run of equal calls.
type equal struct {
	lane, key   uint32 // session, call
	n           uint32
	start, last int32Time
	id          string // of the first call
}

func (r *repeat) bytes() int {
	if r == nil {
		return 0
	}
	n := 48 + cap(r.runs)*40 + cap(r.loops)*16
	for _, e := range r.runs {
		n += len(e.id)
	}
	return n
}

// retryStorm is D22.
func retryStorm(in *Input, s *State) *Finding {
	a, cfg := in.Activity, &in.Facts.Config
	tool := a.Tool != "" && a.ArgsHash != ""
	fails := !in.Succeeded()
	if !tool && !fails && s.repeat == nil {
		return nil // nothing to count and nothing to end
	}
	if s.repeat == nil {
		s.repeat = &repeat{}
	}
	lane := Hash("lane", a.Session)
	if !tool && !fails {
		s.repeat.end(lane)
		return nil
	}
	key, limit := Hash(a.Action, a.Destination, object(a), a.Error), cfg.LoopFailures
	if tool {
		key, limit = Hash(a.Action, a.ArgsHash), cfg.LoopTool
	}
	e := s.repeat.note(lane, key, in)
	if int(e.n) < limit {
		return nil
	}
	usual := s.repeat.loops.Usual(key, in.Time)
	if int(e.n) == limit {
		s.repeat.loops.Hold(key, in.Time, 4)
	}
	if usual {
		return nil
	}
	sev := events.SeverityLow
	if a.Tool != "" || int(e.n) >= 5*limit {
		sev = events.SeverityMedium
	}
	with := "on " + clip(object(a))
	if tool {
		with = "with the same arguments"
	}
	dt := gapOf(e.start, e.last)
	out := &Finding{
		Severity: sev,
		Explanation: fmt.Sprintf("%s called %s %s %d times in a row within %s since %s, last outcome %s%s; the threshold is %d",
			clip(a.Identity), clip(a.Action), with, e.n, dt, stamp(time.Unix(int64(e.start), 0)), clip(string(a.Outcome)), errorText(a), limit),
		Value:     fmt.Sprintf("%d equal calls in a row", e.n),
		Baseline:  fmt.Sprintf("fewer than %d equal calls in a row", limit),
		Count:     int64(e.n),
		Threshold: float64(limit),
		Response:  RespondContain,
	}
	if e.id != "" && e.id != in.ID {
		out.Evidence, out.Since = []string{e.id}, e.start.time()
	}
	return out
}

func errorText(a *events.Activity) string {
	if a.Error == "" {
		return ""
	}
	return " (" + Clip(a.Error, 80) + ")"
}

// note adds the call to its lane's run, or begins a new one. A late call counts.
func (r *repeat) note(lane, key uint32, in *Input) equal {
	at := seconds(in.Time)
	old := 0
	for i := range r.runs {
		e := &r.runs[i]
		if e.last < r.runs[old].last {
			old = i
		}
		if e.lane != lane {
			continue
		}
		if e.key == key && gapOf(at, e.last) <= runPause {
			e.n++
			e.start, e.last = min(e.start, at), max(e.last, at)
			return *e
		}
		r.runs[i] = begin(lane, key, at, in)
		return r.runs[i]
	}
	e := begin(lane, key, at, in)
	if len(r.runs) < maxRuns {
		r.runs = append(r.runs, e)
	} else {
		r.runs[old] = e
	}
	return e
}

func begin(lane, key uint32, at int32Time, in *Input) equal {
	e := equal{lane: lane, key: key, n: 1, start: at, last: at}
	if len(in.ID) <= maxIDLen {
		e.id = strings.Clone(in.ID)
	}
	return e
}

// end ends the run of a lane.
func (r *repeat) end(lane uint32) {
	for i := range r.runs {
		if r.runs[i].lane == lane {
			r.runs[i].n, r.runs[i].key = 0, 0
		}
	}
}
