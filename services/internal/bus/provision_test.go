package bus

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
)

func TestProvision(t *testing.T) {
	c := testBus(t)
	ctx := t.Context()
	before := map[string]jetstream.StreamConfig{}
	for _, want := range streamTable {
		s, err := c.js.Stream(ctx, want.Name)
		if err != nil {
			t.Fatal(err)
		}
		before[want.Name] = s.CachedInfo().Config
	}
	if len(before) != 10 || !before[StreamLog].DenyDelete || !before[StreamLog].DenyPurge || !before[StreamKill].DenyPurge || before[StreamLog].MaxAge != 0 ||
		before[StreamKill].MaxMsgsPerSubject != 1 || before[StreamKill].RePublish == nil || before[StreamIn].Duplicates != 10*time.Minute {
		t.Fatalf("streams are not as designed: %+v", before)
	}
	if err := Provision(ctx, c, Options{Replicas: 1}); err != nil {
		t.Fatalf("again: %v", err)
	}
	// Somebody weakened one stream and strengthened another.
	weak, strong := before[StreamIn], before[StreamReceipt]
	weak.MaxBytes, weak.MaxAge = 1000, time.Hour
	weak.Duplicates = time.Minute
	strong.MaxAge = 1000 * day
	for _, cfg := range []jetstream.StreamConfig{weak, strong} {
		if _, err := c.js.UpdateStream(ctx, cfg); err != nil {
			t.Fatal(err)
		}
	}
	if err := Provision(ctx, c, Options{Replicas: 1}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]time.Duration{StreamIn: 7 * day, StreamReceipt: 1000 * day} {
		s, err := c.js.Stream(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if got := s.CachedInfo().Config; got.MaxAge != want || got.MaxBytes != -1 {
			t.Errorf("%s keeps for %v in %d bytes, want %v without a limit", name, got.MaxAge, got.MaxBytes, want)
		}
	}
	// Two processes at once.
	other := testConn(t, testServer(t))
	errs := make(chan error, 2)
	for range 2 {
		go func() { errs <- Provision(ctx, other, Options{}) }()
	}
	for range 2 {
		if err := <-errs; err != nil {
			t.Errorf("at once: %v", err)
		}
	}
}

func TestStrengthen(t *testing.T) {
	want := jetstream.StreamConfig{Name: "S", Storage: jetstream.FileStorage, Replicas: 1}
	with := func(f func(*jetstream.StreamConfig)) jetstream.StreamConfig { c := want; f(&c); return c }
	for name, have := range map[string]jetstream.StreamConfig{
		"in memory":     with(func(c *jetstream.StreamConfig) { c.Storage = jetstream.MemoryStorage }),
		"work queue":    with(func(c *jetstream.StreamConfig) { c.Retention = jetstream.WorkQueuePolicy }),
		"more replicas": with(func(c *jetstream.StreamConfig) { c.Replicas = 3 }),
		"sealed":        with(func(c *jetstream.StreamConfig) { c.Sealed = true }),
	} {
		if _, err := strengthen(have, want); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	have := with(func(c *jetstream.StreamConfig) { c.DenyDelete, c.MaxAge = true, time.Hour })
	if got, err := strengthen(have, want); err != nil || !got.DenyDelete || got.MaxAge != 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// monitored is a server that listens on loopback and has an HTTP monitor.
func monitored(t *testing.T, syncAlways bool, change ...func(*server.Options)) *server.Server {
	t.Helper()
	s := testServer(t, append([]func(*server.Options){func(o *server.Options) {
		o.DontListen, o.Host, o.Port, o.SyncAlways = false, "127.0.0.1", -1, syncAlways
		o.HTTPHost, o.HTTPPort = "127.0.0.1", -1
	}}, change...)...)
	return s
}

func TestSyncAlwaysByMonitor(t *testing.T) {
	for _, syncAlways := range []bool{true, false} {
		t.Run(fmt.Sprint(syncAlways), func(t *testing.T) {
			s := monitored(t, syncAlways)
			monitor := "http://" + s.MonitorAddr().String()
			c := testConn(t, nil, func(cfg *Config, tm *timing) {
				cfg.InProcess, cfg.ServerSyncAlways, cfg.URL, cfg.MonitorURL = nil, nil, s.ClientURL(), monitor
				tm.monitorWait = 2 * time.Second
			})
			check(t, c.SyncAlways(t.Context()), syncAlways)

			// Another server's monitor proves nothing.
			other := monitored(t, true)
			c.cfg.MonitorURL = "http://" + other.MonitorAddr().String()
			check(t, c.SyncAlways(t.Context()), false)
			// Nor does one that is not there, or says something else.
			c.cfg.MonitorURL = "http://127.0.0.1:1"
			check(t, c.SyncAlways(t.Context()), false)
			odd := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }))
			defer odd.Close()
			c.cfg.MonitorURL = odd.URL
			check(t, c.SyncAlways(t.Context()), false)
		})
	}
}

