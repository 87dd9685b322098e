package receipt

import (
	"bufio"
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"time"

	json "github.com/go-json-experiment/json"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// Report is what a bundle proves.
type Report struct {
	Statement Statement `json:"statement"`
	Points    []Point   `json:"points"`
}

// tally sums the points up as they pass.
type tally struct {
	last     string
	expected int
	points   int
	outcomes map[events.ReceiptOutcome]int
	tree     tree
	sum      hash.Hash
}

func newTally() *tally {
	return &tally{outcomes: map[events.ReceiptOutcome]int{}, sum: sha256.New()}
}

func (t *tally) digest() string { return base64.RawURLEncoding.EncodeToString(t.sum.Sum(nil)) }

func (t *tally) add(p Point, text []byte) error {
	switch {
	case p.Point == "" || t.points > 0 && p.Point <= t.last:
		return fmt.Errorf("%w: point %q is not in order", ErrMalformed, p.Point)
	case t.points == MaxPoints:
		return fmt.Errorf("%w: more than %d points", ErrMalformed, MaxPoints)
	}
	t.last = p.Point
	t.points++
	t.outcomes[p.Outcome]++
	if p.LeaseEnd != nil {
		t.expected++
	}
	t.tree.add(p.Leaf())
	t.sum.Write(text)
	return nil
}

// Verify reads a bundle and checks all of it: that the feed's key signed the
// statement, that every receipt is signed by its point's key and answers this
// revocation, that whoever had to answer did or could say yes no more, and that the
// points are exactly those that were signed. Whose key a point's key is, is
// revocation's word: it saw the key in the guard's presence.
func Verify(r io.Reader, feed ed25519.PublicKey) (Report, error) {
	var out Report
	in := bufio.NewReaderSize(r, MaxLine)
	var h header
	text, err := next(in, &h)
	if err != nil {
		return out, fmt.Errorf("line 1: %w", err)
	}
	if h.Version != Version || text == nil {
		return out, fmt.Errorf("line 1: %w: want a bundle of version %d", ErrMalformed, Version)
	}
	if out.Statement, err = Open(h.Statement, feed); err != nil {
		return out, err
	}
	t := newTally()
	for n := 2; ; n++ {
		var p Point
		text, err := next(in, &p)
		if err != nil {
			return out, fmt.Errorf("line %d: %w", n, err)
		}
		if text == nil {
			break
		}
		if err := errors.Join(t.add(p, text), out.Statement.check(p)); err != nil {
			return out, fmt.Errorf("line %d: point %q: %w", n, p.Point, err)
		}
		out.Points = append(out.Points, p)
	}
	return out, out.Statement.complete(t)
}

// next reads one line in the one form into v; nil at the end.
func next(in *bufio.Reader, v any) ([]byte, error) {
	text, err := in.ReadSlice('\n')
	switch {
	case errors.Is(err, io.EOF) && len(text) == 0:
		return nil, nil
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("%w: it breaks off", ErrMalformed)
	case errors.Is(err, bufio.ErrBufferFull):
		return nil, fmt.Errorf("%w: longer than %d bytes", ErrMalformed, MaxLine)
	case err != nil:
		return nil, fmt.Errorf("read bundle: %w", err)
	}
	if err := json.Unmarshal(text, v, json.RejectUnknownMembers(true)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	again, err := json.Marshal(v, json.Deterministic(true))
	if err != nil || !bytes.Equal(again, text[:len(text)-1]) {
		return nil, fmt.Errorf("%w: not in the one form that they are written in", ErrMalformed)
	}
	return text, nil
}

// complete checks the sums.
func (s Statement) complete(t *tally) error {
	switch {
	case t.points != s.Points:
		return fmt.Errorf("%w: %d points, %d were signed", ErrDiffers, t.points, s.Points)
	case t.expected != s.Expected:
		return fmt.Errorf("%w: %d points had to answer, %d were signed", ErrDiffers, t.expected, s.Expected)
	case !maps.Equal(t.outcomes, s.Outcomes):
		return fmt.Errorf("%w: outcomes are %v, %v were signed", ErrDiffers, t.outcomes, s.Outcomes)
	case t.tree.root() != s.MerkleRoot:
		return fmt.Errorf("%w: the Merkle root is %s, %s was signed", ErrDiffers, t.tree.root(), s.MerkleRoot)
	case t.digest() != s.List:
		return fmt.Errorf("%w: their hash is %s, %s was signed", ErrDiffers, t.digest(), s.List)
	}
	return nil
}

// check checks one point.
func (s Statement) check(p Point) error {
	if p.Outcome == events.ReceiptLeaseExpired {
		switch {
		case p.Receipt != "" || p.Key != "":
			return fmt.Errorf("%w: an expired lease has no receipt", ErrMalformed)
		case p.LeaseEnd == nil || !p.LeaseEnd.Equal(p.AppliedAt):
			return fmt.Errorf("%w: it is said to be out of its lease, whose end is another", ErrMalformed)
		case p.LeaseEnd.After(s.ClosedAt):
			return fmt.Errorf("%w: its lease ran until %s, after the closure", ErrOpen, p.LeaseEnd.Format(time.RFC3339Nano))
		}
		return nil
	}
	got, err := s.receipt(p)
	if err != nil {
		return err
	}
	if p.LeaseEnd == nil { // nobody had to wait for it; what it says is shown
		return nil
	}
	switch p.Outcome {
	case events.ReceiptEnforced, events.ReceiptAlreadyDead:
		return nil
	case events.ReceiptUnsupportedUntil:
		if got.Until != nil && !got.Until.After(s.ClosedAt) {
			return nil
		}
	}
	return fmt.Errorf("%w: it answered %s", ErrOpen, p.Outcome)
}

// receipt checks a point's own signature and what it is about.
func (s Statement) receipt(p Point) (signed, error) {
	var got signed
	key, err := token.ParseJWK([]byte(p.Key))
	if err != nil {
		return got, fmt.Errorf("%w: its key: %w", ErrReceipt, err)
	}
	public, ok := key.Public.(ed25519.PublicKey)
	if !ok {
		return got, fmt.Errorf("%w: its key is not Ed25519", ErrReceipt)
	}
	payload, _, err := token.Open(p.Receipt, token.TypReceipt, pinned(public))
	if err != nil {
		return got, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	if err := json.Unmarshal(payload, &got); err != nil {
		return got, fmt.Errorf("%w: %w", ErrReceipt, err)
	}
	// A later entry of the same handle means the same only when it is a revoke: it
	// was put back after the feed had lost it.
	same := got.Epoch == s.Epoch && got.Sequence == s.Sequence
	later := got.Epoch > s.Epoch || got.Epoch == s.Epoch && got.Sequence > s.Sequence
	switch {
	case got.Revocation != s.Revocation:
		return got, fmt.Errorf("%w: it is about revocation %q", ErrReceipt, got.Revocation)
	case got.Handle != s.Handle:
		return got, fmt.Errorf("%w: it is about handle %q", ErrReceipt, got.Handle)
	case got.Point != p.Point:
		return got, fmt.Errorf("%w: it is of point %q", ErrReceipt, got.Point)
	case got.Outcome != p.Outcome || !got.AppliedAt.Equal(p.AppliedAt):
		return got, fmt.Errorf("%w: it says %s at %s", ErrReceipt, got.Outcome, got.AppliedAt.Format(time.RFC3339Nano))
	case !same && !(later && s.Mode == events.ModeRevoke):
		return got, fmt.Errorf("%w: it answers entry %d of epoch %d, the revocation is entry %d of epoch %d", ErrReceipt, got.Sequence, got.Epoch, s.Sequence, s.Epoch)
	}
	return got, nil
}
