package config

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// ceiling is the longest life of a token that the design allows.
const ceiling = Duration(15 * time.Minute)

// Validate reports everything that is wrong with c, joined. Each error says what is
// wrong, why it matters and what to do.
func (c Config) Validate() error {
	var p problems
	c.validateServers(&p)
	c.validateListeners(&p)
	c.validateIssuance(&p)
	c.validateRevocation(&p)
	c.validateDownstreams(&p)
	if c.Intake.MaxBody < events.MaxSize {
		p.add("intake.max_body", "is %d bytes, but one event may have %d: raise it", c.Intake.MaxBody, events.MaxSize)
	}
	if c.Intake.ClockSkew < 0 || c.Intake.ClockSkew > Duration(time.Hour) {
		p.add("intake.clock_skew", "is %s: an event that far ahead would age every detector's window; use 0s to 1h", c.Intake.ClockSkew)
	}
	c.validateMappings(&p)
	for _, port := range c.Outbound.Ports {
		if port < 1 || port > 65535 {
			p.add("outbound.ports", "has %d, which is no TCP port; use 1 to 65535", port)
		}
	}
	if c.Outbound.Timeout <= 0 || c.Outbound.Timeout > Duration(time.Minute) {
		p.add("outbound.timeout", "is %s: a slow server outside would hold up a service; use up to 1m", c.Outbound.Timeout)
	}
	if c.Outbound.MaxBody <= 0 {
		p.add("outbound.max_body", "is %d: nothing could be read; use a positive number of bytes", c.Outbound.MaxBody)
	}
	return errors.Join(p.errs...)
}

var mappingName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// validateMappings checks all but the expressions, which intake compiles.
func (c Config) validateMappings(p *problems) {
	seen := map[string]bool{}
	for n, m := range c.Intake.Mappings {
		at := fmt.Sprintf("intake.mappings[%d]", n)
		if !mappingName.MatchString(m.Name) {
			p.add(at, "has the name %q: want 1 to 63 of a-z, 0-9, _ and -", m.Name)
		}
		if seen[m.Name] {
			p.add(at, "has the name %q a second time: events of two kinds would look alike; rename one", m.Name)
		}
		seen[m.Name] = true
	}
	if len(c.Intake.Mappings) > maxMappings {
		p.add("intake.mappings", "has %d: every record is held against each of them; use at most %d", len(c.Intake.Mappings), maxMappings)
	}
}

const maxMappings = 64

type problems struct{ errs []error }

func (p *problems) add(field, format string, args ...any) {
	p.errs = append(p.errs, fmt.Errorf("%s "+format, append([]any{field}, args...)...))
}

func (c Config) validateServers(p *problems) {
	if c.Data == "" {
		p.add("data", "is empty: state has to be kept somewhere; name a directory")
	}
	if c.Replica < 0 || c.Replica > 9 {
		p.add("replica", "is %d: NATS permissions are made for the replicas 0 to 9; use one of them", c.Replica)
	}
	if c.NATS.Replicas != 1 && c.NATS.Replicas != 3 {
		p.add("nats.replicas", "is %d: streams have 1 replica, or 3 on a cluster", c.NATS.Replicas)
	}
	checkServer(p, "nats.url", c.NATS.URL, "nats", "tls")
	checkServer(p, "redis.url", c.Redis.URL, "redis", "rediss")
	if u, err := url.Parse(c.Redis.URL); err == nil && u.User != nil {
		if _, has := u.User.Password(); has {
			p.add("redis.url", "holds a password, which would be shown wherever the URL is; put it into redis.password_file")
		}
	}
	if u, err := url.Parse(c.NATS.URL); err == nil && u.User != nil {
		p.add("nats.url", "holds a user, but processes connect with the seeds in <keys>/nats/; remove it")
	}
	if c.NATS.URL == "" && !loopback(hostOf(c.NATS.Listen)) {
		p.add("nats.listen", "is %q: the embedded server has no TLS and stays on loopback; use 127.0.0.1:0, or a nats-server of your own with nats.url", c.NATS.Listen)
	}
	seen := map[User]bool{}
	for i, u := range c.NATS.Users {
		field := fmt.Sprintf("nats.users[%d]", i)
		if !events.ValidTenant(u.Tenant) {
			p.add(field, "has tenant %q: want 1 to 63 of a-z, 0-9 and -", u.Tenant)
		}
		switch u.Kind {
		case "product", "soc":
			if u.Point != "" {
				p.add(field, "is a %s and has a point: only guards have one; remove it", u.Kind)
			}
		case "guard":
			if u.Point == "" {
				p.add(field, "is a guard without a point: its receipts could not be told apart; name one")
			}
		default:
			p.add(field, "has kind %q: want product, soc or guard", u.Kind)
		}
		if seen[u] {
			p.add(field, "is there twice: remove one")
		}
		seen[u] = true
	}
}

