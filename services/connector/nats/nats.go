// Package nats ends users of a NATS account whose servers run with JWTs (operator
// mode): the user's key is revoked in the account's claims, for good, and the claims
// are pushed to the resolver, upon which servers close the user's connections.
// Revocation imports it; anybody may who wants the connector alone.
//
// It needs a user of the system account and an operator (signing) key, which signs the
// changed claims. Whoever else changes the claims at the same moment can undo a
// revocation: Verify finds that, and it is done again.
package nats

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/services/connector"
	"github.com/lanyard-nhi/lanyard/services/internal/secret"
	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
)

// forGood is the time up to which tokens of an ended user are refused, whenever they
// were issued.
var forGood = time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)

// quiet is how long after a server's answer the answers of others are waited for.
const quiet = 250 * time.Millisecond

// Config of the servers.
type Config struct {
	URL         string        // nats:// on loopback, else tls://
	CAFile      string        // PEM; empty: the system's authorities
	Account     string        // public key of the account whose users are ended
	Credentials secret.Secret // of a user of the system account, a .creds file's text
	Operator    secret.Secret // seed of the operator or of one of its signing keys
}

// Connector ends users. Close it in the end.
type Connector struct {
	cfg      Config
	operator nkeys.KeyPair

	claims sync.Mutex // one change of the claims at a time
	mu     sync.Mutex
	conn   *nats.Conn
}

// New checks the configuration; it does not connect.
func New(c Config) (*Connector, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "nats" && u.Scheme != "tls" {
		return nil, errors.New("make nats connector: the URL cannot be read: want tls://HOST:PORT")
	}
	if ip := net.ParseIP(u.Hostname()); u.Scheme != "tls" && u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, errors.New("make nats connector: the server is not on loopback: use tls://")
	}
	if !nkeys.IsValidPublicAccountKey(c.Account) {
		return nil, errors.New("make nats connector: the account is no public account key (A...)")
	}
	pair, err := nkeys.FromSeed([]byte(c.Operator.Reveal()))
	if err != nil {
		return nil, errors.New("make nats connector: the operator's seed cannot be read")
	}
	if pub, err := pair.PublicKey(); err != nil || !nkeys.IsValidPublicOperatorKey(pub) {
		return nil, errors.New("make nats connector: the seed is not an operator's (SO...)")
	}
	return &Connector{cfg: c, operator: pair}, nil
}

// Describe implements connector.Connector.
func (*Connector) Describe() connector.Description {
	return connector.Description{Kind: "nats", Sessions: true,
		Ends:     "revokes the user's key in the account's claims; servers close its connections",
		Verifies: "the resolver's claims revoke the key, and no server has a connection of it"}
}

// Close closes the connection.
func (c *Connector) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil {
		c.conn.Close()
	}
	return nil
}

// dial is the connection, made when there is none.
func (c *Connector) dial(ctx context.Context) (*nats.Conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, connector.Unreachable("connect", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn != nil && c.conn.IsConnected() {
		return c.conn, nil
	}
	if c.conn != nil {
		c.conn.Close()
	}
	opts := []nats.Option{nats.Name("lanyard connector"), nats.Timeout(5 * time.Second), nats.NoReconnect(),
		nats.UserCredentialBytes([]byte(c.cfg.Credentials.Reveal()))}
	if c.cfg.CAFile != "" {
		opts = append(opts, nats.RootCAs(c.cfg.CAFile))
	}
	conn, err := nats.Connect(c.cfg.URL, opts...)
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked):
		return nil, connector.Refused("connect", errors.New("the servers do not take the connector's credentials"))
	case err != nil:
		return nil, connector.Unreachable("connect", errors.New("no server answers"))
	}
	c.conn = conn
	return conn, nil
}

// check refuses what is no user of the account.
func check(t connector.Target) error {
	if err := t.Check(); err != nil {
		return err
	}
	if !nkeys.IsValidPublicUserKey(t.Account) {
		return connector.Refused("end user", errors.New("the account is no public user key (U...)"))
	}
	return nil
}

// End implements connector.Connector.
func (c *Connector) End(ctx context.Context, t connector.Target) (connector.Result, error) {
	if err := check(t); err != nil {
		return connector.Result{}, err
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return connector.Result{}, err
	}
	before, err := c.connections(ctx, conn, t.Account)
	if err != nil {
		return connector.Result{}, err
	}
	changed, err := c.revoke(ctx, conn, t.Account)
	if err != nil {
		return connector.Result{}, err
	}
	if !changed && before == 0 {
		return connector.Result{Outcome: connector.AlreadyDead, Detail: "its key was revoked already"}, nil
	}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		left, err := c.connections(ctx, conn, t.Account)
		if err != nil {
			return connector.Result{}, err
		}
		if left == 0 {
			return connector.Result{Outcome: connector.Enforced, Detail: fmt.Sprintf("%d connections closed", before)}, nil
		}
		select {
		case <-ctx.Done():
			return connector.Result{}, connector.Unreachable("wait until connections are closed", ctx.Err())
		case <-tick.C:
		}
	}
}

