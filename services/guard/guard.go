// Package guard is the forward-auth server: the guard library for whatever is not
// written in Go. A reverse proxy asks GET /v1/check for every request it forwards
// (nginx auth_request, Traefik forwardAuth, Caddy forward_auth, Envoy ext_authz over
// HTTP, or over gRPC on the same port; see deploy/ for configurations) and lets it
// through on 200. It must be reachable by that proxy only: the proxy says which
// request is meant.
package guard

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	json "github.com/go-json-experiment/json"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Headers of an answer that allows, for the proxy to hand on. They are always set,
// so that none of the caller's own can take their place.
const (
	HeaderIdentity = "X-Lanyard-Identity"
	HeaderTenant   = "X-Lanyard-Tenant"
	HeaderTask     = "X-Lanyard-Task"
	// HeaderStale is empty, or how many seconds ago the guard last knew all: the answer
	// is given on the word of a class that serves stale.
	HeaderStale = "X-Lanyard-Stale"
	// HeaderScope of a question is the scopes that are required, where a proxy cannot put
	// them into the query.
	HeaderScope = "X-Lanyard-Scope"
)

type server struct {
	guard     *guard.Guard
	log       *zap.Logger
	decisions *prometheus.CounterVec
}

// New builds the service. It is an enforcement point of its own, beside the guard
// that protects the process's APIs.
func New(env service.Env) (service.Service, error) {
	c := env.Config.Guard
	s := &server{log: env.Log, decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "lanyard_guard_decisions_total", Help: "Decisions of the forward-auth server, by code of the denial, \"allowed\" or \"allowed_stale\".",
	}, []string{"code"})}
	if s.log == nil {
		s.log = zap.NewNop()
	}
	if env.Metrics != nil {
		if err := env.Metrics.Register(s.decisions); err != nil {
			return service.Service{}, fmt.Errorf("register metrics: %w", err)
		}
	}
	dir := filepath.Join(env.Config.Data, "guards")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return service.Service{}, fmt.Errorf("make directory of guard states: %w", err)
	}
	audience := c.Audience
	if audience == "" {
		audience = env.Config.Issuer.URL
	}
	g, err := guard.New(guard.Config{
		Point: point(c.Point, env.Config.Replica), Tenant: c.Tenant, Issuer: env.Config.Issuer.URL, Audience: audience,
		Keys: env.IssuerKeys, FeedKey: env.FeedKey, Feed: env.Feed,
		StateFile: filepath.Join(dir, url.PathEscape(point(c.Point, env.Config.Replica))+".json"),
		Lease:     time.Duration(c.Lease), Classes: classes(c.Classes), Denied: s.denied, Now: env.Now,
	})
	if err != nil {
		return service.Service{}, err
	}
	s.guard = g
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/check", s.check)
	mux.HandleFunc("POST /v1/check", s.check)
	mux.HandleFunc("/v1/check/", s.prefixed)
	s.overGRPC(mux)
	mux.Handle("GET /v1/status", env.Authorize(service.ScopeRead, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		service.JSON(w, http.StatusOK, g.Status())
	})))
	mux.Handle("POST /v1/lineage", env.Authorize(service.ScopeRead, http.HandlerFunc(s.lineage)))
	var points []service.Enforcement
	for i := range service.MaxReplicas {
		points = append(points, service.Enforcement{Tenant: c.Tenant, Point: point(c.Point, i)})
	}
	return service.Service{
		Name:   "guard",
		Tasks:  []service.Task{{Name: "enforcement", Run: g.Run}},
		Points: points,
		HTTP:   mux,
	}, nil
}

// classes is the configuration's data classes as the library takes them.
func classes(in []config.GuardClass) map[string]guard.Class {
	out := map[string]guard.Class{}
	for _, c := range in {
		class := guard.Class{MaxAge: time.Duration(c.MaxAge)}
		if s := c.ServeStale; s != nil {
			class.ServeStale = &guard.ServeStale{By: s.By, Reason: s.Reason, Until: s.Until, For: time.Duration(s.For), Scopes: s.Scopes}
		}
		out[c.Name] = class
	}
	return out
}

// Lineage is the answer about a lineage: whether any of its handles is dead, and by
// which entry. Fresh is false when the guard cannot know, and then it refuses.
type Lineage struct {
	Fresh bool         `json:"fresh"`
	Dead  bool         `json:"dead"`
	Entry *guard.Entry `json:"entry,omitempty"`
}

// lineage answers POST /v1/lineage {"lineage":[handles]} for operators' tools, which
// have verified a token's signature and ask whether it would be honoured.
func (s *server) lineage(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Lineage []lineage.Handle `json:"lineage"`
	}
	if err := json.UnmarshalRead(http.MaxBytesReader(w, r.Body, 16<<10), &ask, json.RejectUnknownMembers(true)); err != nil || len(ask.Lineage) > lineage.Max {
		service.Problem(w, http.StatusBadRequest, "invalid_request", fmt.Sprintf("the body must be {\"lineage\": [at most %d handles]}", lineage.Max))
		return
	}
	a := Lineage{}
	if e, dead := s.guard.Dead(ask.Lineage); dead {
		a.Dead, a.Entry = true, &e
	}
	a.Fresh = s.guard.Status().Fresh // after the look-up: fresh then means that it was complete
	service.JSON(w, http.StatusOK, a)
}

// point is the enforcement point of one replica: each signs with its own key, and a
// revocation is enforced only when all of them say so.
func point(base string, replica int) string {
	if replica > 0 {
		base += "-" + strconv.Itoa(replica)
	}
	return base
}

