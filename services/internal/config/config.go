// Package config is the one configuration file of Lanyard: strict YAML (unknown
// keys are errors), a section per service; environment variables override the file
// and flags override those. Everything of Lanyard that runs may import it.
//
// The comment of each field says its meaning, unit, default and what breaks; the
// annotated example file is made from these comments, see Example.
package config

import "time"

// Config is the whole configuration.
type Config struct {
	// Data is the directory of the embedded servers' files, the journal and the
	// guards' state. Default "./lanyard-data". Two processes of one service need
	// different ones, or they overwrite each other's guard state.
	Data string `yaml:"data"`
	// Keys is the directory of the key files. Default empty: "<data>/keys". A process needs
	// only the files it uses; see the table in deploy/.
	Keys string `yaml:"keys"`

	// Replica is the number of this process among those that run the same service, 0
	// to 9. Default 0. Two with the same number look like one guard whose key changes,
	// and the receipts of one of them are refused.
	Replica int `yaml:"replica"`

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
	Outbound   Outbound   `yaml:"outbound"`
}

// NATS is where the bus is.
type NATS struct {
	// URL of the server, "nats://" on loopback or "tls://". Default empty: the
	// embedded server, which only the all-in-one process can use.
	URL string `yaml:"url"`
	// Listen is where the embedded server listens for other processes, host:port,
	// loopback only. Default "127.0.0.1:0": a free port, kept over restarts.
	Listen string `yaml:"listen"`
	// CA is a PEM file of the authorities that signed the server's certificate.
	// Default empty: the system's.
	CA string `yaml:"ca"`
	// Monitor is the URL of the server's HTTP monitoring, which tells whether it
	// syncs every write. Default "http://<host of url>:8222". Where nothing answers,
	// revokes are refused, since nothing could be promised.
	Monitor string `yaml:"monitor"`
	// Replicas of every stream: 1, or 3 on a cluster. Default 1. With 1 a lost disk
	// is a lost log.
	Replicas int `yaml:"replicas"`
	// Users are the products, SOCs and guards outside these processes that get a
	// NATS user of their own. Default none. Each has a seed in <keys>/nats/.
	Users []User `yaml:"users"`
}

// User is a NATS user of somebody outside Lanyard's own services.
type User struct {
	// Kind says what it may do: "product" publishes nhi.in.<tenant>.>, "soc"
	// subscribes nhi.alert.<tenant>.>, "guard" follows the kill feed and answers.
	Kind string `yaml:"kind"`
	// Tenant it belongs to.
	Tenant string `yaml:"tenant"`
	// Point is the enforcement point of a guard; empty for the other kinds.
	Point string `yaml:"point"`
}

// Redis is where projections are.
type Redis struct {
	// URL of the server, "redis://" on loopback or "rediss://", without password.
	// Default empty: the embedded server, which only the all-in-one process can use.
	URL string `yaml:"url"`
	// PasswordFile holds the password. Default empty: none.
	PasswordFile string `yaml:"password_file"`
}

// Issuer is how tokens name their issuer and where its keys are.
type Issuer struct {
	// URL is "iss" of tokens, base of the OAuth endpoints and audience of Lanyard's
	// own APIs; https, or http on loopback. Default empty: the address at which
	// issuance listens, possible only where issuance runs in the process. Changing it
	// makes every live token invalid.
	URL string `yaml:"url"`
	// JWKS is the URL of its keys. Default "<url>/.well-known/jwks.json".
	JWKS string `yaml:"jwks"`
}

// Intake is the HTTP door for products.
type Intake struct {
	// Listen is host:port. Default "127.0.0.1:0": a free port, kept over restarts.
	Listen string `yaml:"listen"`
	// MaxBody is the largest request body, in bytes. Default 8 MiB (8388608).
	MaxBody int64 `yaml:"max_body"`
	// ClockSkew is how far in the future an event may lie. Default 5m. Detectors run
	// on event time: one event far ahead would age their windows at once.
	ClockSkew Duration `yaml:"clock_skew"`
	// Mappings make records of sources without an adapter neutral, at POST /v1/mapped.
	// The first that takes a record counts. Default none. Such as, for Vault:
	//   - name: vault
	//     match: record.type == "response"
	//     fields:
	//       id: record.request.id
	//       time: record.time
	//       identity: record.auth.display_name
	//       credential: record.auth.accessor
	//       source_ip: record.request.remote_address
	//       action: '"vault:" + record.request.operation'
	//       action_class: 'record.request.operation in ["read", "list"] ? "secret" : "write"'
	//       destination: '"vault"'
	//       resource: record.request.path
	//       outcome: 'has(record.error) && record.error != "" ? "denied" : "success"'
	Mappings []Mapping `yaml:"mappings"`
}