// revoke puts the key on the account's list of revocations, unless it is there.
func (c *Connector) revoke(ctx context.Context, conn *nats.Conn, user string) (changed bool, err error) {
	c.claims.Lock()
	defer c.claims.Unlock()
	claims, err := c.lookup(ctx, conn)
	if err != nil || claims.Revocations.IsRevoked(user, forGood) {
		return false, err
	}
	claims.RevokeAt(user, forGood)
	text, err := claims.Encode(c.operator)
	if err != nil {
		return false, connector.Refused("sign claims", errors.New("they are not valid"))
	}
	m, err := conn.RequestWithContext(ctx, "$SYS.REQ.CLAIMS.UPDATE", []byte(text))
	if err != nil {
		return false, classify("push claims", err)
	}
	var answer struct {
		Error *struct {
			Code        int    `json:"code"`
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(m.Data, &answer); err != nil {
		return false, connector.Unreachable("push claims", errors.New("the resolver's answer cannot be read"))
	}
	if answer.Error != nil {
		return false, connector.Refused("push claims", fmt.Errorf("the resolver answers %d: %s", answer.Error.Code, answer.Error.Description))
	}
	return true, nil
}

// lookup is the account's claims as the resolver has them.
func (c *Connector) lookup(ctx context.Context, conn *nats.Conn) (*jwt.AccountClaims, error) {
	m, err := conn.RequestWithContext(ctx, "$SYS.REQ.ACCOUNT."+c.cfg.Account+".CLAIMS.LOOKUP", nil)
	if err != nil {
		return nil, classify("look up claims", err)
	}
	claims, err := jwt.DecodeAccountClaims(string(bytes.TrimSpace(m.Data)))
	if err != nil {
		return nil, connector.Refused("look up claims", errors.New("the resolver does not know the account"))
	}
	if claims.Subject != c.cfg.Account {
		return nil, connector.Refused("look up claims", errors.New("the resolver answers with another account"))
	}
	return claims, nil
}

// connections counts the user's open ones over all servers that answer.
func (c *Connector) connections(ctx context.Context, conn *nats.Conn, user string) (int, error) {
	query, err := json.Marshal(map[string]any{"auth": true, "user": user, "acc": c.cfg.Account, "limit": 1024})
	if err != nil {
		return 0, err
	}
	inbox := conn.NewInbox()
	sub, err := conn.SubscribeSync(inbox)
	if err != nil {
		return 0, classify("ask for connections", err)
	}
	defer func() { _ = sub.Unsubscribe() }() // the connection may be gone
	if err := conn.PublishRequest("$SYS.REQ.SERVER.PING.CONNZ", inbox, query); err != nil {
		return 0, classify("ask for connections", err)
	}
	count := 0
	wait, cancel := ctx, context.CancelFunc(func() {})
	for answers := 0; ; answers++ {
		m, err := sub.NextMsgWithContext(wait)
		cancel()
		if err != nil && answers > 0 && ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
			return count, nil
		}
		if err != nil {
			return 0, classify("ask for connections", err)
		}
		n, err := total(m.Data, user)
		if err != nil {
			return 0, err
		}
		count += n
		wait, cancel = context.WithTimeout(ctx, quiet)
	}
}

// total counts the user's connections in one server's answer, whose own total counts
// everybody's.
func total(data []byte, user string) (n int, err error) {
	var answer struct {
		Data *struct {
			Connections []struct {
				User string `json:"authorized_user"`
			} `json:"connections"`
		} `json:"data"`
	}
	if err := json.Unmarshal(data, &answer); err != nil || answer.Data == nil {
		return 0, connector.Unreachable("ask for connections", errors.New("a server's answer cannot be read"))
	}
	for _, c := range answer.Data.Connections {
		if c.User == user {
			n++
		}
	}
	return n, nil
}

// Verify implements connector.Connector.
func (c *Connector) Verify(ctx context.Context, t connector.Target) (connector.Status, error) {
	if err := check(t); err != nil {
		return connector.Status{}, err
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return connector.Status{}, err
	}
	claims, err := c.lookup(ctx, conn)
	if err != nil {
		return connector.Status{}, err
	}
	open, err := c.connections(ctx, conn, t.Account)
	if err != nil {
		return connector.Status{}, err
	}
	revoked := claims.Revocations.IsRevoked(t.Account, forGood)
	return connector.Status{Dead: revoked && open == 0, Detail: fmt.Sprintf("key revoked: %t, open connections: %d", revoked, open)}, nil
}

// classify: whatever a server did not answer may pass; without the rights of the
// system account nobody answers.
func classify(doing string, err error) error {
	if errors.Is(err, nats.ErrNoResponders) {
		return connector.Refused(doing, errors.New("nobody answers: the credentials are not of the system account, or there is no resolver"))
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return connector.Unreachable(doing, context.DeadlineExceeded)
	}
	return connector.Unreachable(doing, errors.New("the connection broke"))
}
