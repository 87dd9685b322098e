package revocation

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	json "github.com/go-json-experiment/json"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/graph"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/secrets"
)

// errSecret: a placed secret is not taken.
var errSecret = errors.New("the secret is not tracked")

// placed handles secret.placed: what is valid is stated on the log with everything
// that it hangs from. One that was placed under a dead lineage is tracked like any
// other and ended at once.
func (c *cleaner) placed(ctx context.Context, cause events.Event, p events.SecretPlaced) ([]events.Event, error) {
	tenant := events.Tenant(cause)
	t, known, err := c.track(ctx, tenant, p)
	if errors.Is(err, errSecret) {
		return nil, bus.Permanent(err)
	}
	if err != nil || known {
		return nil, err
	}
	e, err := events.New(events.Origin{Source: source, Tenant: tenant, Time: t.TrackedAt, Cause: &cause}, t)
	if err != nil {
		return nil, bus.Permanent(err)
	}
	return []events.Event{e}, nil
}

// track decides about a placed secret. known means that it is tracked already. The
// error wraps errSecret when it will never be.
func (c *cleaner) track(ctx context.Context, tenant string, p events.SecretPlaced) (t events.SecretTracked, known bool, err error) {
	d, ok := c.downstreams[p.Downstream]
	if !ok {
		return t, false, fmt.Errorf("%w: no downstream %q is configured", errSecret, p.Downstream)
	}
	if err := d.Allows(tenant, p.Account); err != nil {
		return t, false, fmt.Errorf("%w: %w", errSecret, err)
	}
	if err := c.index.Settle(ctx); err != nil {
		return t, false, err
	}
	handle := c.r.names.Name(lineage.KindCredential, tenant, p.Secret).String()
	holder, err := c.index.Holder(ctx, p.Downstream, p.Account)
	if err != nil {
		return t, false, err
	}
	have, err := c.index.Records(ctx, handle, holder)
	if err != nil {
		return t, false, err
	}
	for _, r := range have {
		if r.Handle != handle {
			return t, false, fmt.Errorf("%w: the account belongs to another secret", errSecret)
		}
	}
	if len(have) > 0 {
		r := have[0]
		if r.Identity != p.Identity || r.Downstream != p.Downstream || r.Account != p.Account {
			return t, false, fmt.Errorf("%w: the id is of another secret, which does not change its identity, downstream or account", errSecret)
		}
		return r.SecretTracked, true, nil
	}
	t = events.SecretTracked{Secret: p.Secret, Handle: handle, Identity: p.Identity, Credential: p.Credential, Downstream: p.Downstream,
		Account: p.Account, Owner: p.Owner, ExpiresAt: p.ExpiresAt, TrackedAt: c.r.now().UTC()}
	t.Lineage, t.Names, err = c.lineage(ctx, tenant, p)
	return t, false, err
}

// lineage is what a secret hangs from: all that the credential does under which it was
// made, or the identity's own handles.
func (c *cleaner) lineage(ctx context.Context, tenant string, p events.SecretPlaced) ([]string, []events.Named, error) {
	if p.Credential != "" {
		rec, err := c.credential(ctx, tenant, p)
		if err == nil && (rec.Tenant != tenant || rec.Identity != p.Identity) {
			err = fmt.Errorf("%w: the credential is not of the identity", errSecret)
		}
		return rec.Lineage, rec.Names, err
	}
	var last *events.IdentityRegistered
	for st, err := range c.r.bus.Read(ctx, bus.StreamLog, events.LogSubject(tenant, "identity", "registered", p.Identity), 1) {
		if err != nil {
			return nil, nil, fmt.Errorf("read identity: %w", err)
		}
		if reg, err := events.As[events.IdentityRegistered](st.Event); err == nil {
			last = &reg
		}
	}
	if last == nil {
		return nil, nil, fmt.Errorf("%w: there is no identity %q in the tenant %s", errSecret, p.Identity, tenant)
	}
	var handles []string
	var names []events.Named
	for _, n := range []events.Named{{Kind: string(lineage.KindTenant), ID: tenant}, {Kind: string(lineage.KindOwner), ID: last.Owner},
		{Kind: string(lineage.KindFeature), ID: last.Feature}, {Kind: string(lineage.KindIdentity), ID: p.Identity}} {
		n.Tenant = tenant
		n.Handle = c.r.names.Name(lineage.Kind(n.Kind), tenant, n.ID).String()
		handles, names = append(handles, n.Handle), append(names, n)
	}
	return handles, names, nil
}

