// Package inbox takes signed kill commands from a directory. A command is verified,
// put on this process's own disk, and only then taken out of the directory: from
// there on it is carried out, whatever is down at the moment. Only revocation imports
// it.
package inbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/killcommand"
)

// perLook is how many files one look takes.
const perLook = 100

// Inbox is two directories. Whoever may write to dir can hand in commands; store is
// the process's own and holds those that it promised to carry out. One goroutine uses
// it.
type Inbox struct {
	dir, store string
	open       func(raw string) (killcommand.Command, error)
	now        func() time.Time
}

// Command is one that was taken.
type Command struct {
	Name string    // of its file, without suffix
	At   time.Time // when it was taken
	JWS  string
	killcommand.Command
}

// record is a Command on disk. What it says was verified when it was taken.
type record struct {
	Name    string              `json:"name"`
	At      time.Time           `json:"at"`
	JWS     string              `json:"jws"`
	Command killcommand.Command `json:"command"`
}

// Open makes the directories where they are missing. open verifies a command.
func Open(dir, store string, open func(raw string) (killcommand.Command, error), now func() time.Time) (*Inbox, error) {
	for _, d := range []string{dir, store} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("make directory of kill commands: %w", err)
		}
	}
	return &Inbox{dir: dir, store: store, open: open, now: now}, nil
}

// Take verifies the files that lie in the directory. Good ones are put into the
// store, bad ones are refused.
func (b *Inbox) Take() error {
	names, err := list(b.dir, killcommand.Suffix)
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range names {
		if err := b.take(name); err != nil {
			errs = append(errs, fmt.Errorf("take kill command %s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func (b *Inbox) take(name string) error {
	path := filepath.Join(b.dir, name+killcommand.Suffix)
	raw, err := read(path)
	if err != nil {
		return err
	}
	c, err := b.open(raw)
	if err != nil {
		return errors.Join(b.write(name, killcommand.Result{State: killcommand.Refused, Code: "invalid_command", Reason: err.Error(), At: b.now().UTC()}), remove(path))
	}
	text, err := json.Marshal(record{name, b.now().UTC(), raw, c})
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if err := durable(b.stored(raw), text); err != nil {
		return err
	}
	return remove(path)
}

// stored is where a command is kept: under its own name, so that another one whose
// file is called the same does not take its place.
func (b *Inbox) stored(jws string) string {
	return filepath.Join(b.store, token.HashText(jws)+".json")
}

// Waiting is what was taken and is not done, oldest first.
func (b *Inbox) Waiting() ([]Command, error) {
	names, err := list(b.store, ".json")
	if err != nil {
		return nil, err
	}
	var out []Command
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join(b.store, name+".json"))
		if err != nil {
			return nil, fmt.Errorf("read kill command: %w", err)
		}
		var r record
		if err := json.Unmarshal(text, &r); err != nil {
			return nil, fmt.Errorf("read kill command %s of this process's own: %w", name, err)
		}
		out = append(out, Command{r.Name, r.At, r.JWS, r.Command})
	}
	slices.SortStableFunc(out, func(a, b Command) int { return a.At.Compare(b.At) })
	return out, nil
}

// Tell says what becomes of a command, and forgets it unless it is pending.
func (b *Inbox) Tell(c Command, r killcommand.Result) error {
	r.At = b.now().UTC()
	if err := b.write(c.Name, r); err != nil || r.State == killcommand.Pending {
		return err
	}
	return errors.Join(remove(b.stored(c.JWS)), remove(filepath.Join(b.dir, c.Name+"."+killcommand.Pending)))
}

func (b *Inbox) write(name string, r killcommand.Result) error {
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("encode result: %w", err)
	}
	return durable(filepath.Join(b.dir, name+"."+r.State), append(text, '\n'))
}

// list is the names of a directory's files with a suffix, without it. Names that
// begin with a dot are being written.
func list(dir, suffix string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("look for kill commands: %w", err)
	}
	var out []string
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), suffix)
		if ok && name != "" && name[0] != '.' && e.Type().IsRegular() && len(out) < perLook {
			out = append(out, name)
		}
	}
	return out, nil
}

// read reads a command's file, no further than a command can be long.
func read(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("open: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, token.MaxSize+2))
	if err != nil {
		return "", fmt.Errorf("read: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}

// durable writes a file that is whole and on disk, or not there.
func durable(path string, b []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".tmp-*")
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
