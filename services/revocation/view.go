package revocation

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/accept"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/graph"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/ledger"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/presence"
)

// view is a revocation as the API shows it.
type view struct {
	Revocation  string                        `json:"revocation"`
	State       ledger.Status                 `json:"state"`
	Code        string                        `json:"code,omitempty"` // of a refusal, or already_revoked
	Reason      string                        `json:"reason,omitempty"`
	Mode        events.Mode                   `json:"mode,omitempty"`
	Target      *events.Target                `json:"target,omitempty"`
	Handle      string                        `json:"handle,omitempty"`
	By          string                        `json:"by,omitempty"`
	Tenant      string                        `json:"tenant,omitempty"` // in whose log it stands
	ApprovedBy  string                        `json:"approved_by,omitempty"`
	ExpiresAt   *time.Time                    `json:"expires_at,omitempty"` // of a proposal
	AcceptedAt  *time.Time                    `json:"accepted_at,omitempty"`
	Until       *time.Time                    `json:"until,omitempty"`
	ClosedAt    *time.Time                    `json:"closed_at,omitempty"`
	LiftedAt    *time.Time                    `json:"lifted_at,omitempty"`
	Epoch       uint64                        `json:"epoch,omitempty"`
	Sequence    uint64                        `json:"sequence,omitempty"`    // of the kill entry
	Expected    int                           `json:"expected"`              // guards present at accept
	Enforced    int                           `json:"enforced"`              // of those, how many honour it no more
	Missing     []string                      `json:"missing"`               // the others
	Outstanding []outstanding                 `json:"outstanding,omitempty"` // the missing guards, and until when they may still say yes
	Outcomes    map[events.ReceiptOutcome]int `json:"outcomes,omitempty"`
	Descendants int64                         `json:"descendants"`
	Tenants     []string                      `json:"tenants"`
	MerkleRoot  string                        `json:"merkle_root,omitempty"`
	LastMS      float64                       `json:"accept_to_last_receipt_ms,omitempty"`
	Receipts    []receiptView                 `json:"receipts"`
}

// outstanding is a guard that has not answered. After Until it refuses by itself, for
// its lease is over.
type outstanding struct {
	Point string    `json:"point"`
	Until time.Time `json:"until"`
}

type receiptView struct {
	Point     string                `json:"point"`
	Outcome   events.ReceiptOutcome `json:"outcome"`
	AppliedAt time.Time             `json:"applied_at"`
	LatencyMS float64               `json:"latency_ms"`
	Receipt   string                `json:"receipt,omitempty"` // compact JWS
}

type guardView struct {
	presence.Guard
	Present bool `json:"present"`
}

func viewOf(s *ledger.State, now time.Time) view {
	v := view{Revocation: s.ID, State: s.Status(), Tenant: s.Tenant, Missing: []string{}, Tenants: []string{}, Receipts: []receiptView{}}
	if s.Refused != nil && s.Accepted == nil {
		v.Code, v.Reason, v.Mode, v.Target, v.By = s.Refused.Code, s.Refused.Reason, s.Refused.Mode, &s.Refused.Target, s.Refused.By
		return v
	}
	if s.Accepted == nil && s.Proposed != nil {
		return proposal(accept.Proposal{Tenant: s.Tenant, RevocationProposed: *s.Proposed})
	}
	if s.Accepted == nil {
		return v
	}
	v.accepted(*s.Accepted)
	missing := s.Missing(now)
	if s.Closed != nil {
		v.closed(*s.Closed)
		missing = nil
	}
	if s.Lifted != nil {
		v.LiftedAt = &s.Lifted.LiftedAt
	}
	for _, g := range missing {
		v.Missing = append(v.Missing, g.Point)
		v.Outstanding = append(v.Outstanding, outstanding{g.Point, g.LeaseEnd})
	}
	v.Expected = len(s.Accepted.Guards)
	v.Enforced = v.Expected - len(missing)
	for _, a := range s.Answers {
		v.Receipts = append(v.Receipts, receiptView{a.Point, a.Outcome, a.AppliedAt, a.LatencyMS, a.Receipt})
	}
	slices.SortFunc(v.Receipts, func(a, b receiptView) int {
		return cmp.Or(cmp.Compare(a.LatencyMS, b.LatencyMS), cmp.Compare(a.Point, b.Point))
	})
	return v
}

