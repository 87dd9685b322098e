// Package authzen serves the OpenID AuthZEN Authorization API 1.0: any enforcement
// point that holds a Lanyard token may ask what an identity may do. Only issuance
// imports it.
//
// Server knows the protocol, not the policies: it reads requests, asks a View, and
// writes answers. Identities makes the View over the registry: no policy can permit
// what is not registered, not active or under a revocation. A denial is an answer (200
// and "decision": false); a status other than 200 says that there was no decision, and
// an enforcement point must then refuse.
package authzen

import (
	"context"
	"crypto/cipher"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"go.uber.org/zap"
)

// Scope is what a caller's token must have to ask for decisions.
const Scope = "lanyard.authorize"

// Limits of a request. What exceeds one is refused as a whole, never cut.
const (
	MaxBody        = 1 << 20 // bytes
	MaxDepth       = 32      // of nested JSON objects and arrays
	MaxEvaluations = 1000    // in one request
	MaxName        = 2048    // bytes of a type, an id or an action's name
	MaxPage        = 1000    // results; a higher limit is served as this one
	DefaultPage    = 100     // results when the request names no limit

	// maxWork is how many candidates one search request decides about.
	maxWork = 2000
	// timeout bounds a request. A decision takes microseconds, but a state may be read
	// from the log for each.
	timeout = 15 * time.Second
	// metadataAge is how long a copy of the metadata may serve.
	metadataAge = "public, max-age=300"
)

// Entity is a subject or a resource (sections 5.1 and 5.3). Properties is a JSON
// object, or nil when the request has none.
type Entity struct {
	Type       string         `json:"type"`
	ID         string         `json:"id"`
	Properties jsontext.Value `json:"-"`
}

// Action is what the subject wants to do (section 5.2).
type Action struct {
	Name       string         `json:"name"`
	Properties jsontext.Value `json:"-"`
}

// Evaluation is one question. Context is a JSON object, or nil.
type Evaluation struct {
	Subject  Entity
	Action   Action
	Resource Entity
	Context  jsontext.Value
}

// Decision is the answer to one question. The zero value denies. Context is for the
// enforcement point, which may act on it or ignore it.
type Decision struct {
	Decision bool           `json:"decision"`
	Context  map[string]any `json:"context,omitempty"`
}

// View is one version of the policies, as one caller may use it. It serves one request,
// so no answer mixes two versions.
type View interface {
	// Evaluate decides; it must give the same answer to the same question. An error
	// means that no decision was possible, and counts as a denial inside a batch.
	Evaluate(ctx context.Context, e Evaluation) (Decision, error)
	// Subjects is the ids of at most n candidates for q's subject, of the type that q
	// names, in ascending byte order and above after. A candidate may be one too many:
	// Evaluate decides. Something unknown in q gives no candidates and no error.
	Subjects(ctx context.Context, q Evaluation, after string, n int) ([]string, error)
	// Resources is Subjects for q's resource.
	Resources(ctx context.Context, q Evaluation, after string, n int) ([]string, error)
	// Actions is Subjects for the name of q's action.
	Actions(ctx context.Context, q Evaluation, after string, n int) ([]string, error)
}

// Server is the HTTP binding (section 10.1). All fields are required.
type Server struct {
	// Issuer is the identifier of the decision point; the endpoints lie below it.
	Issuer *url.URL
	// Open gives the View for the caller in ctx (service.Caller).
	Open func(ctx context.Context) (View, error)
	// Pages seals page tokens. Processes that serve the same issuer share its key, see
	// NewPages.
	Pages cipher.AEAD
	Rand  io.Reader // nonces of page tokens
	Log   *zap.Logger
}

// endpoints by metadata key (section 9.1.1), with the path below the issuer.
var endpoints = []struct{ key, path string }{
	{"access_evaluation_endpoint", "/access/v1/evaluation"},
	{"access_evaluations_endpoint", "/access/v1/evaluations"},
	{"search_subject_endpoint", "/access/v1/search/subject"},
	{"search_resource_endpoint", "/access/v1/search/resource"},
	{"search_action_endpoint", "/access/v1/search/action"},
}

const wellKnown = "/.well-known/authzen-configuration"

// Register adds the routes to mux: the metadata for everybody, at the place that
// section 9.2 derives and below the issuer too, and the rest behind authorize with
// Scope.
func (s *Server) Register(mux *http.ServeMux, authorize func(scope string, h http.Handler) http.Handler) {
	base := strings.TrimSuffix(s.Issuer.Path, "/")
	mux.Handle("GET "+base+wellKnown, echo(http.HandlerFunc(s.metadata)))
	if base != "" {
		mux.Handle("GET "+wellKnown+base, echo(http.HandlerFunc(s.metadata)))
	}
	for i, do := range []func(context.Context, View, []byte) (any, error){
		s.evaluation, s.evaluations, s.search(subjects), s.search(resources), s.search(actions),
	} {
		mux.Handle("POST "+base+endpoints[i].path, echo(authorize(Scope, s.serve(do))))
	}
}

// echo copies X-Request-ID into the answer, whatever the answer is (section 10.1.14).
func echo(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if id := r.Header.Get("X-Request-ID"); id != "" {
			w.Header().Set("X-Request-ID", id)
		}
		h.ServeHTTP(w, r)
	})
}