// Mapping is one kind of record and how it becomes a neutral event. Expressions are CEL;
// a member that a record lacks leaves the field out.
type Mapping struct {
	// Name of the mapping, unique; part of the events' source.
	Name string `yaml:"name"`
	// Match is an expression that says whether a record is of this kind, true or false.
	// Default empty: every record is.
	Match string `yaml:"match"`
	// Form is the event that a record becomes: api_called, tool_called or token_exchanged.
	// Default empty: tool_called when the field tool has a value, else api_called.
	Form string `yaml:"form"`
	// Fields are the expressions, by the name of the event's field. time, identity, action
	// and destination are needed. Beside record they may use instance and tenant, CEL's
	// standard functions, its string and optional libraries, and: text(x), family(agent),
	// masked(name), hash(x), destinations(args), args_hash(args). Never map a secret, a
	// body or a free text.
	Fields map[string]string `yaml:"fields"`
}

// TrustedIssuer is an OIDC issuer whose tokens attest workloads.
type TrustedIssuer struct {
	// Issuer is the expected "iss", byte for byte.
	Issuer string `yaml:"issuer"`
	// JWKS is the https URL of its keys, or the file:// path of a JWK Set.
	JWKS string `yaml:"jwks"`
	// Audience is the expected "aud". Default the issuer URL of Lanyard.
	Audience string `yaml:"audience"`
	// Claims are what else a token must say, each with exactly this value; other tokens
	// of the issuer attest nobody. Default none, which for an issuer that serves many
	// customers lets only the subject tell them apart. A name is a path of members
	// separated by /, with ~1 for a slash inside a member and ~0 for ~ (RFC 6901); a
	// value is text, a number or a boolean, never a list or an object. Such as:
	//   GitHub Actions, issuer https://token.actions.githubusercontent.com:
	//     claims: {repository_owner: acme, repository_owner_id: "1234", ref: refs/heads/main}
	//   GitLab, issuer https://gitlab.com:
	//     claims: {namespace_path: acme, ref_protected: "true"}
	//   Kubernetes, issuer as in the cluster's /.well-known/openid-configuration:
	//     claims: {kubernetes.io/namespace: prod, kubernetes.io/serviceaccount/name: agent}
	Claims map[string]string `yaml:"claims"`
	// PolicyClaims are the claims of its tokens that policies may decide by and that are
	// recorded with every decision, at most 16 names as in claims. Default none. Leave out
	// what names people. Such as, for GitHub Actions: [repository, ref, environment]. A
	// policy reads them as context.workload.getTag("ref").
	PolicyClaims []string `yaml:"policy_claims"`
	// Local allows it on loopback and over http. Default false; for development only.
	Local bool `yaml:"local"`
}

// TrustDomain is a SPIFFE trust domain whose SVIDs attest workloads.
type TrustDomain struct {
	// TrustDomain is its name alone, such as "prod.example.org". A token whose subject
	// is a SPIFFE ID of it is verified with its bundle, whatever the token says of its
	// issuer.
	TrustDomain string `yaml:"trust_domain"`
	// Bundle is the https URL of its bundle endpoint (profile https_web), read as often
	// as spiffe_refresh_hint says but at least every 15m; or the file:// path of a SPIFFE
	// bundle, read again when it changes. A bundle whose "keys" are [] revokes the whole
	// trust domain. The last good bundle counts for 1h while none can be read.
	Bundle string `yaml:"bundle"`
	// Local allows the endpoint on loopback and over http. Default false; for
	// development only.
	Local bool `yaml:"local"`
}

// ChainIssuer is another Lanyard whose grants are accepted.
type ChainIssuer struct {
	// Issuer is "iss" of its grants, compared byte for byte. An identity here is bound to
	// one there by an attestation of this issuer and the subject "TENANT/IDENTITY". Revoke
	// the domain of this name to end everything that came from it.
	Issuer string `yaml:"issuer"`
	// JWKS is the https URL or file:// path of its keys.
	JWKS string `yaml:"jwks"`
	// Local allows the URL on loopback and over http. Default false; for development only.
	Local bool `yaml:"local"`
}