func (v *view) accepted(a events.RevocationAccepted) {
	v.Mode, v.Target, v.Handle, v.By, v.Reason = a.Mode, &a.Target, a.Handle, a.By, a.Reason
	v.AcceptedAt, v.Until, v.Epoch, v.Sequence = &a.AcceptedAt, a.Until, a.Epoch, a.Sequence
	v.Descendants, v.Tenants, v.ApprovedBy = a.Descendants, a.Tenants, a.ApprovedBy
}

func (v *view) closed(c events.RevocationClosed) {
	v.ClosedAt, v.Outcomes, v.Descendants, v.Tenants = &c.ClosedAt, c.Outcomes, c.Descendants, c.Tenants
	v.MerkleRoot, v.LastMS = c.MerkleRoot, c.LastMS
}

// listed is a revocation in a list, without receipts.
func listed(s ledger.Summary) view {
	v := view{Revocation: s.ID, State: s.Status, Tenant: s.Tenant, Missing: []string{}, Receipts: []receiptView{}, Expected: s.Expected}
	v.accepted(s.Accepted)
	if s.Closed != nil {
		v.closed(*s.Closed)
		v.Enforced = s.Expected
	}
	if s.Lifted != nil {
		v.LiftedAt = &s.Lifted.LiftedAt
	}
	return v
}

// previewMembers is how many credentials a preview lists, previewWalk how many it
// looks at; descendants counts all of them.
const (
	previewMembers = 200
	previewWalk    = 20_000
)

// preview is what a revoke would end.
type preview struct {
	Handle      string        `json:"handle"`
	Kind        string        `json:"kind"`
	Tenant      string        `json:"tenant"`
	ID          string        `json:"id"`
	Descendants int64         `json:"descendants"` // live credentials, all of them
	Identities  int           `json:"identities"`
	Delegations int           `json:"delegations"`
	Tenants     []string      `json:"tenants"`
	Owners      []string      `json:"owners"`
	Features    []string      `json:"features"`
	Tasks       []string      `json:"tasks"`
	Guards      int           `json:"guards"`           // that will answer
	NeedConfirm bool          `json:"confirm_required"` //
	Confirm     int64         `json:"confirm"`          // what to send as confirm then
	Holder      *holderView   `json:"holder,omitempty"` // what it is under already
	Unsafe      string        `json:"unsafe,omitempty"` // why a revoke would be refused whatever it is about
	Predicted   *float64      `json:"predicted_ms"`     // to closure, p99 of past ones; null: no data yet
	Past        int           `json:"past_closures"`    // how many that rests on
	Truncated   bool          `json:"truncated"`        // there are more credentials than were looked at
	Members     []previewItem `json:"members"`

	Secrets []downstreamSecrets `json:"secrets"`              // long-lived ones, by downstream
	Closure *closureTimes       `json:"closure_ms,omitempty"` // as Predicted
	Tree    blast               `json:"tree"`
}

// closureTimes are percentiles of past closures, in milliseconds from accept to closed.
type closureTimes struct {
	P50 float64 `json:"p50"`
	P99 float64 `json:"p99"`
}

type holderView struct {
	Revocation string      `json:"revocation"`
	Mode       events.Mode `json:"mode"`
	Until      *time.Time  `json:"until,omitempty"`
}

type previewItem struct {
	Tenant     string    `json:"tenant"`
	Identity   string    `json:"identity"`
	Task       string    `json:"task"`
	Credential string    `json:"credential"`
	Delegation string    `json:"delegation"`
	ExpiresAt  time.Time `json:"expires_at"`
}

