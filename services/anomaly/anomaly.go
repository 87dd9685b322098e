// Package anomaly is the detection service: it judges every use of an identity and
// every lifecycle fact on event time, and states what it concludes as alerts, risk
// levels and, when the operator allows it, requests for revocation. Its insides are
// under internal/; the composition of processes imports New.
package anomaly

import (
	"context"
	"fmt"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/detect"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/engine"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// source is the CloudEvents source of what the service states.
const source = "/lanyard/anomaly"

// Detector documents one detector: what it catches, from which fields, how, with
// which thresholds, and what it may ask for.
type Detector = detect.Info

// Catalog lists the detectors, in the order of their ids.
func Catalog() []Detector { return detect.Catalog() }

// watcher is the service's state: one engine, replaced when the process takes over.
type watcher struct {
	env      service.Env
	engine   holder
	expected expectations
	rules    rulebook
	alerts   *prometheus.CounterVec
}

// New builds the service. It is exclusive: one process at a time judges, because the
// state is in its memory; the others stand by and rebuild it when they take over.
func New(env service.Env) (service.Service, error) {
	for _, id := range env.Config.Anomaly.Disabled {
		if _, ok := detect.InfoOf(id); !ok {
			return service.Service{}, fmt.Errorf("read anomaly.disabled: %q is no detector", id)
		}
	}
	w := &watcher{env: env}
	if err := w.rules.open(env.Config.Anomaly.Rules, env.Now); err != nil {
		return service.Service{}, err
	}
	w.engine.set(w.fresh())
	w.alerts = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "lanyard_anomaly_alerts_total", Help: "Alerts raised, by detector and severity.",
	}, []string{"detector", "severity"})
	identities := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "lanyard_anomaly_identities", Help: "Identities whose behaviour is remembered.",
	}, func() float64 { return float64(w.engine.get().Stats().Identities) })
	if env.Metrics != nil {
		for _, c := range []prometheus.Collector{w.alerts, identities} {
			if err := env.Metrics.Register(c); err != nil {
				return service.Service{}, fmt.Errorf("register metrics: %w", err)
			}
		}
	}
	return service.Service{
		Name:      "anomaly",
		Handlers:  w.handlers(),
		Exclusive: true,
		OnOwn:     w.own,
		Tasks:     []service.Task{{Name: "rules", Run: w.follow}},
		Publishes: []string{events.TypeAlertAcknowledged, events.TypeAlertExpected},
		HTTP:      w.routes(),
	}, nil
}

func (w *watcher) fresh() *engine.Engine {
	return engine.New(engine.Options{
		Disabled:   w.env.Config.Anomaly.Disabled,
		AutoRevoke: w.env.Config.Anomaly.AutoRevoke,
		MaxDepth:   w.env.Config.Issuance.MaxDepth,
		Expected:   w.expected.of,
	})
}

// judges lists the types that the engine learns from, with the part of the subject
// space they come from. It is a read-only table.
var judges = []struct {
	eventType string
	alerts    bool // it may lead to events
}{
	{events.TypeIdentityRegistered, false},
	{events.TypeIdentityRevoked, true},
	{events.TypeIdentityFrozen, true},
	{events.TypeIdentityRetired, true},
	{events.TypeIdentityReinstated, false},
	{events.TypeOwnerDeparted, false},
	{events.TypeTrustDeclared, false},
	{events.TypeDelegationCreated, true},
	{events.TypeRevocationAccepted, true},
	{events.TypeRevocationLifted, false},
	{events.TypeRotationPrepared, false},
	{events.TypeRotationActivated, false},
	{events.TypeToolCalled, true},
	{events.TypeAPICalled, true},
	{events.TypeTokenExchanged, true},
	{events.TypeSecretExposed, true},
	{events.TypeAlertExpected, false},
}

func (w *watcher) handlers() []bus.Handler {
	var out []bus.Handler
	for _, j := range judges {
		h := bus.Handler{Type: j.eventType, Do: w.handle}
		if j.alerts {
			h.Emits = []string{events.TypeAnomalyDetected, events.TypeRiskChanged, events.TypeRevocationRequested, events.TypeAlertSuppressed}
		}
		out = append(out, h)
	}
	return out
}

// handle judges one event and makes the events that follow from it.
func (w *watcher) handle(_ context.Context, cause events.Event) ([]events.Event, error) {
	out, err := w.apply(w.engine.get(), cause)
	if err != nil {
		return nil, bus.Permanent(err)
	}
	var es []events.Event
	for _, o := range out {
		e, err := events.New(events.Origin{Source: source, Tenant: o.Tenant, Time: o.Time, Cause: &cause, ID: o.ID}, o.Payload)
		if err != nil {
			return nil, bus.Permanent(err)
		}
		es = append(es, e)
		if a, ok := o.Payload.(events.AnomalyDetected); ok {
			w.alerts.WithLabelValues(a.Detector, string(a.Severity)).Inc()
			w.env.Log.Info("anomaly detected", zap.String("detector", a.Detector), zap.String("severity", string(a.Severity)),
				zap.String("tenant", o.Tenant), zap.String("subject", a.Identity), zap.String("alert", a.Alert), zap.String("causationid", cause.ID()))
		}
	}
	return es, nil
}
