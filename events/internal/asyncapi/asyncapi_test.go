package asyncapi

import (
	"bytes"
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/schemas"
	"gopkg.in/yaml.v3"
)

var update = flag.Bool("update", false, "write schemas/asyncapi.yaml")

const file = "../../../schemas/asyncapi.yaml"

func TestFileIsCurrent(t *testing.T) {
	d, err := Generate()
	if err != nil {
		t.Fatal(err)
	}
	want, err := YAML(d)
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(file, want, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !bytes.Equal(want, schemas.AsyncAPI) {
		t.Error("schemas/asyncapi.yaml is not what the catalogue says; run: go test ./internal/asyncapi -update")
	}
}

// load reads the file as another tool would.
func load(t *testing.T) map[string]any {
	t.Helper()
	var doc map[string]any
	if err := yaml.Unmarshal(schemas.AsyncAPI, &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func walk(at string, v any, f func(at string, node map[string]any)) {
	switch v := v.(type) {
	case map[string]any:
		f(at, v)
		for k, sub := range v {
			walk(at+"/"+k, sub, f)
		}
	case []any:
		for _, sub := range v {
			walk(at+"/*", sub, f)
		}
	}
}

func pointer(doc any, path string) any {
	for step := range strings.SplitSeq(strings.Trim(path, "/"), "/") {
		if step == "" {
			continue
		}
		m, ok := doc.(map[string]any)
		if !ok {
			return nil
		}
		doc = m[step]
	}
	return doc
}

func TestReferencesResolve(t *testing.T) {
	doc := load(t)
	n := 0
	walk("", doc, func(at string, node map[string]any) {
		ref, ok := node["$ref"].(string)
		if !ok {
			return
		}
		n++
		name, path, _ := strings.Cut(ref, "#")
		if name == "" {
			if pointer(doc, path) == nil {
				t.Errorf("%s: %s leads nowhere", at, ref)
			}
			return
		}
		raw, err := fs.ReadFile(schemas.FS, strings.TrimPrefix(name, "./"))
		if err != nil {
			t.Errorf("%s: %v", at, err)
			return
		}
		var target map[string]any
		if err := json.Unmarshal(raw, &target); err != nil {
			t.Errorf("%s: %v", at, err)
		}
		walk(at+" > "+name, target, func(at string, node map[string]any) {
			ref, ok := node["$ref"].(string)
			if !ok {
				return
			}
			file, path, _ := strings.Cut(ref, "#")
			root := any(target)
			if file != "" {
				raw, err := fs.ReadFile(schemas.FS, file)
				if err != nil {
					t.Errorf("%s: %v", at, err)
					return
				}
				if err := json.Unmarshal(raw, &root); err != nil {
					t.Errorf("%s: %v", at, err)
				}
			}
			if pointer(root, path) == nil {
				t.Errorf("%s: %s leads nowhere", at, ref)
			}
		})
	})
	if n < 5*len(events.Catalogue) {
		t.Errorf("saw %d references, want at least %d", n, 5*len(events.Catalogue))
	}
}

// TestStructure checks what AsyncAPI 3.0.0 demands of the objects that are used.
func TestStructure(t *testing.T) {
	doc := load(t)
	if doc["asyncapi"] != "3.0.0" {
		t.Errorf("asyncapi is %v", doc["asyncapi"])
	}
	for _, path := range []string{"info/title", "info/version", "servers/bus/host", "servers/bus/protocol"} {
		if s, _ := pointer(doc, path).(string); s == "" {
			t.Errorf("%s is missing", path)
		}
	}
	key := regexp.MustCompile(`^[a-zA-Z0-9._-]+$`)
	channels, _ := doc["channels"].(map[string]any)
	operations, _ := doc["operations"].(map[string]any)
	messages, _ := pointer(doc, "components/messages").(map[string]any)
	for _, info := range events.Catalogue {
		name := info.Noun + "." + info.Verb
		c, ok := channels[name].(map[string]any)
		if !ok || messages[name] == nil {
			t.Errorf("%s has no channel or no message", name)
			continue
		}
		declared, _ := c["parameters"].(map[string]any)
		used := regexp.MustCompile(`\{(\w+)\}`).FindAllStringSubmatch(c["address"].(string), -1)
		if len(used) != len(declared) {
			t.Errorf("%s: address has %d parameters, %d are declared", name, len(used), len(declared))
		}
		for _, m := range used {
			if declared[m[1]] == nil {
				t.Errorf("%s: parameter %s is not declared", name, m[1])
			}
		}
	}
	if len(channels) != len(events.Catalogue) || len(operations) != len(events.Catalogue) || len(messages) != len(events.Catalogue) {
		t.Errorf("%d channels, %d operations, %d messages, want %d of each", len(channels), len(operations), len(messages), len(events.Catalogue))
	}
	for name, v := range operations {
		op, _ := v.(map[string]any)
		if op["action"] != "send" && op["action"] != "receive" {
			t.Errorf("%s: action is %v", name, op["action"])
		}
		channel, _ := pointer(op, "channel/$ref").(string)
		for _, m := range op["messages"].([]any) {
			if ref, _ := m.(map[string]any)["$ref"].(string); !strings.HasPrefix(ref, channel+"/messages/") {
				t.Errorf("%s: message %s is not one of its channel's", name, ref)
			}
		}
	}
	walk("", map[string]any{"channels": channels, "operations": operations, "messages": messages}, func(at string, node map[string]any) {
		if strings.Count(at, "/") != 1 {
			return
		}
		for k := range node {
			if !key.MatchString(k) {
				t.Errorf("%s: %q is not a legal key", at, k)
			}
		}
	})
}

// TestSubjectsFollowAddresses makes a subject of every example and demands that it
// fits the address of its channel.
func TestSubjectsFollowAddresses(t *testing.T) {
	doc := load(t)
	for _, info := range events.Catalogue {
		name := info.Noun + "." + info.Verb
		raw, err := fs.ReadFile(schemas.Examples, "examples/"+name+"/valid-full.json")
		if err != nil {
			t.Fatal(err)
		}
		e, err := events.Decode(raw)
		if err != nil {
			t.Fatal(err)
		}
		subject, err := events.Subject(e)
		if err != nil {
			t.Fatal(err)
		}
		channel, _ := pointer(doc, "channels").(map[string]any)[name].(map[string]any)
		address := strings.Split(channel["address"].(string), ".")
		tokens := strings.Split(subject, ".")
		if len(tokens) != len(address) {
			t.Errorf("%s: subject %s does not fit %v", name, subject, address)
			continue
		}
		for i, a := range address {
			if !strings.HasPrefix(a, "{") && a != tokens[i] {
				t.Errorf("%s: subject %s does not fit %v", name, subject, address)
			}
		}
	}
}
