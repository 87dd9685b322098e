package policies

import (
	"bytes"
	"context"
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/policy"
)

// shelf is a Log in memory.
type shelf struct {
	stored []bus.Stored
	expect *bus.Expect
}

func (s *shelf) Append(_ context.Context, b bus.Batch) (bus.Ack, error) {
	s.expect = b.Expect
	for _, e := range b.Events {
		s.stored = append(s.stored, bus.Stored{Event: e, Sequence: uint64(len(s.stored) + 1)})
	}
	return bus.Ack{Sequence: uint64(len(s.stored))}, nil
}

func (s *shelf) LastSequence(context.Context, string, string) (uint64, error) {
	return uint64(len(s.stored)), nil
}

// Follow ends at the end of the shelf.
func (s *shelf) Follow(ctx context.Context, _ string, _ []string, from uint64, f func(bus.Stored) error) error {
	for _, st := range s.stored[from-1:] {
		if err := f(st); err != nil {
			return err
		}
	}
	return context.Canceled
}

func set(t *testing.T, files ...policy.File) *policy.Set {
	t.Helper()
	s, err := policy.Parse(files)
	require.NoError(t, err)
	return s
}

func (s *shelf) publish(t *testing.T, set *policy.Set) {
	t.Helper()
	_, err := publish(t.Context(), s, rand.Reader, time.Unix(1_800_000_000, 0), set, events.PolicyActivated{By: "lanyard/operator", Previous: "cedar/x"}, uint64(len(s.stored)))
	require.NoError(t, err)
}

func TestStore(t *testing.T) {
	log := &shelf{}
	a := set(t, policy.File{Name: "a.cedar", Text: `@id("a") permit (principal, action, resource);`})
	b := set(t, policy.File{Name: "b.cedar", Text: `@id("b") permit (principal, action, resource);`}, policy.File{Name: "empty.cedar"})

	s := NewStore(zap.NewNop())
	require.Nil(t, s.Active(), "nothing is decided before the log has been read")
	require.Error(t, s.Run(t.Context(), log))
	require.Equal(t, policy.Version(policy.Default()), s.Active().Version())
	_, ok := s.Activation()
	require.False(t, ok)

	log.publish(t, a)
	log.publish(t, b)
	log.publish(t, a)
	require.Error(t, s.Run(t.Context(), log))
	require.Equal(t, a.Version(), s.Active().Version())
	at, ok := s.Activation()
	require.True(t, ok)
	require.Equal(t, "lanyard/operator", at.By)

	late := NewStore(zap.NewNop())
	require.Error(t, late.Run(t.Context(), log))
	require.Equal(t, a.Version(), late.Active().Version())
	late.Apply(log.stored[2]) // again: changes nothing
	require.Equal(t, a.Version(), late.Active().Version())
	log.publish(t, b)
	for _, st := range log.stored {
		late.Apply(st)
	}
	require.Equal(t, b.Files(), late.Active().Files())
	require.NoError(t, late.Wait(t.Context(), uint64(len(log.stored))))
	then := log.stored[0].Event.Time()
	require.NoError(t, late.Know(t.Context(), b.Version(), then))
	require.NoError(t, late.Know(t.Context(), a.Version(), then.Add(-1)), "superseded")
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, late.Know(gone, a.Version(), then), context.Canceled)
	require.ErrorIs(t, late.Know(gone, b.Version(), then.Add(1)), context.Canceled, "activated once more, not read yet")
}

// TestUnreadable: a set that this process cannot read stops it from deciding, until one
// that it can read is in force.
func TestUnreadable(t *testing.T) {
	good := set(t, policy.Default()...)
	for name, spoil := range map[string]func(*events.PolicyPublished, *events.PolicyActivated){
		"text of a newer schema": func(p *events.PolicyPublished, _ *events.PolicyActivated) {
			p.Text = `@id("a") permit (principal is Lanyard::Swarm, action, resource);`
		},
		"other text":        func(p *events.PolicyPublished, _ *events.PolicyActivated) { p.Text += "// changed" },
		"other version":     func(_ *events.PolicyPublished, a *events.PolicyActivated) { a.Version = "cedar/0" },
		"a part is missing": func(p *events.PolicyPublished, a *events.PolicyActivated) { p.Parts, a.Parts = 2, 2 },
	} {
		t.Run(name, func(t *testing.T) {
			log := &shelf{}
			log.publish(t, good)
			p, err := events.As[events.PolicyPublished](log.stored[0].Event)
			require.NoError(t, err)
			a, err := events.As[events.PolicyActivated](log.stored[1].Event)
			require.NoError(t, err)
			spoil(&p, &a)
			for i, payload := range []events.Payload{p, a} {
				log.stored[i].Event, err = events.New(events.Origin{Source: "/test", Tenant: "lanyard", Time: time.Unix(0, 0)}, payload)
				require.NoError(t, err)
			}
			s := NewStore(zap.NewNop())
			require.Error(t, s.Run(t.Context(), log))
			require.Nil(t, s.Active())
			log.publish(t, good)
			require.Error(t, s.Run(t.Context(), log))
			require.NotNil(t, s.Active())
		})
	}
}

// TestParts: any text travels in parts whose events the bus takes, and comes back as it
// was.
func TestParts(t *testing.T) {
	head := `@id("a") permit (principal, action, resource);` + "\n//"
	for name, text := range map[string]string{
		"plain":       head + strings.Repeat("x", 300_000),
		"quotes":      head + strings.Repeat(`"\`, 60_000),
		"lines":       head + strings.Repeat("\n//", 60_000),
		"wide runes":  head + strings.Repeat("€𝄞", 40_000),
		"controls":    head + strings.Repeat("\x01\x7f<&>\u2028", 20_000),
		"just a part": head + strings.Repeat("x", partSize-len(head)-3),
	} {
		log := &shelf{}
		want := set(t, policy.File{Name: "a.cedar", Text: text}, policy.File{Name: "b.cedar"})
		log.publish(t, want)
		for _, st := range log.stored {
			raw, err := events.Encode(st.Event)
			require.NoError(t, err, name)
			require.LessOrEqual(t, len(raw), events.MaxSize, name)
			require.NoError(t, events.Validate(st.Event), name)
		}
		s := NewStore(zap.NewNop())
		require.Error(t, s.Run(t.Context(), log))
		require.NotNil(t, s.Active(), name)
		require.True(t, bytes.Equal([]byte(text), []byte(s.Active().Files()[0].Text)), name)
	}
}
