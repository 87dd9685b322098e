package authzen

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

var errBroken = errors.New("the log cannot be reached")

// shelf is a View: readers read what they are listed for. Subject "broken" makes
// every decision fail.
type shelf struct {
	may   map[string][]string // "subject action resource" by nothing; see Evaluate
	asked []Evaluation
}

func newShelf(allowed ...string) *shelf {
	s := &shelf{may: map[string][]string{}}
	for _, a := range allowed {
		f := strings.Fields(a)
		s.may[f[0]] = append(s.may[f[0]], f[1]+" "+f[2])
	}
	return s
}

func (s *shelf) Evaluate(_ context.Context, e Evaluation) (Decision, error) {
	s.asked = append(s.asked, e)
	if e.Subject.ID == "broken" {
		return Decision{}, errBroken
	}
	if slices.Contains(s.may[e.Subject.ID], e.Action.Name+" "+e.Resource.ID) {
		return Decision{Decision: true, Context: map[string]any{"policy_version": "v7"}}, nil
	}
	return Decision{Context: map[string]any{"reason": "no policy permits it"}}, nil
}

// ids is the n first of the i-th words after after, sorted.
func (s *shelf) ids(q Evaluation, i int, after string, n int) []string {
	var out []string
	if q.Subject.Type != "user" || q.Resource.Type != "" && q.Resource.Type != "book" {
		return nil
	}
	for sub, list := range s.may {
		for _, l := range list {
			if f := append([]string{sub}, strings.Fields(l)...); f[i] > after {
				out = append(out, f[i])
			}
		}
	}
	slices.Sort(out)
	out = slices.Compact(out)
	return out[:min(n, len(out))]
}

func (s *shelf) Subjects(_ context.Context, q Evaluation, after string, n int) ([]string, error) {
	return s.ids(q, 0, after, n), nil
}

func (s *shelf) Actions(_ context.Context, q Evaluation, after string, n int) ([]string, error) {
	return s.ids(q, 1, after, n), nil
}

func (s *shelf) Resources(_ context.Context, q Evaluation, after string, n int) ([]string, error) {
	if q.Subject.ID == "nobody-can-list" {
		return nil, errBroken
	}
	return s.ids(q, 2, after, n), nil
}

// authorize lets in "Bearer <tenant>/<subject>", as service.Env.Authorize does with
// tokens.
func authorize(t *testing.T) func(string, http.Handler) http.Handler {
	return func(scope string, h http.Handler) http.Handler {
		if scope != "lanyard.authorize" {
			t.Errorf("scope %q", scope)
		}
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			who, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			if !ok {
				service.Problem(w, http.StatusUnauthorized, "missing", "no token")
				return
			}
			tenant, sub, _ := strings.Cut(who, "/")
			c := token.Claims{Tenant: tenant, Subject: sub, Scope: scope}
			if tenant == service.SystemTenant {
				c.Scope = service.ScopeOperator
			}
			h.ServeHTTP(w, r.WithContext(service.WithCaller(r.Context(), c)))
		})
	}
}

func serverFor(t *testing.T, issuer string, open func(context.Context) (View, error)) http.Handler {
	t.Helper()
	u, err := url.Parse(issuer)
	require.NoError(t, err)
	pages, err := NewPages([]byte("a secret of tests"))
	require.NoError(t, err)
	mux := http.NewServeMux()
	(&Server{Issuer: u, Open: open, Pages: pages, Rand: rand.Reader, Log: zap.NewNop()}).Register(mux, authorize(t))
	return mux
}

func shelfServer(t *testing.T, v View) http.Handler {
	t.Helper()
	return serverFor(t, "https://pdp.example", func(context.Context) (View, error) { return v, nil })
}

// ask posts body as acme/pep and returns the answer.
func ask(h http.Handler, path, body string, change ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", path, strings.NewReader(body))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer acme/pep")
	for _, f := range change {
		f(r)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// as changes who asks.
func as(who string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+who) }
}

// schema is one of the suite's JSON schemas.
func schema(t testing.TB, file string) *jsonschema.Schema {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", "suite", file))
	require.NoError(t, err)
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	require.NoError(t, err)
	c := jsonschema.NewCompiler()
	require.NoError(t, c.AddResource("mem:///"+file, doc))
	s, err := c.Compile("mem:///" + file)
	require.NoError(t, err)
	return s
}

// valid parses body and holds it against s.
func valid(t *testing.T, s *jsonschema.Schema, body []byte) {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	require.NoError(t, err)
	require.NoError(t, s.Validate(doc), "%s", body)
}

func unmarshal[T any](t *testing.T, body []byte) T {
	t.Helper()
	var v T
	require.NoError(t, json.Unmarshal(body, &v), "%s", body)
	return v
}
