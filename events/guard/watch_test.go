package guard

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/events/token"
)

// decision is one on a token whose lineage is root, the handles.
func decision(now time.Time, ttl time.Duration, n ...uint64) Decision {
	c := token.Claims{Subject: "agent", Tenant: "acme", ID: "jti", IssuedAt: now.Unix(), Expires: now.Add(ttl).Unix(),
		Lineage: []lineage.Handle{handle(1 << 40)}}
	for _, h := range n {
		c.Lineage = append(c.Lineage, handle(h))
	}
	return Decision{Claims: c}
}

// cause is the code of the denial by which ctx ended, "" while it goes on.
func cause(t testing.TB, ctx context.Context) string {
	t.Helper()
	if ctx.Err() == nil {
		return ""
	}
	d, ok := errors.AsType[*Denial](context.Cause(ctx))
	if !ok {
		return context.Cause(ctx).Error()
	}
	if d.Cut != 1 || d.Claims == nil || d.Reason == "" {
		t.Errorf("denial %+v", d)
	}
	return d.Code
}

func (w *world) kill(n uint64, mode events.Mode) {
	until := w.now.Add(time.Minute)
	e := Entry{Handle: handle(n), Mode: mode, Revocation: "rev", Reason: "leaked", By: "alice", At: w.now, Keep: w.now.Add(time.Hour), Epoch: 1}
	if mode == events.ModeFreeze {
		e.Until = &until
	}
	w.feed.send(handle(n).String(), w.keys.entry(w.t, w.keys.feed, e))
	w.settle()
}

func TestWatchEndsWithAnyHandle(t *testing.T) {
	w := freshWorld(t)
	var told []Denial
	w.g.cfg.Denied = func(d Denial) { told = append(told, d) }
	open := func(n ...uint64) context.Context {
		ctx, cancel := w.g.Watch(context.Background(), decision(w.now, time.Hour, n...))
		t.Cleanup(cancel)
		return ctx
	}
	child, sibling, cousin := open(1, 2), open(1, 3), open(4)
	w.kill(2, events.ModeRevoke)
	if a, b, c := cause(t, child), cause(t, sibling), cause(t, cousin); a != CodeRevoked || b != "" || c != "" {
		t.Errorf("after a revoke of the child: %q, %q, %q", a, b, c)
	}
	d, _ := errors.AsType[*Denial](context.Cause(child))
	if len(told) != 1 || told[0].Revocation != "rev" || told[0].By != "alice" || d.Revocation != "rev" || told[0].Cut != 1 {
		t.Errorf("told %+v", told)
	}
	w.kill(1, events.ModeFreeze)
	if b, c := cause(t, sibling), cause(t, cousin); b != CodeFrozen || c != "" {
		t.Errorf("after a freeze of the parent: %q, %q", b, c)
	}
	if got := cause(t, open(1, 5)); got != CodeFrozen {
		t.Errorf("begun under a frozen handle: %q", got)
	}
	w.kill(1, events.ModeLift)
	again := open(1, 5)
	w.kill(99, events.ModeRevoke)
	if got := cause(t, again); got != "" {
		t.Errorf("begun after the lift: %q", got)
	}
	if got := cause(t, open(2)); got != CodeRevoked {
		t.Errorf("begun under a revoked handle: %q", got)
	}
	told = nil
	w.kill(1<<40, events.ModeRevoke)
	if len(told) != 1 || told[0].Cut != 2 { // of the same credential
		t.Errorf("told %+v", told)
	}
	if a, b := cause(t, again), cause(t, cousin); a != CodeRevoked || b != CodeRevoked {
		t.Errorf("after a revoke of the root: %q, %q", a, b)
	}
	if n := len(w.g.watches.handles) + len(w.g.watches.byEnd); n != 0 {
		t.Errorf("%d things are still entered", n)
	}
}

func TestWatchForgets(t *testing.T) {
	w := freshWorld(t)
	dead, end := context.WithCancel(context.Background())
	end()
	ctx, cancel := w.g.Watch(dead, decision(w.now, time.Hour, 1))
	cancel()
	parent, end := context.WithCancel(context.Background())
	_, forget := w.g.Watch(parent, decision(w.now, time.Hour, 1))
	defer forget()
	_, cancel = w.g.Watch(context.Background(), decision(w.now, time.Hour, 1))
	end()
	cancel()
	eventually(t, "nothing is entered any more", func() bool {
		_, open := w.g.watches.next()
		return !open
	})
	if got := cause(t, ctx); got != context.Canceled.Error() {
		t.Errorf("below a context that had ended: %q", got)
	}
	w.kill(1, events.ModeRevoke)
}

