package guard

import (
	"context"
	"io"
	"net"
	"sync"
)

// CloserFunc makes an io.Closer of a function: a database session's Close that takes a
// context, or a client's Close that returns nothing.
type CloserFunc func() error

// Close implements io.Closer.
func (f CloserFunc) Close() error { return f() }

// Tie closes c once the credential's life ends, see Watch: a database session, a
// client of a message broker, whatever was opened for the caller and would outlive the
// next request. Its error is dropped. untie stops that and must be called when c is
// closed otherwise; it reports false when c was closed or is being closed by Tie.
func (g *Guard) Tie(d Decision, c io.Closer) (untie func() bool) {
	ctx, cancel := g.Watch(context.Background(), d)
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	return func() bool {
		stopped := stop()
		cancel()
		return stopped
	}
}

// Conn is a connection that closes once the credential's life ends, see Watch, for
// protocols that the caller speaks itself after a handshake: WebSocket, a proxied
// database session, a message broker's protocol. Closing it ends the watch.
func (g *Guard) Conn(d Decision, c net.Conn) net.Conn {
	t := &tiedConn{Conn: c}
	t.untie = g.Tie(d, CloserFunc(t.shut))
	return t
}

type tiedConn struct {
	net.Conn
	untie func() bool
	once  sync.Once
	err   error
}

// shut closes the connection once.
func (c *tiedConn) shut() error {
	c.once.Do(func() { c.err = c.Conn.Close() })
	return c.err
}

// Close implements net.Conn.
func (c *tiedConn) Close() error {
	c.untie()
	return c.shut()
}