func (r *revoker) postPreview(w http.ResponseWriter, q *http.Request, caller token.Claims) (int, any, error) {
	a, err := readAsk(w, q)
	if err != nil {
		return 0, nil, err
	}
	ctx := q.Context()
	if err := r.ready(ctx); err != nil {
		return 0, nil, err
	}
	tenant := authority(caller)
	thing, known, err := r.resolve(ctx, tenant, a.Target)
	if err != nil {
		return 0, nil, err
	}
	now := r.now()
	req := accept.Request{Tenant: tenant, RevocationRequested: events.RevocationRequested{Mode: events.ModeRevoke}}
	verdict := accept.Decide(req, accept.Facts{Thing: thing, Known: known, LiveKnown: true}, accept.Limits{Cap: 1}, now)
	if verdict.Code == accept.CodeForbidden || verdict.Code == accept.CodeUnknownTarget {
		return r.answer(ctx, result{Code: verdict.Code, Reason: verdict.Reason})
	}
	p := preview{Handle: thing.Handle.String(), Kind: string(thing.Kind), Tenant: thing.Tenant, ID: thing.ID, Guards: len(r.table.Expected(now)), Members: []previewItem{}}
	count, err := r.count(ctx, p.Handle, now, graphWait)
	if err != nil {
		return 0, nil, err
	}
	p.Descendants, p.Tenants = countSum(count)
	p.NeedConfirm, p.Confirm = accept.NeedsConfirm(thing, p.Descendants, r.limits.Breadth), max(p.Descendants, 1)
	st, err := r.standingOf(ctx, thing.Handle, now)
	if err != nil {
		return 0, nil, err
	}
	if h := st.holder; h != nil {
		p.Holder = &holderView{h.Revocation, h.Mode, h.Until}
	}
	if err := r.unsafe(ctx); err != nil && !r.limits.AllowUnsafe {
		p.Unsafe = err.Error()
	}
	if p.Closure, p.Past = r.predict(); p.Closure != nil {
		p.Predicted = &p.Closure.P99
	}
	if p.Secrets, err = r.longLived(ctx, p.Handle); err != nil {
		return 0, nil, err
	}
	if err := r.tour(ctx, &p, count, caller, now); err != nil {
		return 0, nil, err
	}
	return http.StatusOK, p, nil
}

// tour walks the subtree for what the counters do not tell. live is the counters.
func (r *revoker) tour(ctx context.Context, p *preview, live map[string]int64, caller token.Claims, now time.Time) error {
	seen := func(tenant string) bool { return service.Operator(caller) || tenant == caller.Tenant }
	var counted blastCount
	identities, delegations, owners, features, tasks := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	walked := 0
	err := r.graph.Walk(ctx, p.Handle, now, func(c graph.Record) bool {
		walked++
		counted.add(c)
		identities[c.Tenant+"/"+c.Identity] = true
		if c.Delegation != "" {
			delegations[c.Tenant+"/"+c.Delegation] = true
		}
		if seen(c.Tenant) {
			if c.Task != "" {
				tasks[c.Task] = true
			}
			for _, n := range c.Names {
				switch lineage.Kind(n.Kind) {
				case lineage.KindOwner:
					owners[n.ID] = true
				case lineage.KindFeature:
					features[n.ID] = true
				}
			}
			if len(p.Members) < previewMembers {
				p.Members = append(p.Members, previewItem{c.Tenant, c.Identity, c.Task, c.CredentialIssued.Credential, c.Delegation, c.ExpiresAt})
			}
		}
		return walked < previewWalk
	})
	p.Truncated = walked >= previewWalk
	p.Identities, p.Delegations = len(identities), len(delegations)
	p.Owners, p.Features, p.Tasks = sorted(owners), sorted(features), sorted(tasks)
	if err != nil {
		return err
	}
	p.Tree = counted.tree(live, seen)
	return r.owned(ctx, p.Tree)
}

func sorted(m map[string]bool) []string {
	out := slices.Sorted(maps.Keys(m))
	if out == nil {
		return []string{}
	}
	return out
}

// predict is how long the last hundred closures took, and how many there were; nil
// when there was none.
func (r *revoker) predict() (*closureTimes, int) {
	var took []float64
	for _, s := range r.ledger.List("", 500) {
		if s.Closed != nil && len(took) < 100 {
			took = append(took, float64(s.Closed.ClosedAt.Sub(s.Accepted.AcceptedAt))/1e6)
		}
	}
	if len(took) == 0 {
		return nil, 0
	}
	return &closureTimes{quantile(took, 0.5), quantile(took, 0.99)}, len(took)
}

// quantile q of v by the nearest rank.
func quantile(v []float64, q float64) float64 {
	slices.Sort(v)
	return v[int(q*float64(len(v)-1)+0.5)]
}
