package natsfeed

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
)

// Stream of the snapshots of the kill feed, and the subjects in it. The head names the
// snapshot whose parts follow under its id.
const (
	SnapshotStream = "NHI_SNAP"
	SnapshotRoot   = "nhi.snap."
	SnapshotHead   = "head"
)

// snapshotWorth is how many messages the kill feed must hold for a snapshot to be
// worth asking for.
const snapshotWorth = 5000

// snapshotTimeout is for one part. A user who may not read snapshots gets no answer.
const snapshotTimeout = 3 * time.Second

// SnapshotPart is the last token of the subject of part n of the snapshot id.
func SnapshotPart(id string, n int) string { return id + "-" + strconv.Itoa(n) }

// SnapshotHead implements guard.Snapshots.
func (f *Feed) SnapshotHead(ctx context.Context) ([]byte, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, err := f.js.Stream(call, Stream)
	if err != nil {
		return nil, fmt.Errorf("ask how large the kill feed is: %w", err)
	}
	if s.CachedInfo().State.Msgs < snapshotWorth {
		return nil, nil
	}
	data, err := f.last(ctx, SnapshotHead)
	if errors.Is(err, errNone) {
		return nil, nil
	}
	return data, err
}

// SnapshotChunk implements guard.Snapshots.
func (f *Feed) SnapshotChunk(ctx context.Context, id string, n int) ([]byte, error) {
	return f.last(ctx, SnapshotPart(id, n))
}

// errNone: nothing is stored there.
var errNone = errors.New("no such part of a snapshot")

// last reads what is stored on a subject of the snapshots, from any replica.
func (f *Feed) last(ctx context.Context, name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, snapshotTimeout)
	defer cancel()
	m, err := f.nc.RequestWithContext(ctx, "$JS.API.DIRECT.GET."+SnapshotStream+"."+SnapshotRoot+name, nil)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, errNone // a deployment without snapshots
	case err != nil:
		return nil, fmt.Errorf("read snapshot of the kill feed: %w", err)
	}
	switch status := m.Header.Get("Status"); status {
	case "":
		return m.Data, nil
	case "404":
		return nil, errNone
	default:
		return nil, fmt.Errorf("read snapshot of the kill feed: the server answered %s %s", status, m.Header.Get("Description"))
	}
}
