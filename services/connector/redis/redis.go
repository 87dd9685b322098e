// Package redis ends ACL users of Redis servers (6.2 and newer): off, without
// passwords, every connection killed, and the change made to last over a restart.
// Revocation imports it; anybody may who wants the connector alone.
//
// The connector's own user needs +acl +client|kill +client|list +config|rewrite. It
// refuses the user "default" and itself.
package redis

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/services/connector"
	"github.com/lanyard-nhi/lanyard/services/internal/secret"
	"github.com/redis/go-redis/v9"
)

// Config of the servers. ACLs are not replicated: name every server that has the user.
type Config struct {
	URLs     []string // redis://USER@HOST:PORT on loopback, else rediss://; no password
	Password secret.Secret
	Delete   bool          // remove the user instead of turning it off
	Timeout  time.Duration // of one command; default 5 s
}

// Connector ends users. Close it in the end.
type Connector struct {
	nodes  []*redis.Client
	own    string
	delete bool
}

// New checks the configuration; it does not connect.
func New(c Config) (*Connector, error) {
	if len(c.URLs) == 0 {
		return nil, errors.New("make redis connector: no URL")
	}
	if c.Timeout <= 0 {
		c.Timeout = 5 * time.Second
	}
	out := &Connector{delete: c.Delete}
	for _, raw := range c.URLs {
		u, err := url.Parse(raw)
		if err != nil || u.Host == "" {
			return nil, errors.New("make redis connector: the URL cannot be read: want rediss://USER@HOST:PORT")
		}
		if _, has := u.User.Password(); has {
			return nil, errors.New("make redis connector: the URL holds a password: put it into a file")
		}
		if ip := net.ParseIP(u.Hostname()); u.Scheme != "rediss" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return nil, errors.New("make redis connector: the server is not on loopback: use rediss://")
		}
		o, err := redis.ParseURL(raw)
		if err != nil {
			return nil, errors.New("make redis connector: the URL cannot be read: want rediss://USER@HOST:PORT")
		}
		o.Password, o.MaxRetries, o.ContextTimeoutEnabled, o.DisableIdentity = c.Password.Reveal(), -1, true, true
		o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = c.Timeout, c.Timeout, c.Timeout, c.Timeout
		out.own = o.Username
		out.nodes = append(out.nodes, redis.NewClient(o))
	}
	return out, nil
}

// Describe implements connector.Connector.
func (c *Connector) Describe() connector.Description {
	ends := "ACL SETUSER off resetpass; kills its connections; saves the ACL"
	if c.delete {
		ends = "ACL DELUSER; kills its connections; saves the ACL"
	}
	return connector.Description{Kind: "redis", Ends: ends, Sessions: true,
		Verifies: "the user is off or gone and has no connection, on every server"}
}

// Close closes the connections.
func (c *Connector) Close() error {
	var errs []error
	for _, n := range c.nodes {
		errs = append(errs, n.Close())
	}
	return errors.Join(errs...)
}

// check refuses what must not be ended or is no user name.
func (c *Connector) check(ctx context.Context, t connector.Target) error {
	if err := t.Check(); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return connector.Unreachable("reach redis", err)
	}
	if strings.ContainsAny(t.Account, " \t") {
		return connector.Refused("end user", errors.New("a user's name has no spaces"))
	}
	if t.Account == "default" || t.Account == c.own {
		return connector.Refused("end user", errors.New("it is the server's default user or the connector's own"))
	}
	return nil
}

