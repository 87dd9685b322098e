package grant

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/attest"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/registry"
)

// UnsupportedTokenType is the error code of RFC 7009 section 2.2.1.
const UnsupportedTokenType = "unsupported_token_type"

const (
	revokeWait = 5 * time.Second       // for a revocation to be in force here
	revokeTick = 20 * time.Millisecond // between two looks
)

// introspection is the answer about a live token (RFC 7662 section 2.2), with the members
// of RFC 8693 section 4, RFC 7800 and ours.
type introspection struct {
	Active    bool           `json:"active"`
	Issuer    string         `json:"iss"`
	Subject   string         `json:"sub"`
	Audience  token.Strings  `json:"aud"`
	ClientID  string         `json:"client_id"`
	Scope     string         `json:"scope,omitempty"`
	TokenType string         `json:"token_type"`
	IssuedAt  int64          `json:"iat"`
	NotBefore int64          `json:"nbf,omitempty"`
	Expires   int64          `json:"exp"`
	ID        string         `json:"jti"`
	Tenant    string         `json:"tenant"`
	Task      string         `json:"task,omitempty"`
	Confirm   *token.Confirm `json:"cnf,omitempty"`
	Actor     *token.Actor   `json:"act,omitempty"`
	Details   []token.Detail `json:"authorization_details,omitempty"`
}

// inactive is all that is said of any other token (RFC 7662 section 2.2).
type inactive struct {
	Active bool `json:"active"`
}

// own reads a credential that this issuer signed and that is not over.
func (m *Minter) own(raw string, now time.Time) (token.Claims, bool) {
	payload, _, err := token.Open(raw, token.TypAccess, token.NewKeySet(m.Keys.Public()...))
	if err != nil {
		return token.Claims{}, false
	}
	c, err := token.ParseClaims(payload)
	return c, err == nil && c.Issuer == m.Issuer && now.Unix() < c.Expires
}

// Inspect reads a credential of this issuer and reports whether it is good now, which is
// more than its text tells: nothing it hangs from is revoked or frozen, by the feed or by
// the log, and its holder is active. The error is an *Error.
func (m *Minter) Inspect(ctx context.Context, raw string) (token.Claims, bool, error) {
	now := m.Now()
	if !m.Ledger.IsReady() || !m.KillSet.Status().Fresh {
		return token.Claims{}, false, unavailable(nil, "what is revoked is not known here now")
	}
	c, ok := m.own(raw, now)
	if !ok || c.NotBefore > now.Unix() || m.alive(now, c.Lineage) != nil {
		return token.Claims{}, false, nil
	}
	s, _, err := m.Identities.Load(ctx, c.Tenant, c.Subject)
	if err != nil {
		return token.Claims{}, false, unavailable(err, "the registry cannot be read")
	}
	return c, s.Status(now) == registry.StatusActive, nil
}

// Revoke asks for the end of a credential and everything under it, and returns when it is
// in force here. Whoever has the token may: the one thing that a thief can do with it
// then is what its owner wants. A token that is not ours, over or revoked already is no
// error (RFC 7009 section 2.2), and asking twice is asking once.
func (m *Minter) Revoke(ctx context.Context, raw string) error {
	now := m.Now()
	c, ok := m.own(raw, now)
	switch {
	case ok:
	case m.signedAside(raw):
		return refuse(UnsupportedTokenType, "only access tokens are revoked here: revoke the one that this came from, which ends it too")
	default:
		return errNotOurs
	}
	h := m.Namer.Name(lineage.KindCredential, c.Tenant, c.ID)
	if m.ended(h) {
		return nil
	}
	e, err := events.New(events.Origin{Source: registry.Source, Tenant: c.Tenant, Time: now, ID: registry.TokenRevocation(c.Tenant, c.ID)},
		events.RevocationRequested{Mode: events.ModeRevoke, Target: events.Target{Kind: string(lineage.KindCredential), Tenant: c.Tenant, ID: c.ID},
			Reason: "its holder revoked the token (RFC 7009)", RequestedBy: c.Subject})
	if err != nil {
		return err
	}
	if err := m.Publisher.Publish(ctx, e); err != nil {
		return unavailable(err, "the revocation could not be recorded")
	}
	ctx, cancel := context.WithTimeout(ctx, revokeWait)
	defer cancel()
	tick := time.NewTicker(revokeTick)
	defer tick.Stop()
	for !m.ended(h) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return unavailable(ctx.Err(), "the revocation is recorded but not in force yet; if this goes on, ask an operator")
		}
	}
	return nil
}

