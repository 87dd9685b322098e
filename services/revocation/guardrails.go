package revocation

import (
	"sync"

	"github.com/lanyard-nhi/lanyard/services/revocation/internal/accept"
)

// flights lets one goroutine at a time work on one revocation, so that the HTTP
// request and the delivery of its own event do not race in one process. Between
// processes the expected sequences decide.
type flights struct {
	mu sync.Mutex
	in map[string]*flight
}

type flight struct {
	mu    sync.Mutex
	users int
}

// lock waits for the revocation and returns how to let it go.
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

// shares counts the revocations under way per requester and tenant, so that many
// at once cannot pass the cap together.
type shares struct {
	mu sync.Mutex
	in map[string]int
}

// take counts req in and returns how many of its requester and its tenant were
// under way before it. Revocations of leaves by people are never capped.
func (s *shares) take(req accept.Request, t accept.Thing) (own, tenant int, release func()) {
	if accept.Leaf(t.Kind) && !req.Automatic {
		return 0, 0, func() {}
	}
	keys := [2]string{req.Tenant + "/" + req.RequestedBy, req.Tenant + "/"}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.in == nil {
		s.in = map[string]int{}
	}
	own, tenant = s.in[keys[0]], s.in[keys[1]]
	for _, k := range keys {
		s.in[k]++
	}
	return own, tenant, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, k := range keys {
			if s.in[k]--; s.in[k] == 0 {
				delete(s.in, k)
			}
		}
	}
}
