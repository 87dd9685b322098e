// Package bustest runs a real nats-server with JetStream on disk inside a test. Any
// test of the services module may import it; nothing else may.
package bustest

import (
	"context"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/zap"
)

// Server starts a server that syncs every write and listens on no port. It ends
// with the test.
func Server(t testing.TB, change ...func(*server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{ServerName: "test", JetStream: true, StoreDir: t.TempDir(), SyncAlways: true, DontListen: true, NoSigs: true, NoLog: true}
	for _, f := range change {
		f(o)
	}
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatalf("make server: %v", err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not get ready")
	}
	return s
}

// Connect connects to an embedded server in process.
func Connect(t testing.TB, s *server.Server, change ...func(*bus.Config)) *bus.Conn {
	t.Helper()
	cfg := bus.Config{InProcess: s, Name: "test", ServerSyncAlways: func() bool { return true },
		Log: logger()}
	for _, f := range change {
		f(&cfg)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	c, err := bus.Connect(ctx, cfg)
	if err != nil {
		t.Fatalf("connect: %v", err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// Start starts a server and connects to it; every stream is provisioned.
func Start(t testing.TB) *bus.Conn {
	t.Helper()
	c := Connect(t, Server(t))
	if err := bus.Provision(t.Context(), c, bus.Options{Replicas: 1}); err != nil {
		t.Fatalf("provision: %v", err)
	}
	return c
}

// logger writes to standard error with -v, else nowhere. It is not the test's log,
// which panics on what is logged after the test.
func logger() *zap.Logger {
	if !testing.Verbose() {
		return zap.NewNop()
	}
	cfg := zap.NewDevelopmentConfig()
	cfg.Level.SetLevel(zap.WarnLevel)
	cfg.DisableStacktrace = true
	l, err := cfg.Build()
	if err != nil {
		return zap.NewNop()
	}
	return l
}
