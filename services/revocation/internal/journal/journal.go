// Package journal keeps the revokes this process accepted in an append-only file
// of its own, hash-chained and synced, so that a kill feed that was cut or rewound
// by its server is noticed and mended. Only revocation imports it.
package journal

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// What can be wrong with a journal.
var (
	// ErrBroken: a line does not follow from the one before it. Someone or
	// something changed the file; nothing in it can be relied on any more.
	ErrBroken = errors.New("the journal's hash chain is broken")
	// ErrFailed: an earlier write or sync failed. What the file holds is not known
	// until it is read again, so nothing more is promised (a sync that failed once
	// may report success later without having written).
	ErrFailed = errors.New("the journal can no longer be written")
)

// Stage of an entry.
type Stage string

// The stages of an entry, in order.
const (
	StageIntent Stage = "intent" // about to be published
	StageStored Stage = "stored" // in the kill feed at Sequence
)

// Record is one line.
type Record struct {
	Stage      Stage       `json:"stage"`
	Revocation string      `json:"revocation"`
	Tenant     string      `json:"tenant"`
	Handle     string      `json:"handle"`
	Mode       events.Mode `json:"mode"`
	At         time.Time   `json:"at"`
	Keep       time.Time   `json:"keep"` // the kill entry may be gone after this
	Epoch      uint64      `json:"epoch"`
	Sequence   uint64      `json:"sequence,omitempty"` // stored: in the kill feed; intent: 0
	Entry      string      `json:"entry,omitempty"`    // intent: the signed kill entry
}

// Journal is an open file. It is safe for concurrent use; concurrent Appends share
// one sync.
type Journal struct {
	path string
	file *os.File

	mu      sync.Mutex
	head    [sha256.Size]byte
	pending []*write
	notes   []*write // nobody waits for them
	busy    bool
	failed  error
}

type write struct {
	record Record
	done   chan error // takes one value without a reader
}

// Open opens or makes the file, checks its chain and returns its records, oldest
// first. A last line without an end, left by a crash in the middle of a write, was
// never promised to anybody and is cut off. The error wraps ErrBroken when the
// chain does not hold.
func Open(path string) (*Journal, []Record, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, nil, fmt.Errorf("make directory of journal: %w", err)
	}
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open journal: %w", err)
	}
	j := &Journal{path: path, file: f}
	records, end, err := j.read(f)
	if err == nil {
		err = f.Truncate(end)
	}
	if err == nil {
		_, err = f.Seek(end, io.SeekStart)
	}
	if err == nil {
		err = errors.Join(f.Sync(), syncDir(filepath.Dir(path)))
	}
	if err != nil {
		_ = f.Close()
		return nil, nil, fmt.Errorf("read journal %s: %w", path, err)
	}
	return j, records, nil
}

// read checks the chain and returns the records and the offset after the last
// whole line.
func (j *Journal) read(r io.Reader) ([]Record, int64, error) {
	var records []Record
	var end int64
	br := bufio.NewReaderSize(r, 1<<20)
	for n := 1; ; n++ {
		line, err := br.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return records, end, nil
		}
		if err != nil {
			return nil, 0, err
		}
		text, body, ok := bytes.Cut(line[:len(line)-1], []byte(" "))
		if !ok || string(text) != hex.EncodeToString(chain(j.head, body)) {
			return nil, 0, fmt.Errorf("line %d: %w; restore the file from a copy, or, after comparing it with the log, move it away", n, ErrBroken)
		}
		var rec Record
		if err := json.Unmarshal(body, &rec); err != nil {
			return nil, 0, fmt.Errorf("line %d: %w: %w", n, ErrBroken, err)
		}
		records = append(records, rec)
		copy(j.head[:], chain(j.head, body))
		end += int64(len(line))
	}
}

// chain is SHA-256 over the hash before and the line's body.
func chain(prev [sha256.Size]byte, body []byte) []byte {
	h := sha256.New()
	h.Write(prev[:])
	h.Write(body)
	return h.Sum(nil)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Append returns when rec is on disk. It does not stop waiting when ctx ends, as
// the line could no longer be taken back; ctx is looked at before.
func (j *Journal) Append(ctx context.Context, rec Record) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("append to journal: %w", err)
	}
	w := &write{record: rec, done: make(chan error, 1)}
	j.mu.Lock()
	j.pending = append(j.pending, w)
	j.lead()
	if err := <-w.done; err != nil {
		return fmt.Errorf("append to journal: %w", err)
	}
	return nil
}

