package attest

import (
	"bytes"
	"compress/zlib"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	json "github.com/go-json-experiment/json"
)

// What a Token Status List says (draft-ietf-oauth-status-list-20, "Token Status List").
// An attestation that names one is worth what the list says of it now: a token that can
// be revoked is never accepted without looking.
const (
	statusValid = 0x00 // the only status that lets an attestation through

	maxStatusBytes = 8 << 20         // of an inflated list: 67 million statuses of one bit
	maxStatusLists = 64              // kept per issuer
	maxStatusAge   = 5 * time.Minute // a list is read again after this time, or its ttl if that is shorter
	minStatusAge   = 15 * time.Second
)

// statusList is a list that its issuer signed.
type statusList struct {
	bits    int // per status: 1, 2, 4 or 8
	packed  []byte
	ttl     time.Duration
	expires time.Time // zero: it does not say
}

// at is the status with index i: statuses lie in each byte from the least significant bit on.
func (l statusList) at(i uint64) (byte, bool) {
	per := uint64(8 / l.bits)
	if i/per >= uint64(len(l.packed)) {
		return 0, false
	}
	shift := i % per * uint64(l.bits)
	return l.packed[i/per] >> shift & byte(1<<l.bits-1), true
}

// packedList is the claim status_list of a Status List Token.
type packedList struct {
	Bits int    `json:"bits"`
	List string `json:"lst"` // base64url of zlib (RFC 1950) of the bytes
}

func (p packedList) unpack() (statusList, error) {
	switch p.Bits {
	case 1, 2, 4, 8:
	default:
		return statusList{}, fmt.Errorf("bits of %d: want 1, 2, 4 or 8", p.Bits)
	}
	b, err := strict.DecodeString(p.List)
	if err != nil {
		return statusList{}, errors.New("lst is not canonical base64url")
	}
	z, err := zlib.NewReader(bytes.NewReader(b))
	if err != nil {
		return statusList{}, fmt.Errorf("inflate lst: %w", err)
	}
	packed, err := io.ReadAll(io.LimitReader(z, maxStatusBytes+1))
	if err != nil {
		return statusList{}, fmt.Errorf("inflate lst: %w", err)
	}
	if len(packed) > maxStatusBytes {
		return statusList{}, fmt.Errorf("lst inflates to more than %d bytes", maxStatusBytes)
	}
	return statusList{bits: p.Bits, packed: packed}, nil
}

// statusClaim is the claim status of a token.
type statusClaim struct {
	List *struct {
		Index *uint64 `json:"idx"`
		URI   string  `json:"uri"`
	} `json:"status_list"`
}

// listToken are the claims of a Status List Token.
type listToken struct {
	Subject  string     `json:"sub"`
	IssuedAt *number    `json:"iat"`
	Expires  *number    `json:"exp"`
	TTL      *number    `json:"ttl"`
	List     packedList `json:"status_list"`
}

// openList verifies a Status List Token: signed by a key that find knows, about the URI
// it was read from, not expired.
func openList(raw, uri string, now time.Time, find func(kid, alg string) (any, error)) (statusList, error) {
	var none statusList
	parts := strings.Split(raw, ".")
	if len(parts) != 3 {
		return none, errors.New("not a compact JWS")
	}
	var h header
	var t listToken
	for i, to := range []any{&h, &t} {
		b, err := strict.DecodeString(parts[i])
		if err == nil {
			err = json.Unmarshal(b, to)
		}
		if err != nil {
			return none, fmt.Errorf("part %d cannot be read: %w", i+1, err)
		}
	}
	if strings.TrimPrefix(strings.ToLower(h.Type), "application/") != "statuslist+jwt" || h.Critical != nil {
		return none, errors.New("its typ is not statuslist+jwt, or it has critical headers")
	}
	key, err := find(h.KeyID, h.Algorithm)
	if err != nil {
		return none, err
	}
	if err := verifySignature(raw, algorithms, key); err != nil {
		return none, errors.New("its signature does not verify")
	}
	if t.Subject != uri || t.IssuedAt == nil || now.Add(leeway).Before(t.IssuedAt.time()) {
		return none, errors.New("it is about another URI, or does not say when it was issued, or lies in the future")
	}
	l, err := t.List.unpack()
	if err != nil {
		return none, err
	}
	l.ttl = maxStatusAge
	if t.TTL != nil {
		l.ttl = time.Duration(max(0, min(float64(*t.TTL), maxStatusAge.Seconds())) * float64(time.Second))
	}
	l.ttl = max(l.ttl, minStatusAge)
	if t.Expires != nil {
		l.expires = t.Expires.time()
	}
	if l.over(now) {
		return none, errors.New("it has expired")
	}
	return l, nil
}

func (l statusList) over(now time.Time) bool { return !l.expires.IsZero() && !now.Before(l.expires) }

// statusLists caches an issuer's lists by URI. The URIs come from tokens that the issuer
// signed; when there are too many, the one first seen is forgotten.
type statusLists struct {
	client *http.Client
	local  bool
	keys   *keySet
	config Config

	mu    sync.Mutex
	known map[string]*cached[statusList]
	order []string
}

// check looks up an attestation that has been verified. A token without the claim passes.
func (s *statusLists) check(ctx context.Context, c claims) error {
	if len(c.Status) == 0 {
		return nil
	}
	var claim statusClaim
	if err := json.Unmarshal(c.Status, &claim); err != nil || claim.List == nil || claim.List.Index == nil {
		return fmt.Errorf("%w: it names no status list that can be read", ErrStatus)
	}
	u, err := url.Parse(claim.List.URI)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && (!s.local || u.Scheme != "http") || s.client == nil {
		return fmt.Errorf("%w: its status list is not at an https URL", ErrStatus)
	}
	list, ok, err := s.list(claim.List.URI).get(ctx, func(l statusList) time.Duration { return l.ttl },
		func(l statusList) bool { return l.bits != 0 && !l.over(s.config.Now()) })
	if !ok {
		return fmt.Errorf("%w: its status list: %w", ErrUnavailable, err)
	}
	switch status, ok := list.at(*claim.List.Index); {
	case !ok:
		return fmt.Errorf("%w: its index is beyond the end of the status list", ErrStatus)
	case status != statusValid:
		return fmt.Errorf("%w: status %d", ErrStatus, status)
	}
	return nil
}

func (s *statusLists) list(uri string) *cached[statusList] {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.known[uri]; c != nil {
		return c
	}
	c := &cached[statusList]{name: uri, now: s.config.Now, log: s.config.Log, read: func(ctx context.Context, _ statusList) (statusList, error) {
		b, err := fetch(ctx, s.client, uri, "application/statuslist+jwt")
		if err != nil {
			return statusList{}, err
		}
		return openList(strings.TrimSpace(string(b)), uri, s.config.Now(), func(kid, alg string) (any, error) { return s.keys.find(ctx, kid, alg) })
	}}
	if s.known == nil {
		s.known = make(map[string]*cached[statusList])
	}
	s.known[uri] = c
	if s.order = append(s.order, uri); len(s.order) > maxStatusLists {
		delete(s.known, s.order[0])
		s.order = s.order[1:]
	}
	return c
}
