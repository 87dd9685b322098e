package cli

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/services/internal/allinone"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/nats-io/nats-server/v2/server"
)

// realServer starts a nats-server that listens, as somebody would run it.
func realServer(t *testing.T, syncAlways bool) (url, monitor string) {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, HTTPHost: "127.0.0.1", HTTPPort: -1,
		JetStream: true, StoreDir: t.TempDir(), SyncAlways: syncAlways, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(20 * time.Second) {
		t.Fatal("nats-server is not ready")
	}
	return s.ClientURL(), fmt.Sprintf("http://%s", s.MonitorAddr())
}

// TestSyncAlways: on a server that may lose acknowledged writes revokes are refused,
// with the lines that mend it; on one that syncs every write they are accepted.
func TestSyncAlways(t *testing.T) {
	for name, sync := range map[string]bool{"default": false, "always": true} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			conf := config.Default(dir)
			conf.NATS.URL, conf.NATS.Monitor = realServer(t, sync)
			var said []string
			sys, err := allinone.Start(context.Background(), allinone.Options{Config: conf, Say: func(f string, a ...any) { said = append(said, fmt.Sprintf(f, a...)) }})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := sys.Stop(); err != nil {
					t.Error(err)
				}
			}()
			run := func(args ...string) (int, string) {
				var out bytes.Buffer
				code := Run(t.Context(), append([]string{"--data", dir}, args...), strings.NewReader(""), &out, &out)
				return code, out.String()
			}
			if code, out := run("identity", "declare", "acme/bot", "--kind", "agent", "--owner", "a@acme.example", "--feature", "f", "--purpose", "p"); code != 0 {
				t.Fatalf("declare: exit %d: %s", code, out)
			}
			code, out := run("revoke", "identity:acme/bot", "--reason", "x", "--confirm")
			doctor, found := run("doctor")
			if sync {
				if code != 0 || !strings.Contains(out, "closed") || doctor != 0 {
					t.Errorf("revoke: exit %d: %s\ndoctor: exit %d: %s", code, out, doctor, found)
				}
				return
			}
			if code == 0 || !strings.Contains(out, "sync_interval: always") || !strings.Contains(out, "unsafe_server") {
				t.Errorf("revoke on an unsafe server: exit %d: %s", code, out)
			}
			if doctor != exitNotTrue || !strings.Contains(found, "does not sync every write") {
				t.Errorf("doctor on an unsafe server: exit %d: %s", doctor, found)
			}
			if !strings.Contains(strings.Join(said, "\n"), "revokes will be refused") {
				t.Errorf("the start did not say so: %q", said)
			}
		})
	}
}
