package authzen

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// FuzzRequests sends a body to all five endpoints. Whatever it is, the answer is a
// decision or 400 with none, and what is evaluated as a single question is one that the
// suite's schema allows.
func FuzzRequests(f *testing.F) {
	for _, s := range []string{"", "{}", asking, `{"evaluations":[{}]}`, asking[:len(asking)-1] + `,"evaluations":[{},{"subject":null},7],"options":{"evaluations_semantic":"deny_on_first_deny"}}`,
		asking[:len(asking)-1] + `,"context":{"a":[1.5,null]},"page":{"token":"AAAA","limit":3}}`, `{"subject":{"type":"user","id":"a","id":"b"}}`, strings.Repeat("[", 50)} {
		f.Add([]byte(s))
	}
	suite, err := os.ReadFile("testdata/suite/todo-decisions-1_0-02.json")
	if err != nil {
		f.Fatal(err)
	}
	var list struct {
		Evaluation, Evaluations []struct{ Request json.RawMessage }
	}
	if err := json.Unmarshal(suite, &list); err != nil {
		f.Fatal(err)
	}
	for _, c := range append(list.Evaluation[:8:8], list.Evaluations...) {
		f.Add([]byte(c.Request))
	}
	requests := schema(f, "evaluation-request.schema.json")
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, e := range endpoints {
			v := newShelf("ann read b1")
			w := ask(shelfServer(t, v), e.path, string(body))
			switch w.Code {
			case http.StatusOK:
				require.True(t, json.Valid(w.Body.Bytes()))
				require.LessOrEqual(t, len(v.asked), max(MaxEvaluations, maxWork))
			case http.StatusBadRequest:
				require.NotContains(t, w.Body.String(), `"decision"`)
				require.Empty(t, v.asked)
			default:
				t.Fatalf("%s: %d %s", e.key, w.Code, w.Body)
			}
			if e.path == "/access/v1/evaluation" && w.Code == http.StatusOK {
				valid(t, requests, body)
				require.Len(t, v.asked, 1)
			}
			for _, q := range v.asked {
				binds(t, q)
			}
		}
	})
}

// binds checks what the decoder promises of a question.
func binds(t *testing.T, q Evaluation) {
	t.Helper()
	for _, s := range []string{q.Subject.Type, q.Subject.ID, q.Action.Name, q.Resource.Type, q.Resource.ID} {
		require.LessOrEqual(t, len(s), MaxName)
	}
	for _, p := range [][]byte{q.Subject.Properties, q.Action.Properties, q.Resource.Properties, q.Context} {
		if p != nil {
			var m map[string]any
			require.NoError(t, json.Unmarshal(p, &m))
			_, _ = Record(p) // must not panic
		}
	}
}
