package policy

import (
	"slices"
	"strings"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"

	"github.com/lanyard-nhi/lanyard/events"
)

// Facts are what a decision is made over but for scope and audience. Context is what
// the log keeps of them, so that the decision can be made again.
type Facts struct {
	Tenant   string
	Identity string
	Task     string
	Time     time.Time
	Context  events.DecisionContext
	// Exceptions in force for the identity.
	Exceptions []Exception
}

// Exception lifts one forbid for an identity.
type Exception struct {
	ID        string
	Policy    string   // id of the forbid
	Scopes    []string // it holds for these only; none: any
	Audiences []string // likewise
}

func (e Exception) covers(policy, scope, audience string) bool {
	return e.Policy == policy && (len(e.Scopes) == 0 || slices.Contains(e.Scopes, scope)) &&
		(len(e.Audiences) == 0 || slices.Contains(e.Audiences, audience))
}

// Verdict is a decision. The zero value denies.
type Verdict struct {
	Allowed    bool
	Version    string
	Reasons    []string      // ids of the policies that decided, sorted; none when nothing permits
	Exceptions []string      // ids of the exceptions without which it would be denied, sorted
	MaxTTL     time.Duration // longest life of what is granted; 0: the policies say nothing
	Why        string        // of a denial, for people
}

// Entity types and the action of the schema.
const (
	typeTenant   = "Lanyard::Tenant"
	typeOwner    = "Lanyard::Owner"
	typeFeature  = "Lanyard::Feature"
	typeIdentity = "Lanyard::Identity"
	typeAudience = "Lanyard::Audience"
	typeWorkload = "Lanyard::Workload"
)

func uid(typ cedar.EntityType, id string) cedar.EntityUID {
	return cedar.NewEntityUID(typ, cedar.String(id))
}

// Inquiry asks one set about one case, once for each scope and audience. It is for one
// goroutine.
type Inquiry struct {
	set        *Set
	facts      Facts
	principals [5]cedar.EntityUID
	entities   entities
	context    cedar.RecordMap
}

// Ask begins an inquiry about f.
func (s *Set) Ask(f Facts) *Inquiry {
	c := f.Context
	q := &Inquiry{set: s, facts: f, context: s.context(f)}
	tenant := uid(typeTenant, f.Tenant)
	q.principals = [5]cedar.EntityUID{uid(typeIdentity, f.Tenant+"/"+f.Identity), tenant}
	parents := []cedar.EntityUID{tenant}
	for i, above := range [2]struct {
		typ cedar.EntityType
		id  string
	}{{typeOwner, c.Owner}, {typeFeature, c.Feature}} {
		if above.id != "" {
			q.principals[2+i] = uid(above.typ, f.Tenant+"/"+above.id)
			parents = append(parents, q.principals[2+i])
		}
	}
	q.entities = entities{
		principal: cedar.Entity{UID: q.principals[0], Parents: cedar.NewEntityUIDSet(parents...), Attributes: cedar.NewRecord(cedar.RecordMap{
			"tenant": cedar.String(f.Tenant), "name": cedar.String(f.Identity), "kind": cedar.String(c.Kind), "owner": cedar.String(c.Owner),
			"feature": cedar.String(c.Feature), "purpose": cedar.String(c.IdentityPurpose), "backend": cedar.String(c.Backend),
			"vendor": cedar.String(c.Vendor), "vendor_managed": cedar.Boolean(c.VendorManaged), "risk": cedar.String(risk(c.Risk)),
		})},
		tenant:   tenant,
		within:   cedar.NewEntityUIDSet(tenant),
		workload: workload(c),
	}
	return q
}

func workload(c events.DecisionContext) cedar.Entity {
	e := cedar.Entity{UID: workloadID(c)}
	if len(c.Claims) == 0 {
		return e
	}
	tags := make(cedar.RecordMap, len(c.Claims))
	for name, value := range c.Claims {
		tags[cedar.String(name)] = cedar.String(value)
	}
	e.Tags = cedar.NewRecord(tags)
	return e
}

func workloadID(c events.DecisionContext) cedar.EntityUID {
	return uid(typeWorkload, c.Attestation.Issuer+" "+c.Attestation.Subject)
}

// risk of which nothing is known is low.
func risk(level string) string {
	if level == "" {
		return "low"
	}
	return level
}

// nobody are the records of who did not launch and did not delegate, which most
// requests have; a record costs a microsecond to make.
type nobody struct{ launchedBy, from cedar.Record }

func newNobody() nobody {
	return nobody{record("issuer", "", "subject", ""), record("tenant", "", "identity", "")}
}

func record(k1, v1, k2, v2 string) cedar.Record {
	return cedar.NewRecord(cedar.RecordMap{cedar.String(k1): cedar.String(v1), cedar.String(k2): cedar.String(v2)})
}

