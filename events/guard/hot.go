package guard

import (
	"crypto"
	"slices"
	"sync"

	"github.com/lanyard-nhi/lanyard/events/token"
)

// DefaultHotTokens is how many tokens' signatures are remembered.
const DefaultHotTokens = 4096

// hot remembers tokens whose signature verified, by their whole text and the key, so
// that the next request with the same token costs no public-key operation. It decides
// nothing: times, audience, lineage, sender constraint and scopes are looked at each
// time, and a key that is gone or replaced makes its tokens unknown. It holds two
// generations, each half of the limit.
type hot struct {
	mu       sync.Mutex
	limit    int // of a generation; 0: remember nothing
	now, old map[string]signed
}

// signed is a token whose signature verified.
type signed struct {
	claims token.Claims
	key    token.Key
}

func newHot(tokens int) hot { return hot{limit: tokens / 2, now: map[string]signed{}} }

// get is what is remembered of a token under the keys of now.
func (h *hot) get(raw string, keys token.Keys) (token.Claims, bool) {
	h.mu.Lock()
	s, ok := h.now[raw]
	if !ok {
		if s, ok = h.old[raw]; ok {
			h.enter(raw, s) // so that what is in use stays
		}
	}
	h.mu.Unlock()
	if !ok {
		return token.Claims{}, false
	}
	// Asked outside the lock: it may fetch.
	if k, known := keys.Key(s.key.ID); !known || k.Algorithm != s.key.Algorithm || !samePublic(k.Public, s.key.Public) {
		return token.Claims{}, false
	}
	return unshared(s.claims), true
}

func (h *hot) put(raw string, s signed) {
	if h.limit == 0 || len(s.claims.Details) > 0 { // rare, and not to be shared
		return
	}
	s.claims = unshared(s.claims)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.enter(raw, s)
}

// enter is called with mu held.
func (h *hot) enter(raw string, s signed) {
	if len(h.now) >= h.limit {
		h.old, h.now = h.now, make(map[string]signed, h.limit)
	}
	h.now[raw] = s
}

func samePublic(a, b crypto.PublicKey) bool {
	e, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && e.Equal(b)
}

// unshared makes claims that can be changed without changing c.
func unshared(c token.Claims) token.Claims {
	c.Audience, c.Lineage = slices.Clone(c.Audience), slices.Clone(c.Lineage)
	if c.Confirm != nil {
		confirm := *c.Confirm
		c.Confirm = &confirm
	}
	for at := &c.Actor; *at != nil; at = &(*at).Actor {
		actor := **at
		*at = &actor
	}
	return c
}

// seen is one key of keys, remembered.
type seen struct {
	keys token.Keys
	key  token.Key
}

// Key implements token.Keys.
func (s *seen) Key(kid string) (k token.Key, ok bool) {
	k, ok = s.keys.Key(kid)
	s.key = k
	return k, ok
}

// verify is token.Verify, without the signature when that has been verified before.
func (g *Guard) verify(raw string, want token.Expect) (token.Claims, error) {
	if c, ok := g.hot.get(raw, g.cfg.Keys); ok {
		return c, c.Check(want)
	}
	keys := &seen{keys: g.cfg.Keys}
	c, err := token.Verify(raw, keys, want)
	if err == nil {
		g.hot.put(raw, signed{c, keys.key})
	}
	return c, err
}
