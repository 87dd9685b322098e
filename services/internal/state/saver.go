package state

import (
	"context"

	"github.com/redis/go-redis/v9"
)

const (
	saverQueue = 1024
	saverBatch = 128
	entityLife = 24 * 60 * 60 // seconds an unused fold stays in Redis
)

// saver writes folds to Redis behind the decisions: a fold that is not written is
// only folded again.
type saver struct {
	store *Store
	queue chan save
}

type save struct {
	key     string
	fold    fold
	replace string       // id of a fold that does not fit the log and may be overwritten
	flush   chan<- error // tests: report when everything before is written
}

func newSaver(s *Store) *saver { return &saver{store: s, queue: make(chan save, saverQueue)} }

// add queues a fold; when the queue is full it is dropped and false returned.
func (w *saver) add(s save) bool {
	select {
	case w.queue <- s:
		return true
	default:
		w.store.metrics.dropped.Inc()
		return false
	}
}

func (w *saver) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case s := <-w.queue:
			batch := []save{s}
			for len(batch) < saverBatch && s.flush == nil {
				select {
				case s = <-w.queue:
					batch = append(batch, s)
					continue
				default:
				}
				break
			}
			w.write(ctx, batch)
		}
	}
}

func (w *saver) write(ctx context.Context, batch []save) {
	flush := batch[len(batch)-1].flush // only the last one of a batch can be one
	if flush != nil {
		batch = batch[:len(batch)-1]
	}
	err := w.store.try(ctx, func(ctx context.Context) error {
		// Eval, not EvalSha: a pipeline cannot mend a script that the server forgot.
		_, err := w.store.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, s := range batch {
				w.store.scripts.save.Eval(ctx, p, []string{s.key},
					s.fold.sequence, s.fold.id, []byte(s.fold.state), entityLife, s.replace)
			}
			return nil
		})
		return err
	})
	if flush != nil {
		flush <- err
	}
}
