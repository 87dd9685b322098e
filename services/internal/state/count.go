package state

import (
	"context"
	"fmt"
	"time"
)

const countPrefix = keyPrefix + "count:"

// Count counts id up by one, over all processes on this Redis, and returns the count;
// what was not counted for ttl is forgotten. What is said of Once holds for it too: a
// Redis that was emptied begins again, and while Redis does not answer the error says so.
func (s *Store) Count(ctx context.Context, space, id string, ttl time.Duration) (int64, error) {
	key := hashed(countPrefix, space, id)
	short, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	p := s.client.TxPipeline()
	n := p.Incr(short, key)
	p.Expire(short, key, ttl)
	if _, err := p.Exec(short); err != nil {
		return 0, fmt.Errorf("count %s: %w", space, err)
	}
	return n.Val(), nil
}