// credential finds a credential in the graph or, when that has dropped it, on the log.
func (c *cleaner) credential(ctx context.Context, tenant string, p events.SecretPlaced) (graph.Record, error) {
	rec, err := c.r.graph.Credential(ctx, p.Credential)
	if errors.Is(err, graph.ErrUnknown) {
		if err := c.r.graph.Settle(ctx); err != nil {
			return rec, err
		}
		rec, err = c.r.graph.Credential(ctx, p.Credential)
	}
	if !errors.Is(err, graph.ErrUnknown) {
		return rec, err
	}
	for st, err := range c.r.bus.Read(ctx, bus.StreamLog, events.LogSubject(tenant, "credential", "issued", p.Identity), 1) {
		if err != nil {
			return rec, fmt.Errorf("read credentials: %w", err)
		}
		issued, err := events.As[events.CredentialIssued](st.Event)
		if err == nil && issued.Credential == p.Credential {
			return graph.Record{Tenant: tenant, CredentialIssued: issued}, nil
		}
	}
	return rec, fmt.Errorf("%w: the identity has no credential %q", errSecret, p.Credential)
}

func (c *cleaner) routes(mux *http.ServeMux, env service.Env) {
	mux.Handle("POST /v1/secrets", env.Authorize(service.ScopeIntake, c.r.api(c.post)))
	mux.Handle("DELETE /v1/secrets/{id}", env.Authorize(service.ScopeRevoke, c.r.api(c.untrack)))
	mux.Handle("GET /v1/secrets", env.Authorize(service.ScopeRead, c.r.api(c.list)))
}

