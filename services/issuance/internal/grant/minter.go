package grant

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/attest"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/registry"
)

// Attester verifies attestations.
type Attester interface {
	Verify(ctx context.Context, raw string) (attest.Attested, error)
	VerifyCertificate(ctx context.Context, chain []*x509.Certificate) (attest.Attested, error)
	VerifyGrant(ctx context.Context, raw string) (attest.Grant, error)
	VerifyClient(a attest.ClientAssertion, keys []events.JWK) (attest.Attested, error)
}

// Bindings finds who may prove itself how.
type Bindings interface {
	Bound(ctx context.Context, issuer, subject string, fresh bool) ([]registry.Ref, error)
}

// Identities is the folded state of identities, as state.Entities has it.
type Identities interface {
	Load(ctx context.Context, tenant, entity string) (registry.Identity, uint64, error)
	Decide(ctx context.Context, tenant, entity string, decide func(registry.Identity) ([]events.Event, error)) (registry.Identity, bus.Ack, error)
}

// Ledger is what the log says of dead handles, for ever, of trust and of exceptions.
type Ledger interface {
	IsReady() bool
	Dead(now time.Time, handles ...lineage.Handle) (lineage.Handle, string, bool)
	Trust(from, to string) (events.TrustDeclared, bool)
	Exceptions(now time.Time, tenant, identity, feature string) []events.ExceptionGranted
}

// KillSet is this process's guard: the revocations of now, pushed.
type KillSet interface {
	Dead(lin []lineage.Handle) (guard.Entry, bool)
	Status() guard.Status
}

// Keys signs tokens and verifies those we signed.
type Keys interface {
	Signer() (token.Signer, error)
	Public() []token.Key
}

// Publisher records denials.
type Publisher interface {
	Publish(ctx context.Context, es ...events.Event) error
}

// Config of a Minter. All fields but Failpoint are required.
type Config struct {
	Issuer     string   // "iss"
	Issuers    []string // trusted issuers of attestations, to name them in records
	TTL        time.Duration
	MaxTTL     time.Duration
	MaxDepth   int
	MaxWidth   int // exchanges of one credential
	Attester   Attester
	Bindings   Bindings
	Identities Identities
	Ledger     Ledger
	KillSet    KillSet
	Keys       Keys
	Namer      *lineage.Namer
	Policies   Policies
	Log        *zap.Logger
	Publisher  Publisher
	Rand       io.Reader
	Now        func() time.Time
	// TransactionDomain is the trust domain of transaction tokens; empty: there are none.
	TransactionDomain string
	ChainTo           []string // other issuers for which grants are made
	// Endpoint is the URL of the token endpoint, which DPoP proofs name.
	Endpoint *url.URL
	Nonces   *Nonces
	// Once reports whether id is shown for the first time within ttl, at any process of
	// this issuer.
	Once func(ctx context.Context, space, id string, ttl time.Duration) (bool, error)
	// Count counts id up by one, over all processes of this issuer; what was not counted
	// for ttl is forgotten.
	Count func(ctx context.Context, space, id string, ttl time.Duration) (int64, error)
	// Failpoint is called between the last check of the lineage and the append;
	// tests let revocations race there.
	Failpoint func()
}

// Minter decides token requests. It is safe for concurrent use.
type Minter struct {
	Config
	searches atomic.Int32 // see namesakes
}

// Parent is the credential that is exchanged, verified.
type Parent struct {
	Claims   token.Claims
	Identity registry.Identity // who held it
	// Transaction is set when it is a transaction token. Then Claims are what it says of
	// the subject.
	Transaction *token.Transaction
}

// decision is what is known of a request when the identity's turn comes.
type decision struct {
	request  Request
	id       string // of the request
	ref      registry.Ref
	attested attest.Attested
	launcher attest.Attested // who started the task; zero: nobody else than the workload
	parent   *Parent
	confirm  *token.Confirm     // what the credential will be bound to; nil: nothing
	txn      *token.Transaction // set when a transaction token is wanted
	chain    string             // other issuer, when a grant for it is wanted
	chained  *attest.Grant      // of another issuer, when it is the proof
	trust    *events.TrustDeclared
	width    int64 // exchanges of the parent so far, with this one
	now      time.Time
	jti      string
	step     string // id of the delegation, for exchanges
}

