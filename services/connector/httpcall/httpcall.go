// Package httpcall ends accounts by HTTP requests that the configuration describes:
// method, URL, headers, body, and which statuses mean what. It is for systems with an
// API but without a connector. Revocation imports it; anybody may who wants the
// connector alone.
//
// URL and body may hold {account}, {tenant}, {secret}, {request}, {revocation} and
// {reason}, which are escaped for the place where they stand.
package httpcall

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/lanyard-nhi/lanyard/services/connector"
	"github.com/lanyard-nhi/lanyard/services/connector/internal/web"
	"github.com/lanyard-nhi/lanyard/services/internal/secret"
)

// Call is one request.
type Call struct {
	Method string
	URL    string
	Body   string // JSON text; empty: none
	Alive  []int  // statuses that mean: the account was alive (and a call that ends has ended it)
	Dead   []int  // statuses that mean: there is no such account, or it is dead
}

// Config of a system.
type Config struct {
	Client  *http.Client             // internal/outbound
	Headers map[string]secret.Secret // of every request
	End     Call                     // Alive default 200, 201, 202, 204; Dead default 404, 410
	Verify  *Call                    // Alive default 200; Dead default 401, 403, 404, 410; nil: the system's word counts
}

// Connector makes the calls.
type Connector struct {
	cfg  Config
	seen web.Seen
}

// places are what a template may name.
var places = regexp.MustCompile(`\{[a-z]*\}`)

// names are the values of places for a target.
func names(t connector.Target) map[string]string {
	return map[string]string{"{account}": t.Account, "{tenant}": t.Tenant, "{secret}": t.Secret,
		"{request}": t.Request, "{revocation}": t.Revocation, "{reason}": t.Reason}
}

// New checks the configuration.
func New(c Config) (*Connector, error) {
	c.End.Alive, c.End.Dead = or(c.End.Alive, 200, 201, 202, 204), or(c.End.Dead, 404, 410)
	err := c.End.check("end")
	if c.Verify != nil {
		v := *c.Verify
		v.Alive, v.Dead = or(v.Alive, 200), or(v.Dead, 401, 403, 404, 410)
		c.Verify = &v
		err = errors.Join(err, v.check("verify"))
	}
	if c.Client == nil {
		err = errors.Join(err, errors.New("it needs a client"))
	}
	if err != nil {
		return nil, errors.Join(errors.New("make http connector"), err)
	}
	return &Connector{cfg: c}, nil
}

func or(have []int, otherwise ...int) []int {
	if len(have) > 0 {
		return have
	}
	return otherwise
}

func (c Call) check(name string) error {
	known := names(connector.Target{})
	for _, text := range []string{c.URL, c.Body} {
		for _, p := range places.FindAllString(text, -1) {
			if _, ok := known[p]; !ok {
				return fmt.Errorf("%s names %s, which is not known", name, p)
			}
		}
	}
	if !regexp.MustCompile(`^[A-Z]+$`).MatchString(c.Method) {
		return fmt.Errorf("%s has no method", name)
	}
	if host, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(c.URL, "https://"), "http://"), "/"); strings.Contains(host, "{") {
		return fmt.Errorf("%s has a place in the host, which would let an account choose the server", name)
	}
	for _, s := range c.Alive {
		if slices.Contains(c.Dead, s) {
			return fmt.Errorf("%s: status %d means both", name, s)
		}
	}
	return web.CheckURL(name, places.ReplaceAllString(c.URL, "x"))
}

// Describe implements connector.Connector.
func (c *Connector) Describe() connector.Description {
	d := connector.Description{Kind: "http", Ends: "calls the system's API", Verifies: "the system has confirmed the end"}
	if c.cfg.Verify != nil {
		d.Verifies = "the system is asked and no longer knows the account"
	}
	return d
}

// do makes a call; alive is what its status means.
func (c *Connector) do(ctx context.Context, doing string, call Call, t connector.Target) (alive bool, status int, err error) {
	if err := t.Check(); err != nil {
		return false, 0, err
	}
	if err := ctx.Err(); err != nil {
		return false, 0, connector.Unreachable(doing, err)
	}
	if t.Account == "." || t.Account == ".." {
		return false, 0, connector.Refused(doing, errors.New("the account is a step in a path"))
	}
	values := names(t)
	target := places.ReplaceAllStringFunc(call.URL, func(p string) string { return strings.ReplaceAll(url.QueryEscape(values[p]), "+", "%20") })
	body := places.ReplaceAllStringFunc(call.Body, func(p string) string {
		b, err := json.Marshal(values[p])
		if err != nil {
			return ""
		}
		return string(b[1 : len(b)-1])
	})
	r, err := http.NewRequest(call.Method, target, strings.NewReader(body))
	if err != nil {
		return false, 0, connector.Refused(doing, errors.New("the URL is not valid with this account"))
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for name, value := range c.cfg.Headers {
		r.Header.Set(name, value.Reveal())
	}
	a, err := web.Do(ctx, c.cfg.Client, doing, r)
	switch {
	case err != nil:
		return false, 0, err
	case slices.Contains(call.Alive, a.Status):
		return true, a.Status, nil
	case slices.Contains(call.Dead, a.Status):
		return false, a.Status, nil
	}
	return false, 0, web.Fail(doing, a.Status)
}

// End implements connector.Connector.
func (c *Connector) End(ctx context.Context, t connector.Target) (connector.Result, error) {
	alive, status, err := c.do(ctx, "end account", c.cfg.End, t)
	if err != nil {
		return connector.Result{}, err
	}
	c.seen.Put(t)
	r := connector.Result{Outcome: connector.AlreadyDead, Detail: fmt.Sprintf("the system answers %d", status)}
	if alive {
		r.Outcome = connector.Enforced
	}
	return r, nil
}

// Verify implements connector.Connector.
func (c *Connector) Verify(ctx context.Context, t connector.Target) (connector.Status, error) {
	if c.cfg.Verify == nil {
		return c.seen.Status(ctx, t)
	}
	alive, status, err := c.do(ctx, "ask for account", *c.cfg.Verify, t)
	if err != nil {
		return connector.Status{}, err
	}
	return connector.Status{Dead: !alive, Detail: fmt.Sprintf("the system answers %d", status)}, nil
}