// eventually polls until ok, at most ten seconds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not in ten seconds: %s", what)
		case <-tick.C:
		}
	}
}

// TestWatchMany: one revoke among 100,000 open things ends exactly its own.
func TestWatchMany(t *testing.T) {
	n, group := 100_000, 1000
	if testing.Short() {
		n = 10_000
	}
	w := freshWorld(t)
	all := make([]context.Context, n)
	for i := range all {
		d := decision(w.now, time.Hour, 10+uint64(i%group), 1<<20+uint64(i), 1<<21+uint64(i))
		ctx, cancel := w.g.Watch(context.Background(), d)
		defer cancel()
		all[i] = ctx
	}
	w.kill(10+7, events.ModeRevoke)
	w.kill(1<<20+8, events.ModeRevoke)
	for i, ctx := range all {
		if dead := i%group == 7 || i == 8; dead != (ctx.Err() != nil) {
			t.Fatalf("%d of %d: %v", i, n, ctx.Err())
		}
	}
	if got, want := len(w.g.watches.byEnd), n-n/group-1; got != want {
		t.Errorf("%d are entered, want %d", got, want)
	}
	w.kill(1<<40, events.ModeRevoke)
	if got := len(w.g.watches.byEnd) + len(w.g.watches.handles); got != 0 {
		t.Errorf("%d are entered after all ended", got)
	}
}

func TestWatchEndsByTheClocks(t *testing.T) {
	keys := newKeyring(t)
	synctest.Test(t, func(t *testing.T) {
		l := newLive(t, keys)
		open := func(ttl time.Duration) context.Context {
			ctx, cancel := l.g.Watch(t.Context(), decision(time.Now(), ttl, 1))
			t.Cleanup(cancel)
			return ctx
		}
		if got := cause(t, open(time.Hour)); got != CodeStale {
			t.Errorf("before the first heartbeat: %q", got)
		}
		l.beat(0)
		<-l.g.Ready()
		short, long := open(8*time.Second), open(time.Hour)
		pass(8*time.Second + DefaultLeeway - time.Nanosecond)
		synctest.Wait()
		if a, b := cause(t, short), cause(t, long); a != "" || b != "" {
			t.Errorf("before anything ends: %q, %q", a, b)
		}
		pass(time.Nanosecond)
		synctest.Wait()
		if a, b := cause(t, short), cause(t, long); a != CodeExpired || b != "" {
			t.Errorf("at the end of the token: %q, %q", a, b)
		}
		l.beat(0)
		pass(DefaultLease - time.Nanosecond)
		synctest.Wait()
		if got := cause(t, long); got != "" {
			t.Errorf("before the end of the lease: %q", got)
		}
		pass(time.Nanosecond)
		synctest.Wait()
		if got := cause(t, long); got != CodeStale {
			t.Errorf("at the end of the lease: %q", got)
		}
		l.beat(0)
		last := open(time.Hour)
		l.stop()
		if got := cause(t, last); got != CodeStale {
			t.Errorf("after the guard stopped: %q", got)
		}
	})
}

// TestWatchEndsBeforeTheReceipt: who reads the receipt may rely on it.
func TestWatchEndsBeforeTheReceipt(t *testing.T) {
	w := freshWorld(t)
	ctx, cancel := w.g.Watch(context.Background(), decision(w.now, time.Hour, 1))
	defer cancel()
	// The entry is missed by push and found by the fill that the next heartbeat asks for.
	e := Entry{Handle: handle(1), Mode: events.ModeRevoke, Revocation: "rev", Reason: "leaked", At: w.now, Keep: w.now.Add(time.Hour), Epoch: 1}
	m := w.feed.store(handle(1).String(), w.keys.entry(t, w.keys.feed, e))
	beat(w, 1, m.Sequence)
	w.settle()
	if got := cause(t, ctx); got != CodeRevoked {
		t.Errorf("got %q", got)
	}
	w.answer()
	if got := w.feed.receipts(t); len(got) != 1 || got[0].Outcome != events.ReceiptEnforced {
		t.Errorf("receipts %+v", got)
	}
}
