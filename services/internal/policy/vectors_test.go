package policy

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
	exptypes "github.com/cedar-policy/cedar-go/x/exp/types"
	"github.com/stretchr/testify/require"
)

// vector is a file of the suite cedar-policy/cedar-integration-tests.
type vector struct {
	Policies       string
	Entities       string
	Schema         string
	ShouldValidate bool
	Requests       []struct {
		Description                 string
		Principal, Action, Resource cedar.EntityUID
		Context                     cedar.Record
		Decision                    cedar.Decision
		Reason                      []cedar.PolicyID
		Errors                      []cedar.PolicyID
	}
}

// TestCedarVectors runs the handwritten tests of the Cedar project on the library that
// decides here: the decision, the policies that made it, those that failed, and what
// the validator says of policies, entities and requests. Nothing is left out.
func TestCedarVectors(t *testing.T) {
	const suite = "testdata/cedar"
	files, err := filepath.Glob(suite + "/tests/*/*.json")
	require.NoError(t, err)
	requests := 0
	for _, file := range files {
		var v vector
		require.NoError(t, json.Unmarshal(read(t, file), &v), file)
		res := resolve(t, filepath.Join(suite, v.Schema))
		entities := exptypes.EntityMap{}
		require.NoError(t, entities.UnmarshalJSONWithSchema(read(t, filepath.Join(suite, v.Entities)), res), file)
		set, err := cedar.NewPolicySetFromBytes(v.Policies, read(t, filepath.Join(suite, v.Policies)))
		require.NoError(t, err, file)
		valid := validate.New(res)
		for id, p := range set.All() {
			err := valid.Policy(string(id), (*ast.Policy)(p.AST()))
			require.Equal(t, v.ShouldValidate, err == nil, "%s: %s: %v", file, id, err)
		}
		require.NoError(t, valid.Entities(cedar.EntityMap(entities)), file)
		for _, r := range v.Requests {
			requests++
			req := cedar.Request{Principal: r.Principal, Action: r.Action, Resource: r.Resource, Context: typed(t, r.Context, res.Actions[r.Action].AppliesTo.Context)}
			require.NoError(t, valid.Request(req), "%s: %s", file, r.Description)
			decision, diag := cedar.Authorize(set, cedar.EntityMap(entities), req)
			require.Equal(t, r.Decision, decision, "%s: %s", file, r.Description)
			var reasons, errors []cedar.PolicyID
			for _, x := range diag.Reasons {
				reasons = append(reasons, x.PolicyID)
			}
			for _, x := range diag.Errors {
				errors = append(errors, x.PolicyID)
			}
			require.ElementsMatch(t, r.Reason, reasons, "%s: %s", file, r.Description)
			require.ElementsMatch(t, r.Errors, errors, "%s: %s", file, r.Description)
		}
	}
	require.Len(t, files, 22)
	require.Equal(t, 74, requests)
}

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return b
}

func resolve(t *testing.T, path string) *resolved.Schema {
	t.Helper()
	var sc schema.Schema
	require.NoError(t, sc.UnmarshalCedar(read(t, path)))
	res, err := sc.Resolve()
	require.NoError(t, err)
	return res
}

// typed is a context as a reader with the schema has it: text stands for an address or
// a decimal where the schema has one (cedar-go reads entities so, but not contexts).
func typed(t *testing.T, r cedar.Record, schema resolved.RecordType) cedar.Record {
	t.Helper()
	m := r.Map()
	for name, value := range m {
		text, ok := value.(cedar.String)
		if !ok {
			continue
		}
		var err error
		switch schema[name].Type {
		case resolved.ExtensionType("ipaddr"):
			m[name], err = types.ParseIPAddr(string(text))
		case resolved.ExtensionType("decimal"):
			m[name], err = types.ParseDecimal(string(text))
		}
		require.NoError(t, err)
	}
	return cedar.NewRecord(m)
}
