package guard

import (
	"bytes"
	"cmp"
	"compress/flate"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	json "github.com/go-json-experiment/json"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// typSnapshot is the "typ" of a snapshot's header.
const typSnapshot = "lanyard-snapshot"

// chunkHandles is how many handles a chunk of a snapshot has at most.
const chunkHandles = 16 << 10

// maxChunk bounds a chunk in bytes, unpacked.
const maxChunk = 1 << 20

// ErrSnapshot means that a snapshot is not what its signed header says.
var ErrSnapshot = errors.New("not a valid snapshot of the kill feed")

// Killed is a revoked handle and until when it is kept, in seconds since 1970.
type Killed struct {
	Handle lineage.Handle
	Keep   uint32
}

// Snapshot is what the kill feed held up to a sequence: what a guard that starts late
// would otherwise read entry by entry. It is exact up to Sequence, and may know of
// some later revokes; the feed from there on makes it complete.
type Snapshot struct {
	Epoch     uint64
	Sequence  uint64
	LastEntry uint64 // of the newest entry up to Sequence
	At        time.Time
	Dead      []Killed // sorted by handle
	Frozen    []Entry
}

// header is what is signed of a snapshot.
type header struct {
	ID        string    `json:"id"` // names the chunks
	Epoch     uint64    `json:"epoch"`
	Sequence  uint64    `json:"sequence"`
	LastEntry uint64    `json:"last_entry"`
	At        time.Time `json:"at"`
	Count     int       `json:"count"`
	Chunks    []chunk   `json:"chunks"`
}

// chunk is one packed part: handles, or freezes when Handles is 0.
type chunk struct {
	SHA256  string `json:"sha256"` // of the packed bytes, hex
	Handles int    `json:"handles"`
}

// Snapshots is what a Feed may offer beside: SnapshotHead is the newest header, nil
// when there is none or the feed is so small that reading it is as good; SnapshotChunk
// is part n of the snapshot id. Neither is trusted before it is verified.
type Snapshots interface {
	SnapshotHead(ctx context.Context) ([]byte, error)
	SnapshotChunk(ctx context.Context, id string, n int) ([]byte, error)
}

// SealSnapshot packs s into chunks and signs the header, which is to be published after
// them. id tells it from other snapshots.
func SealSnapshot(signer token.Signer, id string, s Snapshot) (head []byte, chunks [][]byte, err error) {
	h := header{ID: id, Epoch: s.Epoch, Sequence: s.Sequence, LastEntry: s.LastEntry, At: s.At.UTC(), Count: len(s.Dead)}
	add := func(body []byte, handles int) error {
		packed, err := pack(body)
		if err != nil {
			return fmt.Errorf("pack snapshot: %w", err)
		}
		sum := sha256.Sum256(packed)
		h.Chunks = append(h.Chunks, chunk{hex.EncodeToString(sum[:]), handles})
		chunks = append(chunks, packed)
		return nil
	}
	for part := range slices.Chunk(s.Dead, chunkHandles) {
		if err := add(columns(part), len(part)); err != nil {
			return nil, nil, err
		}
	}
	for part := range slices.Chunk(s.Frozen, 512) {
		body, err := json.Marshal(part)
		if err == nil {
			err = add(body, 0)
		}
		if err != nil {
			return nil, nil, fmt.Errorf("encode freezes: %w", err)
		}
	}
	raw, err := signer.Sign(typSnapshot, h)
	return []byte(raw), chunks, err
}

// columns lays killed handles out byte by byte of their position, so that what sorted
// handles and keeps of one time have in common packs well.
func columns(part []Killed) []byte {
	n, b := len(part), make([]byte, 16*len(part))
	for i, k := range part {
		for c := range k.Handle {
			b[c*n+i] = k.Handle[c]
		}
		var keep [4]byte
		binary.BigEndian.PutUint32(keep[:], k.Keep)
		for c, v := range keep {
			b[(12+c)*n+i] = v
		}
	}
	return b
}

func uncolumns(b []byte, n int) ([]Killed, error) {
	if len(b) != 16*n {
		return nil, fmt.Errorf("%w: %d bytes for %d handles", ErrSnapshot, len(b), n)
	}
	out := make([]Killed, n)
	for i := range out {
		for c := range out[i].Handle {
			out[i].Handle[c] = b[c*n+i]
		}
		out[i].Keep = binary.BigEndian.Uint32([]byte{b[12*n+i], b[13*n+i], b[14*n+i], b[15*n+i]})
		if out[i].Keep == 0 {
			return nil, fmt.Errorf("%w: a handle without an end", ErrSnapshot)
		}
	}
	return out, nil
}

func pack(b []byte) ([]byte, error) {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.DefaultCompression)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(b)
	err = errors.Join(err, w.Close())
	return out.Bytes(), err
}

