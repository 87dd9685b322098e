package pipelinetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/services/intake/sample"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/demo"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"go.uber.org/zap"
)

func demoUsers() []config.User {
	var users []config.User
	for _, t := range demo.Tenants {
		users = append(users, config.User{Kind: "guard", Tenant: t, Point: "orders-" + t})
	}
	return users
}

// mark is in everything that chaos makes up, so that it is known again.
const mark = "made-up-by-chaos"

// chaos repeats and reorders what products and guards publish, past the server's
// deduplication, and publishes garbage beside it.
type chaos struct {
	nc     *nats.Conn
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu      sync.Mutex
	held    []*nats.Msg // to be repeated, in any order
	repeats int
	garbage int
}

func startChaos(t *testing.T, s *System) *chaos {
	seed, err := s.Keys.NkeySeed(UserChaos)
	if err != nil {
		t.Fatal(err)
	}
	pair, err := nkeys.FromSeed(seed)
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	nc, err := nats.Connect("", nats.InProcessServer(s.NATS), nats.Nkey(public, pair.Sign))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &chaos{nc: nc, cancel: cancel}
	for _, subject := range []string{"nhi.in.>", "nhi.receipt.>"} {
		if _, err := nc.Subscribe(subject, c.hold); err != nil {
			t.Fatal(err)
		}
	}
	c.done.Go(func() { c.run(ctx) })
	t.Cleanup(c.stop)
	return c
}

func (c *chaos) stop() {
	c.cancel()
	c.done.Wait()
	c.nc.Close()
}

// hold keeps a message to be repeated, unless chaos has made it.
func (c *chaos) hold(m *nats.Msg) {
	if m.Header.Get("Chaos") != "" || bytes.Contains(m.Data, []byte(mark)) || !strings.HasPrefix(m.Subject, "nhi.") {
		return
	}
	again := &nats.Msg{Subject: m.Subject, Data: bytes.Clone(m.Data), Header: nats.Header{"Chaos": {"1"}, "Content-Type": {m.Header.Get("Content-Type")}}}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = append(c.held, again)
}

func (c *chaos) run(ctx context.Context) {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		c.mu.Lock()
		var m *nats.Msg
		if len(c.held) > 0 {
			i := rand.IntN(len(c.held))
			m = c.held[i]
			if rand.IntN(3) > 0 { // a third is repeated more than once
				c.held[i] = c.held[len(c.held)-1]
				c.held = c.held[:len(c.held)-1]
			}
			c.repeats++
		}
		if n%20 == 0 {
			c.garbage++
		}
		c.mu.Unlock()
		if m != nil {
			_ = c.nc.PublishMsg(m) // the connection lives as long as the test
		}
		if n%20 == 0 {
			_ = c.nc.PublishMsg(garbage(n / 20))
		}
	}
}

// garbage is one of everything that may arrive and must not disturb.
func garbage(n int) *nats.Msg {
	tenant := demo.Tenants[n%len(demo.Tenants)]
	m := &nats.Msg{Subject: "nhi.in." + tenant + ".activity.api_called", Header: nats.Header{"Chaos": {"1"}}}
	envelope := func(typ, tenant, data string) []byte {
		return fmt.Appendf(nil, `{"specversion":"1.0","id":"%s-%d","source":"/chaos","type":"%s","subject":"x","time":"2026-01-01T00:00:00Z","datacontenttype":"application/json","tenant":"%s","partitionkey":"x","correlationid":"c","data":%s}`, mark, n, typ, tenant, data)
	}
	switch n % 8 {
	case 0:
		m.Data = []byte("{ " + mark)
	case 1:
		m.Data = envelope("dev.lanyard.nothing.known.v1", tenant, "{}")
	case 2:
		m.Data = envelope("dev.lanyard.activity.api_called.v1", tenant, `{"unknown":true}`)
	case 3:
		m.Data = envelope("dev.lanyard.activity.api_called.v1", "umbrella", "{}")
	case 4:
		m.Data = append([]byte(mark), bytes.Repeat([]byte("x"), 70<<10)...)
	case 5:
		m.Data = []byte(mark)
		m.Header["Content-Type"] = []string{"application/cloudevents+json", "text/plain"}
	case 6:
		m.Subject, m.Data = "nhi.in."+tenant+"."+mark+".seen", envelope("x", tenant, "{}")
	default:
		m.Subject, m.Data = "nhi.receipt."+tenant+"."+mark+".nowhere", []byte(mark)
	}
	return m
}