// Mint decides q. The token is on the log, with everything it hangs from, before Mint
// returns it. Denials of known identities are on the log too; the error is an *Error
// in any case.
func (m *Minter) Mint(ctx context.Context, q Request) (Response, error) {
	d, err := m.prepare(ctx, q)
	if err == nil {
		var resp Response
		if resp, err = m.issue(ctx, d); err == nil {
			return resp, nil
		}
	}
	e := asError(err)
	m.record(ctx, d, e)
	return Response{}, e
}

// prepare does what needs no lock on the identity: it verifies proof and parent and
// finds out who asks.
func (m *Minter) prepare(ctx context.Context, q Request) (decision, error) {
	d := decision{request: q, now: m.Now()}
	d.request.Proof, d.request.Parent, d.request.Launch, d.request.DPoP, d.request.Client = "", "", "", "", Client{}
	ids := make([]byte, 48)
	if _, err := io.ReadFull(m.Rand, ids); err != nil {
		return d, fmt.Errorf("draw ids: %w", err)
	}
	d.id, d.jti, d.step = hex.EncodeToString(ids[:16]), hex.EncodeToString(ids[16:32]), hex.EncodeToString(ids[32:])
	if !m.Ledger.IsReady() {
		return d, unavailable(nil, "the revocations of the past are still being read")
	}
	if !m.KillSet.Status().Fresh {
		return d, unavailable(nil, "the kill feed is not current, so nothing may be issued")
	}
	confirm, proof, e := m.confirm(q, d.now)
	if e != nil {
		return d, e
	}
	d.confirm = confirm
	var err error
	if err = m.who(ctx, q, &d); err != nil {
		return d, err
	}
	if e := m.useProof(ctx, proof); e != nil {
		return d, e
	}
	if q.Grant != GrantExchange {
		d.launcher, err = m.launch(ctx, q.Launch)
		return d, err
	}
	d.parent, err = m.openParent(ctx, q, d.now)
	if err != nil {
		return d, err
	}
	if e := keepBinding(d.parent.Claims.Confirm, d.confirm); e != nil {
		return d, e
	}
	if q.Transaction != nil {
		e = m.begin(&d)
	} else {
		e = m.chainTo(&d)
	}
	if e != nil {
		return d, e
	}
	if err := m.admitStep(&d); err != nil {
		return d, err
	}
	if e := m.widen(ctx, &d); e != nil {
		return d, e
	}
	return d, nil
}

func (m *Minter) attest(ctx context.Context, q Request) (attest.Attested, error) {
	var a attest.Attested
	var err error
	code := InvalidGrant
	switch {
	case q.Client.Type == AssertionSPIFFE:
		return m.bySVID(ctx, q)
	case q.Grant == GrantClient:
		code = InvalidClient
		a, err = m.Attester.VerifyCertificate(ctx, q.Client.Certificates)
	default:
		a, err = m.Attester.Verify(ctx, q.Proof)
	}
	switch {
	case errors.Is(err, attest.ErrUnavailable):
		return a, unavailable(err, attest.ErrUnavailable.Error())
	case err != nil:
		return a, &Error{Code: code, Reason: err.Error(), cause: err}
	case q.Grant == GrantClient && a.Subject != q.Client.SPIFFEID:
		return attest.Attested{}, refuse(code, "client_id must be the SPIFFE ID of the client certificate")
	}
	return a, nil
}

// resolve finds the identity that the attested workload speaks for.
func (m *Minter) resolve(ctx context.Context, a attest.Attested, q Request) (registry.Ref, error) {
	var all, refs []registry.Ref
	var err error
	for _, fresh := range []bool{false, true} { // a miss counts only when it is fresh
		if all, err = m.Bindings.Bound(ctx, a.Issuer, a.Subject, fresh); err != nil {
			return registry.Ref{}, unavailable(err, "the registry cannot be read")
		}
		for _, r := range all {
			if (q.Tenant == "" || r.Tenant == q.Tenant) && (q.ClientID == "" || r.Identity == q.ClientID) {
				refs = append(refs, r)
			}
		}
		if len(refs) > 0 {
			break
		}
	}
	if len(refs) > 1 {
		if refs, err = m.attesting(ctx, a, refs); err != nil {
			return registry.Ref{}, err
		}
	}
	switch {
	case len(refs) == 1:
		return refs[0], nil
	case len(refs) > 1:
		return registry.Ref{}, refuse(InvalidRequest, "this workload speaks for several identities: name one with the parameters tenant and client_id")
	case len(all) > 0:
		return registry.Ref{}, refuse(UnauthorizedClient, "this workload does not speak for such an identity in that tenant: check the parameters tenant and client_id")
	}
	return registry.Ref{}, refuse(UnauthorizedClient, "no identity is registered for this workload: declare one with this issuer and subject as its attestation")
}

