package grant

import (
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/registry"
)

// credential is a signed token with the events that record it.
type credential struct {
	token  string
	claims token.Claims
	events []events.Event
}

// depth is how many delegations will be above the credential. It is counted on the act
// chain of a token that we signed; as RFC 8693 section 4.1 asks, the chain grants
// nothing: it only makes us refuse.
func (d decision) depth() int {
	if d.parent == nil {
		return 0
	}
	n := 0
	for a := d.parent.Claims.Actor; a != nil; a = a.Actor {
		n++
	}
	return max(n, 1) // the first delegation writes two actors: itself and its parent
}

func (d decision) ceilings(s registry.Identity) []Ceiling {
	reg := s.Registration
	out := []Ceiling{{Name: "identity " + reg.Identity, Scope: reg.Scopes, Audience: reg.Audiences,
		Detail: func(x token.Detail) bool { return slices.Contains(reg.DetailTypes, x.Type) }}}
	if d.parent != nil {
		c := d.parent.Claims
		end := time.Unix(c.Expires, 0)
		if longest := d.now.Add(d.longest()); d.aside() && longest.Before(end) {
			end = longest
		}
		out = append(out, Ceiling{Name: "the subject_token", Scope: strings.Fields(c.Scope), Audience: c.Audience, Expires: end,
			AnyAudience: d.aside() && d.parent.Transaction == nil, // it goes somewhere else
			Detail:      func(x token.Detail) bool { return token.Covered(x, c.Details) }, Held: c.Details})
	}
	if d.chained != nil {
		out = append(out, bounds(d.chained))
	}
	if d.trust != nil {
		out = append(out, Ceiling{Name: "trust " + d.trust.Trust, Scope: d.trust.Scopes, AnyAudience: true, MaxDepth: d.trust.MaxDepth})
	}
	return out
}

func (d decision) links(s registry.Identity, kid string) []link {
	h := holder{tenant: d.ref.Tenant, identity: d.ref.Identity, owner: s.Registration.Owner, feature: s.Registration.Feature,
		issuer: d.attested.Issuer, subject: d.attested.Subject, launcher: d.launchedBy()}
	if d.parent == nil {
		return rootLinks(h, kid, d.request.Task, d.jti)
	}
	trust := ""
	if d.trust != nil {
		trust = d.trust.Trust
	}
	links := stepLinks(h, d.parent.Claims.Tenant, trust, d.step, kid, d.jti)
	if d.aside() { // nobody is delegated anything
		links = slices.DeleteFunc(links, func(l link) bool { return l.kind == lineage.KindDelegation })
	}
	return links
}

// above is what may be known by name of the parent's lineage: what it is called is
// only written where the handle shows that it is there.
func (d decision) above(issuers []string) []link {
	if d.parent == nil {
		return nil
	}
	c := d.parent.Claims
	out := []link{
		{lineage.KindTenant, c.Tenant, c.Tenant},
		{lineage.KindIdentity, c.Tenant, c.Subject},
		{lineage.KindTask, c.Tenant, c.Task},
		{lineage.KindCredential, c.Tenant, c.ID},
	}
	if reg := d.parent.Identity.Registration; reg != nil {
		out = append(out, link{lineage.KindOwner, c.Tenant, reg.Owner}, link{lineage.KindFeature, c.Tenant, reg.Feature})
	}
	for a := c.Actor; a != nil; a = a.Actor {
		out = append(out, link{lineage.KindIdentity, a.Tenant, a.Subject}, link{lineage.KindTask, a.Tenant, c.Task})
	}
	for _, iss := range issuers {
		out = append(out, link{lineage.KindDomain, "", iss})
	}
	return out
}

func (d decision) claims(issuer string, g Granted, lin []lineage.Handle) token.Claims {
	c := token.Claims{Issuer: issuer, Subject: d.ref.Identity, Audience: g.Audience, ClientID: d.ref.Identity,
		IssuedAt: d.now.Unix(), Expires: g.Expires.Unix(), ID: d.jti, Scope: strings.Join(g.Scope, " "),
		Tenant: d.ref.Tenant, Task: d.request.Task, Lineage: lin, Confirm: d.confirm, Details: g.Details}
	if d.parent != nil {
		// RFC 8693 section 4.1: the outermost actor acts now, nested ones acted before.
		earlier := d.parent.Claims.Actor
		if earlier == nil {
			earlier = &token.Actor{Subject: d.parent.Claims.Subject, Tenant: d.parent.Claims.Tenant}
		}
		c.Actor = &token.Actor{Subject: d.ref.Identity, Tenant: d.ref.Tenant, Actor: earlier}
	}
	return c
}

