package deployment

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/nats-io/nats-server/v2/server"
)

func initIn(t *testing.T, layout string) string {
	t.Helper()
	dir := t.TempDir()
	o := Options{Dir: dir, Layout: layout, LocalOIDC: layout == Local, Topology: topology(t),
		Users: []config.User{{Kind: "guard", Tenant: "acme", Point: "orders"}}}
	for range 2 { // the second run keeps keys
		if _, err := Init(o); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// topology has a node per process, as the services have.
func topology(t *testing.T) service.Topology {
	t.Helper()
	var list []service.Constructor
	for _, p := range processes {
		list = append(list, func(service.Env) (service.Service, error) { return service.Service{Name: p}, nil })
	}
	top, err := service.Describe(config.Default(t.TempDir()), list...)
	if err != nil {
		t.Fatal(err)
	}
	return top
}

func TestEveryProcessHasOnlyItsKeys(t *testing.T) {
	dir := initIn(t, Local)
	private := map[string][]string{} // key file -> who has it
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		owner, rest, _ := strings.Cut(filepath.ToSlash(rel), "/")
		info, err := d.Info()
		if err != nil {
			return err
		}
		if strings.HasPrefix(rest, "keys/") && !strings.Contains(rest, ".pub") && !strings.HasSuffix(rest, ".jwks.json") && !strings.HasSuffix(rest, "lock") {
			if info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %04o", rel, info.Mode().Perm())
			}
			name := rest
			if strings.HasPrefix(rest, "keys/signing/") {
				name = "keys/signing"
			}
			private[name] = append(private[name], owner)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	has := func(file, owner string) bool {
		for _, o := range private[file] {
			if o == owner {
				return true
			}
		}
		return false
	}
	for _, p := range processes {
		for file, want := range map[string]string{"keys/signing": "issuance", "keys/feed.jwk": "revocation", "keys/operator.jwk": ""} {
			if got := has(file, p); got != (p == want) {
				t.Errorf("%s has %s: %v", p, file, got)
			}
		}
		if want := p == "issuance" || p == "revocation"; has("keys/lineage.key", p) != want {
			t.Errorf("%s has the lineage key: %v", p, !want)
		}
		for _, other := range processes {
			if got := has("keys/nats/"+other+".nk", p); got != (p == other) {
				t.Errorf("%s has the NATS seed of %s: %v", p, other, got)
			}
		}
	}
}

func TestConfigurationsLoad(t *testing.T) {
	for _, layout := range []string{Local, Compose} {
		dir := initIn(t, layout)
		for _, p := range processes {
			if _, err := config.Load(filepath.Join(dir, p, "lanyard.yaml"), nil, nil); err != nil {
				t.Errorf("%s, %s: %v", layout, p, err)
			}
		}
		conf, err := os.ReadFile(filepath.Join(dir, "nats", "nats.conf"))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(conf), "/etc/lanyard/tls", filepath.Join(dir, "nats", "tls"))
		opts := &server.Options{}
		if err := opts.ProcessConfigString(text); err != nil {
			t.Fatalf("%s: nats-server refuses the configuration: %v", layout, err)
		}
		if !opts.SyncAlways {
			t.Errorf("%s: the server does not sync every write", layout)
		}
		if len(opts.Nkeys) < len(processes)+4 {
			t.Errorf("%s: only %d NATS users", layout, len(opts.Nkeys))
		}
	}
}

func TestCertificates(t *testing.T) {
	dir := initIn(t, Compose)
	ca, err := os.ReadFile(filepath.Join(dir, "operator", "tls", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		t.Fatal("the authority is no certificate")
	}
	for _, name := range append([]string{"nats", "redis"}, processes...) {
		b, err := os.ReadFile(filepath.Join(dir, name, "tls", "cert.pem"))
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(b)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := cert.Verify(x509.VerifyOptions{Roots: pool, DNSName: name}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(filepath.Join(dir, name, "tls", "ca-key.pem")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s has the authority's key", name)
		}
	}
}

func TestWrongLayout(t *testing.T) {
	if _, err := Init(Options{Dir: t.TempDir(), Layout: "cloud"}); err == nil || !strings.Contains(err.Error(), `"cloud"`) {
		t.Errorf("error %v", err)
	}
}
