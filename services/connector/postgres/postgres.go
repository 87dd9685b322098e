// Package postgres ends roles of a PostgreSQL server (13 and newer): no login, no
// password, no validity, no memberships, and every session of the role terminated.
// Revocation imports it; anybody may who wants the connector alone.
//
// The connector's own role needs CREATEROLE and pg_signal_backend, and from
// PostgreSQL 16 on ADMIN OPTION on the roles that it is to end. It refuses superusers,
// replication roles, roles of the server ("pg_...") and itself.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/lanyard-nhi/lanyard/services/connector"
	"github.com/lanyard-nhi/lanyard/services/internal/secret"
)

// Config of a server.
type Config struct {
	// URL is postgres://ROLE@HOST:PORT/DATABASE, without password; outside loopback with
	// sslmode=verify-full.
	URL      string
	Password secret.Secret // of the connector's own role
	// TryLogin makes Verify log in as the ended role without its password too, which
	// catches a pg_hba.conf that asks for none.
	TryLogin bool
	// Connections kept open; default 4.
	Connections int
}

// Connector ends roles. Close it in the end.
type Connector struct {
	config *pgx.ConnConfig
	try    bool
	idle   chan *pgx.Conn
}

// errTLS: the connection would be readable on the way.
var errTLS = errors.New("the server is not on loopback: use sslmode=verify-full")

// New checks the configuration; it does not connect.
func New(c Config) (*Connector, error) {
	config, err := pgx.ParseConfig(c.URL)
	if err != nil {
		return nil, errors.New("make postgres connector: the URL cannot be read: want postgres://ROLE@HOST:PORT/DATABASE")
	}
	if config.Password != "" && strings.Contains(c.URL, config.Password) {
		return nil, errors.New("make postgres connector: the URL holds a password: put it into a file")
	}
	insecure := config.TLSConfig == nil || config.TLSConfig.InsecureSkipVerify
	for _, f := range config.Fallbacks {
		insecure = insecure || f.TLSConfig == nil || f.TLSConfig.InsecureSkipVerify
	}
	if ip := net.ParseIP(config.Host); insecure && config.Host != "localhost" && !strings.HasPrefix(config.Host, "/") && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("make postgres connector: %w", errTLS)
	}
	config.Password = c.Password.Reveal()
	config.RuntimeParams["application_name"] = "lanyard"
	config.DefaultQueryExecMode = pgx.QueryExecModeExec // poolers keep no prepared statements
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = 5 * time.Second
	}
	if c.Connections <= 0 {
		c.Connections = 4
	}
	return &Connector{config: config, try: c.TryLogin, idle: make(chan *pgx.Conn, c.Connections)}, nil
}

// Describe implements connector.Connector.
func (*Connector) Describe() connector.Description {
	return connector.Description{Kind: "postgres", Sessions: true,
		Ends:     "NOLOGIN, PASSWORD NULL, VALID UNTIL now; takes its memberships; terminates its sessions",
		Verifies: "the role may not log in, no session of it is open, and where configured a login is refused"}
}

// Close closes idle connections.
func (c *Connector) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for {
		select {
		case conn := <-c.idle:
			_ = conn.Close(ctx) // the server drops it anyway
		default:
			return nil
		}
	}
}

// with calls f with a connection. One that failed is not used again.
func (c *Connector) with(ctx context.Context, f func(*pgx.Conn) error) error {
	if err := ctx.Err(); err != nil {
		return connector.Unreachable("connect", err)
	}
	var conn *pgx.Conn
	select {
	case conn = <-c.idle:
	default:
		fresh, err := pgx.ConnectConfig(ctx, c.config)
		if err != nil {
			return classify("connect", err)
		}
		conn = fresh
	}
	err := f(conn)
	if err == nil && !conn.IsClosed() {
		select {
		case c.idle <- conn:
			return nil
		default:
		}
	}
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Close(closing) // it is of no use any more
	return err
}

// role is what the server says of one.
type role struct {
	oid                                uint32
	login, super, replication, current bool
	sessions                           int
}

// find is nil when there is no such role.
func find(ctx context.Context, conn *pgx.Conn, name string) (*role, error) {
	var r role
	err := conn.QueryRow(ctx, `SELECT r.oid, r.rolcanlogin, r.rolsuper, r.rolreplication, r.rolname IN (current_user, session_user),
		(SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid = r.oid)
		FROM pg_roles r WHERE r.rolname = $1`, name).Scan(&r.oid, &r.login, &r.super, &r.replication, &r.current, &r.sessions)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, classify("look for role", err)
	}
	return &r, nil
}

// guarded refuses roles that are not a product's.
func (r *role) guarded(name string) error {
	switch {
	case r.current:
		return connector.Refused("end role", errors.New("it is the connector's own"))
	case r.super, r.replication, strings.HasPrefix(name, "pg_"):
		return connector.Refused("end role", errors.New("superusers, replication and server roles are not a product's credentials"))
	}
	return nil
}

