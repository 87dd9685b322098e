package deployment

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/lanyard-nhi/lanyard/services/internal/keys"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

// servers writes nats.conf and redis.conf.
func (p *place) servers(ring *keys.Ring) error {
	list, err := service.WithKeys(service.Permissions(p.o.Topology, p.o.Users), ring)
	if err != nil {
		return fmt.Errorf("lay out nats: %w", err)
	}
	o := service.NATSOptions{Users: list}
	if p.o.Layout == Compose {
		o.Listen, o.StoreDir = "0.0.0.0:4222", "/data"
		o.TLSCert, o.TLSKey, o.TLSCA = "/etc/lanyard/tls/cert.pem", "/etc/lanyard/tls/key.pem", "/etc/lanyard/tls/ca.pem"
	} else {
		o.Listen, o.StoreDir = fmt.Sprintf("127.0.0.1:%d", p.natsPort()), filepath.Join(p.dir, "nats", "data")
		o.Monitor = fmt.Sprintf("127.0.0.1:%d", p.monitorPort())
	}
	conf, err := service.NATSConf(o)
	if err != nil {
		return fmt.Errorf("lay out nats: %w", err)
	}
	if err := write(filepath.Join(p.dir, "nats", "nats.conf"), []byte(conf), 0o600); err != nil {
		return err
	}
	return write(filepath.Join(p.dir, "redis", "redis.conf"), []byte(p.redisConf()), 0o600)
}

// redisConf is a Redis that needs a password, never evicts, and keeps nothing: what
// is in it can be folded from the log at any moment.
func (p *place) redisConf() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Made by 'lanyard init'. Redis holds projections only and may be lost.\n")
	fmt.Fprintf(&b, "requirepass %s\nprotected-mode yes\nsave \"\"\nappendonly no\nmaxmemory-policy noeviction\n", p.password)
	if p.o.Layout == Compose {
		b.WriteString("bind 0.0.0.0\nport 0\ntls-port 6379\ntls-cert-file /etc/lanyard/tls/cert.pem\ntls-key-file /etc/lanyard/tls/key.pem\ntls-ca-cert-file /etc/lanyard/tls/ca.pem\ntls-auth-clients no\n")
		return b.String()
	}
	dir := filepath.Join(p.dir, "redis", "data")
	if err := os.MkdirAll(dir, 0o700); err == nil {
		fmt.Fprintf(&b, "dir %q\n", dir)
	}
	fmt.Fprintf(&b, "bind 127.0.0.1\nport %d\n", p.redisPort())
	return b.String()
}
