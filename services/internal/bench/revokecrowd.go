package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/lanyard-nhi/lanyard/events/lineage"
)

// The crowd are subscriptions of the kill feed besides the real guards.
const (
	crowdSize  = 10_000
	crowdConns = 50
)

// crowd speaks the NATS protocol itself, so that what the process grows by is the
// server's: a client library would keep more per subscription than the server does.
// What it is sent it reads and counts; verifying it is done by the real guards, since
// 10,000 guards would not share two cores.
type crowd struct {
	conns []net.Conn
	wg    sync.WaitGroup
	err   atomic.Pointer[error]

	mu      sync.Mutex
	subject []byte // that is waited for
	left    int
	done    chan time.Time
}

func (c *crowd) close() {
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.wg.Wait()
}

// attach opens n subscriptions over a few connections and returns how many bytes of
// heap each took, once garbage is collected.
func (c *crowd) attach(s *server.Server, n int) (float64, error) {
	for range crowdConns {
		conn, err := s.InProcessConn()
		if err != nil {
			return 0, fmt.Errorf("connect crowd: %w", err)
		}
		c.conns = append(c.conns, conn)
		c.wg.Go(func() { c.read(conn) })
		if _, err := io.WriteString(conn, `CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"lang":"bench","version":"1","protocol":1}`+"\r\nPING\r\n"); err != nil {
			return 0, fmt.Errorf("connect crowd: %w", err)
		}
	}
	before := heap()
	for i := range n {
		if _, err := fmt.Fprintf(c.conns[i%crowdConns], "SUB nhi.feed.> %d\r\n", i/crowdConns+1); err != nil {
			return 0, fmt.Errorf("subscribe crowd: %w", err)
		}
	}
	for deadline := time.Now().Add(30 * time.Second); int(s.NumSubscriptions()) < n; {
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("subscribe crowd: %d of %d subscriptions", s.NumSubscriptions(), n)
		}
		runtime.Gosched()
	}
	return (heap() - before) / float64(n), nil
}

func heap() float64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// read takes what one connection is sent: HMSG subject sid [reply] header-size size.
func (c *crowd) read(conn net.Conn) {
	br := bufio.NewReaderSize(conn, 32<<10)
	for {
		line, err := br.ReadSlice('\n')
		if err != nil {
			return // closed
		}
		f := bytes.Fields(line)
		if len(f) == 0 {
			continue
		}
		switch string(f[0]) {
		case "PING":
			if _, err := io.WriteString(conn, "PONG\r\n"); err != nil {
				return
			}
		case "HMSG", "MSG":
			size, err := strconv.Atoi(string(f[len(f)-1]))
			if err == nil {
				c.count(f[1])
				_, err = br.Discard(size + 2)
			}
			if err != nil {
				return
			}
		case "-ERR":
			err := errors.New(string(line))
			c.err.Store(&err)
		}
	}
}

func (c *crowd) count(subject []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.left == 0 || !bytes.Equal(subject, c.subject) {
		return
	}
	if c.left--; c.left == 0 {
		c.done <- time.Now()
	}
}

// expect makes the crowd wait for the entry of a handle.
func (c *crowd) expect(h lineage.Handle, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.subject, c.left, c.done = []byte("nhi.feed."+h.String()), n, make(chan time.Time, 1)
}

func (c *crowd) wait(ctx context.Context) (time.Time, error) {
	c.mu.Lock()
	done := c.done
	c.mu.Unlock()
	select {
	case at := <-done:
		return at, nil
	case <-ctx.Done():
		return time.Time{}, ctx.Err()
	case <-time.After(30 * time.Second):
		err := errors.New("not every subscription of the crowd got the entry")
		if p := c.err.Load(); p != nil {
			err = errors.Join(err, *p)
		}
		return time.Time{}, err
	}
}

// revokeCrowd is the time from accept until 50 real guards refuse and 10,000 more
// subscriptions of the kill feed have the entry, on one server without a consumer for
// any of them; and what a subscription takes of the server's memory.
func revokeCrowd(ctx context.Context, o Options, r *revokeRig, _ *fanout) ([]Row, error) {
	samples, n, guards := 40, crowdSize, revokeGuards
	if o.Short {
		samples, n, guards = 5, crowdSize/2, 5
	}
	if err := r.attach(ctx, guards); err != nil {
		return nil, err
	}
	if err := r.tasks(ctx, samples); err != nil {
		return nil, err
	}
	c := &crowd{}
	defer c.close()
	each, err := c.attach(r.server, n)
	if err != nil {
		return nil, err
	}
	var took []float64
	for i := range samples {
		c.expect(r.env.Namer.Name(lineage.KindTask, benchTenant, r.task(i)), n)
		accepted, last, err := r.revoke(ctx, lineage.KindTask, r.task(i), 0)
		if err != nil {
			return nil, err
		}
		at, err := c.wait(ctx)
		if err != nil {
			return nil, err
		}
		if at.After(last) {
			last = at
		}
		took = append(took, ms(last.Sub(accepted)))
	}
	p50, p99 := Quantile(took, 0.5), Quantile(took, 0.99)
	o.Progress("revoke with %d subscriptions: p50 %.4g ms, p99 %.4g ms, %.0f B of server memory each", n, p50, p99, each)
	row := Absolute("revoke.accept_to_refused_p99_10000", "ms", []float64{p99}, 1000, "max")
	row.Min, row.Max = Quantile(took, 0), Quantile(took, 1)
	return []Row{row, Absolute("feed.server_memory_per_subscription", "B", []float64{each}, 2048, "max")}, nil
}
