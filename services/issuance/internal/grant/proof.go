package grant

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events/token"
)

// Error codes of RFC 9449 sections 5 and 8.
const (
	InvalidProof = "invalid_dpop_proof"
	UseNonce     = "use_dpop_nonce"
)

const (
	proofAge    = 60 * time.Second // how old a DPoP proof may be
	proofLeeway = 5 * time.Second  // how far ahead a client's clock may be
	nonceWindow = time.Minute
)

// Nonces are the nonces for DPoP proofs (RFC 9449 section 8). They are computed, not
// stored: every process with the same secret knows those of every other. A nonce is good
// for one to two minutes, so a proof cannot be made far ahead of its use.
type Nonces struct {
	key      []byte
	required bool
}

// NewNonces derives the nonces from secret. With required a proof without a nonce is
// refused; otherwise only one with a nonce that is not ours, or is over.
func NewNonces(secret []byte, required bool) (*Nonces, error) {
	key, err := hkdf.Key(sha256.New, secret, nil, "lanyard dpop nonce 1", 32)
	if err != nil {
		return nil, fmt.Errorf("derive nonce key: %w", err)
	}
	return &Nonces{key, required}, nil
}

// At is the nonce to be used from now on.
func (n *Nonces) At(now time.Time) string { return n.of(now.Unix() / int64(nonceWindow/time.Second)) }

func (n *Nonces) of(window int64) string {
	mac := hmac.New(sha256.New, n.key)
	_, _ = mac.Write(binary.BigEndian.AppendUint64(nil, uint64(window))) // a hash does not fail
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:16])
}

// good also takes the nonce of the window before, and of the next: another process's
// clock may be ahead.
func (n *Nonces) good(nonce string, now time.Time) bool {
	if nonce == "" {
		return !n.required
	}
	window := now.Unix() / int64(nonceWindow/time.Second)
	for _, w := range []int64{window, window - 1, window + 1} {
		if hmac.Equal([]byte(nonce), []byte(n.of(w))) {
			return true
		}
	}
	return false
}

// readProof takes the one DPoP proof of a request (RFC 9449 section 4.3, check 1).
func readProof(q *Request, r *http.Request) *Error {
	switch values := r.Header.Values("DPoP"); len(values) {
	case 0:
		return nil
	case 1:
		q.DPoP = values[0]
		return nil
	}
	return refuse(InvalidProof, "send one DPoP proof, not several")
}

// confirm is what the credential will be bound to: the key of the DPoP proof (RFC 9449
// section 6) and the client certificate of the connection (RFC 8705 section 3), as far as
// they are there. For a certificate the handshake has proven that the client holds its
// key; who the client is, the certificate need not say.
func (m *Minter) confirm(q Request, now time.Time) (c *token.Confirm, proof token.Proof, e *Error) {
	if len(q.Client.Certificates) > 0 {
		sum := sha256.Sum256(q.Client.Certificates[0].Raw)
		c = &token.Confirm{X5TS: base64.RawURLEncoding.EncodeToString(sum[:])}
	}
	if q.DPoP == "" {
		return c, proof, nil
	}
	proof, err := token.OpenTokenRequestProof(q.DPoP)
	age := now.Sub(time.Unix(proof.IssuedAt, 0))
	switch {
	case err != nil:
		return nil, proof, &Error{Code: InvalidProof, Reason: err.Error(), cause: err}
	case proof.Method != http.MethodPost:
		return nil, proof, refuse(InvalidProof, "the DPoP proof is for another method than POST")
	case !token.SameURL(proof.URL, m.Endpoint):
		return nil, proof, refuse(InvalidProof, "the DPoP proof is for another URL than %s", m.Endpoint)
	case !m.Nonces.good(proof.Nonce, now):
		return nil, proof, refuse(UseNonce, "put the nonce of the header DPoP-Nonce into the DPoP proof")
	case age > proofAge || age < -proofLeeway:
		return nil, proof, refuse(InvalidProof, "the DPoP proof must have been made within the last %s", proofAge)
	}
	if c == nil {
		c = new(token.Confirm)
	}
	c.JKT = proof.Thumbprint
	return c, proof, nil
}

// useProof refuses a proof that was used before, at any process.
func (m *Minter) useProof(ctx context.Context, p token.Proof) *Error {
	if p.ID == "" {
		return nil
	}
	e := m.once(ctx, "dpop", p.Thumbprint+"\x00"+p.ID, proofAge+2*proofLeeway)
	if e != nil && e.Code == InvalidRequest {
		return refuse(InvalidProof, "the DPoP proof was used before: make a new one for each request")
	}
	return e
}

// once is nil for what is shown for the first time, InvalidRequest when it was shown
// before, and Unavailable when nobody can say.
func (m *Minter) once(ctx context.Context, space, id string, ttl time.Duration) *Error {
	switch first, err := m.Once(ctx, space, id, ttl); {
	case err != nil:
		return unavailable(err, "whether this was used before cannot be told now")
	case !first:
		return refuse(InvalidRequest, "this was used before")
	}
	return nil
}

// keepBinding makes sure that a bound credential is exchanged only by who can use it, and
// that the new one stays bound to the same.
func keepBinding(parent, c *token.Confirm) *Error {
	if parent == nil {
		return nil
	}
	if c == nil {
		c = new(token.Confirm)
	}
	switch {
	case parent.JKT != "" && parent.JKT != c.JKT:
		return refuse(InvalidGrant, "the subject_token is bound to a DPoP key: send a DPoP proof by that key")
	case parent.X5TS != "" && parent.X5TS != c.X5TS:
		return refuse(InvalidGrant, "the subject_token is bound to a client certificate: connect with that certificate")
	}
	return nil
}

// TokenEndpoint is the URL that DPoP proofs must name: the configured one, since behind a
// proxy that ends TLS the request does not tell.
func TokenEndpoint(issuer *url.URL) *url.URL {
	u := *issuer
	u.Path, u.RawPath = strings.TrimSuffix(issuer.Path, "/")+"/oauth2/token", ""
	return &u
}
