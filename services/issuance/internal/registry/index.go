package registry

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/state"
)

// ViewName is the name of the index among the views.
const ViewName = "inventory"

// Ref names an identity.
type Ref struct {
	Tenant   string `json:"tenant"`
	Identity string `json:"identity"`
}

// Store is what the index needs of the state.
type Store interface {
	Client() state.Client
	Wait(ctx context.Context, view string, sequence uint64) error
}

// End tells where the log ends.
type End interface {
	LastSequence(ctx context.Context, stream, filter string) (uint64, error)
}

// Index finds identities by tenant, owner, feature, attestation and handle. It may be
// behind and may name an identity too many (one that moved on); whoever decides
// checks against the fold. A miss counts only once the index has caught up.
type Index struct {
	store Store
	log   End
	namer *lineage.Namer
	now   func() time.Time

	mu    sync.RWMutex
	bound map[[32]byte]cached // positive answers of Bound
}

type cached struct {
	refs  []Ref
	until time.Time
}

// OwnKeys is, for Bound, the issuer of identities that sign their own assertions; their
// id is the subject. It is no URI, so no attestation can name it.
const OwnKeys = "own keys"

const (
	boundTTL  = 2 * time.Second
	boundMax  = 1 << 15
	boundWait = 3 * time.Second // for Redis, and for the index to catch up
)

// NewIndex makes an index; its View must be followed.
func NewIndex(store Store, log End, namer *lineage.Namer, now func() time.Time) *Index {
	return &Index{store: store, log: log, namer: namer, now: now, bound: map[[32]byte]cached{}}
}

var indexed = []string{"registered", "frozen", "reinstated", "revoked", "retired"}

// View is the projection that keeps the index.
func (x *Index) View() state.View {
	v := state.View{Name: ViewName, Stream: bus.StreamLog, Apply: x.apply}
	for _, verb := range indexed {
		v.Filters = append(v.Filters, events.LogSubject("*", "identity", verb, "*"))
	}
	return v
}

func key(parts ...string) string { return state.Prefix(ViewName) + strings.Join(parts, ":") }

func tenantKey(tenant, what string) string    { return key("{"+tenant+"}", what) }
func groupKey(tenant, kind, id string) string { return key("{"+tenant+"}", kind, id) }
func bindingKey(sum [32]byte) string          { return key("binding", hex.EncodeToString(sum[:])) }
func handleKey(h lineage.Handle) string       { return key("handle", h.String()) }
func bindingSum(issuer, subject string) [32]byte {
	return sha256.Sum256([]byte(issuer + "\x00" + subject))
}

