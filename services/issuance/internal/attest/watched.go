package attest

import (
	"context"
	"os"
	"sync"
)

// watched is a file that is worth reading again as soon as it has changed.
type watched struct {
	path string

	mu   sync.Mutex
	seen os.FileInfo // when it was read last; nil when it could not be
}

func (w *watched) changed() bool {
	now, err := os.Stat(w.path)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil || w.seen == nil {
		return (err != nil) != (w.seen == nil)
	}
	return !os.SameFile(now, w.seen) || !now.ModTime().Equal(w.seen.ModTime()) || now.Size() != w.seen.Size()
}

func (w *watched) read(context.Context) ([]byte, error) {
	// Looked at before it is read: what is written in between is noticed next time.
	info, err := os.Stat(w.path)
	w.mu.Lock()
	w.seen = info
	w.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return readFile(w.path)
}
