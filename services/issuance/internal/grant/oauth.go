// Package grant is the token service: it reads OAuth token requests, decides them
// over the registry's state, narrows them, signs tokens that carry their lineage,
// and hands a token out only after the log has it. Only issuance imports it.
//
// Standards: RFC 6749 (errors, requests, client credentials), RFC 7009 (revocation), RFC
// 7523 (JWT bearer grant, client assertions), RFC 7662 (introspection), RFC 8414
// (metadata), RFC 8693 (token exchange), RFC 8705 (certificate-bound tokens), RFC 8707
// (resource), RFC 9068 (the token), RFC 9396 (authorization details), RFC 9449 (DPoP); the
// drafts spiffe-client-auth, transaction-tokens and identity-chaining of the OAuth group.
package grant

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// Error codes of RFC 6749 section 5.2, RFC 8693 section 2.2.2 (invalid_target) and
// RFC 6749 section 4.1.2.1 (temporarily_unavailable, server_error).
const (
	InvalidRequest       = "invalid_request"
	InvalidGrant         = "invalid_grant"
	InvalidClient        = "invalid_client"
	InvalidScope         = "invalid_scope"
	InvalidTarget        = "invalid_target"
	InvalidDetails       = "invalid_authorization_details" // RFC 9396 section 5
	UnauthorizedClient   = "unauthorized_client"
	UnsupportedGrantType = "unsupported_grant_type"
	Unavailable          = "temporarily_unavailable"
	ServerError          = "server_error"
)

// Error is a refusal. Reason says what is wrong and what to do; it may be shown to
// the caller and never holds a token.
type Error struct {
	Code   string
	Reason string
	cause  error  // for the operator's log
	policy string // version of the policies that denied; empty when none was asked
	// reasons are the policies that denied, over context; both are for the log.
	reasons []string
	context *events.DecisionContext
}

// Error implements error.
func (e *Error) Error() string { return e.Code + ": " + e.Reason }

// Unwrap is the cause.
func (e *Error) Unwrap() error { return e.cause }

func refuse(code, format string, args ...any) *Error {
	return &Error{Code: code, Reason: fmt.Sprintf(format, args...)}
}

func unavailable(cause error, what string) *Error {
	return &Error{Code: Unavailable, Reason: what + "; try again in a few seconds", cause: cause}
}

// status of an error (RFC 6749 section 5.2: 400 unless said otherwise).
func (e *Error) status() int {
	switch e.Code {
	case InvalidClient:
		return http.StatusUnauthorized
	case Unavailable:
		return http.StatusServiceUnavailable
	case ServerError:
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}

// Response is the success answer (RFC 6749 section 5.1, RFC 8693 section 2.2.1).
type Response struct {
	AccessToken     string `json:"access_token"`
	IssuedTokenType string `json:"issued_token_type,omitempty"`
	TokenType       string `json:"token_type"`
	ExpiresIn       int64  `json:"expires_in"` // seconds
	Scope           string `json:"scope"`
	// Details echo what was granted (RFC 9396 section 7).
	Details []token.Detail `json:"authorization_details,omitempty"`
}

func writeError(w http.ResponseWriter, e *Error) {
	if e.Code == Unavailable {
		w.Header().Set("Retry-After", "2")
	}
	writeJSON(w, e.status(), struct {
		Error       string `json:"error"`
		Description string `json:"error_description"`
	}{e.Code, printable(e.Reason)})
}

// printable keeps what error_description may hold: %x20-21 / %x23-5B / %x5D-7E
// (RFC 6749 section 5.2).
func printable(s string) string {
	b := []byte(s)
	for i, c := range b {
		switch {
		case c == '"':
			b[i] = '\''
		case c == '\\':
			b[i] = '/'
		case c < 0x20 || c > 0x7e:
			b[i] = '?'
		}
	}
	return string(b)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	h.Set("Pragma", "no-cache")
	w.WriteHeader(status)
	_, _ = w.Write(append(body, '\n'))
}
