// Package oauth ends tokens at the revocation endpoint of an OAuth server (RFC 7009)
// and proves it by introspection (RFC 7662) where that is configured. Revocation
// imports it; anybody may who wants the connector alone.
//
// An account is the name of a file, in a directory that only Lanyard may read, which
// holds the token: events and indices never do.
package oauth

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"

	"github.com/lanyard-nhi/lanyard/services/connector"
	"github.com/lanyard-nhi/lanyard/services/connector/internal/web"
	"github.com/lanyard-nhi/lanyard/services/internal/secret"
)

// Config of a server.
type Config struct {
	Client       *http.Client // internal/outbound
	Revocation   string       // URL of the revocation endpoint
	Introspect   string       // URL of the introspection endpoint; empty: the server's word counts
	ClientID     string
	ClientSecret secret.Secret // client_secret_basic
	Tokens       string        // directory of the token files, <tenant>/<account>, each 0600
	Hint         string        // token_type_hint, such as refresh_token; empty: none
}

// Connector ends tokens.
type Connector struct {
	cfg  Config
	seen web.Seen
}

// New checks the configuration.
func New(c Config) (*Connector, error) {
	err := web.CheckURL("the revocation endpoint", c.Revocation)
	if c.Introspect != "" {
		err = errors.Join(err, web.CheckURL("the introspection endpoint", c.Introspect))
	}
	if c.Client == nil || c.ClientID == "" || c.Tokens == "" {
		err = errors.Join(err, errors.New("it needs a client, a client id and a directory of tokens"))
	}
	if err != nil {
		return nil, errors.Join(errors.New("make oauth connector"), err)
	}
	return &Connector{cfg: c}, nil
}

// Describe implements connector.Connector.
func (c *Connector) Describe() connector.Description {
	d := connector.Description{Kind: "oauth", Ends: "revokes the token at the server (RFC 7009)",
		Verifies: "introspection says that the token is not active (RFC 7662)"}
	if c.cfg.Introspect == "" {
		d.Verifies = "the server has confirmed the revocation"
	}
	return d
}

// token reads the token that an account stands for.
func (c *Connector) token(ctx context.Context, t connector.Target) (secret.Secret, error) {
	if err := t.Check(); err != nil {
		return secret.Secret{}, err
	}
	if err := ctx.Err(); err != nil {
		return secret.Secret{}, connector.Unreachable("read token", err)
	}
	if !filepath.IsLocal(t.Account) || filepath.Base(t.Account) != t.Account || filepath.Base(t.Tenant) != t.Tenant || t.Tenant == "." || t.Tenant == ".." {
		return secret.Secret{}, connector.Refused("read token", errors.New("an account is the plain name of a file"))
	}
	s, err := secret.Read(filepath.Join(c.cfg.Tokens, t.Tenant, t.Account))
	if errors.Is(err, fs.ErrNotExist) {
		return s, connector.Refused("read token", errors.New("there is no such file, so nobody knows which token to end"))
	}
	if err != nil {
		return s, connector.Refused("read token", errors.New("the file cannot be read, is empty, or others may read it"))
	}
	return s, nil
}

// post sends the token to an endpoint.
func (c *Connector) post(ctx context.Context, doing, endpoint string, token secret.Secret) (web.Answer, error) {
	form := url.Values{"token": {token.Reveal()}}
	if c.cfg.Hint != "" {
		form.Set("token_type_hint", c.cfg.Hint)
	}
	r, err := http.NewRequest(http.MethodPost, endpoint, strings.NewReader(form.Encode()))
	if err != nil {
		return web.Answer{}, connector.Refused(doing, errors.New("the endpoint's URL is not valid"))
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Accept", "application/json")
	r.SetBasicAuth(url.QueryEscape(c.cfg.ClientID), url.QueryEscape(c.cfg.ClientSecret.Reveal())) // RFC 6749 section 2.3.1
	a, err := web.Do(ctx, c.cfg.Client, doing, r)
	if err == nil && a.Status != http.StatusOK {
		err = web.Fail(doing, a.Status)
	}
	return a, err
}

// active asks the server about a token.
func (c *Connector) active(ctx context.Context, token secret.Secret) (bool, error) {
	a, err := c.post(ctx, "introspect token", c.cfg.Introspect, token)
	if err != nil {
		return false, err
	}
	var answer struct {
		Active *bool `json:"active"`
	}
	if err := json.Unmarshal(a.Body, &answer); err != nil || answer.Active == nil {
		return false, connector.Unreachable("introspect token", errors.New("the answer does not say whether the token is active"))
	}
	return *answer.Active, nil
}

// End implements connector.Connector. RFC 7009 answers 200 for dead and unknown tokens
// too, so only introspection can tell that there was nothing to end.
func (c *Connector) End(ctx context.Context, t connector.Target) (connector.Result, error) {
	token, err := c.token(ctx, t)
	if err != nil {
		return connector.Result{}, err
	}
	if c.cfg.Introspect != "" {
		alive, err := c.active(ctx, token)
		if err != nil {
			return connector.Result{}, err
		}
		if !alive {
			return connector.Result{Outcome: connector.AlreadyDead, Detail: "the token was not active"}, nil
		}
	}
	if _, err := c.post(ctx, "revoke token", c.cfg.Revocation, token); err != nil {
		return connector.Result{}, err
	}
	c.seen.Put(t)
	return connector.Result{Outcome: connector.Enforced, Detail: "the server has confirmed the revocation"}, nil
}

// Verify implements connector.Connector.
func (c *Connector) Verify(ctx context.Context, t connector.Target) (connector.Status, error) {
	if c.cfg.Introspect == "" {
		return c.seen.Status(ctx, t)
	}
	token, err := c.token(ctx, t)
	if err != nil {
		return connector.Status{}, err
	}
	alive, err := c.active(ctx, token)
	if err != nil {
		return connector.Status{}, err
	}
	return connector.Status{Dead: !alive, Detail: "asked the introspection endpoint"}, nil
}