// attesting keeps the candidates that still are bound to the attestation.
func (m *Minter) attesting(ctx context.Context, a attest.Attested, refs []registry.Ref) ([]registry.Ref, error) {
	var out []registry.Ref
	for _, r := range refs {
		s, _, err := m.Identities.Load(ctx, r.Tenant, r.Identity)
		if err != nil {
			return nil, unavailable(err, "the registry cannot be read")
		}
		if s.Attests(a.Issuer, a.Subject) {
			out = append(out, r)
		}
	}
	return out, nil
}

// openParent verifies the credential that is exchanged. Its audience may be any
// resource: it was not sent to us to act here, but to be narrowed.
func (m *Minter) openParent(ctx context.Context, q Request, now time.Time) (*Parent, error) {
	p, err := m.readParent(q)
	if err != nil {
		return nil, &Error{Code: InvalidGrant, Reason: "the subject_token is not a token that this issuer signed, of the type that is named", cause: err}
	}
	c := p.Claims
	const leeway = 5
	switch {
	case c.Issuer != m.Issuer:
		return nil, refuse(InvalidGrant, "the subject_token is from another issuer")
	case now.Unix() >= c.Expires: // no leeway: nothing would be left to pass on
		return nil, refuse(InvalidGrant, "the subject_token has expired")
	case c.NotBefore > now.Unix()+leeway || c.IssuedAt > now.Unix()+leeway:
		return nil, refuse(InvalidGrant, "the subject_token is not valid yet")
	}
	if e := m.alive(now, c.Lineage); e != nil {
		return nil, refuse(InvalidGrant, "the subject_token or something it hangs from is revoked or frozen")
	}
	s, _, err := m.Identities.Load(ctx, c.Tenant, c.Subject)
	if err != nil {
		return nil, unavailable(err, "the registry cannot be read")
	}
	if status := s.Status(now); status != registry.StatusActive {
		return nil, refuse(InvalidGrant, "the identity that holds the subject_token is %s", status)
	}
	p.Identity = s
	return p, nil
}

// readParent reads a subject_token that this issuer signed.
func (m *Minter) readParent(q Request) (*Parent, error) {
	keys := token.NewKeySet(m.Keys.Public()...)
	if q.ParentType == TypeTransaction {
		return readTransactionParent(q.Parent, keys)
	}
	payload, _, err := token.Open(q.Parent, token.TypAccess, keys)
	if err != nil {
		return nil, err
	}
	c, err := token.ParseClaims(payload)
	return &Parent{Claims: c}, err
}

// admitStep checks what only exchanges have: no cycle, one task, trust between tenants.
func (m *Minter) admitStep(d *decision) error {
	c := d.parent.Claims
	self := m.Namer.Name(lineage.KindIdentity, d.ref.Tenant, d.ref.Identity)
	for _, h := range c.Lineage {
		if h == self && !d.aside() { // a transaction may pass a workload more than once
			return refuse(InvalidRequest, "identity %s is in the chain of delegations already: a chain must not come back", clip(d.ref.Identity))
		}
	}
	switch d.request.Task {
	case "", c.Task:
		d.request.Task = c.Task
	default:
		return refuse(InvalidRequest, "an exchanged credential belongs to its parent's task: leave task out")
	}
	if c.Tenant == d.ref.Tenant {
		return nil
	}
	t, ok := m.Ledger.Trust(c.Tenant, d.ref.Tenant)
	if !ok || t.MaxDepth < 1 {
		return refuse(InvalidTarget, "the tenant of the subject_token has not declared trust in the actor's tenant")
	}
	if e := m.alive(d.now, []lineage.Handle{m.Namer.Name(lineage.KindTrust, c.Tenant, t.Trust)}); e != nil {
		return refuse(InvalidTarget, "the trust between the two tenants has been revoked")
	}
	d.trust = &t
	return nil
}