// apply writes only; it never reads, so an identity that moved to another owner
// stays a candidate of the old one too.
func (x *Index) apply(p state.Pipe, s bus.Stored) {
	ctx := context.Background() // queues only
	tenant, id := events.Tenant(s.Event), s.Event.Subject()
	switch s.Event.Type() {
	case events.TypeIdentityRegistered:
		r, err := events.As[events.IdentityRegistered](s.Event)
		if err != nil {
			return
		}
		body, err := json.Marshal(r.Registration)
		if err != nil {
			return
		}
		p.SAdd(ctx, key("tenants"), tenant)
		p.HSet(ctx, tenantKey(tenant, "identities"), id, body)
		p.SAdd(ctx, groupKey(tenant, "owner", r.Owner), id)
		p.SAdd(ctx, groupKey(tenant, "feature", r.Feature), id)
		ref, err := json.Marshal(Ref{tenant, id})
		if err != nil {
			return
		}
		for _, a := range r.Attestation {
			p.SAdd(ctx, bindingKey(bindingSum(a.Issuer, a.Subject)), ref)
		}
		if len(r.Keys) > 0 {
			p.SAdd(ctx, bindingKey(bindingSum(OwnKeys, id)), ref)
		}
		for _, t := range []events.Target{
			{Kind: string(lineage.KindIdentity), Tenant: tenant, ID: id},
			{Kind: string(lineage.KindOwner), Tenant: tenant, ID: r.Owner},
			{Kind: string(lineage.KindFeature), Tenant: tenant, ID: r.Feature},
			{Kind: string(lineage.KindTenant), Tenant: tenant, ID: tenant},
		} {
			if text, err := json.Marshal(t); err == nil {
				p.Set(ctx, handleKey(x.namer.Name(lineage.Kind(t.Kind), t.Tenant, t.ID)), text, 0)
			}
		}
	case events.TypeIdentityFrozen:
		if c, err := events.As[events.IdentityFrozen](s.Event); err == nil {
			if body, err := json.Marshal(Freeze{c.Reason, c.By, c.Until}); err == nil {
				p.HSet(ctx, tenantKey(tenant, "freezes"), id+"\x00"+changeKey(c.IdentityChange), body)
			}
		}
	case events.TypeIdentityReinstated:
		if c, err := events.As[events.IdentityReinstated](s.Event); err == nil {
			p.HDel(ctx, tenantKey(tenant, "freezes"), id+"\x00"+changeKey(c.IdentityChange))
		}
	case events.TypeIdentityRevoked:
		p.HSet(ctx, tenantKey(tenant, "ended"), id, string(StatusRevoked))
	case events.TypeIdentityRetired:
		p.HSetNX(ctx, tenantKey(tenant, "ended"), id, string(StatusRetired))
	}
}

// CatchUp returns when the index holds everything that was on the log when it was
// called.
func (x *Index) CatchUp(ctx context.Context) error {
	var last uint64
	for _, verb := range indexed {
		n, err := x.log.LastSequence(ctx, bus.StreamLog, events.LogSubject("*", "identity", verb, "*"))
		if err != nil {
			return fmt.Errorf("read end of the log: %w", err)
		}
		last = max(last, n)
	}
	if last == 0 {
		return nil
	}
	if err := x.store.Wait(ctx, ViewName, last); err != nil {
		return fmt.Errorf("wait for the index: %w", err)
	}
	return nil
}

// Bound is the identities that were declared to prove themselves as subject of
// issuer, in any tenant. Positive answers are remembered for two seconds; with fresh
// the answer holds everything that was on the log when it was asked.
func (x *Index) Bound(ctx context.Context, issuer, subject string, fresh bool) ([]Ref, error) {
	sum, now := bindingSum(issuer, subject), x.now()
	x.mu.RLock()
	c, ok := x.bound[sum]
	x.mu.RUnlock()
	if ok && !fresh && now.Before(c.until) {
		return c.refs, nil
	}
	ctx, cancel := context.WithTimeout(ctx, boundWait)
	defer cancel()
	if fresh {
		if err := x.CatchUp(ctx); err != nil {
			return nil, err
		}
	}
	refs, err := x.readBound(ctx, sum)
	if err != nil {
		return nil, err
	}
	if len(refs) > 0 {
		x.mu.Lock()
		if len(x.bound) >= boundMax {
			clear(x.bound)
		}
		x.bound[sum] = cached{refs, now.Add(boundTTL)}
		x.mu.Unlock()
	}
	return refs, nil
}

func (x *Index) readBound(ctx context.Context, sum [32]byte) ([]Ref, error) {
	members, err := x.store.Client().SMembers(ctx, bindingKey(sum)).Result()
	if err != nil {
		return nil, fmt.Errorf("look up attestation: %w", err)
	}
	refs := make([]Ref, 0, len(members))
	for _, m := range members {
		var r Ref
		if err := json.Unmarshal([]byte(m), &r); err != nil {
			return nil, fmt.Errorf("read attestation index: %w", err)
		}
		refs = append(refs, r)
	}
	slices.SortFunc(refs, func(a, b Ref) int {
		return cmp.Or(cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Identity, b.Identity))
	})
	return refs, nil
}