// checkServer checks the URL of a server: scheme plain only on loopback.
func checkServer(p *problems, field, raw, plain, secure string) {
	if raw == "" {
		return
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || (u.Scheme != plain && u.Scheme != secure) {
		p.add(field, "is not the URL of a server: write %s://127.0.0.1:PORT or %s://HOST:PORT", plain, secure)
		return
	}
	if u.Scheme == plain && !loopback(u.Hostname()) {
		p.add(field, "is not on loopback and has no TLS, so anybody on the way reads and changes the traffic; use %s://", secure)
	}
}

func (c Config) validateListeners(p *problems) {
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		p.add("tls", "has only one of cert and key: set both")
	}
	for _, l := range []struct{ field, addr string }{
		{"intake.listen", c.Intake.Listen}, {"issuance.listen", c.Issuance.Listen},
		{"anomaly.listen", c.Anomaly.Listen}, {"rotation.listen", c.Rotation.Listen}, {"revocation.listen", c.Revocation.Listen},
		{"guard.listen", c.Guard.Listen}, {"debug.listen", c.Debug.Listen},
	} {
		if l.addr == "" {
			continue // does not listen
		}
		if _, _, err := net.SplitHostPort(l.addr); err != nil {
			p.add(l.field, "is %q: want host:port", l.addr)
			continue
		}
		if !loopback(hostOf(l.addr)) && c.TLS.Cert == "" {
			p.add(l.field, "is %q, not loopback, and tls.cert is empty: tokens would cross the network in the clear; set tls.cert and tls.key, or listen on 127.0.0.1", l.addr)
		}
	}
	if c.Debug.Pprof && !loopback(hostOf(c.Debug.Listen)) {
		p.add("debug.pprof", "is on while debug.listen is %q: profiles show memory, keys included; listen on 127.0.0.1", c.Debug.Listen)
	}
}

func (c Config) validateIssuance(p *problems) {
	checkEndpoint(p, "issuer.url", c.Issuer.URL)
	checkEndpoint(p, "issuer.jwks", c.Issuer.JWKS)
	if strings.HasSuffix(c.Issuer.URL, "/") {
		p.add("issuer.url", "ends in /: verifiers compare it byte for byte; remove the slash")
	}
	i := c.Issuance
	if i.MaxTTL <= 0 || i.MaxTTL > ceiling {
		p.add("issuance.max_ttl", "is %s: a revoked token may be honoured that long where no guard is; use up to %s", i.MaxTTL, ceiling)
	}
	if i.TTL <= 0 || i.TTL > i.MaxTTL {
		p.add("issuance.ttl", "is %s: use more than 0s and at most issuance.max_ttl (%s)", i.TTL, i.MaxTTL)
	}
	if i.TransactionDomain != "" && i.TransactionDomain == c.Issuer.URL {
		p.add("issuance.transaction_domain", "is the issuer's URL: a transaction token must not be for Lanyard's own APIs, give the domain a name of its own")
	}
	if i.OwnerGrace < 0 || i.OwnerGrace > Duration(720*time.Hour) {
		p.add("issuance.owner_grace", "is %s: use 0s to 720h, nobody answers for the identities meanwhile", i.OwnerGrace)
	}
	if i.DPoPNonce != "" && i.DPoPNonce != NonceRequired && i.DPoPNonce != NonceOptional {
		p.add("issuance.dpop_nonce", "is %q: use %s or %s", i.DPoPNonce, NonceRequired, NonceOptional)
	}
	if i.MaxDepth < 1 || i.MaxDepth > 8 {
		p.add("issuance.max_depth", "is %d: use 1 to 8, a token has room for no longer chain", i.MaxDepth)
	}
	if i.MaxWidth < 1 || i.MaxWidth > 100_000 {
		p.add("issuance.max_width", "is %d: use 1 to 100000", i.MaxWidth)
	}
	seen := map[string]bool{}
	for n, t := range i.Trusted {
		field := fmt.Sprintf("issuance.trusted_issuers[%d]", n)
		if t.Issuer == "" || t.JWKS == "" {
			p.add(field, "lacks issuer or jwks: without both no token of it can be verified; set them")
		}
		if seen[t.Issuer] {
			p.add(field, "names %q a second time: which keys count would be unclear; keep one", t.Issuer)
		}
		seen[t.Issuer] = true
		checkKeys(p, field, "jwks", t.JWKS, t.Local)
		if len(t.PolicyClaims) > maxPolicyClaims {
			p.add(field, "shows %d policy_claims to policies: name at most %d", len(t.PolicyClaims), maxPolicyClaims)
		}
		for _, name := range t.PolicyClaims {
			if ClaimPath(name) == nil {
				p.add(field, "has the policy claim %q: want a path such as kubernetes.io/namespace, with ~1 for a slash inside a name", name)
			}
		}
		for name, value := range t.Claims {
			if value == "" || ClaimPath(name) == nil {
				p.add(field, "has the claim %q = %q: want a path such as kubernetes.io/namespace, with ~1 for a slash inside a name, and a value", name, value)
			}
		}
	}
	c.validateTrustDomains(p)
	c.validateChaining(p)
	r := c.Rotation
	if r.SigningKeyPeriod < r.Prepare+r.Overlap || r.Prepare <= 0 {
		p.add("rotation.signing_key_period", "is %s: it must be longer than prepare (%s) and overlap (%s) together, or keys pile up", r.SigningKeyPeriod, r.Prepare, r.Overlap)
	}
	if r.Overlap < i.MaxTTL {
		p.add("rotation.overlap", "is %s, shorter than issuance.max_ttl (%s): live tokens would stop verifying; raise it", r.Overlap, i.MaxTTL)
	}
}

