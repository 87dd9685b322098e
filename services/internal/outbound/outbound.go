// Package outbound has the one HTTP client for URLs that come from outside: key
// sets of issuers, webhooks, bundles. It cannot be made to reach what only this
// machine or its network can reach. Whoever in Lanyard fetches a URL imports it, and
// nothing else makes HTTP clients for such URLs.
package outbound

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
)

// Why a request was refused or cut off.
var (
	// ErrURL: the URL itself is not acceptable.
	ErrURL = errors.New("the URL is not allowed")
	// ErrAddress: the host resolved to an address that must not be reached.
	ErrAddress = errors.New("the address is not allowed")
	// ErrRedirect: the server answered with a redirect, which is never followed.
	ErrRedirect = errors.New("redirects are not followed")
	// ErrTooLarge: the response body is larger than allowed.
	ErrTooLarge = errors.New("the response is too large")
)

// Options of New. The zero value is the strictest client.
type Options struct {
	Ports   []int         // that may be dialled; default 443
	Timeout time.Duration // of a whole exchange, body included; default 10 s
	MaxBody int64         // largest response body in bytes, after decompression; default 1 MiB
	// Own are URLs of origins (scheme, host and port) that the operator has configured
	// as Lanyard's own or as local, such as the issuer URL: they may be http, on any
	// port and at any address. Never put there what comes from outside.
	Own []string
	// CAFile is a PEM file of authorities trusted for Own, besides the system's.
	CAFile string
	// Idle is how many unused connections are kept per host; default 2.
	Idle int

	resolver *net.Resolver     // tests
	dialled  func(addr string) // tests: called for each connection attempt that is let through
}

// New makes the client. Each request's URL is checked (https, a named port of the
// list, no user), each address is checked at the moment it is dialled, so a name that
// resolves differently later does not help; no proxy, no redirects, no cookies,
// limits on time and size.
func New(o Options) (*http.Client, error) {
	if len(o.Ports) == 0 {
		o.Ports = []int{443}
	}
	if o.Timeout <= 0 {
		o.Timeout = 10 * time.Second
	}
	if o.MaxBody <= 0 {
		o.MaxBody = 1 << 20
	}
	if o.Idle <= 0 {
		o.Idle = 2
	}
	t := &transport{ports: map[string]bool{}, own: map[string]bool{}, maxBody: o.MaxBody}
	var ports []uint16
	for _, p := range o.Ports {
		if p < 1 || p > 65535 {
			return nil, fmt.Errorf("make outbound client: %d is no TCP port", p)
		}
		ports = append(ports, uint16(p))
		t.ports[strconv.Itoa(p)] = true
	}
	for _, raw := range o.Own {
		if raw == "" {
			continue
		}
		u, err := url.Parse(raw)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("make outbound client: own origin %q: %w", raw, ErrURL)
		}
		t.own[origin(u)] = true
	}
	pool, err := roots(o.CAFile)
	if err != nil {
		return nil, err
	}
	filter := ssrf.New(ssrf.WithPorts(ports...), ssrf.WithDeniedV6Prefixes(deniedV6...))
	t.safe = roundTripper(o, nil, func(network, address string, c syscall.RawConn) error {
		if err := check(filter, network, address, c); err != nil {
			return fmt.Errorf("dial %s: %w: %w", address, ErrAddress, err)
		}
		if o.dialled != nil {
			o.dialled(address)
		}
		return nil
	})
	t.trusted = roundTripper(o, pool, nil)
	return &http.Client{
		Transport: t,
		Timeout:   o.Timeout,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return ErrRedirect
		},
	}, nil
}

// deniedV6 is denied beyond what the ssrf package denies: ranges of global unicast
// that embed an IPv4 address (6to4, Teredo) or belong to the documentation space, so
// they lead nowhere useful and possibly to a private address.
var deniedV6 = []netip.Prefix{
	netip.MustParsePrefix("2002::/16"),
	netip.MustParsePrefix("2001::/23"),
	netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("3fff::/20"),
}

