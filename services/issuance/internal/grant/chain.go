package grant

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/attest"
)

// grantLife is how long a grant for another issuer lives; it is used at once, once.
const grantLife = time.Minute

// authorizationGrant is the claims of a JWT authorization grant for another issuer
// (draft-ietf-oauth-identity-chaining section 2.3), with what Lanyard issuers pass on.
type authorizationGrant struct {
	Issuer   string           `json:"iss"`
	Subject  string           `json:"sub"` // tenant, "/" and identity
	Audience string           `json:"aud"` // the other issuer
	IssuedAt int64            `json:"iat"`
	Expires  int64            `json:"exp"`
	ID       string           `json:"jti"`
	Scope    string           `json:"scope"`
	Tenant   string           `json:"tenant"`
	Task     string           `json:"task"`
	Until    int64            `json:"until"` // exp of the credential that it was made of
	Lineage  []lineage.Handle `json:"lin"`
	Actor    *token.Actor     `json:"act,omitempty"` // who acted before, for records
}

// chainTo recognises an exchange whose audience is another issuer: what comes out is no
// credential but a grant that its holder shows there.
func (m *Minter) chainTo(d *decision) *Error {
	asked := d.request.Ask.Audience
	if !slices.ContainsFunc(asked, func(a string) bool { return slices.Contains(m.ChainTo, a) }) {
		return nil
	}
	c := d.parent.Claims
	switch {
	case len(asked) > 1:
		return refuse(InvalidTarget, "a grant for another issuer is for that issuer alone: name one audience")
	case d.request.Requested == TypeAccessToken:
		return refuse(InvalidRequest, "requested_token_type must be %s for the audience of another issuer", TypeJWT)
	case d.ref.Tenant != c.Tenant || d.ref.Identity != c.Subject:
		return refuse(InvalidRequest, "only who holds the subject_token may take it to another issuer: exchange it for a credential of your own first")
	case len(d.request.Ask.Details) > 0:
		return refuse(InvalidDetails, "authorization_details do not pass to another issuer: leave them out")
	}
	d.chain, d.confirm, d.request.Ask.Details = asked[0], nil, []token.Detail{}
	return nil
}

// aside reports whether what is wanted is no access token.
func (d decision) aside() bool { return d.txn != nil || d.chain != "" }

// longest is how long it may live then.
func (d decision) longest() time.Duration {
	if d.chain != "" {
		return grantLife
	}
	return transactionLife
}

// grantFor is the grant for another issuer as which c is signed.
func (d decision) grantFor(c token.Claims) authorizationGrant {
	return authorizationGrant{Issuer: c.Issuer, Subject: c.Tenant + "/" + c.Subject, Audience: d.chain, IssuedAt: c.IssuedAt, Expires: c.Expires,
		ID: c.ID, Scope: c.Scope, Tenant: c.Tenant, Task: c.Task, Until: d.parent.Claims.Expires, Lineage: c.Lineage, Actor: d.parent.Claims.Actor}
}

// byGrant takes a grant of another issuer, once.
func (m *Minter) byGrant(ctx context.Context, q Request, d *decision) error {
	g, err := m.Attester.VerifyGrant(ctx, q.Proof)
	switch {
	case errors.Is(err, attest.ErrUnavailable):
		return unavailable(err, attest.ErrUnavailable.Error())
	case err != nil:
		return &Error{Code: InvalidGrant, Reason: strings.ReplaceAll(err.Error(), "attestation", "grant"), cause: err}
	}
	d.attested, d.chained = g.Attested, &g
	if d.ref, err = m.resolve(ctx, g.Attested, q); err != nil {
		return err
	}
	e := m.once(ctx, "grant", g.Issuer+"\x00"+g.ID, g.Expires.Sub(d.now)+attest.Replayable)
	if e != nil && e.Code == InvalidRequest {
		return refuse(InvalidGrant, "the grant was used before: get a new one from its issuer")
	} else if e != nil {
		return e
	}
	return nil
}

// inherited is the lineage above what is issued: the parent's, or what the grant of
// another issuer brought. The handles of another issuer are made with its key, so nothing
// here can name them; but they are in every copy of the lineage, and whoever puts one of
// them on our kill feed ends what hangs from it.
func (d decision) inherited() []lineage.Handle {
	switch {
	case d.parent != nil:
		return d.parent.Claims.Lineage
	case d.chained != nil:
		return d.chained.Lineage
	}
	return nil
}

// bounds is the ceiling of what comes by the grant of another issuer: no wider, and no
// longer than the credential there.
func bounds(g *attest.Grant) Ceiling {
	return Ceiling{Name: "the grant of " + g.Issuer, Scope: g.Scope, AnyAudience: true, Expires: g.Until}
}
