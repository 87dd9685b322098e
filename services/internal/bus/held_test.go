package bus

import (
	"testing"
	"time"
)

func TestHeld(t *testing.T) {
	now := testTime
	h := held{grace: 30 * time.Second, keys: map[string][]heldMessage{}}
	pass := func(key string, seq uint64, want bool) time.Duration {
		t.Helper()
		delay, ok := h.pass(key, seq, now)
		if ok != want {
			t.Fatalf("pass(%s, %d) = %v, want %v", key, seq, ok, want)
		}
		return delay
	}
	pass("a", 1, true)
	h.back("a", 1, now.Add(time.Second)) // 1 failed
	pass("b", 2, true)                   // another key
	if d := pass("a", 3, false); d < time.Second || d > 2*time.Second {
		t.Fatalf("3 is given back for %v", d)
	}
	pass("a", 4, false)
	now = now.Add(time.Second)
	pass("a", 4, false) // before 1 and 3
	pass("a", 1, true)
	h.back("a", 1, now.Add(2*time.Second)) // failed again
	pass("a", 3, false)
	now = now.Add(2 * time.Second)
	pass("a", 1, true)
	pass("a", 4, false) // before 3
	pass("a", 3, true)
	pass("a", 4, true)
	if len(h.keys) != 0 {
		t.Fatalf("entries are left: %v", h.keys)
	}
	h.back("a", 5, now.Add(time.Second))
	now = now.Add(32 * time.Second) // another process took 5
	pass("a", 6, true)
	if len(h.keys) != 0 {
		t.Fatalf("entries are left: %v", h.keys)
	}
}

func TestCosts(t *testing.T) {
	now := testTime
	for _, tc := range []struct {
		name          string
		plain, atomic time.Duration // of a trial
		single        bool
	}{
		{"server that syncs every write", 20 * time.Millisecond, 6 * time.Millisecond, false},
		{"server that does not", 2 * time.Millisecond, 6 * time.Millisecond, true},
	} {
		var k costs
		if atomic, most := k.choose(3, now); atomic || most != 3 {
			t.Errorf("%s: few messages go as %v %d", tc.name, atomic, most)
		}
		k.note(true, 100, time.Second, now) // had to be atomic
		for range trials {
			atomic, most := k.choose(500, now)
			if atomic || most != trial {
				t.Fatalf("%s: a plain trial is %v %d", tc.name, atomic, most)
			}
			k.note(atomic, most, tc.plain, now)
		}
		atomic, most := k.choose(500, now)
		if !atomic || most != trial {
			t.Fatalf("%s: the atomic trial is %v %d", tc.name, atomic, most)
		}
		k.note(atomic, most, tc.atomic, now)
		if atomic, most := k.choose(500, now); atomic == tc.single || most != 500 || k.direct(now) != tc.single {
			t.Errorf("%s: decided for atomic %v, %d messages", tc.name, atomic, most)
		}
		later := now.Add(decision)
		if atomic, most := k.choose(500, later); atomic || most != trial || k.direct(later) {
			t.Errorf("%s: no new trial: %v %d", tc.name, atomic, most)
		}
	}
}