// check applies the filter to the address and, when it is v4-mapped, to the IPv4
// address inside.
func check(filter *ssrf.Guardian, network, address string, c syscall.RawConn) error {
	if err := filter.Safe(network, address, c); err != nil {
		return err
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	if ap.Addr().Zone() != "" {
		return errors.New("the address has a zone")
	}
	return filter.SafeAddr(ap.Addr().Unmap())
}

// roots is the system's authorities and those of the file, nil when there is none.
func roots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read authorities: %w", err)
	}
	if !pool.AppendCertsFromPEM(b) {
		return nil, fmt.Errorf("read authorities: %s holds no PEM certificate", file)
	}
	return pool, nil
}

func roundTripper(o Options, pool *x509.CertPool, control func(string, string, syscall.RawConn) error) *http.Transport {
	d := &net.Dialer{Timeout: min(o.Timeout, 5*time.Second), Control: control, Resolver: o.resolver}
	return &http.Transport{
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return d.DialContext(ctx, network, addr)
		},
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: pool},
		TLSHandshakeTimeout:    min(o.Timeout, 5*time.Second),
		ResponseHeaderTimeout:  o.Timeout,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConnsPerHost:    o.Idle,
		IdleConnTimeout:        30 * time.Second,
		ForceAttemptHTTP2:      true,
	}
}

// transport checks the URL of every request and bounds every body.
type transport struct {
	safe, trusted *http.Transport
	ports         map[string]bool
	own           map[string]bool
	maxBody       int64
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	rt := t.safe
	if r.URL.User == nil && t.own[origin(r.URL)] {
		rt = t.trusted
	} else if err := t.checkURL(r.URL); err != nil {
		return nil, err
	}
	resp, err := rt.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if resp.ContentLength > t.maxBody {
		_ = resp.Body.Close()
		return nil, fmt.Errorf("fetch from %s: %w: %d bytes, %d allowed", r.URL.Host, ErrTooLarge, resp.ContentLength, t.maxBody)
	}
	resp.Body = &bounded{ReadCloser: resp.Body, left: t.maxBody}
	return resp, nil
}

// CloseIdleConnections lets http.Client.CloseIdleConnections work.
func (t *transport) CloseIdleConnections() {
	t.safe.CloseIdleConnections()
	t.trusted.CloseIdleConnections()
}

func (t *transport) checkURL(u *url.URL) error {
	switch {
	case u.Scheme != "https":
		return fmt.Errorf("check URL: %w: want https", ErrURL)
	case u.User != nil:
		return fmt.Errorf("check URL: %w: it has a user", ErrURL)
	case u.Hostname() == "":
		return fmt.Errorf("check URL: %w: it has no host", ErrURL)
	case !t.ports[port(u)]:
		return fmt.Errorf("check URL: %w: port %s is not in the list", ErrURL, port(u))
	}
	return checkHost(u.Hostname())
}

// checkHost refuses hosts that some resolvers read as an IPv4 address in an unusual
// form (decimal, octal, hex, fewer than four parts: WHATWG URL, "ends in a number"),
// names of this machine, and anything that is not plain ASCII of a DNS name.
func checkHost(host string) error {
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return fmt.Errorf("check URL: %w: the address has a zone", ErrURL)
		}
		return nil // checked when dialled
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != '_' {
			return fmt.Errorf("check URL: %w: the host is no DNS name in ASCII", ErrURL)
		}
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	if last == "" || (last[0] >= '0' && last[0] <= '9') {
		return fmt.Errorf("check URL: %w: the host ends in a number but is no address in its usual form", ErrURL)
	}
	if last == "localhost" || last == "local" || last == "internal" || last == "localdomain" {
		return fmt.Errorf("check URL: %w: the host is a name of this machine or network", ErrURL)
	}
	return nil
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "http" {
		return "80"
	}
	return "443"
}

// origin is scheme, host and port (RFC 6454), with the default port filled in.
func origin(u *url.URL) string {
	return strings.ToLower(u.Scheme) + "://" + net.JoinHostPort(strings.ToLower(u.Hostname()), port(u))
}

// bounded is a body that fails after left bytes.
type bounded struct {
	io.ReadCloser
	left int64
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if int64(len(p)) > b.left+1 {
		p = p[:b.left+1]
	}
	n, err := b.ReadCloser.Read(p)
	if int64(n) > b.left {
		return int(b.left), fmt.Errorf("read response: %w", ErrTooLarge)
	}
	b.left -= int64(n)
	return n, err
}
