package service

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/secret"
	"go.uber.org/zap"
)

// stopGrace is how long requests in progress may take at the end.
const stopGrace = 10 * time.Second

// Addr is host:port where a service's HTTP API listens, "debug" being the debug
// server; "" when it does not.
func (r *Running) Addr(name string) string {
	if a := r.address(name); a != nil {
		return a.String()
	}
	return ""
}

// URL is Addr with its scheme, "" when the service does not listen.
func (r *Running) URL(name string) string {
	a := r.Addr(name)
	if a == "" {
		return ""
	}
	if r.env.Config.TLS.Cert != "" {
		return "https://" + a
	}
	return "http://" + a
}

// NATSURL is where the bus is.
func (r *Running) NATSURL() string { return r.natsURL }

// RedisURL is where Redis is, with its password; empty when this process uses none.
func (r *Running) RedisURL() (secret.Secret, error) {
	return redisURL(r.env.Config.Redis, r.servers.RedisURL)
}

// RedisPasswordFile holds the password of the embedded Redis; "" when it is not embedded.
func (r *Running) RedisPasswordFile() string { return r.servers.RedisPasswordFile }

// Env is the environment that the services were given. Config holds the issuer URL
// that was derived.
func (r *Running) Env() Env { return r.env }

// Topology is of the services in this process.
func (r *Running) Topology() Topology { return r.topology }

// SetUsers replaces the products, SOCs and guards that may use the embedded NATS
// server, without a restart, and makes missing keys. It fails when NATS is not embedded.
func (r *Running) SetUsers(others []config.User) error {
	if r.servers.SetUsers == nil {
		return errors.New("set NATS users: the server is not embedded: write its configuration anew")
	}
	users, err := WithKeys(Permissions(r.topology, others), r.env.Keys)
	if err != nil {
		return fmt.Errorf("set NATS users: %w", err)
	}
	return r.servers.SetUsers(users)
}

// WaitFresh returns when the process's guard has caught up with the kill feed and
// may admit callers, or when ctx ends.
func (r *Running) WaitFresh(ctx context.Context) error {
	select {
	case <-r.env.Guard.Ready():
		return nil
	case err := <-r.failed:
		r.fail(err)
		return err
	case <-ctx.Done():
		s := r.env.Guard.Status()
		return fmt.Errorf("wait for the guard: %w (heartbeat %s old; %s)", ctx.Err(), s.Age, s.Problem)
	}
}

// Failed delivers what ended the process's HTTP servers, if anything does.
func (r *Running) Failed() <-chan error { return r.failed }

// Stop stops everything in order: no new requests, running ones finish; handlers
// stop pulling and finish; tasks end; the guard detaches; what was opened closes in
// reverse order, servers last. It may be called more than once.
func (r *Running) Stop() error {
	r.once.Do(func() {
		r.stopping.Store(true)
		r.env.Log.Info("stopping", zap.Strings("services", r.serviceNames()))
		var errs []error
		if err := shutdown(r.http, stopGrace); err != nil {
			errs = append(errs, fmt.Errorf("stop HTTP: %w", err))
		}
		r.stopWork()
		r.work.Wait()
		r.stopInfra()
		r.infra.Wait()
		for i := len(r.closers) - 1; i >= 0; i-- {
			if err := r.closers[i](); err != nil {
				errs = append(errs, err)
			}
		}
		r.stopErr = errors.Join(errs...)
		r.env.Log.Info("stopped", zap.Strings("services", r.serviceNames()))
	})
	return r.stopErr
}
