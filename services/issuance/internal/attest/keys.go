package attest

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	json "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	refreshAfter = 5 * time.Minute // a key that left the set is noticed within this time
	staleAfter   = time.Hour       // keys are used this long while the issuer does not answer
	retryAfter   = 5 * time.Second // between two reads because of unknown keys or failures
	maxKeySet    = 1 << 20         // bytes
	maxKeys      = 100
	minRSABits   = 2048
	fetchTimeout = 5 * time.Second
)

// source is where a JWK Set or a SPIFFE bundle is.
type source struct {
	read    func(ctx context.Context) ([]byte, error)
	changed func() bool // nil: only reading tells
}

// newSource reads from a file or an endpoint; local ones may be http on loopback.
func newSource(target string, local bool, clients Clients) (source, error) {
	var none source
	u, err := url.Parse(target)
	if err != nil {
		return none, fmt.Errorf("parse URL of keys: %w", err)
	}
	switch {
	case u.User != nil:
	case u.Scheme == "file" && u.Host == "" && u.Path != "":
		w := &watched{path: u.Path}
		return source{w.read, w.changed}, nil
	case u.Scheme == "https" && u.Host != "", u.Scheme == "http" && u.Host != "" && local:
		client := clients.Outbound
		if local {
			client = clients.Local
		}
		if client == nil {
			return none, errors.New("no HTTP client to read keys with")
		}
		return source{read: func(ctx context.Context) ([]byte, error) {
			return fetch(ctx, client, target, "application/jwk-set+json, application/json")
		}}, nil
	}
	return none, errors.New("keys must be at an https URL without user, in a file:///path, or at http on loopback when local")
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f)
}

func fetch(ctx context.Context, client *http.Client, target, accept string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", accept)
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	return readAll(resp.Body)
}

func readAll(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxKeySet+1))
	if err == nil && len(b) > maxKeySet {
		err = fmt.Errorf("key set larger than %d bytes", maxKeySet)
	}
	return b, err
}

// LoopbackClient reaches loopback addresses only, follows no redirect and uses no
// proxy. It is for issuers that run beside the service in development.
func LoopbackClient() *http.Client {
	dialer := &net.Dialer{Timeout: fetchTimeout}
	return &http.Client{
		Timeout: fetchTimeout,
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 1,
			IdleConnTimeout:     time.Minute,
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				host, port, err := net.SplitHostPort(addr)
				if err != nil {
					return nil, err
				}
				if host == "localhost" {
					host = "127.0.0.1"
				}
				if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
					return nil, fmt.Errorf("dial %s: a local issuer must be on loopback", host)
				}
				return dialer.DialContext(ctx, network, net.JoinHostPort(host, port))
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

type key struct {
	id, alg string
	public  any
}

// keySet caches one issuer's keys.
type keySet struct{ cached[[]key] }

func newKeySet(src source, name string, c Config) *keySet {
	return &keySet{cached[[]key]{name: name, changed: src.changed, now: c.Now, log: c.Log, read: func(ctx context.Context, _ []key) ([]key, error) {
		b, err := src.read(ctx)
		if err != nil {
			return nil, err
		}
		return parseKeySet(b)
	}}}
}

// find is the key with that id and algorithm. Without a kid the set must hold
// exactly one key for the algorithm.
func (s *keySet) find(ctx context.Context, kid, alg string) (any, error) {
	var found any
	_, ok, err := s.get(ctx, func([]key) time.Duration { return refreshAfter }, func(keys []key) bool {
		found = pick(keys, kid, func(k key) bool { return k.alg == alg })
		return found != nil
	})
	switch {
	case ok:
		return found, nil
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return nil, ErrUnknownKey
}

// pick is the only key with that id, or with any id when kid is empty, that fits; nil
// when there is none or more than one.
func pick(keys []key, kid string, fits func(key) bool) (found any) {
	n := 0
	for _, k := range keys {
		if (kid == "" || k.id == kid) && fits(k) {
			found = k.public
			n++
		}
	}
	if n != 1 {
		return nil
	}
	return found
}

// parseKeySet reads the verification keys of a JWK Set (RFC 7517 section 5). Keys
// for other uses and of other kinds are passed over, as the RFC asks; a private
// key, a doubled kid or a weak key fails the set.
func parseKeySet(b []byte) ([]key, error) {
	var set struct {
		Keys []jsontext.Value `json:"keys"`
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, fmt.Errorf("parse key set: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("parse key set: more than %d keys", maxKeys)
	}
	var keys []key
	seen := map[string]bool{}
	for _, raw := range set.Keys {
		k, ok, err := parseKey(raw)
		if err != nil {
			return nil, fmt.Errorf("parse key set: %w", err)
		}
		if !ok {
			continue
		}
		if seen[k.id] {
			return nil, fmt.Errorf("parse key set: kid %q appears twice", k.id)
		}
		seen[k.id] = true
		keys = append(keys, k)
	}
	return keys, nil
}

func parseKey(raw jsontext.Value) (k key, ok bool, err error) {
	var meta struct {
		KeyType   string         `json:"kty"`
		Use       string         `json:"use"`
		KeyOps    []string       `json:"key_ops"`
		Algorithm string         `json:"alg"`
		Private   jsontext.Value `json:"d"`
		Secret    jsontext.Value `json:"k"`
	}
	if err := json.Unmarshal(raw, &meta); err != nil {
		return key{}, false, err
	}
	if meta.Private != nil || meta.Secret != nil {
		return key{}, false, errors.New("it holds a private or symmetric key: publish public keys only, and replace this one")
	}
	if meta.Use != "" && meta.Use != "sig" || len(meta.KeyOps) > 0 && !strings.Contains(strings.Join(meta.KeyOps, " "), "verify") {
		return key{}, false, nil
	}
	var j jose.JSONWebKey
	if err := j.UnmarshalJSON(raw); err != nil {
		return key{}, false, nil // a kind of key we do not know
	}
	k = key{id: j.KeyID, public: j.Key}
	switch p := j.Key.(type) {
	case *rsa.PublicKey:
		if p.N.BitLen() < minRSABits {
			return key{}, false, fmt.Errorf("RSA key %q has fewer than %d bits", j.KeyID, minRSABits)
		}
		k.alg = string(jose.RS256)
	case *ecdsa.PublicKey:
		if p.Curve != elliptic.P256() {
			return key{}, false, nil
		}
		k.alg = string(jose.ES256)
	case ed25519.PublicKey:
		k.alg = string(jose.EdDSA)
	default:
		return key{}, false, nil
	}
	return k, meta.Algorithm == "" || meta.Algorithm == k.alg, nil
}
