package revocation

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"time"

	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/guard/natsfeed"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"go.uber.org/zap"
)

const (
	snapshotLook  = time.Minute      // how often it is looked whether one is due
	snapshotMin   = 5000             // handles from which on one is worth it
	snapshotAge   = 20 * time.Minute // after that there is a new one
	snapshotHead  = 50 * time.Minute // how long the server keeps a header
	snapshotParts = time.Hour        // how long the parts, which must outlive it
)

// holder is the process's own guard.
type holder interface {
	Status() guard.Status
	Snapshot() (guard.Snapshot, bool)
}

// snapshots publishes what the kill feed holds in a form that a guard which starts late
// reads in a moment. Nothing rests on it: a guard without one reads the feed.
type snapshots struct {
	signer token.Signer
	guard  holder
	now    func() time.Time
	store  func(ctx context.Context, name string, data []byte, ttl time.Duration) error
	rand   io.Reader
	log    *zap.Logger
	last   guard.Snapshot // without its handles
	count  int            // of the last one
}

func (r *revoker) snapshots(env service.Env) service.Task {
	s := &snapshots{signer: r.signer, guard: env.Guard, now: env.Now, store: env.Bus.Snapshot, rand: env.Rand, log: r.log}
	return service.Task{Name: "snapshots", Run: r.every(snapshotLook, s.publish)}
}

// due reports whether a snapshot of what the guard has now would help: it is large, and
// the last one is of another epoch or old, or the set has grown by a tenth since.
func (s *snapshots) due(g guard.Status, now time.Time) bool {
	switch {
	case !g.Fresh || g.Entries < snapshotMin || g.Sequence == s.last.Sequence && g.Epoch == s.last.Epoch:
		return false
	case s.count == 0, g.Epoch != s.last.Epoch, now.Sub(s.last.At) >= snapshotAge:
		return true
	}
	return g.Entries >= s.count+s.count/10
}

// publish stores a snapshot when one is due: the parts first, then the header that
// names them, so that a reader finds all or the one before.
func (s *snapshots) publish(ctx context.Context) error {
	if !s.due(s.guard.Status(), s.now()) {
		return nil
	}
	now, ok := s.guard.Snapshot()
	if !ok {
		return nil
	}
	var b [8]byte
	if _, err := io.ReadFull(s.rand, b[:]); err != nil {
		return fmt.Errorf("make id of snapshot: %w", err)
	}
	id := hex.EncodeToString(b[:])
	head, parts, err := guard.SealSnapshot(s.signer, id, now)
	if err != nil {
		return err
	}
	size := len(head)
	for n, p := range parts {
		if err := s.store(ctx, natsfeed.SnapshotPart(id, n), p, snapshotParts); err != nil {
			return err
		}
		size += len(p)
	}
	if err := s.store(ctx, natsfeed.SnapshotHead, head, snapshotHead); err != nil {
		return err
	}
	s.count = len(now.Dead)
	now.Dead, now.Frozen = nil, nil
	s.last = now
	s.log.Info("kill feed's snapshot published", zap.Int("handles", s.count), zap.Int("bytes", size), zap.Uint64("sequence", now.Sequence))
	return nil
}
