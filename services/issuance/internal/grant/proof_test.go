package grant

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events/token"
)

func TestNonces(t *testing.T) {
	a, err := NewNonces([]byte("secret"), true)
	require.NoError(t, err)
	same, err := NewNonces([]byte("secret"), false)
	require.NoError(t, err)
	other, err := NewNonces([]byte("other"), true)
	require.NoError(t, err)
	now := time.Unix(1_000_000_020, 0)
	n := a.At(now)
	for d, want := range map[time.Duration]bool{0: true, 59 * time.Second: true, 100 * time.Second: true, -30 * time.Second: true,
		121 * time.Second: false, -2 * time.Minute: false, time.Hour: false} {
		require.Equal(t, want, a.good(n, now.Add(d)), "%s", d)
	}
	require.True(t, same.good(n, now), "of another process")
	require.False(t, other.good(n, now))
	require.False(t, a.good("", now))
	require.True(t, same.good("", now))
	require.False(t, same.good(n[:len(n)-1], now))
}

func TestKeepBinding(t *testing.T) {
	jkt, cert := &token.Confirm{JKT: "k"}, &token.Confirm{X5TS: "c"}
	both := &token.Confirm{JKT: "k", X5TS: "c"}
	for _, c := range []struct {
		parent, now *token.Confirm
		ok          bool
	}{
		{nil, nil, true}, {nil, jkt, true}, {nil, both, true},
		{jkt, nil, false}, {jkt, cert, false}, {jkt, jkt, true}, {jkt, both, true}, {jkt, &token.Confirm{JKT: "other"}, false},
		{cert, nil, false}, {cert, jkt, false}, {cert, cert, true}, {cert, both, true}, {cert, &token.Confirm{X5TS: "other"}, false},
		{both, jkt, false}, {both, cert, false}, {both, both, true},
	} {
		e := keepBinding(c.parent, c.now)
		require.Equal(t, c.ok, e == nil, "%+v %+v", c.parent, c.now)
		if e != nil {
			require.Equal(t, InvalidGrant, e.Code)
		}
	}
}
