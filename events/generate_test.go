package events

import (
	"encoding/json"
	"io/fs"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/schemas"
	"pgregory.net/rapid"
)

// node is one schema object.
type node = map[string]any

// schemaFiles reads every schema as plain JSON, by file name.
func schemaFiles(t testing.TB) map[string]node {
	t.Helper()
	files, err := fs.Glob(schemas.FS, "*.v1.json")
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]node{}
	for _, name := range files {
		raw, err := fs.ReadFile(schemas.FS, name)
		if err != nil {
			t.Fatal(err)
		}
		var n node
		if err := json.Unmarshal(raw, &n); err != nil {
			t.Fatal(err)
		}
		m[name] = n
	}
	return m
}

// generator draws values of Go types within the bounds that a schema sets.
type generator struct{ common node }

// resolve follows references into the shared definitions.
func (g generator) resolve(n node) node {
	if all, ok := n["allOf"].([]any); ok {
		return g.resolve(all[0].(node))
	}
	ref, ok := n["$ref"].(string)
	if !ok {
		return n
	}
	def, ok := g.common[ref[strings.LastIndexByte(ref, '/')+1:]].(node)
	if !ok {
		panic("no definition for " + ref)
	}
	return g.resolve(def)
}

// jsonField is one member that a Go struct writes.
type jsonField struct {
	name     string
	index    []int
	optional bool
}

