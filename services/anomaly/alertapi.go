package anomaly

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	json "github.com/go-json-experiment/json"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/detect"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/ocsf"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"go.uber.org/zap"
)

// MaxExpectation is the longest that something may be expected without being looked at
// again.
const MaxExpectation = 90 * 24 * time.Hour

// maxBody bounds what a request about an alert may hold, in bytes.
const maxBody = 16 << 10

// AlertState is what people made of an alert.
type AlertState struct {
	Acknowledged *events.AlertAcknowledged `json:"acknowledged,omitempty"`
	Expected     *events.AlertExpected     `json:"expected,omitempty"`
}

// AlertShown is an alert as the API answers it.
type AlertShown struct {
	events.AnomalyDetected
	Tenant   string      `json:"tenant"`
	RaisedAt time.Time   `json:"raised_at"` // when it was stored
	State    *AlertState `json:"state,omitempty"`

	event, correlation string
	repeated           bool
}

// Expectation is a mark with what it suppressed.
type Expectation struct {
	events.AlertExpected
	Tenant     string                   `json:"tenant"`
	InForce    bool                     `json:"in_force"`
	Suppressed []events.AlertSuppressed `json:"suppressed"` // the newest, at most 100
	Count      int                      `json:"suppressed_count"`
}

// shown reads an alert; false when it is none.
func shown(s bus.Stored) (AlertShown, bool) {
	p, err := events.As[events.AnomalyDetected](s.Event)
	if err != nil {
		return AlertShown{}, false
	}
	return AlertShown{AnomalyDetected: p, Tenant: events.Tenant(s.Event), RaisedAt: s.Time.UTC(),
		event: s.Event.ID(), correlation: events.Extension(s.Event, events.ExtCorrelation)}, true
}

// ocsf is the alert as a Detection Finding.
func (a AlertShown) ocsf(now time.Time) ocsf.Finding {
	c := ocsf.Context{Tenant: a.Tenant, Event: a.event, Correlation: a.correlation, Created: a.RaisedAt, Repeated: a.repeated}
	if a.State != nil && a.State.Acknowledged != nil {
		c.State.Acknowledged, c.State.Detail = a.State.Acknowledged.By, "looked after by "+a.State.Acknowledged.By
		if n := a.State.Acknowledged.Note; n != "" {
			c.State.Detail += ": " + n
		}
	}
	if a.State != nil && a.State.Expected != nil && now.Before(a.State.Expected.Until) {
		e := a.State.Expected
		c.State.Expected, c.State.Detail = e.By, "expected until "+e.Until.UTC().Format(time.RFC3339)+" by "+e.By+": "+e.Reason
	}
	return ocsf.Alert(a.AnomalyDetected, c)
}

// states folds what the log says people made of alerts of a tenant ("": any), by alert;
// of one alert when it is named.
func states(ctx context.Context, log alertLog, tenant, alert string) (map[string]*AlertState, error) {
	if tenant == "" {
		tenant = "*"
	}
	if alert == "" {
		alert = "*"
	}
	out := map[string]*AlertState{}
	of := func(s bus.Stored, id string) *AlertState {
		key := events.Tenant(s.Event) + "/" + id
		if out[key] == nil {
			out[key] = &AlertState{}
		}
		return out[key]
	}
	for _, verb := range []string{"acknowledged", "expected"} {
		for s, err := range log.Read(ctx, bus.StreamLog, events.LogSubject(tenant, "alert", verb, alert), 1) {
			if err != nil {
				return nil, err
			}
			if p, err := events.As[events.AlertAcknowledged](s.Event); err == nil {
				of(s, p.Alert).Acknowledged = &p
			}
			if p, err := events.As[events.AlertExpected](s.Event); err == nil {
				of(s, p.Alert).Expected = &p
			}
		}
	}
	return out, nil
}

