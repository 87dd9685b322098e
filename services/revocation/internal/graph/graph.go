// Package graph is the read model of what hangs from what: handle to live
// credentials, credential to its record, token hash to credential, handle to name.
// It is folded from the log into Redis and may be lost at any moment; nothing that
// enforces rests on it. Only revocation imports it.
//
// Counting the descendants of a handle must cost the same for one and for a
// million. So each handle has a hash of counters per tenant and second of expiry:
// the live ones at a time are the sum of the counters after it, at most one per
// tenant and second of the longest token life. The members are kept in sets per
// handle and minute of expiry, and dropped whole a while after the minute. What
// there is one of per credential lives in a fixed number of hashes: the embedded
// Redis visits every key now and then.
package graph

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/state"
)

// View is the name of the projection.
const View = "subtree/2"

// Lag is how far the graph may be behind the log for Near.
const Lag = 2 * time.Second

// buckets is the number of hashes that credentials are spread over.
const buckets = 256

// Grace is how long after its expiry a credential stays in the graph; after that
// only the log knows it.
const Grace = 10 * time.Minute

// ErrUnknown: the graph does not hold it.
var ErrUnknown = errors.New("not in the graph")

// Filters of the log that the graph is folded from.
var filters = []string{
	events.LogSubject("*", "credential", "issued", "*"),
	events.LogSubject("*", "delegation", "created", "*"),
	events.LogSubject("*", "identity", "registered", "*"),
	events.LogSubject("*", "trust", "declared", "*"),
}

// Record is a credential as the graph keeps it.
type Record struct {
	Tenant string `json:"tenant"`
	events.CredentialIssued
}

// Graph reads and folds the projection.
type Graph struct {
	store *state.Store
	redis state.Client
	log   state.Log
	names *lineage.Namer
	now   func() time.Time

	mu      sync.Mutex
	horizon []mark // the log's end as it was, oldest first
}

// mark is where the log ended at a time.
type mark struct {
	at       time.Time
	sequence uint64
}

// New makes a graph over the store's Redis.
func New(store *state.Store, log state.Log, names *lineage.Namer, now func() time.Time) *Graph {
	return &Graph{store: store, redis: store.Client(), log: log, names: names, now: now}
}

func key(parts ...string) string { return state.Prefix(View) + strings.Join(parts, ":") }

func countKey(handle string) string             { return key("n", handle) }
func memberKey(handle string, min int64) string { return key("m", handle, strconv.FormatInt(min, 10)) }
func recordKey(jti string) string               { return key("c", bucket(jti)) }
func hashKey(sha string) string                 { return key("s", bucket(sha)) }
func issuedKey(min int64) string                { return key("j", strconv.FormatInt(min, 10)) }
func expiryKey(min int64) string                { return key("x", strconv.FormatInt(min, 10)) }
func minutesKey() string                        { return key("minutes") }
func namesKey() string                          { return key("names") }
func minute(t time.Time) int64                  { return t.Unix() / 60 }
func field(tenant string, exp time.Time) string {
	return tenant + ":" + strconv.FormatInt(exp.Unix(), 10)
}

// bucket spreads ids over the hashes.
func bucket(id string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	return strconv.FormatUint(uint64(h.Sum32()%buckets), 36)
}

func unfield(f string) (tenant string, at int64) {
	tenant, s, _ := strings.Cut(f, ":")
	at, _ = strconv.ParseInt(s, 10, 64)
	return tenant, at
}

// Run keeps the projection up to date until ctx ends.
func (g *Graph) Run(ctx context.Context) error {
	return g.store.Follow(ctx, g.log, state.View{Name: View, Stream: bus.StreamLog, Filters: filters, Apply: g.apply})
}

// Watch notes where the log ends, for Near. It is to be called about once a second.
func (g *Graph) Watch(ctx context.Context) error {
	last, err := g.log.LastSequence(ctx, bus.StreamLog, ">")
	if err != nil {
		return fmt.Errorf("find end of log: %w", err)
	}
	now := g.now()
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.horizon) > 1 && now.Sub(g.horizon[1].at) >= Lag {
		g.horizon = g.horizon[1:]
	}
	g.horizon = append(g.horizon, mark{now, last})
	return nil
}

// Near reports whether the projection holds what the log held Lag ago. Unlike
// Settle it costs the same however many identities there are. A projection that was
// flushed is not near until it is folded again.
func (g *Graph) Near(ctx context.Context) bool {
	now := g.now()
	g.mu.Lock()
	known := len(g.horizon) > 0 && now.Sub(g.horizon[0].at) >= Lag
	var then uint64
	for _, m := range g.horizon {
		if now.Sub(m.at) >= Lag {
			then = m.sequence
		}
	}
	g.mu.Unlock()
	if !known {
		return false
	}
	at, _, err := g.store.Position(ctx, View)
	return err == nil && at >= then
}

