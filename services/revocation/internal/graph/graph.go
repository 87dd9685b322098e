// Package graph is the read model of what hangs from what: handle to live
// credentials, credential to its record, token hash to credential, handle to name.
// It is folded from the log into Redis and may be lost at any moment; nothing that
// enforces rests on it. Only revocation imports it.
//
// Counting the descendants of a handle must cost the same for one and for a
// million. So each handle has a hash of counters per tenant and second of expiry:
// the live ones at a time are the sum of the counters after it, at most one per
// tenant and second of the longest token life. The members are kept in sets per
// handle and minute of expiry, and dropped whole a while after the minute.
package graph

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/state"
)

// View is the name of the projection.
const View = "subtree"

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
}

// New makes a graph over the store's Redis.
func New(store *state.Store, log state.Log, names *lineage.Namer, now func() time.Time) *Graph {
	return &Graph{store: store, redis: store.Client(), log: log, names: names, now: now}
}

func key(parts ...string) string { return state.Prefix(View) + strings.Join(parts, ":") }

func countKey(handle string) string             { return key("n", handle) }
func memberKey(handle string, min int64) string { return key("m", handle, strconv.FormatInt(min, 10)) }
func recordKey(jti string) string               { return key("c", jti) }
func hashKey(sha string) string                 { return key("s", sha) }
func expiryKey(min int64) string                { return key("x", strconv.FormatInt(min, 10)) }
func minutesKey() string                        { return key("minutes") }
func namesKey() string                          { return key("names") }
func minute(t time.Time) int64                  { return t.Unix() / 60 }
func field(tenant string, exp time.Time) string {
	return tenant + ":" + strconv.FormatInt(exp.Unix(), 10)
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
	touched := make([]any, len(c.Lineage))
	for i, h := range c.Lineage {
		p.HIncrBy(ctx, countKey(h), f, 1)
		p.SAdd(ctx, memberKey(h, min), c.Credential)
		touched[i] = h
	}
	if len(touched) > 0 {
		p.SAdd(ctx, expiryKey(min), touched...)
	}
	p.SAdd(ctx, minutesKey(), min)
	p.Set(ctx, recordKey(c.Credential), string(b), 0)
	p.Set(ctx, hashKey(c.TokenSHA256), c.Credential, 0)
	g.name(ctx, p, c.Names...)
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
	return out, nil
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
		if jti, err := g.redis.Get(ctx, hashKey(id)).Result(); err == nil {
			id = jti
		} else if !errors.Is(err, state.ErrNoKey) {
			return r, fmt.Errorf("find token hash: %w", err)
		}
	}
	b, err := g.redis.Get(ctx, recordKey(id)).Bytes()
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
			more, err := g.visit(ctx, page, at, f)
			if err != nil || !more {
				return err
			}
		}
	}
	return nil
}

func (g *Graph) visit(ctx context.Context, ids []string, at time.Time, f func(Record) bool) (bool, error) {
	keys := make([]string, len(ids))
	for i, id := range ids {
		keys[i] = recordKey(id)
	}
	values, err := g.redis.MGet(ctx, keys...).Result()
	if err != nil {
		return false, fmt.Errorf("walk subtree: %w", err)
	}
	for _, v := range values {
		var r Record
		s, ok := v.(string)
		if !ok || json.Unmarshal([]byte(s), &r) != nil || !r.ExpiresAt.After(at) {
			continue
		}
		if !f(r) {
			return false, nil
		}
	}
	return true, nil
}
