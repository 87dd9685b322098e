// Package secrets is the read model of managed secrets: which hang from a handle, in
// which downstream, and what became of each under a revocation. It is folded from the
// log into Redis and may be lost at any moment. Only revocation imports it.
//
// The secrets under a handle are kept in 64 sets per downstream, by the first
// character of their own handle, so that a million of them are walked a set at a time,
// in order. The fold also sees revocations: whether a secret came before or after one
// is decided by the order of the log alone.
package secrets

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

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/state"
)

// View is the name of the projection.
const View = "secrets/1"

// Slices is how many parts the secrets under a handle are walked in.
const Slices = 64

// alphabet is base64url in order of its bytes: the first character of a handle names
// its slice, so that slices in order are handles in order.
const alphabet = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"

// filters of the log that the index is folded from.
var filters = []string{
	events.LogSubject("*", "secret", "tracked", "*"),
	events.LogSubject("*", "secret", "untracked", "*"),
	events.LogSubject("*", "revocation", "accepted", "*"),
	events.LogSubject("*", "revocation", "enforced", "*"),
	events.LogSubject("*", "revocation", "stuck", "*"),
}

// Record is a secret as the index keeps it.
type Record struct {
	Tenant string `json:"tenant"`
	events.SecretTracked
}

// Index reads and folds the projection.
type Index struct {
	store *state.Store
	redis state.Client
	log   state.Log
}

// New makes an index over the store's Redis.
func New(store *state.Store, log state.Log) *Index {
	return &Index{store: store, redis: store.Client(), log: log}
}

func key(parts ...string) string { return state.Prefix(View) + strings.Join(parts, ":") }

func recordKey(handle string) string      { return key("r", bucket(handle)) }
func countKey(handle string) string       { return key("n", handle) }
func doneKey(revocation string) string    { return key("d", revocation) }
func stuckKey(revocation string) string   { return key("s", revocation) }
func accountKey(downstream string) string { return key("a", downstream) }
func cursorKey(revocation string) string  { return key("c", revocation) }
func deadKey() string                     { return key("dead") }
func freshKey() string                    { return key("fresh") }
func memberKey(handle, downstream string, slice int) string {
	return key("m", handle, downstream, alphabet[slice:slice+1])
}

// bucket spreads records over 256 hashes: the embedded Redis visits every key now and
// then.
func bucket(id string) string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id)) // never fails
	return strconv.FormatUint(uint64(h.Sum32()%256), 36)
}

// Run keeps the projection up to date until ctx ends.
func (x *Index) Run(ctx context.Context) error {
	return x.store.Follow(ctx, x.log, state.View{Name: View, Stream: bus.StreamLog, Filters: filters, Apply: apply})
}

// Any reports whether a secret was ever tracked.
func (x *Index) Any(ctx context.Context) (bool, error) {
	n, err := x.log.LastSequence(ctx, bus.StreamLog, filters[0])
	if err != nil {
		return false, fmt.Errorf("look for secrets: %w", err)
	}
	return n > 0, nil
}

// Settle waits until the projection holds everything that is on the log now.
func (x *Index) Settle(ctx context.Context) error {
	var last uint64
	for _, f := range filters {
		n, err := x.log.LastSequence(ctx, bus.StreamLog, f)
		if err != nil {
			return fmt.Errorf("find end of log: %w", err)
		}
		last = max(last, n)
	}
	if last == 0 {
		return nil
	}
	if err := x.store.Wait(ctx, View, last); err != nil {
		return fmt.Errorf("wait for index of secrets: %w", err)
	}
	return nil
}

// apply queues the writes of one event.
func apply(p state.Pipe, s bus.Stored) {
	ctx := context.Background()
	switch s.Event.Type() {
	case events.TypeSecretTracked:
		if t, err := events.As[events.SecretTracked](s.Event); err == nil {
			tracked(ctx, p, Record{events.Tenant(s.Event), t})
		}
	case events.TypeSecretUntracked:
		if u, err := events.As[events.SecretUntracked](s.Event); err == nil {
			untracked(ctx, p, u)
		}
	case events.TypeRevocationAccepted:
		if a, err := events.As[events.RevocationAccepted](s.Event); err == nil && a.Mode == events.ModeRevoke {
			p.HSetNX(ctx, deadKey(), a.Handle, a.Revocation)
		}
	case events.TypeRevocationEnforced:
		if e, err := events.As[events.RevocationEnforced](s.Event); err == nil && e.Secret != "" {
			put(ctx, p, doneKey(e.Revocation), e.Secret, e)
			p.HDel(ctx, stuckKey(e.Revocation), e.Secret)
		}
	case events.TypeRevocationStuck:
		if k, err := events.As[events.RevocationStuck](s.Event); err == nil && k.Secret != "" {
			put(ctx, p, stuckKey(k.Revocation), k.Secret, k)
		}
	}
}

