package journal

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

var begin = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// history is n revokes of 16 minutes each, a minute apart, the first of epoch 9, with a
// freeze of a day among them that was lifted at once.
func history(n int) []Record {
	var out []Record
	both := func(i int, handle string, mode events.Mode, keep time.Duration, epoch uint64) {
		r := Record{Stage: StageIntent, Revocation: fmt.Sprint("r", i), Tenant: "acme", Handle: handle, Mode: mode, At: begin.Add(time.Duration(i) * time.Minute),
			Keep: begin.Add(time.Duration(i)*time.Minute + keep), Epoch: epoch, Entry: fmt.Sprint("signed ", i)}
		out = append(out, r)
		r.Stage, r.Entry, r.Sequence = StageStored, "", uint64(i+1)
		out = append(out, r)
	}
	both(0, "first", events.ModeRevoke, 16*time.Minute, 9)
	for i := range n {
		both(i, fmt.Sprint("h", i), events.ModeRevoke, 16*time.Minute, 1)
	}
	both(1, "frozen", events.ModeFreeze, 24*time.Hour, 1)
	both(2, "frozen", events.ModeLift, 16*time.Minute, 1)
	return out
}

func written(t *testing.T, records []Record) (string, *Journal) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "journal")
	j, _, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range records {
		j.Note(r)
	}
	if err := j.Flush(); err != nil {
		t.Fatal(err)
	}
	return path, j
}

// TestCompact: what is left out changes nothing that the journal is asked for, the
// chain holds, and it goes on from there.
func TestCompact(t *testing.T) {
	records := history(100)
	path, j := written(t, records)
	now := begin.Add(100 * time.Minute)
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := j.compact(now, 0); err != nil {
		t.Fatal(err)
	}
	more := Record{Stage: StageIntent, Revocation: "later", Handle: "later", Mode: events.ModeRevoke, At: now, Keep: now.Add(time.Hour), Epoch: 1, Entry: "signed"}
	if err := j.Append(t.Context(), more); err != nil {
		t.Fatal(err)
	}
	if err := j.compact(now, 0); err != nil { // nothing to leave out
		t.Fatal(err)
	}
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(path)
	if err != nil || after.Size() > before.Size()/3 {
		t.Errorf("%d bytes, were %d (%v)", after.Size(), before.Size(), err)
	}
	again, got, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	if got[0].Stage != StageCheckpoint || got[0].Sequence == 0 || Epoch(got) != 9 || got[len(got)-1].Revocation != "later" {
		t.Errorf("first %+v, last %+v, epoch %d", got[0], got[len(got)-1], Epoch(got))
	}
	for _, at := range []time.Duration{0, time.Minute, 10 * time.Minute, 25 * time.Hour} {
		want, have := Standing(append(records[:len(records):len(records)], more), now.Add(at)), Standing(got, now.Add(at))
		if len(want) != len(have) || len(want) > 0 && !reflect.DeepEqual(want, have) {
			t.Errorf("after %s: %d stand, want %d", at, len(have), len(want))
		}
	}
}

// TestCompactWaits: a journal that is small, or most of which is of use, is left alone.
func TestCompactWaits(t *testing.T) {
	path, j := written(t, history(10))
	defer j.Close()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(j.Compact(begin.Add(time.Hour)), j.compact(begin, 0)); err != nil {
		t.Fatal(err)
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
		t.Errorf("it was changed (%v)", err)
	}
}

// TestCompactWhileAppending: nothing that was promised meanwhile is lost.
func TestCompactWhileAppending(t *testing.T) {
	path, j := written(t, history(2000))
	now := begin.Add(3000 * time.Minute)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 50 {
				id := fmt.Sprint("new-", w, "-", i)
				if err := j.Append(t.Context(), Record{Stage: StageIntent, Revocation: id, Handle: id, Mode: events.ModeRevoke, At: now, Keep: now.Add(time.Hour), Epoch: 1}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for range 20 {
			if err := j.Compact(now); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	if err := errors.Join(j.compact(now, 0), j.Close()); err != nil {
		t.Fatal(err)
	}
	_, got, err := Open(path)
	if err != nil || len(Standing(got, now)) != 200 || len(got) != 201 {
		t.Errorf("%d records, %d stand, want 201 and 200 (%v)", len(got), len(Standing(got, now)), err)
	}
}
