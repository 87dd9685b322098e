package redis_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lanyard-nhi/lanyard/services/connector"
	"github.com/lanyard-nhi/lanyard/services/connector/connectortest"
	"github.com/lanyard-nhi/lanyard/services/connector/redis"
	"github.com/lanyard-nhi/lanyard/services/internal/downstreamtest"
	"github.com/lanyard-nhi/lanyard/services/internal/secret"
	client "github.com/redis/go-redis/v9"
)

const (
	adminPassword = "connector-password-51bd"
	userPassword  = "user-password-0c77"
)

// world is two servers, the first behind a plug.
type world struct {
	addrs []string
	acl   string // of the first
	proxy *connectortest.Proxy
	conn  *redis.Connector
	n     int
}

func start(t *testing.T, remove bool) *world {
	t.Helper()
	w := &world{acl: filepath.Join(t.TempDir(), "users.acl")}
	users := "user default off\nuser lanyard on >" + adminPassword + " ~* &* +@all\n"
	if err := os.WriteFile(w.acl, []byte(users), 0o600); err != nil {
		t.Fatal(err)
	}
	w.addrs = append(w.addrs, downstreamtest.StartRedis(t, "aclfile "+w.acl))
	w.addrs = append(w.addrs, downstreamtest.StartRedis(t, "user default off", "user lanyard on >"+adminPassword+" ~* &* +@all"))
	w.proxy = connectortest.NewProxy(t, w.addrs[0])
	c, err := redis.New(redis.Config{URLs: []string{"redis://lanyard@" + w.proxy.Addr(), "redis://lanyard@" + w.addrs[1]},
		Password: secret.New(adminPassword), Delete: remove})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	w.conn = c
	return w
}

func (w *world) dial(t *testing.T, server int, name, password string) *client.Client {
	t.Helper()
	c := client.NewClient(&client.Options{Addr: w.addrs[server], Username: name, Password: password, PoolSize: 1, MaxRetries: -1, DisableIdentity: true})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (w *world) user(t *testing.T) connector.Target {
	t.Helper()
	w.n++
	name := fmt.Sprintf("agent-%d", w.n)
	for i := range w.addrs {
		if err := w.dial(t, i, "lanyard", adminPassword).Do(t.Context(), "ACL", "SETUSER", name, "on", ">"+userPassword, "~*", "+@all").Err(); err != nil {
			t.Fatal(err)
		}
	}
	return connector.Target{Request: "r", Tenant: "acme", Secret: "s", Account: name}
}

func TestContract(t *testing.T) {
	for _, remove := range []bool{false, true} {
		t.Run(fmt.Sprintf("delete=%t", remove), func(t *testing.T) {
			w := start(t, remove)
			connectortest.Run(t, connectortest.Suite{
				Connector: w.conn,
				Account:   w.user,
				Alive: func(t *testing.T, target connector.Target) bool {
					for i := range w.addrs {
						if w.dial(t, i, target.Account, userPassword).Ping(t.Context()).Err() == nil {
							return true
						}
					}
					return false
				},
				Missing: func(*testing.T) connector.Target {
					return connector.Target{Request: "r", Tenant: "acme", Secret: "s", Account: "nobody"}
				},
				Unplug:  func(*testing.T) func() { w.proxy.Unplug(); return w.proxy.Plug },
				Secrets: []string{adminPassword, userPassword},
			})
		})
	}
}

func TestOpenConnectionsAreCutAndItLasts(t *testing.T) {
	w := start(t, false)
	victim, sibling := w.user(t), w.user(t)
	a, b := w.dial(t, 1, victim.Account, userPassword), w.dial(t, 1, sibling.Account, userPassword)
	for _, c := range []*client.Client{a, b} {
		if err := c.Ping(t.Context()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	r, err := w.conn.End(t.Context(), victim)
	if err != nil || r.Detail != "1 connections killed" {
		t.Fatalf("End: %+v, %v", r, err)
	}
	if a.Ping(t.Context()).Err() == nil {
		t.Error("the victim's connection goes on")
	}
	if err := b.Ping(t.Context()).Err(); err != nil {
		t.Errorf("the sibling's connection: %v", err)
	}
	kept, err := os.ReadFile(w.acl)
	if err != nil || !strings.Contains(string(kept), "user "+victim.Account+" off") {
		t.Errorf("the ACL file does not hold the end: %s, %v", kept, err)
	}
}

func TestRefuses(t *testing.T) {
	w := start(t, false)
	for _, name := range []string{"default", "lanyard", "a b"} {
		if r, err := w.conn.End(t.Context(), connector.Target{Account: name}); !errors.Is(err, connector.ErrRefused) {
			t.Errorf("End of %q: %+v, %v; want refused", name, r, err)
		}
	}
	victim := w.user(t)
	weak, err := redis.New(redis.Config{URLs: []string{"redis://" + victim.Account + "@" + w.addrs[0]}, Password: secret.New("wrong")})
	if err != nil {
		t.Fatal(err)
	}
	defer weak.Close()
	if _, err := weak.End(t.Context(), w.user(t)); !errors.Is(err, connector.ErrRefused) {
		t.Errorf("End with a wrong password: %v; want refused", err)
	}
	for _, url := range []string{"", "redis://db.example.org:6379", "redis://u:pw@127.0.0.1:1", "http://127.0.0.1"} {
		if _, err := redis.New(redis.Config{URLs: []string{url}}); err == nil || strings.Contains(err.Error(), "pw") {
			t.Errorf("New(%q): %v", url, err)
		}
	}
}
