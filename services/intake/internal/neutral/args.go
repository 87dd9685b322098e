package neutral

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"regexp"
	"slices"
	"strings"

	json "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Hasher makes keyed hashes, so that equal arguments can be seen to be equal and
// nobody can try values against what is stored.
type Hasher struct{ key []byte }

// NewHasher returns a Hasher for key, which must be secret.
func NewHasher(key []byte) Hasher { return Hasher{slices.Clone(key)} }

// Of is the first 96 bits of HMAC-SHA-256 over s, as "h:" and hex.
func (h Hasher) Of(s string) string {
	m := hmac.New(sha256.New, h.key)
	m.Write([]byte(s))
	return "h:" + hex.EncodeToString(m.Sum(nil)[:12])
}

// destinationArgs are the words of an argument's name that say where a call goes. It
// is a read-only table.
var destinationArgs = map[string]bool{
	"to": true, "cc": true, "bcc": true, "recipient": true, "recipients": true, "participants": true, "attendees": true, "invitees": true,
	"email": true, "emails": true, "user": true, "username": true, "users": true, "channel": true, "channels": true, "room": true,
	"url": true, "uri": true, "urls": true, "link": true, "href": true, "endpoint": true, "webhook": true, "host": true, "hostname": true,
	"domain": true, "server": true, "address": true, "iban": true, "account": true, "phone": true, "destination": true, "dest": true,
	"target": true, "path": true, "file": true, "filename": true, "directory": true, "folder": true, "bucket": true, "repo": true,
	"repository": true, "branch": true, "remote": true, "table": true, "database": true, "schema": true, "topic": true, "queue": true,
	"project": true, "tenant": true, "org": true, "organization": true, "device": true, "wallet": true, "payee": true, "beneficiary": true,
}

// secretArgs are the words of an argument's name whose value is never kept, not even
// as a destination. It is a read-only table.
var secretArgs = map[string]bool{
	"password": true, "passwd": true, "secret": true, "token": true, "key": true, "credential": true, "credentials": true, "apikey": true,
	"authorization": true, "cookie": true, "pin": true, "otp": true, "body": true, "content": true, "text": true, "message": true,
}

// Arguments is what is kept of a call's arguments.
type Arguments struct {
	Destinations []string // where the call goes, at most 64
	Object       string   // what it is about, such as "file_id=7"
	Hash         string   // keyed hash of them all
}

// Reduce keeps of a call's arguments, as JSON, where they go, what they are about and
// one keyed hash of them all; nothing else leaves this function. Destinations are the
// values of arguments whose names say so, and whatever has the shape of a mail address
// or a URL.
func (h Hasher) Reduce(raw []byte) Arguments {
	v := jsontext.Value(slices.Clone(raw))
	if len(raw) == 0 || len(raw) > MaxRecord {
		return Arguments{}
	}
	if err := v.Canonicalize(); err != nil { // RFC 8785
		return Arguments{Hash: h.Of(string(raw))}
	}
	var doc any
	if err := json.Unmarshal(v, &doc); err != nil {
		return Arguments{Hash: h.Of(string(raw))}
	}
	if s, ok := doc.(string); ok && strings.HasPrefix(strings.TrimSpace(s), "{") {
		return h.Reduce([]byte(s)) // JSON in a JSON string
	}
	w := walk{h: h, seen: map[string]bool{}}
	w.value("", doc, 0)
	return Arguments{Destinations: w.found, Object: w.object, Hash: h.Of(string(v))}
}

type walk struct {
	h      Hasher
	seen   map[string]bool
	found  []string
	object string
}

func (w *walk) value(name string, v any, depth int) {
	if depth > 16 || len(w.found) >= 64 {
		return
	}
	switch x := v.(type) {
	case map[string]any:
		names := make([]string, 0, len(x))
		for n := range x {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			w.value(n, x[n], depth+1)
		}
	case []any:
		for _, e := range x {
			w.value(name, e, depth+1)
		}
	case nil, bool:
	default:
		if object.MatchString(name) {
			if id := Text(x); w.object == "" && id != "" {
				w.object = name + "=" + w.h.open(id)
			}
			return
		}
		if d := w.h.Destination(name, Text(x)); d != "" && !w.seen[d] {
			w.seen[d] = true
			w.found = append(w.found, d)
		}
	}
}

var (
	object   = regexp.MustCompile(`(?i)^((file|email|mail|event|message|document|doc|issue|ticket|order|object|item|page|record)_?)?id$`)
	mail     = regexp.MustCompile(`^[^\s@<>"]{1,128}@[A-Za-z0-9.-]{1,253}$`)
	word     = regexp.MustCompile(`[A-Z]?[a-z0-9]+|[A-Z]+`)
	readable = regexp.MustCompile(`^[\pL\pN_./:@#+~\\ -]{1,256}$`)
	random   = regexp.MustCompile(`^[A-Za-z0-9_+=-]{20,}$`)
	known    = regexp.MustCompile(`(?i)(^|[^a-z])(sk|pk|rk|ghp|gho|ghs|ghu|github_pat|glpat|xox[abposr]|akia|asia|eyj|bearer|hvs)[-_a-z0-9]{8,}`)
)

// Destination is what of an argument says where a call goes, "" when nothing does.
// URLs lose user, query and fragment; what may be a secret is replaced by its hash.
func (h Hasher) Destination(name, value string) string {
	value = strings.TrimSpace(value)
	named := false
	for _, part := range word.FindAllString(name, -1) {
		part = strings.ToLower(part)
		if secretArgs[part] {
			return ""
		}
		named = named || destinationArgs[part]
	}
	switch {
	case value == "":
		return ""
	case mail.MatchString(value):
		return strings.ToLower(value)
	case strings.Contains(value, "://") && !strings.ContainsAny(value, " \n"):
		return h.url(value)
	case !named:
		return ""
	}
	return h.open(value)
}

// open is value, or its hash when it may be a secret.
func (h Hasher) open(value string) string {
	if !readable.MatchString(value) || random.MatchString(value) && hasDigit(value) && !iban.MatchString(value) || known.MatchString(value) {
		return h.Of(value)
	}
	return value
}

var iban = regexp.MustCompile(`^[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}$`)

func hasDigit(s string) bool { return strings.ContainsAny(s, "0123456789") }

// url keeps scheme, host and path. A part of the path that may be a secret, as in the
// URLs of webhooks, becomes its hash.
func (h Hasher) url(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" {
		return h.Of(s)
	}
	parts := strings.Split(u.Path, "/")
	for i, p := range parts {
		if random.MatchString(p) && hasDigit(p) || known.MatchString(p) {
			parts[i] = h.Of(p)
		}
	}
	return strings.ToLower(u.Scheme) + "://" + strings.ToLower(u.Host) + strings.Join(parts, "/")
}
