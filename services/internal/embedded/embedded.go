// Package embedded runs, inside the process, what a deployment otherwise has as
// servers: NATS with JetStream on disk and a Redis-compatible server. It is what
// makes "lanyard up" need nothing else. Only the all-in-one and tests import it; the
// binaries of single services do not link it.
package embedded

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"go.uber.org/zap"
)

// Servers starts the embedded servers that c names no URL for: NATS in <data>/nats
// and Redis. It is a service.Embed. The Redis password is written to
// <data>/redis.password (0600) for the CLI.
func Servers(_ context.Context, c config.Config, users []service.User, log *zap.Logger) (service.Servers, error) {
	var s service.Servers
	var stops []func() error
	s.Stop = func() error {
		var errs []error
		for i := len(stops) - 1; i >= 0; i-- {
			errs = append(errs, stops[i]())
		}
		return errors.Join(errs...)
	}
	if c.NATS.URL == "" {
		n, err := StartNATS(Options{Dir: filepath.Join(c.Data, "nats"), Users: users, Listen: c.NATS.Listen, Log: log})
		if err != nil {
			return s, err
		}
		stops = append(stops, n.Stop)
		s.NATSURL, s.InProcess, s.SyncAlways, s.SetUsers = n.URL(), n, n.SyncAlways, n.SetUsers
	}
	if c.Redis.URL == "" {
		r, err := StartRedis(RedisOptions{PasswordFile: filepath.Join(c.Data, "redis.password")})
		if err != nil {
			return s, errors.Join(err, s.Stop())
		}
		stops = append(stops, r.Stop)
		s.RedisURL, s.RedisPasswordFile = r.URL(), filepath.Join(c.Data, "redis.password")
	}
	return s, nil
}