// find reads one alert as it was said last.
func find(ctx context.Context, log alertLog, tenant, id string) (AlertShown, bool, error) {
	if tenant == "" {
		tenant = "*"
	}
	var found AlertShown
	ok := false
	for s, err := range log.Read(ctx, bus.StreamAlert, "nhi.alert."+tenant+".*.*", 1) {
		if err != nil {
			return found, false, err
		}
		if a, is := shown(s); is && a.Alert == id {
			a.repeated = ok
			found, ok = a, true
		}
	}
	if !ok {
		return found, false, nil
	}
	st, err := states(ctx, log, found.Tenant, id)
	found.State = st[found.Tenant+"/"+id]
	return found, true, err
}

// desk serves what people do about alerts.
type desk struct {
	log alertLog
	now func() time.Time
	zap *zap.Logger
}

func (d *desk) unavailable(w http.ResponseWriter, err error) {
	d.zap.Error("request about alerts not served", zap.Error(err))
	w.Header().Set("Retry-After", "2")
	service.Problem(w, http.StatusServiceUnavailable, "unavailable", "the alerts cannot be read or marked now; try again")
}

// alert finds the alert of the path among those that the caller may see. It answers
// errors itself.
func (d *desk) alert(w http.ResponseWriter, r *http.Request) (AlertShown, bool) {
	c, _ := service.Caller(r.Context())
	tenant, err := service.TenantFilter(r, c)
	if err != nil {
		service.Problem(w, http.StatusForbidden, events.Code(err), err.Error())
		return AlertShown{}, false
	}
	a, ok, err := find(r.Context(), d.log, tenant, r.PathValue("id"))
	if err != nil {
		d.unavailable(w, err)
		return a, false
	}
	if !ok {
		service.Problem(w, http.StatusNotFound, "unknown_alert", "there is no such alert in a tenant you may see")
	}
	return a, ok
}

// show answers one alert as it was said last, with its state.
func (d *desk) show(w http.ResponseWriter, r *http.Request) {
	a, ok := d.alert(w, r)
	if !ok {
		return
	}
	if r.URL.Query().Get("format") == "ocsf" {
		service.JSON(w, http.StatusOK, a.ocsf(d.now()))
		return
	}
	service.JSON(w, http.StatusOK, a)
}

// read decodes a small body strictly. It answers errors itself.
func read(w http.ResponseWriter, r *http.Request, body any) bool {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		service.Problem(w, http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf("the body must be at most %d bytes", maxBody))
		return false
	}
	if len(b) == 0 {
		return true
	}
	if err := json.Unmarshal(b, body, json.RejectUnknownMembers(true)); err != nil {
		service.Problem(w, http.StatusBadRequest, "malformed_json", "the body must be one JSON object without unknown or doubled members: "+err.Error())
		return false
	}
	return true
}

// mayJudge refuses whom an alert is about, and who acts for another: nobody's agent says
// that what it does is expected. It answers errors itself.
func mayJudge(w http.ResponseWriter, r *http.Request, a AlertShown) (by string, ok bool) {
	c, _ := service.Caller(r.Context())
	switch {
	case c.Actor != nil:
		service.Problem(w, http.StatusForbidden, "delegated", "alerts are judged with one's own token, not with one that was delegated")
		return "", false
	case c.Tenant == a.Tenant && c.Subject == a.Identity:
		service.Problem(w, http.StatusForbidden, "own_alert", "the alert is about you: somebody else has to judge it")
		return "", false
	}
	return c.Tenant + "/" + c.Subject, true
}

// acknowledge makes alert.acknowledged durable. Body: {"note": "..."}, may be left out.
func (d *desk) acknowledge(w http.ResponseWriter, r *http.Request) {
	var body struct {
		Note string `json:"note"`
	}
	if !read(w, r, &body) {
		return
	}
	a, ok := d.alert(w, r)
	if !ok {
		return
	}
	by, ok := mayJudge(w, r, a)
	if !ok {
		return
	}
	p := events.AlertAcknowledged{Alert: a.Alert, Note: body.Note, By: by, AcknowledgedAt: d.now().UTC()}
	if len(p.Note) > 1000 {
		service.Problem(w, http.StatusUnprocessableEntity, "invalid_note", "note must be at most 1000 bytes")
		return
	}
	if d.state(w, r, a.Tenant, p) {
		service.JSON(w, http.StatusOK, p)
	}
}

