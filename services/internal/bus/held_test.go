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
		name        string
		each, batch time.Duration
		large       bool // a large group goes as a batch
		small       bool // so does one of eight
	}{
		{"a server that syncs every write", 800 * time.Microsecond, 4 * time.Millisecond, true, true},
		{"whose disk is quick", 100 * time.Microsecond, 2 * time.Millisecond, true, false},
		{"a server that does not", 20 * time.Microsecond, 3 * time.Millisecond, false, false},
	} {
		var k costs
		took := func(atomic bool, n int) time.Duration {
			if atomic {
				return tc.batch + time.Duration(n)*inBatch
			}
			return time.Duration(n) * tc.each
		}
		if atomic, most := k.choose(3, now); atomic || most != 3 || k.direct(now) {
			t.Errorf("%s: few messages go as %v %d", tc.name, atomic, most)
		}
		for range 2 { // both ways are tried on a part of a group, the second time because they are old
			for _, want := range []bool{false, true} {
				atomic, most := k.choose(500, now)
				if atomic != want || most != trial || k.direct(now) {
					t.Fatalf("%s: trial %v is %v %d", tc.name, want, atomic, most)
				}
				k.note(atomic, most, took(atomic, most), now)
			}
			for n, want := range map[int]bool{500: tc.large, 8: tc.small} {
				if atomic, most := k.choose(n, now); atomic != want || most != n {
					t.Errorf("%s: %d messages go as %v %d", tc.name, n, atomic, most)
				}
			}
			if k.direct(now) == tc.large {
				t.Errorf("%s: direct is %v", tc.name, k.direct(now))
			}
			now = now.Add(remeasure + 1)
		}
	}
}

// TestCostsForgive: one slow group does not decide for long.
func TestCostsForgive(t *testing.T) {
	var k costs
	now := testTime
	k.note(false, 64, 64*800*time.Microsecond, now)
	k.note(true, 64, 150*time.Millisecond, now) // the machine was busy
	n := 0
	for ; !k.cheaper(64) && n < 100; n++ {
		now = now.Add(remeasure + 1)
		k.note(true, 64, 6*time.Millisecond, now)
	}
	if n > 6 {
		t.Errorf("forgiven after %d groups", n)
	}
}
