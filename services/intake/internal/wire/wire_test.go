package wire

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"

	ce "github.com/cloudevents/sdk-go/v2/event"
	"github.com/google/go-cmp/cmp"
	"github.com/lanyard-nhi/lanyard/events"
)

// scenario is one example of the CloudEvents project's HTTP feature
// (cloudevents/conformance@7a8ee0ac, Apache-2.0).
type scenario struct {
	name    string
	request string
	attrs   map[string]string
	data    string
}

// scenarios reads the feature file: outlines, each with a request, a table of
// attributes, the data, and the content types to fill in.
func scenarios(t *testing.T) []scenario {
	t.Helper()
	raw, err := os.ReadFile("testdata/http-protocol-binding.feature")
	if err != nil {
		t.Fatal(err)
	}
	var out []scenario
	for _, part := range strings.Split(string(raw), "Scenario Outline: ")[1:] {
		blocks := strings.Split(part, `"""`)
		if len(blocks) != 5 {
			t.Fatalf("outline has %d blocks", len(blocks))
		}
		table, examples := blocks[2], blocks[4]
		for _, row := range rows(examples)[1:] {
			fill := func(s string) string { return strings.ReplaceAll(s, "<contentType>", row[0]) }
			s := scenario{name: fill(strings.SplitN(part, "\n", 2)[0]), request: fill(blocks[1]), data: blocks[3], attrs: map[string]string{}}
			for _, cells := range rows(fill(table))[1:] {
				s.attrs[cells[0]] = cells[1]
			}
			out = append(out, s)
		}
	}
	return out
}

func rows(s string) [][]string {
	var out [][]string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); !strings.HasPrefix(line, "|") {
			continue
		}
		var cells []string
		for _, c := range strings.Split(strings.Trim(line, "|"), "|") {
			cells = append(cells, strings.TrimSpace(c))
		}
		out = append(out, cells)
	}
	return out
}

// TestHTTPFeature parses the project's own requests. Their event types are not ours,
// so the texts are read by the SDK and not by our decoder.
func TestHTTPFeature(t *testing.T) {
	list := scenarios(t)
	if len(list) != 4 {
		t.Fatalf("the feature has %d examples, want 4", len(list))
	}
	for _, s := range list {
		t.Run(s.name, func(t *testing.T) {
			head, body, _ := strings.Cut(strings.TrimSpace(s.request), "\n\n")
			var lines []string
			for line := range strings.Lines(head) {
				if line = strings.TrimSpace(line); !strings.HasPrefix(line, "Content-Length") {
					lines = append(lines, line)
				}
			}
			r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(strings.Join(lines, "\r\n") + "\r\n\r\n")))
			if err != nil {
				t.Fatal(err)
			}
			q, err := Parse(r.Header, []byte(body), 1)
			if err != nil {
				t.Fatal(err)
			}
			var e ce.Event
			if err := json.Unmarshal(q.Items[0], &e); err != nil {
				t.Fatal(err)
			}
			got := map[string]string{"id": e.ID(), "specversion": e.SpecVersion(), "type": e.Type(), "source": e.Source(),
				"time": e.Time().Format("2006-01-02T15:04:05Z07:00"), "datacontenttype": e.DataContentType()}
			if _, ok := s.attrs["datacontenttype"]; !ok {
				delete(got, "datacontenttype")
			}
			if d := cmp.Diff(s.attrs, got); d != "" {
				t.Error(d)
			}
			var want, data any
			if json.Unmarshal([]byte(s.data), &want) != nil || json.Unmarshal(e.Data(), &data) != nil || !cmp.Equal(want, data) {
				t.Errorf("data is %s, want %s", e.Data(), s.data)
			}
		})
	}
}

func TestUnescape(t *testing.T) {
	tests := []struct {
		in, want string
		fails    bool
	}{
		{"plain", "plain", false},
		{"", "", false},
		{"Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀", false}, // HTTP binding 1.0.2, section 3.1.3.2
		{`"quoted \"text\" \\ %20"`, `quoted "text" \  `, false},
		{`"`, `"`, false},
		{`a"b"`, `a"b"`, false},
		{"%25", "%", false},
		{"%2541", "%41", false}, // one round only
		{"%", "", true}, {"%4", "", true}, {"%zz", "", true}, {`"\"`, "", true},
	}
	for _, tt := range tests {
		got, err := unescape(tt.in)
		if (err != nil) != tt.fails || got != tt.want {
			t.Errorf("unescape(%q) is %q, %v; want %q, fails %v", tt.in, got, err, tt.want, tt.fails)
		}
	}
}

func FuzzParse(f *testing.F) {
	const event = `{"specversion":"1.0","id":"1","source":"/acme/hr","type":"dev.lanyard.owner.departed.v1","time":"2026-01-02T03:04:05Z","data":{"owner":"jane"}}`
	f.Add("Content-Type: application/cloudevents+json", []byte(event))
	f.Add("Content-Type: application/cloudevents+json\nce-id: 1\nce-tenant: acme", []byte(event))
	f.Add("Content-Type: application/cloudevents-batch+json", []byte("["+event+","+event+"]"))
	f.Add("Content-Type: application/json\nce-id: 1\nce-source: /a\nce-type: dev.lanyard.owner.departed.v1\nce-time: 2026-01-02T03:04:05Z\nce-specversion: 1.0", []byte(`{"owner":"jane"}`))
	f.Add("Content-Type: application/json\nce-id: 1\nce-id: 2", []byte(`{}`))
	f.Add("ce-subject: \"a\\\"%20\"\nContent-Type: application/json", []byte(`{"a":1},"tenant":"x"`))
	f.Fuzz(func(t *testing.T, head string, body []byte) {
		h := http.Header{}
		for line := range strings.SplitSeq(head, "\n") {
			if k, v, ok := strings.Cut(line, ":"); ok {
				h.Add(strings.TrimSpace(k), strings.TrimSpace(v))
			}
		}
		q, err := Parse(h, body, 50)
		if err != nil {
			if events.Code(err) == "internal" && !errors.Is(err, ErrTooMany) {
				t.Fatalf("error without a name: %v", err)
			}
			return
		}
		if len(q.Items) > 50 || !q.Batch && len(q.Items) != 1 {
			t.Fatalf("%d items", len(q.Items))
		}
		for _, item := range q.Items {
			e, err := events.Receive(item, "acme")
			if err != nil {
				continue
			}
			_ = q.Agree(e)
			if bytes.Equal(item, body) || q.Batch {
				continue
			}
			// Binary: what the headers say is what the event says.
			if id := h.Get("Ce-Id"); !strings.ContainsAny(id, `%"`) && e.ID() != id {
				t.Fatalf("id is %q, header says %q", e.ID(), id)
			}
			if tenant := h.Get("Ce-Tenant"); tenant != "" && !strings.ContainsAny(tenant, `%"`) && events.Tenant(e) != tenant {
				t.Fatalf("tenant is %q, header says %q", events.Tenant(e), tenant)
			}
		}
	})
}
