package config

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"
)

var update = flag.Bool("update", false, "write the example file")

func file(t *testing.T, text string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "lanyard.yaml")
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestDefaultIsValid(t *testing.T) {
	if err := Default("").Validate(); err != nil {
		t.Fatal(err)
	}
	loaded, err := Load("", nil, nil)
	if err != nil || !reflect.DeepEqual(loaded, Default("")) {
		t.Fatalf("Load of nothing = %+v, %v", loaded, err)
	}
	if got := Default("/var/x"); got.Keys != "/var/x/keys" || got.Rotation.Overlap != Duration(16*time.Minute) {
		t.Errorf("derived defaults: %+v", got)
	}
}

func TestPrecedence(t *testing.T) {
	path := file(t, "issuance: {ttl: 2m, max_ttl: 3m}\ndata: /from-file\nintake: {max_body: 70000}\n")
	env := []string{"LANYARD_ISSUANCE_TTL=1m", "LANYARD_DATA=/from-env", "LANYARD_TOKEN=not-ours", "HOME=/x",
		"LANYARD_ANOMALY_DISABLED=[D20, D01]", "LANYARD_REVOCATION_ALLOW_UNSAFE_SERVER=true",
		`LANYARD_NATS_USERS=[{kind: soc, tenant: acme}]`, "LANYARD_ISSUER_URL=http://127.0.0.1:9"}
	c, err := Load(path, env, map[string]string{"data": "/from-flag", "nats.replicas": "3", "guard.point": `"a: \"b\""`})
	if err != nil {
		t.Fatal(err)
	}
	if c.Data != "/from-flag" || c.Keys != "/from-flag/keys" {
		t.Errorf("data = %s, keys = %s", c.Data, c.Keys)
	}
	if c.Issuance.TTL != Duration(time.Minute) || c.Issuance.MaxTTL != Duration(3*time.Minute) || c.Rotation.Overlap != Duration(4*time.Minute) {
		t.Errorf("ttl = %s, max = %s, overlap = %s", c.Issuance.TTL, c.Issuance.MaxTTL, c.Rotation.Overlap)
	}
	if c.Guard.Point != `a: "b"` {
		t.Errorf("a quoted string is %s", c.Guard.Point)
	}
	if c.Intake.MaxBody != 70000 || c.NATS.Replicas != 3 || !c.Revocation.AllowUnsafeServer {
		t.Errorf("%+v", c)
	}
	if strings.Join(c.Anomaly.Disabled, " ") != "D20 D01" || len(c.NATS.Users) != 1 || c.NATS.Users[0].Tenant != "acme" {
		t.Errorf("lists: %v %v", c.Anomaly.Disabled, c.NATS.Users)
	}
	if c.Issuer.JWKS != "http://127.0.0.1:9/.well-known/jwks.json" || c.Guard.Audience != "http://127.0.0.1:9" {
		t.Errorf("issuer = %+v, audience = %s", c.Issuer, c.Guard.Audience)
	}
}

func TestLoadRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		file      string
		env       []string
		overrides map[string]string
		want      []string // in the error's text
	}{
		"unknown key":          {file: "issuance: {tll: 5m}", want: []string{"tll", "line 1"}},
		"unknown section":      {file: "issuence: {ttl: 5m}", want: []string{"issuence"}},
		"duplicate key":        {file: "data: a\ndata: b\n", want: []string{"already defined"}},
		"two documents":        {file: "data: a\n---\ndata: b\n", want: []string{"more than one"}},
		"duration without":     {file: "issuance: {ttl: 300}", want: []string{"300", "15m"}},
		"not yaml":             {file: "data: [", want: []string{"lanyard.yaml"}},
		"wrong type":           {file: "nats: {replicas: many}", want: []string{"many"}},
		"misspelt variable":    {env: []string{"LANYARD_NATS_ULR=x"}, want: []string{"LANYARD_NATS_ULR"}},
		"bad variable":         {env: []string{"LANYARD_GUARD_LEASE=soon"}, want: []string{"LANYARD_GUARD_LEASE", "soon"}},
		"unknown override":     {overrides: map[string]string{"nats.ulr": "x"}, want: []string{"nats.ulr"}},
		"bad override":         {overrides: map[string]string{"nats.replicas": "x"}, want: []string{"nats.replicas"}},
		"override by nonsense": {overrides: map[string]string{"nats": "x"}, want: []string{"nats"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := ""
			if tc.file != "" {
				path = file(t, tc.file)
			}
			_, err := Load(path, tc.env, tc.overrides)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, w := range tc.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q lacks %q", err, w)
				}
			}
		})
	}
	if _, err := Check(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a missing file was accepted")
	}
	if c, err := Check(file(t, "")); err != nil || c.Guard.Lease != Duration(15*time.Second) {
		t.Errorf("an empty file: %v", err)
	}
}

func TestValidateRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*Config)
		field  string
		advice string
	}{
		"heartbeat too slow":   {func(c *Config) { c.Revocation.Heartbeat = Duration(4 * time.Second) }, "revocation.heartbeat", "at most 3s"},
		"heartbeat zero":       {func(c *Config) { c.Revocation.Heartbeat = 0 }, "revocation.heartbeat", "more than 0s"},
		"lease too short":      {func(c *Config) { c.Guard.Lease = Duration(9 * time.Second) }, "guard.lease", "leader election"},
		"lease too long":       {func(c *Config) { c.Guard.Lease = Duration(time.Hour) }, "guard.lease", "5m"},
		"max_ttl over ceiling": {func(c *Config) { c.Issuance.MaxTTL = Duration(16 * time.Minute) }, "issuance.max_ttl", "up to 15m"},
		"ttl over max":         {func(c *Config) { c.Issuance.TTL = Duration(20 * time.Minute) }, "issuance.ttl", "issuance.max_ttl"},
		"a nonce for some":     {func(c *Config) { c.Issuance.DPoPNonce = "sometimes" }, "issuance.dpop_nonce", "required or optional"},
		"transactions for us":  {func(c *Config) { c.Issuer.URL = "https://id.example"; c.Issuance.TransactionDomain = c.Issuer.URL }, "issuance.transaction_domain", "a name of its own"},
		"a chain to itself":    {func(c *Config) { c.Issuer.URL = "https://id.example"; c.Issuance.ChainTo = []string{c.Issuer.URL} }, "issuance.chain_to[0]", "another issuer"},
		"a chain twice":        {func(c *Config) { c.Issuance.ChainTo = []string{"https://b.example", "https://b.example"} }, "issuance.chain_to[1]", "once"},
		"a chain from nowhere": {func(c *Config) { c.Issuance.ChainFrom = []ChainIssuer{{Issuer: "https://b.example"}} }, "issuance.chain_from[0]", "want both"},
		"a chain in the open": {func(c *Config) {
			c.Issuance.ChainFrom = []ChainIssuer{{Issuer: "https://b.example", JWKS: "http://b.example/jwks"}}
		}, "issuance.chain_from[0]", "https or file"},
		"negative grace":        {func(c *Config) { c.Issuance.OwnerGrace = -1 }, "issuance.owner_grace", "0s to 720h"},
		"grace of a year":       {func(c *Config) { c.Issuance.OwnerGrace = Duration(8760 * time.Hour) }, "issuance.owner_grace", "0s to 720h"},
		"width":                 {func(c *Config) { c.Issuance.MaxWidth = 0 }, "issuance.max_width", "1 to 100000"},
		"depth":                 {func(c *Config) { c.Issuance.MaxDepth = 9 }, "issuance.max_depth", "1 to 8"},
		"listener without TLS":  {func(c *Config) { c.Intake.Listen = "0.0.0.0:80" }, "intake.listen", "tls.cert"},
		"every interface":       {func(c *Config) { c.Guard.Listen = ":80" }, "guard.listen", "tls.cert"},
		"debug without TLS":     {func(c *Config) { c.Debug.Listen = "10.0.0.1:80" }, "debug.listen", "tls.cert"},
		"no port":               {func(c *Config) { c.Anomaly.Listen = "127.0.0.1" }, "anomaly.listen", "host:port"},
		"half TLS":              {func(c *Config) { c.TLS.Cert = "x" }, "tls", "set both"},
		"pprof outside":         {func(c *Config) { c.TLS = TLS{Cert: "a", Key: "b"}; c.Debug = Debug{":1", true} }, "debug.pprof", "127.0.0.1"},
		"nats in the clear":     {func(c *Config) { c.NATS.URL = "nats://10.0.0.1:4222" }, "nats.url", "tls://"},
		"nats password":         {func(c *Config) { c.NATS.URL = "tls://a:b@h:4222" }, "nats.url", "remove"},
		"embedded outside":      {func(c *Config) { c.NATS.Listen = "0.0.0.0:4222" }, "nats.listen", "127.0.0.1"},
		"redis in the clear":    {func(c *Config) { c.Redis.URL = "redis://10.0.0.1:6379" }, "redis.url", "rediss://"},
		"redis password":        {func(c *Config) { c.Redis.URL = "rediss://:pw@h:6379" }, "redis.url", "password_file"},
		"redis scheme":          {func(c *Config) { c.Redis.URL = "http://h:6379" }, "redis.url", "rediss://"},
		"replica":               {func(c *Config) { c.Replica = 10 }, "replica", "0 to 9"},
		"replicas":              {func(c *Config) { c.NATS.Replicas = 2 }, "nats.replicas", "1 replica"},
		"issuer in the clear":   {func(c *Config) { c.Issuer.URL = "http://issuer.example" }, "issuer.url", "https"},
		"issuer slash":          {func(c *Config) { c.Issuer.URL = "https://issuer.example/" }, "issuer.url", "remove the slash"},
		"issuer query":          {func(c *Config) { c.Issuer.URL = "https://issuer.example?a=b" }, "issuer.url", "without"},
		"trusted without jwks":  {func(c *Config) { c.Issuance.Trusted = []TrustedIssuer{{Issuer: "a"}} }, "trusted_issuers[0]", "set them"},
		"trusted http":          {func(c *Config) { c.Issuance.Trusted = []TrustedIssuer{{Issuer: "a", JWKS: "http://x/j"}} }, "trusted_issuers[0]", "https or file"},
		"trusted http loopback": {func(c *Config) { c.Issuance.Trusted = []TrustedIssuer{{Issuer: "a", JWKS: "http://127.0.0.1/j"}} }, "trusted_issuers[0]", "local issuer"},
		"trusted twice": {func(c *Config) {
			c.Issuance.Trusted = []TrustedIssuer{{Issuer: "a", JWKS: "https://x/j"}, {Issuer: "a", JWKS: "https://y/j"}}
		}, "trusted_issuers[1]", "keep one"},
		"claim without value": {func(c *Config) {
			c.Issuance.Trusted = []TrustedIssuer{{Issuer: "a", JWKS: "https://x/j", Claims: map[string]string{"repository_owner": ""}}}
		}, "trusted_issuers[0]", "and a value"},
		"claim without name": {func(c *Config) {
			c.Issuance.Trusted = []TrustedIssuer{{Issuer: "a", JWKS: "https://x/j", Claims: map[string]string{"a//b": "x"}}}
		}, "trusted_issuers[0]", "want a path"},
		"claim badly escaped": {func(c *Config) {
			c.Issuance.Trusted = []TrustedIssuer{{Issuer: "a", JWKS: "https://x/j", Claims: map[string]string{"a~2b": "x"}}}
		}, "trusted_issuers[0]", "want a path"},
		"domain without bundle": {func(c *Config) { c.Issuance.TrustDomains = []TrustDomain{{TrustDomain: "a"}} }, "trust_domains[0]", "set it"},
		"domain with scheme": {func(c *Config) {
			c.Issuance.TrustDomains = []TrustDomain{{TrustDomain: "spiffe://a", Bundle: "file:///x"}}
		}, "trust_domains[0]", "name alone"},
		"domain twice": {func(c *Config) {
			c.Issuance.TrustDomains = []TrustDomain{{TrustDomain: "a", Bundle: "file:///x"}, {TrustDomain: "a", Bundle: "file:///y"}}
		}, "trust_domains[1]", "keep one"},
		"bundle http": {func(c *Config) {
			c.Issuance.TrustDomains = []TrustDomain{{TrustDomain: "a", Bundle: "http://x/b", Local: true}}
		}, "trust_domains[0]", "https or file"},
		"bundle with user": {func(c *Config) {
			c.Issuance.TrustDomains = []TrustDomain{{TrustDomain: "a", Bundle: "https://u@x/b"}}
		}, "trust_domains[0]", "without user"},
		"overlap":         {func(c *Config) { c.Rotation.Overlap = Duration(time.Minute) }, "rotation.overlap", "raise it"},
		"period":          {func(c *Config) { c.Rotation.SigningKeyPeriod = Duration(time.Minute) }, "rotation.signing_key_period", "longer than"},
		"cap":             {func(c *Config) { c.Revocation.Cap = 0 }, "revocation.cap", "1 or more"},
		"breadth":         {func(c *Config) { c.Revocation.Breadth = -1 }, "revocation.breadth", "0"},
		"approval":        {func(c *Config) { c.Revocation.ApprovalWindow = 0 }, "revocation.approval_window", "1m to"},
		"freeze":          {func(c *Config) { c.Revocation.FreezeTTL = 1 }, "revocation.freeze_ttl", "1m to"},
		"objective":       {func(c *Config) { c.Revocation.Objective = 0 }, "revocation.objective", "positive"},
		"guard tenant":    {func(c *Config) { c.Guard.Tenant = "A.b" }, "guard.tenant", "a-z"},
		"class name":      {func(c *Config) { c.Guard.Classes = []GuardClass{{}} }, "guard.classes[0].name", "name it"},
		"class twice":     {func(c *Config) { c.Guard.Classes = []GuardClass{{Name: "a"}, {Name: "a"}} }, "guard.classes[1].name", "twice"},
		"class laxer":     {func(c *Config) { c.Guard.Classes = []GuardClass{{Name: "a", MaxAge: c.Guard.Lease + 1}} }, "guard.classes[0].max_age", "never laxer"},
		"stale by nobody": {func(c *Config) { c.Guard.Classes = []GuardClass{{Name: "a", ServeStale: &ServeStale{For: 1}}} }, "guard.classes[0].serve_stale", "answers"},
		"stale too long": {func(c *Config) {
			c.Guard.Classes = []GuardClass{{Name: "a", ServeStale: &ServeStale{By: "a", Reason: "b", Until: time.Unix(1, 0), Scopes: []string{"r"}, For: Duration(time.Hour)}}}
		}, "guard.classes[0].serve_stale.for", "5m"},
		"guard point":     {func(c *Config) { c.Guard.Point = "" }, "guard.point", "name one"},
		"body":            {func(c *Config) { c.Intake.MaxBody = 10 }, "intake.max_body", "raise it"},
		"skew":            {func(c *Config) { c.Intake.ClockSkew = Duration(2 * time.Hour) }, "intake.clock_skew", "1h"},
		"mapping name":    {func(c *Config) { c.Intake.Mappings = []Mapping{{Name: "A b"}} }, "intake.mappings[0]", "a-z"},
		"mapping twice":   {func(c *Config) { c.Intake.Mappings = []Mapping{{Name: "a"}, {Name: "a"}} }, "intake.mappings[1]", "rename one"},
		"mappings":        {func(c *Config) { c.Intake.Mappings = make([]Mapping, 65) }, "intake.mappings", "at most 64"},
		"data":            {func(c *Config) { c.Data = "" }, "data", "directory"},
		"user kind":       {func(c *Config) { c.NATS.Users = []User{{Kind: "x", Tenant: "a"}} }, "nats.users[0]", "product, soc or guard"},
		"user tenant":     {func(c *Config) { c.NATS.Users = []User{{Kind: "soc", Tenant: ">"}} }, "nats.users[0]", "a-z"},
		"guard user":      {func(c *Config) { c.NATS.Users = []User{{Kind: "guard", Tenant: "a"}} }, "nats.users[0]", "name one"},
		"soc with point":  {func(c *Config) { c.NATS.Users = []User{{Kind: "soc", Tenant: "a", Point: "x"}} }, "nats.users[0]", "remove it"},
		"user twice":      {func(c *Config) { c.NATS.Users = []User{{Kind: "soc", Tenant: "a"}, {Kind: "soc", Tenant: "a"}} }, "nats.users[1]", "remove one"},
		"outbound port":   {func(c *Config) { c.Outbound.Ports = []int{0} }, "outbound.ports", "65535"},
		"outbound time":   {func(c *Config) { c.Outbound.Timeout = 0 }, "outbound.timeout", "up to 1m"},
		"outbound length": {func(c *Config) { c.Outbound.MaxBody = 0 }, "outbound.max_body", "positive"},
	} {
		t.Run(name, func(t *testing.T) {
			c := Default("")
			tc.change(&c)
			err := c.Validate()
			if err == nil {
				t.Fatal("accepted")
			}
			for _, w := range []string{tc.field, tc.advice} {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q lacks %q", err, w)
				}
			}
		})
	}
}

