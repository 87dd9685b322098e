package grant

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	"github.com/lanyard-nhi/lanyard/services/issuance/internal/attest"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/registry"
)

// Client assertion types.
const (
	AssertionJWT    = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" // RFC 7523 section 2.2
	AssertionSPIFFE = "urn:ietf:params:oauth:client-assertion-type:jwt-spiffe" // draft-ietf-oauth-spiffe-client-auth
)

// maxNamesakes is how many tenants' clients of one id are tried by their keys.
const maxNamesakes = 8

// maxSearches is how many clients that nobody heard of are looked for at a time.
const maxSearches = 8

// readClient reads how the client authenticates. A client assertion takes the place of
// the attestation: at client_credentials of the certificate, at token-exchange of the
// actor_token.
func readClient(q *Request, r *http.Request, form url.Values) *Error {
	if r.TLS != nil {
		q.Client.Certificates = r.TLS.PeerCertificates
	}
	q.Client.Type, q.Client.Assertion = form.Get("client_assertion_type"), form.Get("client_assertion")
	switch {
	case q.Client.Type == "" && q.Client.Assertion == "":
		return nil
	case q.Client.Assertion == "":
		return refuse(InvalidRequest, "client_assertion is missing")
	case q.Client.Type != AssertionJWT && q.Client.Type != AssertionSPIFFE:
		return refuse(InvalidRequest, "client_assertion_type must be %s or %s", AssertionJWT, AssertionSPIFFE)
	case q.Grant == GrantJWTBearer:
		return refuse(InvalidRequest, "the assertion of this grant proves the client: leave client_assertion out, or use %s", GrantClient)
	}
	return nil
}

// unauthenticated is the one answer to every client assertion that does not count.
func unauthenticated(cause error) *Error {
	return &Error{Code: InvalidClient, Reason: "client authentication failed; the operator's log says why", cause: cause}
}

// who finds out which workload asks and for which identity it speaks.
func (m *Minter) who(ctx context.Context, q Request, d *decision) (err error) {
	switch {
	case q.Client.Type == AssertionJWT:
		d.attested, d.ref, err = m.byOwnKey(ctx, q)
		return err
	case q.Grant == GrantJWTBearer && attest.IsGrant(q.Proof):
		return m.byGrant(ctx, q, d)
	}
	if d.attested, err = m.attest(ctx, q); err != nil {
		return err
	}
	d.ref, err = m.resolve(ctx, d.attested, q)
	return err
}

// bySVID checks a JWT-SVID as client assertion. It may be shown again while it lives,
// as the SPIFFE Workload API hands the same one out until it is nearly over.
func (m *Minter) bySVID(ctx context.Context, q Request) (attest.Attested, error) {
	a, err := m.Attester.Verify(ctx, q.Client.Assertion)
	switch {
	case errors.Is(err, attest.ErrUnavailable):
		return a, unavailable(err, attest.ErrUnavailable.Error())
	case err != nil:
		return a, unauthenticated(err)
	case !strings.HasPrefix(a.Subject, "spiffe://"):
		return attest.Attested{}, unauthenticated(errors.New("the client assertion is no JWT-SVID"))
	case q.Client.SPIFFEID != "" && q.Client.SPIFFEID != a.Subject:
		return attest.Attested{}, unauthenticated(errors.New("client_id is not the SPIFFE ID of the JWT-SVID"))
	}
	return a, nil
}

// byOwnKey checks an assertion that a client signed itself, by the keys in the
// registration of whoever it claims to be, and remembers that it was used.
func (m *Minter) byOwnKey(ctx context.Context, q Request) (attest.Attested, registry.Ref, error) {
	var none attest.Attested
	read, err := attest.ReadClientAssertion(q.Client.Assertion)
	if err == nil && q.ClientID != "" && q.ClientID != read.ClientID {
		err = attest.ErrClient
	}
	if err != nil {
		return none, registry.Ref{}, unauthenticated(err)
	}
	a, ref, err := m.ownerOf(ctx, read, q.Tenant)
	if err != nil {
		return none, registry.Ref{}, err
	}
	e := m.once(ctx, "assertion", a.Issuer+"\x00"+a.Subject+"\x00"+a.ID, a.Expires.Sub(m.Now())+attest.Replayable)
	if e != nil && e.Code == InvalidRequest {
		return none, ref, unauthenticated(errors.New("the client assertion was used before"))
	} else if e != nil {
		return none, ref, e
	}
	return a, ref, nil
}

// ownerOf is the one identity whose registered key signed the assertion.
func (m *Minter) ownerOf(ctx context.Context, read attest.ClientAssertion, tenant string) (attest.Attested, registry.Ref, error) {
	var none attest.Attested
	refs, err := m.namesakes(ctx, read.ClientID, tenant)
	if err != nil {
		return none, registry.Ref{}, unavailable(err, "the registry cannot be read")
	}
	var found []registry.Ref
	var attested attest.Attested
	why := errors.New("no identity of that id has keys")
	for _, ref := range refs[:min(len(refs), maxNamesakes)] {
		s, _, err := m.Identities.Load(ctx, ref.Tenant, ref.Identity)
		if err != nil {
			return none, registry.Ref{}, unavailable(err, "the registry cannot be read")
		}
		if s.Registration == nil {
			continue
		}
		a, err := m.Attester.VerifyClient(read, s.Registration.Keys)
		if err != nil {
			why = err
			continue
		}
		found, attested = append(found, ref), a
	}
	switch len(found) {
	case 0:
		return none, registry.Ref{}, unauthenticated(why)
	case 1:
		return attested, found[0], nil
	}
	return none, registry.Ref{}, refuse(InvalidRequest, "this client is registered in several tenants with one key: name one with the parameter tenant")
}

// namesakes is the clients of that id. A miss counts only when it is fresh; but anybody may
// ask for a client that does not exist, so few such searches run at a time.
func (m *Minter) namesakes(ctx context.Context, id, tenant string) ([]registry.Ref, error) {
	for _, fresh := range []bool{false, true} {
		if fresh {
			defer m.searches.Add(-1)
			if m.searches.Add(1) > maxSearches {
				return nil, errors.New("too many clients are being looked for")
			}
		}
		all, err := m.Bindings.Bound(ctx, registry.OwnKeys, id, fresh)
		if err != nil {
			return nil, err
		}
		var refs []registry.Ref
		for _, r := range all {
			if tenant == "" || r.Tenant == tenant {
				refs = append(refs, r)
			}
		}
		if len(refs) > 0 {
			return refs, nil
		}
	}
	return nil, nil
}
