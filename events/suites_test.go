package events

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"
)

// TestCloudEventsSchema holds what Encode writes to the CloudEvents project's own
// JSON Schema, and to ours of the envelope.
func TestCloudEventsSchema(t *testing.T) {
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	load := func(url, file string) {
		t.Helper()
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource(url, doc); err != nil {
			t.Fatal(err)
		}
	}
	load("https://cloudevents.io/schema.json", "testdata/cloudevents/cloudevents.json")
	load(schemaBase+"envelope.v1.json", "../schemas/envelope.v1.json")
	load(schemaBase+"common.v1.json", "../schemas/common.v1.json")
	for _, url := range []string{"https://cloudevents.io/schema.json", schemaBase + "envelope.v1.json"} {
		schema, err := c.Compile(url)
		if err != nil {
			t.Fatal(err)
		}
		examples(t, "valid-", func(name string, raw []byte) {
			e, err := Decode(raw)
			if err != nil {
				t.Fatal(err)
			}
			if raw, err = Encode(e); err != nil {
				t.Fatal(err)
			}
			doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
			if err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(doc); err != nil {
				t.Errorf("%s against %s: %v", name, url, err)
			}
		})
	}
}

// TestCloudEventsConformance reads the project's minimum events, with a type of the
// catalogue in place of theirs and what Lanyard requires added. Data that is not
// a JSON object is not for us.
func TestCloudEventsConformance(t *testing.T) {
	type document struct {
		ContextAttributes map[string]any `yaml:"ContextAttributes"`
		Data              string         `yaml:"Data"`
	}
	tests := []struct {
		file           string
		accepted, seen int
	}{
		{"v1_minimum.yaml", 1, 6}, // the one whose data is a JSON object
		{"v03_minimum.yaml", 0, 6},
	}
	for _, tt := range tests {
		raw, err := os.ReadFile("testdata/cloudevents/" + tt.file)
		if err != nil {
			t.Fatal(err)
		}
		accepted, seen := 0, 0
		dec := yaml.NewDecoder(bytes.NewReader(raw))
		for {
			var doc document
			if dec.Decode(&doc) != nil {
				break
			}
			seen++
			m := map[string]any{"time": "2026-11-24T10:00:00Z", "subject": "jane", "tenant": "acme"}
			for k, v := range doc.ContextAttributes {
				m[k] = v
			}
			m["type"], m["specversion"] = TypeOwnerDeparted, map[any]string{1.0: "1.0", 0.3: "0.3"}[m["specversion"]]
			m["data"] = doc.Data
			if json.Valid([]byte(doc.Data)) {
				m["data"] = json.RawMessage(doc.Data)
			}
			text, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			e, err := Decode(text)
			if err != nil {
				if Code(err) == "internal" {
					t.Errorf("%s %v: %v", tt.file, m["id"], err)
				}
				continue
			}
			accepted++
			agree(t, text, e)
			if e.ID() != m["id"] || e.Source() != m["source"] || e.DataContentType() != m["datacontenttype"] {
				t.Errorf("%s %v: read %s", tt.file, m["id"], e)
			}
		}
		if accepted != tt.accepted || seen != tt.seen {
			t.Errorf("%s: accepted %d of %d, want %d of %d", tt.file, accepted, seen, tt.accepted, tt.seen)
		}
	}
}

// TestFormatSuite uses the format tests of the JSON Schema project as attribute and
// payload values.
func TestFormatSuite(t *testing.T) {
	type group struct {
		Tests []struct {
			Description string
			Data        any
			Valid       bool
		}
	}
	// Valid in RFC 3339 but refused by us: Go has no leap seconds, and one moment
	// should have one spelling.
	stricter := map[string]bool{
		"1998-12-31T23:59:60Z": true, "1998-12-31T15:59:60.123-08:00": true, "1963-06-19t08:30:06.283185z": true,
	}
	activity := func(ip string) string {
		data, err := json.Marshal(map[string]string{"identity": "jane", "destination": "d", "action": "a", "outcome": "success", "source_ip": ip})
		if err != nil {
			t.Fatal(err)
		}
		return strings.Replace(with(`owner.departed`, `activity.api_called`), `{"owner":"jane"}`, string(data), 1)
	}
	quote := func(s string) string {
		raw, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	addresses := map[string][2]int{} // text: times valid, times given
	for _, file := range []string{"date-time", "ipv4", "ipv6"} {
		raw, err := os.ReadFile("testdata/json-schema/" + file + ".json")
		if err != nil {
			t.Fatal(err)
		}
		var groups []group
		if err := json.Unmarshal(raw, &groups); err != nil {
			t.Fatal(err)
		}
		for _, tt := range groups[0].Tests {
			text, ok := tt.Data.(string)
			if !ok {
				continue
			}
			if file != "date-time" {
				seen := addresses[text]
				seen[1]++
				if tt.Valid {
					seen[0]++
				}
				addresses[text] = seen
				continue
			}
			_, err := Decode([]byte(with(`"2026-11-24T10:00:00Z"`, quote(text))))
			if want := tt.Valid && !stricter[text]; (err == nil) != want {
				t.Errorf("time %q (%s): error is %v, want accepted %v", text, tt.Description, err, want)
			}
		}
	}
	for text, seen := range addresses {
		_, err := Receive([]byte(activity(text)), "acme")
		if a, parseErr := netip.ParseAddr(text); parseErr == nil && a.Zone() == "" && seen[0] == 0 {
			continue // an address of the other family than its test is about
		}
		if valid := seen[0] > 0; (err == nil) != valid {
			t.Errorf("address %q: error is %v, want accepted %v", text, err, valid)
		}
	}
	if len(addresses) < 40 {
		t.Errorf("saw %d addresses, want at least 40", len(addresses))
	}
}