func TestValidateAccepts(t *testing.T) {
	for name, change := range map[string]func(*Config){
		"TLS outside": func(c *Config) {
			c.TLS = TLS{Cert: "a", Key: "b"}
			c.Intake.Listen, c.Debug.Listen, c.Issuance.Listen = ":443", "[::]:9", "0.0.0.0:1"
		},
		"real servers": func(c *Config) {
			c.NATS.URL, c.Redis.URL, c.Issuer.URL = "tls://n:4222", "rediss://r:6379", "https://id.example"
		},
		"servers on loopback": func(c *Config) { c.NATS.URL, c.Redis.URL = "nats://[::1]:4222", "redis://localhost:6379" },
		"local issuer": func(c *Config) {
			c.Issuance.Trusted = []TrustedIssuer{{Issuer: "http://127.0.0.1:1", JWKS: "http://127.0.0.1:1/jwks", Local: true},
				{Issuer: "op", JWKS: "file:///x"}}
		},
		"trust domains": func(c *Config) {
			c.Issuance.TrustDomains = []TrustDomain{{TrustDomain: "prod.example.org", Bundle: "https://spire.example/bundle"},
				{TrustDomain: "lanyard.local", Bundle: "http://127.0.0.1:1/bundle", Local: true}, {TrustDomain: "a_b", Bundle: "file:///x"}}
		},
		"no listeners": func(c *Config) { c.Intake.Listen, c.Guard.Listen = "", "" },
	} {
		t.Run(name, func(t *testing.T) {
			c := Default("")
			change(&c)
			if err := c.Complete().Validate(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestDuration(t *testing.T) {
	for d, want := range map[time.Duration]string{15 * time.Minute: "15m", time.Hour: "1h", 90 * time.Minute: "1h30m",
		time.Second: "1s", 90 * time.Second: "1m30s", 0: "0s", 500 * time.Millisecond: "500ms", 720 * time.Hour: "720h"} {
		b, err := yaml.Marshal(map[string]Duration{"d": Duration(d)})
		if err != nil || strings.TrimSpace(string(b)) != "d: "+want {
			t.Errorf("%s as YAML = %q, %v", d, b, err)
		}
		var back map[string]Duration
		if err := yaml.Unmarshal(b, &back); err != nil || back["d"].D() != d {
			t.Errorf("%q read back = %s, %v", b, back["d"], err)
		}
	}
}

// The example must be what Example makes, set nothing but the defaults, and be valid.
func TestExampleFile(t *testing.T) {
	text, err := Example()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("..", "..", "..", "deploy", "lanyard.example.yaml")
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(b) != text {
		t.Errorf("%s is not what the comments say: run go test ./internal/config -update", path)
	}
	c, err := Check(path)
	if err != nil {
		t.Fatal(err)
	}
	if want := Default(""); !reflect.DeepEqual(normal(c), normal(want)) {
		t.Errorf("the example sets\n%+v\nnot the defaults\n%+v", c, want)
	}
}

// normal makes empty lists nil.
func normal(c Config) Config {
	for _, f := range scalars(reflect.ValueOf(&c).Elem(), "") {
		if f.Kind() == reflect.Slice && f.Len() == 0 {
			f.SetZero()
		}
	}
	return c
}

// Claims are read as the example writes them.
func TestClaimsOfTrustedIssuers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lanyard.yaml")
	text := "issuance: {trusted_issuers: [{issuer: a, jwks: 'https://x/j', claims: {repository_owner: acme, ref_protected: true, n: 12, kubernetes.io/namespace: prod}}]}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Check(path)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{"repository_owner": "acme", "ref_protected": "true", "n": "12", "kubernetes.io/namespace": "prod"}
	if got := c.Issuance.Trusted[0].Claims; !reflect.DeepEqual(got, want) {
		t.Errorf("claims %v", got)
	}
}

func TestClaimPath(t *testing.T) {
	for name, want := range map[string][]string{
		"repository_owner":             {"repository_owner"},
		"kubernetes.io/namespace":      {"kubernetes.io", "namespace"},
		"/kubernetes.io/namespace":     {"kubernetes.io", "namespace"},
		"https:~1~1acme.example~1team": {"https://acme.example/team"},
		"a~01":                         {"a~1"},
		"":                             nil,
		"/":                            nil,
		"a/":                           nil,
		"a//b":                         nil,
		"a~":                           nil,
		"a~2":                          nil,
	} {
		if got := ClaimPath(name); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %q", name, got)
		}
	}
}
