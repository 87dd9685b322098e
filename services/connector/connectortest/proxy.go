package connectortest

import (
	"io"
	"net"
	"sync"
	"testing"
)

// Proxy stands between a connector and a server, so that a test can pull the plug.
type Proxy struct {
	backend string
	ln      net.Listener

	mu        sync.Mutex
	unplugged bool
	conns     map[net.Conn]struct{}
}

// NewProxy forwards TCP connections on loopback to backend, host:port, until the test
// ends.
func NewProxy(t testing.TB, backend string) *Proxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	p := &Proxy{backend: backend, ln: ln, conns: map[net.Conn]struct{}{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.serve()
	}()
	t.Cleanup(func() {
		_ = ln.Close()
		p.Unplug()
		<-done
	})
	return p
}

// Addr is where it listens, host:port.
func (p *Proxy) Addr() string { return p.ln.Addr().String() }

// Unplug cuts every connection and lets no new one through.
func (p *Proxy) Unplug() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unplugged = true
	for c := range p.conns {
		_ = c.Close()
	}
}

// Plug lets connections through again.
func (p *Proxy) Plug() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.unplugged = false
}

func (p *Proxy) serve() {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		c, err := p.ln.Accept()
		if err != nil {
			return
		}
		all.Go(func() { p.forward(c) })
	}
}

// hold notes a connection; false means that the plug is pulled.
func (p *Proxy) hold(c net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.unplugged {
		_ = c.Close()
		return false
	}
	p.conns[c] = struct{}{}
	return true
}

func (p *Proxy) drop(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
	_ = c.Close()
}

func (p *Proxy) forward(in net.Conn) {
	if !p.hold(in) {
		return
	}
	defer p.drop(in)
	out, err := net.Dial("tcp", p.backend)
	if err != nil || !p.hold(out) {
		return
	}
	defer p.drop(out)
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1]) // either end may break it off
			_ = way[0].Close()
			_ = way[1].Close()
		})
	}
	both.Wait()
}
