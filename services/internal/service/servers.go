package service

import (
	"context"
	"net"

	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/secret"
	"go.uber.org/zap"
)

// Servers are the servers that a process runs inside itself. Fields of servers that
// it does not run are zero.
type Servers struct {
	NATSURL    string
	InProcess  interface{ InProcessConn() (net.Conn, error) }
	SyncAlways func() bool              // whether NATS syncs every write
	SetUsers   func(users []User) error // replaces the NATS users

	RedisURL          secret.Secret // with password
	RedisPasswordFile string

	Stop func() error // stops all of them; called last
}

// Embed starts the servers that c has no URL for, with these NATS users and nobody
// else; embedded.Servers is one. A process that runs a single service has none.
type Embed func(ctx context.Context, c config.Config, users []User, log *zap.Logger) (Servers, error)
