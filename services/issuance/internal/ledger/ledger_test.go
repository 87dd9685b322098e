package ledger_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/ledger"
)

var t0 = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

func stored(t *testing.T, seq uint64, p events.Payload) bus.Stored {
	t.Helper()
	e, err := events.New(events.Origin{Source: "/test", Tenant: "acme", Time: t0}, p)
	require.NoError(t, err)
	return bus.Stored{Event: e, Sequence: seq}
}

func handle(b byte) lineage.Handle { return lineage.Handle{b} }

func accepted(h lineage.Handle, rev string, mode events.Mode, until *time.Time) events.RevocationAccepted {
	return events.RevocationAccepted{Revocation: rev, Handle: h.String(), Mode: mode, Until: until}
}

func TestDead(t *testing.T) {
	until := t0.Add(time.Hour)
	l := ledger.New()
	for i, p := range []events.Payload{
		accepted(handle(1), "r1", events.ModeRevoke, nil),
		accepted(handle(2), "r2", events.ModeFreeze, &until),
		accepted(handle(3), "r3", events.ModeFreeze, nil),
		events.RevocationLifted{Revocation: "r3", Handle: handle(3).String()},
		accepted(handle(4), "r4", events.ModeFreeze, nil),
		accepted(handle(4), "r5", events.ModeRevoke, nil),
		events.RevocationLifted{Revocation: "r4", Handle: handle(4).String()},
		accepted(handle(4), "r6", events.ModeFreeze, &until),
	} {
		l.Apply(stored(t, uint64(i+1), p))
	}
	for _, c := range []struct {
		name string
		h    lineage.Handle
		at   time.Time
		rev  string
	}{
		{"revoked", handle(1), t0, "r1"},
		{"revoked, for ever", handle(1), t0.AddDate(50, 0, 0), "r1"},
		{"frozen", handle(2), t0, "r2"},
		{"freeze has ended", handle(2), until, ""},
		{"lifted", handle(3), t0, ""},
		{"a lift or a later freeze does not undo a revoke", handle(4), t0.AddDate(1, 0, 0), "r5"},
		{"never named", handle(9), t0, ""},
	} {
		_, rev, dead := l.Dead(c.at, handle(8), c.h)
		require.Equal(t, c.rev, rev, c.name)
		require.Equal(t, c.rev != "", dead, c.name)
	}
	before := l.Size()
	l.Apply(stored(t, 4, events.RevocationLifted{Handle: handle(1).String()}))
	require.Equal(t, before, l.Size(), "what was applied is not applied again")
}

// tail is a log that delivers what it holds and then waits, or fails.
type tail struct {
	events []bus.Stored
	fail   error
}

func (l tail) LastSequence(context.Context, string, string) (uint64, error) {
	if len(l.events) == 0 {
		return 0, nil
	}
	return l.events[len(l.events)-1].Sequence, nil
}

func (l tail) Follow(ctx context.Context, _ string, _ []string, from uint64, f func(bus.Stored) error) error {
	for _, s := range l.events {
		if s.Sequence >= from {
			if err := f(s); err != nil {
				return err
			}
		}
	}
	if l.fail != nil {
		return l.fail
	}
	<-ctx.Done()
	return ctx.Err()
}

func TestReadyOnlyWhenCaughtUp(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	l := ledger.New()
	all := []bus.Stored{stored(t, 3, accepted(handle(1), "r1", events.ModeRevoke, nil)), stored(t, 7, events.TrustDeclared{Trust: "acme->globex", To: "globex", Scopes: []string{"s"}, MaxDepth: 2})}
	broken := errors.New("the link broke")
	require.ErrorIs(t, l.Run(ctx, half{tail{all, broken}}), broken)
	require.False(t, l.IsReady(), "half of the past is not enough")
	go func() { _ = l.Run(ctx, tail{events: all}) }()
	<-l.Ready()
	require.EqualValues(t, 7, l.Sequence())
	trust, ok := l.Trust("acme", "globex")
	require.True(t, ok)
	require.Equal(t, 2, trust.MaxDepth)
	_, ok = l.Trust("globex", "acme")
	require.False(t, ok, "trust has a direction")

	empty := ledger.New()
	go func() { _ = empty.Run(ctx, tail{}) }()
	<-empty.Ready()
}

// half delivers only the first event of its log before it fails.
type half struct{ tail }

func (h half) Follow(_ context.Context, _ string, _ []string, _ uint64, f func(bus.Stored) error) error {
	return errors.Join(f(h.events[0]), h.fail)
}