const maxPolicyClaims = 16 // per issuer: they are part of every recorded decision

// ClaimPath is the members that the name of a required claim leads through, outermost
// first (RFC 6901 section 3, its first slash may be left out); nil when it is no path.
func ClaimPath(name string) []string {
	path := strings.Split(strings.TrimPrefix(name, "/"), "/")
	for i, m := range path {
		rest := strings.NewReplacer("~0", "", "~1", "").Replace(m)
		if m == "" || strings.Contains(rest, "~") {
			return nil
		}
		path[i] = strings.NewReplacer("~1", "/", "~0", "~").Replace(m)
	}
	return path
}

func (c Config) validateTrustDomains(p *problems) {
	seen := map[string]bool{}
	for n, t := range c.Issuance.TrustDomains {
		field := fmt.Sprintf("issuance.trust_domains[%d]", n)
		if t.Bundle == "" {
			p.add(field, "lacks bundle: without it no SVID can be verified; set it")
		}
		if t.TrustDomain == "" || len(t.TrustDomain) > 255 || strings.Trim(t.TrustDomain, "abcdefghijklmnopqrstuvwxyz0123456789.-_") != "" {
			p.add(field, "has trust_domain %q: want its name alone, of a-z, 0-9 and .-_, without spiffe:// and path", t.TrustDomain)
		}
		if seen[t.TrustDomain] {
			p.add(field, "names %q a second time: bundles are never merged; keep one", t.TrustDomain)
		}
		seen[t.TrustDomain] = true
		checkKeys(p, field, "bundle", t.Bundle, t.Local)
	}
}

func (c Config) validateChaining(p *problems) {
	seen := map[string]bool{c.Issuer.URL: true}
	for n, to := range c.Issuance.ChainTo {
		if to == "" || seen[to] {
			p.add(fmt.Sprintf("issuance.chain_to[%d]", n), "is %q: want another issuer than this, once", to)
		}
		seen[to] = true
	}
	seen = map[string]bool{c.Issuer.URL: true}
	for _, t := range c.Issuance.Trusted {
		seen[t.Issuer] = true
	}
	for n, t := range c.Issuance.ChainFrom {
		field := fmt.Sprintf("issuance.chain_from[%d]", n)
		if t.Issuer == "" || t.JWKS == "" || seen[t.Issuer] {
			p.add(field, "has issuer %q and jwks %q: want both, and an issuer that is neither this one nor a trusted issuer of attestations", t.Issuer, t.JWKS)
		}
		seen[t.Issuer] = true
		checkKeys(p, field, "jwks", t.JWKS, t.Local)
	}
}

// checkKeys checks where the keys of a trusted party come from.
func checkKeys(p *problems, field, name, raw string, local bool) {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.User != nil:
		p.add(field, "has a %s that is no URL without user: write https://HOST/PATH or file:///PATH", name)
	case u.Scheme == "https", u.Scheme == "file", raw == "":
	case u.Scheme == "http" && local && loopback(u.Hostname()):
	default:
		p.add(field, "has %s %q: keys must come by https or file; http only for a local issuer on loopback", name, raw)
	}
}

