package embedded

import (
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/lanyard-nhi/lanyard/services/internal/secret"
)

// RedisOptions of StartRedis.
type RedisOptions struct {
	Listen       string // host:port on loopback; "" means 127.0.0.1:0
	PasswordFile string // where the password is written (0600); "" for nowhere
}

// Redis is a Redis-compatible server in this process. It holds projections only and
// keeps nothing on disk: after a start it is empty and is folded again from the log.
type Redis struct {
	server   *miniredis.Miniredis
	password string
	addr     string
	stop     chan struct{}
	stopped  chan struct{}
}

// tick is how often keys' times to live are counted down.
const tick = 100 * time.Millisecond

// StartRedis starts a server with a fresh random password.
func StartRedis(o RedisOptions) (*Redis, error) {
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	r := &Redis{server: miniredis.NewMiniRedis(), password: rand.Text() + rand.Text(), stop: make(chan struct{}), stopped: make(chan struct{})}
	r.server.RequireAuth(r.password)
	if o.PasswordFile != "" {
		if err := writePrivate(o.PasswordFile, r.password+"\n"); err != nil {
			return nil, fmt.Errorf("start embedded Redis: %w", err)
		}
	}
	if err := r.server.StartAddr(o.Listen); err != nil {
		return nil, fmt.Errorf("start embedded Redis: %w", err)
	}
	r.addr = r.server.Addr()
	go r.count()
	return r, nil
}

// count lets time pass: the server's own clock stands still.
func (r *Redis) count() {
	defer close(r.stopped)
	t := time.NewTicker(tick)
	defer t.Stop()
	last := time.Now()
	for {
		select {
		case <-r.stop:
			return
		case now := <-t.C:
			r.server.FastForward(now.Sub(last))
			last = now
		}
	}
}

// Addr is host:port.
func (r *Redis) Addr() string { return r.addr }

// URL is the redis:// URL with the password.
func (r *Redis) URL() secret.Secret {
	return secret.New("redis://:" + r.password + "@" + r.addr + "/0")
}

// Flush empties the server, as a lost Redis would be; tests use it.
func (r *Redis) Flush() { r.server.FlushAll() }

// Stop stops the server; it may be called once.
func (r *Redis) Stop() error {
	close(r.stop)
	<-r.stopped
	r.server.Close()
	return nil
}

// writePrivate replaces a file that only its owner may read.
func writePrivate(path, text string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*") // 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails after the rename, as it should
	_, err = f.WriteString(text)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
