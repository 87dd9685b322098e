package processtest

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
)

// TestComposeFile loads docker-compose.yml as docker compose would.
func TestComposeFile(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	opts, err := cli.NewProjectOptions([]string{filepath.Join(root, "docker-compose.yml")}, cli.WithName("lanyard"), cli.WithWorkingDirectory(root))
	if err != nil {
		t.Fatal(err)
	}
	p, err := opts.LoadProject(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"issuance", "intake", "anomaly", "rotation", "revocation", "guard"} {
		s, err := p.GetService(name)
		if err != nil {
			t.Errorf("service %s: %v", name, err)
			continue
		}
		if !s.ReadOnly || !slices.Contains(s.CapDrop, "ALL") {
			t.Errorf("%s: its container can write or has capabilities", name)
		}
		if len(s.Volumes) != 1 || filepath.Base(s.Volumes[0].Source) != name || s.Volumes[0].Target != "/etc/lanyard" {
			t.Errorf("%s sees %v, want only its own folder", name, s.Volumes)
		}
		for _, need := range []string{"init", "nats", "redis", "provision"} {
			if _, ok := s.DependsOn[need]; !ok {
				t.Errorf("%s does not wait for %s", name, need)
			}
		}
		if got := s.Entrypoint; len(got) != 1 || got[0] != "/bin/"+name {
			t.Errorf("%s runs %v", name, got)
		}
		if _, err := os.Stat(filepath.Join(root, "services", "cmd", name, "main.go")); err != nil {
			t.Errorf("%s: no such command: %v", name, err)
		}
	}
	for name, s := range p.Services {
		for _, port := range s.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s publishes port %s beyond loopback", name, port.Published)
			}
		}
		if _, tag, ok := strings.Cut(s.Image, ":"); !ok || tag == "latest" {
			t.Errorf("%s: image %q is not pinned", name, s.Image)
		}
	}
}

// TestDockerfile keeps the image free of anything but our binaries.
func TestDockerfile(t *testing.T) {
	b, err := os.ReadFile(filepath.Join("..", "..", "..", "deploy", "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) > 1 && f[0] == "FROM" && f[1] != "scratch" {
			t.Errorf("image is made from %s, want scratch", f[1])
		}
		if len(f) > 0 && f[0] == "RUN" {
			t.Errorf("nothing runs in an image from scratch: %s", line)
		}
	}
}