// End implements connector.Connector.
func (c *Connector) End(ctx context.Context, t connector.Target) (connector.Result, error) {
	if err := t.Check(); err != nil {
		return connector.Result{}, err
	}
	res := connector.Result{Outcome: connector.AlreadyDead, Detail: "no such role"}
	err := c.with(ctx, func(conn *pgx.Conn) error {
		r, err := find(ctx, conn, t.Account)
		if err != nil || r == nil {
			return err
		}
		if err := r.guarded(t.Account); err != nil {
			return err
		}
		if !r.login && r.sessions == 0 {
			res.Detail = "it could not log in already"
			return nil
		}
		name := pgx.Identifier{t.Account}.Sanitize()
		if _, err := conn.Exec(ctx, "ALTER ROLE "+name+" NOLOGIN PASSWORD NULL VALID UNTIL 'now'"); err != nil {
			return classify("end role", err)
		}
		left, err := leave(ctx, conn, r.oid, name)
		if err != nil {
			return err
		}
		cut, err := terminate(ctx, conn, r.oid)
		if err != nil {
			return err
		}
		res = connector.Result{Outcome: connector.Enforced, Detail: fmt.Sprintf("%d sessions terminated, %s", cut, left)}
		return nil
	})
	if err != nil {
		return connector.Result{}, err
	}
	return res, nil
}

// leave takes the role's memberships. Lack of privileges for that is told and does
// not fail: a role without login and sessions cannot use them.
func leave(ctx context.Context, conn *pgx.Conn, oid uint32, name string) (string, error) {
	rows, err := conn.Query(ctx, "SELECT DISTINCT r.rolname FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.roleid WHERE m.member = $1", oid)
	if err != nil {
		return "", classify("list memberships", err)
	}
	groups, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return "", classify("list memberships", err)
	}
	taken := 0
	for _, g := range groups {
		_, err := conn.Exec(ctx, "REVOKE "+pgx.Identifier{g}.Sanitize()+" FROM "+name)
		var pg *pgconn.PgError
		switch {
		case err == nil:
			taken++
		case !errors.As(err, &pg):
			return "", classify("take membership", err)
		}
	}
	return fmt.Sprintf("%d of %d memberships taken", taken, len(groups)), nil
}

// terminate ends the role's sessions and waits until they are gone. A login that was
// under way when the role ended may still appear, so it looks until there is none.
func terminate(ctx context.Context, conn *pgx.Conn, oid uint32) (int, error) {
	seen := map[int32]bool{}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		rows, err := conn.Query(ctx, "SELECT pid, pg_terminate_backend(pid) FROM pg_stat_activity WHERE usesysid = $1 AND pid <> pg_backend_pid()", oid)
		if err != nil {
			return 0, classify("terminate sessions", err)
		}
		pids, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (pid int32, err error) {
			var sent bool // false: it is gone already
			err = row.Scan(&pid, &sent)
			return pid, err
		})
		if err != nil {
			return 0, classify("terminate sessions", err)
		}
		if len(pids) == 0 {
			return len(seen), nil
		}
		for _, p := range pids {
			seen[p] = true
		}
		select {
		case <-ctx.Done():
			return 0, connector.Unreachable("terminate sessions", ctx.Err())
		case <-tick.C:
		}
	}
}

// Verify implements connector.Connector.
func (c *Connector) Verify(ctx context.Context, t connector.Target) (connector.Status, error) {
	if err := t.Check(); err != nil {
		return connector.Status{}, err
	}
	var st connector.Status
	err := c.with(ctx, func(conn *pgx.Conn) error {
		r, err := find(ctx, conn, t.Account)
		switch {
		case err != nil:
			return err
		case r == nil:
			st = connector.Status{Dead: true, Detail: "there is no such role"}
		default:
			st = connector.Status{Dead: !r.login && r.sessions == 0, Detail: fmt.Sprintf("may log in: %t, open sessions: %d", r.login, r.sessions)}
		}
		return nil
	})
	if err != nil || !st.Dead || !c.try {
		return st, err
	}
	in, err := c.login(ctx, t.Account)
	if err != nil {
		return connector.Status{}, err
	}
	if in {
		return connector.Status{Detail: "a login without password succeeded"}, nil
	}
	st.Detail += ", a login was refused"
	return st, nil
}

// login reports whether the role gets in with a password that is not its own.
func (c *Connector) login(ctx context.Context, name string) (bool, error) {
	config := c.config.Copy()
	config.User, config.Password = name, "lanyard-tries-to-log-in"
	conn, err := pgx.ConnectConfig(ctx, config)
	if err == nil {
		return true, conn.Close(ctx)
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) && strings.HasPrefix(pg.Code, "28") {
		return false, nil
	}
	return false, classify("try to log in", err)
}

// classify tells what may pass from what a person must mend, by SQLSTATE. The text is
// made here: the library's holds the connection's parameters.
func classify(doing string, err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		if ctx := contextError(err); ctx != nil {
			return connector.Unreachable(doing, ctx)
		}
		return connector.Unreachable(doing, errors.New("no answer, or the connection broke"))
	}
	text := fmt.Errorf("SQLSTATE %s: %s", pg.Code, pg.Message)
	switch pg.Code[:min(2, len(pg.Code))] {
	case "28", "42", "0A", "0L", "0P", "2B":
		return connector.Refused(doing, text)
	}
	return connector.Unreachable(doing, text)
}

func contextError(err error) error {
	for _, c := range []error{context.DeadlineExceeded, context.Canceled} {
		if errors.Is(err, c) {
			return c
		}
	}
	return nil
}
