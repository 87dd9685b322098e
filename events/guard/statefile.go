package guard

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/lanyard-nhi/lanyard/events/lineage"
)

// persisted is what a guard must not forget over a restart: how far it had come,
// so that it cannot be served an older feed, and the key of its receipts.
type persisted struct {
	Point    string `json:"point"`
	Epoch    uint64 `json:"epoch"`
	Sequence uint64 `json:"sequence"` // applied up to here
	Answered uint64 `json:"answered"` // every entry up to here has its receipt delivered
	Newest   *mark  `json:"newest,omitempty"`
	Seed     []byte `json:"seed"` // RFC 8032 private key of the receipts
}

// mark is the newest entry applied. A feed that was cut back lacks it even after it
// has grown past its old length.
type mark struct {
	Handle   lineage.Handle `json:"handle"`
	Sequence uint64         `json:"sequence"`
	Keep     time.Time      `json:"keep"`
}

// load reads the state of point at path; fresh reports that there was none and that
// it was made now. With path "" it is kept in memory only.
func load(path, point string) (p persisted, fresh bool, err error) {
	if path != "" {
		b, err := os.ReadFile(path)
		if err == nil {
			return p, false, p.decode(b, path, point)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return p, false, fmt.Errorf("read guard state: %w", err)
		}
	}
	p = persisted{Point: point, Seed: make([]byte, ed25519.SeedSize)}
	if _, err := rand.Read(p.Seed); err != nil {
		return p, false, fmt.Errorf("make receipt key: %w", err)
	}
	return p, true, p.save(path)
}

// decode refuses a state it does not understand: to start without it would be to
// forget what was receipted.
func (p *persisted) decode(b []byte, path, point string) error {
	if err := json.Unmarshal(b, p); err != nil {
		return fmt.Errorf("read guard state %s: %w", path, err)
	}
	if p.Point != point || len(p.Seed) != ed25519.SeedSize {
		return fmt.Errorf("read guard state %s: it is not the state of point %q", path, point)
	}
	return nil
}

// save replaces the file atomically and durably.
func (p persisted) save(path string) error {
	if path == "" {
		return nil
	}
	b, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("save guard state: %w", err)
	}
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*.tmp") // mode 0600
	if err != nil {
		return fmt.Errorf("save guard state: %w", err)
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
		return errors.Join(fmt.Errorf("save guard state: %w", err), os.Remove(f.Name()))
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("save guard state: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("save guard state: sync directory: %w", err)
	}
	return nil
}