// check answers 200 with the identity, or 401, 403 or 503 (RFC 6750). Parameters:
// scope, space delimited and repeatable, all of which are required; min_sequence and
// class, see guard.Request.
func (s *server) check(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	scopes := strings.Fields(strings.Join(q["scope"], " "))
	for _, sc := range scopes {
		if !scopeToken(sc) {
			service.Problem(w, http.StatusBadRequest, "invalid_scope", "the parameter scope is not a list of scopes (RFC 6749 section 3.3)")
			return
		}
	}
	var atLeast uint64
	if v := q.Get("min_sequence"); v != "" {
		n, err := strconv.ParseUint(v, 10, 64)
		if err != nil {
			service.Problem(w, http.StatusBadRequest, "invalid_sequence", "the parameter min_sequence is not a number")
			return
		}
		atLeast = n
	}
	meant, err := forwarded(r)
	if err != nil {
		service.Problem(w, http.StatusBadRequest, "invalid_forwarded", err.Error())
		return
	}
	s.answer(w, r, guard.Request{Scopes: scopes, HTTP: meant, MinSequence: atLeast, Class: q.Get("class")})
}

// prefixed answers Envoy's ext_authz over HTTP with path_prefix /v1/check: method, path
// and query after the prefix are the caller's, so nothing in them says what is
// required. Scopes are in the header X-Lanyard-Scope, which Envoy's configuration sets
// (authorization_request.headers_to_add).
func (s *server) prefixed(w http.ResponseWriter, r *http.Request) {
	scopes := strings.Fields(strings.Join(r.Header.Values(HeaderScope), " "))
	for _, sc := range scopes {
		if !scopeToken(sc) {
			service.Problem(w, http.StatusBadRequest, "invalid_scope", "the header "+HeaderScope+" is not a list of scopes (RFC 6749 section 3.3)")
			return
		}
	}
	u := *r.URL
	u.Path, u.RawPath = strings.TrimPrefix(u.Path, "/v1/check"), strings.TrimPrefix(u.RawPath, "/v1/check")
	u.Host, u.Scheme = r.Host, r.Header.Get("X-Forwarded-Proto")
	if u.Scheme == "" {
		u.Scheme = "https"
	}
	s.answer(w, r, guard.Request{Scopes: scopes, HTTP: &http.Request{Method: r.Method, Header: r.Header, URL: &u, Host: u.Host}})
}

// answer decides on the token of r.
func (s *server) answer(w http.ResponseWriter, r *http.Request, ask guard.Request) {
	ask.Token = guard.Presented(r)
	decision, err := s.guard.Decide(r.Context(), ask)
	if d, denied := errors.AsType[*guard.Denial](err); denied {
		d.Respond(w)
		return
	}
	h := w.Header()
	for name, value := range s.allowed(decision) {
		h.Set(name, value)
	}
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
}

// allowed counts a yes and returns the headers that say for whom.
func (s *server) allowed(d guard.Decision) map[string]string {
	code, stale := "allowed", ""
	if d.Stale {
		code, stale = "allowed_stale", strconv.Itoa(int(d.Age.Seconds()))
	}
	s.decisions.WithLabelValues(code).Inc()
	return map[string]string{HeaderIdentity: d.Claims.Subject, HeaderTenant: d.Claims.Tenant, HeaderTask: d.Claims.Task, HeaderStale: stale}
}

// forwarded is the request that the proxy asks about, as far as a sender constraint
// needs it: method and URL by X-Forwarded-Method, -Proto, -Host and -Uri (Traefik,
// Envoy) or X-Original-Method and X-Original-URL (nginx). It has no TLS state: the
// certificate of this connection is the proxy's, so a token bound to a certificate
// is denied here.
func forwarded(r *http.Request) (*http.Request, error) {
	first := func(names ...string) string {
		for _, n := range names {
			if v := r.Header.Get(n); v != "" {
				return v
			}
		}
		return ""
	}
	out := &http.Request{Method: r.Method, Header: r.Header, URL: r.URL, Host: r.Host}
	if m := first("X-Forwarded-Method", "X-Original-Method"); m != "" {
		out.Method = m
	}
	target := first("X-Original-URL", "X-Forwarded-Uri")
	if target == "" {
		return out, nil
	}
	u, err := url.Parse(target)
	if err != nil {
		return nil, fmt.Errorf("the forwarded URL does not parse")
	}
	if !u.IsAbs() {
		if host := first("X-Forwarded-Host"); host != "" {
			u.Host = host
		} else {
			u.Host = r.Host
		}
		if u.Scheme = first("X-Forwarded-Proto"); u.Scheme == "" {
			u.Scheme = "https"
		}
	}
	out.URL, out.Host = u, u.Host
	return out, nil
}

// scopeToken reports whether s is a scope (RFC 6749 section 3.3).
func scopeToken(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < 0x21 || c > 0x7e || c == '"' || c == '\\' {
			return false
		}
	}
	return s != ""
}

// denied is the operator's record of a refusal. The caller learns less.
func (s *server) denied(d guard.Denial) {
	s.decisions.WithLabelValues(d.Code).Inc()
	fields := []zap.Field{zap.String("code", d.Code), zap.String("reason", d.Reason)}
	if d.Claims != nil {
		fields = append(fields, zap.String("identity", d.Claims.Subject), zap.String("tenant", d.Claims.Tenant),
			zap.String("task", d.Claims.Task), zap.String("jti", d.Claims.ID))
	}
	if d.Code == guard.CodeRevoked || d.Code == guard.CodeFrozen {
		fields = append(fields, zap.String("revocation", d.Revocation), zap.String("by", d.By),
			zap.Time("at", d.At), zap.Stringer("handle", d.Handle))
	}
	s.log.Info("denied", fields...)
}
