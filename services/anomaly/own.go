package anomaly

import (
	"context"
	"fmt"
	"iter"

	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"go.uber.org/zap"
)

// reader is what taking over needs of the bus.
type reader interface {
	Read(ctx context.Context, stream, filter string, from uint64) iter.Seq2[bus.Stored, error]
}

// own rebuilds the state from the streams, in stored order, with emission off.
func (w *watcher) own(ctx context.Context, acked map[string]uint64) error {
	return w.rebuild(ctx, w.env.Bus, acked)
}

// rebuild reads what earlier owners acknowledged; the bus delivers the rest again. The
// log goes first: what detectors need of it carries its event time, so how the two
// streams were interleaved does not matter.
func (w *watcher) rebuild(ctx context.Context, r reader, acked map[string]uint64) error {
	g := w.fresh()
	w.expected.clear()
	w.rules.reset()
	for _, s := range []struct{ stream, filter string }{
		{bus.StreamLog, "nhi.log.>"},
		{bus.StreamIn, "nhi.in.>"},
	} {
		n := 0
		if acked[s.stream] == 0 {
			continue
		}
		for stored, err := range r.Read(ctx, s.stream, s.filter, 1) {
			if err != nil {
				return fmt.Errorf("rebuild detection from %s: %w", s.stream, err)
			}
			if stored.Sequence > acked[s.stream] {
				break
			}
			if _, err := w.apply(g, stored.Event); err != nil {
				// The handler refused it too: it is a dead letter.
				w.env.Log.Warn("event skipped while rebuilding", zap.String("stream", s.stream), zap.Uint64("sequence", stored.Sequence), zap.Error(err))
			}
			n++
		}
		w.env.Log.Info("detection state rebuilt", zap.String("stream", s.stream), zap.Int("events", n), zap.Uint64("acked", acked[s.stream]))
	}
	w.engine.set(g)
	return nil
}
