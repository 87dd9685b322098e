package service

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/keys"
	"github.com/lanyard-nhi/lanyard/services/internal/outbound"
	"github.com/lanyard-nhi/lanyard/services/internal/state"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"
)

// Describe derives the topology of services without running them. Each constructor
// is called once with an environment that is connected to nothing, in a temporary
// directory with keys of its own; New of a service must not use the bus, the state
// or the guard, only keep them. Enforcement points come from c.
func Describe(c config.Config, cs ...Constructor) (_ Topology, err error) {
	dir, err := os.MkdirTemp("", "lanyard-describe-")
	if err != nil {
		return Topology{}, fmt.Errorf("describe services: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	env, err := dryEnv(c, dir)
	if err != nil {
		return Topology{}, fmt.Errorf("describe services: %w", err)
	}
	var services []Service
	for _, build := range cs {
		env.Metrics = prometheus.NewRegistry() // two services may register the same name
		s, err := build(env)
		if err != nil {
			return Topology{}, fmt.Errorf("describe services: %w", err)
		}
		if s.Close != nil {
			if err := s.Close(); err != nil {
				return Topology{}, fmt.Errorf("describe %s: %w", s.Name, err)
			}
		}
		services = append(services, s)
	}
	return NewTopology(services)
}

func dryEnv(c config.Config, dir string) (Env, error) {
	dry := config.Default(dir)
	dry.Issuer.URL = "http://127.0.0.1"
	dry.Guard.Point, dry.Guard.Tenant = c.Guard.Point, c.Guard.Tenant
	dry = dry.Complete()
	ring, err := keys.Open(filepath.Join(dir, "keys"), true)
	if err != nil {
		return Env{}, err
	}
	key, err := ring.LineageKey()
	if err != nil {
		return Env{}, err
	}
	namer, err := lineage.NewNamer(key)
	if err != nil {
		return Env{}, err
	}
	feedKey, err := ring.FeedPublic()
	if err != nil {
		return Env{}, err
	}
	client, err := outbound.New(outbound.Options{})
	if err != nil {
		return Env{}, err
	}
	return Env{Config: dry, Log: zap.NewNop(), Now: time.Now, Rand: rand.Reader, Bus: new(bus.Conn), State: new(state.Store),
		Guard: new(guard.Guard), Keys: ring, Namer: namer, Outbound: client, Feed: noFeed{}, IssuerKeys: ring, FeedKey: feedKey}, nil
}
