package state

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
)

// server is a Redis that a test can flush, stop and start again.
type server interface {
	url() string
	stop()    // connections break, nobody listens
	restart() // at the same address; what it holds then is not promised
}

// servers runs one suite against the embedded server and against a real one.
func servers(t *testing.T, suite func(t *testing.T, s server)) {
	t.Run("embedded", func(t *testing.T) {
		m := miniredis.NewMiniRedis()
		m.RequireAuth("pass-word")
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.Close)
		suite(t, &embeddedServer{t, m, m.Addr()})
	})
	t.Run("redis-server", func(t *testing.T) {
		if u := os.Getenv("LANYARD_TEST_REDIS"); u != "" {
			suite(t, &givenServer{t, u})
			return
		}
		s := startReal(t)
		if s == nil {
			t.Skip("NOT RUN against a real Redis: redis-server is not on PATH and LANYARD_TEST_REDIS is not set")
		}
		suite(t, s)
	})
}

// startReal starts redis-server, or returns nil when it is not on PATH.
func startReal(t testing.TB) server {
	bin, err := exec.LookPath("redis-server")
	if err != nil {
		return nil
	}
	s := &realServer{t: t, bin: bin, dir: t.TempDir(), port: freePort(t)}
	s.restart()
	t.Cleanup(s.stop)
	return s
}

type embeddedServer struct {
	t    testing.TB
	m    *miniredis.Miniredis
	addr string
}

func (s *embeddedServer) url() string { return "redis://:pass-word@" + s.addr }
func (s *embeddedServer) stop()       { s.m.Close() }
func (s *embeddedServer) restart() {
	s.m.FlushAll()
	if err := s.m.Restart(); err != nil {
		s.t.Fatal(err)
	}
}

// givenServer is one that the environment names. It cannot be stopped: flushing is
// the nearest to it.
type givenServer struct {
	t testing.TB
	u string
}

func (s *givenServer) url() string { return s.u }
func (s *givenServer) stop()       { flush(s.t, s) }
func (s *givenServer) restart()    { flush(s.t, s) }

type realServer struct {
	t    testing.TB
	bin  string
	dir  string
	port int
	cmd  *exec.Cmd
}

func (s *realServer) url() string { return fmt.Sprintf("redis://:pass-word@127.0.0.1:%d", s.port) }

func (s *realServer) stop() {
	if s.cmd != nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait() // it was killed
		s.cmd = nil
	}
}

func (s *realServer) restart() {
	s.cmd = exec.Command(s.bin, "--bind", "127.0.0.1", "--port", strconv.Itoa(s.port),
		"--requirepass", "pass-word", "--save", "", "--appendonly", "no", "--dir", s.dir, "--loglevel", "warning")
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	eventually(s.t, "redis-server answers", func() bool {
		c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)))
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
}

func freePort(t testing.TB) int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// client is a connection of the test's own.
func client(t testing.TB, s server) *redis.Client {
	o, err := redis.ParseURL(s.url())
	if err != nil {
		t.Fatal(err)
	}
	c := redis.NewClient(o)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func flush(t testing.TB, s server) {
	t.Helper()
	if err := client(t, s).FlushAll(context.Background()).Err(); err != nil {
		t.Fatal(err)
	}
}

func open(t testing.TB, s server, opts ...Option) *Store {
	t.Helper()
	st, err := Open(context.Background(), s.url(), opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

// saved waits until every fold handed to the background writer is in Redis.
func saved(t testing.TB, s *Store) {
	t.Helper()
	done := make(chan error, 1)
	s.saver.queue <- save{flush: done}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// eventually polls until ok or 20 s have passed.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	end := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(end) {
			t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}
