package events

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
)

var updateCompat = flag.Bool("update", false, "accept compatible additions into schemas/compat/v1")

const compatDir = "../schemas/compat/v1"

// incompatible lists what in now breaks what v1 promised in was. A version may gain
// optional members and definitions and change its descriptions, nothing else.
func incompatible(at string, was, now any) []string {
	w, ok := was.(node)
	if !ok {
		if !reflect.DeepEqual(was, now) {
			return []string{fmt.Sprintf("%s changed from %v to %v", at, was, now)}
		}
		return nil
	}
	n, ok := now.(node)
	if !ok {
		return []string{fmt.Sprintf("%s is no schema any more", at)}
	}
	var out []string
	for _, key := range keys(w, n) {
		switch key {
		case "description", "title", "$comment", "examples":
		case "required":
			a, b := texts(w[key]), texts(n[key])
			slices.Sort(a)
			slices.Sort(b)
			if !slices.Equal(a, b) {
				out = append(out, fmt.Sprintf("%s/required changed from %v to %v", at, a, b))
			}
		case "properties", "$defs":
			a, _ := w[key].(node)
			b, _ := n[key].(node)
			for _, name := range keys(a, nil) {
				if b[name] == nil {
					out = append(out, fmt.Sprintf("%s/%s/%s is gone", at, key, name))
					continue
				}
				out = append(out, incompatible(at+"/"+key+"/"+name, a[name], b[name])...)
			}
		default:
			out = append(out, incompatible(at+"/"+key, w[key], n[key])...)
		}
	}
	return out
}

func keys(a, b node) []string {
	var out []string
	for _, m := range []node{a, b} {
		for k := range m {
			if !slices.Contains(out, k) {
				out = append(out, k)
			}
		}
	}
	slices.Sort(out)
	return out
}

func TestVersion1OnlyGainsOptionalMembers(t *testing.T) {
	now := schemaFiles(t)
	files, err := filepath.Glob(compatDir + "/*.v1.json")
	if err != nil {
		t.Fatal(err)
	}
	promised := map[string]bool{}
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var was node
		if err := json.Unmarshal(raw, &was); err != nil {
			t.Fatal(err)
		}
		name := filepath.Base(file)
		promised[name] = true
		if now[name] == nil {
			t.Errorf("%s is gone", name)
			continue
		}
		for _, problem := range incompatible(strings.TrimSuffix(name, ".json"), was, now[name]) {
			t.Errorf("v1 may only gain optional members; make a v2 beside it: %s", problem)
		}
	}
	for name := range now {
		if !promised[name] && !*updateCompat {
			t.Errorf("%s is not in schemas/compat/v1 yet; run: go test -run Version1 -update", name)
		}
	}
	if !*updateCompat || t.Failed() {
		return
	}
	for name := range now {
		raw, err := os.ReadFile("../schemas/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(compatDir, name), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestIncompatible proves that the check sees what it must see.
func TestIncompatible(t *testing.T) {
	const was = `{"type":"object","required":["a"],"properties":{"a":{"type":"string","maxLength":5},"b":{"enum":["x"]}},"additionalProperties":false}`
	tests := []struct {
		name, now string
		problems  int
	}{
		{"the same", was, 0},
		{"a description", strings.Replace(was, `"maxLength"`, `"description":"d","maxLength"`, 1), 0},
		{"an optional member", strings.Replace(was, `"b":`, `"c":{"type":"string"},"b":`, 1), 0},
		{"a required member", strings.Replace(was, `["a"]`, `["a","b"]`, 1), 1},
		{"a member no longer required", strings.Replace(was, `["a"]`, `[]`, 1), 1},
		{"a member gone", strings.Replace(was, `,"b":{"enum":["x"]}`, ``, 1), 1},
		{"another type", strings.Replace(was, `"type":"string"`, `"type":"integer"`, 1), 1},
		{"a narrower bound", strings.Replace(was, `5`, `4`, 1), 1},
		{"a new bound", strings.Replace(was, `"maxLength"`, `"minLength":1,"maxLength"`, 1), 1},
		{"a new value", strings.Replace(was, `["x"]`, `["x","y"]`, 1), 1},
		{"open", strings.Replace(was, `false`, `true`, 1), 1},
	}
	var a any
	if err := json.Unmarshal([]byte(was), &a); err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var b any
			if err := json.Unmarshal([]byte(tt.now), &b); err != nil {
				t.Fatal(err)
			}
			if got := incompatible("s", a, b); len(got) != tt.problems {
				t.Errorf("problems are %q, want %d", got, tt.problems)
			}
		})
	}
}
