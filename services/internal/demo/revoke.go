package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// target is what the responder revokes.
func (r *run) target() events.Target {
	return events.Target{Kind: "identity", Tenant: Tenants[0], ID: "orchestrator" + r.o.Suffix}
}

// preview is the answer to a preview.
type preview struct {
	Handle      string   `json:"handle"`
	Descendants int64    `json:"descendants"`
	Identities  int      `json:"identities"`
	Tenants     []string `json:"tenants"`
	Owners      []string `json:"owners"`
	Tasks       []string `json:"tasks"`
	Guards      int      `json:"guards"`
}

// state is a revocation as the API shows it.
type state struct {
	Revocation string    `json:"revocation"`
	State      string    `json:"state"`
	AcceptedAt time.Time `json:"accepted_at"`
	ClosedAt   time.Time `json:"closed_at"`
	Expected   int       `json:"expected"`
	Enforced   int       `json:"enforced"`
	Missing    []string  `json:"missing"`
	Descend    int64     `json:"descendants"`
	Receipts   []struct {
		Point     string  `json:"point"`
		Outcome   string  `json:"outcome"`
		LatencyMS float64 `json:"latency_ms"`
	} `json:"receipts"`
}

// revoke previews and confirms the one revoke, and watches calls turn from allowed to denied.
func (r *run) revoke(ctx context.Context) error {
	r.rep.Step("One revoke: preview, confirm, and watch it arrive everywhere")
	body := map[string]any{"mode": events.ModeRevoke, "target": r.target(), "reason": "orchestrator hijacked: payments.transfer outside its task"}
	var p preview
	if err := r.call(ctx, http.MethodPost, r.sys.Revocation, "/v1/revocations/preview", nil, body, &p); err != nil {
		return fmt.Errorf("preview: %w", err)
	}
	r.rep.Line("preview  identity:%s/%s -> %d live credentials in %d tenants, %d guards will answer", Tenants[0], r.target().ID, p.Descendants, len(p.Tenants), p.Guards)
	body["confirm"] = p.Descendants
	for _, a := range r.agents {
		r.res.Calls.SubtreeAllowedBefore += a.allowed.Load()
	}
	var s state
	if err := r.once(ctx, http.MethodPost, r.sys.Revocation+"/v1/revocations", body, &s); err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	r.o.At("revoke")
	r.exposure(s)
	if err := waitFor(ctx, r.o.CloseWithin, func() bool { return r.refused() == len(r.agents) }); err != nil {
		r.rep.Bad("%d of %d agents still have not been refused", len(r.agents)-r.refused(), len(r.agents))
	}
	s, err := r.awaitClosure(ctx, s)
	if err != nil {
		return err
	}
	r.measure(s)
	r.rep.Good("accepted %s; %d of %d receipts; closed: %v", s.Revocation, s.Enforced, s.Expected, r.res.Revocation.Closed)
	for _, x := range s.Receipts {
		r.rep.Line("receipt  %-22s %-14s %.1f ms after accept", x.Point, x.Outcome, x.LatencyMS)
	}
	if err := r.verify(ctx, s); err != nil {
		return err
	}
	l := r.res.Revocation.AcceptToLastRefusal
	r.rep.Good("accept -> first refusal, over the agents: p50 %.0f ms, p99 %.0f ms, max %.0f ms", l.P50, l.P99, l.Max)
	return r.afterClosure(ctx)
}

func (r *run) refused() int {
	n := 0
	for _, a := range r.agents {
		if a.denied.Load() > 0 {
			n++
		}
	}
	return n
}

// awaitClosure polls until the revocation is closed. Services may be restarting, so
// failures of single calls are retried until the limit.
func (r *run) awaitClosure(ctx context.Context, s state) (state, error) {
	var last error
	id := s.Revocation
	err := waitFor(ctx, r.o.CloseWithin, func() bool {
		var got state
		cctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		if last = r.call(cctx, http.MethodGet, r.sys.Revocation, "/v1/revocations/"+url.PathEscape(id), url.Values{"wait": {"1s"}}, nil, &got); last != nil {
			return false
		}
		s = got
		r.exposure(s)
		return s.State == "closed"
	})
	if err != nil && last != nil {
		return s, fmt.Errorf("read revocation: %w", errors.Join(last, err))
	}
	return s, nil
}