func TestExceptions(t *testing.T) {
	l := ledger.New()
	day := 24 * time.Hour
	grant := func(id string, expires time.Duration, f func(*events.ExceptionGranted)) events.ExceptionGranted {
		e := events.ExceptionGranted{Exception: id, Policy: "no-production", Owner: "ana", Reason: "migration", By: "lanyard/operator",
			GrantedAt: t0, ReviewAt: t0.Add(expires / 2), ExpiresAt: t0.Add(expires)}
		f(&e)
		return e
	}
	for i, p := range []events.Payload{
		grant("bot", 3*day, func(e *events.ExceptionGranted) { e.Identity = "bot" }),
		grant("search", 2*day, func(e *events.ExceptionGranted) { e.Feature = "search" }),
		grant("all", day, func(e *events.ExceptionGranted) { e.WholeTenant = true }),
		grant("nobody", day, func(*events.ExceptionGranted) {}),
		grant("both", day, func(e *events.ExceptionGranted) { e.Identity, e.Feature = "bot", "search" }),
		grant("all and one", day, func(e *events.ExceptionGranted) { e.WholeTenant, e.Identity = true, "bot" }),
		grant("ended", 9*day, func(e *events.ExceptionGranted) { e.Identity = "bot" }),
		events.ExceptionEnded{Exception: "ended", Reason: "done", By: "lanyard/operator", EndedAt: t0},
		events.ExceptionEnded{Exception: "never granted", Reason: "done", By: "lanyard/operator", EndedAt: t0},
	} {
		l.Apply(stored(t, uint64(i+1), p))
	}
	for _, c := range []struct {
		name, tenant, identity, feature string
		at                              time.Duration
		want                            []string
	}{
		{"all that hold", "acme", "bot", "search", 0, []string{"all", "bot", "search"}},
		{"an identity of another feature", "acme", "bot", "billing", 0, []string{"all", "bot"}},
		{"another identity of the feature", "acme", "other", "search", 0, []string{"all", "search"}},
		{"an id that is a feature's name", "acme", "search", "bot", 0, []string{"all"}},
		{"of no feature", "acme", "other", "", 0, []string{"all"}},
		{"another tenant", "globex", "bot", "search", 0, nil},
		{"just before the end", "acme", "bot", "search", day - 1, []string{"all", "bot", "search"}},
		{"it lapses at the instant", "acme", "bot", "search", day, []string{"bot", "search"}},
		{"two lapsed", "acme", "bot", "search", 2 * day, []string{"bot"}},
		{"all lapsed", "acme", "bot", "search", 3 * day, nil},
	} {
		var got []string
		for _, e := range l.Exceptions(t0.Add(c.at), c.tenant, c.identity, c.feature) {
			got = append(got, e.Exception)
		}
		require.Equal(t, c.want, got, c.name)
	}
	ids := func(list []ledger.Exception) (out []string) {
		for _, e := range list {
			out = append(out, e.Exception)
		}
		return out
	}
	require.Equal(t, []string{"all", "search", "bot"}, ids(l.Granted("acme")), "the one that is due first comes first")
	require.Equal(t, []string{"all", "search", "bot"}, ids(l.Granted("")))
	require.Empty(t, l.Granted("globex"))
	l.Apply(stored(t, 20, grant("bot", day, func(e *events.ExceptionGranted) { e.Identity = "other" })))
	require.Len(t, l.Exceptions(t0, "acme", "bot", ""), 1, "an id that is granted again is one exception")
	require.Len(t, l.Exceptions(t0, "acme", "other", ""), 2)
}

func closed(h lineage.Handle, rev string, at time.Duration) events.TaskClosed {
	return events.TaskClosed{Task: rev, Handle: h.String(), Revocation: "rev-" + rev, Reason: "done", By: "shop", ClosedAt: t0.Add(at), ReusableAt: t0.Add(at + 24*time.Hour)}
}

// TestTasks: an id rests after its task has ended and is free after that; what people
// revoke stays revoked.
func TestTasks(t *testing.T) {
	const day = 24 * time.Hour
	l := ledger.New()
	for i, p := range []events.Payload{
		closed(handle(1), "a", 0),
		accepted(handle(1), "rev-a", events.ModeRevoke, nil),
		accepted(handle(2), "rev-b", events.ModeRevoke, nil), // heard before the end itself
		closed(handle(2), "b", 0),
		accepted(handle(3), "by a person", events.ModeRevoke, nil),
		closed(handle(3), "c", 0),
		closed(handle(4), "d", 0),
		accepted(handle(4), "by a person", events.ModeRevoke, nil),
		accepted(handle(5), "frozen", events.ModeFreeze, nil),
		closed(handle(5), "e", 0),
		events.RevocationLifted{Revocation: "frozen", Handle: handle(5).String()},
		closed(handle(1), "again", time.Hour), // a second end does not prolong it
		accepted(handle(1), "rev-again", events.ModeRevoke, nil),
	} {
		l.Apply(stored(t, uint64(i+1), p))
	}
	for _, c := range []struct {
		name string
		h    lineage.Handle
		at   time.Duration
		rev  string
	}{
		{"ended", handle(1), 0, "rev-again"},
		{"ended, at the last moment", handle(1), day - 1, "rev-again"},
		{"rested", handle(1), day, ""},
		{"out of order", handle(2), 0, "rev-b"},
		{"out of order, rested", handle(2), day, ""},
		{"revoked before it ended", handle(3), 365 * day, "by a person"},
		{"revoked after it ended", handle(4), 365 * day, "by a person"},
		{"a lift does not undo an end", handle(5), 0, "rev-e"},
		{"a lift, rested", handle(5), day, ""},
	} {
		_, rev, dead := l.Dead(t0.Add(c.at), c.h)
		require.Equal(t, c.rev, rev, c.name)
		require.Equal(t, c.rev != "", dead, c.name)
	}
	before := l.Resting()
	for i := range 1000 { // one an hour: no more than a day of them is remembered
		l.Apply(stored(t, uint64(100+i), closed(lineage.Handle{9, byte(i), byte(i >> 8)}, "x", time.Duration(i)*time.Hour)))
	}
	require.LessOrEqual(t, l.Resting(), 25)
	require.Equal(t, 5, before)
	require.Equal(t, 2, l.Size(), "of the tasks that ended nothing is left among the dead handles")
	l.Apply(stored(t, 5000, closed(handle(1), "next run", 2000*time.Hour)))
	_, rev, dead := l.Dead(t0.Add(2000*time.Hour), handle(1))
	require.True(t, dead)
	require.Equal(t, "rev-next run", rev, "an id that was used again ends again")
}