// Group is the identities of a tenant that had this owner or feature (kind "owner" or
// "feature") at some time, sorted.
func (x *Index) Group(ctx context.Context, tenant string, kind lineage.Kind, id string) ([]string, error) {
	ids, err := x.store.Client().SMembers(ctx, groupKey(tenant, string(kind), id)).Result()
	if err != nil {
		return nil, fmt.Errorf("look up identities of %s: %w", kind, err)
	}
	slices.Sort(ids)
	return ids, nil
}

// All is every identity of a tenant, sorted.
func (x *Index) All(ctx context.Context, tenant string) ([]string, error) {
	ids, err := x.store.Client().HKeys(ctx, tenantKey(tenant, "identities")).Result()
	if err != nil {
		return nil, fmt.Errorf("look up identities: %w", err)
	}
	slices.Sort(ids)
	return ids, nil
}

// Tenants is every tenant that has identities, sorted.
func (x *Index) Tenants(ctx context.Context) ([]string, error) {
	list, err := x.store.Client().SMembers(ctx, key("tenants")).Result()
	if err != nil {
		return nil, fmt.Errorf("list tenants: %w", err)
	}
	slices.Sort(list)
	return list, nil
}

// Resolve finds what a handle stands for, if it is a tenant, owner, feature or
// identity that the registry knows.
func (x *Index) Resolve(ctx context.Context, handle string) (events.Target, bool, error) {
	h, err := lineage.Parse(handle)
	if err != nil {
		return events.Target{}, false, nil
	}
	text, err := x.store.Client().Get(ctx, handleKey(h)).Result()
	if errors.Is(err, state.ErrNoKey) {
		return events.Target{}, false, nil
	}
	if err != nil {
		return events.Target{}, false, fmt.Errorf("look up handle: %w", err)
	}
	var t events.Target
	if err := json.Unmarshal([]byte(text), &t); err != nil {
		return events.Target{}, false, fmt.Errorf("read handle index: %w", err)
	}
	return t, true, nil
}

// Summary is one line of the inventory.
type Summary struct {
	Tenant string `json:"tenant"`
	events.Registration
	Status Status `json:"status"`
	Why    string `json:"why,omitempty"`
}

// List is the inventory of a tenant as the index has it, sorted by identity.
func (x *Index) List(ctx context.Context, tenant string) ([]Summary, error) {
	c := x.store.Client()
	regs, err := c.HGetAll(ctx, tenantKey(tenant, "identities")).Result()
	if err != nil {
		return nil, fmt.Errorf("list identities: %w", err)
	}
	freezes, err := c.HGetAll(ctx, tenantKey(tenant, "freezes")).Result()
	if err != nil {
		return nil, fmt.Errorf("list freezes: %w", err)
	}
	ended, err := c.HGetAll(ctx, tenantKey(tenant, "ended")).Result()
	if err != nil {
		return nil, fmt.Errorf("list ended identities: %w", err)
	}
	by := map[string]map[string]Freeze{}
	for field, body := range freezes {
		id, k, _ := strings.Cut(field, "\x00")
		var f Freeze
		if err := json.Unmarshal([]byte(body), &f); err != nil {
			return nil, fmt.Errorf("read freeze of %s: %w", id, err)
		}
		if by[id] == nil {
			by[id] = map[string]Freeze{}
		}
		by[id][k] = f
	}
	now := x.now()
	out := make([]Summary, 0, len(regs))
	for id, body := range regs {
		var reg events.Registration
		if err := json.Unmarshal([]byte(body), &reg); err != nil {
			return nil, fmt.Errorf("read registration of %s: %w", id, err)
		}
		s := Identity{Registration: &reg, Freezes: by[id], Ended: Status(ended[id])}
		out = append(out, Summary{Tenant: tenant, Registration: reg, Status: s.Status(now), Why: s.Why(now)})
	}
	slices.SortFunc(out, func(a, b Summary) int { return cmp.Compare(a.Identity, b.Identity) })
	return out, nil
}
