// Package allinone is every service in one process, with embedded servers where the
// configuration names none, and a development OIDC issuer. It is the same
// composition that the processes of single services run. The CLI and tests import
// it.
package allinone

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly"
	"github.com/lanyard-nhi/lanyard/services/guard"
	"github.com/lanyard-nhi/lanyard/services/intake"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/embedded"
	"github.com/lanyard-nhi/lanyard/services/internal/embedded/oidc"
	"github.com/lanyard-nhi/lanyard/services/internal/keys"
	"github.com/lanyard-nhi/lanyard/services/internal/operator"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/issuance"
	"github.com/lanyard-nhi/lanyard/services/revocation"
	"github.com/lanyard-nhi/lanyard/services/rotation"
	"go.uber.org/zap"
)

// Services are the constructors of all services.
func Services() []service.Constructor {
	return []service.Constructor{intake.New, issuance.New, anomaly.New, rotation.New, revocation.New, guard.New}
}

// Endpoints is DATA/endpoints.json: where everything is.
type Endpoints struct {
	NATS       string `json:"nats"`
	Redis      string `json:"redis"` // without password, see redis.password
	Issuer     string `json:"issuer"`
	Intake     string `json:"intake"`
	Guard      string `json:"guard"`
	Alerts     string `json:"alerts"`
	Revocation string `json:"revocation"`
	Rotation   string `json:"rotation"`
	Debug      string `json:"debug"`
	LocalOIDC  string `json:"local_oidc"`
	Operator   string `json:"operator_credential"`
	PID        int    `json:"pid"`
}

// Options of Start.
type Options struct {
	Config config.Config // see config.Default
	Log    *zap.Logger
	// Say gets a line per stage of the start, for people. Optional.
	Say func(format string, args ...any)
}

// System is a running all-in-one Lanyard. Stop it.
type System struct {
	Running   *service.Running
	Endpoints Endpoints
	Data      string
	lock      func() error
	oidc      *http.Server
}

// Start starts everything, registers the first operator, and returns when the
// process's own guard may admit callers.
func Start(ctx context.Context, o Options) (_ *System, err error) {
	c := o.Config.Complete()
	if o.Say == nil {
		o.Say = func(string, ...any) {}
	}
	if err := os.MkdirAll(c.Data, 0o700); err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	s := &System{Data: c.Data}
	if s.lock, err = lock(c.Data); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
		}
	}()
	ring, err := keys.Open(c.Keys, true)
	if err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	if err := s.startOIDC(ctx, c); err != nil {
		return nil, err
	}
	c.Issuance.Trusted = append(slices.Clone(c.Issuance.Trusted),
		config.TrustedIssuer{Issuer: operator.Issuer, JWKS: "file://" + absolute(ring.OperatorJWKSPath())},
		config.TrustedIssuer{Issuer: s.Endpoints.LocalOIDC, JWKS: s.Endpoints.LocalOIDC + "/jwks", Local: true})
	c.Issuance.TrustDomains = append(slices.Clone(c.Issuance.TrustDomains),
		config.TrustDomain{TrustDomain: oidc.TrustDomain, Bundle: s.Endpoints.LocalOIDC + oidc.BundlePath, Local: true})
	for _, u := range []string{c.NATS.URL, c.Redis.URL} {
		if u != "" {
			o.Say("connecting to %s", operator.WithoutPassword(u))
		}
	}
	s.Running, err = service.Start(ctx, service.RunOptions{Name: service.UserAll, Config: c, Log: o.Log, Embed: embedded.Servers}, Services()...)
	if err != nil {
		return nil, err
	}
	o.Say("services started; waiting for the first heartbeat")
	fresh, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := s.Running.WaitFresh(fresh); err != nil {
		return nil, err
	}
	if err := s.registerOperator(ctx, ring); err != nil {
		return nil, err
	}
	if err := s.Running.Env().Bus.SyncAlways(ctx); err != nil {
		o.Say("revokes will be refused: %v", err)
	}
	return s, s.writeEndpoints()
}

