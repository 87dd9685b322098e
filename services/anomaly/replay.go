package anomaly

import (
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/detect"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/engine"
)

// What evaluation and benches need of detection without a bus: the engine that the
// service runs, its options and what it says. They are the same types, so what is
// measured is what runs.
type (
	// Engine judges activities and lifecycle facts one at a time.
	Engine = engine.Engine
	// EngineOptions are its options.
	EngineOptions = engine.Options
	// Thresholds are the limits of every detector.
	Thresholds = detect.Config
	// Meta is what it needs of an envelope.
	Meta = engine.Meta
	// Output is what it decides.
	Output = engine.Output
)

// NewEngine returns an engine that knows nothing yet.
func NewEngine(o EngineOptions) *Engine { return engine.New(o) }

// DefaultThresholds are the limits that the service runs with.
func DefaultThresholds() Thresholds { return detect.DefaultConfig() }

// Judge gives one event to an engine, as the service does. Types that detection does
// not use lead to nothing; an error means that the payload cannot be read.
func Judge(g *Engine, e events.Event) ([]Output, error) { return apply(g, e) }
