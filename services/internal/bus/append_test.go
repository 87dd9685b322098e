package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/nats-io/nats.go"
)

func TestAppend(t *testing.T) {
	c := testBus(t)
	ctx := t.Context()
	filter := events.EntityFilter("acme", "agent")
	ack, err := c.Append(ctx, Batch{Events: []events.Event{risk(t, "acme", "agent", 1), risk(t, "acme", "agent", 2)}, Expect: &Expect{Filter: filter}})
	if err != nil || ack != (Ack{Stream: StreamLog, Sequence: 2}) {
		t.Fatalf("first batch: %+v, %v", ack, err)
	}
	if _, err := c.Append(ctx, Batch{Events: []events.Event{risk(t, "acme", "agent", 3)}, Expect: &Expect{Filter: filter, Sequence: 1}}); !errors.Is(err, ErrConflict) {
		t.Fatalf("stale expectation: %v, want ErrConflict", err)
	}
	if _, err := c.Append(ctx, Batch{Events: []events.Event{risk(t, "acme", "agent", 3), risk(t, "acme", "agent", 4)}, Expect: &Expect{Filter: filter}}); !errors.Is(err, ErrConflict) {
		t.Fatalf("stale expectation of a batch: %v, want ErrConflict", err)
	}
	ack, err = c.Append(ctx, Batch{Events: []events.Event{risk(t, "acme", "agent", 3)}, Expect: &Expect{Filter: filter, Sequence: 2}})
	if err != nil || ack.Sequence != 3 {
		t.Fatalf("right expectation: %+v, %v", ack, err)
	}
	if n := len(read(t, c, StreamLog, ">")); n != 3 {
		t.Fatalf("%d events stored, want 3", n)
	}
}

func TestAppendAgainSucceeds(t *testing.T) {
	c := testBus(t)
	ctx := t.Context()
	filter := events.EntityFilter("acme", "agent")
	one, two, three := risk(t, "acme", "agent", 1), risk(t, "acme", "agent", 2), risk(t, "acme", "agent", 3)
	for _, tc := range []struct {
		name string
		b    Batch
		want uint64
		err  error
	}{
		{"single with expectation", Batch{Events: []events.Event{one}, Expect: &Expect{Filter: filter}}, 1, nil},
		{"the same again, which no longer holds", Batch{Events: []events.Event{one}, Expect: &Expect{Filter: filter}}, 1, nil},
		{"the same without expectation", Batch{Events: []events.Event{one}}, 1, nil},
		{"partly stored, expectation broken", Batch{Events: []events.Event{one, two}, Expect: &Expect{Filter: filter}}, 0, ErrConflict},
		{"partly stored, expectation holds", Batch{Events: []events.Event{one, two}, Expect: &Expect{Filter: filter, Sequence: 1}}, 2, nil},
		{"batch again", Batch{Events: []events.Event{one, two}, Expect: &Expect{Filter: filter}}, 2, nil},
		{"partly stored, no expectation", Batch{Events: []events.Event{two, three}}, 3, nil},
		{"one id twice", Batch{Events: []events.Event{three, three}}, 3, nil},
	} {
		ack, err := c.Append(ctx, tc.b)
		if !errors.Is(err, tc.err) || ack.Sequence != tc.want {
			t.Errorf("%s: sequence %d, %v; want %d, %v", tc.name, ack.Sequence, err, tc.want, tc.err)
		}
	}
	if n := len(read(t, c, StreamLog, ">")); n != 3 {
		t.Fatalf("%d events stored, want 3", n)
	}
}

