package adapter

import (
	"errors"
	"fmt"
	"testing"

	"github.com/lanyard-nhi/lanyard/events"
)

// named reports whether an error says in the terms of this package or of package events
// what is wrong.
func named(err error) bool {
	for _, known := range []error{ErrSkip, ErrTime, ErrNotStored, ErrTooMany, ErrNoMapping} {
		if errors.Is(err, known) {
			return true
		}
	}
	return events.Code(err) != "internal"
}

// FuzzAdapters gives any body to any adapter: it must not panic, every refusal must have
// a name, what comes out must be valid, and the same body must give the same again.
func FuzzAdapters(f *testing.F) {
	table := Table()
	for i, a := range table {
		f.Add(uint8(i), []byte(`{"Records":[{"eventID":"1"}]}`))
		f.Add(uint8(i), []byte(`[{},[],null,7,"x"]`))
		if a.Name != "cloudtrail" {
			f.Add(uint8(i), example(f, a.Name))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, body []byte) {
		a := table[int(which)%len(table)]
		in := input(body)
		items, err := a.Read(in)
		if err != nil {
			if !named(err) {
				t.Fatalf("%s: error without a name: %v", a.Name, err)
			}
			return
		}
		if len(items) > in.Limit {
			t.Fatalf("%s: %d items, at most %d are allowed", a.Name, len(items), in.Limit)
		}
		for _, it := range items {
			if it.Err != nil {
				if !named(it.Err) {
					t.Fatalf("%s: error without a name: %v", a.Name, it.Err)
				}
				continue
			}
			if err := events.Validate(it.Event); err != nil {
				t.Fatalf("%s: made what is not valid: %v", a.Name, err)
			}
			if _, err := events.Encode(it.Event); err != nil && !named(err) {
				t.Fatalf("%s: made what cannot be encoded: %v", a.Name, err)
			}
		}
		again, err := a.Read(in)
		if err != nil || len(again) != len(items) {
			t.Fatalf("%s: read again: %d items, error %v", a.Name, len(again), err)
		}
		for i := range items {
			if fmt.Sprint(items[i].Event) != fmt.Sprint(again[i].Event) {
				t.Fatalf("%s: the same record made another event", a.Name)
			}
		}
	})
}
