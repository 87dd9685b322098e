package guard

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// Denial is the honest reason, for the operator's log.
type Denial struct {
	Code       string        // see the Code constants
	Reason     string        // for people
	Claims     *token.Claims // nil when the signature did not verify
	Revocation string        // id, when the lineage was revoked
	By         string
	At         time.Time // when the revocation took effect
	Handle     lineage.Handle
	// Cut is how much that the credential had opened was ended; 0: a request was
	// refused. See Watch.
	Cut int

	scopes   []string // that were required
	dpop     bool     // a DPoP proof was wanted
	metadata string   // URL of the resource's description; may be empty
}

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

// Error codes that a caller may learn: RFC 6750 section 3.1 and, for want of one
// there, RFC 6749 section 4.1.2.1.
const (
	errInvalidToken = "invalid_token"
	errScope        = "insufficient_scope"
	errUnavailable  = "temporarily_unavailable"
	errNoToken      = "missing_token"
)

// retryAfter is what a stale guard asks callers to wait: heartbeats come every second.
const retryAfter = "1"

// Error implements error. Its text is safe to show to the caller: it names the
// RFC 6750 error only.
func (d *Denial) Error() string {
	switch d.Code {
	case CodeMissing:
		return errNoToken
	case CodeScope:
		return errScope
	case CodeStale:
		return errUnavailable
	}
	return errInvalidToken
}

// Status is the HTTP status of the denial: 401, 403 for a missing scope, 503 for a
// guard that cannot know.
func (d *Denial) Status() int {
	switch d.Code {
	case CodeScope:
		return http.StatusForbidden
	case CodeStale:
		return http.StatusServiceUnavailable
	}
	return http.StatusUnauthorized
}

// Challenge is the value of WWW-Authenticate (RFC 6750 section 3; RFC 9449 section
// 7.1 when a proof was wanted; RFC 9728 section 5.1), "" for a status that has none. It
// never says whether or why a token was revoked.
func (d *Denial) Challenge() string {
	scheme, params := "Bearer", []string{`error="invalid_token"`}
	switch {
	case d.Code == CodeStale:
		return ""
	case d.Code == CodeMissing: // no error code for a request without credentials
		params = nil
	case d.Code == CodeScope:
		params = []string{`error="insufficient_scope"`, `scope="` + strings.Join(d.scopes, " ") + `"`}
	case d.dpop:
		scheme, params = "DPoP", append(params, `algs="`+token.ES256+" "+token.EdDSA+`"`)
	}
	if d.metadata != "" {
		params = append(params, `resource_metadata="`+d.metadata+`"`)
	}
	if len(params) == 0 {
		return scheme
	}
	return scheme + " " + strings.Join(params, ", ")
}

// Respond answers a request with the denial: status, challenge and a problem
// document (RFC 9457) that says no more than the challenge.
func (d *Denial) Respond(w http.ResponseWriter) {
	status := d.Status()
	h := w.Header()
	if c := d.Challenge(); c != "" {
		h.Set("WWW-Authenticate", c)
	}
	if status == http.StatusServiceUnavailable {
		h.Set("Retry-After", retryAfter)
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	body, err := json.Marshal(map[string]any{
		"type": "about:blank", "title": http.StatusText(status), "status": status, "code": d.Error(),
	})
	w.WriteHeader(status)
	if err == nil {
		_, _ = w.Write(body) // a caller that went away needs no answer
	}
}
