package state

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"time"
)

const oncePrefix = keyPrefix + "once:"

// Once reports whether id is seen for the first time within the last ttl by any process
// on this Redis; space keeps uses apart. It is the one thing here that the log cannot
// restore: a Redis that was emptied has forgotten what it saw, so ids must die by
// themselves soon. While Redis does not answer the error says so, and whoever asks must
// refuse.
func (s *Store) Once(ctx context.Context, space, id string, ttl time.Duration) (bool, error) {
	short, cancel := context.WithTimeout(ctx, openPatience)
	defer cancel()
	first, err := s.client.SetNX(short, hashed(oncePrefix, space, id), "", ttl).Result()
	if err != nil {
		return false, fmt.Errorf("remember %s: %w", space, err)
	}
	return first, nil
}

// hashed is the key of an id of any size, which may be secret.
func hashed(prefix, space, id string) string {
	sum := sha256.Sum256([]byte(id))
	return prefix + space + ":" + base64.RawURLEncoding.EncodeToString(sum[:])
}
