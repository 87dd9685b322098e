package bus

import (
	"github.com/ThreeDotsLabs/watermill"
	"go.uber.org/zap"
)

func (l wmLogger) fields(err error, f watermill.LogFields) []zap.Field {
	out := make([]zap.Field, 0, len(f)+1)
	for k, v := range f {
		if k == "not_sent_message" { // holds the event
			continue
		}
		out = append(out, zap.Any(k, v))
	}
	if err != nil {
		out = append(out, zap.Error(err))
	}
	return out
}

// Error implements watermill.LoggerAdapter.
func (l wmLogger) Error(msg string, err error, f watermill.LogFields) {
	l.log.Warn("router reported an error", append(l.fields(err, f), zap.String("router", msg))...)
}

// Info implements watermill.LoggerAdapter.
func (l wmLogger) Info(msg string, f watermill.LogFields) {
	l.log.Debug("router", append(l.fields(nil, f), zap.String("router", msg))...)
}

// Debug implements watermill.LoggerAdapter.
func (wmLogger) Debug(string, watermill.LogFields) {}

// Trace implements watermill.LoggerAdapter.
func (wmLogger) Trace(string, watermill.LogFields) {}

// With implements watermill.LoggerAdapter.
func (l wmLogger) With(f watermill.LogFields) watermill.LoggerAdapter {
	return wmLogger{l.log.With(l.fields(nil, f)...)}
}