// apply queues the writes of one event.
func (g *Graph) apply(p state.Pipe, s bus.Stored) {
	ctx, tenant := context.Background(), events.Tenant(s.Event)
	switch s.Event.Type() {
	case events.TypeCredentialIssued:
		if c, err := events.As[events.CredentialIssued](s.Event); err == nil {
			g.issued(ctx, p, tenant, c)
		}
	case events.TypeDelegationCreated:
		if d, err := events.As[events.DelegationCreated](s.Event); err == nil && g.now().Before(d.ExpiresAt.Add(Grace)) {
			g.name(ctx, p, events.Named{Handle: d.Handle, Kind: string(lineage.KindDelegation), Tenant: tenant, ID: d.Delegation})
			p.SAdd(ctx, expiryKey(minute(d.ExpiresAt)), d.Handle)
			p.SAdd(ctx, minutesKey(), minute(d.ExpiresAt))
		}
	case events.TypeIdentityRegistered:
		if r, err := events.As[events.IdentityRegistered](s.Event); err == nil {
			named := []events.Named{g.of(lineage.KindTenant, tenant, tenant), g.of(lineage.KindOwner, tenant, r.Owner),
				g.of(lineage.KindFeature, tenant, r.Feature), g.of(lineage.KindIdentity, tenant, r.Identity)}
			for _, a := range r.Attestation {
				named = append(named, g.of(lineage.KindDomain, "", a.Issuer))
			}
			g.name(ctx, p, named...)
		}
	case events.TypeTrustDeclared:
		if t, err := events.As[events.TrustDeclared](s.Event); err == nil {
			g.name(ctx, p, g.of(lineage.KindTrust, tenant, t.Trust))
		}
	}
}

func (g *Graph) of(kind lineage.Kind, tenant, id string) events.Named {
	return events.Named{Handle: g.names.Name(kind, tenant, id).String(), Kind: string(kind), Tenant: tenant, ID: id}
}

// name queues the names of handles in one write.
func (g *Graph) name(ctx context.Context, p state.Pipe, named ...events.Named) {
	values := make([]any, 0, 2*len(named))
	for _, n := range named {
		if b, err := json.Marshal(n); err == nil {
			values = append(values, n.Handle, string(b))
		}
	}
	if len(values) > 0 {
		p.HSet(ctx, namesKey(), values...)
	}
}

func (g *Graph) issued(ctx context.Context, p state.Pipe, tenant string, c events.CredentialIssued) {
	if !g.now().Before(c.ExpiresAt.Add(Grace)) {
		g.name(ctx, p, slices.DeleteFunc(slices.Clone(c.Names), passing)...)
		return
	}
	b, err := json.Marshal(Record{tenant, c})
	if err != nil {
		return
	}
	min, f := minute(c.ExpiresAt), field(tenant, c.ExpiresAt)
	own := g.of(lineage.KindCredential, tenant, c.Credential)
	touched := make([]any, 0, len(c.Lineage))
	for _, h := range c.Lineage {
		if h == own.Handle {
			continue // counted from its record; most have nothing below them
		}
		p.HIncrBy(ctx, countKey(h), f, 1)
		p.SAdd(ctx, memberKey(h, min), c.Credential)
		touched = append(touched, h)
	}
	if len(touched) > 0 {
		p.SAdd(ctx, expiryKey(min), touched...)
	}
	p.SAdd(ctx, minutesKey(), min)
	p.SAdd(ctx, issuedKey(min), c.Credential)
	p.HSet(ctx, recordKey(c.Credential), c.Credential, string(b))
	p.HSet(ctx, hashKey(c.TokenSHA256), c.TokenSHA256, c.Credential)
	g.name(ctx, p, append(slices.Clone(c.Names), own)...)
}

// passing reports whether n names something that ends with its credentials.
func passing(n events.Named) bool {
	switch lineage.Kind(n.Kind) {
	case lineage.KindTask, lineage.KindCredential, lineage.KindDelegation:
		return true
	}
	return false
}

// Settle waits until the projection holds everything that is on the log now.
func (g *Graph) Settle(ctx context.Context) error {
	last, err := g.log.LastSequence(ctx, bus.StreamLog, filters[0])
	if err != nil {
		return fmt.Errorf("find last credential: %w", err)
	}
	if last == 0 {
		return nil
	}
	if err := g.store.Wait(ctx, View, last); err != nil {
		return fmt.Errorf("wait for graph: %w", err)
	}
	return nil
}

