// Package receipt proves offline that a revocation was enforced. When one is closed,
// its service signs a Statement over what is in it; a bundle is that statement and
// one line per enforcement point with the point's own signed receipt. Verify needs
// the bundle and the public key of the deployment's kill feed, no network.
//
// A bundle is text, one JSON object per line (NDJSON), each in the one encoding that
// Write gives it, so that no byte of it can be changed unnoticed:
//
//	{"lanyard_receipts":1,"statement":"<compact JWS>"}
//	{"point":"a/orders","tenant":"acme","lease_end":...,"outcome":"enforced","applied_at":...,"key":"{...}","receipt":"<compact JWS>"}
//	...
//
// The lines are in order of the point's name. It says nothing about what kind of
// point a name is: a guard, or a downstream whose connector answered for it.
package receipt

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"time"

	json "github.com/go-json-experiment/json"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// TypClosure is the typ of a Statement's JWS.
const TypClosure = "lanyard-closure"

// Version of bundles and statements.
const Version = 1

// MediaType of a bundle.
const MediaType = "application/x-ndjson"

// Bounds of a bundle.
const (
	MaxLine   = 32 << 10 // bytes
	MaxPoints = 1 << 20
)

// Errors of Verify. What it returns wraps one of them and says where.
var (
	// ErrMalformed: the text is no bundle, or not in the one form.
	ErrMalformed = errors.New("not a bundle of receipts")
	// ErrStatement: the statement is not signed by the given key.
	ErrStatement = errors.New("the closure's signature does not hold")
	// ErrReceipt: a receipt is not signed by the point's key, or not about this
	// revocation or point.
	ErrReceipt = errors.New("a receipt does not hold")
	// ErrOpen: a point that had to answer could still say yes when it was closed.
	ErrOpen = errors.New("the revocation was not enforced everywhere")
	// ErrDiffers: the points are not those that the statement is about.
	ErrDiffers = errors.New("the points differ from what was signed")
)

// Statement is what revocation states when it closes a revocation, the payload of a
// compact JWS with typ TypClosure by the key of the kill feed. It holds the points
// by their hash, so its size does not grow with them.
type Statement struct {
	Version     int                           `json:"v"`
	Revocation  string                        `json:"revocation"`
	Handle      string                        `json:"handle"`
	Mode        events.Mode                   `json:"mode"`
	Target      events.Target                 `json:"target"`
	By          string                        `json:"by"`
	AcceptedAt  time.Time                     `json:"accepted_at"`
	ClosedAt    time.Time                     `json:"closed_at"`
	Epoch       uint64                        `json:"epoch"`
	Sequence    uint64                        `json:"sequence"` // of the kill entry
	Expected    int                           `json:"expected"` // points that had to answer
	Points      int                           `json:"points"`   // all that answered
	Outcomes    map[events.ReceiptOutcome]int `json:"outcomes"`
	Descendants int64                         `json:"descendants"`
	Tenants     int                           `json:"tenants"`     // in how many they lived
	MerkleRoot  string                        `json:"merkle_root"` // RFC 6962 section 2.1, base64; see Leaf
	List        string                        `json:"list"`        // base64url SHA-256 over the points' lines with their line ends
}

// Point is what one enforcement point answered.
type Point struct {
	Point     string                `json:"point"`
	Tenant    string                `json:"tenant,omitempty"`
	LeaseEnd  *time.Time            `json:"lease_end,omitempty"` // had to answer; refuses by itself from then at the latest
	Outcome   events.ReceiptOutcome `json:"outcome"`
	AppliedAt time.Time             `json:"applied_at"`
	Key       string                `json:"key,omitempty"`     // public JWK that the receipt verifies with
	Receipt   string                `json:"receipt,omitempty"` // compact JWS; none for lease_expired
}

// header is the first line.
type header struct {
	Version   int    `json:"lanyard_receipts"`
	Statement string `json:"statement"`
}

// signed is what a receipt's signature covers: events.ReceiptSigned without jws.
type signed struct {
	Revocation string                `json:"revocation"`
	Handle     string                `json:"handle"`
	Point      string                `json:"point"`
	Outcome    events.ReceiptOutcome `json:"outcome"`
	Epoch      uint64                `json:"epoch"`
	Sequence   uint64                `json:"sequence"`
	AppliedAt  time.Time             `json:"applied_at"`
	Until      *time.Time            `json:"until,omitempty"`
}

