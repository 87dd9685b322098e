// Package deployment lays out a Lanyard of separate processes on disk: keys,
// certificates, the NATS server's users and permissions, and one folder per process
// that holds only what this process needs. Only the CLI and tests import it.
package deployment

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/embedded/oidc"
	"github.com/lanyard-nhi/lanyard/services/internal/keys"
	"github.com/lanyard-nhi/lanyard/services/internal/operator"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"gopkg.in/yaml.v3"
)

// Layouts.
const (
	Local   = "local"   // all processes on this machine's loopback
	Compose = "compose" // one container each, TLS between them
)

// Options of Init.
type Options struct {
	Dir       string
	Layout    string           // Local or Compose
	BasePort  int              // of Local; processes listen at BasePort+1 and so on
	Topology  service.Topology // whose rows become NATS permissions
	Users     []config.User    // products, SOCs and guards outside the services
	LocalOIDC bool             // trust the development issuer at BasePort+7
}

// processes are the services in the order of their ports.
var processes = []string{"issuance", "intake", "anomaly", "rotation", "revocation", "guard"}

// Endpoints is what Init answers and writes to DIR/operator/endpoints.json.
type Endpoints struct {
	NATS       string `json:"nats"`
	Redis      string `json:"redis"`
	Issuer     string `json:"issuer"`
	Intake     string `json:"intake"`
	Guard      string `json:"guard"`
	Alerts     string `json:"alerts"`
	Revocation string `json:"revocation"`
	Rotation   string `json:"rotation"`
	Debug      string `json:"debug"`
	LocalOIDC  string `json:"local_oidc,omitempty"`
	Operator   string `json:"operator_credential"`
	CA         string `json:"ca,omitempty"`
}

// place is where the parts of a deployment find each other.
type place struct {
	o        Options
	dir      string // absolute
	password string
}

// Init writes the deployment. Running it again keeps keys and certificates and
// writes the configuration files anew.
func Init(o Options) (Endpoints, error) {
	if o.Layout != Local && o.Layout != Compose {
		return Endpoints{}, fmt.Errorf("lay out deployment: layout %q is neither %q nor %q", o.Layout, Local, Compose)
	}
	if o.BasePort == 0 {
		o.BasePort = 9080
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return Endpoints{}, fmt.Errorf("lay out deployment: %w", err)
	}
	o.Users = append(slices.Clone(o.Users), systemProduct)
	p := &place{o: o, dir: dir}
	ring, err := keys.Open(filepath.Join(dir, "keys"), true)
	if err != nil {
		return Endpoints{}, fmt.Errorf("lay out deployment: %w", err)
	}
	if p.password, err = p.redisPassword(); err != nil {
		return Endpoints{}, err
	}
	if o.Layout == Compose {
		if err := p.certificates(); err != nil {
			return Endpoints{}, err
		}
	}
	if err := p.servers(ring); err != nil {
		return Endpoints{}, err
	}
	for _, name := range append(slices.Clone(processes), "provision") {
		if err := p.process(name, ring); err != nil {
			return Endpoints{}, fmt.Errorf("lay out %s: %w", name, err)
		}
	}
	return p.operator(ring)
}

// host is the name under which a process is reached.
func (p *place) host(name string) string {
	if p.o.Layout == Compose {
		return name
	}
	return "127.0.0.1"
}

func (p *place) scheme() string {
	if p.o.Layout == Compose {
		return "https"
	}
	return "http"
}

func (p *place) port(name string) int {
	return p.o.BasePort + 1 + slices.Index(processes, name)
}

func (p *place) url(name string) string {
	return fmt.Sprintf("%s://%s:%d", p.scheme(), p.host(name), p.port(name))
}

// Ports above the services'.
func (p *place) oidcPort() int    { return p.o.BasePort + 7 }
func (p *place) natsPort() int    { return p.o.BasePort + 20 }
func (p *place) monitorPort() int { return p.o.BasePort + 21 }
func (p *place) redisPort() int   { return p.o.BasePort + 22 }

func (p *place) natsURL() string {
	if p.o.Layout == Compose {
		return "tls://nats:4222"
	}
	return fmt.Sprintf("nats://127.0.0.1:%d", p.natsPort())
}

func (p *place) redisURL() string {
	if p.o.Layout == Compose {
		return "rediss://redis:6379"
	}
	return fmt.Sprintf("redis://127.0.0.1:%d", p.redisPort())
}

