package revocation

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/graph"
)

// blastWidth is how many things of a level a preview's tree names, blastWalk how many
// credentials it looks at.
const (
	blastWidth = 20
	blastWalk  = 10_000
)

// blast is what a revoke would end, as a tree: the tenants, their identities, the tasks
// that these are at and the live credentials. Every level has the largest first; more
// is how many things of it are not named.
type blast struct {
	Tenants []blastTenant `json:"tenants"`
	More    int           `json:"more"`
	Cut     bool          `json:"cut"` // not all was looked at: what is below the tenants is a lower bound
}

type blastTenant struct {
	Tenant      string          `json:"tenant"`
	Credentials int64           `json:"credentials"`
	Hidden      bool            `json:"hidden,omitempty"` // the caller may not see what it has, so it is in more only
	Identities  []blastIdentity `json:"identities"`
	More        int             `json:"more"`
}

type blastIdentity struct {
	Identity    string      `json:"identity"`
	Owner       string      `json:"owner,omitempty"`
	Feature     string      `json:"feature,omitempty"`
	Credentials int64       `json:"credentials"`
	Tasks       []blastTask `json:"tasks"` // in flight
	More        int         `json:"more"`
}

type blastTask struct {
	Task        string    `json:"task"`
	Credentials int64     `json:"credentials"`
	Until       time.Time `json:"until"` // when the last of them expires
}

// blastCount gathers a tree from credentials in any order.
type blastCount struct {
	tenants map[string]map[string]*identityCount // by tenant and identity
	looked  int
	cut     bool
}

type identityCount struct {
	blastIdentity
	tasks map[string]*blastTask
}

// add counts a credential, unless enough were looked at.
func (b *blastCount) add(c graph.Record) {
	if b.cut = b.looked >= blastWalk; b.cut {
		return
	}
	b.looked++
	if b.tenants == nil {
		b.tenants = map[string]map[string]*identityCount{}
	}
	identities := b.tenants[c.Tenant]
	if identities == nil {
		identities = map[string]*identityCount{}
		b.tenants[c.Tenant] = identities
	}
	of := identities[c.Identity]
	if of == nil {
		of = &identityCount{blastIdentity{Identity: c.Identity}, map[string]*blastTask{}}
		identities[c.Identity] = of
	}
	of.Credentials++
	of.Owner = cmp.Or(of.Owner, only(c, lineage.KindOwner))
	of.Feature = cmp.Or(of.Feature, only(c, lineage.KindFeature))
	task := of.tasks[c.Task]
	if task == nil {
		task = &blastTask{Task: c.Task}
		of.tasks[c.Task] = task
	}
	task.Credentials++
	if c.ExpiresAt.After(task.Until) {
		task.Until = c.ExpiresAt
	}
}

// only is the one thing of a kind in a credential's lineage and tenant. Of several it
// cannot be told which is the identity's own, since a lineage repeats nothing: empty.
func only(c graph.Record, kind lineage.Kind) string {
	found := ""
	for _, n := range c.Names {
		if lineage.Kind(n.Kind) != kind || n.Tenant != c.Tenant {
			continue
		}
		if found != "" && found != n.ID {
			return ""
		}
		found = n.ID
	}
	return found
}

