package anomaly

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/detect"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/ocsf"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

// maxList is the most alerts one answer holds, the newest ones.
const maxList = 1000

// writeWait bounds how long one server-sent event may take to be written.
const writeWait = 10 * time.Second

// keepAlive is how often an idle event stream sends a comment, so that proxies keep
// it open and a gone client is noticed.
const keepAlive = 15 * time.Second

// alertLog is what the API needs of the bus.
type alertLog interface {
	Read(ctx context.Context, stream, filter string, from uint64) iter.Seq2[bus.Stored, error]
	Follow(ctx context.Context, stream string, filters []string, from uint64, f func(bus.Stored) error) error
	LastSequence(ctx context.Context, stream, filter string) (uint64, error)
	Append(ctx context.Context, b bus.Batch) (bus.Ack, error)
}

// routes serves the alerts (a list, or server-sent events when asked for; ?format=ocsf
// writes them as OCSF), what people do about them, and GET /v1/detectors, the
// documentation of the detectors.
func (w *watcher) routes() http.Handler {
	mux := http.NewServeMux()
	d := &desk{log: w.env.Bus, now: w.env.Now, zap: w.env.Log}
	for pattern, x := range map[string]struct {
		scope string
		serve http.HandlerFunc
	}{
		"GET /v1/alerts":                   {service.ScopeRead, func(rw http.ResponseWriter, r *http.Request) { serveAlerts(rw, r, d.log, d.now) }},
		"GET /v1/alerts/{id}":              {service.ScopeRead, d.show},
		"POST /v1/alerts/{id}/acknowledge": {service.ScopeTriage, d.acknowledge},
		"POST /v1/alerts/{id}/expect":      {service.ScopeTriage, d.expect},
		"GET /v1/expectations":             {service.ScopeRead, d.expectations},
		"GET /v1/rules":                    {service.ScopeOperator, func(rw http.ResponseWriter, _ *http.Request) { service.JSON(rw, http.StatusOK, w.rules.shown()) }},
		"GET /v1/detectors":                {service.ScopeRead, func(rw http.ResponseWriter, _ *http.Request) { service.JSON(rw, http.StatusOK, detect.Catalog()) }},
	} {
		mux.Handle(pattern, w.env.Authorize(x.scope, x.serve))
	}
	return mux
}

// query is what a caller asks for, checked.
type query struct {
	filter string // of subjects
	tenant string // "": any
	since  time.Time
	from   uint64 // sequence
	ocsf   bool
}

var severities = []events.Severity{events.SeverityLow, events.SeverityMedium, events.SeverityHigh, events.SeverityCritical}

// readQuery reads tenant, severity, detector, since and Last-Event-ID. Callers see
// their own tenant only; operators see any.
func readQuery(r *http.Request) (query, error) {
	c, ok := service.Caller(r.Context())
	if !ok {
		return query{}, errors.New("the caller is not known")
	}
	tenant, err := service.TenantFilter(r, c)
	if err != nil {
		return query{}, err
	}
	v := r.URL.Query()
	severity, detector := v.Get("severity"), v.Get("detector")
	if severity != "" && !slices.Contains(severities, events.Severity(severity)) {
		return query{}, fmt.Errorf("severity %q: want low, medium, high or critical", detect.Clip(severity, 32))
	}
	any := func(s string) string {
		if s == "" {
			return "*"
		}
		return events.Token(s)
	}
	q := query{tenant: tenant, filter: "nhi.alert." + any(tenant) + "." + any(severity) + "." + any(detector)}
	switch f := v.Get("format"); f {
	case "":
	case "ocsf":
		q.ocsf = true
	default:
		return query{}, fmt.Errorf("format %q: want ocsf, or leave it out", clipped(f))
	}
	if s := v.Get("since"); s != "" {
		if q.since, err = time.Parse(time.RFC3339, s); err != nil {
			return query{}, fmt.Errorf("since %q: want a time such as 2026-01-02T15:04:05Z (RFC 3339)", detect.Clip(s, 40))
		}
	}
	if s := r.Header.Get("Last-Event-ID"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return query{}, fmt.Errorf("Last-Event-ID %q: want the id of an earlier event", detect.Clip(s, 40))
		}
		q.from = n + 1
	}
	return q, nil
}

func serveAlerts(w http.ResponseWriter, r *http.Request, log alertLog, now func() time.Time) {
	q, err := readQuery(r)
	if err != nil {
		if code := events.Code(err); code != "internal" {
			service.Problem(w, http.StatusForbidden, code, err.Error())
			return
		}
		service.Problem(w, http.StatusBadRequest, "invalid_request", err.Error())
		return
	}
	if wantsStream(r) {
		streamAlerts(w, r, log, q, now)
		return
	}
	listAlerts(w, r, log, q, now())
}