// line is p in the one form, with its line end. The form must never change: old
// statements hold hashes of it.
func (p Point) line() ([]byte, error) { return line(p) }

func line(v any) ([]byte, error) {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("encode line: %w", err)
	}
	return append(b, '\n'), nil
}

// Seal signs s after it has filled in what follows from the points: Version,
// Expected, Points, Outcomes, MerkleRoot and List. The points must be in order of
// their names, without repeats.
func Seal(k token.Signer, s Statement, points []Point) (jws string, err error) {
	t := newTally()
	for _, p := range points {
		text, err := p.line()
		if err != nil {
			return "", err
		}
		if err := t.add(p, text); err != nil {
			return "", fmt.Errorf("seal closure: %w", err)
		}
	}
	s.Version, s.AcceptedAt, s.ClosedAt = Version, s.AcceptedAt.UTC(), s.ClosedAt.UTC()
	s.Expected, s.Points, s.Outcomes, s.MerkleRoot, s.List = t.expected, t.points, t.outcomes, t.tree.root(), t.digest()
	return k.Sign(TypClosure, s)
}

// Write writes a bundle.
func Write(w io.Writer, statement string, points []Point) error {
	head, err := line(header{Version, statement})
	if err != nil {
		return err
	}
	if _, err := w.Write(head); err != nil {
		return fmt.Errorf("write bundle: %w", err)
	}
	for _, p := range points {
		text, err := p.line()
		if err != nil {
			return err
		}
		if _, err := w.Write(text); err != nil {
			return fmt.Errorf("write bundle: %w", err)
		}
	}
	return nil
}

// Open reads a statement whose signature holds under the feed's key.
func Open(jws string, feed ed25519.PublicKey) (Statement, error) {
	var s Statement
	payload, _, err := token.Open(jws, TypClosure, pinned(feed))
	if err != nil {
		return s, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	// Members that are not known are left alone: a newer sender may add some.
	if err := json.Unmarshal(payload, &s); err != nil {
		return s, fmt.Errorf("%w: %w", ErrStatement, err)
	}
	if s.Version != Version {
		return s, fmt.Errorf("%w: statement of version %d, this program knows %d", ErrMalformed, s.Version, Version)
	}
	return s, nil
}

// pinned is one key under whatever kid the sender gave it.
type pinned ed25519.PublicKey

// Key implements token.Keys.
func (p pinned) Key(kid string) (token.Key, bool) {
	return token.Key{ID: kid, Algorithm: token.EdDSA, Public: ed25519.PublicKey(p)}, true
}

// Leaf is the text of one leaf of the Merkle tree: point NUL outcome NUL receipt.
func (p Point) Leaf() []byte {
	return bytes.Join([][]byte{[]byte(p.Point), []byte(p.Outcome), []byte(p.Receipt)}, []byte{0})
}

// tree is an RFC 6962 section 2.1 Merkle tree that is built leaf by leaf: it holds
// the hashes of complete subtrees, largest first.
type tree struct {
	hashes [][sha256.Size]byte
	sizes  []int
}

func (t *tree) add(leaf []byte) {
	h, n := sha256.Sum256(append([]byte{0}, leaf...)), 1
	for len(t.sizes) > 0 && t.sizes[len(t.sizes)-1] == n {
		h, n = node(t.hashes[len(t.hashes)-1], h), 2*n
		t.hashes, t.sizes = t.hashes[:len(t.hashes)-1], t.sizes[:len(t.sizes)-1]
	}
	t.hashes, t.sizes = append(t.hashes, h), append(t.sizes, n)
}

func node(l, r [sha256.Size]byte) [sha256.Size]byte {
	return sha256.Sum256(append(append([]byte{1}, l[:]...), r[:]...))
}

func (t *tree) root() string {
	if len(t.hashes) == 0 {
		h := sha256.Sum256(nil)
		return base64.StdEncoding.EncodeToString(h[:])
	}
	h := t.hashes[len(t.hashes)-1]
	for i := len(t.hashes) - 2; i >= 0; i-- {
		h = node(t.hashes[i], h)
	}
	return base64.StdEncoding.EncodeToString(h[:])
}
