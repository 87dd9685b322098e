// Package service is what every service is made of. A Service is data: a name, a
// table of handlers, a set of tasks, an HTTP handler. The same composition runs one
// service per process or all of them in one.
package service

import (
	"context"
	"crypto/ed25519"
	"io"
	"net/http"
	"time"

	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/keys"
	"github.com/lanyard-nhi/lanyard/services/internal/state"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Env is everything a service gets from outside.
type Env struct {
	Config   config.Config
	Log      *zap.Logger
	Metrics  *prometheus.Registry
	Now      func() time.Time
	Rand     io.Reader
	Bus      *bus.Conn
	State    *state.Store
	Guard    *guard.Guard   // this process's own guard, point "service-<name>", audience config.Issuer.URL
	Keys     *keys.Ring     // signing and feed keys; only issuance and revocation may hold private ones
	Namer    *lineage.Namer // nil in services that do not make handles
	Outbound *http.Client   // the one SSRF-safe client

	// Feed is the kill feed as this process follows it, and IssuerKeys are the token
	// verification keys, for services that run a guard of their own, see
	// Service.Points. FeedKey verifies the feed.
	Feed       guard.Feed
	IssuerKeys token.Keys
	FeedKey    ed25519.PublicKey
}

// Task is a background activity of a service. It ends when ctx ends; any other end
// is restarted with back-off and logged.
type Task struct {
	Name string
	Run  func(ctx context.Context) error
}

// Service is what New of a service package returns.
type Service struct {
	Name      string
	Handlers  []bus.Handler
	Exclusive bool // see bus.Spec
	OnOwn     func(ctx context.Context, acked map[string]uint64) error
	Tasks     []Task
	Publishes []string      // event types that tasks and HTTP append besides what handlers emit
	Reads     []string      // streams it reads besides the log, the kill feed and those it consumes or produces
	Sweep     bool          // see bus.Spec
	Points    []Enforcement // enforcement points it runs beside the process's own guard
	HTTP      http.Handler  // served at config's address for this service; nil: none
	// ClientCertificates has HTTP ask clients over TLS for a certificate. They need none,
	// and the handshake proves only that they hold its key: the service verifies it.
	ClientCertificates bool
	// Close releases what New opened. It is called once, after handlers, tasks and
	// HTTP have ended. Optional.
	Close func() error
}

// Enforcement is an enforcement point; its receipts are in the tenant's name.
type Enforcement struct {
	Tenant string `json:"tenant"`
	Point  string `json:"point"`
}

// Constructor builds a service.
type Constructor func(Env) (Service, error)