// After a crash much is published again, with something new in between.
func TestPublishMuchAgain(t *testing.T) {
	c := testBus(t)
	var es []events.Event
	for i := range 300 {
		es = append(es, risk(t, "acme", "agent", i))
	}
	if err := c.Publish(t.Context(), es[:200]...); err != nil {
		t.Fatal(err)
	}
	if err := c.Publish(t.Context(), es[100:]...); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, e := range es {
		wg.Go(func() {
			if err := c.Publish(t.Context(), e); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	stored := read(t, c, StreamLog, ">")
	for _, s := range stored {
		seen[s.Event.ID()] = true
	}
	if len(stored) != len(es) || len(seen) != len(es) {
		t.Errorf("%d messages hold %d events, want %d", len(stored), len(seen), len(es))
	}
}

// A batch that is stored already costs a bounded number of messages to the server.
func TestRepeatsAreCheap(t *testing.T) {
	const n = 500
	filter := events.EntityFilter("acme", "agent")
	for _, tc := range []struct {
		name   string
		expect *Expect
		most   uint64 // messages sent for the batch again
	}{
		{"without a condition: the batch, then each by itself", nil, 2*n + 5},
		{"with a condition: the batch, then a look into the log", &Expect{Filter: filter}, n + 10},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := testBus(t)
			var es []events.Event
			for i := range n {
				es = append(es, risk(t, "acme", "agent", i))
			}
			b := Batch{Events: es, Expect: tc.expect}
			for round := range 3 {
				before := c.nc.Stats().OutMsgs
				ack, err := c.Append(t.Context(), b)
				if err != nil || ack.Sequence != n {
					t.Fatalf("round %d: sequence %d, %v; want %d", round, ack.Sequence, err, n)
				}
				if sent := c.nc.Stats().OutMsgs - before; round > 0 && sent > tc.most {
					t.Errorf("round %d: %d messages sent, want at most %d", round, sent, tc.most)
				}
			}
			if stored := len(read(t, c, StreamLog, ">")); stored != n {
				t.Errorf("%d events stored, want %d", stored, n)
			}
		})
	}
}

func TestAppendRefusals(t *testing.T) {
	c := testBus(t)
	big := risk(t, "acme", "agent", 1)
	if err := big.SetData("application/json", map[string]string{"identity": "agent", "reason": strings.Repeat("x", events.MaxSize)}); err != nil {
		t.Fatal(err)
	}
	tooMany := make([]events.Event, maxGroup+1)
	for i := range tooMany {
		tooMany[i] = risk(t, "acme", "agent", i)
	}
	for name, es := range map[string][]events.Event{
		"no events":   nil,
		"two streams": {risk(t, "acme", "agent", 1), called(t, "acme", "agent", 1)},
		"too large":   {big},
		"too many":    tooMany,
		"bad tenant":  {risk(t, "ACME", "agent", 1)},
	} {
		if _, err := c.Append(t.Context(), Batch{Events: es}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if n, err := c.LastSequence(t.Context(), StreamLog, ">"); err != nil || n != 0 {
		t.Fatalf("something was stored: %d, %v", n, err)
	}
}

// Concurrent callers share atomic batches; only the one whose expectation fails is
// told so.
func TestGroupCommit(t *testing.T) {
	c := testBus(t)
	const callers = 200
	if err := c.Publish(t.Context(), risk(t, "acme", "agent-7", 9999)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	acks, errs := make([]Ack, callers), make([]error, callers)
	begin := make(chan struct{})
	for i := range callers {
		agent := fmt.Sprint("agent-", i)
		b := Batch{Events: []events.Event{risk(t, "acme", agent, 1), risk(t, "acme", agent, 2)}, Expect: &Expect{Filter: events.EntityFilter("acme", agent)}}
		wg.Go(func() {
			<-begin
			acks[i], errs[i] = c.Append(t.Context(), b)
		})
	}
	close(begin)
	wg.Wait()
	for i, err := range errs {
		if want := i == 7; errors.Is(err, ErrConflict) != want || (err != nil) != want {
			t.Errorf("caller %d: %v", i, err)
		}
	}
	bySeq := map[uint64]string{}
	for _, s := range read(t, c, StreamLog, ">") {
		bySeq[s.Sequence] = s.Event.ID()
	}
	if len(bySeq) != 1+2*(callers-1) {
		t.Fatalf("%d events stored, want %d", len(bySeq), 1+2*(callers-1))
	}
	for i, ack := range acks {
		if i == 7 {
			continue
		}
		if want := fmt.Sprintf("risk-agent-%d-2", i); bySeq[ack.Sequence] != want || bySeq[ack.Sequence-1] != fmt.Sprintf("risk-agent-%d-1", i) {
			t.Errorf("caller %d was told %d, where %q stands", i, ack.Sequence, bySeq[ack.Sequence])
		}
	}
}

// Two writers that saw the same state: exactly one wins, also when both go in one group.
func TestRacingExpectations(t *testing.T) {
	c := testBus(t)
	filter := events.EntityFilter("acme", "agent")
	var last uint64
	for round := range 30 {
		var wg sync.WaitGroup
		errs := make([]error, 4)
		seqs := make([]uint64, 4)
		for i := range errs {
			b := Batch{Events: []events.Event{risk(t, "acme", "agent", round*10+i)}, Expect: &Expect{Filter: filter, Sequence: last}}
			wg.Go(func() {
				ack, err := c.Append(t.Context(), b)
				seqs[i], errs[i] = ack.Sequence, err
			})
		}
		wg.Wait()
		won := 0
		for i, err := range errs {
			switch {
			case err == nil:
				won++
				last = seqs[i]
			case !errors.Is(err, ErrConflict):
				t.Fatal(err)
			}
		}
		if won != 1 {
			t.Fatalf("round %d: %d writers won", round, won)
		}
	}
}

func TestGroupSize(t *testing.T) {
	it := func(id, subject string) item { return item{id: id, subject: subject, data: []byte("x")} }
	batch := func(e *Expect, items ...item) *pending { return &pending{items: items, expect: e} }
	many := make([]item, maxGroup)
	for i := range many {
		many[i] = it(fmt.Sprint("m", i), "nhi.log.a.b.c.m")
	}
	for _, tc := range []struct {
		name  string
		queue []*pending
		want  int
	}{
		{"nothing", nil, 0},
		{"one", []*pending{batch(nil, it("1", "a.x"))}, 1},
		{"two", []*pending{batch(nil, it("1", "a.x")), batch(nil, it("2", "a.x"))}, 2},
		{"one id in both", []*pending{batch(nil, it("1", "a.x")), batch(nil, it("1", "a.x")), batch(nil, it("3", "a.x"))}, 1},
		{"expectation about what the group writes", []*pending{batch(nil, it("1", "a.b.x")), batch(&Expect{Filter: "a.*.x"}, it("2", "a.c.x"))}, 1},
		{"expectation with a wildcard at the end", []*pending{batch(nil, it("1", "a.b.x")), batch(&Expect{Filter: "a.>"}, it("2", "c.c.x"))}, 1},
		{"expectation about another subject", []*pending{batch(nil, it("1", "a.b.x")), batch(&Expect{Filter: "a.*.y"}, it("2", "a.c.x"))}, 2},
		{"a write after the expectation", []*pending{batch(&Expect{Filter: "a.*.x"}, it("1", "a.b.y")), batch(nil, it("2", "a.c.x"))}, 2},
		{"full", []*pending{batch(nil, many...), batch(nil, it("1", "a.x"))}, 1},
		{"large", []*pending{batch(nil, item{id: "1", subject: "a", data: make([]byte, maxGroupBytes)}), batch(nil, it("2", "a"))}, 1},
	} {
		if got := groupSize(tc.queue); got != tc.want {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.want)
		}
	}
}

func TestMatches(t *testing.T) {
	for _, tc := range []struct {
		filter, subject string
		want            bool
	}{
		{"a.b.c", "a.b.c", true}, {"a.b", "a.b.c", false}, {"a.b.c", "a.b", false}, {"a.*.c", "a.b.c", true},
		{"*", "a", true}, {"*", "a.b", false}, {"a.>", "a.b.c", true}, {"a.>", "a", false}, {">", "a", true}, {"a.*.d", "a.b.c", false},
	} {
		if got := matches(tc.filter, tc.subject); got != tc.want {
			t.Errorf("matches(%q, %q) = %v", tc.filter, tc.subject, got)
		}
	}
}

// A server that does not answer leaves the outcome unknown, and the same append
// again, once it is back, stores the events once.
func TestUnknownOutcome(t *testing.T) {
	s := testServer(t)
	c := testConn(t, s, func(_ *Config, tm *timing) { tm.attempt, tm.attempts = 50*time.Millisecond, 3 })
	if err := Provision(t.Context(), c, Options{}); err != nil {
		t.Fatal(err)
	}
	// Nobody answers for the stream any more: it is gone.
	if err := c.js.DeleteStream(t.Context(), StreamLog); err != nil {
		t.Fatal(err)
	}
	b := Batch{Events: []events.Event{risk(t, "acme", "agent", 1), risk(t, "acme", "agent", 2)}}
	if _, err := c.Append(t.Context(), b); !errors.Is(err, ErrUnknownOutcome) {
		t.Fatalf("without an answer: %v, want ErrUnknownOutcome", err)
	}
	if _, err := c.Append(t.Context(), Batch{Events: b.Events[:1]}); !errors.Is(err, ErrUnknownOutcome) {
		t.Fatalf("single without an answer: %v, want ErrUnknownOutcome", err)
	}
	patient := testConn(t, s)
	if err := Provision(t.Context(), patient, Options{}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if ack, err := patient.Append(t.Context(), b); err != nil || ack.Sequence != 2 {
			t.Fatalf("again: %+v, %v", ack, err)
		}
	}
}

// A connection that gets no answers is made anew, and what was sent is stored once.
func TestReconnectAfterTimeouts(t *testing.T) {
	s := testServer(t)
	c := testConn(t, s, func(_ *Config, tm *timing) { tm.attempt, tm.attempts, tm.reconnect = 50*time.Millisecond, 100, 2 })
	hole, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	if _, err := hole.Subscribe("nhi.log.>", func(*nats.Msg) {}); err != nil { // takes everything, answers nothing
		t.Fatal(err)
	}
	if err := hole.Flush(); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := c.Append(t.Context(), Batch{Events: []events.Event{risk(t, "acme", "agent", 1), risk(t, "acme", "agent", 2)}})
		done <- err
	}()
	eventually(t, "a new connection", func() bool { return c.nc.Stats().Reconnects > 0 })
	if err := Provision(t.Context(), testConn(t, s), Options{}); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if n := len(read(t, c, StreamLog, ">")); n != 2 {
		t.Errorf("%d events stored, want 2", n)
	}
}

// Whoever waits when the connection ends is told that the outcome is not known.
func TestCloseWhileAppending(t *testing.T) {
	s := testServer(t)
	c := testConn(t, s, func(_ *Config, tm *timing) { tm.attempt = time.Hour })
	hole, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	asked := make(chan struct{}, 10)
	if _, err := hole.Subscribe("nhi.log.>", func(*nats.Msg) { asked <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	if err := hole.Flush(); err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 3)
	for _, es := range [][]events.Event{{risk(t, "acme", "a", 1)}, {risk(t, "acme", "b", 1), risk(t, "acme", "b", 2)}, {risk(t, "acme", "c", 1)}} {
		go func() {
			_, err := c.Append(context.Background(), Batch{Events: es})
			errs <- err
		}()
		<-asked
	}
	c.nc.Close()
	for range 3 {
		if err := <-errs; !errors.Is(err, ErrUnknownOutcome) {
			t.Errorf("append ended with %v", err)
		}
	}
}

func TestAppendContextEnds(t *testing.T) {
	c := testBus(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Append(ctx, Batch{Events: []events.Event{risk(t, "acme", "agent", 1)}}); !errors.Is(err, context.Canceled) || errors.Is(err, ErrUnknownOutcome) {
		t.Fatalf("cancelled before it was sent: %v", err)
	}
	m := c.committers[StreamLog]
	m.mu.Lock()
	m.busy = maxCommits // nobody works
	m.mu.Unlock()
	ctx, cancel = context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Append(ctx, Batch{Events: []events.Event{risk(t, "acme", "agent", 1)}}); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnknownOutcome) {
		t.Fatalf("cancelled while waiting: %v", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.queue) != 0 {
		t.Fatalf("%d batches still wait", len(m.queue))
	}
}

func TestKill(t *testing.T) {
	c := testBus(t)
	ctx := t.Context()
	feed, err := c.nc.SubscribeSync("nhi.feed.>")
	if err != nil {
		t.Fatal(err)
	}
	zero := uint64(0)
	seq, err := c.Kill(ctx, "handle-1", []byte("signed"), "kill-1", &zero, 0)
	if err != nil || seq != 1 {
		t.Fatalf("kill: %d, %v", seq, err)
	}
	if again, err := c.Kill(ctx, "handle-1", []byte("signed"), "kill-1", &zero, 0); err != nil || again != seq {
		t.Fatalf("the same kill again: %d, %v", again, err)
	}
	if _, err := c.Kill(ctx, "handle-1", []byte("other"), "kill-2", &zero, 0); !errors.Is(err, ErrConflict) {
		t.Fatalf("a second kill: %v, want ErrConflict", err)
	}
	if seq, err = c.Kill(ctx, "heartbeat", []byte("beat"), "beat-1", nil, 1500*time.Millisecond); err != nil || seq != 2 {
		t.Fatalf("heartbeat: %d, %v", seq, err)
	}
	for i, want := range []string{"nhi.feed.handle-1", "nhi.feed.heartbeat"} {
		m, err := feed.NextMsg(5 * time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if m.Subject != want || m.Header.Get("Nats-Sequence") != fmt.Sprint(i+1) {
			t.Errorf("feed carried %s %v, want %s", m.Subject, m.Header, want)
		}
	}
	eventually(t, "the server drops what has a time to live", func() bool {
		n, err := c.LastSequence(ctx, StreamKill, "nhi.kill.heartbeat")
		return err == nil && n == 0
	})
	s, err := c.js.Stream(ctx, StreamKill)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteMsg(ctx, 1); err == nil {
		t.Error("a kill entry could be deleted")
	}
	if err := s.Purge(ctx); err == nil {
		t.Error("the kill feed could be purged")
	}
}

func TestReadAndFollow(t *testing.T) {
	c := testBus(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	const n = 1200 // more than two direct gets
	var es []events.Event
	for i := range n {
		es = append(es, risk(t, []string{"acme", "globex"}[i%2], "agent", i))
	}
	if err := c.Publish(ctx, es...); err != nil {
		t.Fatal(err)
	}
	if m := nats.NewMsg("nhi.log.acme.risk.changed.agent"); c.nc.PublishMsg(m) != nil {
		t.Fatal("cannot publish garbage")
	}
	eventually(t, "garbage stored", func() bool { last, err := c.LastSequence(ctx, StreamLog, ">"); return err == nil && last == n+1 })
	for _, tc := range []struct {
		filter     string
		from       uint64
		count      int
		first, end uint64
	}{
		{">", 0, n, 1, n}, {">", 1001, n - 1000, 1001, n}, {"nhi.log.acme.>", 1, n / 2, 1, n - 1},
		{"nhi.log.globex.*.*.agent", 3, n/2 - 1, 4, n}, {"nhi.log.initech.>", 1, 0, 0, 0}, {">", n + 100, 0, 0, 0},
	} {
		var seqs []uint64
		for s, err := range c.Read(ctx, StreamLog, tc.filter, tc.from) {
			if err != nil {
				t.Fatal(err)
			}
			seqs = append(seqs, s.Sequence)
		}
		if len(seqs) != tc.count || tc.count > 0 && (seqs[0] != tc.first || seqs[len(seqs)-1] != tc.end) {
			t.Errorf("read %s from %d: %d events %v", tc.filter, tc.from, len(seqs), seqs[:min(3, len(seqs))])
		}
	}
	if last, err := c.LastSequence(ctx, StreamLog, "nhi.log.globex.>"); err != nil || last != n {
		t.Errorf("last sequence: %d, %v", last, err)
	}

	got := make(chan Stored, 2*n)
	failed := errors.New("enough")
	done := make(chan error, 1)
	go func() {
		done <- c.Follow(ctx, StreamLog, []string{"nhi.log.acme.>"}, 1001, func(s Stored) error {
			got <- s
			if s.Event.ID() == "risk-agent-77777" {
				return failed
			}
			return nil
		})
	}()
	for range (n - 1000) / 2 {
		<-got
	}
	if err := c.Publish(ctx, risk(t, "globex", "agent", 88888), risk(t, "acme", "agent", 77777)); err != nil {
		t.Fatal(err)
	}
	if s := <-got; s.Event.ID() != "risk-agent-77777" || s.Subject != "nhi.log.acme.risk.changed.agent" || s.Time.IsZero() {
		t.Errorf("followed %+v", s)
	}
	if err := <-done; !errors.Is(err, failed) {
		t.Errorf("follow ended with %v", err)
	}
	eventually(t, "nothing is left on the server", func() bool {
		s, err := c.js.Stream(ctx, StreamLog)
		return err == nil && s.CachedInfo().State.Consumers == 0
	})
	go func() { done <- c.Follow(ctx, StreamLog, []string{">"}, 1, func(Stored) error { return nil }) }()
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("follow ended with %v", err)
	}
}
