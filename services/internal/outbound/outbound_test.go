package outbound

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"code.dny.dev/ssrf"
)

// hostileAddresses must never be dialled, however they are written or resolved.
var hostileAddresses = []string{
	"127.0.0.1", "127.0.0.2", "127.1.2.3", "127.255.255.254", "0.0.0.0", "0.0.0.1", "10.0.0.1", "10.255.255.255",
	"100.64.0.1", "100.100.100.200", "100.127.255.255", "169.254.169.254", "169.254.170.2", "169.254.0.1",
	"172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.0.2.1", "192.31.196.1", "192.52.193.1", "192.88.99.1",
	"192.168.0.1", "192.168.255.255", "192.175.48.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
	"224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
	"::", "::1", "::127.0.0.1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
	"::ffff:a9fe:a9fe", "::ffff:100.64.0.1", "::ffff:0:127.0.0.1",
	"64:ff9b::7f00:1", "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::10.0.0.1", "64:ff9b:1::a00:1", "64:ff9b::8.8.8.8",
	"100::1", "2001::1", "2001:0:7f00:1::", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:a9fe:a9fe::1",
	"2002:a00:1::", "3fff::1", "5f00::1", "fc00::1", "fd00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1", "ff0e::1", "4000::1",
}

// hostileURLs must be refused as they stand.
var hostileURLs = []string{
	"http://93.184.216.34/", "http://example.com/", "ftp://example.com/", "file:///etc/passwd", "gopher://example.com:70/",
	"dict://example.com/", "ws://example.com/", "HTTP://example.com/", "//example.com/", "/etc/passwd", "https:///path", "https://",
	"https://user@example.com/", "https://user:pw@example.com/", "https://example.com@127.0.0.1/", "https://127.0.0.1@example.com/",
	"https://@example.com/",
	"https://example.com:80/", "https://example.com:22/", "https://example.com:8443/", "https://example.com:4222/", "https://example.com:6379/",
	"https://example.com:0/", "https://example.com:65536/",
	"https://2130706433/", "https://0x7f000001/", "https://017700000001/", "https://127.1/", "https://127.0.1/", "https://0x7f.1/",
	"https://0177.0.0.1/", "https://0x7f.0x0.0x0.0x1/", "https://127.0.0.1./", "https://0/", "https://3232235521/", "https://169.254.43518/",
	"https://0xa9fea9fe/", "https://2852039166/", "https://0251.0376.0251.0376/", "https://127.000.000.001/", "https://127.0.0.0x1/",
	"https://1.1.1.1.1/", "https://0x/", "https://x.0x7f/", "https://256.256.256.256/", "https://127.0.0.1.1/",
	"https://localhost/", "https://LOCALHOST/", "https://localhost./", "https://a.localhost/", "https://printer.local/",
	"https://metadata.google.internal/", "https://metadata.google.internal./", "https://x.localdomain/",
	"https://[fe80::1%25lo]/", "https://[::1%25eth0]/", "https://①②⑦.⓪.⓪.①/", "https://127。0。0。1/", "https://ⓛocalhost/", "https://exa%6dple.com%00.x/",
	"https://example.com%2f@127.0.0.1/", "https://a b/", "https://[::ffff:127.0.0.1]:22/", "https://127.0.0.1:22/",
}

func TestHostileURLsAreNeverDialled(t *testing.T) {
	var mu sync.Mutex
	var dialled []string
	o := Options{Timeout: 2 * time.Second, dialled: func(a string) {
		mu.Lock()
		defer mu.Unlock()
		dialled = append(dialled, a)
	}}
	names := map[string]string{} // hostile address by name
	for i, a := range hostileAddresses {
		names[fmt.Sprintf("h%d.example.com.", i)] = a
	}
	o.resolver = fakeDNS(t, func(name string, _ int) string { return names[name] })
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.CloseIdleConnections()
	var urls []string
	urls = append(urls, hostileURLs...)
	for i, a := range hostileAddresses {
		lit := a
		if strings.Contains(a, ":") {
			lit = "[" + a + "]"
		}
		urls = append(urls, "https://"+lit+"/x", fmt.Sprintf("https://h%d.example.com/x", i))
	}
	if len(urls) < 150 {
		t.Fatalf("only %d URLs", len(urls))
	}
	refused := 0
	for _, u := range urls {
		resp, err := c.Get(u)
		if err == nil {
			_ = resp.Body.Close()
			t.Errorf("%s was fetched", u)
			continue
		}
		if errors.Is(err, ErrURL) || errors.Is(err, ErrAddress) {
			refused++
		} else if !strings.Contains(err.Error(), "parse") && !strings.Contains(err.Error(), "unsupported protocol scheme") &&
			!strings.Contains(err.Error(), "no Host in request URL") {
			t.Errorf("%s: refused by chance: %v", u, err)
		}
	}
	if len(dialled) != 0 {
		t.Errorf("dialled %v", dialled)
	}
	t.Logf("%d hostile URLs, %d refused by our checks, %d dials", len(urls), refused, len(dialled))
}

