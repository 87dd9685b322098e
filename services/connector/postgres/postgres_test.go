package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/lanyard-nhi/lanyard/services/connector"
	"github.com/lanyard-nhi/lanyard/services/connector/connectortest"
	"github.com/lanyard-nhi/lanyard/services/connector/postgres"
	"github.com/lanyard-nhi/lanyard/services/internal/downstreamtest"
	"github.com/lanyard-nhi/lanyard/services/internal/secret"
)

const rolePassword = "role-password-9c1f"

// world is a server with the connector before a plug.
type world struct {
	pg    *downstreamtest.Postgres
	proxy *connectortest.Proxy
	conn  *postgres.Connector
	admin *pgx.Conn
	n     int
}

func start(t *testing.T) *world {
	t.Helper()
	w := &world{pg: downstreamtest.StartPostgres(t)}
	w.proxy = connectortest.NewProxy(t, w.pg.Addr)
	w.admin = w.pg.Dial(t, w.pg.Superuser, w.pg.Password)
	w.exec(t, "CREATE ROLE lanyard LOGIN CREATEROLE PASSWORD 'connector-password-77aa'")
	w.exec(t, "GRANT pg_signal_backend TO lanyard")
	w.exec(t, "CREATE ROLE readers NOLOGIN")
	c, err := postgres.New(postgres.Config{URL: "postgres://lanyard@" + w.proxy.Addr() + "/postgres?sslmode=disable",
		Password: secret.New("connector-password-77aa"), TryLogin: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	w.conn = c
	return w
}

func (w *world) exec(t *testing.T, sql string) {
	t.Helper()
	if _, err := w.admin.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (w *world) role(t *testing.T) connector.Target {
	t.Helper()
	w.n++
	name := fmt.Sprintf(`agent "%d" é`, w.n)
	w.exec(t, "CREATE ROLE "+pgx.Identifier{name}.Sanitize()+" LOGIN PASSWORD '"+rolePassword+"'")
	w.exec(t, "GRANT readers TO "+pgx.Identifier{name}.Sanitize())
	return connector.Target{Request: "r", Tenant: "acme", Secret: "s", Account: name}
}

func TestContract(t *testing.T) {
	w := start(t)
	connectortest.Run(t, connectortest.Suite{
		Connector: w.conn,
		Account:   w.role,
		Alive: func(t *testing.T, target connector.Target) bool {
			conn, err := w.pg.Try(t.Context(), target.Account, rolePassword)
			if err != nil {
				return false
			}
			return conn.Close(t.Context()) == nil
		},
		Missing: func(*testing.T) connector.Target {
			return connector.Target{Request: "r", Tenant: "acme", Secret: "s", Account: "nobody'; DROP ROLE readers; --"}
		},
		Unplug:  func(*testing.T) func() { w.proxy.Unplug(); return w.proxy.Plug },
		Secrets: []string{"connector-password-77aa", rolePassword},
	})
}

func TestOpenSessionsAreCut(t *testing.T) {
	w := start(t)
	victim, sibling := w.role(t), w.role(t)
	a, b := w.pg.Dial(t, victim.Account, rolePassword), w.pg.Dial(t, sibling.Account, rolePassword)
	if st, err := w.conn.Verify(t.Context(), victim); err != nil || st.Dead {
		t.Fatalf("Verify: %+v, %v", st, err)
	}
	r, err := w.conn.End(t.Context(), victim)
	if err != nil || !strings.Contains(r.Detail, "1 sessions terminated, 1 of 1 memberships taken") {
		t.Fatalf("End: %+v, %v", r, err)
	}
	if _, err := a.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("the victim's session goes on")
	}
	if _, err := b.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("the sibling's session: %v", err)
	}
	if st, err := w.conn.Verify(t.Context(), victim); err != nil || !st.Dead || !strings.Contains(st.Detail, "a login was refused") {
		t.Errorf("Verify: %+v, %v", st, err)
	}
}

// A role that cannot log in but has a session is alive.
func TestSessionOfADeadRole(t *testing.T) {
	w := start(t)
	victim := w.role(t)
	w.pg.Dial(t, victim.Account, rolePassword)
	w.exec(t, "ALTER ROLE "+pgx.Identifier{victim.Account}.Sanitize()+" NOLOGIN")
	if st, err := w.conn.Verify(t.Context(), victim); err != nil || st.Dead {
		t.Errorf("Verify: %+v, %v; want alive", st, err)
	}
	if r, err := w.conn.End(t.Context(), victim); err != nil || r.Outcome != connector.Enforced {
		t.Errorf("End: %+v, %v; want enforced", r, err)
	}
}

func TestRefuses(t *testing.T) {
	w := start(t)
	w.exec(t, "CREATE ROLE boss LOGIN SUPERUSER")
	for _, name := range []string{"boss", "lanyard", "pg_monitor", w.pg.Superuser} {
		if r, err := w.conn.End(t.Context(), connector.Target{Account: name}); !errors.Is(err, connector.ErrRefused) && r.Outcome != connector.AlreadyDead {
			t.Errorf("End of %s: %+v, %v; want refused", name, r, err)
		}
	}
	var n int
	if err := w.admin.QueryRow(t.Context(), "SELECT count(*) FROM pg_roles WHERE rolname IN ('boss','lanyard') AND rolcanlogin").Scan(&n); err != nil || n != 2 {
		t.Errorf("%d of 2 may log in, %v", n, err)
	}
	weak, err := postgres.New(postgres.Config{URL: "postgres://weak@" + w.pg.Addr + "/postgres?sslmode=disable", Password: secret.New("p")})
	if err != nil {
		t.Fatal(err)
	}
	w.exec(t, "CREATE ROLE weak LOGIN PASSWORD 'p'")
	if _, err := weak.End(t.Context(), w.role(t)); !errors.Is(err, connector.ErrRefused) || !strings.Contains(err.Error(), "42501") {
		t.Errorf("End without privileges: %v; want refused", err)
	}
	if err := weak.Close(); err != nil {
		t.Error(err)
	}
}

func TestNewRefuses(t *testing.T) {
	for _, url := range []string{"", "://", "postgres://lanyard:pw@127.0.0.1/x", "postgres://lanyard@db.example.org/x",
		"postgres://lanyard@db.example.org/x?sslmode=require", "postgres://lanyard@127.0.0.1,db.example.org/x?sslmode=disable"} {
		_, err := postgres.New(postgres.Config{URL: url})
		if url != "" && err == nil && !strings.Contains(url, ",") {
			t.Errorf("New(%q) succeeds", url)
		}
		if err != nil && strings.Contains(err.Error(), "pw") {
			t.Errorf("New(%q): the password is in %q", url, err)
		}
	}
	if _, err := postgres.New(postgres.Config{URL: "postgres://lanyard@db.example.org/x?sslmode=verify-full"}); err != nil {
		t.Error(err)
	}
}

func TestDeadlineOfAServerThatHangs(t *testing.T) {
	w := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	victim := w.role(t)
	w.exec(t, "BEGIN")
	w.exec(t, "ALTER ROLE "+pgx.Identifier{victim.Account}.Sanitize()+" CONNECTION LIMIT 5") // a lock the connector waits for
	if _, err := w.conn.End(ctx, victim); !errors.Is(err, connector.ErrUnreachable) {
		t.Errorf("End beside a lock: %v; want unreachable", err)
	}
	w.exec(t, "ROLLBACK")
	// The server may have gone on with what it was asked before: both are the truth.
	if r, err := w.conn.End(t.Context(), victim); err != nil || r.Outcome != connector.Enforced && r.Outcome != connector.AlreadyDead {
		t.Errorf("End: %+v, %v", r, err)
	}
	if st, err := w.conn.Verify(t.Context(), victim); err != nil || !st.Dead {
		t.Errorf("Verify: %+v, %v", st, err)
	}
}