// Issuance is the registry and token service.
type Issuance struct {
	// Listen is host:port. Default "127.0.0.1:0": a free port, kept over restarts.
	Listen string `yaml:"listen"`
	// TTL of a token that asks for none. Default 5m.
	TTL Duration `yaml:"ttl"`
	// MaxTTL is the longest a token may ask for. Default 15m, which is also the
	// ceiling: kill entries are kept this long, and offline verifiers honour a revoked
	// token this long.
	MaxTTL Duration `yaml:"max_ttl"`
	// MaxDepth is the longest delegation chain. Default 4, at most 8.
	MaxDepth int `yaml:"max_depth"`
	// MaxWidth is how often one credential may be exchanged, refused tries included.
	// Default 256, at most 100000. A stolen credential breeds so many and no more.
	MaxWidth int `yaml:"max_width"`
	// Trusted are the issuers of workload attestations. Default none:
	// nobody gets a token.
	Trusted []TrustedIssuer `yaml:"trusted_issuers"`
	// TrustDomains are the SPIFFE trust domains whose workloads attest themselves with
	// SVIDs. Default none.
	TrustDomains []TrustDomain `yaml:"trust_domains"`
	// DPoPNonce says whether a DPoP proof at the token endpoint must hold a nonce of ours:
	// "required" or "optional". Default "required", which costs a client one more request
	// now and then; with "optional" a stolen proof is good for a minute.
	DPoPNonce string `yaml:"dpop_nonce"`
	// OwnerGrace is how long identities go on after their owner departed without a
	// successor: an alert says so at once, and they freeze at the end unless somebody else
	// answers for them by then. Default 0s: they freeze at once. 24h is a good value.
	OwnerGrace Duration `yaml:"owner_grace"`
	// TransactionDomain is the trust domain of transaction tokens, such as
	// "prod.example.org": their audience, and what a workload must have among its
	// audiences to ask for one. Default empty: none are issued.
	TransactionDomain string `yaml:"transaction_domain"`
	// ChainTo are the other issuers for which an agent gets a grant by token exchange, if
	// it has the issuer among its audiences. Default none.
	ChainTo []string `yaml:"chain_to"`
	// ChainFrom are the other Lanyard issuers whose grants are accepted. What comes by
	// them carries their lineage before ours, at most 32 handles together. Default none.
	ChainFrom []ChainIssuer `yaml:"chain_from"`
}

// Values of Issuance.DPoPNonce.
const (
	NonceRequired = "required"
	NonceOptional = "optional"
)

// Anomaly is detection.
type Anomaly struct {
	// Listen is host:port of the alerts API. Default "127.0.0.1:0".
	Listen string `yaml:"listen"`
	// Disabled detectors, such as ["D20"]. Default none.
	Disabled []string `yaml:"disabled"`
	// AutoRevoke lets deterministic detectors ask for revocations. Default false.
	AutoRevoke bool `yaml:"auto_revoke"`
	// Rules is a directory of the SOC's own rules, see 'lanyard rule --help'. What changes
	// in it is in force within seconds; a rule that is wrong keeps the old ones in force,
	// and stops a start. Default "": none.
	Rules string `yaml:"rules"`
}

// Rotation is due dates and expiry.
type Rotation struct {
	// Listen is host:port of the rotations API. Default "127.0.0.1:0".
	Listen string `yaml:"listen"`
	// SigningKeyPeriod is how long a token signing key signs. Default 720h.
	SigningKeyPeriod Duration `yaml:"signing_key_period"`
	// Prepare is the time between publishing a key and signing with it. Default 10m.
	// Verifiers that cache keys for longer refuse the first new tokens.
	Prepare Duration `yaml:"prepare"`
	// Overlap is the time a key stays published after its successor signs. Default
	// 0s: max_ttl + 1m. Less than max_ttl would kill live tokens and is refused.
	Overlap Duration `yaml:"overlap"`
}

// Revocation accepts and cascades revokes.
type Revocation struct {
	// Listen is host:port. Default "127.0.0.1:0".
	Listen string `yaml:"listen"`
	// Heartbeat is the time between heartbeats of the kill feed. Default 1s; at most
	// guard.lease / 5, or one lost message would close every guard.
	Heartbeat Duration `yaml:"heartbeat"`
	// Objective: an open revocation older than this raises an alert. Default 60s.
	Objective Duration `yaml:"objective"`
	// Breadth is the number of descendants above which confirm is needed. Default 50.
	Breadth int64 `yaml:"breadth"`
	// ApprovalWindow is how long a broad request that was proposed instead of confirmed
	// waits for a second person's approval. Default 15m, 1m to 24h.
	ApprovalWindow Duration `yaml:"approval_window"`
	// Cap is the number of revocations per requester in 10 minutes. Default 100.
	Cap int `yaml:"cap"`
	// FreezeTTL of a freeze that names none. Default 1h.
	FreezeTTL Duration `yaml:"freeze_ttl"`
	// AllowUnsafeServer accepts revokes though the server may lose them at a power
	// cut. Default false. Never true in production.
	AllowUnsafeServer bool `yaml:"allow_unsafe_server"`
	// Downstreams are the systems that hold long-lived credentials, with the connectors
	// that end them there. Default none. A secret in one of these:
	Downstreams []Downstream `yaml:"downstreams"`
	// Drills prove on a schedule that the kill switch works.
	Drills Drills `yaml:"drills"`
}