func put(ctx context.Context, p state.Pipe, key, field string, value any) {
	if b, err := json.Marshal(value); err == nil {
		p.HSet(ctx, key, field, string(b))
	}
}

// sliceOf is the slice of a secret by its handle.
func sliceOf(handle string) int {
	if handle == "" {
		return 0
	}
	return max(0, strings.IndexByte(alphabet, handle[0]))
}

func tracked(ctx context.Context, p state.Pipe, r Record) {
	put(ctx, p, recordKey(r.Handle), r.Handle, r)
	for _, h := range above(r.Lineage, r.Handle) {
		p.SAdd(ctx, memberKey(h, r.Downstream, sliceOf(r.Handle)), r.Handle)
		p.HIncrBy(ctx, countKey(h), r.Downstream, 1)
	}
	p.HSet(ctx, accountKey(r.Downstream), r.Account, r.Handle)
	p.SAdd(ctx, freshKey(), r.Handle)
}

func untracked(ctx context.Context, p state.Pipe, u events.SecretUntracked) {
	for _, h := range above(u.Lineage, u.Handle) {
		p.SRem(ctx, memberKey(h, u.Downstream, sliceOf(u.Handle)), u.Handle)
		p.HIncrBy(ctx, countKey(h), u.Downstream, -1)
	}
	p.HDel(ctx, recordKey(u.Handle), u.Handle)
	p.SRem(ctx, freshKey(), u.Handle)
}

// above is a lineage without repeats and without the secret's own handle, which is
// found from its record.
func above(lineage []string, own string) []string {
	var out []string
	for _, h := range lineage {
		if h != own && !slices.Contains(out, h) {
			out = append(out, h)
		}
	}
	return out
}

// CountByDownstream is the number of secrets under a handle, its own included, by
// downstream. It costs the same however many there are.
func (x *Index) CountByDownstream(ctx context.Context, handle string) (map[string]int64, error) {
	all, err := x.redis.HGetAll(ctx, countKey(handle)).Result()
	if err != nil {
		return nil, fmt.Errorf("count secrets: %w", err)
	}
	out := map[string]int64{}
	for name, v := range all {
		if n, err := strconv.ParseInt(v, 10, 64); err == nil && n > 0 {
			out[name] = n
		}
	}
	own, err := x.Records(ctx, handle)
	if err != nil {
		return nil, err
	}
	for _, r := range own {
		out[r.Downstream]++
	}
	return out, nil
}

// Downstreams are those that have secrets under a handle, in the order of the points'
// names, "<downstream>/<handle>".
func (x *Index) Downstreams(ctx context.Context, handle string) ([]string, error) {
	count, err := x.CountByDownstream(ctx, handle)
	if err != nil {
		return nil, err
	}
	return slices.SortedFunc(maps.Keys(count), func(a, b string) int { return strings.Compare(a+"/", b+"/") }), nil
}

// Slice is the secrets of one slice under a handle in a downstream, in order of their
// handles. Those that are gone meanwhile are left out.
func (x *Index) Slice(ctx context.Context, handle, downstream string, slice int) ([]Record, error) {
	ids, err := x.redis.SMembers(ctx, memberKey(handle, downstream, slice)).Result()
	if err != nil {
		return nil, fmt.Errorf("walk secrets: %w", err)
	}
	own, err := x.Records(ctx, handle)
	if err != nil {
		return nil, err
	}
	for _, r := range own {
		if r.Downstream == downstream && sliceOf(handle) == slice && !slices.Contains(ids, handle) {
			ids = append(ids, handle)
		}
	}
	slices.Sort(ids)
	return x.Records(ctx, ids...)
}