// inside is the path under which a process sees a file of its own folder.
func (p *place) inside(name, file string) string {
	if p.o.Layout == Compose {
		return "/etc/lanyard/" + file
	}
	return filepath.Join(p.dir, name, file)
}

func (p *place) redisPassword() (string, error) {
	path := filepath.Join(p.dir, "keys", "redis.password")
	if b, err := os.ReadFile(path); err == nil {
		return strings.TrimSpace(string(b)), nil
	}
	var b [24]byte
	if _, err := rand.Read(b[:]); err != nil {
		return "", fmt.Errorf("make redis password: %w", err)
	}
	pw := hex.EncodeToString(b[:])
	return pw, write(path, []byte(pw+"\n"), 0o600)
}

// process writes the folder of one process: its configuration and its keys.
func (p *place) process(name string, ring *keys.Ring) error {
	c := config.Default(p.inside(name, "data"))
	c.Keys = p.inside(name, "keys")
	c.NATS = config.NATS{URL: p.natsURL(), Replicas: 1}
	c.Redis = config.Redis{URL: p.redisURL(), PasswordFile: p.inside(name, "redis.password")}
	c.Issuer = config.Issuer{URL: p.url("issuance"), JWKS: p.url("issuance") + "/.well-known/jwks.json"}
	listen := func(port int) string {
		if p.o.Layout == Compose {
			return fmt.Sprintf("0.0.0.0:%d", port)
		}
		return fmt.Sprintf("127.0.0.1:%d", port)
	}
	c.Issuance.Listen, c.Intake.Listen, c.Anomaly.Listen = listen(p.port("issuance")), listen(p.port("intake")), listen(p.port("anomaly"))
	c.Rotation.Listen, c.Revocation.Listen, c.Guard.Listen = listen(p.port("rotation")), listen(p.port("revocation")), listen(p.port("guard"))
	c.Guard.Audience = c.Issuer.URL
	c.Debug.Listen = fmt.Sprintf("127.0.0.1:%d", p.o.BasePort+11+max(0, slices.Index(processes, name)))
	if name == "provision" {
		c.Debug.Listen = "127.0.0.1:0"
	}
	if p.o.Layout == Compose {
		c.NATS.CA, c.TLS = p.inside(name, "tls/ca.pem"), config.TLS{Cert: p.inside(name, "tls/cert.pem"), Key: p.inside(name, "tls/key.pem"), CA: p.inside(name, "tls/ca.pem")}
	} else {
		c.NATS.Monitor = fmt.Sprintf("http://127.0.0.1:%d", p.monitorPort())
	}
	if name == "issuance" {
		c.Issuance.Trusted, c.Issuance.TrustDomains = p.trusted()
	}
	b, err := yaml.Marshal(c)
	if err != nil {
		return fmt.Errorf("encode configuration: %w", err)
	}
	head := "# Made by 'lanyard init'. Every field is described in lanyard.example.yaml.\n"
	dir := filepath.Join(p.dir, name)
	if err := errors.Join(
		os.MkdirAll(filepath.Join(dir, "data"), 0o700),
		write(filepath.Join(dir, "lanyard.yaml"), append([]byte(head), b...), 0o600),
		write(filepath.Join(dir, "redis.password"), []byte(p.password+"\n"), 0o600)); err != nil {
		return err
	}
	return p.copyKeys(name, ring)
}

// trusted are the issuers and trust domains whose tokens attest: the operator's key,
// and for development the local ones.
func (p *place) trusted() (list []config.TrustedIssuer, domains []config.TrustDomain) {
	list = []config.TrustedIssuer{{Issuer: operator.Issuer, JWKS: "file://" + p.inside("issuance", "keys/operator.jwks.json")}}
	if p.o.LocalOIDC {
		u := fmt.Sprintf("http://127.0.0.1:%d", p.oidcPort())
		list = append(list, config.TrustedIssuer{Issuer: u, JWKS: u + "/jwks", Local: true})
		domains = append(domains, config.TrustDomain{TrustDomain: oidc.TrustDomain, Bundle: u + oidc.BundlePath, Local: true})
	}
	return list, domains
}

// keyFiles are the files of the key ring that each process gets beside its own NATS
// seed; a folder is copied whole. Least privilege: intake can sign nothing.
var keyFiles = map[string][]string{
	"issuance":   {"signing", "lineage.key", "feed.pub.jwk", "operator.jwks.json"},
	"intake":     {"feed.pub.jwk"},
	"anomaly":    {"feed.pub.jwk"},
	"rotation":   {"feed.pub.jwk"},
	"revocation": {"feed.jwk", "feed.pub.jwk", "lineage.key", "operator.jwks.json", "nats/system.nk"},
	"guard":      {"feed.pub.jwk"},
	"provision":  {},
}