// Drills mint a canary credential in each tenant, revoke it and see that every
// enforcement point refuses it.
type Drills struct {
	// Every is the time between two drills of a tenant. A tenant whose switch was not
	// proven for that long and a tenth more raises an alert. Default 0: no schedule;
	// "lanyard drill run" works all the same. At least 10m.
	Every Duration `yaml:"every"`
	// Tenants that have drills on schedule. Default [lanyard].
	Tenants []string `yaml:"tenants"`
	// Owner is who answers for the canary identities. Default "lanyard".
	Owner string `yaml:"owner"`
}

// Guard is the forward-auth server and the lease of every guard in the process.
type Guard struct {
	// Listen is host:port of the forward-auth server. Default "127.0.0.1:0".
	Listen string `yaml:"listen"`
	// Point is the id of the forward-auth server's enforcement point, unique in the
	// deployment. Default "gateway".
	Point string `yaml:"point"`
	// Tenant of the resources behind it. Default "lanyard".
	Tenant string `yaml:"tenant"`
	// Audience is the expected "aud" of tokens. Default the issuer URL.
	Audience string `yaml:"audience"`
	// Lease is how long a guard may say yes after the newest heartbeat. Default 15s,
	// at least 10s (it must exceed a leader election), at most 5m. A revoke is
	// enforced everywhere at most this long after it was accepted.
	Lease Duration `yaml:"lease"`
	// Classes are data classes, which a proxy names with ?class=. Default none.
	Classes []GuardClass `yaml:"classes"`
}

// GuardClass is how fresh the forward-auth server must be for data of one sensitivity.
type GuardClass struct {
	// Name of the class, such as "public". Required.
	Name string `yaml:"name"`
	// MaxAge of the newest heartbeat, from 2s to the lease. Default the lease. Shorter
	// refuses sooner when the kill feed is cut off.
	MaxAge Duration `yaml:"max_age"`
	// ServeStale lets requests that only read go on for a while after the lease, flagged.
	// Default none: the class closes. While it stands no revocation counts as enforced
	// before its time is over too, when the server is cut off.
	ServeStale *ServeStale `yaml:"serve_stale"`
}

// ServeStale is somebody's word that a class may be read without knowing all.
type ServeStale struct {
	// By is who answers for it. Required.
	By string `yaml:"by"`
	// Reason says why. Required.
	Reason string `yaml:"reason"`
	// Until is when it ends by itself (RFC 3339). Required.
	Until time.Time `yaml:"until"`
	// For is how long after the lease, at most 5m. Required.
	For Duration `yaml:"for"`
	// Scopes that only read; a request that requires another one or none is refused.
	// Required.
	Scopes []string `yaml:"scopes"`
}

// Debug is where /livez, /readyz and /metrics are.
type Debug struct {
	// Listen is host:port, one per process. Default "127.0.0.1:0".
	Listen string `yaml:"listen"`
	// Pprof serves /debug/pprof/ there, on loopback only. Default false.
	Pprof bool `yaml:"pprof"`
}

// TLS of every HTTP listener; required when one is not on loopback.
type TLS struct {
	// Cert is a PEM file of the certificate chain. Default empty: plain HTTP.
	Cert string `yaml:"cert"`
	// Key is the PEM file of its private key; 0600.
	Key string `yaml:"key"`
	// CA is a PEM file of the authorities that signed the certificates of Lanyard's
	// own endpoints. Default empty: the system's.
	CA string `yaml:"ca"`
}

// Outbound is the client for every URL that comes from outside.
type Outbound struct {
	// Ports that may be dialled. Default [443].
	Ports []int `yaml:"ports"`
	// Timeout of a whole exchange. Default 10s.
	Timeout Duration `yaml:"timeout"`
	// MaxBody is the largest response body, in bytes. Default 1 MiB (1048576).
	MaxBody int64 `yaml:"max_body"`
}
