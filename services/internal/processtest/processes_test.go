package processtest

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/sample"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/cli"
	"github.com/lanyard-nhi/lanyard/services/internal/demo"
	"github.com/lanyard-nhi/lanyard/services/internal/keys"
	"go.uber.org/zap"
)

// fleet is the processes of one deployment.
type fleet struct {
	t    *testing.T
	dir  string
	bin  string
	base int

	mu    sync.Mutex
	procs map[string]*exec.Cmd
}

var servicesInOrder = []string{"issuance", "revocation", "intake", "anomaly", "rotation", "guard"}

// command is the command line of a process.
func (f *fleet) command(name string) []string {
	switch name {
	case "nats":
		return []string{filepath.Join(f.bin, "nats-server"), "-c", filepath.Join(f.dir, "nats", "nats.conf")}
	case "redis":
		return []string{"redis-server", filepath.Join(f.dir, "redis", "redis.conf")}
	case "local-issuer":
		return []string{filepath.Join(f.bin, "lanyard"), "local-issuer", "--data", filepath.Join(f.dir, "operator"), "--listen", fmt.Sprintf("127.0.0.1:%d", f.base+7)}
	}
	return []string{filepath.Join(f.bin, name), "--config", filepath.Join(f.dir, name, "lanyard.yaml")}
}

func (f *fleet) start(name string) {
	f.t.Helper()
	args := f.command(name)
	log, err := os.OpenFile(filepath.Join(f.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		f.t.Fatal(err)
	}
	c := exec.Command(args[0], args[1:]...)
	c.Stdout, c.Stderr = log, log
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := c.Start(); err != nil {
		f.t.Fatal(err)
	}
	log.Close()
	f.mu.Lock()
	f.procs[name] = c
	f.mu.Unlock()
}

// kill ends a process as a power cut would, and starts it again.
func (f *fleet) kill(name string) {
	f.mu.Lock()
	c := f.procs[name]
	f.mu.Unlock()
	_ = c.Process.Kill()
	_ = c.Wait()
	f.start(name)
}

func (f *fleet) stopAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, name := range append(append([]string{}, servicesInOrder...), "local-issuer", "redis", "nats") {
		if c := f.procs[name]; c != nil {
			_ = c.Process.Signal(syscall.SIGTERM)
			done := make(chan struct{})
			go func() { _ = c.Wait(); close(done) }()
			select {
			case <-done:
			case <-time.After(20 * time.Second):
				f.t.Errorf("%s did not stop within 20 s", name)
				_ = c.Process.Kill()
				<-done
			}
		}
	}
}

func (f *fleet) ready(name string) bool {
	i := map[string]int{"issuance": 0, "intake": 1, "anomaly": 2, "rotation": 3, "revocation": 4, "guard": 5}[name]
	resp, err := (&http.Client{Timeout: time.Second}).Get(fmt.Sprintf("http://127.0.0.1:%d/readyz", f.base+11+i))
	if err != nil {
		return false
	}
	resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

func listens(port int) bool {
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Second)
	if err != nil {
		return false
	}
	c.Close()
	return true
}

// freeBase finds a run of free ports.
func freeBase(t *testing.T) int {
	for base := 21080; base < 31000; base += 40 {
		free := true
		for p := base; p < base+30 && free; p++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
			if free = err == nil; free {
				l.Close()
			}
		}
		if free {
			return base
		}
	}
	t.Fatal("no free ports")
	return 0
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	c := exec.Command(name, args...)
	c.Stdout, c.Stderr = &out, &out
	if err := c.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", filepath.Base(name), strings.Join(args, " "), err, out.String())
	}
	return out.String()
}

func startFleet(t *testing.T) *fleet {
	root, err := filepath.Abs(filepath.Join("..", "..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	f := &fleet{t: t, dir: t.TempDir(), bin: t.TempDir(), base: freeBase(t), procs: map[string]*exec.Cmd{}}
	build := exec.Command("go", "build", "-o", f.bin+"/", "./services/cmd/...", "github.com/nats-io/nats-server/v2")
	build.Dir = root
	if b, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, b)
	}
	if err := os.Rename(filepath.Join(f.bin, "v2"), filepath.Join(f.bin, "nats-server")); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	lanyard := filepath.Join(f.bin, "lanyard")
	run(t, lanyard, "init", "--out", f.dir, "--layout", "local", "--local-oidc", "--base-port", fmt.Sprint(f.base))
	t.Cleanup(f.stopAll)
	t.Cleanup(func() {
		if t.Failed() {
			f.dumpLogs()
		}
	})
	f.start("nats")
	f.start("redis")
	until(t, 20*time.Second, "nats and redis listen", func() bool { return listens(f.base+20) && listens(f.base+22) })
	run(t, lanyard, "provision", "--config", filepath.Join(f.dir, "provision", "lanyard.yaml"))
	f.start("local-issuer")
	for _, s := range servicesInOrder {
		f.start(s)
	}
	for _, s := range servicesInOrder {
		until(t, 60*time.Second, s+" is ready", func() bool { return f.ready(s) })
	}
	return f
}

