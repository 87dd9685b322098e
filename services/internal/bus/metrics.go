package bus

import (
	"errors"
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of handlers. Labels are service and type.
type metrics struct {
	handled, redelivered, dead *prometheus.CounterVec
	seconds                    *prometheus.HistogramVec
}

// handlerMetrics are the series of one handler.
type handlerMetrics struct {
	handled, redelivered, dead prometheus.Counter
	seconds                    prometheus.Observer
}

func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	labels := []string{"service", "type"}
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		handled:     counter("lanyard_bus_handled_total", "Events handled and acknowledged."),
		redelivered: counter("lanyard_bus_redelivered_total", "Deliveries of an event beyond its first."),
		dead:        counter("lanyard_bus_dead_total", "Messages put into the dead letters."),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "lanyard_bus_seconds",
			Help: "Duration of a handler call.", Buckets: prometheus.ExponentialBuckets(0.0001, 4, 9)}, labels),
	}
	if reg == nil {
		return m, nil
	}
	for _, v := range []**prometheus.CounterVec{&m.handled, &m.redelivered, &m.dead} {
		c, err := register(reg, *v)
		if err != nil {
			return nil, err
		}
		*v = c
	}
	h, err := register(reg, m.seconds)
	if err != nil {
		return nil, err
	}
	m.seconds = h
	return m, nil
}

// register registers c, or finds what another connection of this process registered.
func register[C prometheus.Collector](reg prometheus.Registerer, c C) (C, error) {
	err := reg.Register(c)
	var have prometheus.AlreadyRegisteredError
	if errors.As(err, &have) {
		if old, ok := have.ExistingCollector.(C); ok {
			return old, nil
		}
	}
	if err != nil {
		return c, fmt.Errorf("register metrics: %w", err)
	}
	return c, nil
}

func (m *metrics) of(service, eventType string) handlerMetrics {
	return handlerMetrics{
		handled: m.handled.WithLabelValues(service, eventType), redelivered: m.redelivered.WithLabelValues(service, eventType),
		dead: m.dead.WithLabelValues(service, eventType), seconds: m.seconds.WithLabelValues(service, eventType),
	}
}
