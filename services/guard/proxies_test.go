package guard

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	bootstrap "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"github.com/lanyard-nhi/lanyard/services/internal/downstreamtest"
	"google.golang.org/protobuf/encoding/protojson"
	"gopkg.in/yaml.v3"
)

// TestEnvoyConfiguration: Envoy is not packaged by Debian, so its own schema has to do.
func TestEnvoyConfiguration(t *testing.T) {
	var tree any
	if err := yaml.Unmarshal([]byte(shipped(t, "envoy/envoy.yaml")), &tree); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(tree)
	if err != nil {
		t.Fatal(err)
	}
	var b bootstrap.Bootstrap
	if err := protojson.Unmarshal(text, &b); err != nil {
		t.Fatal(err)
	}
	if err := b.ValidateAll(); err != nil {
		t.Error(err)
	}
	if n, m := len(b.GetStaticResources().GetListeners()), len(b.GetStaticResources().GetClusters()); n != 1 || m != 2 {
		t.Errorf("%d listeners, %d clusters", n, m)
	}
}

// TestTraefikConfiguration: every router asks the guard, and drops what callers must not hand on.
func TestTraefikConfiguration(t *testing.T) {
	var c struct {
		HTTP struct {
			Routers map[string]struct {
				Rule, Service string
				Priority      int
				Middlewares   []string
			}
			Middlewares map[string]struct {
				ForwardAuth *struct {
					Address             string
					TrustForwardHeader  bool     `yaml:"trustForwardHeader"`
					AuthRequestHeaders  []string `yaml:"authRequestHeaders"`
					AuthResponseHeaders []string `yaml:"authResponseHeaders"`
				} `yaml:"forwardAuth"`
				Headers *struct {
					CustomRequestHeaders map[string]string `yaml:"customRequestHeaders"`
				}
			}
			Services map[string]any
		}
	}
	d := yaml.NewDecoder(strings.NewReader(shipped(t, "traefik/lanyard.yaml")))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil {
		t.Fatal(err)
	}
	if len(c.HTTP.Routers) != 3 {
		t.Errorf("%d routers", len(c.HTTP.Routers))
	}
	for name, r := range c.HTTP.Routers {
		if len(r.Middlewares) != 2 || c.HTTP.Services[r.Service] == nil {
			t.Fatalf("%s: %+v", name, r)
		}
		ask, strip := c.HTTP.Middlewares[r.Middlewares[0]].ForwardAuth, c.HTTP.Middlewares[r.Middlewares[1]].Headers
		if ask == nil || ask.TrustForwardHeader || len(ask.AuthRequestHeaders) != 2 ||
			strings.Join(ask.AuthResponseHeaders, " ") != strings.Join([]string{HeaderIdentity, HeaderTenant, HeaderTask, HeaderStale}, " ") {
			t.Errorf("%s asks with %+v", name, ask)
		}
		if strip == nil || len(strip.CustomRequestHeaders) != 2 {
			t.Errorf("%s hands on what it must not: %+v", name, strip)
		}
	}
}

func TestCaddy(t *testing.T) {
	binary := downstreamtest.Find(t, "caddy", "caddy")
	s := newSystem(t)
	s.beat()
	srv, app, listen := s.open(), plain(t), freeAddress(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "Caddyfile")
	text := shipped(t, "caddy/Caddyfile", "127.0.0.1:8300", host(srv), "127.0.0.1:8080", listen, "127.0.0.1:9000", host(app))
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "run", "--config", file, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+dir, "XDG_CONFIG_HOME="+dir, "HOME="+dir)
	start(t, cmd)
	proxied(t, s, srv, "http://"+listen)
}
