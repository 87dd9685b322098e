package revocation

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/ledger"
)

// forge mints canaries as issuance would, once the canary is declared.
type forge struct {
	w     *world
	fails error
}

func (f forge) Mint(_ context.Context, tenant, task string) (string, error) {
	if f.fails != nil {
		return "", f.fails
	}
	if len(f.w.bus.all("NHI_IN", "declared")) == 0 {
		return "", errUnknownCanary
	}
	f.w.named(lineage.KindTask, tenant, task, 1)
	return tenant + " " + task, nil
}

// eye sees what a guard sees of such a canary.
type eye struct {
	w     *world
	guard *guard.Guard
	blind bool // it goes on accepting what is revoked
}

func (e eye) Check(_ context.Context, r guard.Request) (token.Claims, error) {
	tenant, task, _ := strings.Cut(r.Token, " ")
	if entry, dead := e.guard.Dead([]lineage.Handle{e.w.names.Name(lineage.KindTask, tenant, task)}); dead && !e.blind {
		return token.Claims{}, &guard.Denial{Code: guard.CodeRevoked, Revocation: entry.Revocation}
	}
	return token.Claims{ID: "jti-" + task}, nil
}

// drilled starts drills in a world with two guards.
func drilled(t *testing.T, w *world, every time.Duration, f forge, blind bool) *drills {
	t.Helper()
	r := w.start()
	r.issuer = "https://issuer.test"
	own := w.guard("gate", "acme")
	w.present(r, 2)
	c := w.settings()
	c.Revocation.Drills = config.Drills{Every: config.Duration(every), Tenants: []string{"acme"}, Owner: "ops"}
	d, err := newDrills(r, service.Env{Config: c, Rand: rand.Reader}, f, eye{w, own, blind})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = d.book.Run(ctx) })
	wg.Go(func() { // receipts come in
		var from uint64
		for ctx.Err() == nil {
			changed := w.bus.changes()
			from = w.receipts(r, from)
			select {
			case <-changed:
			case <-ctx.Done():
			}
		}
	})
	w.stops = append([]func(){func() { cancel(); wg.Wait() }}, w.stops...)
	return d
}

func (m *memory) changes() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func finished(t *testing.T, w *world, n int) events.DrillFinished {
	t.Helper()
	all := w.bus.all("NHI_LOG", "finished")
	if len(all) != n {
		t.Fatalf("%d drills are finished, want %d", len(all), n)
	}
	f, err := events.As[events.DrillFinished](all[n-1])
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestDrillProves: a drill declares its canary, kills it by the usual door, waits for
// every receipt, and puts what it saw on the log; then none is due until a period later.
func TestDrillProves(t *testing.T) {
	w := newWorld(t)
	d := drilled(t, w, time.Hour, forge{w: w}, false)
	d.due(t.Context())
	f := finished(t, w, 1)
	if f.Outcome != events.DrillProven || f.Expected != 2 || len(f.Points) != 2 || f.Revocation == "" || f.Credential == "" {
		t.Fatalf("finished %+v", f)
	}
	s, err := d.ledger.Get(t.Context(), f.Revocation)
	if err != nil || s.Status() != ledger.StatusClosed || s.Accepted.Target.Kind != "task" || s.Accepted.By != canary {
		t.Errorf("revocation %+v (%v)", s, err)
	}
	declared, err := events.As[events.IdentityDeclared](w.bus.all("NHI_IN", "declared")[0])
	if err != nil || declared.Check() != nil || declared.Owner != "ops" || declared.Feature != canary || len(declared.Keys) != 1 {
		t.Errorf("canary %+v (%v)", declared, err)
	}
	until(t, "the book has it", func() bool { return d.book.Status("acme").LastProven != nil })
	d.due(t.Context())
	w.clock.move(59 * time.Minute)
	d.due(t.Context())
	finished(t, w, 1)
	w.clock.move(time.Minute)
	d.due(t.Context())
	finished(t, w, 2)
	if n := len(w.bus.all("NHI_ALERT", "detected")); n != 0 {
		t.Errorf("%d alerts though all is well", n)
	}
}

// TestDrillTellsTheTruth: what was not seen to be refused is not proven, and the SOC
// hears of it.
func TestDrillTellsTheTruth(t *testing.T) {
	for name, c := range map[string]struct {
		forge forge
		blind bool
		want  events.DrillOutcome
	}{
		"no canary":      {forge{fails: errors.New("invalid_scope")}, false, events.DrillNotRun},
		"still accepted": {forge{}, true, events.DrillNotClosed},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.forge.w = w
			w.sweep = func(conf *config.Config) { conf.Revocation.Objective = config.Duration(300 * time.Millisecond) }
			d := drilled(t, w, time.Hour, c.forge, c.blind)
			d.due(t.Context())
			if f := finished(t, w, 1); f.Outcome != c.want || f.Reason == "" {
				t.Errorf("finished %+v", f)
			}
			alerts := w.bus.all("NHI_ALERT", "detected")
			if len(alerts) == 0 {
				t.Fatal("no alert")
			}
			p, err := events.As[events.AnomalyDetected](alerts[0])
			if err != nil || p.Detector != "DRL" || p.Name != "kill_switch_not_proven" {
				t.Errorf("alert %+v (%v)", p, err)
			}
		})
	}
}