// signedAside reports whether raw is something else that this issuer gave out.
func (m *Minter) signedAside(raw string) bool {
	keys := token.NewKeySet(m.Keys.Public()...)
	for _, typ := range []string{token.TypTransaction, attest.TypGrant} {
		if _, _, err := token.Open(raw, typ, keys); err == nil {
			return true
		}
	}
	return false
}

// ended reports whether the guard of this process has heard that h is revoked.
func (m *Minter) ended(h lineage.Handle) bool {
	e, dead := m.KillSet.Dead([]lineage.Handle{h})
	return dead && e.Mode == events.ModeRevoke
}

// errNotOurs means a token that is no credential of this issuer, or over.
var errNotOurs = errors.New("not a live credential of this issuer")

// introspect serves RFC 7662 to callers with the scope lanyard.introspect. They learn
// about tokens of their own tenant; all others are inactive to them (section 4 allows
// that, so that nobody can scan for tokens).
func (s *Server) introspect(w http.ResponseWriter, r *http.Request) {
	raw, _, e := readToken(w, r)
	var c token.Claims
	var active bool
	if e == nil {
		var err error
		if c, active, err = s.Inspect(r.Context(), raw); err != nil {
			e = asError(err)
		}
	}
	caller, _ := service.Caller(r.Context())
	switch {
	case e != nil:
		writeError(w, e)
	case !active || c.Tenant != caller.Tenant && !service.Operator(caller):
		writeJSON(w, http.StatusOK, inactive{})
	default:
		writeJSON(w, http.StatusOK, introspection{Active: true, Issuer: c.Issuer, Subject: c.Subject, Audience: c.Audience, ClientID: c.ClientID,
			Scope: c.Scope, TokenType: tokenType(c), IssuedAt: c.IssuedAt, NotBefore: c.NotBefore, Expires: c.Expires, ID: c.ID,
			Tenant: c.Tenant, Task: c.Task, Confirm: c.Confirm, Actor: c.Actor, Details: c.Details})
	}
}

// revoke serves RFC 7009 to anybody who has a token.
func (s *Server) revoke(w http.ResponseWriter, r *http.Request) {
	raw, hint, e := readToken(w, r)
	if e == nil {
		switch err := s.Revoke(r.Context(), raw); {
		case errors.Is(err, errNotOurs) && hint == "refresh_token":
			e = refuse(UnsupportedTokenType, "there are no refresh tokens here")
		case err != nil && !errors.Is(err, errNotOurs):
			e = asError(err)
		}
	}
	if e != nil {
		writeError(w, e)
		return
	}
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusOK)
}

// readToken reads the form of both endpoints.
func readToken(w http.ResponseWriter, r *http.Request) (raw, hint string, e *Error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxBody+1)
	form, e := readForm(r)
	if e != nil {
		return "", "", e
	}
	if raw = strings.TrimSpace(form.Get("token")); raw == "" {
		return "", "", refuse(InvalidRequest, "token is missing")
	}
	return raw, form.Get("token_type_hint"), nil
}

// tokenType is how a credential is to be sent (RFC 6749 section 7.1).
func tokenType(c token.Claims) string {
	if c.Confirm != nil && c.Confirm.JKT != "" {
		return "DPoP"
	}
	return "Bearer"
}
