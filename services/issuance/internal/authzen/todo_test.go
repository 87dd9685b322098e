package authzen

import (
	"context"
	"encoding/json"
	"os"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/stretchr/testify/require"
)

// todo is a View by the policies of the interop's Todo scenario.
type todo struct {
	policies *cedar.PolicySet
	users    map[string]cedar.Entity
	ids      map[cedar.PolicyID]string
}

func newTodo(t *testing.T) *todo {
	t.Helper()
	text, err := os.ReadFile("testdata/todo/policies.cedar")
	require.NoError(t, err)
	v := &todo{users: map[string]cedar.Entity{}, ids: map[cedar.PolicyID]string{}}
	v.policies, err = cedar.NewPolicySetFromBytes("policies.cedar", text)
	require.NoError(t, err)
	for id, p := range v.policies.All() {
		v.ids[id] = string(p.Annotations()["id"])
	}
	body, err := os.ReadFile("testdata/todo/users.json")
	require.NoError(t, err)
	for _, u := range unmarshal[[]struct {
		ID, Email string
		Roles     []string
	}](t, body) {
		var roles []cedar.Value
		for _, r := range u.Roles {
			roles = append(roles, cedar.String(r))
		}
		v.users[u.ID] = cedar.Entity{UID: cedar.NewEntityUID("user", cedar.String(u.ID)),
			Attributes: cedar.NewRecord(cedar.RecordMap{"email": cedar.String(u.Email), "roles": cedar.NewSet(roles...)})}
	}
	return v
}

func (v *todo) Evaluate(_ context.Context, e Evaluation) (Decision, error) {
	properties, err := Record(e.Resource.Properties)
	if err != nil {
		return Decision{}, err
	}
	subject := cedar.NewEntityUID(cedar.EntityType(e.Subject.Type), cedar.String(e.Subject.ID))
	resource := cedar.NewEntityUID(cedar.EntityType(e.Resource.Type), cedar.String(e.Resource.ID))
	entities := cedar.EntityMap{resource: {UID: resource, Attributes: properties}}
	if u, ok := v.users[e.Subject.ID]; ok && e.Subject.Type == "user" {
		entities[subject] = u
	}
	d, why := cedar.Authorize(v.policies, entities, cedar.Request{Principal: subject, Action: cedar.NewEntityUID("Action", cedar.String(e.Action.Name)), Resource: resource})
	reasons := []string{}
	for _, r := range why.Reasons {
		reasons = append(reasons, v.ids[r.PolicyID])
	}
	return Decision{Decision: bool(d), Context: map[string]any{"reasons": reasons}}, nil
}

func (*todo) Subjects(context.Context, Evaluation, string, int) ([]string, error)  { return nil, nil }
func (*todo) Resources(context.Context, Evaluation, string, int) ([]string, error) { return nil, nil }
func (*todo) Actions(context.Context, Evaluation, string, int) ([]string, error)   { return nil, nil }

// TestTodoInterop runs every decision of the AuthZEN interop's Todo scenario, payload
// 1.0-02, over HTTP. Nothing is left out.
func TestTodoInterop(t *testing.T) {
	requests, responses := schema(t, "evaluation-request.schema.json"), schema(t, "evaluation-response.schema.json")
	body, err := os.ReadFile("testdata/suite/todo-decisions-1_0-02.json")
	require.NoError(t, err)
	suite := unmarshal[struct {
		Evaluation []struct {
			Request  json.RawMessage
			Expected bool
		}
		Evaluations []struct {
			Request  json.RawMessage
			Expected []Decision
		}
	}](t, body)
	require.Len(t, suite.Evaluation, 40)
	require.Len(t, suite.Evaluations, 3)
	h := shelfServer(t, newTodo(t))
	for _, c := range suite.Evaluation {
		valid(t, requests, c.Request)
		w := ask(h, "/access/v1/evaluation", string(c.Request))
		require.Equal(t, 200, w.Code, w.Body.String())
		valid(t, responses, w.Body.Bytes())
		d := unmarshal[Decision](t, w.Body.Bytes())
		require.Equal(t, c.Expected, d.Decision, "%s: %s", c.Request, w.Body)
		require.Equal(t, c.Expected, len(d.Context["reasons"].([]any)) > 0, "a permit names the policy that gave it")
	}
	for _, c := range suite.Evaluations {
		w := ask(h, "/access/v1/evaluations", string(c.Request))
		require.Equal(t, 200, w.Code, w.Body.String())
		got := unmarshal[struct{ Evaluations []Decision }](t, w.Body.Bytes()).Evaluations
		require.Len(t, got, len(c.Expected))
		for i, want := range c.Expected {
			require.Equal(t, want.Decision, got[i].Decision, "%s: %d", c.Request, i)
		}
	}
}
