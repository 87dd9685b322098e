// Package lineage names the things a credential hangs from. Each is an opaque
// 96-bit handle; a credential carries its handles, root first, and dies when any
// of them is revoked. Verifiers compare handles and need no key; only issuance
// and revocation hold the lineage key that makes them.
package lineage

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"sync"
)

// Kind is what a handle stands for.
type Kind string

// The kinds of handles, in the order in which they appear in a lineage.
const (
	KindDomain     Kind = "domain"     // trust domain or OIDC issuer that vouched
	KindKey        Kind = "key"        // signing key
	KindTenant     Kind = "tenant"     //
	KindOwner      Kind = "owner"      //
	KindFeature    Kind = "feature"    //
	KindTrust      Kind = "trust"      // trust record between two tenants
	KindDelegation Kind = "delegation" // one step of acting for another
	KindIdentity   Kind = "identity"   //
	KindWorkload   Kind = "workload"   // attested workload
	KindTask       Kind = "task"       //
	KindCredential Kind = "credential" // one token
)

// Kinds lists the kinds. It is a read-only table.
var Kinds = []Kind{KindDomain, KindKey, KindTenant, KindOwner, KindFeature, KindTrust,
	KindDelegation, KindIdentity, KindWorkload, KindTask, KindCredential}

// Max is the largest number of handles a credential may carry.
const Max = 32

// Handle is an opaque 96-bit name.
type Handle [12]byte

// ErrHandle means that a text is not a canonical handle.
var ErrHandle = errors.New("not a handle: want 16 characters of canonical base64url")

// String is the canonical text form: 16 characters of base64url (RFC 4648 section 5).
func (h Handle) String() string { return base64.RawURLEncoding.EncodeToString(h[:]) }

// MarshalText implements encoding.TextMarshaler.
func (h Handle) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. It accepts the canonical form only.
func (h *Handle) UnmarshalText(b []byte) error {
	p, err := Parse(string(b))
	if err != nil {
		return err
	}
	*h = p
	return nil
}

// Parse reads the canonical text form. 16 base64url characters hold exactly 96
// bits, so every 16-character text over that alphabet is canonical.
func Parse(s string) (Handle, error) {
	var h Handle
	if len(s) != 16 {
		return h, fmt.Errorf("parse handle %q: %w", clip(s), ErrHandle)
	}
	if n, err := base64.RawURLEncoding.Strict().Decode(h[:], []byte(s)); err != nil || n != 12 {
		return Handle{}, fmt.Errorf("parse handle %q: %w", clip(s), ErrHandle)
	}
	return h, nil
}

func clip(s string) string {
	if len(s) > 32 {
		return s[:32] + "..."
	}
	return s
}

// Namer makes handles. It holds the deployment's lineage key.
type Namer struct{ macs sync.Pool } // of *mac: the key goes into each once

type mac struct {
	hash.Hash
	buf []byte
}

// NewNamer returns a Namer for key, which must be at least 32 bytes.
func NewNamer(key []byte) (*Namer, error) {
	if len(key) < 32 {
		return nil, fmt.Errorf("lineage key has %d bytes, want at least 32", len(key))
	}
	key = bytes.Clone(key)
	return &Namer{sync.Pool{New: func() any { return &mac{Hash: hmac.New(sha256.New, key)} }}}, nil
}

// Name is the handle of the thing of the given kind: the first 96 bits of
// HMAC-SHA-256 under the lineage key over kind ":" tenant "/" id. Things that
// belong to no tenant (domain, key) have tenant "".
func (n *Namer) Name(kind Kind, tenant, id string) Handle {
	m, _ := n.macs.Get().(*mac) // there is nothing else in the pool
	defer n.macs.Put(m)
	m.Reset()
	m.buf = append(append(append(append(append(m.buf[:0], kind...), ':'), tenant...), '/'), id...)
	m.Write(m.buf) // a hash never fails
	m.buf = m.Sum(m.buf[:0])
	var h Handle
	copy(h[:], m.buf)
	return h
}