// checkEndpoint checks a URL of Lanyard itself: https, or http on loopback.
func checkEndpoint(p *problems, field, raw string) {
	if raw == "" {
		return
	}
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		p.add(field, "is %q: want https://HOST[:PORT] without user, query and fragment", raw)
		return
	}
	if u.Scheme != "https" && !(u.Scheme == "http" && loopback(u.Hostname())) {
		p.add(field, "is %q: tokens and keys would cross the network in the clear; use https, or http on loopback", raw)
	}
}

func validateClass(p *problems, field string, c GuardClass, lease Duration) {
	if c.Name == "" {
		p.add(field+".name", "is empty: requests name classes; name it")
	}
	if c.MaxAge != 0 && (c.MaxAge < Duration(2*time.Second) || c.MaxAge > lease) {
		p.add(field+".max_age", "is %s: heartbeats come every second and a class may be stricter than the lease (%s), never laxer; use 2s to %s", c.MaxAge, lease, lease)
	}
	s := c.ServeStale
	if s == nil {
		return
	}
	if s.By == "" || s.Reason == "" || s.Until.IsZero() || len(s.Scopes) == 0 {
		p.add(field+".serve_stale", "lets revoked tokens read, so somebody answers for it and it ends: give by, reason, until and scopes")
	}
	if s.For <= 0 || s.For > Duration(5*time.Minute) {
		p.add(field+".serve_stale.for", "is %s: every revocation waits for it when the server is cut off; use more than 0s and at most 5m", s.For)
	}
}

func (c Config) validateRevocation(p *problems) {
	r, lease := c.Revocation, c.Guard.Lease
	if lease < Duration(10*time.Second) || lease > Duration(5*time.Minute) {
		p.add("guard.lease", "is %s: below 10s a leader election of NATS (up to 10.3s) would close every guard, above 5m a cut-off guard honours revoked tokens too long; use 10s to 5m", lease)
	}
	if r.Heartbeat <= 0 || r.Heartbeat > lease/5 {
		p.add("revocation.heartbeat", "is %s: with less than five heartbeats in guard.lease (%s) a lost message closes guards; use more than 0s and at most %s", r.Heartbeat, lease, lease/5)
	}
	if r.Objective <= 0 {
		p.add("revocation.objective", "is %s: every revocation would raise an alert; use a positive duration", r.Objective)
	}
	if r.Breadth < 0 {
		p.add("revocation.breadth", "is %d: use 0 (always confirm) or more", r.Breadth)
	}
	if r.ApprovalWindow < Duration(time.Minute) || r.ApprovalWindow > Duration(24*time.Hour) {
		p.add("revocation.approval_window", "is %s: a second person needs a moment, and yesterday's request should be asked again; use 1m to 24h", r.ApprovalWindow)
	}
	if r.Cap < 1 {
		p.add("revocation.cap", "is %d: nobody could revoke anything; use 1 or more", r.Cap)
	}
	if r.FreezeTTL < Duration(time.Minute) || r.FreezeTTL > Duration(30*24*time.Hour) {
		p.add("revocation.freeze_ttl", "is %s: a freeze ends by itself; use 1m to 720h", r.FreezeTTL)
	}
	if d := r.Drills; d.Every != 0 && d.Every < Duration(10*time.Minute) {
		p.add("revocation.drills.every", "is %s: each drill revokes something everywhere; use 10m or more, or 0 for none", d.Every)
	}
	for _, t := range r.Drills.Tenants {
		if !events.ValidTenant(t) {
			p.add("revocation.drills.tenants", "has %q: want 1 to 63 of a-z, 0-9 and -", t)
		}
	}
	if r.Drills.Owner == "" {
		p.add("revocation.drills.owner", "is empty: somebody must answer for the canaries; name them")
	}
	if !events.ValidTenant(c.Guard.Tenant) {
		p.add("guard.tenant", "is %q: want 1 to 63 of a-z, 0-9 and -", c.Guard.Tenant)
	}
	for i, class := range c.Guard.Classes {
		validateClass(p, fmt.Sprintf("guard.classes[%d]", i), class, c.Guard.Lease)
		if slices.ContainsFunc(c.Guard.Classes[:i], func(o GuardClass) bool { return o.Name == class.Name }) {
			p.add(fmt.Sprintf("guard.classes[%d].name", i), "is there twice: %q", class.Name)
		}
	}
	if c.Guard.Point == "" {
		p.add("guard.point", "is empty: its receipts could not be told apart; name one")
	}
}

func hostOf(addr string) string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return host
}

// loopback reports whether host is a loopback address or "localhost". An empty
// host means every interface.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && a.Unmap().IsLoopback()
}

// Loopback reports whether a host:port is on this machine only.
func Loopback(addr string) bool { return loopback(hostOf(addr)) }