// alive reports a refusal when any handle is dead: by the guard, which hears first, or
// by the log, which never forgets.
func (m *Minter) alive(now time.Time, lin []lineage.Handle) *Error {
	if e, dead := m.KillSet.Dead(lin); dead {
		return refuse(InvalidGrant, "something the credential would hang from is revoked or frozen by revocation %s", clip(e.Revocation))
	}
	if _, rev, dead := m.Ledger.Dead(now, lin...); dead {
		return refuse(InvalidGrant, "something the credential would hang from is revoked or frozen by revocation %s", clip(rev))
	}
	return nil
}

// issue decides, signs and records under the condition that nothing about the identity
// changes meanwhile, and looks at the lineage again before it hands the token out.
func (m *Minter) issue(ctx context.Context, d decision) (Response, error) {
	signer, err := m.Keys.Signer()
	if err != nil {
		return Response{}, fmt.Errorf("find signing key: %w", err)
	}
	var c *credential
	_, _, err = m.Identities.Decide(ctx, d.ref.Tenant, d.ref.Identity, func(s registry.Identity) ([]events.Event, error) {
		var err error
		if c, err = m.decide(d, s, signer); err != nil {
			return nil, err
		}
		if m.Failpoint != nil {
			m.Failpoint()
		}
		return c.events, nil
	})
	if err != nil {
		if _, ok := errors.AsType[*Error](err); ok {
			return Response{}, err
		}
		return Response{}, unavailable(err, "the credential could not be recorded, so it was not handed out")
	}
	if e := m.alive(m.Now(), c.claims.Lineage); e != nil {
		return Response{}, e
	}
	resp := Response{AccessToken: c.token, TokenType: tokenType(c.claims), ExpiresIn: c.claims.Expires - d.now.Unix(), Scope: c.claims.Scope, Details: c.claims.Details}
	if d.parent != nil {
		resp.IssuedTokenType = TypeAccessToken
	}
	if d.txn != nil {
		resp.IssuedTokenType, resp.TokenType = TypeTransaction, "N_A"
	}
	if d.chain != "" {
		resp.IssuedTokenType, resp.TokenType = TypeJWT, "N_A"
	}
	return resp, nil
}

// record states a denial: on the log for an identity that proved itself, else only to
// the operator's log. A request that could not be decided is not a denial.
func (m *Minter) record(ctx context.Context, d decision, e *Error) {
	fields := []zap.Field{zap.String("code", e.Code), zap.String("reason", e.Reason), zap.String("request", d.id),
		zap.String("grant", d.request.Grant), zap.String("tenant", d.ref.Tenant), zap.String("identity", d.ref.Identity),
		zap.String("attested_issuer", d.attested.Issuer), zap.String("attested_subject", clip(d.attested.Subject)), zap.NamedError("cause", e.cause)}
	if e.Code == Unavailable || e.Code == ServerError {
		m.Log.Error("token request not decided", fields...)
		return
	}
	m.Log.Info("token request denied", fields...)
	if d.ref.Identity == "" {
		return
	}
	p := events.CredentialDenied{Request: d.id, Identity: d.ref.Identity, Task: d.request.Task, Code: e.Code, Reason: e.Reason,
		Audience: d.request.Ask.Audience, Scope: d.request.Ask.Scope, Policy: cmp.Or(e.policy, InvariantsVersion),
		Reasons: e.reasons, Context: e.context}
	if d.parent != nil {
		p.Parent = d.parent.Claims.ID
	}
	ev, err := events.New(events.Origin{Source: registry.Source, Tenant: d.ref.Tenant, Time: d.now, Traceparent: d.request.Traceparent}, p)
	if err == nil {
		err = m.Publisher.Publish(ctx, ev)
	}
	if err != nil {
		m.Log.Error("denial not recorded", zap.String("request", d.id), zap.Error(err))
	}
}
