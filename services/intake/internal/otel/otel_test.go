package otel

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/neutral"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/records"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

var ids = regexp.MustCompile(`("(?:traceId|spanId|parentSpanId)": ")([0-9a-f]*)"`)

// request is the example delivery in both encodings. Protobuf's own JSON has ids in
// base64 where OTLP's has hex.
func request(t testing.TB) (inJSON, inProtobuf []byte) {
	t.Helper()
	inJSON, err := os.ReadFile("../../adapter/testdata/traces.json")
	if err != nil {
		t.Fatal(err)
	}
	var req tracev1.TracesData
	err = protojson.Unmarshal(ids.ReplaceAllFunc(inJSON, func(m []byte) []byte {
		parts := ids.FindSubmatch(m)
		b, err := hex.DecodeString(string(parts[2]))
		if err != nil {
			t.Fatal(err)
		}
		return []byte(string(parts[1]) + base64.StdEncoding.EncodeToString(b) + `"`)
	}), &req)
	if err != nil {
		t.Fatal(err)
	}
	if inProtobuf, err = proto.Marshal(&req); err != nil {
		t.Fatal(err)
	}
	return inJSON, inProtobuf
}

func known() neutral.Context {
	return neutral.Context{Tenant: "acme", Hash: neutral.NewHasher([]byte("k")), WholeTraces: true}
}

// TestBothEncodings reads the same spans from protobuf and from JSON.
func TestBothEncodings(t *testing.T) {
	a, b := request(t)
	fromJSON, err := Read(a, 100, known())
	if err != nil {
		t.Fatal(err)
	}
	fromProtobuf, err := Read(b, 100, known())
	if err != nil {
		t.Fatal(err)
	}
	if len(fromJSON) != 8 || len(fromProtobuf) != 8 {
		t.Fatalf("%d and %d spans, want 8", len(fromJSON), len(fromProtobuf))
	}
	for i := range fromJSON {
		x, y := fromJSON[i], fromProtobuf[i]
		if d := cmp.Diff(x.Record, y.Record); d != "" || (x.Err == nil) != (y.Err == nil) {
			t.Errorf("span %d differs (%v, %v): %s", i, x.Err, y.Err, d)
		}
	}
}

// TestPiecesOfTraces reads the same span with and without the spans around it: who
// acted must not depend on it.
func TestPiecesOfTraces(t *testing.T) {
	c := known()
	c.WholeTraces = false
	body, _ := request(t)
	whole, err := Read(body, 100, c)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range whole {
		if r.Err == nil && (r.Record.Identity != "shop" || r.Record.Task != "") {
			t.Errorf("%s: identity %q and task %q came from another span", r.Record.ID, r.Record.Identity, r.Record.Task)
		}
	}
}

func one(attrs, more string) string {
	return `{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"5b8efff798038103d269b633813fc60c","spanId":"eee19b7ec3c1b174","name":"execute_tool x",` +
		`"startTimeUnixNano":"1772438400000000000","attributes":[` + attrs + `]` + more + `}]}]}]}`
}

func attr(key, value string) string {
	return `{"key":"` + key + `","value":{"stringValue":"` + value + `"}}`
}