func unpack(b []byte) ([]byte, error) {
	out, err := io.ReadAll(io.LimitReader(flate.NewReader(bytes.NewReader(b)), maxChunk+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	if len(out) > maxChunk {
		return nil, fmt.Errorf("%w: a part is larger than %d bytes", ErrSnapshot, maxChunk)
	}
	return out, nil
}

// openHead verifies a header.
func openHead(data []byte, key ed25519.PublicKey) (header, error) {
	var h header
	if err := open(data, typSnapshot, key, &h); err != nil {
		return h, fmt.Errorf("open snapshot: %w", err)
	}
	n := 0
	for _, c := range h.Chunks {
		if c.Handles < 0 || c.Handles > chunkHandles {
			return h, fmt.Errorf("open snapshot: %w: a part of %d handles", ErrSnapshot, c.Handles)
		}
		n += c.Handles
	}
	if h.ID == "" || h.Sequence == 0 || n != h.Count {
		return h, fmt.Errorf("open snapshot: %w: %d handles in parts, %d in all", ErrSnapshot, n, h.Count)
	}
	return h, nil
}

// openChunk verifies and reads one part.
func openChunk(c chunk, data []byte) ([]Killed, []Entry, error) {
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != c.SHA256 {
		return nil, nil, fmt.Errorf("open snapshot: %w: a part has another hash", ErrSnapshot)
	}
	body, err := unpack(data)
	if err != nil {
		return nil, nil, err
	}
	if c.Handles > 0 {
		dead, err := uncolumns(body, c.Handles)
		return dead, nil, err
	}
	var frozen []Entry
	if err := json.Unmarshal(body, &frozen); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrSnapshot, err)
	}
	for _, e := range frozen {
		if err := e.check(); err != nil || e.Mode != events.ModeFreeze {
			return nil, nil, fmt.Errorf("%w: it holds what is no freeze", ErrSnapshot)
		}
	}
	return nil, frozen, nil
}

// Snapshot is what this guard holds, for whoever publishes snapshots. ok is false while
// it is not fresh.
func (g *Guard) Snapshot() (s Snapshot, ok bool) {
	// The position is read first: what comes in between is known too early, never too late.
	p := g.position()
	if !g.fresh() || !p.trusted {
		return s, false
	}
	s = Snapshot{Epoch: p.state.Epoch, Sequence: p.applied, LastEntry: p.lastEntry, At: g.cfg.Now()}
	s.Dead, s.Frozen = g.set.copy(s.At)
	return s, s.Sequence > 0
}

// copy is the set without what expired at now.
func (s *killSet) copy(now time.Time) (dead []Killed, frozen []Entry) {
	s.mu.RLock()
	limit := now.Unix()
	dead = make([]Killed, 0, s.dead.n)
	for i := range s.dead.slots {
		if x := &s.dead.slots[i]; x.keep != 0 && int64(x.keep) >= limit {
			dead = append(dead, Killed{x.h, x.keep})
		}
	}
	for _, e := range s.frozen {
		frozen = append(frozen, e)
	}
	s.mu.RUnlock()
	slices.SortFunc(dead, func(a, b Killed) int { return bytes.Compare(a.Handle[:], b.Handle[:]) })
	slices.SortFunc(frozen, func(a, b Entry) int { return cmp.Or(a.At.Compare(b.At), bytes.Compare(a.Handle[:], b.Handle[:])) })
	return dead, frozen
}

// load takes killed handles into the set, as apply does entry by entry.
func (s *killSet) load(dead []Killed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range dead {
		if at := s.dead.find(k.Handle); at >= 0 {
			s.dead.slots[at].keep = max(s.dead.slots[at].keep, k.Keep)
			continue
		}
		s.dead.insert(k.Handle, k.Keep)
		delete(s.frozen, k.Handle)
	}
}

// prime loads the newest snapshot, if there is one that helps, and returns the sequence
// from which the feed must be read, 1 without. It is only for what this guard need not
// answer: an entry that it has not answered comes from the feed. What it holds was
// revoked, whatever becomes of the rest: to have taken part of it is never wrong.
func (g *Guard) prime(ctx context.Context) (from, epoch uint64, err error) {
	source, ok := g.cfg.Feed.(Snapshots)
	if !ok {
		return 1, 0, nil
	}
	data, err := source.SnapshotHead(ctx)
	if err != nil || data == nil {
		return 1, 0, err
	}
	h, err := openHead(data, g.cfg.FeedKey)
	if err != nil {
		return 1, 0, err
	}
	p := g.position()
	if !p.fresh && (h.Epoch != p.state.Epoch || p.state.Answered < h.Sequence) {
		return 1, 0, nil
	}
	var freezes []Entry
	for n, c := range h.Chunks {
		data, err := source.SnapshotChunk(ctx, h.ID, n)
		if err != nil {
			return 1, 0, fmt.Errorf("read part %d of snapshot: %w", n, err)
		}
		dead, frozen, err := openChunk(c, data)
		if err != nil {
			return 1, 0, err
		}
		g.set.load(dead)
		freezes = append(freezes, frozen...)
	}
	for _, e := range freezes {
		g.apply(e)
	}
	g.update(func(p *position) {
		p.advance(h.Sequence)
		p.lastEntry = max(p.lastEntry, h.LastEntry)
		p.filledTo = max(p.filledTo, h.Sequence)
	})
	return h.Sequence + 1, h.Epoch, nil
}
