package registry

import (
	"crypto"
	"crypto/ed25519"
	"encoding/base64"
	"testing"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/attest"
)

// TestOwnKeys: an identity with keys proves itself by them under its own id only, and
// keys that cannot be used are no declaration.
func TestOwnKeys(t *testing.T) {
	public := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)).Public()
	sum, err := (&jose.JSONWebKey{Key: public}).Thumbprint(crypto.SHA256)
	require.NoError(t, err)
	issuer := attest.KeyIssuer + base64.RawURLEncoding.EncodeToString(sum)
	reg := events.Registration{Identity: "bot", Kind: events.KindAgent, Owner: "o", Feature: "f", Purpose: "p", KillSwitch: "identity",
		Keys: []events.JWK{{KeyType: "OKP", Curve: "Ed25519", X: base64.RawURLEncoding.EncodeToString(public.(ed25519.PublicKey))}}}
	s := Identity{Registration: &reg}
	require.True(t, s.Attests(issuer, "bot"))
	require.False(t, s.Attests(issuer, "other"))
	require.False(t, s.Attests(issuer[:len(issuer)-1]+"A", "bot"))
	require.False(t, s.Attests(OwnKeys, "bot"), "the name in the index proves nothing")

	alive := func(_ lineage.Kind, _ string) error { return nil }
	_, err = Declare(Identity{}, reg, alive)
	require.NoError(t, err)
	reg.Keys = []events.JWK{{KeyType: "OKP", Curve: "Ed25519", X: "short"}}
	_, err = Declare(Identity{}, reg, alive)
	require.ErrorIs(t, err, ErrIncomplete)
}