// post takes a placed secret: 202 when it is durable and will be tracked.
func (c *cleaner) post(w http.ResponseWriter, q *http.Request, caller token.Claims) (int, any, error) {
	var p events.SecretPlaced
	b, err := io.ReadAll(http.MaxBytesReader(w, q.Body, maxBody))
	if err != nil {
		return 0, nil, &httpError{http.StatusRequestEntityTooLarge, "too_large", fmt.Sprintf("the body is larger than %d bytes, or broke off", maxBody)}
	}
	if err := json.Unmarshal(b, &p, json.RejectUnknownMembers(true)); err != nil {
		return 0, nil, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	tenant, err := service.TenantFilter(q, caller)
	if err != nil {
		return 0, nil, err
	}
	if tenant == "" {
		return 0, nil, fmt.Errorf("%w: name the tenant with ?tenant=", errBadRequest)
	}
	e, err := events.New(events.Origin{Source: source, Tenant: tenant, Time: c.r.now(), Discriminator: c.r.now().String(), Traceparent: q.Header.Get("Traceparent")}, p)
	if err == nil {
		err = events.Validate(e)
	}
	if err != nil {
		return 0, nil, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	t, known, err := c.track(q.Context(), tenant, p)
	if errors.Is(err, errSecret) {
		return 0, nil, &httpError{http.StatusConflict, "secret_refused", err.Error()}
	}
	if err != nil || known {
		return http.StatusOK, t, err
	}
	if err := c.r.bus.Publish(q.Context(), e); err != nil {
		return 0, nil, err
	}
	return http.StatusAccepted, t, nil
}

// untrack takes the word of who may revoke that a downstream no longer has a secret, as
// when its account was ended by hand: 200 when that is durable. Nothing ends it any more,
// and no revocation waits for it.
func (c *cleaner) untrack(w http.ResponseWriter, q *http.Request, caller token.Claims) (int, any, error) {
	var ask struct {
		Reason string `json:"reason"`
	}
	if err := json.UnmarshalRead(http.MaxBytesReader(w, q.Body, maxBody), &ask, json.RejectUnknownMembers(true)); err != nil {
		return 0, nil, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	tenant, err := service.TenantFilter(q, caller)
	if err != nil {
		return 0, nil, err
	}
	if tenant == "" || ask.Reason == "" || len(ask.Reason) > 1024 {
		return 0, nil, fmt.Errorf("%w: name the tenant with ?tenant= and a reason of at most 1024 bytes", errBadRequest)
	}
	if err := c.index.Settle(q.Context()); err != nil {
		return 0, nil, err
	}
	handle := c.r.names.Name(lineage.KindCredential, tenant, q.PathValue("id")).String()
	have, err := c.index.Records(q.Context(), handle)
	if err != nil {
		return 0, nil, err
	}
	if len(have) == 0 {
		return 0, nil, &httpError{http.StatusNotFound, "unknown_secret", fmt.Sprintf("no secret %q is tracked in the tenant %s", q.PathValue("id"), tenant)}
	}
	u := events.SecretUntracked{Secret: have[0].Secret, Handle: handle, Downstream: have[0].Downstream, Lineage: have[0].Lineage,
		Reason: ask.Reason + " (said by " + caller.Tenant + "/" + caller.Subject + ")", UntrackedAt: c.r.now().UTC()}
	e, err := events.New(events.Origin{Source: source, Tenant: tenant, Time: c.r.now(), Discriminator: have[0].TrackedAt.String()}, u)
	if err != nil {
		return 0, nil, err
	}
	if _, err := c.r.bus.Append(q.Context(), bus.Batch{Events: []events.Event{e}}); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, u, c.index.Settle(q.Context())
}

// secretList is how secrets are shown.
type secretList struct {
	Count   map[string]int64  `json:"count"` // by downstream
	Ends    map[string]string `json:"ends"`  // how each downstream ends them
	Secrets []secrets.Record  `json:"secrets"`
	Cut     bool              `json:"cut"` // there are more
}

// list shows the secrets under a handle or of a tenant; what is of tenants that the
// caller may not see is counted only.
func (c *cleaner) list(_ http.ResponseWriter, q *http.Request, caller token.Claims) (int, any, error) {
	handle := q.URL.Query().Get("handle")
	if handle == "" {
		tenant, err := service.TenantFilter(q, caller)
		if err != nil {
			return 0, nil, err
		}
		if tenant == "" {
			tenant = caller.Tenant
		}
		handle = c.r.names.Name(lineage.KindTenant, tenant, tenant).String()
	}
	if _, err := lineage.Parse(handle); err != nil {
		return 0, nil, fmt.Errorf("%w: %w", errBadRequest, err)
	}
	count, err := c.index.CountByDownstream(q.Context(), handle)
	if err != nil {
		return 0, nil, err
	}
	out := secretList{Count: count, Ends: map[string]string{}, Secrets: []secrets.Record{}}
	for name, d := range c.engine.Describe() {
		if count[name] > 0 {
			out.Ends[name] = d.Ends
		}
	}
	const most = 1000
	err = c.index.Walk(q.Context(), handle, func(page []secrets.Record) error {
		page = slices.DeleteFunc(page, func(r secrets.Record) bool { return r.Tenant != caller.Tenant && !service.Operator(caller) })
		if room := most - len(out.Secrets); len(page) > room {
			page, out.Cut = page[:room], true
		}
		out.Secrets = append(out.Secrets, page...)
		if out.Cut {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return http.StatusOK, out, err
}

// errEnough ends a walk.
var errEnough = errors.New("enough")