// Note writes rec with the next Append or Flush. A crash before takes it along.
func (j *Journal) Note(rec Record) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.notes = append(j.notes, &write{record: rec, done: make(chan error, 1)})
}

// Flush returns when what was noted is on disk.
func (j *Journal) Flush() error {
	j.mu.Lock()
	if len(j.notes) == 0 {
		j.mu.Unlock()
		return nil
	}
	last := j.notes[len(j.notes)-1]
	j.pending, j.notes = append(j.pending, j.notes...), nil
	j.lead()
	if err := <-last.done; err != nil {
		return fmt.Errorf("flush journal: %w", err)
	}
	return nil
}

// lead writes what is pending unless somebody else does. j.mu is held, and let go.
func (j *Journal) lead() {
	first := !j.busy
	j.busy = true
	j.mu.Unlock()
	if first {
		j.drain()
	}
}

// drain writes what is pending, group by group, until nothing is.
func (j *Journal) drain() {
	for {
		j.mu.Lock()
		group := j.pending
		if len(group) > 0 {
			group = append(j.notes, group...)
			j.notes = nil
		}
		j.pending = nil
		if len(group) == 0 {
			j.busy = false
			j.mu.Unlock()
			return
		}
		err := j.failed
		j.mu.Unlock()
		if err == nil {
			err = j.write(group)
		}
		for _, w := range group {
			w.done <- err
		}
	}
}

// write writes one group and syncs it. Only the leader of Append calls it.
func (j *Journal) write(group []*write) error {
	head := j.head
	var b bytes.Buffer
	for _, w := range group {
		body, err := json.Marshal(w.record)
		if err != nil {
			return fmt.Errorf("encode record: %w", err)
		}
		sum := chain(head, body)
		copy(head[:], sum)
		b.WriteString(hex.EncodeToString(sum))
		b.WriteByte(' ')
		b.Write(body)
		b.WriteByte('\n')
	}
	_, err := j.file.Write(b.Bytes())
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		err = fmt.Errorf("%w: %w", ErrFailed, err)
		j.mu.Lock()
		j.failed = err
		j.mu.Unlock()
		return err
	}
	j.head = head
	return nil
}

// Close flushes and closes the file. Appends must have returned.
func (j *Journal) Close() error {
	if err := errors.Join(j.Flush(), j.file.Close()); err != nil {
		return fmt.Errorf("close journal: %w", err)
	}
	return nil
}

// Held is what the kill feed must hold of one handle, as the journal tells it.
type Held struct {
	Record        // the intent, with the signed entry
	Stored uint64 // its sequence in the kill feed; 0: a crash came before it was known
}

// Standing is the newest entry of each handle, in the order in which they were
// written, without those whose Keep has passed. What is known to be stored goes
// before what is only meant to be, and a stored revoke is never replaced.
func Standing(records []Record, now time.Time) []Held {
	type key struct {
		handle, revocation string
		mode               events.Mode
	}
	at, intents := map[string]int{}, map[key]Record{}
	var held []Held
	for _, r := range records {
		k := key{r.Handle, r.Revocation, r.Mode}
		i, ok := at[r.Handle]
		if r.Stage == StageIntent {
			intents[k] = r
		}
		switch {
		case r.Stage == StageIntent && !ok:
			at[r.Handle] = len(held)
			held = append(held, Held{Record: r})
		case !ok, held[i].Stored != 0 && held[i].Mode == events.ModeRevoke:
		case r.Stage == StageIntent:
			held[i] = Held{Record: r}
		default:
			if in, ok := intents[k]; ok {
				held[i] = Held{Record: in, Stored: r.Sequence}
			}
		}
	}
	live := held[:0]
	for _, h := range held {
		if now.Before(h.Keep) {
			live = append(live, h)
		}
	}
	return live
}

// Epoch is the highest epoch in records.
func Epoch(records []Record) uint64 {
	var e uint64
	for _, r := range records {
		e = max(e, r.Epoch)
	}
	return e
}