func TestSpans(t *testing.T) {
	tool := attr("gen_ai.operation.name", "execute_tool")
	tests := []struct {
		name, body string
		err        error
		check      func(neutral.Record) bool
	}{
		{"tool named by the span", one(tool, ""), nil, func(r neutral.Record) bool {
			return r.Tool == "x" && r.Identity == "unidentified@otel" && r.Session == "5b8efff798038103d269b633813fc60c"
		}},
		{"identity stated", one(tool+","+attr("lanyard.identity", "bot")+","+attr("gen_ai.agent.id", "a"), ""), nil, func(r neutral.Record) bool { return r.Identity == "bot" }},
		{"OpenInference", one(attr("openinference.span.kind", "TOOL")+","+attr("tool.name", "y")+","+attr("input.value", `{\"to\":\"a@b.example\"}`), ""), nil,
			func(r neutral.Record) bool { return r.Tool == "y" && len(r.ToolArgsDest) == 1 }},
		{"throttled", one(tool+","+attr("error.type", "RateLimitError"), ""), nil, func(r neutral.Record) bool { return r.Outcome == events.OutcomeThrottled }},
		{"failed by status", one(tool, `,"status":{"code":2}`), nil, func(r neutral.Record) bool { return r.Outcome == events.OutcomeError }},
		{"not a GenAI span", one(attr("db.system", "x"), ""), neutral.ErrSkip, nil},
		{"agent at work", one(attr("gen_ai.operation.name", "invoke_agent"), ""), neutral.ErrSkip, nil},
		{"unknown operation", one(attr("gen_ai.operation.name", "dream"), ""), neutral.ErrSkip, nil},
		{"its own parent", one(tool, `,"parentSpanId":"eee19b7ec3c1b174"`), nil, func(r neutral.Record) bool { return r.Tool == "x" }},
		{"no ids", strings.Replace(one(tool, ""), "eee19b7ec3c1b174", "", 1), events.ErrSchema, nil},
		{"no time", strings.Replace(one(tool, ""), "1772438400000000000", "", 1), events.ErrSchema, nil},
		{"1970", strings.Replace(one(tool, ""), "1772438400000000000", "1000", 1), neutral.ErrTime, nil},
		{"long span", one(tool+","+attr("x", strings.Repeat("x", neutral.MaxRecord)), ""), events.ErrTooLarge, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			list, err := Read([]byte(tt.body), 10, known())
			if err != nil || len(list) != 1 {
				t.Fatalf("%d spans, error %v", len(list), err)
			}
			if !errors.Is(list[0].Err, tt.err) || (tt.err == nil) != (list[0].Err == nil) {
				t.Fatalf("error is %v, want %v", list[0].Err, tt.err)
			}
			if tt.check != nil && !tt.check(list[0].Record) {
				t.Errorf("record is %+v", list[0].Record)
			}
		})
	}
}

func TestBadRequests(t *testing.T) {
	body, packed := request(t)
	for name, tt := range map[string]struct {
		body []byte
		err  error
	}{
		"truncated JSON":     {body[:len(body)/2], events.ErrMalformed},
		"doubled member":     {[]byte(`{"resourceSpans":[],"resourceSpans":[]}`), events.ErrDuplicateMember},
		"truncated protobuf": {packed[:len(packed)-3], events.ErrMalformed},
		"no protobuf":        {[]byte("\xff\xff\xff"), events.ErrMalformed},
	} {
		if _, err := Read(tt.body, 100, known()); !errors.Is(err, tt.err) {
			t.Errorf("%s: error is %v, want %v", name, err, tt.err)
		}
	}
	for _, b := range [][]byte{body, packed} {
		if _, err := Read(b, 7, known()); !errors.Is(err, records.ErrTooMany) {
			t.Errorf("8 spans where 7 are allowed: error is %v", err)
		}
	}
}

func FuzzRead(f *testing.F) {
	a, b := request(f)
	f.Add(a)
	f.Add(b)
	f.Add([]byte(one(attr("gen_ai.operation.name", "execute_tool"), "")))
	f.Fuzz(func(t *testing.T, body []byte) {
		list, err := Read(body, 100, known())
		if err != nil {
			if events.Code(err) == "internal" && !errors.Is(err, records.ErrTooMany) {
				t.Fatalf("error without a name: %v", err)
			}
			return
		}
		for _, r := range list {
			if r.Err != nil {
				if events.Code(r.Err) == "internal" && !errors.Is(r.Err, neutral.ErrSkip) && !errors.Is(r.Err, neutral.ErrTime) {
					t.Fatalf("error without a name: %v", r.Err)
				}
				continue
			}
			if _, err := r.Record.Event("acme", r.Record.Time); err != nil {
				t.Fatalf("made what is not valid: %v", err)
			}
		}
	})
}