// End implements connector.Connector.
func (c *Connector) End(ctx context.Context, t connector.Target) (connector.Result, error) {
	if err := c.check(ctx, t); err != nil {
		return connector.Result{}, err
	}
	res := connector.Result{Outcome: connector.AlreadyDead, Detail: "it was off or gone already"}
	cut, lasting, ended := int64(0), true, false
	for _, n := range c.nodes {
		exists, on, err := user(ctx, n, t.Account)
		if err != nil {
			return connector.Result{}, err
		}
		if exists && (on || c.delete) {
			ended = true
			cmd := []any{"ACL", "SETUSER", t.Account, "off", "resetpass"}
			if c.delete {
				cmd = []any{"ACL", "DELUSER", t.Account}
			}
			if err := n.Do(ctx, cmd...).Err(); err != nil {
				return connector.Result{}, classify("end user", err)
			}
		}
		if exists { // also when it was off: a crash may have come before this
			saved, err := save(ctx, n)
			if err != nil {
				return connector.Result{}, err
			}
			lasting = lasting && saved
		}
		killed, err := kill(ctx, n, t.Account, exists)
		if err != nil {
			return connector.Result{}, err
		}
		cut += killed
	}
	if ended || cut > 0 {
		res = connector.Result{Outcome: connector.Enforced, Detail: fmt.Sprintf("%d connections killed", cut)}
		if !lasting {
			res.Detail += "; a restart of the server brings the user back: it has neither an ACL file nor a configuration file"
		}
	}
	return res, nil
}

// kill ends the user's connections. The server cannot name those of a user that is
// gone, which it has cut itself.
func kill(ctx context.Context, n *redis.Client, name string, exists bool) (int64, error) {
	if !exists {
		return 0, nil
	}
	killed, err := n.Do(ctx, "CLIENT", "KILL", "USER", name).Int64()
	if err != nil && !strings.Contains(err.Error(), "No such user") {
		return 0, classify("kill connections", err)
	}
	return killed, nil
}

// user asks for a user; on means that it may log in.
func user(ctx context.Context, n *redis.Client, name string) (exists, on bool, err error) {
	reply, err := n.Do(ctx, "ACL", "GETUSER", name).Result()
	if errors.Is(err, redis.Nil) {
		return false, false, nil
	}
	if err != nil {
		return false, false, classify("look for user", err)
	}
	on, err = enabled(reply)
	return true, on, err
}

// enabled reads the flags of an ACL GETUSER reply, a map in RESP3 and a flat list in
// RESP2.
func enabled(reply any) (bool, error) {
	var flags any
	switch r := reply.(type) {
	case map[any]any:
		flags = r["flags"]
	case []any:
		for i := 0; i+1 < len(r); i += 2 {
			if r[i] == "flags" {
				flags = r[i+1]
			}
		}
	}
	list, ok := flags.([]any)
	if !ok {
		return false, connector.Unreachable("look for user", errors.New("the server's answer has no flags"))
	}
	for _, f := range list {
		if f == "off" {
			return false, nil
		}
	}
	return true, nil
}

// save makes the change last: in the ACL file, or else in the configuration file.
func save(ctx context.Context, n *redis.Client) (bool, error) {
	for _, cmd := range [][]any{{"ACL", "SAVE"}, {"CONFIG", "REWRITE"}} {
		err := n.Do(ctx, cmd...).Err()
		if err == nil {
			return true, nil
		}
		var refused redis.Error
		if !errors.As(err, &refused) {
			return false, classify("save ACL", err)
		}
	}
	return false, nil
}

// Verify implements connector.Connector.
func (c *Connector) Verify(ctx context.Context, t connector.Target) (connector.Status, error) {
	if err := c.check(ctx, t); err != nil {
		return connector.Status{}, err
	}
	st := connector.Status{Dead: true}
	open := 0
	for _, n := range c.nodes {
		_, on, err := user(ctx, n, t.Account)
		if err != nil {
			return connector.Status{}, err
		}
		list, err := n.ClientList(ctx).Result()
		if err != nil {
			return connector.Status{}, classify("list connections", err)
		}
		sessions := strings.Count(list, " user="+t.Account+" ")
		open += sessions
		st.Dead = st.Dead && !on && sessions == 0
	}
	st.Detail = fmt.Sprintf("asked %d servers; open connections: %d", len(c.nodes), open)
	return st, nil
}

// classify tells what may pass from what a person must mend.
func classify(doing string, err error) error {
	var refused redis.Error
	if !errors.As(err, &refused) {
		return connector.Unreachable(doing, errors.New("no answer, or the connection broke"))
	}
	code, _, _ := strings.Cut(refused.Error(), " ")
	switch code {
	case "LOADING", "BUSY", "MASTERDOWN", "TRYAGAIN", "CLUSTERDOWN":
		return connector.Unreachable(doing, errors.New("the server answers "+code))
	}
	return connector.Refused(doing, errors.New("the server answers "+code))
}
