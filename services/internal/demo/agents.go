package demo

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/lanyard-nhi/lanyard/events/guard"
)

// resource is one tenant's guarded HTTP service: a handler behind the guard library,
// as a product would build it.
type resource struct {
	tenant  string
	url     string
	guard   *guard.Guard
	server  *http.Server
	refusal atomic.Pointer[guard.Denial] // the first because of a revocation, as its operator's log has it
	stop    context.CancelFunc
	done    chan struct{}
}

func (r *run) openResources(ctx context.Context) error {
	r.rep.Step("Three guarded services, one per tenant, follow the kill feed")
	for _, t := range Tenants {
		res, err := r.openResource(ctx, t)
		if err != nil {
			return fmt.Errorf("open service of %s: %w", t, err)
		}
		r.resources = append(r.resources, res)
		r.rep.Line("%s  guard %q, lease 15 s", audience(t), "orders-"+t)
	}
	return nil
}

func (r *run) openResource(ctx context.Context, tenant string) (*resource, error) {
	cfg, err := r.sys.Guard(ctx, tenant, "orders-"+tenant, audience(tenant))
	if err != nil {
		return nil, err
	}
	gctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	res := &resource{tenant: tenant, stop: stop, done: make(chan struct{})}
	cfg.Denied = func(d guard.Denial) {
		if d.Revocation != "" {
			res.refusal.CompareAndSwap(nil, &d)
		}
	}
	g, err := guard.New(cfg)
	if err != nil {
		stop()
		return nil, err
	}
	res.guard = g
	go func() {
		defer close(res.done)
		_ = g.Run(gctx) // ends with its context; a guard that cannot run denies everything
	}()
	select {
	case <-g.Ready():
	case <-time.After(20 * time.Second):
		stop()
		return nil, fmt.Errorf("guard is not fresh: %+v", g.Status())
	case <-ctx.Done():
		stop()
		return nil, ctx.Err()
	}
	mux := http.NewServeMux()
	mux.Handle("GET /orders", g.Middleware("orders.read")(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		c, _ := guard.FromContext(q.Context())
		fmt.Fprintf(w, `{"orders":3,"for":%q}`, c.Subject)
	})))
	lis, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		stop()
		return nil, fmt.Errorf("listen: %w", err)
	}
	res.url = "http://" + lis.Addr().String()
	res.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = res.server.Serve(lis) }() // returns ErrServerClosed on Shutdown
	return res, nil
}

func (r *run) stopResources() {
	for _, a := range slices.Concat(r.agents, r.siblings) {
		if a.cancel != nil {
			a.cancel()
			<-a.done
		}
	}
	for _, res := range r.resources {
		_ = res.server.Close()
		res.stop()
		<-res.done
	}
}

// agent calls its tenant's service over and over with its credential.
type agent struct {
	name, tenant, subject, task string
	token                       string
	url                         string
	every                       time.Duration
	client                      *http.Client
	cancel                      context.CancelFunc
	done                        chan struct{}

	allowed, denied, closedAllowed atomic.Int64
	closed                         atomic.Bool // count allowed calls that begin from now on apart

	mu          sync.Mutex
	lastAllowed time.Time // completion of the last allowed call
	firstDenied time.Time // completion of the first denied call
}

func (a *agent) run(ctx context.Context) {
	ctx, a.cancel = context.WithCancel(ctx)
	a.done = make(chan struct{})
	go func() {
		defer close(a.done)
		t := time.NewTicker(a.every)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
				a.call(ctx)
			}
		}
	}()
}

func (a *agent) call(ctx context.Context) {
	after := a.closed.Load()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url+"/orders", nil)
	if err != nil {
		return
	}
	req.Header.Set("Authorization", "Bearer "+a.token)
	resp, err := a.client.Do(req)
	if err != nil {
		return // the demo is over
	}
	resp.Body.Close()
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if resp.StatusCode == http.StatusOK {
		a.allowed.Add(1)
		a.lastAllowed = now
		if after {
			a.closedAllowed.Add(1)
		}
		return
	}
	a.denied.Add(1)
	if a.firstDenied.IsZero() {
		a.firstDenied = now
	}
}

func (r *run) resourceOf(tenant string) *resource {
	for _, res := range r.resources {
		if res.tenant == tenant {
			return res
		}
	}
	return nil
}

// launch lets the person start the orchestrator, which delegates to its sub-agents,
// while an unrelated orchestrator does the same with the siblings.
func (r *run) launch(ctx context.Context) error {
	r.rep.Step(fmt.Sprintf("%s launches an orchestrator; it delegates to %d agents in %d tenants", r.person, r.o.Agents, len(Tenants)))
	var err error
	if r.root, err = r.issue(ctx, Tenants[0], "demo/"+Tenants[0]+"/orchestrator"+r.o.Suffix, "process-orders", "plan and delegate order processing"); err != nil {
		return err
	}
	watch, err := r.issue(ctx, Tenants[0], "demo/"+Tenants[0]+"/watch-orchestrator"+r.o.Suffix, "check-stock", "plan stock checks")
	if err != nil {
		return err
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 128}}
	start := func(n int, prefix, parent, task string) ([]*agent, error) {
		list := make([]*agent, n)
		err := parallel(ctx, 8, n, func(ctx context.Context, i int) error {
			t := Tenants[i%len(Tenants)]
			name := fmt.Sprintf("%s-%02d%s", prefix, i, r.o.Suffix)
			a := &agent{name: name, tenant: t, subject: "demo/" + t + "/" + name, task: task, url: r.resourceOf(t).url, every: r.o.Interval, client: client}
			var err error
			a.token, err = r.delegate(ctx, parent, t, a.subject, task)
			list[i] = a
			return err
		})
		return list, err
	}
	if r.agents, err = start(r.o.Agents, "order-agent", r.root, "process-orders"); err != nil {
		r.agents = nil
		return err
	}
	r.o.At("launch")
	if r.siblings, err = start(r.o.Siblings, "stock-agent", watch, "check-stock"); err != nil {
		r.siblings = nil
		return err
	}
	r.leaked = r.agents[min(7, len(r.agents)-1)].token
	r.res.CredentialsIssued = 2 + len(r.agents) + len(r.siblings)
	r.res.Delegations = len(r.agents) + len(r.siblings)
	for _, a := range slices.Concat(r.agents, r.siblings) {
		a.run(ctx)
	}
	if err := waitFor(ctx, 15*time.Second, func() bool {
		for _, a := range slices.Concat(r.agents, r.siblings) {
			if a.allowed.Load() == 0 {
				return false
			}
		}
		return true
	}); err != nil {
		return fmt.Errorf("agents' first calls: %w", err)
	}
	r.rep.Good("%d credentials issued, %d delegations; every agent's calls are allowed", r.res.CredentialsIssued, r.res.Delegations)
	return nil
}

// waitFor polls until cond holds.
func waitFor(ctx context.Context, limit time.Duration, cond func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for !cond() {
		select {
		case <-ctx.Done():
			return fmt.Errorf("did not happen within %s", limit)
		case <-t.C:
		}
	}
	return nil
}
