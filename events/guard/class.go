package guard

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

const (
	minAge   = 2 * time.Second // heartbeats come every second
	maxStale = 5 * time.Minute
	// presenceSlack is how old the newest delivered presence may be when a heartbeat
	// renews the lease: revocation waits for a guard as long as its presence tells.
	presenceSlack = 15 * time.Second
)

// Class is how fresh a guard must be to say yes about data of one sensitivity.
type Class struct {
	// MaxAge of the newest heartbeat, stricter than the lease: 2 s up to the lease.
	// 0: the lease.
	MaxAge time.Duration
	// ServeStale makes the class degrade instead of closing; nil, the default, closes.
	ServeStale *ServeStale
}

// ServeStale is somebody's word that a class of data may be read for a while without
// knowing whether the credential is revoked. It widens what a revocation must wait
// for: the guard's presence says so, and no revocation counts as enforced at this
// guard before that time is over too. What the guard does get to know of it refuses at
// once, and it says yes only after it was fresh once since its start.
type ServeStale struct {
	By     string    // who answers for it
	Reason string    // why
	Until  time.Time // after this it says nothing more
	// For is how long after the end of the lease, at most 5 minutes, and never beyond
	// the credential's own expiry.
	For time.Duration
	// Scopes that only read. A request that requires another one, or none, is refused.
	Scopes []string
}

func (c Class) check(lease time.Duration) error {
	if c.MaxAge != 0 && (c.MaxAge < minAge || c.MaxAge > lease) {
		return fmt.Errorf("max age %s: want %s up to the lease, %s", c.MaxAge, minAge, lease)
	}
	s := c.ServeStale
	switch {
	case s == nil:
		return nil
	case s.By == "", s.Reason == "", s.Until.IsZero(), len(s.Scopes) == 0:
		return errors.New("serving stale needs by, reason, until and the scopes that only read")
	case s.For <= 0, s.For > maxStale:
		return fmt.Errorf("serving stale for %s: want at most %s", s.For, maxStale)
	}
	return nil
}

// MayServeStale reports whether a class lets a stale guard say yes now to a request
// that requires scopes.
func (g *Guard) MayServeStale(class string, scopes []string) bool {
	s := g.cfg.Classes[class].ServeStale
	if s == nil || len(scopes) == 0 || !g.cfg.Now().Before(s.Until) {
		return false
	}
	return !slices.ContainsFunc(scopes, func(sc string) bool { return !slices.Contains(s.Scopes, sc) })
}

// footing is what a decision needs to know of the guard.
type footing struct {
	class   string
	reading bool // every scope that is required only reads, by the class's ServeStale
}

func (g *Guard) footing(class string, scopes []string) footing {
	return footing{class, g.MayServeStale(class, scopes)}
}

// stand tells whether the guard may say yes now: left is for how long, if nothing else
// happens.
func (g *Guard) stand(f footing) (stale bool, age, left time.Duration, d *Denial) {
	class, known := g.cfg.Classes[f.class]
	if !known && f.class != "" {
		return false, 0, 0, &Denial{Code: CodeStale, Reason: fmt.Sprintf("data class %q is not configured at this guard", f.class)}
	}
	boot, end := g.cfg.Boot(), time.Duration(g.leaseEnd.Load())
	age = max(0, boot-(end-g.cfg.Lease))
	left = end - boot
	if class.MaxAge > 0 {
		left = class.MaxAge - age
	}
	switch {
	case end == 0:
	case left > 0 && g.attached.Load():
		return false, age, left, nil
	case f.reading && g.everFresh() && g.cfg.Now().Before(class.ServeStale.Until):
		if left = end + class.ServeStale.For - boot; left > 0 {
			return true, age, left, nil
		}
	}
	why := g.Status().Problem
	if why == "" {
		why = fmt.Sprintf("the newest heartbeat is %s old, more than the data class allows", age.Round(time.Millisecond))
	}
	return false, age, 0, &Denial{Code: CodeStale, Reason: "the guard is not fresh: " + why}
}

// everFresh reports whether the guard was fresh since its start, which means that it
// had caught up and that revocation was told of it.
func (g *Guard) everFresh() bool {
	select {
	case <-g.ready:
		return true
	default:
		return false
	}
}

// staleSeconds is how long after its lease the guard may still say yes to something.
func (g *Guard) staleSeconds() float64 {
	var longest time.Duration
	for _, c := range g.cfg.Classes {
		if s := c.ServeStale; s != nil && g.cfg.Now().Before(s.Until) {
			longest = max(longest, s.For)
		}
	}
	return longest.Seconds()
}

// capLease keeps the lease within what the newest presence promises: a guard whose
// presence does not arrive is soon not waited for any more.
func (g *Guard) capLease(end int64) int64 {
	if at := g.presented.Load(); at != 0 && g.attached.Load() {
		return min(end, at+int64(presenceSlack+g.cfg.Lease))
	}
	return end
}

// told states that a presence was delivered. It was made at boot.
func (g *Guard) told(a events.GuardAttached, boot time.Duration) {
	if a.Fresh {
		g.presented.Store(int64(boot))
	}
	g.attached.Store(a.Fresh)
}
