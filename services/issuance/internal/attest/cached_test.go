package attest_test

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/issuance/internal/attest"
)

// TestKeySetFileIsReadAgain: a key that is taken out of a file is refused at once, and a
// file that cannot be read is said so once, not with every token.
func TestKeySetFileIsReadAgain(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "jwks.json")
	write := func(b []byte) {
		require.NoError(t, os.WriteFile(path+".new", b, 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	write(w.jwks.Load().([]byte))
	core, logs := observer.New(zap.InfoLevel)
	v, err := attest.New(attest.Config{Issuers: []config.TrustedIssuer{{Issuer: iss, JWKS: "file://" + path}}, Audience: aud, Now: w.clock.now, Log: zap.New(core)})
	require.NoError(t, err)
	token := w.sign(jose.ES256, w.ec, "ec", "JWT", good())
	verify := func() error {
		_, err := v.Verify(t.Context(), token)
		return err
	}
	require.NoError(t, verify())

	write([]byte(`{"keys":`))
	for range 3 {
		require.NoError(t, verify(), "the last good keys count")
		w.clock.advance(time.Second)
	}
	require.Equal(t, 1, logs.FilterMessage("trusted keys could not be read; the last good ones count for a while").Len())
	require.Equal(t, iss, logs.All()[0].ContextMap()["of"])

	write([]byte(`{"keys":[]}`))
	require.ErrorIs(t, verify(), attest.ErrUnknownKey)
	require.Equal(t, 1, logs.FilterMessage("trusted keys are read again").Len())
}

// TestWhoLeavesFailsNobodyElse: a caller that is gone before the keys are there does not
// make them unavailable to the next.
func TestWhoLeavesFailsNobodyElse(t *testing.T) {
	w := newWorld(t)
	ctx, leave := context.WithCancel(t.Context())
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		leave()
		_, _ = rw.Write(w.jwks.Load().([]byte))
	}))
	defer srv.Close()
	v := w.from(srv.URL, true, attest.Clients{Local: attest.LoopbackClient()})
	token := w.sign(jose.ES256, w.ec, "ec", "JWT", good())
	_, _ = v.Verify(ctx, token) // nobody is there for the answer
	_, err := v.Verify(t.Context(), token)
	require.NoError(t, err)
}