func TestRebindingIsCheckedAtTheDial(t *testing.T) {
	var dialled []string
	o := Options{Timeout: time.Second, dialled: func(a string) { dialled = append(dialled, a) }}
	asked := make(chan int, 16)
	const first = "93.184.216.34" // what a check ahead of the request would see
	var rebound atomic.Bool
	o.resolver = fakeDNS(t, func(_ string, n int) string {
		asked <- n
		if rebound.Load() {
			return "127.0.0.1"
		}
		return first
	})
	seen, err := o.resolver.LookupHost(t.Context(), "rebind.example.com")
	if err != nil || len(seen) != 1 || seen[0] != first {
		t.Fatalf("first look-up: %v, %v", seen, err)
	}
	rebound.Store(true)
	before := len(asked)
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = c.Get("https://rebind.example.com/"); !errors.Is(err, ErrAddress) {
		t.Errorf("error %v, want ErrAddress", err)
	}
	if len(asked) == before || len(dialled) != 0 {
		t.Errorf("%d look-ups, dialled %v", len(asked)-before, dialled)
	}
}

func TestPublicAddressesPass(t *testing.T) {
	filter := ssrf.New(ssrf.WithPorts(443), ssrf.WithDeniedV6Prefixes(deniedV6...))
	for _, a := range []string{"93.184.216.34", "8.8.8.8", "1.1.1.1", "100.128.0.1", "172.32.0.1", "2606:4700:4700::1111", "2a00:1450:4001:800::200e"} {
		network := "tcp4"
		if strings.Contains(a, ":") {
			network = "tcp6"
		}
		if err := check(filter, network, net.JoinHostPort(a, "443"), nil); err != nil {
			t.Errorf("%s: %v", a, err)
		}
		if err := check(filter, network, net.JoinHostPort(a, "80"), nil); err == nil {
			t.Errorf("%s on port 80 passed", a)
		}
	}
}

func TestOwnOriginsLimitsAndRedirects(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	mux := http.NewServeMux()
	mux.HandleFunc("/ok", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	mux.HandleFunc("/exact", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 1000)) })
	mux.HandleFunc("/big", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, strings.Repeat("x", 1001)) })
	mux.HandleFunc("/stream", func(w http.ResponseWriter, _ *http.Request) {
		for range 100 {
			_, _ = io.WriteString(w, strings.Repeat("x", 100))
			w.(http.Flusher).Flush()
		}
	})
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, other.URL, http.StatusFound) })
	mux.HandleFunc("/slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	own := httptest.NewServer(mux)
	defer own.Close()
	c, err := New(Options{Own: []string{own.URL + "/some/path", ""}, MaxBody: 1000, Timeout: 500 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	get := func(url string) (string, error) {
		resp, err := c.Get(url)
		if err != nil {
			return "", err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		return string(b), err
	}
	if b, err := get(own.URL + "/ok"); err != nil || b != "hello" {
		t.Errorf("own origin: %q, %v", b, err)
	}
	if b, err := get(own.URL + "/exact"); err != nil || len(b) != 1000 {
		t.Errorf("a body of the limit: %d bytes, %v", len(b), err)
	}
	for path, want := range map[string]error{"/big": ErrTooLarge, "/stream": ErrTooLarge, "/away": ErrRedirect, "/slow": context.DeadlineExceeded} {
		if _, err := get(own.URL + path); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	if _, err := get(other.URL); !errors.Is(err, ErrURL) {
		t.Errorf("another origin: %v", err)
	}
	if _, err := get(strings.Replace(own.URL, "http://", "http://a@", 1)); !errors.Is(err, ErrURL) {
		t.Errorf("own origin with a user: %v", err)
	}
	for _, bad := range []Options{{Own: []string{"::"}}, {Ports: []int{70000}}, {CAFile: "/nowhere"}} {
		if _, err := New(bad); err == nil {
			t.Errorf("New(%+v) accepted", bad)
		}
	}
}

// fakeDNS is a resolver over a DNS server on loopback that answers A and AAAA with
// what answer says for the n-th question.
func fakeDNS(t *testing.T, answer func(name string, n int) string) *net.Resolver {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	go func() {
		buf := make([]byte, 1500)
		for n := 1; ; n++ {
			l, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteTo(reply(buf[:l], n, answer), from)
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", pc.LocalAddr().String())
	}}
}

// reply is the answer to a DNS question (RFC 1035 section 4).
func reply(q []byte, n int, answer func(string, int) string) []byte {
	name, i := "", 12
	for q[i] != 0 {
		name += string(q[i+1:i+1+int(q[i])]) + "."
		i += 1 + int(q[i])
	}
	kind := binary.BigEndian.Uint16(q[i+1:])
	question := q[12 : i+5]
	out := append([]byte{q[0], q[1], 0x84, 0, 0, 1, 0, 0, 0, 0, 0, 0}, question...)
	a, err := netip.ParseAddr(answer(name, n))
	if err != nil || (kind == 1) != a.Is4() || (kind != 1 && kind != 28) {
		return out
	}
	out[7] = 1
	out = append(out, 0xc0, 12)
	out = binary.BigEndian.AppendUint16(out, kind)
	out = binary.BigEndian.AppendUint16(out, 1)
	out = binary.BigEndian.AppendUint32(out, 0)
	out = binary.BigEndian.AppendUint16(out, uint16(len(a.AsSlice())))
	return append(out, a.AsSlice()...)
}
