package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// Downstream is a system that holds long-lived credentials of identities. A revocation
// ends them there.
type Downstream struct {
	// Name by which products say where they have placed a secret.
	Name string `yaml:"name"`
	// Kind of the connector: postgres, redis, nats, oauth, webhook or http.
	Kind string `yaml:"kind"`
	// Tenants whose products may place secrets here; ["*"] for all. Default none.
	Tenants []string `yaml:"tenants"`
	// Accounts is a regular expression that the whole name of an account must match, with
	// {tenant} for the tenant, such as "{tenant}_[a-z0-9_]+". Without it one tenant could
	// name, and so end, another one's account. Default empty: every name, possible only
	// with one tenant.
	Accounts string `yaml:"accounts"`
	// URL of the server (postgres://ROLE@HOST/DB, rediss://USER@HOST, tls://HOST), of the
	// revocation endpoint (oauth), of the receiver (webhook), or of the call that ends an
	// account (http; with {account}, {tenant}, {secret}, {request}). Without password.
	URL string `yaml:"url"`
	// Nodes are further servers that have the same users (redis).
	Nodes []string `yaml:"nodes"`
	// SecretFile holds the connector's own secret, 0600: the password (postgres, redis),
	// credentials of a system user (nats), client secret (oauth), whsec_ secret (webhook).
	SecretFile string `yaml:"secret_file"`
	// KeyFile holds its key, 0600: an operator's seed (nats), a whsk_ key (webhook).
	KeyFile string `yaml:"key_file"`
	// CAFile is a PEM file of authorities for the server's certificate (nats; oauth,
	// webhook and http with local). Default the system's.
	CAFile string `yaml:"ca_file"`
	// Account is the public key of the account whose users are ended (nats).
	Account string `yaml:"account"`
	// ClientID of the connector (oauth).
	ClientID string `yaml:"client_id"`
	// Tokens is a directory of files <tenant>/<account> that hold the tokens (oauth).
	Tokens string `yaml:"tokens"`
	// Method of the call that ends an account (http). Default DELETE.
	Method string `yaml:"method"`
	// Body of that call, JSON with the same places (http). Default none.
	Body string `yaml:"body"`
	// Headers are files that hold the values of headers of every call, by name (http).
	Headers map[string]string `yaml:"headers"`
	// VerifyURL is what proves the end: the introspection endpoint (oauth), a URL to GET
	// that answers 200 while the account is alive and 401, 403, 404 or 410 afterwards
	// (http), or "true" when the receiver understands the verify message (webhook).
	// Default empty: the system's word counts.
	VerifyURL string `yaml:"verify_url"`
	// Delete removes users instead of turning them off (redis). Default false.
	Delete bool `yaml:"delete"`
	// TryLogin tries to log in as the ended role without its password (postgres).
	TryLogin bool `yaml:"try_login"`
	// Local allows private and loopback addresses and http (oauth, webhook, http).
	Local bool `yaml:"local"`
	// Concurrency is how many accounts are ended at once. Default 8.
	Concurrency int `yaml:"concurrency"`
	// Timeout of one try. Default 15s.
	Timeout Duration `yaml:"timeout"`
	// StuckAfter is how long after a revocation a secret that could not be ended is
	// reported as stuck, with an alert; it is tried again all the same. Default 1m.
	StuckAfter Duration `yaml:"stuck_after"`
	// Compensation is what its owner can do by hand then.
	Compensation string `yaml:"compensation"`
}

// downstreamKinds are the connectors there are.
var downstreamKinds = []string{"postgres", "redis", "nats", "oauth", "webhook", "http"}

// Complete fills the defaults of a downstream.
func (d Downstream) Complete() Downstream {
	if d.Concurrency == 0 {
		d.Concurrency = 8
	}
	if d.Timeout == 0 {
		d.Timeout = Duration(15 * time.Second)
	}
	if d.StuckAfter == 0 {
		d.StuckAfter = Duration(time.Minute)
	}
	if d.Compensation == "" {
		d.Compensation = "end the account in " + d.Name + " by hand"
	}
	if d.Method == "" {
		d.Method = "DELETE"
	}
	return d
}

// Allows reports why a product of a tenant may not place this account here.
func (d Downstream) Allows(tenant, account string) error {
	if !slices.Contains(d.Tenants, "*") && !slices.Contains(d.Tenants, tenant) {
		return fmt.Errorf("the downstream %s is not open to the tenant %s", d.Name, tenant)
	}
	if d.Accounts == "" {
		return nil
	}
	re, err := d.accounts(tenant)
	if err != nil || !re.MatchString(account) {
		return fmt.Errorf("the account does not match what %s takes of the tenant %s", d.Name, tenant)
	}
	return nil
}

func (d Downstream) accounts(tenant string) (*regexp.Regexp, error) {
	return regexp.Compile("^(?:" + strings.ReplaceAll(d.Accounts, "{tenant}", regexp.QuoteMeta(tenant)) + ")$")
}

func (c Config) validateDownstreams(p *problems) {
	seen := map[string]bool{}
	for i, d := range c.Revocation.Downstreams {
		field := fmt.Sprintf("revocation.downstreams[%d]", i)
		if !events.ValidTenant(d.Name) {
			p.add(field, "has name %q: want 1 to 63 of a-z, 0-9 and -", d.Name)
		}
		if seen[d.Name] {
			p.add(field, "has the name %q of another one: secrets could not be told apart; choose another", d.Name)
		}
		seen[d.Name] = true
		if !slices.Contains(downstreamKinds, d.Kind) {
			p.add(field, "has kind %q: want one of %s", d.Kind, strings.Join(downstreamKinds, ", "))
		}
		if d.URL == "" {
			p.add(field, "has no url: nothing could be ended; name the server")
		}
		for _, t := range d.Tenants {
			if t != "*" && !events.ValidTenant(t) {
				p.add(field, "has tenant %q: want 1 to 63 of a-z, 0-9 and -, or \"*\"", t)
			}
		}
		if _, err := d.accounts("acme"); err != nil {
			p.add(field, "has accounts that are no regular expression: %v", err)
		}
		if d.Accounts == "" && (len(d.Tenants) > 1 || slices.Contains(d.Tenants, "*")) {
			p.add(field, "is open to several tenants without accounts: one could end another one's; say which are whose, such as \"{tenant}_.*\"")
		}
		if d.Concurrency < 0 || d.Concurrency > 1000 || d.Timeout < 0 || d.StuckAfter < 0 {
			p.add(field, "has a negative number, or more than 1000 at once")
		}
	}
}
