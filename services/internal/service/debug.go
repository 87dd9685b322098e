package service

import (
	"net/http"
	"runtime/pprof"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// readiness is what /readyz answers.
type readiness struct {
	Ready    bool   `json:"ready"`
	Stopping bool   `json:"stopping,omitempty"`
	Guard    string `json:"guard"` // "fresh", or why not
}

// debugHandler serves /livez (the process runs), /readyz (it may be sent requests:
// started, not stopping, its guard fresh), /metrics, and profiles when allowed.
func debugHandler(state func() readiness, metrics prometheus.Gatherer, profiles bool) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", func(w http.ResponseWriter, _ *http.Request) {
		JSON(w, http.StatusOK, map[string]bool{"live": true})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		s := state()
		status := http.StatusOK
		if !s.Ready {
			status = http.StatusServiceUnavailable
		}
		JSON(w, status, s)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(metrics, promhttp.HandlerOpts{}))
	if profiles {
		mux.HandleFunc("GET /debug/pprof/{name}", func(w http.ResponseWriter, r *http.Request) {
			p := pprof.Lookup(r.PathValue("name"))
			if p == nil {
				Problem(w, http.StatusNotFound, "no_profile", "there is no such profile: try heap, goroutine, allocs, block or mutex")
				return
			}
			w.Header().Set("Content-Type", "application/octet-stream")
			_ = p.WriteTo(w, 0) // the client went away
		})
	}
	return mux
}
