package ledger

import (
	"cmp"
	"slices"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// holders is whom an exception holds for; with neither identity nor feature, everybody
// in the tenant.
type holders struct{ tenant, identity, feature string }

// Exception is an exception to policy with the tenant it was granted in.
type Exception struct {
	Tenant string `json:"tenant"`
	events.ExceptionGranted
}

// exceptions are those that nobody has ended, by whom they hold for. It grows with what
// operators grant, not with decisions; the expired stay until somebody takes note.
type exceptions struct {
	held map[holders][]Exception
	by   map[string]holders // by tenant and id
}

func (x *exceptions) granted(tenant string, p events.ExceptionGranted) {
	x.ended(tenant, p.Exception)
	k := holders{tenant: tenant, identity: p.Identity, feature: p.Feature}
	if p.WholeTenant != (p.Identity == "" && p.Feature == "") || p.Identity != "" && p.Feature != "" {
		return // it does not say whom it holds for: nobody
	}
	if x.held == nil {
		x.held, x.by = map[holders][]Exception{}, map[string]holders{}
	}
	x.held[k] = append(slices.Clip(x.held[k]), Exception{tenant, p})
	x.by[tenant+" "+p.Exception] = k
}

func (x *exceptions) ended(tenant, id string) {
	k, ok := x.by[tenant+" "+id]
	if !ok {
		return
	}
	delete(x.by, tenant+" "+id)
	rest := make([]Exception, 0, len(x.held[k]))
	for _, e := range x.held[k] {
		if e.Exception != id {
			rest = append(rest, e)
		}
	}
	if x.held[k] = rest; len(rest) == 0 {
		delete(x.held, k)
	}
}

// Exceptions are those in force at now for an identity of a feature. One that has
// expired is not among them, whether or not anything marked its end. The caller compares
// Policy, Scopes and Audiences with what is decided.
func (l *Ledger) Exceptions(now time.Time, tenant, identity, feature string) []events.ExceptionGranted {
	l.mu.RLock()
	defer l.mu.RUnlock()
	if len(l.exceptions.held) == 0 {
		return nil
	}
	keys := []holders{{tenant: tenant}}
	if identity != "" {
		keys = append(keys, holders{tenant: tenant, identity: identity})
	}
	if feature != "" {
		keys = append(keys, holders{tenant: tenant, feature: feature})
	}
	var out []events.ExceptionGranted
	for _, k := range keys {
		for _, e := range l.exceptions.held[k] {
			if now.Before(e.ExpiresAt) {
				out = append(out, e.ExceptionGranted)
			}
		}
	}
	return out
}

// Granted are the exceptions that nobody has ended, expired ones too, of one tenant or
// with "" of all, by the day they are due.
func (l *Ledger) Granted(tenant string) []Exception {
	l.mu.RLock()
	defer l.mu.RUnlock()
	out := []Exception{}
	for k, list := range l.exceptions.held {
		if tenant == "" || k.tenant == tenant {
			out = append(out, list...)
		}
	}
	slices.SortFunc(out, func(a, b Exception) int {
		return cmp.Or(a.ReviewAt.Compare(b.ReviewAt), cmp.Compare(a.Tenant, b.Tenant), cmp.Compare(a.Exception, b.Exception))
	})
	return out
}
