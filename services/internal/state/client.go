package state

import "github.com/redis/go-redis/v9"

// The Redis client's types under state's own names, so that views are written
// without importing the client.
type (
	// Pipe queues a view's writes, see View.Apply.
	Pipe = redis.Pipeliner
	// Client reads what views keep, see Store.Client.
	Client = redis.UniversalClient
)

// ErrNoKey is what a read answers when Redis has no such key.
const ErrNoKey = redis.Nil
