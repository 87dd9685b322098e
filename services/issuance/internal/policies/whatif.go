package policies

import (
	"encoding/json"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/lanyard-nhi/lanyard/services/internal/policy"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/grant"
)

const (
	invariants = grant.InvariantsVersion
	// maxReplay bounds the time of one replay, maxSince how far back it may begin.
	maxReplay = 10 * time.Minute
	maxSince  = 366 * 24 * time.Hour
)

// line is one line of the answer to what-if: one of its members is set.
type line struct {
	Progress *Totals `json:"progress,omitempty"`
	Change   *Change `json:"change,omitempty"`
	Totals   *Totals `json:"totals,omitempty"`
	Error    string  `json:"error,omitempty"`
}

// whatIf replays the decisions since ?since= (a duration in Go's syntax) against the set
// in the body, {"files":[{"name","text"}]}, with the exceptions in force now. It answers
// JSON lines: progress, then each change, then totals, or error. One replay runs at a
// time, so that trying policies does not starve issuance.
func (a *API) whatIf(w http.ResponseWriter, r *http.Request) {
	since, err := time.ParseDuration(r.URL.Query().Get("since"))
	if err != nil || since <= 0 || since > maxSince {
		service.Problem(w, http.StatusUnprocessableEntity, "invalid_since", "since must be a duration above 0 and of at most a year, such as 168h")
		return
	}
	var body struct {
		Files []policy.File `json:"files"`
	}
	set, ok := a.read(w, r, &body, &body.Files)
	if !ok {
		return
	}
	if !a.replaying.TryLock() {
		w.Header().Set("Retry-After", "10")
		service.Problem(w, http.StatusTooManyRequests, "busy", "another replay is running; try again when it has ended")
		return
	}
	defer a.replaying.Unlock()
	now := a.Now()
	rc := http.NewResponseController(w)
	_ = rc.SetWriteDeadline(now.Add(maxReplay)) // not supported by test recorders
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-store")
	enc := json.NewEncoder(w)
	replay := newReplay(set, a.Exceptions, now, now.Add(-since))
	err = replay.run(r.Context(), a.History, func(t Totals) {
		_ = enc.Encode(line{Progress: &t}) // who has gone away ends r.Context
		_ = rc.Flush()
	})
	if err != nil {
		a.Log.Error("replay of decisions failed", zap.Error(err))
		_ = enc.Encode(line{Error: "the log could not be read to its end; try again"})
		return
	}
	for _, c := range replay.list() {
		if enc.Encode(line{Change: c}) != nil {
			return
		}
	}
	_ = enc.Encode(line{Totals: &replay.totals})
}