func check(t *testing.T, err error, safe bool) {
	t.Helper()
	if safe && err != nil {
		t.Errorf("a safe server is refused: %v", err)
	}
	if !safe && (!errors.Is(err, ErrUnsafeServer) || !strings.Contains(err.Error(), "sync_interval: always")) {
		t.Errorf("an unsafe or unknown server: %v", err)
	}
}

func TestSyncAlwaysBySystemAccount(t *testing.T) {
	for _, syncAlways := range []bool{true, false} {
		t.Run(fmt.Sprint(syncAlways), func(t *testing.T) {
			user, userSeed := nkey(t)
			admin, adminSeed := nkey(t)
			s := testServer(t, func(o *server.Options) {
				o.SyncAlways = syncAlways
				app, sys := server.NewAccount("APP"), server.NewAccount("SYS")
				o.Accounts, o.SystemAccount = []*server.Account{app, sys}, "SYS"
				o.Nkeys = []*server.NkeyUser{{Nkey: user, Account: app}, {Nkey: admin, Account: sys}}
			})
			c := testConn(t, s, func(cfg *Config, tm *timing) {
				cfg.ServerSyncAlways, cfg.NkeySeed, cfg.SystemSeed = nil, userSeed, adminSeed
				tm.monitorWait = time.Second
			})
			check(t, c.SyncAlways(t.Context()), syncAlways)
			c.cfg.SystemSeed = userSeed // a user of another account hears nothing
			check(t, c.SyncAlways(t.Context()), false)
		})
	}
}

func TestSyncAlwaysEmbedded(t *testing.T) {
	c := testConn(t, testServer(t))
	check(t, c.SyncAlways(t.Context()), true)
	c.cfg.ServerSyncAlways = func() bool { return false }
	if err := c.SyncAlways(t.Context()); !errors.Is(err, ErrUnsafeServer) {
		t.Errorf("unsafe embedded server: %v", err)
	}
}

func nkey(t *testing.T) (public string, seed []byte) {
	t.Helper()
	kp, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	if public, err = kp.PublicKey(); err != nil {
		t.Fatal(err)
	}
	if seed, err = kp.Seed(); err != nil {
		t.Fatal(err)
	}
	return public, seed
}

func TestConnectCredentials(t *testing.T) {
	public, seed := nkey(t)
	_, stranger := nkey(t)
	// In process a refused client and the server write to each other until this ends.
	quick := func(o *server.Options) { o.WriteDeadline = 200 * time.Millisecond }
	guarded := testServer(t, quick, func(o *server.Options) { o.Nkeys = []*server.NkeyUser{{Nkey: public}} })
	open := testServer(t)
	passwords := testServer(t, quick, func(o *server.Options) { o.Username, o.Password = "lanyard", "secret" })
	for _, tc := range []struct {
		name string
		cfg  Config
		ok   bool
	}{
		{"right key", Config{InProcess: guarded, NkeySeed: seed}, true},
		{"wrong key", Config{InProcess: guarded, NkeySeed: stranger}, false},
		{"no key", Config{InProcess: guarded}, false},
		{"a server without keys, in process", Config{InProcess: open, NkeySeed: seed}, true},
		{"not a seed", Config{InProcess: open, NkeySeed: []byte("SU")}, false},
		{"password", Config{InProcess: passwords, User: "lanyard", Password: "secret"}, true},
		{"wrong password", Config{InProcess: passwords, User: "lanyard", Password: "guess"}, false},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		c, err := Connect(ctx, tc.cfg)
		cancel()
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
		if c != nil {
			if err := c.Close(); err != nil {
				t.Errorf("%s: close: %v", tc.name, err)
			}
			if err := c.Close(); err != nil {
				t.Errorf("%s: close again: %v", tc.name, err)
			}
		}
	}
}

