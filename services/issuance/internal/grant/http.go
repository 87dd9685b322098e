package grant

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

// Server is the OAuth side of issuance over HTTP.
type Server struct {
	Mint    func(ctx context.Context, q Request) (Response, error)
	Inspect func(ctx context.Context, raw string) (token.Claims, bool, error)
	Revoke  func(ctx context.Context, raw string) error
	// Authorize serves h to callers whose token has scope.
	Authorize func(scope string, h http.Handler) http.Handler
	JWKS      func() ([]byte, error)
	Issuer    *url.URL // without trailing slash
	Nonces    *Nonces
	Chains    bool // grants for other issuers are made
	// Certificates: the connection may ask for client certificates.
	Certificates bool
	Now          func() time.Time

	requests *prometheus.CounterVec
	seconds  prometheus.Histogram
}

// mintTimeout bounds one token request, storing included.
const mintTimeout = 15 * time.Second

// Register adds the routes to mux and the metrics to reg. All but introspection are open
// to anybody: the token endpoint proves its callers itself, and to end a token it is
// enough to have it.
func (s *Server) Register(mux *http.ServeMux, reg prometheus.Registerer) error {
	s.requests = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "lanyard_token_requests_total",
		Help: "Token requests by grant and outcome (ok or the OAuth error code)."}, []string{"grant", "outcome"})
	s.seconds = prometheus.NewHistogram(prometheus.HistogramOpts{Name: "lanyard_token_request_seconds",
		Help: "Time of a token request, durable record included.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14)})
	for _, c := range []prometheus.Collector{s.requests, s.seconds} {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	base := strings.TrimSuffix(s.Issuer.Path, "/")
	mux.HandleFunc("POST "+base+"/oauth2/token", s.token)
	mux.Handle("POST "+base+"/oauth2/introspect", s.Authorize(service.ScopeIntrospect, http.HandlerFunc(s.introspect)))
	mux.HandleFunc("POST "+base+"/oauth2/revoke", s.revoke)
	mux.HandleFunc("GET "+base+"/.well-known/jwks.json", s.jwks)
	s.registerMetadata(mux, base)
	return nil
}

func (s *Server) token(w http.ResponseWriter, r *http.Request) {
	start := s.Now()
	ctx, cancel := context.WithTimeout(r.Context(), mintTimeout)
	defer cancel()
	r.Body = http.MaxBytesReader(w, r.Body, maxBody+1)
	q, e := ReadRequest(r)
	var resp Response
	if e == nil {
		var err error
		if resp, err = s.Mint(ctx, q); err != nil {
			e = asError(err)
		}
	}
	if q.DPoP != "" || e != nil && e.Code == UseNonce {
		w.Header().Set("DPoP-Nonce", s.Nonces.At(s.Now()))
	}
	outcome := "ok"
	if e != nil {
		outcome = e.Code
		writeError(w, e)
	} else {
		writeJSON(w, http.StatusOK, resp)
	}
	s.requests.WithLabelValues(grantLabel(q.Grant), outcome).Inc()
	s.seconds.Observe(s.Now().Sub(start).Seconds())
}

func grantLabel(grant string) string {
	switch grant {
	case GrantJWTBearer:
		return "jwt-bearer"
	case GrantExchange:
		return "token-exchange"
	case GrantClient:
		return "client-credentials"
	}
	return "other"
}

// jwksAge is short: a new key is published well before it signs, a retired one should
// be forgotten soon.
const jwksAge = "public, max-age=30"

func (s *Server) jwks(w http.ResponseWriter, _ *http.Request) {
	body, err := s.JWKS()
	if err != nil {
		writeError(w, &Error{Code: ServerError, Reason: "the keys cannot be read", cause: err})
		return
	}
	w.Header().Set("Content-Type", "application/jwk-set+json")
	w.Header().Set("Cache-Control", jwksAge)
	_, _ = w.Write(body)
}
