// Package config is the one configuration file of Lanyard: strict YAML (unknown
// keys are errors), a section per service; environment variables override the file
// and flags override those.
package config

import "time"

// Duration is written as "15m".
type Duration time.Duration

// Config is the whole configuration.
type Config struct {
	// Data is the directory of keys, the embedded servers' files, the journal and
	// guards' state. Default "./lanyard-data".
	Data       string     `yaml:"data"`
	NATS       NATS       `yaml:"nats"`
	Redis      Redis      `yaml:"redis"`
	Issuer     Issuer     `yaml:"issuer"`
	Intake     Intake     `yaml:"intake"`
	Issuance   Issuance   `yaml:"issuance"`
	Anomaly    Anomaly    `yaml:"anomaly"`
	Rotation   Rotation   `yaml:"rotation"`
	Revocation Revocation `yaml:"revocation"`
	Guard      Guard      `yaml:"guard"`
	Debug      Debug      `yaml:"debug"`
	TLS        TLS        `yaml:"tls"`
}

// NATS is where the bus is. An empty URL means the embedded server.
type NATS struct {
	URL      string `yaml:"url"`
	CA       string `yaml:"ca"`
	Monitor  string `yaml:"monitor"`  // HTTP monitoring URL, default http://<host>:8222
	Replicas int    `yaml:"replicas"` // of streams, default 1
}

// Redis is where projections are. An empty URL means the embedded server.
type Redis struct {
	URL string `yaml:"url"`
}

// Issuer is how tokens name their issuer and where its keys are.
type Issuer struct {
	URL  string `yaml:"url"`  // "iss" of tokens and base of the OAuth endpoints; audience of Lanyard's own APIs
	JWKS string `yaml:"jwks"` // default URL + "/.well-known/jwks.json"
}

// Intake is the HTTP door for products.
type Intake struct {
	Listen    string   `yaml:"listen"`     // default 127.0.0.1:0 in `lanyard up`
	MaxBody   int64    `yaml:"max_body"`   // bytes, default 8 MiB
	ClockSkew Duration `yaml:"clock_skew"` // how far in the future an event may lie, default 5m
}

// TrustedIssuer is an OIDC issuer whose tokens attest workloads.
type TrustedIssuer struct {
	Issuer   string `yaml:"issuer"`   // "iss", byte for byte
	JWKS     string `yaml:"jwks"`     // URL, or file:// path of a JWK Set
	Audience string `yaml:"audience"` // expected "aud", default the issuer URL of Lanyard
	Local    bool   `yaml:"local"`    // may be on loopback (development)
}

// Issuance is the registry and token service.
type Issuance struct {
	Listen   string          `yaml:"listen"`
	TTL      Duration        `yaml:"ttl"`       // default 5m
	MaxTTL   Duration        `yaml:"max_ttl"`   // default 15m, also the ceiling
	MaxDepth int             `yaml:"max_depth"` // longest delegation chain, default 4
	Trusted  []TrustedIssuer `yaml:"trusted_issuers"`
}

// Anomaly is detection.
type Anomaly struct {
	Listen string `yaml:"listen"`
	// Disabled detectors, such as ["D20"].
	Disabled []string `yaml:"disabled"`
	// AutoRevoke lets deterministic detectors ask for revocations. Default false.
	AutoRevoke bool `yaml:"auto_revoke"`
}

// Rotation is due dates and expiry.
type Rotation struct {
	SigningKeyPeriod Duration `yaml:"signing_key_period"` // default 720h
	Prepare          Duration `yaml:"prepare"`            // between prepared and activated, default 10m
	Overlap          Duration `yaml:"overlap"`            // between activated and retired, default max_ttl + 1m
}

// Revocation accepts and cascades revokes.
type Revocation struct {
	Listen    string   `yaml:"listen"`
	Heartbeat Duration `yaml:"heartbeat"`  // default 1s; must be at most lease/5
	Objective Duration `yaml:"objective"`  // an open revocation older than this raises an alert, default 60s
	Breadth   int64    `yaml:"breadth"`    // descendants above which confirm is needed, default 50
	Cap       int      `yaml:"cap"`        // revocations per requester per 10 minutes, default 100
	FreezeTTL Duration `yaml:"freeze_ttl"` // default 1h
	// AllowUnsafeServer is never true in production: accept revokes though the
	// server may lose them.
	AllowUnsafeServer bool `yaml:"allow_unsafe_server"`
}

// Guard is the forward-auth server and the lease of every guard in the process.
type Guard struct {
	Listen   string   `yaml:"listen"`
	Point    string   `yaml:"point"`
	Tenant   string   `yaml:"tenant"`
	Audience string   `yaml:"audience"`
	Lease    Duration `yaml:"lease"` // default 15s
}

// Debug is where /livez, /readyz and /metrics are.
type Debug struct {
	Listen string `yaml:"listen"`
}

// TLS of every HTTP listener; required when one is not on loopback.
type TLS struct {
	Cert string `yaml:"cert"`
	Key  string `yaml:"key"`
}
