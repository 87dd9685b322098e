package neutral

import (
	"crypto/sha256"
	"encoding/hex"
	"math"
	"net/netip"
	"regexp"
	"strings"
	"unicode/utf8"

	"github.com/lanyard-nhi/lanyard/events"
)

const maxWhole = 1<<53 - 1 // the largest count that the schema admits

// trim cuts every member to what the schema of the activity events admits.
func trim(a *events.Activity) {
	for _, id := range []*string{&a.Identity, &a.IdentityTenant, &a.Owner, &a.Credential, &a.CredentialVersion, &a.JTI, &a.Confirmation,
		&a.ArgsHash, &a.Task, &a.ResourceTenant, &a.Target, &a.MintedID} {
		*id = Identifier(*id)
	}
	for _, t := range []struct {
		s *string
		n int
	}{
		{&a.Session, 256}, {&a.SourceASN, 64}, {&a.SourceCountry, 64}, {&a.SourceService, 256}, {&a.VPCEndpoint, 256}, {&a.UserAgent, 512},
		{&a.TLSFingerprint, 256}, {&a.Workload, 512}, {&a.Tool, 256}, {&a.Destination, 512}, {&a.Action, 256}, {&a.Resource, 1024},
		{&a.Error, 1024}, {&a.RawRef, 512},
	} {
		*t.s = Clip(*t.s, t.n)
	}
	a.Audience, a.ToolArgsDest = clipAll(a.Audience), clipAll(a.ToolArgsDest)
	a.Scopes, a.ParentScopes = scopes(a.Scopes), scopes(a.ParentScopes)
	a.Bytes, a.Count = max(0, min(a.Bytes, maxWhole)), max(0, min(a.Count, maxWhole))
	var chain []events.Party
	for _, p := range a.Delegation {
		if p.Identity = Identifier(p.Identity); p.Identity != "" && events.ValidTenant(p.Tenant) && len(chain) < 32 {
			chain = append(chain, p)
		}
	}
	a.Delegation = chain
	a.DelegationDepth = max(0, min(a.DelegationDepth, 1000))
}

// clipAll keeps what is not empty, at most as much as a list may hold.
func clipAll(list []string) []string {
	var out []string
	for _, s := range list {
		if s = Clip(s, 512); s != "" && len(out) < 64 {
			out = append(out, s)
		}
	}
	return out
}

var scope = regexp.MustCompile(`^[\x21\x23-\x5B\x5D-\x7E]{1,256}$`)

// scopes keeps what is a scope (RFC 6749, section 3.3), each once.
func scopes(list []string) []string {
	var out []string
	seen := map[string]bool{}
	for _, s := range list {
		if scope.MatchString(s) && !seen[s] && len(out) < 256 {
			seen[s] = true
			out = append(out, s)
		}
	}
	return out
}

// Identifier makes s fit for an id: printable ASCII of at most 256 characters.
// Other bytes become %XX; what is too long ends in a hash of the whole.
func Identifier(s string) string {
	const limit, hexdig = 256, "0123456789ABCDEF"
	s = strings.TrimSpace(s)
	if plainID(s) && len(s) <= limit {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c < 0x20 || c > 0x7e {
			b.Write([]byte{'%', hexdig[c>>4], hexdig[c&15]})
			continue
		}
		b.WriteByte(c)
	}
	out := b.String()
	if len(out) <= limit {
		return out
	}
	sum := sha256.Sum256([]byte(s))
	return out[:limit-33] + "#" + hex.EncodeToString(sum[:16])
}

func plainID(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7e {
			return false
		}
	}
	return true
}

// Clip cuts s to at most n characters and makes it valid text.
func Clip(s string, n int) string {
	if len(s) <= n && utf8.ValidString(s) {
		return s
	}
	s = strings.ToValidUTF8(s, "\ufffd")
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	return string([]rune(s)[:n])
}

// From tells an address from the service name that may stand in its place, which
// happens for calls that a service makes in the caller's name. An address may have a
// port; one with leading zeros is read as decimal.
func From(s string) (address, service string) {
	s = strings.TrimSpace(s)
	if addr, ok := address4or6(s); ok {
		return addr.WithZone("").Unmap().String(), ""
	}
	return "", s
}

func address4or6(s string) (netip.Addr, bool) {
	if addr, err := netip.ParseAddr(decimal(s)); err == nil {
		return addr, true
	}
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return ap.Addr(), true
	}
	return netip.Addr{}, false
}

// decimal takes leading zeros off the parts of an IPv4 address.
func decimal(s string) string {
	parts := strings.Split(s, ".")
	if len(parts) != 4 {
		return s
	}
	for i, p := range parts {
		if p != "" {
			if parts[i] = strings.TrimLeft(p, "0"); parts[i] == "" {
				parts[i] = "0"
			}
		}
	}
	return strings.Join(parts, ".")
}

var uuidSuffix = regexp.MustCompile(`[_-][0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`)

// Family is the name of the client without brackets, versions and run ids.
func Family(agent string) string {
	s := strings.Trim(strings.TrimSpace(agent), "[]")
	if s == "AWS Internal" {
		return s
	}
	if i := strings.IndexAny(s, "/ ;,("); i > 0 {
		s = s[:i]
	}
	return uuidSuffix.ReplaceAllString(s, "")
}

// Browser reports whether a family of clients is what people sit at.
func Browser(family string) bool {
	switch strings.ToLower(family) {
	case "mozilla", "opera", "chrome", "safari", "firefox", "edge":
		return true
	}
	return false
}

var digits = regexp.MustCompile(`[0-9]+`)

// Masked is s with each run of digits as one #: a name with a timestamp in it would be
// a new one every time.
func Masked(s string) string { return digits.ReplaceAllString(s, "#") }

// Holds reports whether s contains one of words.
func Holds(s string, words ...string) bool {
	for _, w := range words {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}

// whole is f as a whole number, 0 when it is none.
func whole(f float64) int64 {
	if f != math.Trunc(f) || math.Abs(f) > maxWhole {
		return 0
	}
	return int64(f)
}
