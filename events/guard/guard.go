// Package guard decides, beside a resource, whether a token may act: signature,
// issuer, audience, times, sender constraint and lineage against the set of
// revoked handles, which the kill feed pushes. It needs no network call per
// decision and fails closed when it can no longer know.
//
// Products import it. See natsfeed for the feed over NATS.
package guard

import (
	"context"
	"crypto/ed25519"
	"net/http"
	"time"

	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
)

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
	// Denied is called for every denial with what the caller must not learn. It
	// must not block. Optional.
	Denied func(Denial)
	Now    func() time.Time // default time.Now
}

// Denial is the honest reason, for the operator's log.
type Denial struct {
	Code       string        // see the Code constants
	Reason     string        // for people
	Claims     *token.Claims // nil when the signature did not verify
	Revocation string        // id, when the lineage was revoked
	By         string
	At         time.Time // when the revocation took effect
	Handle     lineage.Handle
}

// Error implements error. Its text is safe to show to the caller: it names the
// RFC 6750 error only.
func (d *Denial) Error() string { panic("being built") }

// Codes of denials.
const (
	CodeMissing    = "missing_token"
	CodeMalformed  = "malformed_token"
	CodeSignature  = "bad_signature"
	CodeUnknownKey = "unknown_key"
	CodeIssuer     = "wrong_issuer"
	CodeAudience   = "wrong_audience"
	CodeExpired    = "expired"
	CodeNotYet     = "not_yet_valid"
	CodeRevoked    = "revoked"
	CodeFrozen     = "frozen"
	CodeStale      = "stale"            // the guard's lease ran out: it cannot know
	CodeBinding    = "binding_mismatch" // sender constraint not met
	CodeScope      = "insufficient_scope"
	CodeLineage    = "bad_lineage"
)

// Guard is safe for concurrent use.
type Guard struct{}

// New checks the configuration; Run starts it.
func New(cfg Config) (*Guard, error) { panic("being built") }

// Run follows the feed, answers with receipts and states its presence until ctx
// ends. Before it caught up for the first time the guard denies everything.
func (g *Guard) Run(ctx context.Context) error { panic("being built") }

// Ready is closed when the guard has caught up and its lease is valid for the first time.
func (g *Guard) Ready() <-chan struct{} { panic("being built") }

// Request is what a decision is made of beside the token.
type Request struct {
	Token  string
	Scopes []string      // all are required
	HTTP   *http.Request // for the sender constraint; nil when the token must not be bound
	// MinSequence asks for an answer at least as fresh as this sequence of the kill
	// feed, for a caller that knows of a revocation there. 0 asks for nothing.
	MinSequence uint64
}

// Check decides. A nil error means allowed; otherwise it is a *Denial.
func (g *Guard) Check(ctx context.Context, r Request) (token.Claims, error) { panic("being built") }

// Dead reports whether any handle is revoked or frozen now, and by which entry.
// It does not look at the lease.
func (g *Guard) Dead(lin []lineage.Handle) (Entry, bool) { panic("being built") }

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
	// Ignored counts messages of the feed that were forged or made no sense.
	Ignored uint64 `json:"ignored"`
}

// Status is where the guard stands now.
func (g *Guard) Status() Status { panic("being built") }

// Middleware guards next: it answers RFC 6750 errors itself and puts the claims
// into the request's context, see FromContext.
func (g *Guard) Middleware(scopes ...string) func(next http.Handler) http.Handler {
	panic("being built")
}

// FromContext is the claims that Middleware verified.
func FromContext(ctx context.Context) (token.Claims, bool) { panic("being built") }
