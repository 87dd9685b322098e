package journal

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// StageCheckpoint is the first line of a journal that was compacted: Entry is the hash
// that the journal before ended with, Epoch its highest epoch, Sequence how many lines
// were left out.
const StageCheckpoint Stage = "checkpoint"

// compactFrom is the size in bytes below which a journal is left alone.
const compactFrom = 1 << 20

// Compact leaves out what no kill feed need hold any more at now: handles all of whose
// entries are past their Keep. It does nothing while the journal is small or most of
// it is still of use. Appends wait meanwhile. What was there is replaced in one step:
// after a crash there is the old file or the new one, each with a whole chain.
func (j *Journal) Compact(now time.Time) error {
	j.mu.Lock()
	if j.busy || j.failed != nil {
		j.mu.Unlock()
		return nil // the next time will do
	}
	j.busy = true
	j.mu.Unlock()
	defer j.drain() // what came meanwhile
	if err := j.compact(now, compactFrom); err != nil {
		return fmt.Errorf("compact journal: %w", err)
	}
	return nil
}

// compact is Compact for whoever leads.
func (j *Journal) compact(now time.Time, from int64) error {
	st, err := j.file.Stat()
	if err != nil {
		return err
	}
	if st.Size() < from {
		return nil
	}
	old := &Journal{}
	records, _, err := old.read(io.NewSectionReader(j.file, 0, st.Size()))
	if err != nil {
		return err
	}
	if old.head != j.head {
		return fmt.Errorf("%w: it does not end with what was written last", ErrBroken)
	}
	kept := useful(records, now)
	if 2*len(kept) > len(records) {
		return nil
	}
	first := Record{Stage: StageCheckpoint, At: now.UTC(), Epoch: Epoch(records), Sequence: uint64(len(records) - len(kept)), Entry: hex.EncodeToString(old.head[:])}
	next, err := rewrite(j.path, append([]Record{first}, kept...))
	if err != nil {
		return err
	}
	closed := j.file.Close()
	j.file, j.head = next.file, next.head
	if err := errors.Join(closed, syncDir(filepath.Dir(j.path))); err != nil {
		return err // it is complete as it is, and what follows is synced on its own
	}
	return nil
}

// rewrite puts a journal of these records in the place of path.
func rewrite(path string, records []Record) (*Journal, error) {
	f, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	next := &Journal{file: f}
	group := make([]*write, len(records))
	for i, r := range records {
		group[i] = &write{record: r}
	}
	if err := next.write(group); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return next, nil
}

// useful are the records of handles of which any entry must be kept at now: a lift goes
// no sooner than the freeze that it ends.
func useful(records []Record, now time.Time) []Record {
	keep := map[string]bool{}
	for _, r := range records {
		if now.Before(r.Keep) {
			keep[r.Handle] = true
		}
	}
	var out []Record
	for _, r := range records {
		if r.Stage != StageCheckpoint && keep[r.Handle] {
			out = append(out, r)
		}
	}
	return out
}
