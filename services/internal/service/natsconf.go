package service

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
)

// NATSOptions of NATSConf.
type NATSOptions struct {
	Name     string // server name, default "lanyard"
	Listen   string // host:port of clients; port -1 lets the server choose
	StoreDir string
	Monitor  string // host:port of HTTP monitoring, loopback only; "" for none
	Users    []User // with keys, see WithKeys
	// Certificate, key and authorities, PEM files; needed outside loopback.
	TLSCert, TLSKey, TLSCA string
	// Cluster, optional, for R3: the cluster's name, where this server listens for the
	// others, and the others' URLs.
	Cluster       string
	ClusterListen string
	Routes        []string
}

// NATSConf is the configuration file of a nats-server for Lanyard: every user by its
// nkey with its permissions, JetStream that syncs every write, a system account that
// only UserSystem is in.
func NATSConf(o NATSOptions) (string, error) {
	host, port, err := net.SplitHostPort(o.Listen)
	if err != nil {
		return "", fmt.Errorf("write NATS configuration: listen: %w", err)
	}
	if !loopbackHost(host) && o.TLSCert == "" {
		return "", fmt.Errorf("write NATS configuration: %s is not on loopback: give a certificate, or everything crosses the network in the clear", o.Listen)
	}
	if n, err := strconv.Atoi(port); err != nil || n < -1 || n > 65535 || n == 0 {
		return "", fmt.Errorf("write NATS configuration: %q is no port", port)
	}
	if o.StoreDir == "" {
		return "", errors.New("write NATS configuration: no store directory")
	}
	if o.Name == "" {
		o.Name = "lanyard"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "# Made from the handler tables of the services. Users not listed here are refused.\n")
	fmt.Fprintf(&b, "server_name: %s\nhost: %s\nport: %s\nmax_payload: 1MB\n", quote(o.Name), quote(host), port)
	if o.Monitor != "" {
		if h, _, err := net.SplitHostPort(o.Monitor); err != nil || !loopbackHost(h) {
			return "", fmt.Errorf("write NATS configuration: monitoring at %q has no authentication and stays on loopback", o.Monitor)
		}
		fmt.Fprintf(&b, "http: %s\n", quote(o.Monitor))
	}
	if o.TLSCert != "" {
		fmt.Fprintf(&b, "tls {\n  cert_file: %s\n  key_file: %s\n", quote(o.TLSCert), quote(o.TLSKey))
		if o.TLSCA != "" {
			fmt.Fprintf(&b, "  ca_file: %s\n", quote(o.TLSCA))
		}
		b.WriteString("  min_version: \"1.2\"\n}\n")
	}
	fmt.Fprintf(&b, "jetstream {\n  store_dir: %s\n  # An acknowledged revoke must survive a power cut.\n  sync_interval: always\n}\n", quote(o.StoreDir))
	if o.Cluster != "" {
		fmt.Fprintf(&b, "cluster {\n  name: %s\n  listen: %s\n  routes: [", quote(o.Cluster), quote(o.ClusterListen))
		for i, r := range o.Routes {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(quote(r))
		}
		b.WriteString("]\n}\n")
	}
	b.WriteString("system_account: SYS\naccounts {\n")
	for _, account := range []struct {
		name   string
		system bool
	}{{"SYS", true}, {"LANYARD", false}} {
		fmt.Fprintf(&b, "  %s {\n", account.name)
		if !account.system {
			b.WriteString("    jetstream: enabled\n")
		}
		b.WriteString("    users: [\n")
		for _, u := range o.Users {
			if u.System != account.system {
				continue
			}
			if err := writeUser(&b, u); err != nil {
				return "", fmt.Errorf("write NATS configuration: %w", err)
			}
		}
		b.WriteString("    ]\n  }\n")
	}
	b.WriteString("}\n")
	return b.String(), nil
}

func writeUser(b *strings.Builder, u User) error {
	if u.Key == "" {
		return fmt.Errorf("user %s has no key", u.Name)
	}
	fmt.Fprintf(b, "      # %s\n      { nkey: %s, permissions: {\n", u.Name, quote(u.Key))
	writeSubjects(b, "publish", u.Publish, u.Deny)
	writeSubjects(b, "subscribe", u.Subscribe, nil)
	b.WriteString("      } }\n")
	return nil
}

// writeSubjects writes one permission. An empty list would allow everything, so it
// becomes a denial of everything.
func writeSubjects(b *strings.Builder, name string, allow, deny []string) {
	if len(allow) == 0 {
		fmt.Fprintf(b, "        %s: { deny: [\">\"] }\n", name)
		return
	}
	fmt.Fprintf(b, "        %s: {\n          allow: [%s]\n", name, quotes(allow))
	if len(deny) > 0 {
		fmt.Fprintf(b, "          deny: [%s]\n", quotes(deny))
	}
	b.WriteString("        }\n")
}

func quotes(list []string) string {
	q := make([]string, len(list))
	for i, s := range list {
		q[i] = quote(s)
	}
	return strings.Join(q, ", ")
}

// quote makes a string of NATS configuration syntax.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

func loopbackHost(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
