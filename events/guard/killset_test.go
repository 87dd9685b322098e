package guard

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"pgregory.net/rapid"
)

func handle(n uint64) lineage.Handle {
	var h lineage.Handle
	binary.BigEndian.PutUint64(h[4:], n+1)
	return h
}

func TestTableAgainstMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var tab table
		model := map[lineage.Handle]uint32{}
		wide := rapid.Bool().Draw(t, "wide")
		draw := func() lineage.Handle {
			if wide {
				return lineage.Handle(rapid.SliceOfN(rapid.Byte(), 12, 12).Draw(t, "handle"))
			}
			return handle(rapid.Uint64Range(0, 300).Draw(t, "n"))
		}
		t.Repeat(map[string]func(*rapid.T){
			"insert": func(t *rapid.T) {
				h := draw()
				keep := rapid.Uint32Range(1, 1000).Draw(t, "keep")
				if _, ok := model[h]; !ok {
					tab.insert(h, keep)
					model[h] = keep
				}
			},
			"find": func(t *rapid.T) {
				h := draw()
				at := tab.find(h)
				keep, ok := model[h]
				if ok != (at >= 0) || ok && tab.slots[at].keep != keep {
					t.Fatalf("find %v: slot %d, model %v", h, at, ok)
				}
			},
			"expire": func(t *rapid.T) {
				limit := rapid.Int64Range(1, 1000).Draw(t, "limit")
				tab.rebuild(limit)
				for h, keep := range model {
					if int64(keep) < limit {
						delete(model, h)
					}
				}
			},
			"": func(t *rapid.T) {
				if tab.n != len(model) {
					t.Fatalf("%d in the table, %d in the model", tab.n, len(model))
				}
				for h := range model {
					if tab.find(h) < 0 {
						t.Fatalf("%v is lost", h)
					}
				}
			},
		})
	})
}

func TestTableBytesPerHandle(t *testing.T) {
	var tab table
	r := rand.New(rand.NewPCG(1, 2))
	worst := 0.0
	for range 200_000 {
		var h lineage.Handle
		binary.LittleEndian.PutUint64(h[:], r.Uint64())
		binary.LittleEndian.PutUint32(h[8:], r.Uint32())
		tab.insert(h, 1)
		if tab.n > 1000 {
			worst = max(worst, float64(cap(tab.slots)*16)/float64(tab.n))
		}
	}
	if worst > 22 {
		t.Errorf("%.1f bytes a handle at worst, want at most 22", worst)
	}
}

func TestKillSet(t *testing.T) {
	at := time.Unix(1_800_000_000, 0)
	until := at.Add(time.Minute)
	entry := func(mode events.Mode, rev string, at time.Time) Entry {
		e := Entry{Handle: handle(1), Mode: mode, Revocation: rev, At: at, Keep: at.Add(20 * time.Minute)}
		if mode == events.ModeFreeze {
			e.Until = &until
		}
		return e
	}
	revoke, freeze, lift := entry(events.ModeRevoke, "r", at), entry(events.ModeFreeze, "f", at), entry(events.ModeLift, "f", at)
	for name, c := range map[string]struct {
		entries []Entry
		when    time.Time
		want    events.Mode // "" when alive
		outcome events.ReceiptOutcome
	}{
		"nothing":                 {nil, at, "", ""},
		"revoke":                  {[]Entry{revoke}, at, events.ModeRevoke, events.ReceiptEnforced},
		"revoke again":            {[]Entry{revoke, revoke}, at, events.ModeRevoke, events.ReceiptEnforced},
		"revoke by another":       {[]Entry{revoke, entry(events.ModeRevoke, "r2", at)}, at, events.ModeRevoke, events.ReceiptAlreadyDead},
		"lift of a revoke":        {[]Entry{revoke, lift}, at, events.ModeRevoke, events.ReceiptAlreadyDead},
		"freeze of a revoke":      {[]Entry{revoke, freeze}, until, events.ModeRevoke, events.ReceiptAlreadyDead},
		"freeze":                  {[]Entry{freeze}, until.Add(-1), events.ModeFreeze, events.ReceiptEnforced},
		"freeze that ended":       {[]Entry{freeze}, until, "", events.ReceiptEnforced},
		"freeze lifted":           {[]Entry{freeze, lift}, at, "", events.ReceiptEnforced},
		"revoke after freeze":     {[]Entry{freeze, revoke}, until, events.ModeRevoke, events.ReceiptEnforced},
		"lift, then revoke":       {[]Entry{freeze, lift, revoke}, at, events.ModeRevoke, events.ReceiptEnforced},
		"replayed lift":           {[]Entry{freeze, entry(events.ModeLift, "f", at.Add(-6*time.Second))}, at, events.ModeFreeze, events.ReceiptEnforced},
		"lift by a slower clock":  {[]Entry{freeze, entry(events.ModeLift, "f", at.Add(-4*time.Second))}, at, "", events.ReceiptEnforced},
		"older freeze after this": {[]Entry{freeze, entry(events.ModeFreeze, "old", at.Add(-time.Hour))}, at, events.ModeFreeze, events.ReceiptEnforced},
	} {
		t.Run(name, func(t *testing.T) {
			s := newKillSet()
			var outcome events.ReceiptOutcome
			for _, e := range c.entries {
				outcome = s.apply(e)
			}
			e, dead := s.find([]lineage.Handle{handle(7), handle(1)}, c.when)
			if dead != (c.want != "") || e.Mode != c.want || outcome != c.outcome {
				t.Errorf("got %v %q, outcome %q, want %q, %q", dead, e.Mode, outcome, c.want, c.outcome)
			}
			if _, dead := s.find([]lineage.Handle{handle(7), handle(2)}, c.when); dead {
				t.Error("a handle that no entry names is dead")
			}
		})
	}
}

