package rotation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/bus/bustest"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/keys"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/internal/state"
	"github.com/lanyard-nhi/lanyard/services/rotation/internal/stages"
	"go.uber.org/zap"
)

// world is the service on a real nats-server, with issuance's part of a rotation done
// by the real key ring.
type world struct {
	t     *testing.T
	bus   *bus.Conn
	ring  *keys.Ring
	redis *miniredis.Miniredis
	env   service.Env
	ahead atomic.Int64 // what the service's clock is ahead of the server's
}

func newWorld(t *testing.T) *world {
	ring, err := keys.Open(filepath.Join(t.TempDir(), "keys"), true)
	if err != nil {
		t.Fatal(err)
	}
	m := miniredis.RunT(t)
	store, err := state.Open(t.Context(), "redis://"+m.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = store.Close() })
	w := &world{t: t, bus: bustest.Start(t), ring: ring, redis: m}
	c := config.Default(t.TempDir())
	c.Rotation.Prepare, c.Rotation.Overlap = config.Duration(100*time.Millisecond), config.Duration(100*time.Millisecond)
	w.env = service.Env{Config: c, Log: zap.NewNop(), Bus: w.bus, State: store,
		Now: func() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }}
	return w
}

// run runs the service and returns it with what stops it. A new service has no memory.
func (w *world) run() (service.Service, func()) {
	s, err := New(w.env)
	if err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.bus.Run(ctx, bus.Spec{Service: s.Name, Handlers: s.Handlers, Exclusive: s.Exclusive, OnOwn: s.OnOwn}); err != nil && ctx.Err() == nil {
			w.t.Errorf("run: %v", err)
		}
	})
	for _, task := range s.Tasks {
		wg.Go(func() {
			if err := task.Run(ctx); err != nil {
				w.t.Errorf("task %s: %v", task.Name, err)
			}
		})
	}
	stop := sync.OnceFunc(func() { cancel(); wg.Wait() })
	w.t.Cleanup(stop)
	return s, stop
}

