package guard

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events/token"
)

const (
	proofAge   = 60 * time.Second // how old a DPoP proof may be
	maxReplays = 100_000          // proofs remembered per generation
)

// bound checks the sender constraint of a token (RFC 7800). A token with cnf that is
// presented without its proof is denied, also when the guard was given no request
// to look at.
func (g *Guard) bound(r Request, c *token.Claims, now time.Time) *Denial {
	scheme := ""
	if r.HTTP != nil {
		scheme, _, _ = strings.Cut(r.HTTP.Header.Get("Authorization"), " ")
	}
	if c.Confirm == nil {
		if strings.EqualFold(scheme, "DPoP") {
			return &Denial{Code: CodeBinding, Reason: "a token that is bound to no key came by the DPoP scheme", dpop: true}
		}
		return nil
	}
	if r.HTTP == nil {
		return &Denial{Code: CodeBinding, Reason: "the token is bound to its sender and nothing proves who sent it"}
	}
	if c.Confirm.X5TS != "" {
		if err := certificate(r.HTTP, c.Confirm.X5TS); err != nil {
			return &Denial{Code: CodeBinding, Reason: err.Error()}
		}
	}
	if c.Confirm.JKT != "" {
		// RFC 9449 section 7.2: a bound token sent as a bearer token is refused.
		if scheme != "" && !strings.EqualFold(scheme, "DPoP") {
			return &Denial{Code: CodeBinding, Reason: "a DPoP token came by the " + scheme + " scheme", dpop: true}
		}
		if err := g.proof(r, c.Confirm.JKT, now); err != nil {
			return &Denial{Code: CodeBinding, Reason: err.Error(), dpop: true}
		}
	}
	return nil
}

// certificate compares the TLS client certificate with x5t#S256 (RFC 8705 section 3.1).
func certificate(r *http.Request, want string) error {
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return fmt.Errorf("the token is bound to a certificate and none was presented")
	}
	sum := sha256.Sum256(r.TLS.PeerCertificates[0].Raw)
	if !same(base64.RawURLEncoding.EncodeToString(sum[:]), want) {
		return fmt.Errorf("the token is bound to another certificate")
	}
	return nil
}

// proof makes the checks 1 and 8 to 12 of RFC 9449 section 4.3; token.OpenProof made
// the others. Server-provided nonces are not used.
func (g *Guard) proof(r Request, jkt string, now time.Time) error {
	values := r.HTTP.Header.Values("DPoP")
	if len(values) != 1 {
		return fmt.Errorf("want one DPoP proof, got %d", len(values))
	}
	p, err := token.OpenProof(values[0])
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(r.Token))
	age := now.Sub(time.Unix(p.IssuedAt, 0))
	switch {
	case !same(p.Thumbprint, jkt):
		return fmt.Errorf("the DPoP proof is by another key")
	case !same(p.AccessHash, base64.RawURLEncoding.EncodeToString(sum[:])):
		return fmt.Errorf("the DPoP proof is for another token")
	case p.Method != r.HTTP.Method:
		return fmt.Errorf("the DPoP proof is for method %q", p.Method)
	case !sameURL(p.URL, r.HTTP):
		return fmt.Errorf("the DPoP proof is for URL %q", p.URL)
	case age > proofAge || age < -g.cfg.Leeway:
		return fmt.Errorf("the DPoP proof is %s old", age.Round(time.Second))
	}
	// Only what verified is remembered, by key and jti.
	return g.replays.once(sha256.Sum256([]byte(jkt+"\x00"+p.ID)), now, proofAge+g.cfg.Leeway)
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// sameURL compares htu with the URL of a request, as far as the request tells it.
func sameURL(htu string, r *http.Request) bool {
	asked := *r.URL
	if !asked.IsAbs() {
		asked.Scheme, asked.Host = "http", r.Host
		if r.TLS != nil {
			asked.Scheme = "https"
		}
	}
	return token.SameURL(htu, &asked)
}

// replays remembers the proofs of the last while in two generations, each at most
// maxReplays. When a generation is full further proofs are refused: to forget one
// would be to accept it twice.
type replays struct {
	mu       sync.Mutex
	now, old map[[32]byte]struct{}
	since    time.Time // when now began
}

func (s *replays) once(id [32]byte, now time.Time, window time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch age := now.Sub(s.since); {
	case s.now == nil || age >= 2*window:
		s.now, s.old, s.since = map[[32]byte]struct{}{}, nil, now
	case age >= window:
		s.now, s.old, s.since = map[[32]byte]struct{}{}, s.now, now
	}
	_, a := s.now[id]
	_, b := s.old[id]
	if a || b {
		return fmt.Errorf("the DPoP proof was used before")
	}
	if len(s.now) >= maxReplays {
		return fmt.Errorf("too many DPoP proofs to remember")
	}
	s.now[id] = struct{}{}
	return nil
}