func jsonFields(typ reflect.Type) []jsonField {
	var fields []jsonField
	for i := range typ.NumField() {
		f := typ.Field(i)
		if f.Anonymous {
			for _, in := range jsonFields(f.Type) {
				in.index = append([]int{i}, in.index...)
				fields = append(fields, in)
			}
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		fields = append(fields, jsonField{name, []int{i}, strings.Contains(options, "omitempty")})
	}
	return fields
}

func bound(n node, name string, otherwise int64) int64 {
	if v, ok := n[name].(float64); ok {
		return int64(v)
	}
	return otherwise
}

func texts(values any) []string {
	list, _ := values.([]any)
	out := make([]string, 0, len(list))
	for _, v := range list {
		if s, ok := v.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

func (g generator) text(t *rapid.T, n node, label string) string {
	minimum, maximum := int(bound(n, "minLength", 0)), int(bound(n, "maxLength", 64))
	if enum := texts(n["enum"]); len(enum) > 0 {
		return rapid.SampledFrom(enum).Draw(t, label)
	}
	if pattern, ok := n["pattern"].(string); ok {
		return rapid.StringMatching(pattern).Filter(func(s string) bool { return len(s) >= minimum && len(s) <= max(maximum, 64) }).Draw(t, label)
	}
	if _, ok := n["anyOf"]; ok {
		return rapid.SampledFrom([]string{"203.0.113.7", "2001:db8::1"}).Draw(t, label)
	}
	if n["format"] == "uri" {
		return "https://" + rapid.StringMatching(`[a-z]{1,20}\.example/[a-z0-9]{0,20}`).Draw(t, label)
	}
	return rapid.StringN(minimum, minimum+min(20, maximum-minimum), -1).Draw(t, label)
}

func (g generator) value(t *rapid.T, typ reflect.Type, n node, optional bool, label string) reflect.Value {
	n = g.resolve(n)
	out := reflect.New(typ).Elem()
	if optional && rapid.Bool().Draw(t, label+" absent") {
		return out
	}
	switch {
	case typ == reflect.TypeFor[time.Time]():
		at := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, label), rapid.Int64Range(0, 999_999_999).Draw(t, label)).UTC()
		out.Set(reflect.ValueOf(at))
	case typ == reflect.TypeFor[Target]():
		out.Set(reflect.ValueOf(g.target(t, n, label)))
	case typ.Kind() == reflect.Pointer:
		out.Set(reflect.New(typ.Elem()))
		out.Elem().Set(g.value(t, typ.Elem(), n, false, label))
	case typ.Kind() == reflect.Struct:
		g.fill(t, out, n, label)
	case typ.Kind() == reflect.String:
		out.SetString(g.text(t, n, label))
	case typ.Kind() == reflect.Bool:
		out.SetBool(rapid.Bool().Draw(t, label))
	case out.CanInt():
		out.SetInt(rapid.Int64Range(bound(n, "minimum", 0), bound(n, "maximum", 1<<53-1)).Draw(t, label))
	case out.CanUint():
		out.SetUint(rapid.Uint64Range(uint64(bound(n, "minimum", 0)), uint64(bound(n, "maximum", 1<<53-1))).Draw(t, label))
	case out.CanFloat():
		out.SetFloat(rapid.Float64Range(float64(bound(n, "minimum", -1e9)), float64(bound(n, "maximum", 1e9))).Draw(t, label))
	case typ.Kind() == reflect.Slice:
		count := rapid.IntRange(0, min(3, int(bound(n, "maxItems", 3)))).Draw(t, label+" length")
		for range count {
			out.Set(reflect.Append(out, g.value(t, typ.Elem(), n["items"].(node), false, label)))
		}
	case typ.Kind() == reflect.Map:
		out.Set(reflect.MakeMap(typ))
		for range rapid.IntRange(0, 3).Draw(t, label+" size") {
			names := node{"minLength": 1.0}
			if given, ok := n["propertyNames"].(node); ok {
				names = g.resolve(given)
			}
			key := reflect.ValueOf(g.text(t, names, label+" key")).Convert(typ.Key())
			out.SetMapIndex(key, g.value(t, typ.Elem(), n["additionalProperties"].(node), false, label))
		}
	default:
		panic("no generator for " + typ.String())
	}
	return out
}

func (g generator) fill(t *rapid.T, out reflect.Value, n node, label string) {
	members := n["properties"].(node)
	for _, f := range jsonFields(out.Type()) {
		field := out.FieldByIndex(f.index)
		field.Set(g.value(t, field.Type(), members[f.name].(node), f.optional, label+"/"+f.name))
	}
}

// target is either a handle or a named thing, as a request must have it.
func (g generator) target(t *rapid.T, n node, label string) Target {
	members := n["properties"].(node)
	draw := func(name string) string { return g.text(t, g.resolve(members[name].(node)), label+"/"+name) }
	if rapid.Bool().Draw(t, label+" by handle") {
		return Target{Handle: draw("handle")}
	}
	return Target{Kind: draw("kind"), Tenant: draw("tenant"), ID: draw("id")}
}

// checkMembers demands that a Go struct and a schema have the same members and that
// exactly the members without omitempty are required.
func (g generator) checkMembers(t *testing.T, at string, typ reflect.Type, n node) {
	t.Helper()
	n = g.resolve(n)
	switch typ.Kind() {
	case reflect.Pointer, reflect.Slice:
		if items, ok := n["items"].(node); ok && typ.Kind() == reflect.Slice {
			n = items
		}
		g.checkMembers(t, at, typ.Elem(), n)
		return
	case reflect.Struct:
	default:
		return
	}
	if typ == reflect.TypeFor[time.Time]() {
		if n["format"] != "date-time" {
			t.Errorf("%s: schema is no date-time", at)
		}
		return
	}
	members, required := n["properties"].(node), texts(n["required"])
	seen := map[string]bool{}
	for _, f := range jsonFields(typ) {
		seen[f.name] = true
		sub, ok := members[f.name].(node)
		if !ok {
			t.Errorf("%s: schema lacks %s", at, f.name)
			continue
		}
		if f.optional == slices.Contains(required, f.name) {
			t.Errorf("%s: %s is optional in one of Go type and schema only", at, f.name)
		}
		g.checkMembers(t, at+"/"+f.name, typ.FieldByIndex(f.index).Type, sub)
	}
	for name := range members {
		if !seen[name] {
			t.Errorf("%s: Go type lacks %s", at, name)
		}
	}
}

func TestGoTypesMatchSchemas(t *testing.T) {
	files := schemaFiles(t)
	g := generator{files["common.v1.json"]["$defs"].(node)}
	for _, info := range Catalogue {
		t.Run(info.Noun+"."+info.Verb, func(t *testing.T) {
			schema := files[strings.TrimPrefix(SchemaID(info.Type), schemaBase)]
			typ := reflect.TypeOf(info.New()).Elem()
			if g.checkMembers(t, info.Type, typ, schema); t.Failed() {
				return
			}
			rapid.Check(t, func(rt *rapid.T) {
				out := reflect.New(typ)
				g.fill(rt, out.Elem(), schema, info.Verb)
				p := out.Interface().(Payload)
				e, err := New(Origin{Source: "/acme/shop", Tenant: "acme", Time: time.Unix(1_790_000_000, 0)}, p)
				if err != nil {
					rt.Fatal(err)
				}
				if err := Validate(e); err != nil {
					rt.Fatalf("%v\n%s", err, e.Data())
				}
				raw, err := Encode(e)
				if err != nil {
					rt.Fatal(err)
				}
				back, err := Decode(raw)
				if err != nil {
					rt.Fatalf("%v\n%s", err, raw)
				}
				again, err := Encode(back)
				if err != nil {
					rt.Fatal(err)
				}
				if string(again) != string(raw) {
					rt.Fatalf("encoding is not canonical:\n%s\n%s", raw, again)
				}
			})
		})
	}
}
