package token

import (
	"encoding/base64"
	"fmt"
	"strings"
)

// strict decodes base64url without padding and refuses unused bits that are set
// (RFC 7515 section 2, RFC 4648 section 3.5). It still skips line ends, which
// Open refuses before.
var strict = base64.RawURLEncoding.Strict()

// Open checks the text of a compact JWS strictly (canonical base64url, header
// with exactly alg, kid and typ known to us, alg equal to the key's, typ as
// asked) and its signature, and returns the payload bytes (RFC 7515 section 5.2).
func Open(raw string, typ string, keys Keys) (payload []byte, kid string, err error) {
	p, err := split(raw)
	if err != nil {
		return nil, "", fmt.Errorf("open token: %w", err)
	}
	h, err := parseHeader(p.header)
	if err != nil {
		return nil, "", fmt.Errorf("open token: %w", err)
	}
	if h.typ != typ {
		return nil, "", fmt.Errorf("open token: %w: %q, want %q", ErrType, clip(h.typ), typ)
	}
	if h.alg != ES256 && h.alg != EdDSA { // "none" (RFC 7518 section 3.6) and HMAC among them
		return nil, "", fmt.Errorf("open token: %w: %q", ErrAlgorithm, clip(h.alg))
	}
	k, ok := keys.Key(h.kid)
	if !ok || k.ID != h.kid {
		return nil, "", fmt.Errorf("open token: %w: %q", ErrUnknownKey, clip(h.kid))
	}
	// The key decides the algorithm, never the token (RFC 8725 section 3.1).
	if k.Algorithm != h.alg {
		return nil, "", fmt.Errorf("open token: %w: %q, key %q is for %q", ErrAlgorithm, h.alg, clip(h.kid), k.Algorithm)
	}
	if !k.verify(p.signed, p.signature) {
		return nil, "", fmt.Errorf("open token: %w", ErrSignature)
	}
	return p.payload, h.kid, nil
}

type parts struct {
	signed                     string // ASCII(header "." payload), the signing input
	header, payload, signature []byte
}

// split takes the text apart and decodes its three parts.
func split(raw string) (parts, error) {
	var p parts
	if len(raw) > MaxSize {
		return p, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(raw))
	}
	i := strings.IndexByte(raw, '.')
	j := strings.LastIndexByte(raw, '.')
	if i < 0 || i == j || strings.IndexByte(raw[i+1:j], '.') >= 0 {
		return p, fmt.Errorf("%w: want three parts", ErrMalformed)
	}
	if strings.IndexByte(raw, '\n') >= 0 || strings.IndexByte(raw, '\r') >= 0 {
		return p, fmt.Errorf("%w: line end", ErrMalformed)
	}
	p.signed = raw[:j]
	buf := make([]byte, len(raw))
	for _, f := range []struct {
		out  *[]byte
		text string
		name string
	}{{&p.header, raw[:i], "header"}, {&p.payload, raw[i+1 : j], "payload"}, {&p.signature, raw[j+1:], "signature"}} {
		n, err := strict.Decode(buf, []byte(f.text))
		if err != nil || n == 0 {
			return parts{}, fmt.Errorf("%w: %s", ErrMalformed, f.name)
		}
		*f.out, buf = buf[:n:n], buf[n:]
	}
	return p, nil
}

// clip keeps what a stranger sent short in an error's text.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}
