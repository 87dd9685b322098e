// Package guard decides, beside a resource, whether a token may act: signature,
// issuer, audience, times, sender constraint and lineage against the set of
// revoked handles, which the kill feed pushes. It needs no network call per
// decision and fails closed when it can no longer know.
//
// Products import it. See natsfeed for the feed over NATS.
package guard

import (
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// Defaults of Config.
const (
	DefaultLease    = 15 * time.Second
	DefaultLeeway   = 5 * time.Second
	DefaultPresence = 5 * time.Second
)

// skew is how far the clocks of a heartbeat's sender and of a guard may be apart
// before the lease gets shorter.
const skew = time.Second

// Config of a guard. Point, Tenant, Issuer, Audience, Keys, FeedKey and Feed are required.
type Config struct {
	Point     string            // id of this enforcement point, unique in the deployment
	Tenant    string            // tenant of the resource
	Issuer    string            // expected "iss"
	Audience  string            // expected "aud"
	Keys      token.Keys        // token signing keys, see RemoteKeys
	FeedKey   ed25519.PublicKey // verifies kill entries and heartbeats
	Feed      Feed
	StateFile string        // persists epoch, sequence and receipt key; "" keeps them in memory
	Lease     time.Duration // default 15 s; must exceed a leader election
	Leeway    time.Duration // for token times, default 5 s
	Presence  time.Duration // how often it states its presence, default 5 s
	// HotTokens is how many tokens' signatures are remembered, so that they need not be
	// verified at each request: default 4096, some megabytes; negative: none.
	HotTokens int
	// Classes of data by name, for requests that name one. Optional.
	Classes map[string]Class
	// Resource makes challenges say where the resource describes itself, see
	// ResourceMetadata. Optional.
	Resource *Resource
	// Stale is called for every answer that was given only because its data class
	// serves stale. It must not block. Optional.
	Stale func(Decision)
	// Denied is called for every denial, and for whatever open thing is cut, with what
	// the caller must not learn. It must not block. Optional.
	Denied func(Denial)
	Now    func() time.Time // default time.Now
	// Boot reads the clock that leases are measured by: it never goes back and
	// counts suspend. Default CLOCK_BOOTTIME.
	Boot func() time.Duration
}

// Guard is safe for concurrent use.
type Guard struct {
	cfg     Config
	signer  token.Signer // of receipts
	jwk     string       // its public key
	set     *killSet
	replays replays
	watches watches
	hot     hot

	metadata *url.URL // where document is served; nil without Config.Resource
	document []byte

	leaseEnd  atomic.Int64 // on the boot clock, nanoseconds; 0: closed
	attached  atomic.Bool  // the last presence delivered said that the lease is valid
	presented atomic.Int64 // when that one was made, on the boot clock
	attend    chan struct{}
	ready     chan struct{}
	opened    sync.Once // closes ready
	running   atomic.Bool
	answers   answers

	saving sync.Mutex // guards keeper; taken before mu
	keeper keeper
	mu     sync.Mutex
	pos    position
}

// position is where the guard stands in the feed. Only the follower changes it.
type position struct {
	// state is what must not be forgotten. It moves on only while the feed is
	// trusted; what is stored may be behind it.
	state     persisted
	fresh     bool   // there was no state before this start
	trusted   bool   // the feed is not older than state
	applied   uint64 // every message up to here that still exists is applied
	lastEntry uint64 // sequence of the newest entry applied
	filledTo  uint64 // a fill reached up to here

	beatTime time.Time // signed time of the newest heartbeat that renewed the lease
	beatBoot time.Duration
	beaten   bool
	ignored  uint64

	savedEpoch uint64 // that is stored
	journal    int    // lines of the journal
	problem    string // what keeps the guard from being fresh
	answering  string // what keeps receipts from being delivered
	attending  string // what keeps presence from being delivered
}

// advance states that every stored message up to seq is applied.
func (p *position) advance(seq uint64) {
	p.applied = max(p.applied, seq)
	if p.trusted {
		p.state.Sequence = p.applied
	}
}

// New checks the configuration, reads the state file or makes it; Run starts the guard.
func New(cfg Config) (*Guard, error) {
	if cfg.StateFile == "" {
		return newGuard(cfg, new(forgetful))
	}
	return newGuard(cfg, &files{path: cfg.StateFile})
}

func newGuard(cfg Config, k keeper) (*Guard, error) {
	switch {
	case cfg.Point == "", cfg.Issuer == "", cfg.Audience == "":
		return nil, errors.New("make guard: point, issuer and audience are required")
	case !events.ValidTenant(cfg.Tenant):
		return nil, fmt.Errorf("make guard: %w: %q", events.ErrBadTenant, cfg.Tenant)
	case cfg.Keys == nil, cfg.Feed == nil, len(cfg.FeedKey) != ed25519.PublicKeySize:
		return nil, errors.New("make guard: keys, feed and the feed's key are required")
	case cfg.Lease < 0, cfg.Leeway < 0, cfg.Presence < 0:
		return nil, errors.New("make guard: lease, leeway and presence must not be negative")
	}
	if cfg.Lease == 0 {
		cfg.Lease = DefaultLease
	}
	if cfg.Leeway == 0 {
		cfg.Leeway = DefaultLeeway
	}
	if cfg.HotTokens == 0 {
		cfg.HotTokens = DefaultHotTokens
	}
	if cfg.Presence == 0 {
		cfg.Presence = DefaultPresence
	}
	for name, c := range cfg.Classes {
		if err := c.check(cfg.Lease); err != nil {
			return nil, fmt.Errorf("make guard: data class %q: %w", name, err)
		}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Boot == nil {
		cfg.Boot = bootClock()
	}
	state, lines, fresh, err := k.load(cfg.Point)
	if err != nil {
		return nil, fmt.Errorf("make guard %q: %w", cfg.Point, err)
	}
	signer, err := token.NewSigner("", ed25519.NewKeyFromSeed(state.Seed))
	if err != nil {
		return nil, fmt.Errorf("make guard %q: %w", cfg.Point, err)
	}
	jwk, err := signer.Key().JWK()
	if err != nil {
		return nil, fmt.Errorf("make guard %q: %w", cfg.Point, err)
	}
	g := &Guard{cfg: cfg, signer: signer, jwk: string(jwk), set: newKillSet(), keeper: k,
		attend: make(chan struct{}, 1), ready: make(chan struct{}), answers: newAnswers(), watches: newWatches(), hot: newHot(max(cfg.HotTokens, 0))}
	if cfg.Resource != nil {
		if g.metadata, g.document, err = cfg.Resource.describe(cfg.Issuer, cfg.Audience); err != nil {
			return nil, fmt.Errorf("make guard %q: %w", cfg.Point, err)
		}
	}
	savedEpoch := state.Epoch
	if err := g.restore(&state, lines, cfg.Now()); err != nil {
		return nil, fmt.Errorf("make guard %q: %w", cfg.Point, err)
	}
	g.pos = position{state: state, fresh: fresh, savedEpoch: savedEpoch, journal: len(lines), problem: "has not caught up yet"}
	return g, nil
}

// Ready is closed when the guard has caught up and its lease is valid for the first time.
func (g *Guard) Ready() <-chan struct{} { return g.ready }

// Block refuses handles on the word of the process itself, as a local kill switch
// or from a copy of the set kept elsewhere. Like every revocation it is final until
// the entry's retention is over. Entries that are not a revoke or freeze are errors.
func (g *Guard) Block(entries iter.Seq[Entry]) error {
	for e := range entries {
		if err := e.check(); err != nil {
			return fmt.Errorf("block handle: %w", err)
		}
		if e.Mode == events.ModeLift {
			return fmt.Errorf("block handle: %w: a lift", ErrEntry)
		}
		g.apply(e)
	}
	return nil
}

// Status is where the guard stands.
type Status struct {
	Point    string        `json:"point"`
	Fresh    bool          `json:"fresh"`
	Age      time.Duration `json:"age_ns"` // of the newest heartbeat
	Epoch    uint64        `json:"epoch"`
	Sequence uint64        `json:"sequence"`
	Entries  int           `json:"entries"`
	Problem  string        `json:"problem,omitempty"`
	// LastEntry is the stream sequence of the newest kill entry it has applied.
	LastEntry uint64 `json:"last_entry"`
	// Ignored counts messages of the feed that were forged or made no sense, each time
	// they were met.
	Ignored uint64 `json:"ignored"`
}

// Status is where the guard stands now.
func (g *Guard) Status() Status {
	g.mu.Lock()
	p := g.pos
	g.mu.Unlock()
	s := Status{
		Point: g.cfg.Point, Fresh: g.fresh(), Epoch: p.state.Epoch, Sequence: p.applied, Entries: g.set.size(),
		Problem: p.problem, LastEntry: p.lastEntry, Ignored: p.ignored,
	}
	if p.beaten {
		s.Age = g.cfg.Boot() - p.beatBoot
	}
	if s.Problem == "" && !g.leased() {
		s.Problem = "no heartbeat of the kill feed within the lease"
	}
	s.Problem = cmp.Or(s.Problem, p.answering, p.attending)
	if s.Problem == "" && !s.Fresh {
		s.Problem = "its presence is not stated yet"
	}
	return s
}

// fresh reports whether the guard may say yes: its lease is valid and the revocation
// service was told so, which makes it wait for this guard's receipts.
func (g *Guard) fresh() bool { return g.attached.Load() && g.leased() }

// leased reports whether the lease is valid: its end itself is outside.
func (g *Guard) leased() bool {
	end := g.leaseEnd.Load()
	return end != 0 && int64(g.cfg.Boot()) < end
}

// update changes the position.
func (g *Guard) update(f func(p *position)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f(&g.pos)
}

func (g *Guard) position() position {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.pos
}