// statements is what the log must hold before the token may be handed out, and for an
// exchange the activity that detection watches.
func (m *Minter) statements(d decision, s registry.Identity, g Granted, c *credential, nameables []link, kid string, r ruling) ([]events.Event, error) {
	lin := texts(c.claims.Lineage)
	issuedEvent := events.CredentialIssued{Credential: d.jti, TokenSHA256: token.HashText(c.token), Identity: d.ref.Identity,
		Task: d.request.Task, Request: d.id, Parent: d.parentID(), Audience: g.Audience, Scope: g.Scope,
		Lineage: lin, Names: nameable(m.Namer, d.ref.Tenant, c.claims.Lineage, nameables),
		IssuedAt: time.Unix(c.claims.IssuedAt, 0).UTC(), ExpiresAt: g.Expires.UTC(), KeyID: kid,
		Policy: r.version, Reasons: r.Reasons, Exceptions: r.Exceptions, Context: r.context}
	if d.parent == nil {
		issuedEvent.HeartbeatSeconds = s.Registration.HeartbeatSeconds
	}
	for _, x := range g.Details {
		issuedEvent.Details = append(issuedEvent.Details, events.Detail(x))
	}
	if d.parent != nil && !d.aside() {
		issuedEvent.Delegation = d.step
	}
	issued, err := events.New(events.Origin{Source: registry.Source, Tenant: d.ref.Tenant, Time: d.now,
		Discriminator: d.id, Traceparent: d.request.Traceparent}, issuedEvent)
	if err != nil {
		return nil, err
	}
	out := []events.Event{issued}
	if d.parent == nil {
		return out, nil
	}
	origin := events.Origin{Source: registry.Source, Tenant: d.ref.Tenant, Time: d.now, Cause: &issued}
	more := []events.Payload{m.delegation(d, g, lin), m.activity(d, s, g)}
	if d.aside() {
		more = more[1:]
	}
	for _, p := range more {
		e, err := events.New(origin, p)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	return out, nil
}

func (d decision) parentID() string {
	if d.parent == nil {
		return ""
	}
	return d.parent.Claims.ID
}

func (m *Minter) delegation(d decision, g Granted, lin []string) events.DelegationCreated {
	c := d.parent.Claims
	p := events.DelegationCreated{Delegation: d.step, Handle: m.Namer.Name(lineage.KindDelegation, d.ref.Tenant, d.step).String(),
		Identity: d.ref.Identity, From: events.Party{Tenant: c.Tenant, Identity: c.Subject}, Parent: c.ID, Credential: d.jti,
		Task: d.request.Task, Depth: g.Depth, Scope: g.Scope, Parents: strings.Fields(c.Scope), Audience: g.Audience,
		Lineage: lin, ExpiresAt: g.Expires.UTC(), ParentExp: time.Unix(c.Expires, 0).UTC()}
	if d.trust != nil {
		p.Trust = d.trust.Trust
	}
	return p
}

func (m *Minter) activity(d decision, s registry.Identity, g Granted) events.TokenExchanged {
	c := d.parent.Claims
	exp := time.Unix(c.Expires, 0).UTC()
	a := events.Activity{Identity: d.ref.Identity, IdentityKind: s.Registration.Kind, Owner: s.Registration.Owner,
		Credential: c.ID, CredentialExp: &exp, Lineage: texts(c.Lineage), DelegationDepth: g.Depth, Scopes: g.Scope,
		ParentScopes: strings.Fields(c.Scope), Workload: d.attested.Subject, WorkloadAttested: true, Task: d.request.Task,
		Destination: m.Issuer, Action: "token.exchange", MintedID: d.jti, Outcome: events.OutcomeSuccess}
	if d.aside() { // nobody is delegated anything, and who asks may hold the parent or be in its chain
		a.DelegationDepth = 0
		return events.TokenExchanged{Activity: a}
	}
	a.Delegation = append(a.Delegation, events.Party{Tenant: d.ref.Tenant, Identity: d.ref.Identity})
	if c.Actor == nil {
		a.Delegation = append(a.Delegation, events.Party{Tenant: c.Tenant, Identity: c.Subject})
	}
	for p := c.Actor; p != nil; p = p.Actor {
		a.Delegation = append(a.Delegation, events.Party{Tenant: p.Tenant, Identity: p.Subject})
	}
	return events.TokenExchanged{Activity: a}
}
