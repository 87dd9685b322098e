package guard

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// persisted is what a guard must not forget over a restart besides its journal: how
// far it had come, so that it cannot be served an older feed, and the key of its
// receipts.
type persisted struct {
	Point    string `json:"point"`
	Epoch    uint64 `json:"epoch"`
	Sequence uint64 `json:"sequence"` // applied up to here
	Answered uint64 `json:"answered"` // every entry up to here has its receipt delivered
	Seed     []byte `json:"seed"`     // RFC 8032 private key of the receipts
}

func newPersisted(point string) (persisted, error) {
	p := persisted{Point: point, Seed: make([]byte, ed25519.SeedSize)}
	if _, err := rand.Read(p.Seed); err != nil {
		return p, fmt.Errorf("make receipt key: %w", err)
	}
	return p, nil
}

// line is one entry of the journal: signed as it came, with its place in the feed.
type line struct {
	epoch, seq uint64
	data       []byte
}

// keeper keeps a guard's state over restarts. Its methods are not called at once.
type keeper interface {
	// load reads what is kept; fresh reports that nothing was and that it was made.
	load(point string) (p persisted, lines []line, fresh bool, err error)
	// save and record return when what they were given is durable.
	save(persisted) error
	record([]line) error
	// compact drops the lines that live says are not needed any more.
	compact(live func(line) bool) error
}

// memory keeps the state for as long as it lives itself.
type memory struct {
	p     *persisted
	lines []line
}

func (m *memory) load(point string) (persisted, []line, bool, error) {
	if m.p != nil {
		return *m.p, m.lines, false, nil
	}
	p, err := newPersisted(point)
	return p, nil, true, err
}

func (m *memory) save(p persisted) error { m.p = &p; return nil }

func (m *memory) record(lines []line) error {
	if m.p != nil { // with nothing to restart from, nothing is recorded
		m.lines = append(m.lines, lines...)
	}
	return nil
}

func (m *memory) compact(live func(line) bool) error {
	var kept []line
	for _, l := range m.lines {
		if live(l) {
			kept = append(kept, l)
		}
	}
	m.lines = kept
	return nil
}

// forgetful is the memory of a guard without a state file.
type forgetful struct{ memory }

func (*forgetful) save(persisted) error { return nil }

// files keeps the state in a file and the journal beside it.
type files struct {
	path    string
	journal *os.File // opened by load
}

func (f *files) journalPath() string { return f.path + ".journal" }

func (f *files) load(point string) (p persisted, lines []line, fresh bool, err error) {
	b, err := os.ReadFile(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		fresh = true
		if p, err = newPersisted(point); err == nil {
			err = f.save(p)
		}
	case err == nil:
		err = json.Unmarshal(b, &p)
		// What is not understood is refused: to start without it would be to forget
		// what was answered for.
		if err == nil && (p.Point != point || len(p.Seed) != ed25519.SeedSize) {
			err = fmt.Errorf("it is not the state of point %q", point)
		}
	}
	if err != nil {
		return p, nil, false, fmt.Errorf("read guard state %s: %w", f.path, err)
	}
	lines, err = f.open()
	if err != nil {
		return p, nil, false, fmt.Errorf("read guard journal %s: %w", f.journalPath(), err)
	}
	return p, lines, fresh, nil
}

// open reads the journal and opens it for appending. A last line without its end was
// being written when the guard stopped; nothing was answered on its strength, so it
// is cut off.
func (f *files) open() ([]line, error) {
	j, err := os.OpenFile(f.journalPath(), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(f.journalPath())
	if err == nil {
		whole := int64(bytes.LastIndexByte(b, '\n') + 1)
		b = b[:whole]
		if err = j.Truncate(whole); err == nil {
			_, err = j.Seek(whole, 0)
		}
	}
	var lines []line
	if err == nil {
		lines, err = parseJournal(b)
	}
	if err != nil {
		return nil, errors.Join(err, j.Close())
	}
	if f.journal != nil {
		_ = f.journal.Close() // replaced by compact; every write to it was synced
	}
	f.journal = j
	return lines, nil
}

// parseJournal reads lines of "epoch sequence JWS".
func parseJournal(b []byte) ([]line, error) {
	var lines []line
	for raw := range bytes.Lines(b) {
		epoch, rest, ok1 := bytes.Cut(bytes.TrimSuffix(raw, []byte("\n")), []byte(" "))
		seq, data, ok2 := bytes.Cut(rest, []byte(" "))
		e, err1 := strconv.ParseUint(string(epoch), 10, 64)
		s, err2 := strconv.ParseUint(string(seq), 10, 64)
		if err := errors.Join(err1, err2); err != nil || !ok1 || !ok2 {
			return nil, fmt.Errorf("line %d is damaged", len(lines)+1)
		}
		lines = append(lines, line{e, s, bytes.Clone(data)})
	}
	return lines, nil
}

func formatJournal(lines []line) []byte {
	var b []byte
	for _, l := range lines {
		b = strconv.AppendUint(b, l.epoch, 10)
		b = append(b, ' ')
		b = strconv.AppendUint(b, l.seq, 10)
		b = append(b, ' ')
		b = append(b, l.data...)
		b = append(b, '\n')
	}
	return b
}

// record appends to the journal. After a failed write it is opened anew, so that
// half a line cannot stand before a whole one.
func (f *files) record(lines []line) error {
	if len(lines) == 0 {
		return nil
	}
	_, err := f.journal.Write(formatJournal(lines))
	if err == nil {
		err = f.journal.Sync()
	}
	if err != nil {
		_, again := f.open()
		return errors.Join(fmt.Errorf("write guard journal: %w", err), again)
	}
	return nil
}

func (f *files) compact(live func(line) bool) error {
	b, err := os.ReadFile(f.journalPath())
	if err != nil {
		return fmt.Errorf("compact guard journal: %w", err)
	}
	lines, err := parseJournal(b)
	if err != nil {
		return fmt.Errorf("compact guard journal: %w", err)
	}
	var kept []line
	for _, l := range lines {
		if live(l) {
			kept = append(kept, l)
		}
	}
	if err := replace(f.journalPath(), formatJournal(kept)); err != nil {
		return fmt.Errorf("compact guard journal: %w", err)
	}
	_, err = f.open()
	return err
}

func (f *files) save(p persisted) error {
	b, err := json.Marshal(p)
	if err == nil {
		err = replace(f.path, b)
	}
	if err != nil {
		return fmt.Errorf("save guard state: %w", err)
	}
	return nil
}

// replace writes a file atomically and durably, readable by its owner only.
func replace(path string, b []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*.tmp")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// restore applies the journal. Its entries are verified like those of the feed: the
// file is no way around the signature.
func (g *Guard) restore(p *persisted, lines []line, now time.Time) error {
	for i, l := range lines {
		e, err := OpenEntry(l.data, g.cfg.FeedKey)
		if err != nil {
			return fmt.Errorf("read guard journal: line %d: %w", i+1, err)
		}
		if l.epoch == p.Epoch {
			p.Sequence = max(p.Sequence, l.seq)
		}
		if !now.After(e.Keep) {
			g.set.apply(e)
		}
	}
	return nil
}
