package embedded

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/nats-io/nats-server/v2/server"
	"go.uber.org/zap"
)

// NATSUser is a user of the server with its permissions.
type NATSUser = service.User

// Options of StartNATS.
type Options struct {
	Dir    string     // of the streams; made when missing, private
	Users  []NATSUser // with keys; nobody else gets in
	Listen string     // host:port on loopback; "" means 127.0.0.1:0. Port 0: a free one, kept over restarts.
	Log    *zap.Logger
}

// NATS is a nats-server in this process. It syncs every write before it
// acknowledges. Data in its directory survives a restart.
type NATS struct {
	server *server.Server
	opts   service.NATSOptions

	mu sync.Mutex // of SetUsers
}

// StartNATS starts a server and waits until it takes connections.
func StartNATS(o Options) (*NATS, error) {
	if o.Log == nil {
		o.Log = zap.NewNop()
	}
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("start embedded NATS: %w", err)
	}
	listen, err := choosePort(o.Listen, filepath.Join(o.Dir, "address"))
	if err != nil {
		return nil, fmt.Errorf("start embedded NATS: %w", err)
	}
	n := &NATS{opts: service.NATSOptions{Listen: listen, StoreDir: o.Dir, Users: o.Users}}
	opts, err := n.options()
	if err != nil {
		return nil, fmt.Errorf("start embedded NATS: %w", err)
	}
	if n.server, err = server.NewServer(opts); err != nil {
		return nil, fmt.Errorf("start embedded NATS: %w", err)
	}
	lines := &logger{log: o.Log.Named("nats")}
	n.server.SetLoggerV2(lines, false, false, false)
	n.server.Start()
	if !n.server.ReadyForConnections(30*time.Second) || !n.server.JetStreamEnabled() {
		n.server.Shutdown()
		return nil, fmt.Errorf("start embedded NATS in %s: not ready after 30 s: %s", o.Dir, lines.problem())
	}
	if err := os.WriteFile(filepath.Join(o.Dir, "address"), []byte(n.server.Addr().String()+"\n"), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("start embedded NATS: %w", err), n.Stop())
	}
	return n, nil
}

// options are the server's, from the same configuration text that a nats-server of
// its own gets.
func (n *NATS) options() (*server.Options, error) {
	conf, err := service.NATSConf(n.opts)
	if err != nil {
		return nil, err
	}
	opts := &server.Options{}
	if err := opts.ProcessConfigString(conf); err != nil {
		return nil, fmt.Errorf("read NATS configuration: %w", err)
	}
	opts.NoSigs, opts.NoLog = true, true
	opts.DisableShortFirstPing = true
	return opts, nil
}

// choosePort turns port 0 into the port in the file, when that is still free, or
// into a free one.
func choosePort(listen, file string) (string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return "", err
	}
	if port != "0" {
		return listen, nil
	}
	if b, err := os.ReadFile(file); err == nil {
		last := strings.TrimSpace(string(b))
		if h, _, err := net.SplitHostPort(last); err == nil && h == host {
			if l, err := net.Listen("tcp", last); err == nil {
				return last, l.Close()
			}
		}
	}
	return net.JoinHostPort(host, "-1"), nil
}

// URL is where clients connect, such as "nats://127.0.0.1:4222".
func (n *NATS) URL() string { return "nats://" + n.server.Addr().String() }

// InProcessConn is a connection without a socket; it logs in like any other.
func (n *NATS) InProcessConn() (net.Conn, error) { return n.server.InProcessConn() }

// SyncAlways reports whether the running server syncs every write.
func (n *NATS) SyncAlways() bool {
	c := n.server.JetStreamConfig()
	return c != nil && c.SyncAlways
}

// SetUsers replaces the users while the server runs. Whoever is no longer among
// them is disconnected.
func (n *NATS) SetUsers(users []NATSUser) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := n.opts.Users
	n.opts.Users = users
	opts, err := n.options()
	if err == nil {
		err = n.server.ReloadOptions(opts)
	}
	if err != nil {
		n.opts.Users = before
		return fmt.Errorf("change NATS users: %w", err)
	}
	return nil
}

// Stop stops the server and waits until everything is on disk.
func (n *NATS) Stop() error {
	n.server.Shutdown()
	n.server.WaitForShutdown()
	return nil
}

// logger hands the server's lines to zap. The server is started without debug and
// trace, whose lines could show what clients send.
type logger struct {
	log *zap.Logger

	mu   sync.Mutex
	last string // newest warning or error
}

func (l *logger) keep(format string, args []any) string {
	s := fmt.Sprintf(format, args...)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = s
	return s
}

func (l *logger) problem() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.last == "" {
		return "the server gave no reason"
	}
	return l.last
}

// Noticef implements server.Logger.
func (l *logger) Noticef(format string, args ...any) {
	l.log.Debug("nats server notice", zap.String("text", fmt.Sprintf(format, args...)))
}

// Warnf implements server.Logger.
func (l *logger) Warnf(format string, args ...any) {
	l.log.Warn("nats server warning", zap.String("text", l.keep(format, args)))
}

// Errorf implements server.Logger.
func (l *logger) Errorf(format string, args ...any) {
	l.log.Error("nats server error", zap.String("text", l.keep(format, args)))
}

// Fatalf implements server.Logger. It does not end the process: the server does not
// get ready then.
func (l *logger) Fatalf(format string, args ...any) {
	l.log.Error("nats server failure", zap.String("text", l.keep(format, args)))
}

// Debugf implements server.Logger.
func (l *logger) Debugf(string, ...any) {}

// Tracef implements server.Logger.
func (l *logger) Tracef(string, ...any) {}