func (s *Set) context(f Facts) cedar.RecordMap {
	c := f.Context
	by, from := s.nobody.launchedBy, s.nobody.from
	if c.LaunchedBy != nil {
		by = record("issuer", c.LaunchedBy.Issuer, "subject", c.LaunchedBy.Subject)
	}
	if c.From != nil {
		from = record("tenant", c.From.Tenant, "identity", c.From.Identity)
	}
	return cedar.RecordMap{
		"task": cedar.String(f.Task), "purpose": cedar.String(c.Purpose), "environment": cedar.String(c.Environment),
		"data_sensitivity": cedar.String(c.Sensitivity), "grant": cedar.String(c.Grant), "depth": cedar.Long(c.Depth),
		"attestation": record("issuer", c.Attestation.Issuer, "subject", c.Attestation.Subject),
		"width":       cedar.Long(c.Width),
		"workload":    workloadID(c),
		"launched_by": by,
		"from":        from,
		"ttl_seconds": cedar.Long(c.TTLSeconds), "time": cedar.NewDatetime(f.Time),
	}
}

// entities are those that a question can reach: the principal and what it is in.
type entities struct {
	principal cedar.Entity
	tenant    cedar.EntityUID
	within    cedar.EntityUIDSet // the tenant
	workload  cedar.Entity
}

// Get implements cedar.EntityGetter.
func (e *entities) Get(id cedar.EntityUID) (cedar.Entity, bool) {
	switch {
	case id == e.principal.UID:
		return e.principal, true
	case id == e.workload.UID:
		return e.workload, true
	case (id.Type == typeOwner || id.Type == typeFeature) && e.principal.Parents.Contains(id):
		return cedar.Entity{UID: id, Parents: e.within}, true
	}
	return cedar.Entity{}, false
}

func (q *Inquiry) request(scope, audience string) cedar.Request {
	q.context["scope"] = cedar.String(scope)
	return cedar.Request{Principal: q.principals[0], Action: uid("Lanyard::Action", "use"),
		Resource: uid(typeAudience, audience), Context: cedar.NewRecord(q.context)}
}

// Decide decides whether the identity may hold scope for audience. When only forbids
// stand in the way to which the identity has exceptions, it decides again without
// them. A policy whose evaluation fails permits nothing, and a forbid that fails
// forbids.
func (q *Inquiry) Decide(scope, audience string) Verdict {
	req := q.request(scope, audience)
	part := slice{set: q.set, principals: &q.principals, resource: req.Resource}
	v := q.verdict(part, req)
	if v.Allowed || len(v.Reasons) == 0 || len(q.facts.Exceptions) == 0 {
		return v
	}
	var lean []string
	for _, id := range v.Reasons {
		ids := q.excepted(id, scope, audience)
		if len(ids) == 0 {
			return v
		}
		lean = append(lean, ids...)
		part.without = append(part.without, cedar.PolicyID(id))
	}
	if again := q.verdict(part, req); again.Allowed {
		slices.Sort(lean)
		again.Exceptions = slices.Compact(lean)
		return again
	}
	return v
}

// excepted is the exceptions that lift the forbid of that id here.
func (q *Inquiry) excepted(id, scope, audience string) []string {
	if liftable, _ := q.set.Liftable(id); !liftable {
		return nil
	}
	var out []string
	for _, e := range q.facts.Exceptions {
		if e.covers(id, scope, audience) {
			out = append(out, e.ID)
		}
	}
	return out
}

func (q *Inquiry) verdict(part slice, req cedar.Request) Verdict {
	decision, diag := cedar.Authorize(part, &q.entities, req)
	v := Verdict{Allowed: bool(decision), Version: q.set.version}
	var failed []types.PolicyID
	for _, e := range diag.Errors {
		if r := q.set.rules[e.PolicyID]; r != nil && r.forbids() {
			failed = append(failed, e.PolicyID)
		}
	}
	if len(failed) > 0 && v.Allowed {
		v.Allowed, diag.Reasons = false, nil
	}
	var why []string
	for _, d := range diag.Reasons {
		r := q.set.rules[d.PolicyID]
		v.Reasons = append(v.Reasons, string(r.id))
		switch {
		case !v.Allowed:
			why = append(why, r.why())
		case r.maxTTL > 0 && (v.MaxTTL == 0 || r.maxTTL < v.MaxTTL):
			v.MaxTTL = r.maxTTL
		}
	}
	for _, id := range failed {
		v.Reasons = append(v.Reasons, string(id))
		why = append(why, "policy "+string(id)+" could not be evaluated")
	}
	slices.Sort(v.Reasons)
	if !v.Allowed {
		slices.Sort(why)
		v.Why = strings.Join(slices.Compact(why), "; ")
		if v.Why == "" {
			v.Why = "no policy permits it"
		}
	}
	return v
}

func (r *rule) why() string {
	if r.reason != "" {
		return r.reason + " (policy " + string(r.id) + ")"
	}
	return "policy " + string(r.id) + " forbids it"
}