func TestKillSetRetention(t *testing.T) {
	s := newKillSet()
	at := time.Unix(1_800_000_000, 0)
	for i := range uint64(100) {
		s.apply(Entry{Handle: handle(i), Mode: events.ModeRevoke, Revocation: "r", At: at, Keep: at.Add(time.Duration(i) * time.Second)})
	}
	until := at.Add(10 * time.Second)
	s.apply(Entry{Handle: handle(200), Mode: events.ModeFreeze, Revocation: "f", At: at, Until: &until, Keep: at.Add(30 * time.Second)})
	s.sweep(at.Add(20 * time.Second))
	if n := s.size(); n != 81 {
		t.Errorf("%d entries after 20 s, want 81", n)
	}
	if _, dead := s.find([]lineage.Handle{handle(19)}, at); dead {
		t.Error("an entry past its retention is kept")
	}
	if e, dead := s.find([]lineage.Handle{handle(20)}, at); !dead || e.Revocation != "r" {
		t.Error("an entry was dropped within its retention")
	}
	// A second revoke of the same handle lengthens its retention.
	s.apply(Entry{Handle: handle(21), Mode: events.ModeRevoke, Revocation: "r2", At: at, Keep: at.Add(time.Hour)})
	s.sweep(at.Add(10 * time.Minute))
	if n := s.size(); n != 1 {
		t.Errorf("%d entries after 10 min, want 1", n)
	}
	if _, dead := s.find([]lineage.Handle{handle(21)}, at); !dead {
		t.Error("the longer retention did not hold")
	}
}

func TestKillSetForgetsDetailsNotHandles(t *testing.T) {
	s := newKillSet()
	at := time.Unix(1_800_000_000, 0)
	for i := range uint64(maxDetails + 10) {
		s.apply(Entry{Handle: handle(i), Mode: events.ModeRevoke, Revocation: "r", At: at, Keep: at.Add(time.Hour)})
	}
	e, dead := s.find([]lineage.Handle{handle(3)}, at)
	if !dead || e.Revocation != "" || e.Reason == "" || e.Handle != handle(3) {
		t.Errorf("oldest: dead %v, %+v", dead, e)
	}
	if e, dead = s.find([]lineage.Handle{handle(maxDetails + 9)}, at); !dead || e.Revocation != "r" {
		t.Errorf("newest: dead %v, %+v", dead, e)
	}
	if len(s.detail) != maxDetails || len(s.ring) != maxDetails {
		t.Errorf("%d details, %d in the ring", len(s.detail), len(s.ring))
	}
}