func absolute(p string) string {
	if a, err := filepath.Abs(p); err == nil {
		return a
	}
	return p
}

// startOIDC serves the development issuer on loopback, at the address it had last
// time when that is free, since identities are bound to its URL.
func (s *System) startOIDC(ctx context.Context, c config.Config) error {
	memory := filepath.Join(c.Data, "local-oidc.address")
	want := "127.0.0.1:0"
	if b, err := os.ReadFile(memory); err == nil {
		want = strings.TrimSpace(string(b))
	}
	lc := &net.ListenConfig{}
	l, err := lc.Listen(ctx, "tcp", want)
	if err != nil && want != "127.0.0.1:0" {
		return fmt.Errorf("start local issuer: its address %s, to which identities are bound, is taken: %w; free it, or remove %s to get another", want, err, memory)
	}
	if err != nil {
		return fmt.Errorf("start local issuer: %w", err)
	}
	s.Endpoints.LocalOIDC = "http://" + l.Addr().String()
	h, err := oidc.New(oidc.Config{URL: s.Endpoints.LocalOIDC, SecretFile: filepath.Join(c.Keys, "local-issuer.secret"),
		KeyFile: filepath.Join(c.Keys, "local-issuer.jwk"), SVIDKeyFile: filepath.Join(c.Keys, "local-spiffe.jwk"), Now: time.Now})
	if err == nil {
		err = os.WriteFile(memory, []byte(l.Addr().String()+"\n"), 0o600)
	}
	if err != nil {
		return errors.Join(err, l.Close())
	}
	s.oidc = &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
	go func() { _ = s.oidc.Serve(l) }() // ends with ErrServerClosed
	return nil
}

// registerOperator declares the first operator and its tenant's identity as facts on
// the bus, and writes the credential file.
func (s *System) registerOperator(ctx context.Context, ring *keys.Ring) error {
	env := s.Running.Env()
	path := filepath.Join(s.Data, "operator.json")
	jwk, err := ring.OperatorJWK()
	if err != nil {
		return fmt.Errorf("register operator: %w", err)
	}
	cred, err := operator.Write(path, jwk.Reveal(), env.Config.Issuer.URL, env.Config.Issuer.URL+"/oauth2/token")
	if err != nil {
		return err
	}
	s.Endpoints.Operator = absolute(path)
	e, err := events.New(events.Origin{Source: "/lanyard/up", Tenant: operator.Tenant, Time: env.Now()}, operator.Declaration(env.Config.Issuer.URL))
	if err != nil {
		return fmt.Errorf("register operator: %w", err)
	}
	if err := env.Bus.Publish(ctx, e); err != nil {
		return fmt.Errorf("register operator: %w", err)
	}
	return operator.Await(ctx, cred, 20*time.Second)
}

func (s *System) writeEndpoints() error {
	r := s.Running
	e := &s.Endpoints
	e.NATS, e.Issuer, e.Intake, e.Guard = r.NATSURL(), r.Env().Config.Issuer.URL, r.URL("intake"), r.URL("guard")
	e.Alerts, e.Revocation, e.Rotation, e.Debug = r.URL("anomaly"), r.URL("revocation"), r.URL("rotation"), r.URL("debug")
	e.PID = os.Getpid()
	if u, err := r.RedisURL(); err == nil {
		e.Redis = operator.WithoutPassword(u.Reveal())
	}
	b, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return fmt.Errorf("write endpoints: %w", err)
	}
	tmp := filepath.Join(s.Data, ".endpoints.json")
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("write endpoints: %w", err)
	}
	if err := os.Rename(tmp, filepath.Join(s.Data, "endpoints.json")); err != nil {
		return fmt.Errorf("write endpoints: %w", err)
	}
	return nil
}

// Stop stops everything in order.
func (s *System) Stop() error {
	var errs []error
	if s.Running != nil {
		errs = append(errs, s.Running.Stop())
	}
	if s.oidc != nil {
		errs = append(errs, s.oidc.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock())
	}
	return errors.Join(errs...)
}
