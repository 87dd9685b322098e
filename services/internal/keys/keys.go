// Package keys holds the keys of a deployment as files: token signing keys, the
// kill feed's key, the lineage key and the NATS users' seeds. Keys are never in
// Redis, never in logs, never in events.
//
// The files of a ring, each readable by its owner only unless marked public:
//
//	signing/<kid>.jwk     ES256 token signing keys; issuance and rotation
//	signing/state.json    which of them signs, is prepared, is retiring
//	feed.jwk              Ed25519 key of the kill feed; revocation
//	feed.pub.jwk          its public half (public); everyone with a guard
//	lineage.key           32 bytes in hex that make handles; issuance and revocation
//	nats/<user>.nk        nkey seed of a NATS user; the process of that user
//	nats/<user>.pub       its public half (public); the NATS server
//	operator.jwk          key of the first operator; the CLI
//	operator.jwks.json    its public half as a JWK Set (public); issuance
//	local-issuer.secret   client secret of the development OIDC issuer
//
// A process is given only the files it uses and gets an error that names the file
// when it asks for another.
package keys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
)

// What can be wrong with a ring.
var (
	// ErrNoKey: this process was not given the file, or no such key exists.
	ErrNoKey = errors.New("no such key")
	// ErrExposed: others than the owner may read or change a private file.
	ErrExposed = errors.New("others may read or change it")
	// ErrDamaged: a file does not hold what it should.
	ErrDamaged = errors.New("the key file is damaged")
	// ErrState: the step is not possible in the key's present state.
	ErrState = errors.New("not possible in this state of the key")
)

// Ring is the key files of one deployment that a process may read. It is safe for
// concurrent use, also by several processes on one directory: signing keys are read
// again whenever the state file has changed, and changes are made under a file lock.
type Ring struct {
	dir    string
	create bool

	mu    sync.Mutex
	cache signingCache
}

// Open opens the ring in dir. With create it makes what is missing of the
// deployment's own keys (files 0600 in directories 0700, written atomically and
// synced), and later NATS users' seeds on demand; calling it again, also from
// another process, changes nothing. Without create nothing is read until it is
// asked for, but the directory must exist and every private file in it must be
// private.
func Open(dir string, create bool) (*Ring, error) {
	r := &Ring{dir: dir, create: create}
	if !create {
		if _, err := os.Stat(dir); err != nil {
			return nil, fmt.Errorf("open keys: %w: run lanyard up once, or copy the files this process needs", err)
		}
		return r, r.checkModes()
	}
	for _, d := range []string{dir, r.path("signing"), r.path("nats")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, fmt.Errorf("open keys: %w", err)
		}
	}
	if err := r.checkModes(); err != nil {
		return nil, err
	}
	unlock, err := r.lock()
	if err != nil {
		return nil, err
	}
	defer unlock()
	for _, step := range []func() error{r.makeSigning, r.makeFeed, r.makeLineage, r.makeOperator, r.makeLocalIssuer} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Dir is the ring's directory.
func (r *Ring) Dir() string { return r.dir }

func (r *Ring) path(elem ...string) string {
	return filepath.Join(append([]string{r.dir}, elem...)...)
}

// checkModes refuses a ring whose directories others may write or whose private
// files others may read.
func (r *Ring) checkModes() error {
	for _, d := range []string{".", "signing", "nats"} {
		info, err := os.Stat(r.path(d))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("open keys: %w", err)
		}
		if info.Mode().Perm()&0o022 != 0 {
			return fmt.Errorf("open keys %s: %w (mode %04o): run chmod 700 on it", r.path(d), ErrExposed, info.Mode().Perm())
		}
		entries, err := os.ReadDir(r.path(d))
		if err != nil {
			return fmt.Errorf("open keys: %w", err)
		}
		for _, e := range entries {
			switch filepath.Ext(e.Name()) {
			case ".jwk", ".key", ".nk", ".secret":
				if e.Name() == feedPublicFile {
					continue
				}
				if err := checkPrivate(r.path(d, e.Name())); err != nil {
					return fmt.Errorf("open keys: %w", err)
				}
			}
		}
	}
	return nil
}