// users are the NATS users that the folder of a process holds the seeds of. The
// provisioner also declares the first operator, which any product of the system
// tenant may.
func users(name string) []string {
	if name == service.UserProvision {
		return []string{name, service.UserName(systemProduct)}
	}
	return []string{name}
}

// systemProduct is the NATS user that declares the operator. It is a read-only table.
var systemProduct = config.User{Kind: "product", Tenant: operator.Tenant}

func (p *place) copyKeys(name string, ring *keys.Ring) error {
	files := slices.Clone(keyFiles[name])
	for _, u := range users(name) {
		if _, err := ring.NkeySeed(u); err != nil {
			return err
		}
		files = append(files, "nats/"+u+".nk", "nats/"+u+".pub")
	}
	from, to := filepath.Join(p.dir, "keys"), filepath.Join(p.dir, name, "keys")
	if err := os.MkdirAll(to, 0o700); err != nil {
		return fmt.Errorf("copy keys: %w", err)
	}
	for _, f := range files {
		if f == "signing" {
			if _, err := os.Stat(filepath.Join(to, f)); err == nil {
				continue // issuance rotates its own copy from here on
			}
		}
		if err := copyTree(filepath.Join(from, f), filepath.Join(to, f)); err != nil {
			return fmt.Errorf("copy keys: %w", err)
		}
	}
	return nil
}

// copyTree copies a file, or the files of a folder, with their modes.
func copyTree(from, to string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	if info.IsDir() {
		entries, err := os.ReadDir(from)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(to, 0o700); err != nil {
			return err
		}
		for _, e := range entries {
			if e.Type().IsRegular() {
				if err := copyTree(filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
					return err
				}
			}
		}
		return nil
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return write(to, b, info.Mode().Perm())
}

// operator writes the operator's folder: the credential and the endpoints.
func (p *place) operator(ring *keys.Ring) (Endpoints, error) {
	jwk, err := ring.OperatorJWK()
	if err != nil {
		return Endpoints{}, fmt.Errorf("lay out operator: %w", err)
	}
	reach := func(name string) string { // from outside the containers
		return fmt.Sprintf("%s://127.0.0.1:%d", p.scheme(), p.port(name))
	}
	dir := filepath.Join(p.dir, "operator")
	e := Endpoints{NATS: p.natsURL(), Redis: p.redisURL(), Issuer: p.url("issuance"), Intake: reach("intake"), Guard: reach("guard"),
		Alerts: reach("anomaly"), Revocation: reach("revocation"), Rotation: reach("rotation"),
		Debug: fmt.Sprintf("http://127.0.0.1:%d", p.o.BasePort+11), Operator: filepath.Join(dir, "operator.json")}
	if p.o.Layout == Compose {
		e.CA = filepath.Join(dir, "tls", "ca.pem")
		e.NATS = "tls://127.0.0.1:4222"
		e.Issuer = reach("issuance")
	}
	if p.o.LocalOIDC {
		e.LocalOIDC = fmt.Sprintf("http://127.0.0.1:%d", p.oidcPort())
	}
	if _, err := operator.Write(e.Operator, jwk.Reveal(), p.url("issuance"), e.Issuer+"/oauth2/token"); err != nil {
		return Endpoints{}, err
	}
	b, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return Endpoints{}, fmt.Errorf("encode endpoints: %w", err)
	}
	names := []string{service.UserOperator}
	for _, u := range p.o.Users {
		names = append(names, service.UserName(u))
	}
	for _, n := range names {
		if _, err := ring.NkeySeed(n); err != nil {
			return Endpoints{}, err
		}
		if err := copyTree(filepath.Join(p.dir, "keys", "nats", n+".nk"), filepath.Join(dir, "keys", "nats", n+".nk")); err != nil {
			return Endpoints{}, fmt.Errorf("lay out operator: %w", err)
		}
	}
	for _, f := range []string{"feed.pub.jwk", "local-issuer.secret"} {
		if err := copyTree(filepath.Join(p.dir, "keys", f), filepath.Join(dir, "keys", f)); err != nil {
			return Endpoints{}, fmt.Errorf("lay out operator: %w", err)
		}
	}
	return e, write(filepath.Join(dir, "endpoints.json"), append(b, '\n'), 0o600)
}

// write replaces a file atomically.
func write(path string, b []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(path), err)
	}
	return nil
}
