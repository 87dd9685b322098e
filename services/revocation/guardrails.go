package revocation

import "sync"

// flights lets one goroutine at a time work on what has one name. A revocation: the
// HTTP request and the delivery of its own event do not race in one process, and
// between processes the expected sequences decide. A tenant whose capped requests
// are decided: many at once cannot pass the cap together. (Two processes can, by
// what each of them has under way.)
type flights struct {
	mu sync.Mutex
	in map[string]*flight
}

type flight struct {
	mu    sync.Mutex
	users int
}

// lock waits for the name and returns how to let it go.
func (f *flights) lock(id string) (unlock func()) {
	f.mu.Lock()
	if f.in == nil {
		f.in = map[string]*flight{}
	}
	fl, ok := f.in[id]
	if !ok {
		fl = &flight{}
		f.in[id] = fl
	}
	fl.users++
	f.mu.Unlock()
	fl.mu.Lock()
	return func() {
		fl.mu.Unlock()
		f.mu.Lock()
		defer f.mu.Unlock()
		if fl.users--; fl.users == 0 {
			delete(f.in, id)
		}
	}
}
