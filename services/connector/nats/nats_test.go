package nats_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/services/connector"
	"github.com/lanyard-nhi/lanyard/services/connector/connectortest"
	"github.com/lanyard-nhi/lanyard/services/connector/nats"
	"github.com/lanyard-nhi/lanyard/services/internal/downstreamtest"
	"github.com/lanyard-nhi/lanyard/services/internal/secret"
	client "github.com/nats-io/nats.go"
)

type world struct {
	*downstreamtest.NATS
	proxy *connectortest.Proxy
	conn  *nats.Connector
	users map[string]downstreamtest.NATSUser
}

func start(t *testing.T) *world {
	t.Helper()
	w := &world{NATS: downstreamtest.StartNATS(t), users: map[string]downstreamtest.NATSUser{}}
	w.proxy = connectortest.NewProxy(t, w.Addr)
	c, err := nats.New(nats.Config{URL: "nats://" + w.proxy.Addr(), Account: w.Account,
		Credentials: secret.New(w.System), Operator: secret.New(w.Operator)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	w.conn = c
	return w
}

func (w *world) user(t *testing.T) connector.Target {
	t.Helper()
	u := w.NewUser(t)
	w.users[u.Key] = u
	return connector.Target{Request: "r", Tenant: "acme", Secret: "s", Account: u.Key}
}

func TestContract(t *testing.T) {
	w := start(t)
	connectortest.Run(t, connectortest.Suite{
		Connector: w.conn,
		Account:   w.user,
		Alive: func(_ *testing.T, target connector.Target) bool {
			c, err := w.users[target.Account].Connect(w.Addr)
			if err != nil {
				return false
			}
			c.Close()
			return true
		},
		Unplug:  func(*testing.T) func() { w.proxy.Unplug(); return w.proxy.Plug },
		Secrets: []string{w.Operator, w.System},
	})
}

func TestOpenConnectionsAreCut(t *testing.T) {
	w := start(t)
	victim, sibling := w.user(t), w.user(t)
	closed := make(chan struct{})
	a, err := w.users[victim.Account].Connect(w.Addr, client.NoReconnect(), client.ClosedHandler(func(*client.Conn) { close(closed) }))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := w.users[sibling.Account].Connect(w.Addr, client.NoReconnect())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if st, err := w.conn.Verify(t.Context(), victim); err != nil || st.Dead || !strings.Contains(st.Detail, "open connections: 1") {
		t.Fatalf("Verify: %+v, %v", st, err)
	}
	if r, err := w.conn.End(t.Context(), victim); err != nil || r.Outcome != connector.Enforced || r.Detail != "1 connections closed" {
		t.Fatalf("End: %+v, %v", r, err)
	}
	select {
	case <-closed:
	case <-time.After(30 * time.Second):
		t.Fatal("the victim's connection goes on")
	}
	if err := b.FlushTimeout(10 * time.Second); err != nil {
		t.Errorf("the sibling's connection: %v", err)
	}
	// A token issued after the end for the same key is refused too.
	again := w.Reissue(t, w.users[victim.Account])
	if c, err := again.Connect(w.Addr); err == nil {
		c.Close()
		t.Error("a later token of the same key gets in")
	}
}

func TestRefuses(t *testing.T) {
	w := start(t)
	if r, err := w.conn.End(t.Context(), connector.Target{Account: w.Account}); !errors.Is(err, connector.ErrRefused) {
		t.Errorf("End of an account: %+v, %v; want refused", r, err)
	}
	u := w.NewUser(t)
	weak, err := nats.New(nats.Config{URL: "nats://" + w.Addr, Account: w.Account, Credentials: secret.New(u.Creds), Operator: secret.New(w.Operator)})
	if err != nil {
		t.Fatal(err)
	}
	defer weak.Close()
	if r, err := weak.End(t.Context(), connector.Target{Account: u.Key}); err == nil {
		t.Errorf("End without the system account: %+v; want an error", r)
	}
	for _, c := range []nats.Config{{}, {URL: "nats://example.org:4222", Account: w.Account, Operator: secret.New(w.Operator)},
		{URL: "nats://u:pw@127.0.0.1:1", Account: w.Account, Operator: secret.New(w.Operator)},
		{URL: "nats://127.0.0.1:1", Account: "A", Operator: secret.New(w.Operator)}, {URL: "nats://127.0.0.1:1", Account: w.Account, Operator: secret.New("SO")}} {
		if _, err := nats.New(c); err == nil || strings.Contains(err.Error(), "pw") {
			t.Errorf("New(%s): %v", c.URL, err)
		}
	}
}
