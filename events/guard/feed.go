package guard

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strings"
	"time"

	json "github.com/go-json-experiment/json"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// Entry is one entry of the kill feed, the payload of a compact JWS with typ
// token.TypKill on subject nhi.kill.<handle>.
type Entry struct {
	Handle     lineage.Handle `json:"handle"`
	Mode       events.Mode    `json:"mode"` // revoke, freeze or lift
	Revocation string         `json:"rev"`
	Reason     string         `json:"reason"`
	By         string         `json:"by"`
	At         time.Time      `json:"at"`              // when it takes effect
	Until      *time.Time     `json:"until,omitempty"` // end of a freeze
	Keep       time.Time      `json:"keep"`            // may be dropped after this
	Epoch      uint64         `json:"epoch"`
}

// Heartbeat says: everything up to here is here, as of Time. It is the payload
// of a compact JWS with typ token.TypHeartbeat on subject nhi.kill.heartbeat, in
// the same stream as the entries.
type Heartbeat struct {
	Epoch uint64    `json:"epoch"` // raised by hand when the feed's stream had to be made anew
	Last  uint64    `json:"last"`  // stream sequence of the newest entry its sender has seen
	Time  time.Time `json:"time"`
}

// Message is one message of the kill feed as it is stored.
type Message struct {
	Sequence uint64
	Subject  string
	Data     []byte // compact JWS
}

// Feed is the kill feed. Implementations: natsfeed.Feed, and in tests a slice.
type Feed interface {
	// Subscribe calls f for every message that arrives from now on, in order,
	// until ctx ends; it returns once the subscription is in place. Messages may
	// be missing; the guard detects that by Sequence. f does not block.
	Subscribe(ctx context.Context, f func(Message)) error
	// Fill calls f for every stored message with sequence >= from, in order, up to
	// what was stored when it was called, and returns the last stored sequence. It
	// fails when it could not read up to there. Each message is f's to keep.
	Fill(ctx context.Context, from uint64, f func(Message) error) (last uint64, err error)
	// Answer delivers a receipt or presence event durably.
	Answer(ctx context.Context, e events.Event) error
}

// HeartbeatName is the last token of the heartbeats' subject, in the place of a handle.
const HeartbeatName = "heartbeat"

// ErrEntry means that a message of the kill feed is well signed but makes no sense.
var ErrEntry = errors.New("not a valid message of the kill feed")

// ErrReceipt means that a receipt does not state what its signature covers.
var ErrReceipt = errors.New("receipt differs from what was signed")

// SealEntry signs e with the feed's key.
func SealEntry(s token.Signer, e Entry) ([]byte, error) {
	if err := e.check(); err != nil {
		return nil, fmt.Errorf("seal kill entry: %w", err)
	}
	e.At, e.Keep = e.At.UTC(), e.Keep.UTC()
	raw, err := s.Sign(token.TypKill, e)
	return []byte(raw), err
}

// OpenEntry verifies and reads a kill entry.
func OpenEntry(data []byte, key ed25519.PublicKey) (Entry, error) {
	var e Entry
	if err := open(data, token.TypKill, key, &e); err != nil {
		return Entry{}, fmt.Errorf("open kill entry: %w", err)
	}
	if err := e.check(); err != nil {
		return Entry{}, fmt.Errorf("open kill entry: %w", err)
	}
	return e, nil
}

func (e Entry) check() error {
	switch {
	case e.Handle == lineage.Handle{}, e.Revocation == "", e.At.IsZero(), e.Keep.IsZero():
		return fmt.Errorf("%w: handle, rev, at and keep are required", ErrEntry)
	case e.Mode != events.ModeRevoke && e.Mode != events.ModeFreeze && e.Mode != events.ModeLift:
		return fmt.Errorf("%w: mode %q", ErrEntry, e.Mode)
	case e.Mode == events.ModeFreeze && (e.Until == nil || e.Until.IsZero()):
		return fmt.Errorf("%w: freeze without end", ErrEntry)
	}
	return nil
}

// SealHeartbeat signs h with the feed's key.
func SealHeartbeat(s token.Signer, h Heartbeat) ([]byte, error) {
	h.Time = h.Time.UTC()
	raw, err := s.Sign(token.TypHeartbeat, h)
	return []byte(raw), err
}

