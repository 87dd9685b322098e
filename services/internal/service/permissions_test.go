package service_test

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/services/internal/embedded"
	"github.com/lanyard-nhi/lanyard/services/internal/keys"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/nats-io/nkeys"
)

// raw speaks the NATS protocol as one user, to see every answer of the server.
type raw struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
	sid  int
}

func login(t *testing.T, url string, seed []byte) *raw {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(url, "nats://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	c := &raw{t: t, conn: conn, in: bufio.NewReader(conn)}
	var info struct {
		Nonce string `json:"nonce"`
	}
	line := c.line()
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "INFO ")), &info); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	kp, err := nkeys.FromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	public, err := kp.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	sig, err := kp.Sign([]byte(info.Nonce))
	if err != nil {
		t.Fatal(err)
	}
	c.send(fmt.Sprintf(`CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true,"protocol":1,"lang":"test","version":"1","nkey":%q,"sig":%q}`+"\r\n",
		public, base64.RawURLEncoding.EncodeToString(sig)))
	if errs := c.errors(); len(errs) > 0 {
		t.Fatalf("login: %v", errs)
	}
	return c
}

func (c *raw) send(s string) {
	c.t.Helper()
	if _, err := c.conn.Write([]byte(s)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *raw) line() string {
	c.t.Helper()
	if err := c.conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		c.t.Fatal(err)
	}
	s, err := c.in.ReadString('\n')
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.TrimSpace(s)
}

// errors are the server's complaints about everything sent so far.
func (c *raw) errors() []string {
	c.t.Helper()
	c.send("PING\r\n")
	var errs []string
	for {
		switch l := c.line(); {
		case l == "PONG":
			return errs
		case l == "PING":
			c.send("PONG\r\n")
		case strings.HasPrefix(l, "-ERR"):
			errs = append(errs, l)
		}
	}
}

func (c *raw) publish(subject string) bool {
	c.t.Helper()
	c.send("PUB " + subject + " 0\r\n\r\n")
	return c.allowed("Permissions Violation for Publish")
}

func (c *raw) subscribe(subject string) bool {
	c.t.Helper()
	c.sid++
	c.send(fmt.Sprintf("SUB %s %d\r\n", subject, c.sid))
	ok := c.allowed("Permissions Violation for Subscription")
	c.send(fmt.Sprintf("UNSUB %d\r\n", c.sid))
	return ok
}

func (c *raw) allowed(violation string) bool {
	c.t.Helper()
	errs := c.errors()
	for _, e := range errs {
		if !strings.Contains(e, violation) {
			c.t.Fatalf("unexpected answer: %s", e)
		}
	}
	return len(errs) == 0
}

// concrete replaces the wildcards of a pattern.
func concrete(pattern string) string {
	s := strings.ReplaceAll(pattern, "*", "tok")
	return strings.ReplaceAll(s, ">", "rest.of.it")
}

// match is an oracle of its own for subject matching.
func match(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, tok := range p {
		if tok == ">" {
			return len(s) > i
		}
		if i >= len(s) || tok != "*" && tok != s[i] {
			return false
		}
	}
	return len(p) == len(s)
}

func may(u service.User, subject string) bool {
	m := func(p string) bool { return match(p, subject) }
	return slices.ContainsFunc(u.Publish, m) && !slices.ContainsFunc(u.Deny, m)
}

// startUsers runs a server with every user of the toys.
func startUsers(t *testing.T) (string, *keys.Ring, []service.User) {
	t.Helper()
	ring, err := keys.Open(filepath.Join(t.TempDir(), "keys"), true)
	if err != nil {
		t.Fatal(err)
	}
	users, err := service.WithKeys(service.Permissions(toyTopology(t), others), ring)
	if err != nil {
		t.Fatal(err)
	}
	n, err := embedded.StartNATS(embedded.Options{Dir: t.TempDir(), Users: users})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Stop() })
	return n.URL(), ring, users
}