// expect makes alert.expected durable. Body: {"for_seconds": n, "reason": "...",
// "any_value": false}; for_seconds 0 ends an expectation.
func (d *desk) expect(w http.ResponseWriter, r *http.Request) {
	var body struct {
		ForSeconds int64  `json:"for_seconds"`
		Reason     string `json:"reason"`
		AnyValue   bool   `json:"any_value"`
	}
	if !read(w, r, &body) {
		return
	}
	switch {
	case body.Reason == "" || len(body.Reason) > 1000:
		service.Problem(w, http.StatusUnprocessableEntity, "invalid_reason", "say why in reason, in 1 to 1000 bytes")
		return
	case body.ForSeconds < 0 || body.ForSeconds > int64(MaxExpectation/time.Second):
		service.Problem(w, http.StatusUnprocessableEntity, "invalid_duration", "for_seconds must be 1 to 7776000 (90 days), or 0 to end an expectation: what is usual for longer belongs into the registration")
		return
	}
	a, ok := d.alert(w, r)
	if !ok {
		return
	}
	by, ok := mayJudge(w, r, a)
	if !ok {
		return
	}
	now := d.now().UTC()
	p := events.AlertExpected{Alert: a.Alert, Detector: a.Detector, Identity: a.Identity, Value: a.Value, AnyValue: body.AnyValue,
		Severity: a.Severity, Until: now.Add(time.Duration(body.ForSeconds) * time.Second), Reason: body.Reason, By: by, ExpectedAt: now}
	if d.state(w, r, a.Tenant, p) {
		service.JSON(w, http.StatusOK, p)
	}
}

// state appends a fact. It answers errors itself.
func (d *desk) state(w http.ResponseWriter, r *http.Request, tenant string, p events.Payload) bool {
	e, err := events.New(events.Origin{Source: source, Tenant: tenant, Time: d.now()}, p)
	if err == nil {
		err = events.Validate(e)
	}
	if err != nil {
		service.Problem(w, http.StatusUnprocessableEntity, events.Code(err), "what was given cannot be recorded: "+err.Error())
		return false
	}
	if _, err := d.log.Append(r.Context(), bus.Batch{Events: []events.Event{e}}); err != nil {
		d.unavailable(w, err)
		return false
	}
	return true
}

// expectations answers what is or was expected, the newest first, with what it suppressed.
func (d *desk) expectations(w http.ResponseWriter, r *http.Request) {
	c, _ := service.Caller(r.Context())
	tenant, err := service.TenantFilter(r, c)
	if err != nil {
		service.Problem(w, http.StatusForbidden, events.Code(err), err.Error())
		return
	}
	st, err := states(r.Context(), d.log, tenant, "")
	if err != nil {
		d.unavailable(w, err)
		return
	}
	byKey := map[string]*Expectation{}
	for key, s := range st {
		if s.Expected != nil {
			byKey[key] = &Expectation{AlertExpected: *s.Expected, Tenant: key[:len(key)-len(s.Expected.Alert)-1],
				InForce: d.now().Before(s.Expected.Until), Suppressed: []events.AlertSuppressed{}}
		}
	}
	if tenant == "" {
		tenant = "*"
	}
	for s, err := range d.log.Read(r.Context(), bus.StreamLog, events.LogSubject(tenant, "alert", "suppressed", "*"), 1) {
		if err != nil {
			d.unavailable(w, err)
			return
		}
		p, err := events.As[events.AlertSuppressed](s.Event)
		if x := byKey[events.Tenant(s.Event)+"/"+p.Expected]; err == nil && x != nil {
			x.Count++
			if x.Suppressed = append(x.Suppressed, p); len(x.Suppressed) > 100 {
				x.Suppressed = slices.Clone(x.Suppressed[1:])
			}
		}
	}
	out := []Expectation{}
	for _, x := range byKey {
		out = append(out, *x)
	}
	slices.SortFunc(out, func(a, b Expectation) int {
		return cmp.Or(b.ExpectedAt.Compare(a.ExpectedAt), cmp.Compare(a.Alert, b.Alert))
	})
	service.JSON(w, http.StatusOK, map[string]any{"expectations": out})
}

// clipped bounds what an answer repeats of its input.
func clipped(s string) string { return detect.Clip(s, 40) }