// measure fills in the revocation's figures.
func (r *run) measure(s state) {
	v := &r.res.Revocation
	v.ID, v.Descendants, v.ReceiptsExpected, v.ReceiptsEnforced = s.Revocation, s.Descend, s.Expected, s.Enforced
	v.Closed = s.State == "closed"
	if v.Closed {
		v.AcceptToClosedMillis = float64(s.ClosedAt.Sub(s.AcceptedAt).Microseconds()) / 1000
	}
	var refusal, receipt []float64
	for _, a := range r.agents {
		a.mu.Lock()
		if !a.firstDenied.IsZero() {
			refusal = append(refusal, max(0, float64(a.firstDenied.Sub(s.AcceptedAt).Microseconds())/1000))
		}
		a.mu.Unlock()
	}
	for _, x := range s.Receipts {
		receipt = append(receipt, x.LatencyMS)
	}
	v.AcceptToLastRefusal, v.AcceptToReceipt = latency(refusal), latency(receipt)
}

func latency(v []float64) Latency {
	if len(v) == 0 {
		return Latency{}
	}
	slices.Sort(v)
	at := func(q float64) float64 { return v[min(len(v)-1, int(q*float64(len(v))))] }
	return Latency{P50: at(0.5), P99: at(0.99), Max: v[len(v)-1]}
}

// afterClosure counts what still gets through: nothing of the subtree, everything of
// the siblings; and nothing new can be minted under the dead orchestrator.
func (r *run) afterClosure(ctx context.Context) error {
	before := make([]int64, 0, len(r.siblings))
	for _, a := range r.siblings {
		before = append(before, a.allowed.Load())
	}
	for _, a := range r.agents {
		a.closed.Store(true)
	}
	denied := make([]int64, 0, len(r.agents))
	for _, a := range r.agents {
		denied = append(denied, a.denied.Load())
	}
	if err := waitFor(ctx, 15*time.Second, func() bool {
		for i, a := range r.agents {
			if a.denied.Load() < denied[i]+10 && a.closedAllowed.Load() == 0 {
				return false
			}
		}
		for i, a := range r.siblings {
			if a.allowed.Load() < before[i]+10 && a.denied.Load() == 0 {
				return false
			}
		}
		return true
	}); err != nil {
		return fmt.Errorf("calls after closure: %w", err)
	}
	a := r.agents[0]
	if _, err := r.delegate(ctx, r.root, a.tenant, a.subject, a.task); err == nil {
		r.res.Calls.TokensRenewedAfterRevoke++
		r.rep.Bad("a token was minted under the revoked orchestrator")
	} else {
		r.rep.Line("mint     under the dead orchestrator: refused (%v)", err)
	}
	c := &r.res.Calls
	for _, a := range r.agents {
		c.SubtreeDenied += a.denied.Load()
		c.SubtreeAllowedAfterClosure += a.closedAllowed.Load()
	}
	for _, a := range r.siblings {
		c.SiblingsAllowed += a.allowed.Load()
		c.SiblingsDenied += a.denied.Load()
	}
	r.rep.Good("after closure: subtree %d allowed, %d denied; siblings %d allowed, %d denied", c.SubtreeAllowedAfterClosure, c.SubtreeDenied, c.SiblingsAllowed, c.SiblingsDenied)
	return nil
}

// trace looks one leaked token up by its hash, as a responder would who found it in a log.
func (r *run) trace(ctx context.Context) error {
	hash := token.HashText(r.leaked)
	r.rep.Step("A token was found in a log: its hash tells whose it is and what it did")
	var t traceAnswer
	if err := r.call(ctx, http.MethodGet, r.sys.Revocation, "/v1/trace/"+hash, nil, nil, &t); err != nil {
		return fmt.Errorf("trace: %w", err)
	}
	r.res.Trace = TraceResult{TokenSHA256: hash, Identity: t.Subject.Identity, Owner: t.Subject.Owner, Events: len(t.Timeline)}
	r.rep.Line("sha256 %s", hash)
	r.rep.Good("%s/%s, owner %s, feature %s", t.Subject.Tenant, t.Subject.Identity, or(t.Subject.Owner, "unknown"), or(t.Subject.Feature, "unknown"))
	for _, n := range t.Lineage {
		r.rep.Line("lineage  %-10s %s", n.Kind, or(n.ID, n.Handle))
	}
	for i, e := range t.Timeline {
		if i == 12 {
			r.rep.Line("... %d more", len(t.Timeline)-i)
			break
		}
		r.rep.Line("%s  %s  %s", e.Time.UTC().Format("15:04:05.000"), e.Type, e.Summary)
	}
	return nil
}

// traceAnswer is the answer to a trace.
type traceAnswer struct {
	Subject struct {
		Tenant, Identity, Owner, Feature string
	} `json:"subject"`
	Lineage []struct {
		Kind, ID, Handle string
	} `json:"lineage"`
	Timeline []struct {
		Time    time.Time `json:"time"`
		Type    string    `json:"type"`
		Summary string    `json:"summary"`
	} `json:"timeline"`
}
