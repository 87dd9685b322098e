package grant

import (
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/policy"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/registry"
)

// decide makes the credential for an identity as the log has it now, or an *Error. It
// reads nothing that a repetition would see changed but the kill set and the policies,
// of which it takes one version.
func (m *Minter) decide(d decision, s registry.Identity, signer token.Signer) (*credential, error) {
	if e := d.admit(s); e != nil {
		return nil, e
	}
	g, r, e := m.grant(d, s)
	if e != nil {
		return nil, e
	}
	links := d.links(s, signer.ID)
	lin, e := extend(m.Namer, d.inherited(), links)
	if e != nil {
		return nil, e
	}
	if e := m.alive(d.now, lin); e != nil {
		return nil, e
	}
	c := &credential{claims: d.claims(m.Issuer, g, lin)}
	var err error
	typ, body := d.form(c.claims)
	if c.token, err = signer.Sign(typ, body); err != nil {
		return nil, err
	}
	c.events, err = m.statements(d, s, g, c, append(links, d.above(m.Issuers)...), signer.ID, r)
	return c, err
}

// grant is how much the credential will hold: within every ceiling first, then what
// the policies leave of that.
func (m *Minter) grant(d decision, s registry.Identity) (Granted, ruling, *Error) {
	limits := Limits{Now: d.now, TTL: m.TTL, MaxTTL: m.MaxTTL, MaxDepth: m.MaxDepth}
	g, e := Narrow(d.request.Ask, d.depth(), d.ceilings(s), limits)
	if e != nil {
		return g, ruling{}, e
	}
	set := m.Policies.Active()
	if set == nil {
		return g, ruling{}, unavailable(nil, "the policies in force are not known yet")
	}
	var exceptions []policy.Exception
	for _, x := range m.Ledger.Exceptions(d.now, d.ref.Tenant, d.ref.Identity, s.Registration.Feature) {
		exceptions = append(exceptions, policy.Exception{ID: x.Exception, Policy: x.Policy, Scopes: x.Scopes, Audiences: x.Audiences})
	}
	r, e := d.rule(set, s, g, exceptions)
	if e != nil {
		return g, r, e
	}
	g.Scope = r.Scope
	if r.MaxTTL == 0 || r.MaxTTL >= limits.MaxTTL {
		return g, r, nil
	}
	limits.TTL, limits.MaxTTL = min(limits.TTL, r.MaxTTL), r.MaxTTL
	if g.Expires, e = narrowTime(d.request.Ask.TTL, d.ceilings(s), limits); e != nil {
		e.policy, e.reasons, e.context = r.version, r.Reasons, r.context
	}
	return g, r, e
}
