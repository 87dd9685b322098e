package embedded_test

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/embedded"
	"github.com/lanyard-nhi/lanyard/services/internal/keys"
	"github.com/nats-io/nats.go"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// admin is a user who may do everything.
func admin(t *testing.T, ring *keys.Ring, name string) embedded.NATSUser {
	t.Helper()
	k, err := ring.NkeyPublic(name)
	if err != nil {
		t.Fatal(err)
	}
	return embedded.NATSUser{Name: name, Key: k, Publish: []string{">"}, Subscribe: []string{">"}}
}

func ring(t *testing.T) *keys.Ring {
	t.Helper()
	r, err := keys.Open(filepath.Join(t.TempDir(), "keys"), true)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func seed(t *testing.T, r *keys.Ring, user string) []byte {
	t.Helper()
	s, err := r.NkeySeed(user)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func start(t *testing.T, o embedded.Options) *embedded.NATS {
	t.Helper()
	n, err := embedded.StartNATS(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Stop() })
	return n
}

func connect(t *testing.T, c bus.Config) *bus.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	conn, err := bus.Connect(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func declared(t *testing.T, id string) events.Event {
	t.Helper()
	e, err := events.New(events.Origin{Source: "/test", Tenant: "acme", Time: time.Unix(1, 0), ID: id}, events.FeatureDisabled{Feature: "chat"})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestDataAndAddressSurviveARestart(t *testing.T) {
	r := ring(t)
	o := embedded.Options{Dir: filepath.Join(t.TempDir(), "nats"), Users: []embedded.NATSUser{admin(t, r, "all")}}
	n := start(t, o)
	if !n.SyncAlways() {
		t.Error("the server does not sync every write")
	}
	c := connect(t, bus.Config{URL: n.URL(), Name: "all", NkeySeed: seed(t, r, "all")})
	if err := bus.Provision(t.Context(), c, bus.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(t.Context(), declared(t, "one")); err != nil {
		t.Fatal(err)
	}
	url := n.URL()
	if err := errors.Join(c.Close(), n.Stop()); err != nil {
		t.Fatal(err)
	}
	n = start(t, o)
	if n.URL() != url {
		t.Errorf("restarted at %s, was at %s", n.URL(), url)
	}
	c = connect(t, bus.Config{InProcess: n, Name: "all", NkeySeed: seed(t, r, "all")})
	var ids []string
	for s, err := range c.Read(t.Context(), bus.StreamIn, "nhi.in.>", 1) {
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, s.Event.ID())
	}
	if strings.Join(ids, " ") != "one" {
		t.Errorf("after the restart the stream holds %v", ids)
	}
	if info, err := os.Stat(o.Dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("directory mode %v, %v", info.Mode(), err)
	}
}

func TestOnlyUsersGetIn(t *testing.T) {
	r, stranger := ring(t), ring(t)
	core, logs := observer.New(zap.DebugLevel)
	n := start(t, embedded.Options{Dir: t.TempDir(), Users: []embedded.NATSUser{admin(t, r, "all")}, Log: zap.New(core)})
	for name, opts := range map[string][]nats.Option{
		"nobody":             nil,
		"a password":         {nats.UserInfo("all", "hunter2-hidden")},
		"a token":            {nats.Token("hunter2-hidden")},
		"another's nkey":     {nkey(t, stranger, "all")},
		"nobody, in process": {nats.InProcessServer(n)},
	} {
		nc, err := nats.Connect(n.URL(), append(opts, nats.MaxReconnects(0), nats.Timeout(500*time.Millisecond), nats.FlusherTimeout(500*time.Millisecond))...)
		if err == nil {
			nc.Close()
			t.Errorf("%s got in", name)
		}
	}
	if nc, err := nats.Connect(n.URL(), nkey(t, r, "all")); err != nil {
		t.Errorf("the user did not get in: %v", err)
	} else {
		nc.Close()
	}
	if err := n.SetUsers([]embedded.NATSUser{admin(t, stranger, "all")}); err != nil {
		t.Fatal(err)
	}
	if nc, err := nats.Connect(n.URL(), nkey(t, r, "all"), nats.MaxReconnects(0)); err == nil {
		nc.Close()
		t.Error("a removed user got in")
	}
	nc, err := nats.Connect(n.URL(), nkey(t, stranger, "all"))
	if err != nil {
		t.Errorf("an added user did not get in: %v", err)
	} else {
		nc.Close()
	}
	for _, l := range logs.All() {
		for _, f := range l.Context {
			if strings.Contains(l.Message+f.String, "hunter2-hidden") {
				t.Errorf("the server logged a secret: %s %s", l.Message, f.String)
			}
		}
	}
}

func nkey(t *testing.T, r *keys.Ring, user string) nats.Option {
	t.Helper()
	o, err := nats.NkeyOptionFromSeed(filepath.Join(r.Dir(), "nats", user+".nk"))
	if err != nil {
		// The key is made on first use.
		seed(t, r, user)
		if o, err = nats.NkeyOptionFromSeed(filepath.Join(r.Dir(), "nats", user+".nk")); err != nil {
			t.Fatal(err)
		}
	}
	return o
}

func TestNATSRefuses(t *testing.T) {
	r := ring(t)
	for name, o := range map[string]embedded.Options{
		"another interface":  {Listen: "0.0.0.0:0"},
		"no port":            {Listen: "127.0.0.1"},
		"a user without key": {Users: []embedded.NATSUser{{Name: "x"}}},
	} {
		o.Dir = t.TempDir()
		if o.Users == nil {
			o.Users = []embedded.NATSUser{admin(t, r, "all")}
		}
		if n, err := embedded.StartNATS(o); err == nil {
			_ = n.Stop()
			t.Errorf("%s was accepted", name)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	// A remembered port that somebody else has now is given up for another.
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "address"), []byte(l.Addr().String()), 0o600); err != nil {
		t.Fatal(err)
	}
	n := start(t, embedded.Options{Dir: dir, Users: []embedded.NATSUser{admin(t, r, "all")}})
	if strings.HasSuffix(n.URL(), l.Addr().String()) {
		t.Error("two listeners on one port")
	}
}

func TestRedis(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sub", "redis.password")
	r, err := embedded.StartRedis(embedded.RedisOptions{PasswordFile: file})
	if err != nil {
		t.Fatal(err)
	}
	password, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("password file mode %v, %v", info.Mode(), err)
	}
	pw := strings.TrimSpace(string(password))
	if !strings.Contains(r.URL().Reveal(), pw) || strings.Contains(r.URL().String(), pw) || len(pw) < 40 {
		t.Error("the URL does not hold the password, or shows it")
	}
	c := newClient(t, r.Addr())
	if got := c.do("GET x"); !strings.HasPrefix(got, "-NOAUTH") {
		t.Errorf("without password: %s", got)
	}
	if got := c.do("AUTH wrong"); !strings.HasPrefix(got, "-WRONGPASS") {
		t.Errorf("with a wrong password: %s", got)
	}
	if got := c.do("AUTH " + pw); got != "+OK" {
		t.Fatalf("with the password: %s", got)
	}
	if got := c.do("SET k v PX 150"); got != "+OK" {
		t.Fatal(got)
	}
	if got := c.do("EXISTS k"); got != ":1" {
		t.Errorf("before its time: %s", got)
	}
	deadline := time.Now().Add(5 * time.Second)
	for c.do("EXISTS k") != ":0" {
		if time.Now().After(deadline) {
			t.Fatal("the key did not expire: the server's time stands still")
		}
	}
	c.do("SET k v")
	r.Flush()
	if got := c.do("EXISTS k"); got != ":0" {
		t.Errorf("after a flush: %s", got)
	}
	if err := r.Stop(); err != nil {
		t.Fatal(err)
	}
	if conn, err := net.DialTimeout("tcp", r.Addr(), time.Second); err == nil {
		_ = conn.Close()
		t.Error("it listens after Stop")
	}
}

// client speaks just enough of the Redis protocol.
type client struct {
	t    *testing.T
	conn net.Conn
	r    *bufio.Reader
}

func newClient(t *testing.T, addr string) *client {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &client{t, conn, bufio.NewReader(conn)}
}

func (c *client) do(line string) string {
	c.t.Helper()
	var b strings.Builder
	words := strings.Fields(line)
	b.WriteString("*" + strconv.Itoa(len(words)) + "\r\n")
	for _, w := range words {
		b.WriteString("$" + strconv.Itoa(len(w)) + "\r\n" + w + "\r\n")
	}
	if _, err := c.conn.Write([]byte(b.String())); err != nil {
		c.t.Fatal(err)
	}
	got, err := c.r.ReadString('\n')
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.TrimSpace(got)
}
