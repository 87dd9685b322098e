package events

import (
	"bytes"
	"io/fs"
	"path"
	"strings"
	"testing"

	json "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/lanyard-nhi/lanyard/schemas"
)

// invalidExample is one examples/<type>/invalid-*.json.
type invalidExample struct {
	Code  string         `json:"code"`
	Why   string         `json:"why"`
	Event jsontext.Value `json:"event,omitempty"`
	Raw   string         `json:"raw,omitempty"`
}

func (x invalidExample) text() []byte {
	if x.Raw != "" {
		return []byte(x.Raw)
	}
	return x.Event
}

// examples calls f for every example file whose name begins with prefix.
func examples(t testing.TB, prefix string, f func(name string, raw []byte)) {
	t.Helper()
	files, err := fs.Glob(schemas.Examples, "examples/*/"+prefix+"*.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		raw, err := fs.ReadFile(schemas.Examples, name)
		if err != nil {
			t.Fatal(err)
		}
		f(strings.TrimPrefix(name, "examples/"), raw)
	}
}

func canonical(t testing.TB, raw []byte) string {
	t.Helper()
	v := jsontext.Value(bytes.Clone(raw))
	if err := v.Canonicalize(); err != nil {
		t.Fatal(err)
	}
	return string(v)
}

func TestSchemasAndCatalogueMatch(t *testing.T) {
	want := map[string]bool{}
	for _, info := range Catalogue {
		name := strings.TrimPrefix(SchemaID(info.Type), schemaBase)
		want[name] = true
		if info.Type != TypePrefix+info.Noun+"."+info.Verb+TypeSuffix {
			t.Errorf("row of %s names noun %s and verb %s", info.Type, info.Noun, info.Verb)
		}
		if got := info.New().EventType(); got != info.Type {
			t.Errorf("row of %s makes a payload of %s", info.Type, got)
		}
	}
	files, err := fs.Glob(schemas.FS, "*.v1.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		if name != "common.v1.json" && name != "envelope.v1.json" && !want[name] {
			t.Errorf("schema %s has no row in the catalogue", name)
		}
		delete(want, name)
		checkSchemaFile(t, name)
	}
	for name := range want {
		t.Errorf("catalogue needs schema %s", name)
	}
	for _, info := range Catalogue {
		valid, _ := fs.Glob(schemas.Examples, "examples/"+info.Noun+"."+info.Verb+"/valid-*.json")
		invalid, _ := fs.Glob(schemas.Examples, "examples/"+info.Noun+"."+info.Verb+"/invalid-*.json")
		if len(valid) < 2 || len(invalid) < 3 {
			t.Errorf("%s has %d valid and %d invalid examples, want at least 2 and 3", info.Type, len(valid), len(invalid))
		}
	}
}

func checkSchemaFile(t *testing.T, name string) {
	t.Helper()
	raw, err := fs.ReadFile(schemas.FS, name)
	if err != nil {
		t.Fatal(err)
	}
	var doc any
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	root := doc.(map[string]any)
	if root["$id"] != schemaBase+name {
		t.Errorf("%s: $id is %v", name, root["$id"])
	}
	if root["$schema"] != "https://json-schema.org/draft/2020-12/schema" {
		t.Errorf("%s: $schema is %v", name, root["$schema"])
	}
	checkNode(t, name, root)
}

// checkNode demands of every schema node that what it accepts is bounded, and of
// every property that it is described.
func checkNode(t *testing.T, at string, node map[string]any) {
	t.Helper()
	switch node["type"] {
	case "object":
		if _, ok := node["additionalProperties"]; !ok {
			t.Errorf("%s: additionalProperties is not given", at)
		}
	case "array":
		if _, ok := node["maxItems"]; !ok {
			t.Errorf("%s: array without maxItems", at)
		}
	case "string":
		_, bounded := node["maxLength"]
		pattern, _ := node["pattern"].(string)
		_, enum := node["enum"]
		if !bounded && !enum && !strings.HasSuffix(pattern, "}$") && !strings.HasSuffix(pattern, "}=$") {
			t.Errorf("%s: string without maxLength, enum or pattern of fixed length", at)
		}
	}
	for _, group := range []string{"properties", "$defs"} {
		members, _ := node[group].(map[string]any)
		for name, sub := range members {
			m, ok := sub.(map[string]any)
			if !ok {
				continue
			}
			_, ref := m["$ref"]
			if d, _ := m["description"].(string); d == "" && !ref {
				t.Errorf("%s/%s: no description", at, name)
			}
			checkNode(t, path.Join(at, name), m)
		}
	}
	for _, single := range []string{"items", "additionalProperties"} {
		if m, ok := node[single].(map[string]any); ok {
			checkNode(t, path.Join(at, single), m)
		}
	}
}

func TestValidExamples(t *testing.T) {
	n := 0
	examples(t, "valid-", func(name string, raw []byte) {
		n++
		e, err := Decode(raw)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if err := Validate(e); err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if want := TypePrefix + path.Dir(name) + TypeSuffix; e.Type() != want {
			t.Errorf("%s: type is %s", name, e.Type())
		}
		if _, err := Subject(e); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		info, _ := Lookup(e.Type())
		p := info.New()
		if err := json.Unmarshal(e.Data(), p); err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		again, err := json.Marshal(p)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if d := cmp.Diff(canonical(t, e.Data()), canonical(t, again)); d != "" {
			t.Errorf("%s: data changes when the Go type reads and writes it:\n%s", name, d)
		}
		coded, err := Encode(e)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if d := cmp.Diff(canonical(t, raw), canonical(t, coded)); d != "" {
			t.Errorf("%s: event changes when it is read and written:\n%s", name, d)
		}
	})
	if n < 2*len(Catalogue) {
		t.Errorf("saw %d valid examples, want at least %d", n, 2*len(Catalogue))
	}
}

func TestInvalidExamples(t *testing.T) {
	n := 0
	examples(t, "invalid-", func(name string, raw []byte) {
		n++
		var x invalidExample
		if err := json.Unmarshal(raw, &x, json.RejectUnknownMembers(true)); err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		if x.Why == "" {
			t.Errorf("%s does not say what is wrong", name)
		}
		e, err := Decode(x.text())
		if err == nil {
			err = Validate(e)
		}
		if err == nil {
			t.Errorf("%s was accepted though %s", name, x.Why)
		} else if got := Code(err); got != x.Code {
			t.Errorf("%s: refused with %s (%v), want %s", name, got, err, x.Code)
		}
	})
	if n < 3*len(Catalogue) {
		t.Errorf("saw %d invalid examples, want at least %d", n, 3*len(Catalogue))
	}
}