// Count is the number of credentials under handle that expire after at, per
// tenant. It costs the same however many there are.
func (g *Graph) Count(ctx context.Context, handle string, at time.Time) (map[string]int64, error) {
	all, err := g.redis.HGetAll(ctx, countKey(handle)).Result()
	if err != nil {
		return nil, fmt.Errorf("count descendants: %w", err)
	}
	out := map[string]int64{}
	for f, v := range all {
		tenant, exp := unfield(f)
		if n, err := strconv.ParseInt(v, 10, 64); err == nil && exp > at.Unix() {
			out[tenant] += n
		}
	}
	own, err := g.itself(ctx, handle, at)
	if err != nil {
		return nil, fmt.Errorf("count descendants: %w", err)
	}
	if own != nil {
		out[own.Tenant]++
	}
	return out, nil
}

// itself is the credential that handle names, when it names one that expires after at.
func (g *Graph) itself(ctx context.Context, handle string, at time.Time) (*Record, error) {
	named, err := g.Names(ctx, handle)
	if err != nil || named[handle].Kind != string(lineage.KindCredential) {
		return nil, err
	}
	r, err := g.Credential(ctx, named[handle].ID)
	if errors.Is(err, ErrUnknown) || err == nil && r.ExpiresAt.Unix() <= at.Unix() {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// Sum is the total and the sorted tenants of a count.
func Sum(count map[string]int64) (n int64, tenants []string) {
	for _, v := range count {
		n += v
	}
	return n, slices.Sorted(maps.Keys(count))
}

// Names finds the names of handles; those not known are left out.
func (g *Graph) Names(ctx context.Context, handles ...string) (map[string]events.Named, error) {
	out := map[string]events.Named{}
	if len(handles) == 0 {
		return out, nil
	}
	values, err := g.redis.HMGet(ctx, namesKey(), handles...).Result()
	if err != nil {
		return nil, fmt.Errorf("find names: %w", err)
	}
	for i, v := range values {
		var n events.Named
		if s, ok := v.(string); ok && json.Unmarshal([]byte(s), &n) == nil {
			out[handles[i]] = n
		}
	}
	return out, nil
}

// Credential finds a credential by its jti or by the SHA-256 of its token in hex.
// The error wraps ErrUnknown when it is not held.
func (g *Graph) Credential(ctx context.Context, id string) (Record, error) {
	var r Record
	if len(id) == 64 {
		if jti, err := g.redis.HGet(ctx, hashKey(id), id).Result(); err == nil {
			id = jti
		} else if !errors.Is(err, state.ErrNoKey) {
			return r, fmt.Errorf("find token hash: %w", err)
		}
	}
	b, err := g.redis.HGet(ctx, recordKey(id), id).Bytes()
	if errors.Is(err, state.ErrNoKey) {
		return r, fmt.Errorf("find credential: %w", ErrUnknown)
	}
	if err != nil {
		return r, fmt.Errorf("find credential: %w", err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("read credential: %w", err)
	}
	return r, nil
}

// Walk calls f for the credentials under handle that expire after at, a minute of
// expiry at a time, until f returns false.
func (g *Graph) Walk(ctx context.Context, handle string, at time.Time, f func(Record) bool) error {
	own, err := g.itself(ctx, handle, at)
	if err != nil {
		return fmt.Errorf("walk subtree: %w", err)
	}
	if own != nil && !f(*own) {
		return nil
	}
	minutes, err := g.redis.SMembers(ctx, minutesKey()).Result()
	if err != nil {
		return fmt.Errorf("walk subtree: %w", err)
	}
	slices.Sort(minutes)
	for _, m := range minutes {
		min, err := strconv.ParseInt(m, 10, 64)
		if err != nil || min < minute(at) {
			continue
		}
		ids, err := g.redis.SMembers(ctx, memberKey(handle, min)).Result()
		if err != nil {
			return fmt.Errorf("walk subtree: %w", err)
		}
		slices.Sort(ids)
		for page := range slices.Chunk(ids, 500) {
			records, err := g.records(ctx, page)
			if err != nil {
				return fmt.Errorf("walk subtree: %w", err)
			}
			for _, r := range records {
				if r.ExpiresAt.After(at) && !f(r) {
					return nil
				}
			}
		}
	}
	return nil
}

// records are those of ids that are held.
func (g *Graph) records(ctx context.Context, ids []string) ([]Record, error) {
	cmds := make([]interface{ Bytes() ([]byte, error) }, len(ids))
	_, err := g.redis.Pipelined(ctx, func(p state.Pipe) error {
		for i, id := range ids {
			cmds[i] = p.HGet(ctx, recordKey(id), id)
		}
		return nil
	})
	if err != nil && !errors.Is(err, state.ErrNoKey) {
		return nil, err
	}
	var out []Record
	for _, c := range cmds {
		var r Record
		if b, err := c.Bytes(); err == nil && json.Unmarshal(b, &r) == nil {
			out = append(out, r)
		}
	}
	return out, nil
}
