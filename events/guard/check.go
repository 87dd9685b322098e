package guard

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// Request is what a decision is made of beside the token.
type Request struct {
	Token  string
	Scopes []string // all are required
	// HTTP is for the sender constraint; nil when the token must not be bound. Its
	// method and URL are what a DPoP proof must name: behind a proxy that ends TLS,
	// make the URL absolute first. Its Authorization header, when there is one, tells
	// which scheme the token came by.
	HTTP *http.Request
	// MinSequence asks for an answer at least as fresh as this sequence of the kill
	// feed, for a caller that knows of a revocation there. 0 asks for nothing.
	MinSequence uint64
	// Class is the data class that the answer is about, one of Config.Classes; "" asks
	// for no more than the lease.
	Class string
}

// Check decides. A nil error means allowed; otherwise it is a *Denial. The claims of
// a denied token are in the Denial only.
func (g *Guard) Check(ctx context.Context, r Request) (token.Claims, error) {
	d, err := g.Decide(ctx, r)
	return d.Claims, err
}

// Dead reports whether any handle is revoked or frozen now, and by which entry.
// It does not look at the lease.
func (g *Guard) Dead(lin []lineage.Handle) (Entry, bool) { return g.set.find(lin, g.cfg.Now()) }

// decide asks about the token first and about the guard afterwards: the machine may
// sleep meanwhile, and only a lease that is valid after the decision makes it one about
// now. A guard that cannot know says nothing else.
func (g *Guard) decide(ctx context.Context, r Request) (Decision, *Denial) {
	if r.Token == "" {
		return Decision{}, &Denial{Code: CodeMissing, Reason: "no token was presented"}
	}
	on := g.footing(r.Class, r.Scopes)
	claims, refused := g.judge(ctx, r)
	yes, unknown := g.know(on, r.MinSequence)
	switch {
	case unknown != nil:
		if claims.ID != "" {
			unknown.Claims = &claims
		}
		return Decision{}, unknown
	case refused != nil:
		return Decision{}, refused
	}
	yes.Claims = claims
	if yes.Stale && g.cfg.Stale != nil {
		g.cfg.Stale(yes)
	}
	return yes, nil
}

// judge is what there is against a token. The claims are those of a signed one.
func (g *Guard) judge(ctx context.Context, r Request) (token.Claims, *Denial) {
	now := g.cfg.Now()
	claims, err := g.verify(r.Token, token.Expect{
		Issuer: g.cfg.Issuer, Audience: g.cfg.Audience, Now: now, Leeway: g.cfg.Leeway,
	})
	if err != nil {
		d := &Denial{Code: code(err), Reason: err.Error()}
		if claims.ID != "" {
			d.Claims = &claims
		}
		return claims, d
	}
	if e, dead := g.set.find(claims.Lineage, now); dead {
		return claims, revoked(e, &claims)
	}
	if d := g.bound(r, &claims, now); d != nil {
		d.Claims = &claims
		return claims, d
	}
	if missing := Lacks(claims.Scope, r.Scopes); missing != "" {
		return claims, &Denial{Code: CodeScope, Reason: "scope " + missing + " is not granted", Claims: &claims}
	}
	if err := ctx.Err(); err != nil {
		return claims, &Denial{Code: CodeStale, Reason: "the request ended: " + err.Error(), Claims: &claims}
	}
	return claims, nil
}

// know is on what a yes would stand, or the denial of a guard that cannot know, or
// that knows less than asked.
func (g *Guard) know(on footing, atLeast uint64) (Decision, *Denial) {
	stale, age, _, d := g.stand(on)
	if d != nil {
		return Decision{}, d
	}
	if atLeast > 0 {
		if applied := g.position().applied; applied < atLeast {
			return Decision{}, &Denial{Code: CodeStale, Reason: fmt.Sprintf("asked for sequence %d of the kill feed, applied %d", atLeast, applied)}
		}
	}
	return Decision{Class: on.class, Stale: stale, Age: age, on: on}, nil
}

func revoked(e Entry, c *token.Claims) *Denial {
	d := &Denial{Code: CodeRevoked, Claims: c, Revocation: e.Revocation, By: e.By, At: e.At, Handle: e.Handle}
	what := "revoked"
	if e.Mode == events.ModeFreeze {
		d.Code, what = CodeFrozen, "frozen until "+e.Until.UTC().Format(time.RFC3339)
	}
	d.Reason = fmt.Sprintf("handle %s is %s: %s", e.Handle, what, e.Reason)
	return d
}

// code names what token.Verify found.
func code(err error) string {
	for _, c := range []struct {
		err  error
		code string
	}{
		{token.ErrUnknownKey, CodeUnknownKey},
		{token.ErrSignature, CodeSignature},
		{token.ErrAlgorithm, CodeSignature},
		{token.ErrLineage, CodeLineage},
		{token.ErrIssuer, CodeIssuer},
		{token.ErrAudience, CodeAudience},
		{token.ErrExpired, CodeExpired},
		{token.ErrNotYet, CodeNotYet},
	} {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return CodeMalformed
}

// Lacks is the first required scope that is not granted, "" when all are. Granted is
// space delimited.
func Lacks(granted string, required []string) string {
	for _, want := range required {
		found := false
		for have := range strings.FieldsSeq(granted) {
			if have == want {
				found = true
				break
			}
		}
		if !found {
			return want
		}
	}
	return ""
}
