package grant

import (
	"crypto/x509"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// Grant types.
const (
	GrantJWTBearer = "urn:ietf:params:oauth:grant-type:jwt-bearer"
	GrantExchange  = "urn:ietf:params:oauth:grant-type:token-exchange"
	// GrantClient is for workloads whose proof is a client assertion, or an X509-SVID in
	// the TLS handshake.
	GrantClient = "client_credentials"
)

// Token types (RFC 8693 section 3).
const (
	TypeAccessToken = "urn:ietf:params:oauth:token-type:access_token"
	TypeIDToken     = "urn:ietf:params:oauth:token-type:id_token"
	TypeJWT         = "urn:ietf:params:oauth:token-type:jwt"
	// TypeTransaction is by draft-ietf-oauth-transaction-tokens.
	TypeTransaction = "urn:ietf:params:oauth:token-type:txn_token"
)

const (
	maxBody     = 64 << 10
	maxScopes   = 64
	maxTargets  = 16
	maxTextSize = 256 // bytes of task, purpose and the other context parameters
)

// Request is a token request that is well formed. Proof, Parent, Launch, DPoP and
// Client hold secrets.
type Request struct {
	Grant       string
	Proof       string // attestation of the workload that will hold the credential
	Client      Client // the same, when it is a certificate or a client assertion
	DPoP        string // proof of the key that the credential will be bound to; optional
	Parent      string // token that is exchanged; empty for the first grant
	ParentType  string
	Requested   string       // requested_token_type
	Transaction *Transaction // set when a transaction token is wanted
	Launch      string       // token of who starts the task; optional, of a first grant only
	Ask         Ask
	Task        string
	Purpose     string
	Environment string
	Sensitivity string
	Tenant      string // which of several bindings; optional
	ClientID    string // which of several identities; optional
	Traceparent string
}

// Client is how a client authenticates.
type Client struct {
	Type, Assertion string              // of a client assertion; empty: there is none
	SPIFFEID        string              // client_id, where an SVID is the proof
	Certificates    []*x509.Certificate // of the TLS connection, leaf first; not verified
}

// ReadRequest reads a token request from its form body. Parameters in the query are
// refused, doubled ones too (RFC 6749 section 3.2), except audience and resource,
// which may be repeated (RFC 8693 section 2.1, RFC 8707 section 2).
func ReadRequest(r *http.Request) (Request, *Error) {
	form, e := readForm(r)
	if e != nil {
		return Request{}, e
	}
	q := Request{Grant: form.Get("grant_type"), Traceparent: r.Header.Get("Traceparent")}
	if e := readProof(&q, r); e != nil {
		return q, e
	}
	if e := readClient(&q, r, form); e != nil {
		return q, e
	}
	switch q.Grant {
	case GrantJWTBearer:
		if q.Proof = form.Get("assertion"); q.Proof == "" {
			return q, refuse(InvalidRequest, "assertion is missing: send an OIDC token of a trusted issuer")
		}
	case GrantExchange:
		if form.Has("launch_token") {
			return q, refuse(InvalidRequest, "an exchanged credential belongs to a task that runs: leave launch_token out")
		}
		if e := exchangeTokens(&q, form); e != nil {
			return q, e
		}
	case GrantClient:
		if q.Client.Type == "" && len(q.Client.Certificates) == 0 {
			return q, refuse(InvalidClient, "send a client_assertion, or connect by TLS with an X509-SVID")
		}
	case "":
		return q, refuse(InvalidRequest, "grant_type is missing: use %s, %s or %s", GrantJWTBearer, GrantExchange, GrantClient)
	default:
		return q, refuse(UnsupportedGrantType, "use %s, %s or %s", GrantJWTBearer, GrantExchange, GrantClient)
	}
	if q.Client.Type == AssertionSPIFFE || q.Client.Type == "" && q.Grant == GrantClient {
		// Here client_id is the workload (draft-ietf-oauth-spiffe-client-auth section 3),
		// not one of several identities.
		q.Client.SPIFFEID = form.Get("client_id")
		form.Del("client_id")
	}
	q.Launch = form.Get("launch_token")
	return q, readContext(&q, form)
}

func readForm(r *http.Request) (url.Values, *Error) {
	if r.URL.RawQuery != "" {
		return nil, refuse(InvalidRequest, "send the parameters in the body, not in the URL")
	}
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != "application/x-www-form-urlencoded" {
		return nil, refuse(InvalidRequest, "the Content-Type must be application/x-www-form-urlencoded")
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err != nil {
		return nil, refuse(InvalidRequest, "the body could not be read")
	}
	if len(body) > maxBody {
		return nil, refuse(InvalidRequest, "the body is larger than %d bytes", maxBody)
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return nil, refuse(InvalidRequest, "the body is not a valid form")
	}
	for name, values := range form {
		if len(values) > 1 && name != "audience" && name != "resource" {
			return nil, refuse(InvalidRequest, "parameter %s is sent more than once", clip(name))
		}
	}
	return form, nil
}

func exchangeTokens(q *Request, form url.Values) *Error {
	q.Parent, q.Proof = form.Get("subject_token"), form.Get("actor_token")
	switch {
	case q.Parent == "":
		return refuse(InvalidRequest, "subject_token is missing: send the Lanyard access token that is to be exchanged")
	case q.Proof == "" && q.Client.Type == "":
		return refuse(InvalidRequest, "actor_token is missing: send an OIDC token of the acting workload, or a client_assertion")
	case q.Proof != "" && q.Client.Type != "":
		return refuse(InvalidRequest, "actor_token and client_assertion both say who acts: send one of them")
	}
	switch t := form.Get("actor_token_type"); {
	case q.Proof == "" && t == "", t == TypeJWT, t == TypeIDToken:
	default:
		return refuse(InvalidRequest, "actor_token_type must be %s or %s, and is sent with actor_token only", TypeJWT, TypeIDToken)
	}
	q.ParentType = form.Get("subject_token_type")
	q.Requested = form.Get("requested_token_type")
	switch q.Requested {
	case "", TypeAccessToken, TypeJWT:
		if q.ParentType != TypeAccessToken {
			return refuse(InvalidRequest, "subject_token_type must be %s", TypeAccessToken)
		}
		return nil
	case TypeTransaction:
		return readTransaction(q, form)
	}
	return refuse(InvalidRequest, "requested_token_type must be %s or %s", TypeAccessToken, TypeTransaction)
}

func readContext(q *Request, form url.Values) *Error {
	for _, p := range []struct {
		name string
		to   *string
	}{{"task", &q.Task}, {"purpose", &q.Purpose}, {"environment", &q.Environment},
		{"data_sensitivity", &q.Sensitivity}, {"tenant", &q.Tenant}, {"client_id", &q.ClientID}} {
		*p.to = form.Get(p.name)
		if len(*p.to) > maxTextSize {
			return refuse(InvalidRequest, "parameter %s is longer than %d bytes", p.name, maxTextSize)
		}
		if strings.ContainsFunc(*p.to, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '\uFFFD' }) {
			return refuse(InvalidRequest, "parameter %s holds control characters or invalid UTF-8", p.name)
		}
	}
	if q.Tenant != "" && !events.ValidTenant(q.Tenant) {
		return refuse(InvalidRequest, "tenant must be 1 to 63 characters of a-z, 0-9 and -")
	}
	var e *Error
	if q.Ask.Scope, e = readScope(form.Get("scope")); e != nil {
		return e
	}
	if q.Ask.Audience, e = readTargets(form); e != nil {
		return e
	}
	if s, ok := form["authorization_details"]; ok {
		details, err := token.ParseDetails([]byte(s[0]))
		if err != nil {
			return &Error{Code: InvalidDetails, Reason: err.Error(), cause: err}
		}
		q.Ask.Details = details
	}
	if s := form.Get("ttl"); s != "" {
		n, err := strconv.ParseUint(s, 10, 31)
		if err != nil || n == 0 {
			return refuse(InvalidRequest, "ttl must be a number of seconds above 0")
		}
		q.Ask.TTL = time.Duration(n) * time.Second
	}
	return nil
}

// readScope reads a space-delimited list (RFC 6749 section 3.3) without repeats.
func readScope(s string) ([]string, *Error) {
	if s == "" {
		return nil, nil
	}
	var out []string
	for t := range strings.SplitSeq(s, " ") {
		if t == "" || strings.ContainsFunc(t, func(r rune) bool { return r < 0x21 || r > 0x7e || r == '"' || r == '\\' }) {
			return nil, refuse(InvalidScope, "scope must be words of printable ASCII with one space between them")
		}
		out = add(out, t)
	}
	if len(out) > maxScopes {
		return nil, refuse(InvalidScope, "more than %d scopes", maxScopes)
	}
	return out, nil
}

// readTargets joins audience and resource: both name where the token is to be used.
func readTargets(form url.Values) ([]string, *Error) {
	var out []string
	for _, r := range form["resource"] {
		if u, err := url.Parse(r); r != "" && (err != nil || !u.IsAbs() || u.Fragment != "") {
			return nil, refuse(InvalidTarget, "resource must be an absolute URI without fragment")
		}
	}
	for _, t := range append(form["audience"], form["resource"]...) {
		if len(t) > maxTextSize {
			return nil, refuse(InvalidTarget, "an audience is longer than %d bytes", maxTextSize)
		}
		if t != "" {
			out = add(out, t)
		}
	}
	if len(out) > maxTargets {
		return nil, refuse(InvalidTarget, "more than %d audiences", maxTargets)
	}
	return out, nil
}

func add(list []string, s string) []string {
	for _, x := range list {
		if x == s {
			return list
		}
	}
	return append(list, s)
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

// asError makes an *Error of anything.
func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Code: ServerError, Reason: "the request could not be decided; the operator's log says why", cause: err}
}