// TestDrillOverdue: a switch that nobody could prove for a period raises an alert, once.
func TestDrillOverdue(t *testing.T) {
	w := newWorld(t)
	d := drilled(t, w, time.Hour, forge{w: w, fails: errors.New("down")}, false)
	overdue := func() (n int) {
		for _, e := range w.bus.all("NHI_ALERT", "detected") {
			if p, err := events.As[events.AnomalyDetected](e); err == nil && p.Name == "kill_switch_unproven" {
				n++
			}
		}
		return n
	}
	d.due(t.Context())
	if overdue() != 0 {
		t.Error("overdue at the start")
	}
	w.clock.move(67 * time.Minute)
	for range 2 {
		d.due(t.Context())
	}
	if overdue() != 1 {
		t.Errorf("%d alerts of an unproven switch, want 1", overdue())
	}
}

// TestDrillLost: a drill whose process died is ended on paper by the next, and two
// replicas begin one drill between them.
func TestDrillLost(t *testing.T) {
	w := newWorld(t)
	d := drilled(t, w, 0, forge{w: w}, false)
	if _, err := d.begin(t.Context(), "acme", "d1", "schedule"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.begin(t.Context(), "acme", "d1", "schedule"); err == nil {
		t.Error("a drill began twice")
	}
	until(t, "the book has it", func() bool { return d.book.Status("acme").Drills == 1 })
	d.due(t.Context())
	if n := len(w.bus.all("NHI_LOG", "finished")); n != 0 {
		t.Error("a drill that may still run was ended")
	}
	w.clock.move(4 * time.Minute)
	d.due(t.Context())
	if f := finished(t, w, 1); f.Outcome != events.DrillNotRun {
		t.Errorf("finished %+v", f)
	}
}

// TestCanaryKey: the key of the canaries is the same in every replica and not the feed's.
func TestCanaryKey(t *testing.T) {
	a, err := canarySigner(feedKey.signer)
	if err != nil {
		t.Fatal(err)
	}
	b, err := canarySigner(feedKey.signer)
	if err != nil || a.ID != b.ID || a.ID == feedKey.signer.ID {
		t.Errorf("keys %s, %s, feed %s (%v)", a.ID, b.ID, feedKey.signer.ID, err)
	}
	other, err := canarySigner(newKey(2).signer)
	if err != nil || other.ID == a.ID {
		t.Errorf("another feed key yields the same canary key (%v)", err)
	}
	if _, ok := a.Private.Public().(ed25519.PublicKey); !ok {
		t.Errorf("the key is %T", a.Private.Public())
	}
}
