package events

import (
	"fmt"
	"regexp"
	"strings"
)

// Subject grammar (the tenant is always a fixed token, so that permissions are
// simple):
//
//	nhi.in.<tenant>.<noun>.<verb>
//	nhi.log.<tenant>.<noun>.<verb>.<entity>
//	nhi.alert.<tenant>.<severity>.<detector>
//	nhi.receipt.<tenant>.<revocation>.<point>
//	nhi.guard.<tenant>.<point>
//	nhi.timer.due.<tenant>.<timer>
const subjectRoot = "nhi."

var tenantPattern = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$`)

// ValidTenant reports whether s may name a tenant: 1 to 63 characters of a-z, 0-9
// and "-", like a DNS label.
func ValidTenant(s string) bool { return tenantPattern.MatchString(s) }

// Token encodes an id as one subject token: bytes outside A-Z a-z 0-9 _ - : / @
// become "=XX" (upper-case hex). Token is injective.
func Token(id string) string {
	const hexdig = "0123456789ABCDEF"
	var b strings.Builder
	for i := 0; i < len(id); i++ {
		c := id[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9',
			c == '_', c == '-', c == ':', c == '/', c == '@':
			b.WriteByte(c)
		default:
			b.WriteByte('=')
			b.WriteByte(hexdig[c>>4])
			b.WriteByte(hexdig[c&15])
		}
	}
	return b.String()
}

// Subject is the NATS subject that e travels on. It fails when e is of no known
// type, has no valid tenant, or lacks what the subject is made of.
func Subject(e Event) (string, error) {
	info, ok := Lookup(e.Type())
	if !ok {
		return "", fmt.Errorf("route event %s: %w: %q", e.ID(), ErrUnknownType, e.Type())
	}
	tenant := Tenant(e)
	if !ValidTenant(tenant) {
		return "", fmt.Errorf("route event %s: %w: %q", e.ID(), ErrBadTenant, tenant)
	}
	switch info.Channel {
	case ChannelIn:
		return subjectRoot + "in." + tenant + "." + info.Noun + "." + info.Verb, nil
	case ChannelLog:
		if e.Subject() == "" {
			return "", fmt.Errorf("route event %s: no subject", e.ID())
		}
		return LogSubject(tenant, info.Noun, info.Verb, e.Subject()), nil
	case ChannelAlert:
		p, err := As[AnomalyDetected](e)
		if err != nil {
			return "", err
		}
		return subjectRoot + "alert." + tenant + "." + string(p.Severity) + "." + Token(p.Detector), nil
	case ChannelReceipt:
		p, err := As[ReceiptSigned](e)
		if err != nil {
			return "", err
		}
		return subjectRoot + "receipt." + tenant + "." + Token(p.Revocation) + "." + Token(p.Point), nil
	case ChannelGuard:
		return subjectRoot + "guard." + tenant + "." + Token(e.Subject()), nil
	case ChannelTimer:
		p, err := As[TimerDue](e)
		if err != nil {
			return "", err
		}
		return subjectRoot + "timer.due." + tenant + "." + Token(p.Timer), nil
	}
	return "", fmt.Errorf("route event %s: channel %q has no subject", e.ID(), info.Channel)
}

// LogSubject is the subject of a lifecycle fact. Noun, verb or entity may be "*".
func LogSubject(tenant, noun, verb, entity string) string {
	if entity != "*" {
		entity = Token(entity)
	}
	return subjectRoot + "log." + tenant + "." + noun + "." + verb + "." + entity
}

// EntityFilter matches every lifecycle fact about one entity of one tenant. It is
// what an expected-last-sequence publish is conditioned on.
func EntityFilter(tenant, entity string) string {
	return LogSubject(tenant, "*", "*", entity)
}

// SubjectTenant is the tenant token of a subject that follows the grammar, "" otherwise.
func SubjectTenant(subject string) string {
	parts := strings.Split(subject, ".")
	if len(parts) < 4 || parts[0] != "nhi" {
		return ""
	}
	if parts[1] == "timer" {
		return parts[3]
	}
	return parts[2]
}
