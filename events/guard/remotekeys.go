package guard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lanyard-nhi/lanyard/events/token"
)

const (
	maxJWKS      = 256 << 10 // bytes
	keysInterval = 5 * time.Second
	keysFirst    = 500 * time.Millisecond
	keysTimeout  = 5 * time.Second
	keysRefresh  = time.Minute
)

// RemoteKeys is the keys of a JWK Set served over HTTP (RFC 7517 section 5). It
// implements token.Keys. A kid that is not known fetches the set anew, but no more
// often than every five seconds, whoever asks; run Run to also fetch it once a
// minute, which is how a retired key goes. The last good set stays when a fetch
// fails. Client and URL are required. It is safe for concurrent use and must not be
// copied.
type RemoteKeys struct {
	Client *http.Client // decides on TLS, redirects and which addresses may be dialled
	URL    string
	Now    func() time.Time // default time.Now

	set      atomic.Pointer[token.KeySet]
	mu       sync.Mutex // held during a fetch: whoever waits for it sees its result
	tried    time.Time  // when the last fetch began; guarded by mu
	attempts atomic.Uint64
}

// Key implements token.Keys.
func (r *RemoteKeys) Key(kid string) (token.Key, bool) {
	if k, ok := r.look(kid); ok {
		return k, true
	}
	seen := r.attempts.Load()
	r.mu.Lock()
	defer r.mu.Unlock()
	interval := keysInterval
	if r.set.Load() == nil {
		interval = keysFirst // the issuer may be about to start
	}
	if r.attempts.Load() == seen && r.now().Sub(r.tried).Abs() >= interval {
		ctx, cancel := context.WithTimeout(context.Background(), keysTimeout)
		defer cancel()
		// A failed fetch leaves the kid unknown, which is what the caller is told.
		_ = r.fetch(ctx)
	}
	return r.look(kid)
}

// KeyIDs is the ids of the keys known now, sorted.
func (r *RemoteKeys) KeyIDs() []string {
	if s := r.set.Load(); s != nil {
		return s.KeyIDs()
	}
	return nil
}

// Refresh fetches the set now.
func (r *RemoteKeys) Refresh(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fetch(ctx)
}

// Run fetches the set at once and then every minute until ctx ends. Failures are
// given to failed, which may be nil.
func (r *RemoteKeys) Run(ctx context.Context, failed func(error)) {
	tick := time.NewTicker(keysRefresh)
	defer tick.Stop()
	for {
		once, cancel := context.WithTimeout(ctx, keysTimeout)
		err := r.Refresh(once)
		cancel()
		if err != nil && ctx.Err() == nil && failed != nil {
			failed(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *RemoteKeys) look(kid string) (token.Key, bool) {
	if s := r.set.Load(); s != nil {
		return s.Key(kid)
	}
	return token.Key{}, false
}

func (r *RemoteKeys) now() time.Time {
	if r.Now != nil {
		return r.Now()
	}
	return time.Now()
}

// fetch is called with mu held.
func (r *RemoteKeys) fetch(ctx context.Context) error {
	r.tried = r.now()
	r.attempts.Add(1)
	set, err := r.get(ctx)
	if err != nil {
		return fmt.Errorf("fetch keys from %s: %w", r.URL, err)
	}
	r.set.Store(&set)
	return nil
}

func (r *RemoteKeys) get(ctx context.Context) (token.KeySet, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	res, err := r.Client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", res.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxJWKS+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxJWKS {
		return nil, fmt.Errorf("JWK Set longer than %d bytes", maxJWKS)
	}
	set, err := token.ParseJWKS(b)
	if err != nil {
		return nil, err
	}
	if len(set) == 0 {
		return nil, errors.New("no key that can verify tokens")
	}
	return set, nil
}
