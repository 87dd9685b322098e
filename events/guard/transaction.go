package guard

import (
	"context"
	"fmt"

	"github.com/lanyard-nhi/lanyard/events/token"
)

// TransactionRequest is what a decision about a transaction token is made of.
type TransactionRequest struct {
	Token  string // of the header Txn-Token
	Domain string // trust domain that the token must be for
	Scopes []string
	// MinSequence is as in Request.
	MinSequence uint64
}

// CheckTransaction decides whether the transaction that a token stands for goes on: the
// token is this issuer's and for the trust domain, and nothing that it hangs from is
// revoked or frozen. It does not say who the caller is; that is for what authenticates
// him. The error is nil or a *Denial.
func (g *Guard) CheckTransaction(ctx context.Context, r TransactionRequest) (token.Transaction, error) {
	t, d := g.decideTransaction(ctx, r)
	if d == nil {
		return t, nil
	}
	d.scopes = r.Scopes
	if t.ID != "" {
		d.Claims = &token.Claims{Issuer: t.Issuer, Subject: t.Identity(), Tenant: t.Tenant, Task: t.Task, ID: t.ID, Scope: t.Scope,
			Audience: token.Strings{t.Audience}, IssuedAt: t.IssuedAt, Expires: t.Expires, Lineage: t.Lineage}
	}
	if g.cfg.Denied != nil {
		g.cfg.Denied(*d)
	}
	return token.Transaction{}, d
}

func (g *Guard) decideTransaction(ctx context.Context, r TransactionRequest) (token.Transaction, *Denial) {
	if r.Token == "" {
		return token.Transaction{}, &Denial{Code: CodeMissing, Reason: "no transaction token was presented"}
	}
	if _, d := g.know(footing{}, r.MinSequence); d != nil {
		return token.Transaction{}, d
	}
	now := g.cfg.Now()
	t, err := token.VerifyTransaction(r.Token, g.cfg.Keys, token.Expect{Issuer: g.cfg.Issuer, Audience: r.Domain, Now: now, Leeway: g.cfg.Leeway})
	if err != nil {
		return t, &Denial{Code: code(err), Reason: err.Error()}
	}
	if e, dead := g.set.find(t.Lineage, now); dead {
		return t, revoked(e, nil)
	}
	if missing := Lacks(t.Scope, r.Scopes); missing != "" {
		return t, &Denial{Code: CodeScope, Reason: "scope " + missing + " is not granted"}
	}
	if err := ctx.Err(); err != nil {
		return t, &Denial{Code: CodeStale, Reason: fmt.Sprintf("the request ended: %v", err)}
	}
	_, d := g.know(footing{}, r.MinSequence) // see decide
	return t, d
}
