package state

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	errors    prometheus.Counter
	loads     *prometheus.CounterVec // entities, source
	conflicts *prometheus.CounterVec // entities
	mended    *prometheus.CounterVec // entities
	dropped   prometheus.Counter
	applied   *prometheus.CounterVec // view
	refused   *prometheus.CounterVec // view
	rebuilt   *prometheus.CounterVec // view
	position  *prometheus.GaugeVec   // view
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lanyard_state_redis_errors_total", Help: "Times that Redis did not serve and the log was used instead."}),
		loads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lanyard_state_loads_total", Help: "Entities loaded, by where the fold began: memory, redis or log."}, []string{"entities", "source"}),
		conflicts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lanyard_state_conflicts_total", Help: "Decisions made again because the log had moved on."}, []string{"entities"}),
		mended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lanyard_state_mended_total", Help: "Cached folds that did not fit the log and were thrown away."}, []string{"entities"}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "lanyard_state_writebacks_dropped_total", Help: "Folds not written to Redis because the writer was busy."}),
		applied: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lanyard_view_applied_total", Help: "Events applied to a view by this process."}, []string{"view"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lanyard_view_refused_total", Help: "Batches of which Redis refused a write."}, []string{"view"}),
		rebuilt: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "lanyard_view_rebuilt_total", Help: "Times that a view was cleared to be folded from the start."}, []string{"view"}),
		position: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "lanyard_view_sequence", Help: "Stream sequence up to which a view has been applied."}, []string{"view"}),
	}
	if r == nil {
		return m, nil
	}
	var err error
	m.errors, err = register(r, m.errors, err)
	m.loads, err = register(r, m.loads, err)
	m.conflicts, err = register(r, m.conflicts, err)
	m.mended, err = register(r, m.mended, err)
	m.dropped, err = register(r, m.dropped, err)
	m.applied, err = register(r, m.applied, err)
	m.refused, err = register(r, m.refused, err)
	m.rebuilt, err = register(r, m.rebuilt, err)
	m.position, err = register(r, m.position, err)
	return m, err
}

// register registers c, or returns the one that another store of this process has
// registered before.
func register[C prometheus.Collector](r prometheus.Registerer, c C, before error) (C, error) {
	if before != nil {
		return c, before
	}
	err := r.Register(c)
	if are := (prometheus.AlreadyRegisteredError{}); errors.As(err, &are) {
		if old, ok := are.ExistingCollector.(C); ok {
			return old, nil
		}
	}
	return c, err
}
