package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/nats-io/nats.go"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

const calledSubject = "nhi.in.acme.activity.tool_called"

func TestPoison(t *testing.T) {
	registry := prometheus.NewRegistry()
	c := testBus(t, func(cfg *Config, tm *timing) { cfg.Metrics, tm.tries = registry, 3 })
	good, err := events.Encode(called(t, "acme", "agent", 1))
	if err != nil {
		t.Fatal(err)
	}
	noTool := strings.Replace(string(good), `"destination":"mail"`, `"destination":7`, 1)
	otherTenant, err := events.Encode(called(t, "globex", "agent", 2))
	if err != nil {
		t.Fatal(err)
	}
	otherType, err := events.Encode(made(t, "acme", "other", events.OwnerDeparted{Owner: "bob"}))
	if err != nil {
		t.Fatal(err)
	}
	header := func(k string, v ...string) nats.Header { return nats.Header{k: v} }
	cases := []struct {
		name string
		h    nats.Header
		data string
		code string
	}{
		{"not JSON", nil, "hello", "malformed_json"},
		{"trailing data", nil, string(good) + "{}", "malformed_json"},
		{"duplicate member", nil, strings.Replace(string(good), `"id":`, `"id":"x","id":`, 1), "duplicate_member"},
		{"not a CloudEvent", nil, `{"a":1}`, "invalid_envelope"},
		{"unknown type", nil, strings.ReplaceAll(string(good), "activity.tool_called", "activity.tool_eaten"), "unknown_type"},
		{"schema violation", nil, noTool, "schema_violation"},
		{"wrong tenant", nil, string(otherTenant), "wrong_tenant"},
		{"another type than its subject", nil, string(otherType), "invalid_envelope"},
		{"too large", nil, strings.Replace(string(good), `"mail"`, `"`+strings.Repeat("m", events.MaxSize)+`"`, 1), "too_large"},
		{"doubled header", header("Nats-Thing", "a", "b"), string(good), "doubled_header"},
		{"binary mode beside structured", header("Ce-Id", "x"), string(good), "doubled_header"},
		{"wrong content type", header("Content-Type", "text/plain"), string(good), "wrong_content_type"},
	}
	for _, tc := range cases {
		if _, err := c.js.PublishMsg(t.Context(), &nats.Msg{Subject: calledSubject, Header: tc.h, Data: []byte(tc.data)}); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
	}
	if err := c.Publish(t.Context(), called(t, "acme", "good", 100), called(t, "acme", "permanent", 101), called(t, "acme", "undeclared", 102),
		called(t, "acme", "panics", 103), called(t, "acme", "fails", 104), called(t, "acme", "unstorable", 105)); err != nil {
		t.Fatal(err)
	}
	start(t, c, Spec{Service: "strict", Handlers: []Handler{On(func(_ context.Context, cause events.Event, p events.ToolCalled) ([]events.Event, error) {
		switch p.Identity {
		case "permanent":
			return nil, Permanent(errors.New("makes no sense"))
		case "undeclared":
			return []events.Event{risk(t, "acme", "x", 1)}, nil
		case "unstorable":
			return []events.Event{made(t, "NOT A TENANT", "id", events.IdentityRetired{})}, nil
		case "panics":
			panic("no")
		case "fails":
			return nil, errors.New("not today")
		}
		return nil, nil
	}, events.TypeIdentityRetired)}})
	eventually(t, "all settled", func() bool { return unsettled(t, c, StreamIn, "strict") == 0 })

	dead := map[uint64]Dead{}
	for _, d := range deadLetters(t, c) {
		dead[d.Original] = d
	}
	for i, tc := range cases {
		d, ok := dead[uint64(i+1)]
		if !ok {
			t.Errorf("%s: not buried", tc.name)
			continue
		}
		if d.Code != tc.code || d.Reason == "" || d.Stream != StreamIn || d.Subject != calledSubject || d.Service != "strict" || d.At.IsZero() || d.Attempts != 1 {
			t.Errorf("%s: %s %+v, want code %s", tc.name, d.Code, d.Reason, tc.code)
		}
		if want := tc.data[:min(len(tc.data), events.MaxSize)]; string(d.Data) != want {
			t.Errorf("%s: %d bytes kept, want %d", tc.name, len(d.Data), len(want))
		}
	}
	first := uint64(len(cases)) + 1
	for seq, want := range map[uint64]string{first + 1: "permanent", first + 2: "permanent", first + 3: "exhausted", first + 4: "exhausted", first + 5: "permanent"} {
		if d := dead[seq]; d.Code != want {
			t.Errorf("sequence %d: code %q (%s), want %s", seq, d.Code, d.Reason, want)
		}
	}
	if len(dead) != len(cases)+5 {
		t.Errorf("%d dead letters, want %d", len(dead), len(cases)+5)
	}
	if n := len(read(t, c, StreamLog, ">")); n != 0 {
		t.Errorf("%d events came out of poison", n)
	}
	for name, want := range map[string]float64{"lanyard_bus_handled_total": 1, "lanyard_bus_dead_total": 5} {
		if got := counter(t, registry, name, events.TypeToolCalled); got != want {
			t.Errorf("%s = %v, want %v", name, got, want)
		}
	}
	if got := counter(t, registry, "lanyard_bus_dead_total", "unknown"); got != float64(len(cases)) {
		t.Errorf("dead of no type = %v, want %d", got, len(cases))
	}
	if n, err := testutil.GatherAndCount(registry, "lanyard_bus_seconds", "lanyard_bus_redelivered_total"); err != nil || n == 0 {
		t.Errorf("%d series, %v", n, err)
	}
}