func (f *fleet) dumpLogs() {
	logs, _ := filepath.Glob(filepath.Join(f.dir, "*.log"))
	for _, l := range logs {
		b, err := os.ReadFile(l)
		if err != nil {
			continue
		}
		if len(b) > 4000 {
			b = b[len(b)-4000:]
		}
		f.t.Logf("--- %s\n%s", filepath.Base(l), b)
	}
}

// TestProcesses plays the demo's workload on separate processes, each time killing
// another one in the middle of intake, of issuance and of the revoke.
func TestProcesses(t *testing.T) {
	if os.Getenv("LANYARD_PROCESSES") == "" {
		t.Skip("not run: set LANYARD_PROCESSES=1 (make test-processes); it needs redis-server and some minutes")
	}
	if _, err := exec.LookPath("redis-server"); err != nil {
		t.Fatalf("redis-server is needed: %v", err)
	}
	f := startFleet(t)
	data := filepath.Join(f.dir, "operator")
	sys, closeFeeds, err := cli.DemoSystem(data)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFeeds()
	victims := append([]string{"nobody"}, append(append([]string{}, servicesInOrder...), "redis", "nats")...)
	if v := os.Getenv("LANYARD_VICTIMS"); v != "" {
		victims = strings.Split(v, ",")
	}
	var credentials []string
	for i, victim := range victims {
		t.Run("kill "+victim, func(t *testing.T) {
			opts := demo.Options{Records: sample.FS, Suffix: fmt.Sprintf("-%d", i), Patience: 40 * time.Second, CloseWithin: 60 * time.Second, Agents: 40}
			if victim != "nobody" {
				opts.At = func(phase string) {
					f.kill(victim)
					if victim == "nats" && phase != "revoke" {
						until(t, 30*time.Second, "nats is back", func() bool { return listens(f.base + 20) })
					}
				}
			}
			res, err := demo.Run(t.Context(), sys, opts, demo.Quiet{})
			credentials = append(credentials, res.Credentials...)
			if err != nil {
				b, _ := json.Marshal(res)
				t.Fatalf("%v\n%s", err, b)
			}
			if res.EventsRefused > 0 || res.Revocation.Descendants < 41 || res.Calls.TokensRenewedAfterRevoke > 0 {
				b, _ := json.Marshal(res)
				t.Errorf("result: %s", b)
			}
			t.Logf("closed %.0f ms after accept, last refusal p99 %.0f ms, receipts %d/%d, siblings denied %d",
				res.Revocation.AcceptToClosedMillis, res.Revocation.AcceptToLastRefusal.P99, res.Revocation.ReceiptsEnforced, res.Revocation.ReceiptsExpected, res.Calls.SiblingsDenied)
			for _, s := range servicesInOrder {
				until(t, 60*time.Second, s+" is ready again", func() bool { return f.ready(s) })
			}
		})
	}
	f.nothingLost(t, data, credentials)
}

// nothingLost checks that everything that was acknowledged stands in the streams.
func (f *fleet) nothingLost(t *testing.T, data string, credentials []string) {
	ring, err := keys.Open(filepath.Join(data, "keys"), false)
	if err != nil {
		t.Fatal(err)
	}
	seed, err := ring.NkeySeed("operator")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := bus.Connect(t.Context(), bus.Config{URL: fmt.Sprintf("nats://127.0.0.1:%d", f.base+20), Name: "operator", NkeySeed: seed, Log: zap.NewNop(), Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got := ids(t, conn, bus.StreamIn, "nhi.in.acme.activity.*", func(e events.Event) string { return e.ID() })
	got2 := ids(t, conn, bus.StreamLog, "nhi.log.*.credential.issued.*", func(e events.Event) string {
		p, err := events.As[events.CredentialIssued](e)
		if err != nil {
			return ""
		}
		return p.Credential
	})
	records := recordIDs(t)
	for id := range records {
		if !got[id] {
			t.Errorf("record %s was acknowledged and is gone", id)
		}
	}
	for _, jti := range credentials {
		if !got2[jti] {
			t.Errorf("credential %s was handed out without a record", jti)
		}
	}
	t.Logf("all %d records and all %d credentials are on the log", len(records), len(credentials))
}

func ids(t *testing.T, conn *bus.Conn, stream, filter string, id func(events.Event) string) map[string]bool {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out := map[string]bool{}
	for s, err := range conn.Read(ctx, stream, filter, 1) {
		if err != nil {
			t.Fatal(err)
		}
		out[id(s.Event)] = true
	}
	return out
}

// recordIDs are the eventIDs in the sample.
func recordIDs(t *testing.T) map[string]bool {
	out := map[string]bool{}
	err := fs.WalkDir(sample.FS, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, ".json.gz") {
			return err
		}
		b, err := fs.ReadFile(sample.FS, p)
		if err != nil {
			return err
		}
		z, err := gzip.NewReader(bytes.NewReader(b))
		if err != nil {
			return err
		}
		if b, err = io.ReadAll(z); err != nil {
			return err
		}
		var list []struct {
			EventID string `json:"eventID"`
		}
		if err := json.Unmarshal(b, &list); err != nil {
			return err
		}
		for _, r := range list {
			out[r.EventID] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