// issuance answers the stages with the ring, as the real service does.
func (w *world) issuance() (stop func()) {
	say := func(cause events.Event, p events.Payload) ([]events.Event, error) {
		e, err := events.New(events.Origin{Source: "/lanyard/issuance", Tenant: service.SystemTenant, Time: cause.Time(), Cause: &cause}, p)
		return []events.Event{e}, err
	}
	spec := bus.Spec{Service: "issuance", Handlers: []bus.Handler{
		bus.On(func(_ context.Context, cause events.Event, p events.RotationScheduled) ([]events.Event, error) {
			old, err := w.ring.Signer()
			if err != nil {
				return nil, err
			}
			k, err := w.ring.Prepare(p.Rotation.Rotation)
			if err != nil {
				return nil, err
			}
			next := p.Rotation
			next.KeyID, next.Previous = k.ID, old.ID
			return say(cause, events.RotationPrepared{Rotation: next})
		}, events.TypeRotationPrepared),
		bus.On(func(_ context.Context, _ events.Event, p events.RotationActivated) ([]events.Event, error) {
			return nil, w.ring.Activate(p.KeyID)
		}),
		bus.On(func(_ context.Context, _ events.Event, p events.RotationRetired) ([]events.Event, error) {
			return nil, w.ring.Retire(p.Previous)
		}),
	}}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.bus.Run(ctx, spec); err != nil && ctx.Err() == nil {
			w.t.Errorf("run issuance: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	w.t.Cleanup(stop)
	return stop
}

// logged is the payloads of one type in the log about an entity.
func logged[P events.Payload](w *world, tenant, entity string) []P {
	w.t.Helper()
	var zero P
	info, _ := events.Lookup(zero.EventType())
	var out []P
	for st, err := range w.bus.Read(context.Background(), bus.StreamLog, events.LogSubject(tenant, info.Noun, info.Verb, entity), 1) {
		if err != nil {
			w.t.Fatal(err)
		}
		p, err := events.As[P](st.Event)
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, p)
	}
	return out
}

func (w *world) eventually(what string, ok func() bool) {
	w.t.Helper()
	end := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(end) {
			w.t.Fatalf("not within 20 s: %s", what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func (w *world) issue(jti string, expires time.Time) events.Event {
	w.t.Helper()
	e, err := events.New(events.Origin{Source: "/lanyard/issuance", Tenant: "acme", Time: time.Now()}, events.CredentialIssued{
		Credential: jti, TokenSHA256: jti, Identity: "agent-1", IssuedAt: time.Now(), ExpiresAt: expires})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.bus.Publish(context.Background(), e); err != nil {
		w.t.Fatal(err)
	}
	return e
}

// call calls the API as a caller with the scope it asks for.
func (w *world) call(s service.Service, method, body, tenant string) (int, []byte) {
	w.t.Helper()
	q := httptest.NewRequest(method, "/v1/rotations", bytes.NewReader([]byte(body)))
	q = q.WithContext(service.WithCaller(q.Context(), token.Claims{Subject: "operator", Tenant: tenant}))
	r := &rotator{timers: w.bus, keys: state.NewEntities(w.bus, w.env.State, "rotation", stages.Fold), config: pace(w.env.Config), now: w.env.Now, log: zap.NewNop()}
	rec := httptest.NewRecorder()
	h := r.own(r.list)
	if method == http.MethodPost {
		h = r.own(r.start)
	}
	h.ServeHTTP(rec, q)
	return rec.Code, rec.Body.Bytes()
}

// TestRotate takes a rotation through all stages, with the service restarted without
// memory, Redis flushed, and credentials expiring meanwhile.
func TestRotate(t *testing.T) {
	w := newWorld(t)
	first, err := w.ring.Signer()
	if err != nil {
		t.Fatal(err)
	}
	s, stop := w.run()
	w.eventually("the first rotation has a timer", func() bool {
		n, err := w.bus.LastSequence(t.Context(), bus.StreamTimer, "nhi.timer.set.lanyard."+timerName)
		return err == nil && n > 0
	})
	expires := time.Now().Add(time.Second)
	for _, jti := range []string{"c1", "c2", "c3"} {
		w.issue(jti, expires)
	}
	code, body := w.call(s, http.MethodPost, `{"object":"signing-key","reason":"test"}`, service.SystemTenant)
	if code != http.StatusAccepted {
		t.Fatalf("POST: %d %s", code, body)
	}
	if code, body := w.call(s, http.MethodPost, `{"object":"signing-key","reason":"again"}`, service.SystemTenant); code != http.StatusConflict {
		t.Errorf("a second POST: %d %s", code, body)
	}
	stopIssuance := w.issuance()
	w.eventually("the successor is prepared", func() bool {
		_, prepared, err := w.ring.ActiveKid()
		return err == nil && prepared != ""
	})
	stop()
	w.redis.FlushAll()
	s, stop = w.run()
	w.eventually("the successor signs", func() bool {
		k, err := w.ring.Signer()
		return err == nil && k.ID != first.ID
	})
	stop()
	_, stop = w.run()
	w.eventually("only the successor is accepted", func() bool { return len(w.ring.Public()) == 1 })
	if k := w.ring.Public()[0]; k.ID == first.ID {
		t.Error("the predecessor is the one that is left")
	}
	w.eventually("the credentials have expired", func() bool {
		return len(logged[events.CredentialExpired](w, "acme", "agent-1")) >= 3
	})
	seen := map[string]int{}
	for _, p := range logged[events.CredentialExpired](w, "acme", "agent-1") {
		seen[p.Credential]++
		if !p.ExpiredAt.Equal(expires) {
			t.Errorf("%s expired at %s, want %s", p.Credential, p.ExpiredAt, expires)
		}
	}
	if seen["c1"] != 1 || seen["c2"] != 1 || seen["c3"] != 1 {
		t.Errorf("expired: %v, want each once", seen)
	}
	for stage, n := range map[string]int{
		"scheduled": len(logged[events.RotationScheduled](w, "lanyard", stages.SigningKey)),
		"prepared":  len(logged[events.RotationPrepared](w, "lanyard", stages.SigningKey)),
		"activated": len(logged[events.RotationActivated](w, "lanyard", stages.SigningKey)),
		"retired":   len(logged[events.RotationRetired](w, "lanyard", stages.SigningKey)),
	} {
		if n != 1 {
			t.Errorf("%s was stated %d times", stage, n)
		}
	}
	w.eventually("the next rotation has a timer", func() bool {
		code, body := w.call(s, http.MethodGet, "", service.SystemTenant)
		var a answer
		if err := json.Unmarshal(body, &a); err != nil || code != http.StatusOK {
			t.Fatalf("GET: %d %s", code, body)
		}
		return a.NextKind == stages.KindStart && a.Next.After(time.Now().Add(719*time.Hour)) &&
			len(a.Rotations) == 1 && a.Rotations[0].Stage == stages.Retired && a.InUse == w.ring.Public()[0].ID
	})
	stop()
	stopIssuance()
}

// TestNoSuccessor: issuance never answers; the rotation fails at its deadline and the
// present key stays, also when the timer was lost.
func TestNoSuccessor(t *testing.T) {
	w := newWorld(t)
	before, err := w.ring.Signer()
	if err != nil {
		t.Fatal(err)
	}
	s, stop := w.run()
	if code, body := w.call(s, http.MethodPost, `{"object":"signing-key","reason":"test"}`, service.SystemTenant); code != http.StatusAccepted {
		t.Fatalf("POST: %d %s", code, body)
	}
	stop()
	if err := w.bus.Cancel(t.Context(), service.SystemTenant, timerName); err != nil {
		t.Fatal(err)
	}
	w.ahead.Store(int64(2 * minDeadline)) // down for two minutes
	w.run()
	w.eventually("the rotation has failed", func() bool {
		return len(logged[events.RotationFailed](w, "lanyard", stages.SigningKey)) == 1
	})
	if k, err := w.ring.Signer(); err != nil || k.ID != before.ID || len(w.ring.Public()) != 1 {
		t.Errorf("signer %s, %v; want the present key", k.ID, err)
	}
	w.eventually("it is tried again after a period", func() bool {
		_, body := w.call(s, http.MethodGet, "", service.SystemTenant)
		var a answer
		return json.Unmarshal(body, &a) == nil && a.NextKind == stages.KindStart && a.Rotations[0].Stage == stages.Failed
	})
}

// TestTimerDue calls the handler with timers that fired early, late and wrongly.
func TestTimerDue(t *testing.T) {
	w := newWorld(t)
	now := time.Now().UTC()
	r := &rotator{timers: w.bus, keys: state.NewEntities(w.bus, w.env.State, "rotation", stages.Fold), config: pace(w.env.Config), now: func() time.Time { return now }, log: zap.NewNop()}
	fire := func(tenant string, p events.TimerDue) ([]events.Event, error) {
		e, err := events.New(events.Origin{Source: source, Tenant: tenant, Time: p.DueAt}, p)
		if err != nil {
			t.Fatal(err)
		}
		return r.due(t.Context(), e, p)
	}
	expiry := events.TimerDue{Timer: "c1", Kind: kindExpiry, Ref: "c1", Owner: "agent-1", DueAt: now.Add(900 * time.Millisecond)}
	out, err := fire("acme", expiry)
	if err != nil || len(out) != 0 {
		t.Errorf("fired early: %d events, %v", len(out), err)
	}
	if n, err := w.bus.LastSequence(t.Context(), bus.StreamTimer, "nhi.timer.*.acme.c1"); err != nil || n == 0 {
		t.Errorf("fired early: it was not set again: %v", err)
	}
	expiry.DueAt = now
	once, err := fire("acme", expiry)
	if err != nil || len(once) != 1 || once[0].Type() != events.TypeCredentialExpired {
		t.Fatalf("in time: %v, %v", once, err)
	}
	expiry.DueAt = now.Add(-time.Second)
	if again, err := fire("acme", expiry); err != nil || len(again) != 1 || again[0].ID() != once[0].ID() {
		t.Errorf("the same fact has another id: %v, %v", again, err)
	}
	if other, err := fire("globex", expiry); err != nil || len(other) != 1 || other[0].ID() == once[0].ID() {
		t.Errorf("the fact of another tenant has the same id: %v, %v", other, err)
	}
	kind := reflect.TypeOf(bus.Permanent(errors.New("")))
	for name, c := range map[string]struct {
		tenant string
		due    events.TimerDue
	}{
		"unknown kind":       {"acme", events.TimerDue{Timer: "x", Kind: "x", Owner: "x", DueAt: now}},
		"another tenant's":   {"acme", events.TimerDue{Timer: timerName, Kind: stages.KindStart, Owner: stages.SigningKey, DueAt: now}},
		"another timer name": {"lanyard", events.TimerDue{Timer: "x", Kind: stages.KindStart, Owner: stages.SigningKey, DueAt: now}},
	} {
		if _, err := fire(c.tenant, c.due); reflect.TypeOf(err) != kind {
			t.Errorf("%s: got %v, want a permanent error", name, err)
		}
	}
}

func TestAPIRefuses(t *testing.T) {
	w := newWorld(t)
	s, err := New(w.env)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, method, body, tenant string
		want                       int
	}{
		{"another tenant reads", http.MethodGet, "", "acme", http.StatusForbidden},
		{"another tenant rotates", http.MethodPost, `{"object":"signing-key","reason":"x"}`, "acme", http.StatusForbidden},
		{"no JSON", http.MethodPost, "x", "lanyard", http.StatusBadRequest},
		{"unknown member", http.MethodPost, `{"object":"signing-key","reason":"x","now":true}`, "lanyard", http.StatusBadRequest},
		{"doubled member", http.MethodPost, `{"object":"signing-key","object":"x","reason":"x"}`, "lanyard", http.StatusBadRequest},
		{"other object", http.MethodPost, `{"object":"root","reason":"x"}`, "lanyard", http.StatusNotFound},
		{"no reason", http.MethodPost, `{"object":"signing-key","reason":" "}`, "lanyard", http.StatusBadRequest},
		{"too large", http.MethodPost, string(bytes.Repeat([]byte(" "), maxBody+1)), "lanyard", http.StatusRequestEntityTooLarge},
	} {
		if code, body := w.call(s, c.method, c.body, c.tenant); code != c.want {
			t.Errorf("%s: %d %s, want %d", c.name, code, body, c.want)
		}
	}
	rec := httptest.NewRecorder()
	s.HTTP.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/v1/rotations", nil))
	if rec.Code != http.StatusServiceUnavailable && rec.Code != http.StatusUnauthorized {
		t.Errorf("without a credential: %d", rec.Code)
	}
	if n, err := w.bus.LastSequence(t.Context(), bus.StreamLog, ">"); err != nil || n != 0 {
		t.Errorf("a refused request left %d events, %v", n, err)
	}
}

func TestPace(t *testing.T) {
	var c config.Config
	want := stages.Config{Period: 720 * time.Hour, Prepare: 10 * time.Minute, Overlap: 16 * time.Minute, Deadline: 10 * time.Minute}
	if got := pace(c); got != want {
		t.Errorf("defaults: %+v, want %+v", got, want)
	}
	c.Rotation = config.Rotation{SigningKeyPeriod: config.Duration(time.Hour), Prepare: config.Duration(time.Second), Overlap: config.Duration(time.Minute)}
	if got, want := pace(c), (stages.Config{Period: time.Hour, Prepare: time.Second, Overlap: time.Minute, Deadline: time.Minute}); got != want {
		t.Errorf("configured: %+v, want %+v", got, want)
	}
}