// tree is what was counted. live is the exact number of credentials per tenant; seen
// says of which tenants the caller may see what they have.
func (b *blastCount) tree(live map[string]int64, seen func(tenant string) bool) blast {
	tenants := map[string]*blastTenant{}
	for name, n := range live {
		tenants[name] = &blastTenant{Tenant: name, Credentials: n}
	}
	for name, identities := range b.tenants {
		t := tenants[name]
		if t == nil {
			t = &blastTenant{Tenant: name}
			tenants[name] = t
		}
		var met int64
		for _, i := range identities {
			met += i.Credentials
		}
		t.Credentials = max(t.Credentials, met) // some may be younger than live
	}
	out := blast{Cut: b.cut}
	out.Tenants, out.More = largest(tenants, func(x, y *blastTenant) int {
		return cmp.Or(cmp.Compare(y.Credentials, x.Credentials), cmp.Compare(x.Tenant, y.Tenant))
	})
	for i := range out.Tenants {
		t := &out.Tenants[i]
		t.Identities = []blastIdentity{}
		if t.Hidden = !seen(t.Tenant); t.Hidden {
			t.More = len(b.tenants[t.Tenant])
			continue
		}
		var shown []identityCount
		shown, t.More = largest(b.tenants[t.Tenant], func(x, y *identityCount) int {
			return cmp.Or(cmp.Compare(y.Credentials, x.Credentials), cmp.Compare(x.Identity, y.Identity))
		})
		for _, of := range shown {
			of.Tasks, of.More = largest(of.tasks, func(x, y *blastTask) int {
				return cmp.Or(cmp.Compare(y.Credentials, x.Credentials), cmp.Compare(x.Task, y.Task))
			})
			t.Identities = append(t.Identities, of.blastIdentity)
		}
	}
	return out
}

// largest is the first blastWidth of m in order, and how many are left.
func largest[T any](m map[string]*T, order func(x, y *T) int) ([]T, int) {
	all := make([]*T, 0, len(m))
	for _, x := range m {
		all = append(all, x)
	}
	slices.SortFunc(all, order)
	out := make([]T, 0, min(len(all), blastWidth))
	for _, x := range all[:min(len(all), blastWidth)] {
		out = append(out, *x)
	}
	return out, len(all) - len(out)
}

// owned looks up the owners and features that the credentials did not tell.
func (r *revoker) owned(ctx context.Context, b blast) error {
	for _, t := range b.Tenants {
		for i := range t.Identities {
			of := &t.Identities[i]
			if of.Owner != "" && of.Feature != "" {
				continue
			}
			for st, err := range r.bus.Read(ctx, bus.StreamLog, events.LogSubject(t.Tenant, "identity", "registered", of.Identity), 1) {
				if err != nil {
					return fmt.Errorf("read identity: %w", err)
				}
				if reg, err := events.As[events.IdentityRegistered](st.Event); err == nil {
					of.Owner, of.Feature = reg.Owner, reg.Feature
				}
			}
		}
	}
	return nil
}

// downstreamSecrets are the long-lived secrets in one downstream system.
type downstreamSecrets struct {
	Downstream string `json:"downstream"`
	Count      int64  `json:"count"`
	Kind       string `json:"kind,omitempty"`     // of the connector
	Ends       string `json:"ends,omitempty"`     // how it ends one
	Verifies   string `json:"verifies,omitempty"` // how it proves that
	Sessions   bool   `json:"sessions"`           // open sessions are cut
	Problem    string `json:"problem,omitempty"`  // why they cannot be ended
}

// longLived counts the long-lived secrets under a handle by downstream.
func (r *revoker) longLived(ctx context.Context, handle string) ([]downstreamSecrets, error) {
	out := []downstreamSecrets{}
	if r.cleanup == nil {
		return out, nil
	}
	ctx, cancel := context.WithTimeout(ctx, graphWait)
	defer cancel()
	if err := r.cleanup.index.Settle(ctx); err != nil {
		return nil, err
	}
	count, err := r.cleanup.index.CountByDownstream(ctx, handle)
	if err != nil {
		return nil, err
	}
	known := r.cleanup.engine.Describe()
	for name, n := range count {
		s := downstreamSecrets{Downstream: name, Count: n}
		if d, ok := known[name]; ok {
			s.Kind, s.Ends, s.Verifies, s.Sessions = d.Kind, d.Ends, d.Verifies, d.Sessions
		} else {
			s.Problem = errNoDownstream.Error()
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b downstreamSecrets) int { return cmp.Compare(a.Downstream, b.Downstream) })
	return out, nil
}

// errNoDownstream: a secret is in a downstream that nothing here reaches.
var errNoDownstream = errors.New("the downstream is not configured any more, so nothing can end them: configure it again or end them by hand and untrack them")
