package service_test

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

var update = flag.Bool("update", false, "write the golden files")

func toyTopology(t *testing.T) service.Topology {
	t.Helper()
	topo, err := service.Describe(config.Default(t.TempDir()), toys...)
	if err != nil {
		t.Fatal(err)
	}
	return topo
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got:\n%s", name, got)
	}
}

func TestTopologyGolden(t *testing.T) {
	topo := toyTopology(t)
	golden(t, "topology.txt", topo.Text())
	golden(t, "topology.mmd", topo.Mermaid())
	js, err := topo.JSON()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "topology.json", string(js)+"\n")
	var back service.Topology
	if err := json.Unmarshal(js, &back); err != nil || back.Text() != topo.Text() {
		t.Errorf("JSON does not read back: %v", err)
	}
	users := service.Permissions(topo, others)
	ujs, err := json.MarshalIndent(users, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "permissions.json", string(ujs)+"\n")
}

func TestTopologyRefuses(t *testing.T) {
	ok := service.Service{Name: "a"}
	for name, list := range map[string][]service.Service{
		"two of one name": {ok, ok},
		"no name":         {{}},
		"bad name":        {{Name: "a.b"}},
		"unknown type":    {{Name: "a", Publishes: []string{"dev.lanyard.nothing.happened.v1"}}},
		"unknown handler": {{Name: "a", Handlers: []bus.Handler{{Type: "x"}}}},
	} {
		if _, err := service.NewTopology(list); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	topo, err := service.NewTopology([]service.Service{{Name: "a", Publishes: []string{events.TypeRevocationAccepted, events.TypeTimerDue}}})
	if err != nil || !topo.Services[0].Feed || !topo.Services[0].Timers {
		t.Errorf("derived rights: %+v, %v", topo, err)
	}
}

func TestNATSConfRefuses(t *testing.T) {
	user := service.User{Name: "a", Key: "K"}
	for name, o := range map[string]service.NATSOptions{
		"outside without TLS": {Listen: "0.0.0.0:4222", StoreDir: "/x", Users: []service.User{user}},
		"open monitoring":     {Listen: "127.0.0.1:4222", StoreDir: "/x", Monitor: ":8222"},
		"no store":            {Listen: "127.0.0.1:4222"},
		"no port":             {Listen: "127.0.0.1", StoreDir: "/x"},
		"bad port":            {Listen: "127.0.0.1:x", StoreDir: "/x"},
		"user without key":    {Listen: "127.0.0.1:4222", StoreDir: "/x", Users: []service.User{{Name: "a"}}},
	} {
		if _, err := service.NATSConf(o); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	conf, err := service.NATSConf(service.NATSOptions{Listen: "0.0.0.0:4222", StoreDir: `/a "b"\c`, TLSCert: "c", TLSKey: "k", TLSCA: "ca",
		Cluster: "c1", ClusterListen: "0.0.0.0:6222", Routes: []string{"nats://a", "nats://b"}, Monitor: "127.0.0.1:8222", Users: []service.User{user}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"sync_interval: always", `store_dir: "/a \"b\"\\c"`, `publish: { deny: [">"] }`, `subscribe: { deny: [">"] }`, `routes: ["nats://a", "nats://b"]`} {
		if !strings.Contains(conf, want) {
			t.Errorf("configuration lacks %s:\n%s", want, conf)
		}
	}
}
