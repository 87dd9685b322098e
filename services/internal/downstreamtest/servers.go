// Package downstreamtest starts real PostgreSQL, Redis and NATS servers on loopback for
// tests of connectors and of the cascade, and
// only tests import it. Without the binaries a test is skipped, unless the variable
// LANYARD_REQUIRE_SERVERS is set, as `make test-connectors test-proxies` and .ci/run do.
package downstreamtest

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Postgres is a running server.
type Postgres struct {
	Addr      string // host:port
	Superuser string
	Password  string
}

// StartPostgres starts a server that ends with the test.
func StartPostgres(t testing.TB) *Postgres {
	t.Helper()
	initdb, server := Find(t, "postgresql", "initdb"), Find(t, "postgresql", "postgres")
	dir := ownDir(t)
	p := &Postgres{Superuser: "postgres", Password: "superuser-password"}
	pw := filepath.Join(dir, "pw")
	if err := os.WriteFile(pw, []byte(p.Password), 0o600); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	account := serverAccount(t, dir)
	run := command(account, initdb, "-D", data, "-U", p.Superuser, "--pwfile", pw, "-A", "scram-sha-256", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8")
	if out, err := run.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	port := freePort(t)
	p.Addr = net.JoinHostPort("127.0.0.1", port)
	serve(t, command(account, server, "-D", data, "-p", port, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=",
		"-c", "fsync=off", "-c", "max_connections=40"), syscall.SIGQUIT)
	await(t, func(ctx context.Context) error {
		c, err := p.Try(ctx, p.Superuser, p.Password)
		if err != nil {
			return err
		}
		return c.Close(ctx)
	})
	return p
}

// Try logs in.
func (p *Postgres) Try(ctx context.Context, role, password string) (*pgx.Conn, error) {
	c, err := pgx.ParseConfig("postgres://" + p.Addr + "/postgres?sslmode=disable&connect_timeout=10")
	if err != nil {
		return nil, err
	}
	c.User, c.Password = role, password
	return pgx.ConnectConfig(ctx, c)
}

// Dial logs in or fails the test; the session ends with the test.
func (p *Postgres) Dial(t testing.TB, role, password string) *pgx.Conn {
	t.Helper()
	c, err := p.Try(t.Context(), role, password)
	if err != nil {
		t.Fatalf("log in as %s: %v", role, err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = c.Close(ctx) // the server may have cut it
	})
	return c
}

// StartRedis starts a server with this configuration file's lines; it ends with the
// test. It answers host:port.
func StartRedis(t testing.TB, lines ...string) string {
	t.Helper()
	server := Find(t, "redis-server", "redis-server")
	dir, port := ownDir(t), freePort(t)
	conf := filepath.Join(dir, "redis.conf")
	text := "bind 127.0.0.1\nport " + port + "\nsave \"\"\nappendonly no\ndir " + dir + "\n"
	for _, l := range lines {
		text += l + "\n"
	}
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	serve(t, exec.Command(server, conf), syscall.SIGTERM)
	addr := net.JoinHostPort("127.0.0.1", port)
	await(t, func(ctx context.Context) error {
		var d net.Dialer
		c, err := d.DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		return c.Close()
	})
	return addr
}

// Find is the path of a program of a Debian package. Where it is missing the test is
// skipped, since `make test` needs only Go, or fails with LANYARD_REQUIRE_SERVERS.
func Find(t testing.TB, pkg, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	if found, err := filepath.Glob("/usr/lib/postgresql/*/bin/" + name); err == nil && len(found) > 0 {
		return found[len(found)-1]
	}
	if os.Getenv("LANYARD_REQUIRE_SERVERS") != "" {
		t.Fatalf("%s is not installed: apt-get install %s", name, pkg)
	}
	t.Skipf("%s is not installed: apt-get install %s, or run make test-connectors test-proxies", name, pkg)
	return ""
}

// ownDir is a short directory, as paths of sockets are limited.
func ownDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lanyard")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// serverAccount is who runs PostgreSQL, which refuses to be root: nil for ourselves.
func serverAccount(t testing.TB, dir string) *syscall.Credential {
	t.Helper()
	if os.Geteuid() != 0 {
		return nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.ParseUint(u.Uid, 10, 32)
		gid, gidErr := strconv.ParseUint(u.Gid, 10, 32)
		if uidErr != nil || gidErr != nil {
			continue
		}
		err = filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
			return errors.Join(err, os.Chown(path, int(uid), int(gid)))
		})
		if err != nil {
			t.Fatal(err)
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	t.Fatal("PostgreSQL does not run as root, and there is no user postgres or nobody")
	return nil
}

func command(as *syscall.Credential, name string, args ...string) *exec.Cmd {
	c := exec.Command(name, args...)
	c.Dir = "/"
	c.Env = []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C.UTF-8"}
	if as != nil {
		c.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	}
	return c
}

// serve starts a server and stops it with the test.
func serve(t testing.TB, c *exec.Cmd, stop syscall.Signal) {
	t.Helper()
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, &out
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Process.Signal(stop) // it may have ended
		_ = c.Wait()               // by a signal: an error
		if t.Failed() {
			t.Logf("%s said:\n%s", filepath.Base(c.Path), out.String())
		}
	})
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return strconv.Itoa(l.Addr().(*net.TCPAddr).Port)
}

// await tries f until it succeeds.
func await(t testing.TB, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		err := f(ctx)
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the server does not get ready: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}
