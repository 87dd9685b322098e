package grant

import (
	"context"
	"time"
)

// widen counts the exchanges of one credential, over all processes, and refuses more than
// MaxWidth of them; policies may allow fewer (context.width). Refused exchanges count too:
// who keeps asking is not given the next one that succeeds.
func (m *Minter) widen(ctx context.Context, d *decision) *Error {
	left := time.Unix(d.parent.Claims.Expires, 0).Sub(d.now)
	n, err := m.Count(ctx, "exchange", d.parent.Claims.ID, left+time.Second)
	switch {
	case err != nil:
		return unavailable(err, "the exchanges of the subject_token cannot be counted")
	case n > int64(m.MaxWidth):
		return refuse(InvalidGrant, "the subject_token has been exchanged %d times, which is as often as it may", m.MaxWidth)
	}
	d.width = n
	return nil
}
