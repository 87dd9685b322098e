package bus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/synadia-io/orbit.go/jetstreamext"
)

// SequenceAt is the sequence of the first message that matches filter and was stored at
// t or later, 0 when there is none. Read from there sees everything since t.
func (c *Conn) SequenceAt(ctx context.Context, stream, filter string, t time.Time) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	msgs, err := jetstreamext.GetBatch(ctx, c.js, stream, 1, jetstreamext.GetBatchStartTime(t), jetstreamext.GetBatchSubject(filter))
	if err != nil {
		return 0, fmt.Errorf("find %s at %s: %w", stream, t.Format(time.RFC3339), err)
	}
	for m, err := range msgs {
		switch {
		case errors.Is(err, jetstreamext.ErrNoMessages):
			return 0, nil
		case err != nil:
			return 0, fmt.Errorf("find %s at %s: %w", stream, t.Format(time.RFC3339), err)
		}
		return m.Sequence, nil
	}
	return 0, ctx.Err()
}
