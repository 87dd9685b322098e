package grant

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	json2 "github.com/go-json-experiment/json"
	"github.com/stretchr/testify/require"

	"github.com/lanyard-nhi/lanyard/events/token"
)

// examples are those of one RFC, see the README.md beside the file.
func examples(t *testing.T, rfc string) []json.RawMessage {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "attest", "testdata", "rfc-examples", "rfc-examples.json"))
	require.NoError(t, err)
	var all []struct {
		RFC   string          `json:"rfc"`
		Value json.RawMessage `json:"value"`
	}
	require.NoError(t, json.Unmarshal(b, &all))
	var out []json.RawMessage
	for _, e := range all {
		if e.RFC == rfc {
			out = append(out, e.Value)
		}
	}
	return out
}

// members of a JSON object that is read into v and written again: what the RFC's example
// has must come back the same, but for what is left out on purpose.
func members(t *testing.T, raw json.RawMessage, v any, without ...string) {
	t.Helper()
	require.NoError(t, json2.Unmarshal(raw, v))
	b, err := json.Marshal(v)
	require.NoError(t, err)
	var want, got map[string]any
	require.NoError(t, json.Unmarshal(raw, &want))
	require.NoError(t, json.Unmarshal(b, &got))
	for _, name := range without {
		delete(want, name)
	}
	for name, value := range want {
		require.Equal(t, value, got[name], name)
	}
}

// TestExamplesOfRFC7662: both answers of section 2.2. There are no user names here, and
// extension_field is the example's own.
func TestExamplesOfRFC7662(t *testing.T) {
	all := examples(t, "rfc7662")
	require.Len(t, all, 2)
	members(t, all[0], &introspection{}, "username", "extension_field")
	b, err := json.Marshal(inactive{})
	require.NoError(t, err)
	require.Equal(t, `{"active":false}`, string(b))
	require.JSONEq(t, string(all[1]), string(b))
}

// TestExamplesOfRFC8693: the answers of section 2.3 and appendix A, and the chains of
// actors of section 4.1. The other examples are claims of other issuers' tokens.
func TestExamplesOfRFC8693(t *testing.T) {
	answers, chains := 0, 0
	for _, raw := range examples(t, "rfc8693") {
		var seen struct {
			AccessToken string          `json:"access_token"`
			Actor       json.RawMessage `json:"act"`
		}
		require.NoError(t, json.Unmarshal(raw, &seen))
		if seen.AccessToken != "" {
			members(t, raw, &Response{})
			answers++
		}
		if seen.Actor != nil {
			members(t, seen.Actor, &token.Actor{})
			chains++
		}
	}
	require.Equal(t, []int{3, 3}, []int{answers, chains})
}

// TestExampleOfRFC9068: the claims of section 3 but for nothing.
func TestExampleOfRFC9068(t *testing.T) {
	all := examples(t, "rfc9068")
	require.Len(t, all, 2) // the header is not ours: RS256, at+JWT in another case
	members(t, all[1], &token.Claims{})
}