func wantsStream(r *http.Request) bool {
	for _, v := range r.Header.Values("Accept") {
		for part := range strings.SplitSeq(v, ",") {
			if t, _, _ := strings.Cut(part, ";"); strings.EqualFold(strings.TrimSpace(t), "text/event-stream") {
				return true
			}
		}
	}
	return false
}

// listAlerts answers with a JSON array of alerts with their states, oldest first.
func listAlerts(w http.ResponseWriter, r *http.Request, log alertLog, q query, now time.Time) {
	unavailable := func() {
		service.Problem(w, http.StatusServiceUnavailable, "unavailable", "the alerts cannot be read now; try again")
	}
	list, said := []AlertShown{}, map[string]bool{}
	for s, err := range log.Read(r.Context(), bus.StreamAlert, q.filter, max(q.from, 1)) {
		if err != nil {
			unavailable()
			return
		}
		a, ok := shown(s)
		if !ok {
			continue
		}
		if key := a.Tenant + "/" + a.Alert; q.ocsf {
			a.repeated = said[key]
			said[key] = true
		}
		if s.Time.Before(q.since) {
			continue
		}
		list = append(list, a)
		if len(list) >= 2*maxList {
			list = append(list[:0], list[len(list)-maxList:]...)
		}
	}
	if len(list) > maxList {
		list = list[len(list)-maxList:]
	}
	st, err := states(r.Context(), log, q.tenant, "")
	if err != nil {
		unavailable()
		return
	}
	findings := []ocsf.Finding{}
	for i := range list {
		list[i].State = st[list[i].Tenant+"/"+list[i].Alert]
		if q.ocsf {
			findings = append(findings, list[i].ocsf(now))
		}
	}
	if q.ocsf {
		service.JSON(w, http.StatusOK, findings)
		return
	}
	service.JSON(w, http.StatusOK, list)
}

// streamAlerts sends alerts as they are stored, as server-sent events whose id is the
// sequence in the stream. Without Last-Event-ID and since it begins with the next one.
func streamAlerts(w http.ResponseWriter, r *http.Request, log alertLog, q query, now func() time.Time) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	if q.from == 0 {
		q.from = 1
		if q.since.IsZero() {
			last, err := log.LastSequence(ctx, bus.StreamAlert, ">")
			if err != nil {
				service.Problem(w, http.StatusServiceUnavailable, "unavailable", "the alerts cannot be read now; try again")
				return
			}
			q.from = last + 1
		}
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
	send := sender(w, now)
	if send(": following alerts\n\n") != nil {
		return
	}
	next := make(chan string)
	done := make(chan struct{})
	go func() {
		defer close(done)
		// It ends with ctx, or when the bus cannot follow; the client then reconnects
		// with Last-Event-ID.
		_ = log.Follow(ctx, bus.StreamAlert, []string{q.filter}, q.from, func(s bus.Stored) error {
			if s.Time.Before(q.since) {
				return nil
			}
			data, err := encode(s, q.ocsf)
			if err != nil {
				return fmt.Errorf("encode alert: %w", err)
			}
			select {
			case next <- fmt.Sprintf("id: %d\nevent: alert\ndata: %s\n\n", s.Sequence, data):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}()
	idle := time.NewTicker(keepAlive)
	defer idle.Stop()
	for {
		text := ": still here\n\n"
		select {
		case <-ctx.Done():
			return
		case <-done:
			return
		case text = <-next:
		case <-idle.C:
		}
		if send(text) != nil {
			return
		}
	}
}

// encode writes an alert as the CloudEvent it is, or as an OCSF finding.
func encode(s bus.Stored, asOCSF bool) ([]byte, error) {
	if a, ok := shown(s); ok && asOCSF {
		return json.Marshal(a.ocsf(s.Time))
	}
	return events.Encode(s.Event)
}

// sender writes to the client, each time with a deadline of its own: the server's
// would end the stream, and none would let a client that stopped reading hold on to
// it for ever.
func sender(w http.ResponseWriter, now func() time.Time) func(text string) error {
	rc := http.NewResponseController(w)
	return func(text string) error {
		if err := rc.SetWriteDeadline(now().Add(writeWait)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return fmt.Errorf("set write deadline: %w", err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			return fmt.Errorf("write alert: %w", err)
		}
		return rc.Flush()
	}
}