func counter(t *testing.T, g prometheus.Gatherer, name, eventType string) float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "type" && l.GetValue() == eventType {
					return m.GetCounter().GetValue()
				}
			}
		}
	}
	return 0
}

// A poison message does not keep others waiting, and a revocation is tried for ever.
func TestRevocationsAreTriedForEver(t *testing.T) {
	c := testBus(t, func(_ *Config, tm *timing) { tm.tries = 2 })
	e := made(t, "acme", "revoke-1", events.RevocationRequested{Mode: events.ModeRevoke, Target: events.Target{Kind: "identity", Tenant: "acme", ID: "agent"}, Reason: "leaked", RequestedBy: "alice"})
	if err := c.Publish(t.Context(), e); err != nil {
		t.Fatal(err)
	}
	var tries atomic.Int64
	start(t, c, Spec{Service: "revocation", Handlers: []Handler{On(func(context.Context, events.Event, events.RevocationRequested) ([]events.Event, error) {
		if tries.Add(1) < 6 {
			return nil, errors.New("redis is away")
		}
		return nil, nil
	})}})
	eventually(t, "handled", func() bool { return tries.Load() == 6 && unsettled(t, c, StreamIn, "revocation") == 0 })
	if d := deadLetters(t, c); len(d) != 0 {
		t.Errorf("buried: %+v", d)
	}
}

