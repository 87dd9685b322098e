package keys

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// signingState is signing/state.json. It is changed before a key is used and after
// the key's file exists, so it never names a file that is not there.
type signingState struct {
	Active   string   `json:"active"`             // kid that signs
	Prepared string   `json:"prepared,omitempty"` // kid that is published and will sign next
	Retiring []string `json:"retiring,omitempty"` // kids that verify but sign no more
	// Rotations is the kid that each rotation prepared, so that Prepare is idempotent
	// also after its key became active or was retired.
	Rotations map[string]string `json:"rotations,omitempty"`
}

func (s signingState) kids() []string {
	var kids []string
	for _, k := range append([]string{s.Active, s.Prepared}, s.Retiring...) {
		if k != "" {
			kids = append(kids, k)
		}
	}
	return kids
}

// signingCache is what was last read, valid while the state file is the same file.
type signingCache struct {
	info  os.FileInfo
	state signingState
	keys  []jose.JSONWebKey // in the order of state.kids
}

func (r *Ring) signingPath(kid string) string { return r.path("signing", kid+".jwk") }

func (r *Ring) statePath() string { return r.path("signing", "state.json") }

// signing is the present state and keys. Every write makes a new state file, so its
// identity tells whether the cache is current.
func (r *Ring) signing() (signingCache, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// Retire in another process may delete a file between the two reads: read again.
	for attempt := 0; ; attempt++ {
		info, err := os.Stat(r.statePath())
		if err != nil {
			return signingCache{}, fmt.Errorf("read signing keys: %w", missing(r.statePath(), err))
		}
		if c := r.cache; c.info != nil && os.SameFile(c.info, info) &&
			c.info.ModTime().Equal(info.ModTime()) && c.info.Size() == info.Size() {
			return c, nil
		}
		c := signingCache{info: info}
		if c.state, c.keys, err = r.readSigning(); err == nil {
			r.cache = c
			return c, nil
		}
		if attempt == 2 || !errors.Is(err, ErrNoKey) {
			return signingCache{}, fmt.Errorf("read signing keys: %w", err)
		}
	}
}

func (r *Ring) readSigning() (signingState, []jose.JSONWebKey, error) {
	s, err := r.readState()
	if err != nil {
		return s, nil, err
	}
	var keys []jose.JSONWebKey
	for _, kid := range s.kids() {
		j, err := loadJWK(r.signingPath(kid), "ES256")
		if err != nil {
			return s, nil, err
		}
		if j.KeyID != kid {
			return s, nil, fmt.Errorf("%s: %w: it holds the key %s", r.signingPath(kid), ErrDamaged, j.KeyID)
		}
		keys = append(keys, j)
	}
	return s, keys, nil
}

func (r *Ring) readState() (signingState, error) {
	var s signingState
	b, err := readPrivate(r.statePath())
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil || s.Active == "" {
		return s, fmt.Errorf("%s: %w", r.statePath(), ErrDamaged)
	}
	for _, kid := range s.kids() {
		if kid != filepath.Base(kid) || strings.HasPrefix(kid, ".") {
			return s, fmt.Errorf("%s: %w: bad kid", r.statePath(), ErrDamaged)
		}
	}
	return s, nil
}

func (r *Ring) writeState(s signingState) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return write(r.statePath(), append(b, '\n'), filePrivate)
}

// makeSigning makes the first signing key. Key files that no state names are left
// over from a crash and go.
func (r *Ring) makeSigning() error {
	have, err := exists(r.statePath())
	if err != nil {
		return err
	}
	if !have {
		j, err := newES256()
		if err != nil {
			return err
		}
		if err := storeJWK(r.signingPath(j.KeyID), j, true); err != nil {
			return err
		}
		if err := r.writeState(signingState{Active: j.KeyID}); err != nil {
			return fmt.Errorf("make signing key: %w", err)
		}
	}
	s, err := r.readState()
	if err != nil {
		return fmt.Errorf("read signing keys: %w", err)
	}
	return r.removeOrphans(s)
}

