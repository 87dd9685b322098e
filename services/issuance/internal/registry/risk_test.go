package registry

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
)

// TestRiskLapses: a level holds for a day from the latest statement, and changes nothing
// else about the identity.
func TestRiskLapses(t *testing.T) {
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	var s Identity
	for i, level := range []string{"medium", "high"} {
		e, err := events.New(events.Origin{Source: "/test", Tenant: "acme", Time: at.Add(time.Duration(i) * time.Hour)}, events.RiskChanged{Identity: "bot", Level: level, Reason: "test"})
		require.NoError(t, err)
		s = Fold(s, bus.Stored{Event: e})
	}
	require.Equal(t, "high", s.RiskAt(at.Add(2*time.Hour)))
	require.Equal(t, "high", s.RiskAt(at.Add(25*time.Hour-1)))
	require.Empty(t, s.RiskAt(at.Add(25*time.Hour)))
	require.Equal(t, StatusUnknown, s.Status(at))
	require.Empty(t, s.Causes)
	require.Empty(t, Identity{}.RiskAt(at))
}