func TestReach(t *testing.T) {
	for url, want := range map[string][2]bool{
		"nats://127.0.0.1:4222": {true, false}, "nats://localhost:4222": {true, false}, "nats://[::1]:4222": {true, false},
		"tls://127.0.0.1:4222": {true, true}, "nats://nats:4222": {false, false}, "nats://10.0.0.1:4222": {false, false},
		"nats://127.0.0.1:1,nats://10.0.0.1:2": {false, false}, "tls://a.example:1, tls://b.example:2": {false, true},
	} {
		local, secure, err := reach(url)
		if err != nil || local != want[0] || secure != want[1] {
			t.Errorf("%s: local %v, secure %v, %v", url, local, secure, err)
		}
	}
	for _, url := range []string{"", "nats://", "http://127.0.0.1:4222", "127.0.0.1:4222"} {
		if _, _, err := reach(url); err == nil {
			t.Errorf("%q: accepted", url)
		}
	}
}

// Outside loopback nothing is said in the clear, even when the server would take it.
func TestNoPlaintextOutsideLoopback(t *testing.T) {
	s := testServer(t, func(o *server.Options) { o.DontListen, o.Host, o.Port = false, "0.0.0.0", -1 })
	host := outsideAddress(t)
	_, port, err := net.SplitHostPort(s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	opts, local, err := dialOptions(Config{URL: "nats://" + net.JoinHostPort(host, port), Name: "x"}, testConn(t, s).log)
	if err != nil || local {
		t.Fatalf("local %v, %v", local, err)
	}
	if nc, err := nats.Connect("nats://"+net.JoinHostPort(host, port), opts...); !errors.Is(err, nats.ErrSecureConnWanted) {
		if nc != nil {
			nc.Close()
		}
		t.Errorf("connected in the clear: %v", err)
	}
}

// outsideAddress is an address of this machine that is not loopback.
func outsideAddress(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && !n.IP.IsLoopback() && n.IP.To4() != nil {
			return n.IP.String()
		}
	}
	t.Skip("this machine has no address but loopback")
	return ""
}

func TestTLS(t *testing.T) {
	cert, caFile := certificate(t)
	s := testServer(t, func(o *server.Options) {
		o.DontListen, o.Host, o.Port = false, "127.0.0.1", -1
		o.TLS, o.TLSTimeout = true, 2
		o.TLSConfig = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12}
	})
	_, port, err := net.SplitHostPort(s.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name, ca string
		ok       bool
	}{{"its authority", caFile, true}, {"the system's authorities", "", false}} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		c, err := Connect(ctx, Config{URL: "tls://127.0.0.1:" + port, CAFile: tc.ca})
		cancel()
		if (err == nil) != tc.ok {
			t.Errorf("%s: %v", tc.name, err)
		}
		if c != nil {
			_ = c.Close()
		}
	}
}

func certificate(t *testing.T) (tls.Certificate, string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, file
}

func TestInboxPrefix(t *testing.T) {
	c := testConn(t, testServer(t), func(cfg *Config, _ *timing) { cfg.Name = "guard.acme/web" })
	if got := c.nc.NewRespInbox(); !strings.HasPrefix(got, "_INBOX_guard_acme_web.") {
		t.Errorf("inbox is %s", got)
	}
	if got := InboxPrefix("anomaly"); got != "_INBOX_anomaly" {
		t.Errorf("prefix is %s", got)
	}
}
