package revocation

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/accept"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/graph"
	"go.uber.org/zap"
)

// graphWait bounds how long a decision waits for the graph, which is no more than
// a read model.
const graphWait = 2 * time.Second

// narrowWait is the same before a narrow handle is killed: a graph that lags because
// somebody mints as fast as he can must not hold up the revoke that stops him.
const narrowWait = 50 * time.Millisecond

// count is the live credentials under a handle at a time, per tenant, as of the
// log's end now: a graph that was flushed a moment ago must not say "none". It
// waits at most patience for the graph; with less than graphWait, what the log held
// two seconds ago is good enough.
func (r *revoker) count(ctx context.Context, handle string, at time.Time, patience time.Duration) (map[string]int64, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if patience >= graphWait || !r.graph.Near(ctx) {
		if err := r.graph.Settle(ctx); err != nil {
			return nil, err
		}
	}
	return r.graph.Count(ctx, handle, at)
}

func countSum(count map[string]int64) (int64, []string) {
	n, tenants := graph.Sum(count)
	if tenants == nil {
		tenants = []string{}
	}
	return n, tenants
}

// resolve finds the thing that a target names. known is false when nothing of that
// name has ever been seen; when nobody can tell, because the graph cannot be read,
// a target that is named in full counts as known: a lost read model must not keep
// anybody from revoking.
func (r *revoker) resolve(ctx context.Context, tenant string, t events.Target) (thing accept.Thing, known bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*graphWait)
	defer cancel()
	switch {
	case t.Handle != "" && (t.Kind != "" || t.ID != ""):
		return thing, false, fmt.Errorf("%w: a target has a handle, or a kind and an id, not both", errBadRequest)
	case t.Handle != "":
		return r.byHandle(ctx, tenant, t.Handle)
	case t.ID == "" || len(t.ID) > 512 || !slices.Contains(lineage.Kinds, lineage.Kind(t.Kind)):
		return thing, false, fmt.Errorf("%w: target needs an id and one of the kinds %v", errBadRequest, lineage.Kinds)
	}
	thing = accept.Thing{Kind: lineage.Kind(t.Kind), Tenant: t.Tenant, ID: t.ID}
	switch thing.Kind {
	case lineage.KindDomain, lineage.KindKey:
		thing.Tenant = ""
	case lineage.KindTenant:
		thing.Tenant = t.ID
	case lineage.KindCredential:
		return r.byCredential(ctx, tenant, thing)
	}
	if thing.Tenant == "" && thing.Kind != lineage.KindDomain && thing.Kind != lineage.KindKey {
		thing.Tenant = tenant
	}
	thing.Handle = r.names.Name(thing.Kind, thing.Tenant, thing.ID)
	known, err = r.named(ctx, thing)
	return thing, known, err
}

// named reports whether anything of this name was seen: in the graph, in earlier
// revocations, or, for identities, on the log.
func (r *revoker) named(ctx context.Context, t accept.Thing) (bool, error) {
	if _, ok := r.ledger.Target(t.Handle.String()); ok {
		return true, nil
	}
	n, err := r.lookup(ctx, t.Handle.String())
	if err != nil {
		r.log.Warn("target cannot be looked up; taken at its word", zap.String("kind", string(t.Kind)), zap.String("id", t.ID), zap.Error(err))
		return true, nil
	}
	if n != nil || t.Kind != lineage.KindIdentity {
		return n != nil, nil
	}
	last, err := r.bus.LastSequence(ctx, bus.StreamLog, events.EntityFilter(t.Tenant, t.ID))
	if err != nil {
		return false, fmt.Errorf("look for identity: %w", err)
	}
	return last > 0, nil
}

// lookup finds a handle's name in the graph, after the graph has caught up when it
// is not there at once; nil when it is unknown.
func (r *revoker) lookup(ctx context.Context, handle string) (*events.Named, error) {
	for settled := false; ; settled = true {
		found, err := r.graph.Names(ctx, handle)
		if err != nil {
			return nil, err
		}
		if n, ok := found[handle]; ok {
			return &n, nil
		}
		if settled {
			return nil, nil
		}
		if err := r.graph.Settle(ctx); err != nil {
			return nil, err
		}
	}
}

func (r *revoker) byHandle(ctx context.Context, tenant, text string) (accept.Thing, bool, error) {
	h, err := lineage.Parse(text)
	if err != nil {
		return accept.Thing{}, false, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	if t, ok := r.ledger.Target(text); ok && t.Kind != "" {
		return accept.Thing{Handle: h, Kind: lineage.Kind(t.Kind), Tenant: t.Tenant, ID: t.ID}, true, nil
	}
	n, err := r.lookup(ctx, text)
	if err != nil {
		// Only operators may name what nobody can tell the tenant of.
		return accept.Thing{Handle: h}, tenant == accept.SystemTenant, nil
	}
	if n == nil {
		return accept.Thing{Handle: h}, false, nil
	}
	return accept.Thing{Handle: h, Kind: lineage.Kind(n.Kind), Tenant: n.Tenant, ID: n.ID}, true, nil
}

// byCredential finds a credential by its jti or by its token's hash.
func (r *revoker) byCredential(ctx context.Context, tenant string, t accept.Thing) (accept.Thing, bool, error) {
	t.Handle = r.names.Name(t.Kind, first(t.Tenant, tenant), t.ID)
	if _, ok := r.ledger.Target(t.Handle.String()); ok {
		t.Tenant = first(t.Tenant, tenant)
		return t, true, nil
	}
	rec, err := r.graph.Credential(ctx, t.ID)
	if errors.Is(err, graph.ErrUnknown) {
		if err = r.graph.Settle(ctx); err == nil {
			rec, err = r.graph.Credential(ctx, t.ID)
		}
	}
	switch {
	case err == nil:
		if t.Tenant != "" && t.Tenant != rec.Tenant {
			return t, false, nil
		}
		t.Tenant, t.ID = rec.Tenant, rec.CredentialIssued.Credential
		t.Handle = r.names.Name(t.Kind, t.Tenant, t.ID)
		return t, true, nil
	case errors.Is(err, graph.ErrUnknown):
		t.Tenant = first(t.Tenant, tenant)
		return t, false, nil
	case isHash(t.ID):
		return t, false, fmt.Errorf("find the credential of a token hash: %w", err)
	}
	t.Tenant = first(t.Tenant, tenant)
	r.log.Warn("credential cannot be looked up; taken at its word", zap.String("id", t.ID), zap.Error(err))
	return t, true, nil
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// isHash reports whether id has the form of a SHA-256 in hex.
func isHash(id string) bool {
	b, err := hex.DecodeString(id)
	return err == nil && len(b) == 32
}
