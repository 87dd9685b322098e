package grant

import (
	"encoding/json"
	"net/url"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/attest"
)

// transactionLife is the longest that a transaction token may live.
const transactionLife = 5 * time.Minute

// Transaction is what a request for a transaction token says of the transaction
// (draft-ietf-oauth-transaction-tokens); both may be absent.
type Transaction struct {
	Facts   json.RawMessage // request_details
	Context json.RawMessage // request_context
}

func readTransaction(q *Request, form url.Values) *Error {
	if q.ParentType != TypeAccessToken && q.ParentType != TypeTransaction {
		return refuse(InvalidRequest, "subject_token_type must be %s or %s", TypeAccessToken, TypeTransaction)
	}
	if form.Has("authorization_details") {
		return refuse(InvalidRequest, "a transaction token holds no authorization_details: leave them out")
	}
	if form.Get("scope") == "" {
		return refuse(InvalidScope, "scope is missing: say what the transaction is for")
	}
	q.Transaction = new(Transaction)
	for name, to := range map[string]*json.RawMessage{"request_details": &q.Transaction.Facts, "request_context": &q.Transaction.Context} {
		text := form.Get(name)
		switch {
		case text == "":
			continue
		case q.ParentType == TypeTransaction:
			return refuse(InvalidRequest, "%s of a transaction never changes: leave it out", name)
		}
		v, err := token.ParseContext([]byte(text))
		if err != nil {
			return &Error{Code: InvalidRequest, Reason: name + " must be one JSON object of at most 2 KiB", cause: err}
		}
		*to = v
	}
	return nil
}

// begin begins a transaction, or goes on with the one of the subject_token: a replacement
// keeps everything but the scope, which only narrows.
func (m *Minter) begin(d *decision) *Error {
	domain := m.TransactionDomain
	asked := d.request.Ask.Audience
	switch {
	case domain == "":
		return refuse(InvalidRequest, "transaction tokens are not issued here: an operator sets issuance.transaction_domain")
	case len(asked) != 1 || asked[0] != domain:
		return refuse(InvalidTarget, "the audience of a transaction token is the trust domain %s", domain)
	}
	parent := d.parent
	t := token.Transaction{Txn: d.id, Subject: parent.Claims.Tenant + "/" + parent.Claims.Subject,
		Facts: d.request.Transaction.Facts, Context: d.request.Transaction.Context}
	if before := parent.Transaction; before != nil {
		if before.Audience != domain {
			return refuse(InvalidGrant, "the subject_token is of another trust domain")
		}
		t.Txn, t.Facts, t.Context = before.Txn, before.Facts, before.Context
	}
	d.txn = &t
	// It passes from workload to workload and cannot be bound to one.
	d.confirm, d.request.Ask.Details = nil, []token.Detail{}
	return nil
}

// readTransactionParent reads a transaction token that is to be replaced.
func readTransactionParent(raw string, keys token.Keys) (*Parent, error) {
	t, err := token.OpenTransaction(raw, keys)
	if err != nil {
		return nil, err
	}
	return &Parent{Transaction: &t, Claims: token.Claims{Issuer: t.Issuer, Subject: t.Identity(), Audience: token.Strings{t.Audience},
		IssuedAt: t.IssuedAt, Expires: t.Expires, ID: t.ID, Scope: t.Scope, Tenant: t.Tenant, Task: t.Task, Lineage: t.Lineage}}, nil
}

// form is what is signed of c, and its typ.
func (d decision) form(c token.Claims) (string, any) {
	switch {
	case d.chain != "":
		return attest.TypGrant, d.grantFor(c)
	case d.txn == nil:
		return token.TypAccess, c
	}
	t := *d.txn
	t.Issuer, t.Audience, t.IssuedAt, t.Expires, t.ID = c.Issuer, strings.Join(c.Audience, " "), c.IssuedAt, c.Expires, c.ID
	t.Scope, t.Requester, t.Tenant, t.Task, t.Lineage = c.Scope, d.attested.Subject, d.parent.Claims.Tenant, c.Task, c.Lineage
	return token.TypTransaction, t
}