// Walk calls f with the secrets under a handle, a slice at a time, in the order of
// their points' names, until f returns an error.
func (x *Index) Walk(ctx context.Context, handle string, f func([]Record) error) error {
	names, err := x.Downstreams(ctx, handle)
	if err != nil {
		return err
	}
	for _, name := range names {
		for i := range Slices {
			page, err := x.Slice(ctx, handle, name, i)
			if err == nil && len(page) > 0 {
				err = f(page)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Records are those of handles that are held, in that order.
func (x *Index) Records(ctx context.Context, handles ...string) ([]Record, error) {
	var out []Record
	for page := range slices.Chunk(handles, 500) {
		cmds := make([]interface{ Bytes() ([]byte, error) }, len(page))
		_, err := x.redis.Pipelined(ctx, func(p state.Pipe) error {
			for i, h := range page {
				cmds[i] = p.HGet(ctx, recordKey(h), h)
			}
			return nil
		})
		if err != nil && !errors.Is(err, state.ErrNoKey) {
			return nil, fmt.Errorf("read secrets: %w", err)
		}
		for _, c := range cmds {
			var r Record
			if b, err := c.Bytes(); err == nil && json.Unmarshal(b, &r) == nil {
				out = append(out, r)
			}
		}
	}
	return out, nil
}

// Done is what is on the log of these secrets under a revocation.
func (x *Index) Done(ctx context.Context, revocation string, handles ...string) (map[string]events.RevocationEnforced, error) {
	out := map[string]events.RevocationEnforced{}
	for page := range slices.Chunk(handles, 500) {
		values, err := x.redis.HMGet(ctx, doneKey(revocation), page...).Result()
		if err != nil {
			return nil, fmt.Errorf("read receipts: %w", err)
		}
		for i, v := range values {
			var e events.RevocationEnforced
			if s, ok := v.(string); ok && json.Unmarshal([]byte(s), &e) == nil {
				out[page[i]] = e
			}
		}
	}
	return out, nil
}

// Receipts are all that is on the log of secrets under a revocation, by point, also of
// those that are no longer tracked.
func (x *Index) Receipts(ctx context.Context, revocation string) (map[string]events.RevocationEnforced, error) {
	out := map[string]events.RevocationEnforced{}
	for cursor := uint64(0); ; {
		fields, next, err := x.redis.HScan(ctx, doneKey(revocation), cursor, "", 1000).Result()
		if err != nil {
			return nil, fmt.Errorf("read receipts: %w", err)
		}
		for i := 1; i < len(fields); i += 2 {
			var e events.RevocationEnforced
			if json.Unmarshal([]byte(fields[i]), &e) == nil {
				out[e.Point] = e
			}
		}
		if cursor = next; cursor == 0 {
			return out, nil
		}
	}
}

// Stuck is what the log says cannot be ended under a revocation, by handle, at most
// the first 1000 or so.
func (x *Index) Stuck(ctx context.Context, revocation string) (map[string]events.RevocationStuck, error) {
	fields, _, err := x.redis.HScan(ctx, stuckKey(revocation), 0, "", 1000).Result()
	if err != nil {
		return nil, fmt.Errorf("read what is stuck: %w", err)
	}
	out := map[string]events.RevocationStuck{}
	for i := 0; i+1 < len(fields); i += 2 {
		var k events.RevocationStuck
		if json.Unmarshal([]byte(fields[i+1]), &k) == nil {
			out[fields[i]] = k
		}
	}
	return out, nil
}

// IsStuck reports whether the log says that a secret cannot be ended.
func (x *Index) IsStuck(ctx context.Context, revocation, handle string) (bool, error) {
	found, err := x.redis.HExists(ctx, stuckKey(revocation), handle).Result()
	if err != nil {
		return false, fmt.Errorf("read what is stuck: %w", err)
	}
	return found, nil
}

// Dead is the revocation that ended each of these handles for good.
func (x *Index) Dead(ctx context.Context, handles ...string) (map[string]string, error) {
	out := map[string]string{}
	if len(handles) == 0 {
		return out, nil
	}
	values, err := x.redis.HMGet(ctx, deadKey(), handles...).Result()
	if err != nil {
		return nil, fmt.Errorf("look for dead handles: %w", err)
	}
	for i, v := range values {
		if s, ok := v.(string); ok {
			out[handles[i]] = s
		}
	}
	return out, nil
}

// Fresh are up to n secrets whose lineage was not compared with dead handles since
// they were folded. Which of them is random.
func (x *Index) Fresh(ctx context.Context, n int64) ([]string, error) {
	ids, err := x.redis.SRandMemberN(ctx, freshKey(), n).Result()
	if err != nil {
		return nil, fmt.Errorf("look for fresh secrets: %w", err)
	}
	return ids, nil
}

// Compared takes secrets from the fresh ones.
func (x *Index) Compared(ctx context.Context, handles ...string) error {
	for _, h := range handles {
		if err := x.redis.SRem(ctx, freshKey(), h).Err(); err != nil {
			return fmt.Errorf("note secret as compared: %w", err)
		}
	}
	return nil
}

// Holder is the secret that was last placed for an account of a downstream, "" when
// there was none.
func (x *Index) Holder(ctx context.Context, downstream, account string) (string, error) {
	h, err := x.redis.HGet(ctx, accountKey(downstream), account).Result()
	if errors.Is(err, state.ErrNoKey) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("look for account: %w", err)
	}
	return h, nil
}

// Checkpoint is the first slice of a downstream that is not known to be done under a
// revocation. It is a help only: what it says less than the truth is done again.
func (x *Index) Checkpoint(ctx context.Context, revocation, downstream string) (int, error) {
	n, err := x.redis.HGet(ctx, cursorKey(revocation), downstream).Int()
	if errors.Is(err, state.ErrNoKey) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read checkpoint: %w", err)
	}
	return n, nil
}

// SetCheckpoint moves it.
func (x *Index) SetCheckpoint(ctx context.Context, revocation, downstream string, slice int) error {
	if err := x.redis.HSet(ctx, cursorKey(revocation), downstream, slice).Err(); err != nil {
		return fmt.Errorf("write checkpoint: %w", err)
	}
	return nil
}