func (r *Ring) removeOrphans(s signingState) error {
	files, err := filepath.Glob(r.signingPath("*"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if !slices.Contains(s.kids(), strings.TrimSuffix(filepath.Base(f), ".jwk")) {
			if err := remove(f); err != nil {
				return fmt.Errorf("remove left-over key: %w", err)
			}
		}
	}
	return nil
}

// Signer is the active token signing key (ES256).
func (r *Ring) Signer() (token.Signer, error) {
	c, err := r.signing()
	if err != nil {
		return token.Signer{}, err
	}
	return signer(c.keys[0]) // kids begins with the active one
}

// Public is every token verification key: active, prepared and not yet retired. It
// is empty in a process that has no signing keys; such a process asks the issuer.
func (r *Ring) Public() []token.Key {
	c, err := r.signing()
	if err != nil {
		return nil
	}
	keys := make([]token.Key, len(c.keys))
	for i, j := range c.keys {
		keys[i] = public(j)
	}
	return keys
}

// Key implements token.Keys over Public.
func (r *Ring) Key(kid string) (token.Key, bool) {
	for _, k := range r.Public() {
		if k.ID == kid {
			return k, true
		}
	}
	return token.Key{}, false
}

// JWKS is the public keys as a JWK Set (RFC 7517).
func (r *Ring) JWKS() ([]byte, error) {
	c, err := r.signing()
	if err != nil {
		return nil, err
	}
	set := jose.JSONWebKeySet{Keys: []jose.JSONWebKey{}}
	for _, j := range c.keys {
		set.Keys = append(set.Keys, j.Public())
	}
	b, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("encode JWK Set: %w", err)
	}
	return b, nil
}

// change runs one step on the state under the lock; step reports whether it changed it.
func (r *Ring) change(step func(s *signingState) (bool, error)) error {
	unlock, err := r.lock()
	if err != nil {
		return err
	}
	defer unlock()
	s, err := r.readState()
	if err != nil {
		return err
	}
	changed, err := step(&s)
	if err != nil {
		return err
	}
	if changed {
		err := r.writeState(s)
		r.mu.Lock()
		r.cache = signingCache{}
		r.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return r.removeOrphans(s)
}

// Prepare makes a successor signing key for a rotation and returns it. It is
// idempotent: the same rotation always gets the same key, and while a key is
// prepared every rotation gets that one. When the rotation's key was retired since,
// the error wraps ErrState.
func (r *Ring) Prepare(rotation string) (token.Key, error) {
	var kid string
	err := r.change(func(s *signingState) (bool, error) {
		if known, ok := s.Rotations[rotation]; ok {
			kid = known
			return false, nil
		}
		if kid = s.Prepared; kid == "" {
			j, err := newES256()
			if err != nil {
				return false, err
			}
			if err := storeJWK(r.signingPath(j.KeyID), j, true); err != nil {
				return false, err
			}
			kid = j.KeyID
		}
		s.Prepared = kid
		if s.Rotations == nil {
			s.Rotations = map[string]string{}
		}
		s.Rotations[rotation] = kid
		return true, nil
	})
	if err != nil {
		return token.Key{}, fmt.Errorf("prepare signing key: %w", err)
	}
	k, ok := r.Key(kid)
	if !ok {
		return token.Key{}, fmt.Errorf("prepare signing key: %w: rotation %s had key %s, which is retired", ErrState, rotation, kid)
	}
	return k, nil
}

// Activate makes kid the signer; the one before it goes on verifying until Retire.
// It is idempotent. kid must be prepared.
func (r *Ring) Activate(kid string) error {
	err := r.change(func(s *signingState) (bool, error) {
		switch {
		case kid == "":
			return false, ErrNoKey
		case s.Active == kid:
			return false, nil
		case s.Prepared == kid:
			s.Retiring = append(s.Retiring, s.Active)
			s.Active, s.Prepared = kid, ""
			return true, nil
		case slices.Contains(s.Retiring, kid):
			return false, fmt.Errorf("%w: it is retiring and must not sign again", ErrState)
		}
		return false, ErrNoKey
	})
	if err != nil {
		return fmt.Errorf("activate signing key %s: %w", kid, err)
	}
	return nil
}

// Retire deletes kid, so that nothing it signed verifies any more. It is idempotent.
// The active key cannot be retired.
func (r *Ring) Retire(kid string) error {
	err := r.change(func(s *signingState) (bool, error) {
		if s.Active == kid {
			return false, fmt.Errorf("%w: it is the signer; activate a successor first", ErrState)
		}
		if s.Prepared == kid {
			s.Prepared = ""
			return true, nil
		}
		n := len(s.Retiring)
		s.Retiring = slices.DeleteFunc(s.Retiring, func(k string) bool { return k == kid })
		return len(s.Retiring) != n, nil
	})
	if err != nil {
		return fmt.Errorf("retire signing key %s: %w", kid, err)
	}
	return nil
}

// ActiveKid is the kid of the signer, and of the prepared key ("" when there is none).
func (r *Ring) ActiveKid() (active, prepared string, err error) {
	c, err := r.signing()
	return c.state.Active, c.state.Prepared, err
}