// OpenHeartbeat verifies and reads a heartbeat.
func OpenHeartbeat(data []byte, key ed25519.PublicKey) (Heartbeat, error) {
	var h Heartbeat
	if err := open(data, token.TypHeartbeat, key, &h); err != nil {
		return Heartbeat{}, fmt.Errorf("open heartbeat: %w", err)
	}
	if h.Time.IsZero() {
		return Heartbeat{}, fmt.Errorf("open heartbeat: %w: no time", ErrEntry)
	}
	return h, nil
}

// pinned is one key under whatever kid the sender gave it.
type pinned ed25519.PublicKey

// Key implements token.Keys.
func (p pinned) Key(kid string) (token.Key, bool) {
	return token.Key{ID: kid, Algorithm: token.EdDSA, Public: ed25519.PublicKey(p)}, true
}

func open(data []byte, typ string, key ed25519.PublicKey, v any) error {
	payload, _, err := token.Open(string(data), typ, pinned(key))
	if err != nil {
		return err
	}
	// Members that are not known are left alone: a newer sender may add some.
	if err := json.Unmarshal(payload, v); err != nil {
		return fmt.Errorf("%w: %w", ErrEntry, err)
	}
	return nil
}

// receipt is what a receipt's signature covers: events.ReceiptSigned without jws.
type receipt struct {
	Revocation string                `json:"revocation"`
	Handle     string                `json:"handle"`
	Point      string                `json:"point"`
	Outcome    events.ReceiptOutcome `json:"outcome"`
	Epoch      uint64                `json:"epoch"`
	Sequence   uint64                `json:"sequence"`
	AppliedAt  time.Time             `json:"applied_at"`
	Until      *time.Time            `json:"until,omitempty"`
}

func covered(p events.ReceiptSigned) receipt {
	return receipt{p.Revocation, p.Handle, p.Point, p.Outcome, p.Epoch, p.Sequence, p.AppliedAt.UTC(), p.Until}
}

// SignReceipt fills in p.JWS: EdDSA by the guard's own key, typ token.TypReceipt,
// over the other fields.
func SignReceipt(s token.Signer, p events.ReceiptSigned) (events.ReceiptSigned, error) {
	p.AppliedAt = p.AppliedAt.UTC()
	raw, err := s.Sign(token.TypReceipt, covered(p))
	p.JWS = raw
	return p, err
}

// VerifyReceipt checks that p.JWS is by key and says what the fields of p say.
func VerifyReceipt(p events.ReceiptSigned, key ed25519.PublicKey) error {
	var got receipt
	if err := open([]byte(p.JWS), token.TypReceipt, key, &got); err != nil {
		return fmt.Errorf("verify receipt of %q: %w", p.Point, err)
	}
	want := covered(p)
	sameUntil := (got.Until == nil) == (want.Until == nil) && (got.Until == nil || got.Until.Equal(*want.Until))
	sameTime := got.AppliedAt.Equal(want.AppliedAt)
	got.AppliedAt, got.Until = want.AppliedAt, want.Until
	if !sameUntil || !sameTime || got != want {
		return fmt.Errorf("verify receipt of %q: %w", p.Point, ErrReceipt)
	}
	return nil
}

// item is a decoded message of the feed: an entry, a heartbeat, or neither when it
// was not signed by the feed's key or makes no sense.
type item struct {
	seq   uint64
	data  []byte // of an entry, as it was signed
	entry *Entry
	beat  *Heartbeat
}

// of reports whether the message is signed and of the given epoch.
func (it item) of(epoch uint64) bool {
	return it.entry != nil && it.entry.Epoch == epoch || it.beat != nil && it.beat.Epoch == epoch
}

// decode never fails: whoever can write to the stream could otherwise stop a guard
// by one bad message. What is not understood only takes up its sequence.
func decode(m Message, key ed25519.PublicKey) item {
	it := item{seq: m.Sequence}
	name := m.Subject[strings.LastIndexByte(m.Subject, '.')+1:]
	if name == HeartbeatName {
		if h, err := OpenHeartbeat(m.Data, key); err == nil {
			it.beat = &h
		}
		return it
	}
	// The subject is not signed; an entry counts only where its handle belongs.
	if e, err := OpenEntry(m.Data, key); err == nil && e.Handle.String() == name {
		it.entry, it.data = &e, m.Data
	}
	return it
}
