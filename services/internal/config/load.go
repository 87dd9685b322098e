package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"time"

	"gopkg.in/yaml.v3"
)

// envPrefix begins the name of every environment variable that Load reads.
const envPrefix = "LANYARD_"

// Default is the configuration of an all-in-one process that keeps its files in
// dataDir ("" means "./lanyard-data") and listens on free loopback ports.
func Default(dataDir string) Config {
	if dataDir == "" {
		dataDir = "./lanyard-data"
	}
	const anyPort = "127.0.0.1:0"
	return Config{
		Data:     dataDir,
		NATS:     NATS{Listen: anyPort, Replicas: 1},
		Intake:   Intake{Listen: anyPort, MaxBody: 8 << 20, ClockSkew: Duration(5 * time.Minute)},
		Issuance: Issuance{Listen: anyPort, TTL: Duration(5 * time.Minute), MaxTTL: Duration(15 * time.Minute), MaxDepth: 4, MaxWidth: 256, DPoPNonce: NonceRequired},
		Anomaly:  Anomaly{Listen: anyPort},
		Rotation: Rotation{Listen: anyPort, SigningKeyPeriod: Duration(720 * time.Hour), Prepare: Duration(10 * time.Minute)},
		Revocation: Revocation{Listen: anyPort, Heartbeat: Duration(time.Second), Objective: Duration(time.Minute),
			Breadth: 50, ApprovalWindow: Duration(15 * time.Minute), Cap: 100, FreezeTTL: Duration(time.Hour),
			Drills: Drills{Tenants: []string{"lanyard"}, Owner: "lanyard"}},
		Guard:    Guard{Listen: anyPort, Point: "gateway", Tenant: "lanyard", Lease: Duration(15 * time.Second)},
		Debug:    Debug{Listen: anyPort},
		Outbound: Outbound{Ports: []int{443}, Timeout: Duration(10 * time.Second), MaxBody: 1 << 20},
	}.Complete()
}

// Complete fills the fields whose defaults derive from others. Load and Default
// have done it; call it again after changing Data, Issuer.URL or Issuance.MaxTTL by
// hand.
func (c Config) Complete() Config {
	if c.Keys == "" && c.Data != "" {
		c.Keys = filepath.Join(c.Data, "keys")
	}
	if c.Issuer.URL != "" {
		if c.Issuer.JWKS == "" {
			c.Issuer.JWKS = strings.TrimSuffix(c.Issuer.URL, "/") + "/.well-known/jwks.json"
		}
		if c.Guard.Audience == "" {
			c.Guard.Audience = c.Issuer.URL
		}
		c.Issuance.Trusted = slices.Clone(c.Issuance.Trusted)
		for i := range c.Issuance.Trusted {
			if c.Issuance.Trusted[i].Audience == "" {
				c.Issuance.Trusted[i].Audience = c.Issuer.URL
			}
		}
	}
	if c.Rotation.Overlap == 0 {
		c.Rotation.Overlap = c.Issuance.MaxTTL + Duration(time.Minute)
	}
	return c
}

// Load reads the configuration: the defaults, then the file at path ("" means
// none), then the variables of env (in the form of os.Environ) named
// LANYARD_<SECTION>_<FIELD>, then overrides, whose keys are such as "nats.url".
// Values of the latter two are YAML; strings need no quotes. The result is validated. Errors name the file
// and line, variable or key.
func Load(path string, env []string, overrides map[string]string) (Config, error) {
	c := Default("")
	c.Keys, c.Rotation.Overlap = "", 0 // derived again below, from what is set
	if path != "" {
		b, err := os.ReadFile(path)
		if err != nil {
			return Config{}, fmt.Errorf("read configuration: %w", err)
		}
		if err := decode(b, &c); err != nil {
			return Config{}, fmt.Errorf("read configuration %s: %w", path, err)
		}
	}
	fields := scalars(reflect.ValueOf(&c).Elem(), "")
	if err := applyEnv(fields, env); err != nil {
		return Config{}, err
	}
	keys := make([]string, 0, len(overrides))
	for k := range overrides {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		f, ok := fields[k]
		if !ok {
			return Config{}, fmt.Errorf("override configuration: there is no field %q", k)
		}
		if err := set(f, overrides[k]); err != nil {
			return Config{}, fmt.Errorf("override %s: %w", k, err)
		}
	}
	c = c.Complete()
	return c, c.Validate()
}

// Check reads and validates the file at path as Load does, without environment and
// overrides. It is what "lanyard config check" runs.
func Check(path string) (Config, error) { return Load(path, nil, nil) }

// decode reads one YAML document strictly into c, over what is there.
func decode(b []byte, c *Config) error {
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(c); err != nil {
		if errors.Is(err, io.EOF) {
			return nil // an empty file sets nothing
		}
		return err
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return errors.New("more than one YAML document: everything goes into one")
	}
	return nil
}

// scalars is every field that can be overridden, by its dotted YAML name. Lists
// count as one field.
func scalars(v reflect.Value, prefix string) map[string]reflect.Value {
	out := map[string]reflect.Value{}
	for i := range v.NumField() {
		name := prefix + v.Type().Field(i).Tag.Get("yaml")
		if f := v.Field(i); f.Kind() == reflect.Struct {
			for k, s := range scalars(f, name+".") {
				out[k] = s
			}
		} else {
			out[name] = f
		}
	}
	return out
}

// envName is the environment variable of a dotted field name.
func envName(field string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(field, ".", "_"))
}

// applyEnv sets fields from the environment. A variable that begins like a section
// but names no field of it is refused, because it is a misspelling; other
// LANYARD_ variables belong to somebody else.
func applyEnv(fields map[string]reflect.Value, env []string) error {
	byName, sections := map[string]string{}, map[string]bool{}
	for k := range fields {
		byName[envName(k)] = k
		if section, _, ok := strings.Cut(k, "."); ok {
			sections[envPrefix+strings.ToUpper(section)+"_"] = true
		}
	}
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, envPrefix) {
			continue
		}
		k, ok := byName[name]
		if !ok {
			for s := range sections {
				if strings.HasPrefix(name, s) {
					return fmt.Errorf("read environment: %s names no field of its section: correct or unset it", name)
				}
			}
			continue
		}
		if err := set(fields[k], value); err != nil {
			return fmt.Errorf("read environment: %s: %w", name, err)
		}
	}
	return nil
}

// set sets a field from text. It is YAML, but a string that is not in double quotes
// stays as it is, so that an address or a path needs no care.
func set(f reflect.Value, text string) error {
	if f.Kind() == reflect.String && !strings.HasPrefix(text, `"`) {
		f.SetString(text)
		return nil
	}
	fresh := reflect.New(f.Type())
	d := yaml.NewDecoder(strings.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(fresh.Interface()); err != nil {
		return fmt.Errorf("%q is not a %s: %w", text, f.Type(), err)
	}
	f.Set(fresh.Elem())
	return nil
}