// dead checks that only garbage was given up on, and that garbage left its record.
func dead(t *testing.T, s *System, c *chaos) {
	t.Helper()
	conn, err := s.Connect(t.Context(), service.UserOperator)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for d, err := range conn.DeadLetters(t.Context(), 1) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		if !bytes.Contains(d.Data, []byte(mark)) {
			t.Errorf("given up on by %s: %s: %s: %s\n%.300s", d.Service, d.Subject, d.Code, d.Reason, d.Data)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n == 0 || c.repeats == 0 {
		t.Errorf("%d dead letters for %d pieces of garbage, %d repeats: was there any trouble?", n, c.garbage, c.repeats)
	}
	t.Logf("%d repeats, %d pieces of garbage, %d dead letters", c.repeats, c.garbage, n)
}

type logged struct{ t *testing.T }

func (l logged) Step(title string)       { l.t.Log("== " + title) }
func (l logged) Line(f string, a ...any) { l.t.Logf("   "+f, a...) }
func (l logged) Good(f string, a ...any) { l.t.Logf(" + "+f, a...) }
func (l logged) Bad(f string, a ...any)  { l.t.Logf(" ! "+f, a...) }
func logger(t *testing.T) *zap.Logger {
	if os.Getenv("LANYARD_TEST_LOG") == "" {
		return zap.NewNop()
	}
	l, err := zap.NewDevelopment()
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestPipeline plays the main job in every layout, with repeated, reordered and made
// up input, Redis flushed in the middle of every phase, and processes restarted: it
// ends the same.
func TestPipeline(t *testing.T) {
	for _, layout := range []struct {
		name     string
		replicas int
		restart  map[string][]string // services, of which the first replica is restarted, by phase
	}{
		{"all in one process", 0, nil},
		{"one process per service", 1, map[string][]string{"ingest": {"anomaly", "intake"}, "launch": {"issuance", "rotation"}, "revoke": {"revocation"}}},
		{"two processes per service", 2, map[string][]string{"ingest": {"anomaly", "intake"}, "launch": {"issuance", "rotation"}, "revoke": {"revocation"}}},
	} {
		t.Run(layout.name, func(t *testing.T) {
			s := Start(t, Options{Replicas: layout.replicas, Users: demoUsers(), Log: logger(t)})
			c := startChaos(t, s)
			var trouble sync.WaitGroup
			res, err := demo.Run(t.Context(), s.Demo(), demo.Options{Agents: 12, Siblings: 6, Records: sample.FS, Patience: 30 * time.Second, CloseWithin: 60 * time.Second,
				At: func(phase string) {
					s.Redis.Flush()
					trouble.Go(func() {
						for _, name := range layout.restart[phase] {
							if err := s.restart(name); err != nil {
								t.Errorf("restart %s: %v", name, err)
							}
						}
					})
				}}, logged{t})
			trouble.Wait()
			if err != nil {
				t.Fatalf("the main job did not hold: %v\n%+v", err, res)
			}
			if res.Revocation.Descendants < 12 || res.Revocation.ReceiptsExpected == 0 || len(res.Alerts) < 3 || res.EventsIngested < 100 {
				t.Errorf("too little happened: %+v", res)
			}
			c.stop()
			conn, err := s.Connect(t.Context(), service.UserOperator)
			if err != nil {
				t.Fatal(err)
			}
			log, err := CheckLog(t.Context(), conn)
			if err != nil {
				t.Fatal(err)
			}
			for _, p := range log.Problems {
				t.Error(p)
			}
			r := log.Revocations[res.Revocation.ID]
			if r == nil || r.Closed != 1 {
				t.Errorf("the log does not close revocation %s: %+v", res.Revocation.ID, r)
			}
			for _, jti := range res.Credentials {
				if _, ok := log.Credentials[jti]; !ok {
					t.Errorf("credential %s was handed out and is not in the log", jti)
				}
			}
			dead(t, s, c)
			t.Logf("%d events in the log, %d credentials", log.Events, len(log.Credentials))
		})
	}
}

// restart restarts the first replica of a service.
func (s *System) restart(name string) error {
	for _, p := range s.Processes {
		if p.Name == name && p.Replica == 0 {
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			return p.Restart(ctx)
		}
	}
	return errors.New("there is no such process")
}

// TestLayoutKeepsServicesApart: each process has its own NATS user, which may not do
// what the handler tables do not say.
func TestLayoutKeepsServicesApart(t *testing.T) {
	s := Start(t, Options{Replicas: 1, Users: demoUsers(), Log: logger(t)})
	for _, user := range []string{"intake", "anomaly", "rotation", "issuance"} {
		conn, err := s.Connect(t.Context(), user)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := conn.Kill(ctx, "AAAAAAAAAAAAAAAA", []byte("x"), "x", nil, 0); err == nil {
			t.Errorf("%s may write to the kill feed", user)
		}
	}
	if n, err := s.mustConnect(t).LastSequence(t.Context(), bus.StreamKill, "nhi.kill.AAAAAAAAAAAAAAAA"); err != nil || n != 0 {
		t.Errorf("the kill feed holds what nobody may write: %d, %v", n, err)
	}
}

func (s *System) mustConnect(t *testing.T) *bus.Conn {
	c, err := s.Connect(t.Context(), UserChaos)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
