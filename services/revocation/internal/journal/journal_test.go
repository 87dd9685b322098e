package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func rec(stage Stage, rev, handle string, mode events.Mode, seq uint64) Record {
	return Record{Stage: stage, Revocation: rev, Tenant: "acme", Handle: handle, Mode: mode, At: now, Keep: now.Add(16 * time.Minute), Epoch: 1, Sequence: seq, Entry: "x.y.z"}
}

func write4(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "revocation", "journal")
	j, records, err := Open(path)
	if err != nil || len(records) != 0 {
		t.Fatalf("open a new journal: %d records, %v", len(records), err)
	}
	for i := range 4 {
		if err := j.Append(t.Context(), rec(StageIntent, fmt.Sprint("r", i), fmt.Sprint("h", i), events.ModeRevoke, 0)); err != nil {
			t.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReopenGoesOn(t *testing.T) {
	path := write4(t)
	for want := 4; want < 7; want++ {
		j, records, err := Open(path)
		if err != nil || len(records) != want {
			t.Fatalf("%d records, %v; want %d", len(records), err, want)
		}
		if err := j.Append(t.Context(), rec(StageIntent, "more", "h", events.ModeRevoke, 0)); err != nil {
			t.Fatal(err)
		}
		if err := j.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestConcurrentAppendsAreAllThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			if err := j.Append(t.Context(), rec(StageIntent, fmt.Sprint(i), fmt.Sprint(i), events.ModeRevoke, 0)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	_, records, err := Open(path)
	if err != nil || len(records) != 200 {
		t.Fatalf("%d of 200 records, %v", len(records), err)
	}
}

// TestEveryBitFlip changes one bit at every position: it is always noticed, or, in
// the end of the last line, it is the line break that is lost.
func TestEveryBitFlip(t *testing.T) {
	path := write4(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range whole {
		b := bytes.Clone(whole)
		b[i] ^= 1 << (i % 8)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		j, records, err := Open(path)
		if err == nil {
			_ = j.Close()
		}
		if i == len(whole)-1 { // looks like a torn last line
			if err != nil || len(records) != 3 {
				t.Fatalf("last line without an end: %d records, %v", len(records), err)
			}
			continue
		}
		if !errors.Is(err, ErrBroken) {
			t.Fatalf("bit %d of byte %d of %d flipped: %d records, %v", i%8, i, len(whole), len(records), err)
		}
	}
}

// TestTruncation cuts the file at many lengths: what is left is a prefix of
// whole lines, and the journal goes on from there.
func TestTruncation(t *testing.T) {
	path := write4(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(whole) {
		if n%13 != 0 && (n == 0 || whole[n-1] != '\n') && whole[n] != '\n' {
			continue // every write here is synced; the ends of lines are what differs
		}
		if err := os.WriteFile(path, whole[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		j, records, err := Open(path)
		if err != nil {
			t.Fatalf("cut at %d: %v", n, err)
		}
		if lines := bytes.Count(whole[:n], []byte("\n")); len(records) != lines {
			t.Fatalf("cut at %d: %d records, want %d", n, len(records), lines)
		}
		if err := errors.Join(j.Append(t.Context(), rec(StageIntent, "on", "h", events.ModeRevoke, 0)), j.Close()); err != nil {
			t.Fatal(err)
		}
		j, again, err := Open(path)
		if err != nil || len(again) != len(records)+1 {
			t.Fatalf("after going on from a cut at %d: %d records, %v", n, len(again), err)
		}
		_ = j.Close()
	}
}

func TestMissingMiddleLine(t *testing.T) {
	path := write4(t)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(whole, []byte("\n"))
	if err := os.WriteFile(path, bytes.Join([][]byte{lines[0], lines[2], lines[3]}, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(path); !errors.Is(err, ErrBroken) {
		t.Fatalf("a missing line went unnoticed: %v", err)
	}
}

func TestNothingIsPromisedAfterAFailedWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.file.Close(); err != nil { // every write fails from here
		t.Fatal(err)
	}
	for range 2 {
		j.Note(rec(StageStored, "q", "h", events.ModeRevoke, 9))
		if err := j.Append(t.Context(), rec(StageIntent, "r", "h", events.ModeRevoke, 0)); !errors.Is(err, ErrFailed) {
			t.Fatalf("append to a broken file: %v", err)
		}
	}
}

func TestNotesComeWithTheNextWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	j, _, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	size := func() int {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Count(b, []byte("\n"))
	}
	j.Note(rec(StageStored, "r", "h", events.ModeRevoke, 1))
	if n := size(); n != 0 {
		t.Errorf("%d lines before anything is flushed", n)
	}
	if err := j.Append(t.Context(), rec(StageIntent, "r2", "h2", events.ModeRevoke, 0)); err != nil || size() != 2 {
		t.Errorf("%d lines after an append (%v), want 2", size(), err)
	}
	j.Note(rec(StageStored, "r2", "h2", events.ModeRevoke, 2))
	if err := errors.Join(j.Flush(), j.Flush()); err != nil || size() != 3 {
		t.Errorf("%d lines after a flush (%v), want 3", size(), err)
	}
	j.Note(rec(StageStored, "r3", "h3", events.ModeRevoke, 3))
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	if _, records, err := Open(path); err != nil || len(records) != 4 {
		t.Errorf("%d records after closing (%v), want 4", len(records), err)
	}
}

func TestStanding(t *testing.T) {
	revoke, freeze, lift := events.ModeRevoke, events.ModeFreeze, events.ModeLift
	old := rec(StageIntent, "old", "gone", revoke, 0)
	old.Keep = now.Add(-time.Second)
	held := Standing([]Record{
		rec(StageIntent, "r1", "a", revoke, 0), rec(StageStored, "r1", "a", revoke, 7),
		rec(StageIntent, "f1", "b", freeze, 0), rec(StageStored, "f1", "b", freeze, 8),
		rec(StageIntent, "f1", "b", lift, 0), rec(StageStored, "f1", "b", lift, 9),
		rec(StageIntent, "r2", "c", revoke, 0),                                          // crash before it was known
		rec(StageIntent, "f2", "a", freeze, 0), rec(StageStored, "f2", "a", freeze, 99), // cannot be: a is revoked
		rec(StageIntent, "r3", "d", revoke, 0), rec(StageIntent, "r4", "d", revoke, 0), rec(StageStored, "r3", "d", revoke, 12), // r4 came too late
		old,
	}, now)
	want := []struct {
		handle, rev string
		mode        events.Mode
		stored      uint64
	}{{"a", "r1", revoke, 7}, {"b", "f1", lift, 9}, {"c", "r2", revoke, 0}, {"d", "r3", revoke, 12}}
	if len(held) != len(want) {
		t.Fatalf("%d entries stand, want %d: %+v", len(held), len(want), held)
	}
	for i, w := range want {
		if h := held[i]; h.Handle != w.handle || h.Revocation != w.rev || h.Mode != w.mode || h.Stored != w.stored {
			t.Errorf("entry %d: %+v, want %+v", i, h, w)
		}
	}
}