// While the dead-letter stream refuses, poison stays where it is.
func TestFailingBurialDoesNotAck(t *testing.T) {
	c := testBus(t)
	s, err := c.js.Stream(t.Context(), StreamDead)
	if err != nil {
		t.Fatal(err)
	}
	cfg := s.CachedInfo().Config
	full := cfg
	full.MaxBytes = 1
	if _, err := c.js.UpdateStream(t.Context(), full); err != nil {
		t.Fatal(err)
	}
	rawPublish(t, c, calledSubject, []byte("hello"))
	start(t, c, Spec{Service: "strict", Handlers: []Handler{On(func(context.Context, events.Event, events.ToolCalled) ([]events.Event, error) { return nil, nil })}})
	eventually(t, "delivered several times", func() bool {
		cons, err := c.js.Consumer(t.Context(), StreamIn, "strict")
		return err == nil && cons.CachedInfo().Delivered.Consumer > 3
	})
	if unsettled(t, c, StreamIn, "strict") != 1 {
		t.Fatal("settled though it was not buried")
	}
	if _, err := c.js.UpdateStream(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	eventually(t, "settled", func() bool { return unsettled(t, c, StreamIn, "strict") == 0 })
	if d := deadLetters(t, c); len(d) != 1 || string(d[0].Data) != "hello" {
		t.Errorf("dead letters: %+v", d)
	}
}

func TestSweepAndUnhandled(t *testing.T) {
	c := testBus(t)
	var other atomic.Int64
	count := func(context.Context, events.Event, events.OwnerDeparted) ([]events.Event, error) {
		other.Add(1)
		return nil, nil
	}
	rawPublish(t, c, "nhi.in.acme.coffee.brewed", []byte(`{"nobody":"knows this"}`))
	if err := c.Publish(t.Context(), called(t, "acme", "agent", 1), made(t, "acme", "gone", events.OwnerDeparted{Owner: "bob"})); err != nil {
		t.Fatal(err)
	}
	start(t, c, Spec{Service: "sweeper", Sweep: true, Handlers: []Handler{On(count)}})
	eventually(t, "all settled", func() bool { return unsettled(t, c, StreamIn, "sweeper") == 0 })
	d := deadLetters(t, c)
	if len(d) != 1 || d[0].Subject != "nhi.in.acme.coffee.brewed" {
		t.Errorf("dead letters: %+v", d)
	}
	if other.Load() != 1 {
		t.Errorf("handler called %d times", other.Load())
	}
}

func TestReplay(t *testing.T) {
	c := testBus(t)
	var mended, others atomic.Bool
	var handled, seen atomic.Int64
	if err := c.Publish(t.Context(), called(t, "acme", "agent", 1)); err != nil {
		t.Fatal(err)
	}
	handler := On(func(_ context.Context, cause events.Event, p events.ToolCalled) ([]events.Event, error) {
		if !mended.Load() {
			return nil, Permanent(errors.New("a bug"))
		}
		handled.Add(1)
		e, err := caused(cause, p.Identity)
		return []events.Event{e}, err
	}, events.TypeRiskChanged)
	start(t, c, Spec{Service: "buggy", Handlers: []Handler{handler}})
	start(t, c, Spec{Service: "other", Handlers: []Handler{On(func(context.Context, events.Event, events.ToolCalled) ([]events.Event, error) {
		seen.Add(1)
		others.Store(true)
		return nil, nil
	})}})
	eventually(t, "buried", func() bool { return len(deadLetters(t, c)) == 1 && others.Load() })
	d := deadLetters(t, c)[0]
	if err := c.Replay(t.Context(), d.Sequence); err != nil {
		t.Fatal(err)
	}
	eventually(t, "buried again", func() bool { return len(deadLetters(t, c)) == 2 })
	letters := deadLetters(t, c)
	if !letters[0].Replayed || letters[1].Replayed || letters[1].Original != d.Original || letters[1].Subject != calledSubject || letters[1].Service != "buggy" {
		t.Fatalf("after a replay in vain: %+v", letters)
	}
	mended.Store(true)
	if err := c.Replay(t.Context(), letters[1].Sequence); err != nil {
		t.Fatal(err)
	}
	eventually(t, "handled", func() bool { return handled.Load() == 1 && len(read(t, c, StreamLog, ">")) == 1 })
	if seen.Load() != 1 {
		t.Errorf("the other service saw it %d times", seen.Load())
	}
	if n, err := c.LastSequence(t.Context(), StreamIn, ">"); err != nil || n != 1 {
		t.Errorf("the stream it came from grew to %d, %v", n, err)
	}
	for _, seq := range []uint64{99, letters[1].Sequence + 1} {
		if err := c.Replay(t.Context(), seq); err == nil {
			t.Errorf("replayed %d, which is no dead letter", seq)
		}
	}
}

func TestBury(t *testing.T) {
	c := testBus(t)
	good, err := events.Encode(called(t, "acme", "agent", 1))
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Bury(t.Context(), Dead{}); err == nil {
		t.Error("buried for no service")
	}
	for i, d := range []Dead{
		{Service: "intake", Subject: "nhi.in.acme.refused", Code: "malformed_json", Reason: "what is that", Data: []byte("hello")},
		{Service: "intake", Subject: "nhi.in.acme.refused", Code: "clock_skew", Reason: strings.Repeat("long ", 1000) + "\x00\n", Data: good},
	} {
		if err := c.Bury(t.Context(), d); err != nil {
			t.Fatal(i, err)
		}
	}
	d := deadLetters(t, c)
	if len(d) != 2 || d[0].Service != "intake" || string(d[0].Data) != "hello" || d[0].At.IsZero() || len(d[1].Reason) > 1100 {
		t.Fatalf("dead letters: %+v", d)
	}
	if _, err := json.Marshal(d); err != nil {
		t.Error(err)
	}
	if err := c.Replay(t.Context(), d[0].Sequence); err == nil {
		t.Error("replayed what is still malformed")
	}
	if err := c.Replay(t.Context(), d[1].Sequence); err != nil {
		t.Error(err)
	}
	if in := read(t, c, StreamIn, ">"); len(in) != 1 || in[0].Event.ID() != "call-1" {
		t.Errorf("after the replay: %+v", in)
	}
}

// A letter of intake is received again for the tenant that sent it, or not at all.
func TestReplayOfRefused(t *testing.T) {
	c := testBus(t)
	text := func(e events.Event) string {
		b, err := events.Encode(e)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	good := text(called(t, "acme", "agent", 1))
	ours := called(t, "acme", "agent", 2)
	ours.SetSource("/lanyard/revocation")
	for _, tc := range []struct {
		name, subject, data string
		want                error
	}{
		{"its own tenant", "nhi.in.acme.refused", good, nil},
		{"a second letter of the same event", "nhi.in.acme.refused", good + " ", nil},
		{"what a producer may leave out", "nhi.in.acme.refused", strings.Replace(text(called(t, "acme", "agent", 3)), `"tenant":"acme",`, "", 1), nil},
		{"another tenant's event", "nhi.in.acme.refused", text(called(t, "globex", "agent", 4)), events.ErrWrongTenant},
		{"no tenant", "", good, events.ErrBadTenant},
		{"a fact of the log", "nhi.in.acme.refused", text(risk(t, "acme", "agent", 5)), events.ErrUnknownType},
		{"a source of ours", "nhi.in.acme.refused", text(ours), events.ErrEnvelope},
	} {
		if err := c.Bury(t.Context(), Dead{Service: "intake", Subject: tc.subject, Code: "clock_skew", Reason: tc.name, Data: []byte(tc.data)}); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		letters := deadLetters(t, c)
		seq := letters[len(letters)-1].Sequence
		err := c.Replay(t.Context(), seq)
		if !errors.Is(err, tc.want) || (err == nil) != (tc.want == nil) {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
		again := tc.want
		if again == nil {
			again = ErrReplayed
		}
		if err := c.Replay(t.Context(), seq); !errors.Is(err, again) {
			t.Errorf("%s, again: %v, want %v", tc.name, err, again)
		}
	}
	var ids []string
	for _, s := range read(t, c, StreamIn, ">") {
		ids = append(ids, events.Tenant(s.Event)+" "+s.Event.ID())
	}
	if want := []string{"acme call-1", "acme call-3"}; !slices.Equal(ids, want) {
		t.Errorf("published %q, want %q", ids, want)
	}
	if n := len(read(t, c, StreamLog, ">")); n != 0 {
		t.Errorf("%d facts in the log", n)
	}
}

// What came from a stream goes back as it was, once, and nothing forged does.
func TestReplayAsItWas(t *testing.T) {
	c := testBus(t)
	fact := risk(t, "acme", "agent", 1)
	fact.SetSource("/lanyard/anomaly") // no producer may say that
	data, err := events.Encode(fact)
	if err != nil {
		t.Fatal(err)
	}
	d := Dead{Stream: StreamLog, Subject: "nhi.log.acme.risk.changed.agent", Original: 7, Service: "svc", Code: codeExhausted, Data: data}
	if err := c.Bury(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	if err := c.Replay(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if err := c.Replay(t.Context(), 1); !errors.Is(err, ErrReplayed) {
		t.Errorf("again: %v, want ErrReplayed", err)
	}
	// As after a crash before the mark, when the message ids are forgotten too.
	if err := c.putBack(t.Context(), d, 1); err != nil {
		t.Errorf("put back again: %v", err)
	}
	var back []Dead
	for m, err := range c.raw(t.Context(), StreamDead, retryFilter("svc"), 1) {
		if err != nil {
			t.Fatal(err)
		}
		b, err := deadOf(m.Header, m.Data)
		if err != nil {
			t.Fatal(err)
		}
		back = append(back, b)
	}
	if len(back) != 1 || string(back[0].Data) != string(data) || back[0].Subject != d.Subject || back[0].Original != d.Original {
		t.Errorf("put back: %+v", back)
	}
	// A service may bury under its own name only; so a letter cannot name another.
	it, err := deadItem(d)
	if err != nil {
		t.Fatal(err)
	}
	it.subject, it.id = "nhi.dead.NHI_LOG.intake", "forged"
	ack, err := c.store(t.Context(), []item{it}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Replay(t.Context(), ack.Sequence); err == nil {
		t.Error("replayed a letter that names another service than its subject")
	}
}

func TestRunRefusesBadSpecs(t *testing.T) {
	c := testBus(t)
	h := On(func(context.Context, events.Event, events.ToolCalled) ([]events.Event, error) { return nil, nil })
	for name, s := range map[string]Spec{
		"no name":      {Handlers: []Handler{h}},
		"bad name":     {Service: "a.b", Handlers: []Handler{h}},
		"same type":    {Service: "a", Handlers: []Handler{h, h}},
		"unknown type": {Service: "a", Handlers: []Handler{{Type: "dev.lanyard.no.such.v1"}}},
	} {
		if err := c.Run(t.Context(), s); err == nil {
			t.Errorf("%s: ran", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := c.Run(ctx, Spec{Service: "idle"}); err != nil {
		t.Errorf("a service without handlers: %v", err)
	}
}

func TestFilters(t *testing.T) {
	for _, info := range events.Catalogue {
		f := typeFilter(info)
		if f == "" || channelStream[info.Channel] == "" {
			t.Errorf("%s has no filter or stream", info.Type)
		}
	}
	got := fmt.Sprint(Filters(Spec{Service: "s", Handlers: []Handler{{Type: events.TypeToolCalled}, {Type: events.TypeRiskChanged}, {Type: events.TypeTimerDue}}}))
	want := "map[NHI_DEAD:[nhi.dead.RETRY.s.*] NHI_IN:[nhi.in.*.activity.tool_called] NHI_LOG:[nhi.log.*.risk.changed.*] NHI_TIMER:[nhi.timer.due.*.*]]"
	if got != want {
		t.Errorf("filters are %s, want %s", got, want)
	}
}

func TestOnLog(t *testing.T) {
	plain, escaped := risk(t, "acme", "agent-1", 1), risk(t, "acme", "agent 1", 1)
	for _, tc := range []struct {
		e       events.Event
		subject string
		want    bool
	}{
		{plain, "nhi.log.acme.risk.changed.agent-1", true},
		{plain, "nhi.log.acme.risk.changed.agent-2", false},
		{plain, "nhi.log.acme.risk.changed", false},
		{plain, "nhi.log.acme.identity.frozen.agent-1", false},
		{plain, "nhi.log.acme.risk.changed.agent-1.more", false},
		{plain, "nhi.in.acme.risk.changed.agent-1", false},
		{escaped, "nhi.log.acme.risk.changed.agent=201", false}, // right, but left to events.Subject
		{escaped, "nhi.log.acme.risk.changed.agent 1", false},
		{called(t, "acme", "agent", 1), calledSubject, false},
	} {
		if got := onLog(tc.e, tc.subject); got != tc.want {
			t.Errorf("onLog(%s, %s) = %v", tc.e.Subject(), tc.subject, got)
		}
	}
	data, err := events.Encode(escaped)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(StreamLog, "nhi.log.acme.risk.changed.agent=201", nil, data); err != nil {
		t.Errorf("an escaped entity is refused: %v", err)
	}
	if _, err := open(StreamLog, "nhi.log.acme.risk.changed.agent-1", nil, data); !errors.Is(err, events.ErrEnvelope) {
		t.Errorf("another entity's subject: %v", err)
	}
}