func seedOf(t *testing.T, ring *keys.Ring, user string) []byte {
	t.Helper()
	s, err := ring.NkeySeed(user)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Every user tries every subject that any user may publish or subscribe, and a few
// that nobody may. The server must allow exactly what the user's own rows say.
func TestPermissionMatrix(t *testing.T) {
	url, ring, users := startUsers(t)
	var subjects, patterns []string
	for _, u := range users {
		for _, p := range append(slices.Clone(u.Publish), u.Deny...) {
			subjects = append(subjects, concrete(p))
		}
		patterns = append(patterns, u.Subscribe...)
	}
	subjects = append(subjects, "nhi.kill.AAAAAAAAAAAAAAAA", "nhi.feed.x", "nhi.log.acme.identity.revoked.x", "nhi.timer.due.acme.x", "nhi.in.acme.x.y",
		"$JS.API.STREAM.DELETE.NHI_LOG", "$JS.API.STREAM.PURGE.NHI_KILL", "$JS.API.STREAM.MSG.DELETE.NHI_LOG", "$JS.API.STREAM.CREATE.EVIL",
		"$JS.API.STREAM.SNAPSHOT.NHI_LOG", "$JS.API.CONSUMER.DURABLE.CREATE.NHI_LOG.x", "$SYS.REQ.SERVER.PING.VARZ", "$JS.ACK.NHI_LOG.x.1.1.1.1.1", "anything")
	patterns = append(patterns, ">", "nhi.>", "*.>", "nhi.log.>", "nhi.in.>", "nhi.kill.>", "nhi.alert.>", "nhi.receipt.>", "_INBOX.>", "_INBOX_alpha.x", "$JS.>", "$SYS.>", "$KV.>")
	slices.Sort(subjects)
	subjects = slices.Compact(subjects)
	slices.Sort(patterns)
	patterns = slices.Compact(patterns)
	pubs, subs, wrong, foreign := 0, 0, 0, 0
	for _, u := range users {
		c := login(t, url, seedOf(t, ring, u.Name))
		for _, s := range subjects {
			pubs++
			if got, want := c.publish(s), may(u, s); got != want {
				wrong++
				if got {
					foreign++
				}
				t.Errorf("%s publishes %s: allowed %v, want %v", u.Name, s, got, want)
			}
		}
		for _, p := range patterns {
			subs++
			if got, want := c.subscribe(p), slices.Contains(u.Subscribe, p) || slices.ContainsFunc(u.Subscribe, func(own string) bool { return !strings.ContainsAny(p, "*>") && match(own, p) }); got != want {
				wrong++
				t.Errorf("%s subscribes %s: allowed %v, want %v", u.Name, p, got, want)
			}
		}
	}
	t.Logf("%d users, %d publishes and %d subscriptions tried, %d foreign publishes accepted, %d differences", len(users), pubs, subs, foreign, wrong)
}

// The rows themselves: what must and must not be in them.
func TestPermissionRows(t *testing.T) {
	byName := map[string]service.User{}
	for _, u := range service.Permissions(toyTopology(t), others) {
		byName[u.Name] = u
	}
	for _, tc := range []struct {
		user    string
		can     []string
		cannot  []string
		hears   []string
		nothear []string
	}{
		{user: "alpha",
			can: []string{"nhi.log.acme.identity.retired.x", "$JS.API.CONSUMER.MSG.NEXT.NHI_IN.alpha", "$JS.ACK.NHI_IN.alpha.1.2.3.4.5", "$JS.API.DIRECT.GET.NHI_LOG",
				"nhi.dead.NHI_IN.alpha", "nhi.receipt.lanyard.r1.service-alpha", "nhi.receipt.lanyard.r1.service-alpha-9", "nhi.guard.lanyard.service-alpha"},
			cannot: []string{"nhi.log.acme.identity.revoked.x", "nhi.kill.x", "nhi.alert.acme.low.D99", "$JS.API.CONSUMER.MSG.NEXT.NHI_LOG.beta", "$JS.ACK.NHI_LOG.beta.1.2.3.4.5",
				"$JS.API.CONSUMER.DELETE.NHI_LOG.beta", "$JS.API.CONSUMER.CREATE.NHI_LOG.beta.nhi.log.>", "nhi.dead.NHI_IN.beta", "nhi.in.acme.feature.disabled",
				"nhi.receipt.acme.r1.web", "nhi.receipt.lanyard.r1.service-beta", "nhi.guard.lanyard.service-beta", "nhi.lease.alpha", "nhi.timer.set.acme.x",
				"$JS.API.DIRECT.GET.NHI_ALERT", "$JS.API.STREAM.CREATE.NHI_LOG", "$JS.API.STREAM.DELETE.NHI_LOG", "$JS.API.STREAM.PURGE.NHI_LOG"},
			hears: []string{"nhi.feed.x", "_INBOX_alpha.x"}, nothear: []string{"_INBOX_beta.x", "nhi.log.acme.identity.retired.x", "nhi.in.acme.x.y"}},
		{user: "beta", can: []string{"nhi.alert.acme.low.D99", "nhi.lease.beta", "$JS.API.STREAM.MSG.GET.NHI_LEASE"}, cannot: []string{"nhi.lease.alpha", "nhi.kill.x"}},
		{user: "revocation", can: []string{"nhi.kill.x", "nhi.log.acme.revocation.accepted.x", "$JS.API.DIRECT.GET.NHI_GUARD"}, cannot: []string{"nhi.log.acme.identity.retired.x", "nhi.kill.a.b"}},
		{user: "delta", can: []string{"nhi.timer.set.acme.x", "nhi.timer.cancel.acme.x"}, cannot: []string{"nhi.timer.due.acme.x"}},
		{user: "product-acme", can: []string{"nhi.in.acme.activity.tool_called"},
			cannot: []string{"nhi.in.globex.activity.tool_called", "nhi.in.acme", "nhi.log.acme.a.b.c", "nhi.kill.x", "$JS.API.STREAM.INFO.NHI_IN"},
			hears:  []string{"_INBOX_product-acme.1"}, nothear: []string{"nhi.feed.x", "nhi.alert.acme.low.D1"}},
		{user: "soc-acme", cannot: []string{"nhi.in.acme.a.b", "nhi.alert.acme.low.D1"}, hears: []string{"nhi.alert.acme.high.D01"}, nothear: []string{"nhi.alert.globex.high.D01"}},
		{user: "guard-acme-web", can: []string{"nhi.receipt.acme.r1.web", "nhi.guard.acme.web", "$JS.API.DIRECT.GET.NHI_KILL"},
			cannot: []string{"nhi.receipt.acme.r1.db", "nhi.receipt.globex.r1.web", "nhi.guard.acme.db", "nhi.kill.x", "$JS.API.CONSUMER.CREATE.NHI_KILL.x", "$JS.API.DIRECT.GET.NHI_LOG"},
			hears:  []string{"nhi.feed.x"}, nothear: []string{"nhi.kill.x"}},
		{user: "provision", can: []string{"$JS.API.STREAM.CREATE.NHI_LOG", "$JS.API.STREAM.UPDATE.NHI_KILL"}, cannot: []string{"$JS.API.STREAM.DELETE.NHI_LOG", "$JS.API.STREAM.CREATE.X", "nhi.kill.x"}},
		{user: "operator", can: []string{"nhi.dead.RETRY.alpha.1", "nhi.in.acme.a.b", "$JS.API.DIRECT.GET.NHI_DEAD", "$JS.API.CONSUMER.INFO.NHI_LOG.beta"},
			cannot: []string{"nhi.kill.x", "nhi.log.acme.a.b.c", "$JS.API.CONSUMER.DELETE.NHI_LOG.beta", "$JS.API.STREAM.DELETE.NHI_LOG"}},
		{user: "lanyard", can: []string{"nhi.kill.x", "nhi.alert.acme.low.D99", "nhi.receipt.lanyard.r.lanyard"}, cannot: []string{"nhi.in.acme.a.b", "$JS.API.STREAM.DELETE.NHI_LOG", "nhi.receipt.acme.r.web"}},
		{user: "system", can: []string{"$SYS.REQ.SERVER.PING.JSZ"}, cannot: []string{"$SYS.REQ.SERVER.PING.VARZ", "$SYS.REQ.SERVER.x.RELOAD"}, hears: []string{"_INBOX_revocation-system.x"}},
	} {
		u, ok := byName[tc.user]
		if !ok {
			t.Errorf("no user %s", tc.user)
			continue
		}
		for _, s := range tc.can {
			if !may(u, s) {
				t.Errorf("%s may not publish %s", tc.user, s)
			}
		}
		for _, s := range tc.cannot {
			if may(u, s) {
				t.Errorf("%s may publish %s", tc.user, s)
			}
		}
		hears := func(s string) bool {
			return slices.ContainsFunc(u.Subscribe, func(p string) bool { return match(p, s) })
		}
		for _, s := range tc.hears {
			if !hears(s) {
				t.Errorf("%s does not hear %s", tc.user, s)
			}
		}
		for _, s := range tc.nothear {
			if hears(s) {
				t.Errorf("%s hears %s", tc.user, s)
			}
		}
	}
}
