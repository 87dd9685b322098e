package mapping

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/neutral"
)

var hash = neutral.NewHasher([]byte("k"))

// vault reads HashiCorp Vault's audit log.
func vault() Mapping {
	return Mapping{Name: "vault", Match: `record.type == "response"`, Fields: map[string]string{
		"id":              "record.request.id",
		"time":            "record.time",
		"identity":        "record.auth.display_name",
		"credential":      "record.auth.accessor",
		"source_ip":       "record.request.remote_address",
		"action":          `"vault:" + record.request.operation`,
		"action_class":    `record.request.operation in ["read", "list"] ? "secret" : "write"`,
		"destination":     `"vault"`,
		"resource":        "record.request.path",
		"outcome":         `has(record.error) && record.error != "" ? "denied" : "success"`,
		"scopes":          "record.auth.policies",
		"interactive":     "false",
		"count":           "size(record.auth.policies)",
		"credential_exp":  "record.?auth.?expire_time.orValue(\"2026-03-02T09:00:00Z\")",
		"user_agent":      "family(record.request.headers.user_agent)",
		"tool_args_dest":  "destinations(record.request.data)",
		"args_hash":       "args_hash(record.request.data)",
		"workload":        `masked(record.auth.metadata["pod"])`,
		"identity_kind":   `"service_account"`,
		"resource_tenant": "record.request.namespace.id",
	}}
}

const response = `{"type":"response","time":"2026-03-02T08:00:00.5Z","auth":{"display_name":"approle-orders","accessor":"hmac-1","policies":["orders","default"],
 "metadata":{"pod":"orders-17"}},"request":{"id":"r-1","operation":"read","path":"secret/data/db","remote_address":"203.0.113.4",
 "headers":{"user_agent":"vault-client/1.2"},"data":{"url":"https://db.example/x?password=PLANTED","password":"PLANTED"}}}`

func set(t *testing.T, list ...Mapping) Set {
	t.Helper()
	s, err := Compile(list, hash)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestRead(t *testing.T) {
	s := set(t, vault())
	got, err := s.Read([]byte(response), neutral.Context{Tenant: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	exp := time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)
	want := neutral.Record{ID: "r-1", Time: time.Date(2026, 3, 2, 8, 0, 0, 5e8, time.UTC), Source: "mapped:vault:-",
		Activity: events.Activity{Identity: "approle-orders", IdentityKind: events.KindServiceAccount, Credential: "hmac-1", CredentialExp: &exp,
			Scopes: []string{"orders", "default"}, SourceIP: "203.0.113.4", UserAgent: "vault-client", Workload: "orders-#",
			ToolArgsDest: []string{"https://db.example/x"}, ArgsHash: got.ArgsHash, Destination: "vault", Action: "vault:read",
			ActionClass: events.ClassSecret, Resource: "secret/data/db", Outcome: events.OutcomeSuccess, Count: 2}}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if !strings.HasPrefix(got.ArgsHash, "h:") {
		t.Errorf("hash of arguments is %q", got.ArgsHash)
	}
	if _, err := got.Event("acme", exp); err != nil {
		t.Error(err)
	}
}

func minimal(more map[string]string) Mapping {
	m := Mapping{Name: "m", Fields: map[string]string{"time": "record.t", "identity": "record.who", "action": `"a"`, "destination": `"d"`}}
	for k, v := range more {
		m.Fields[k] = v
	}
	return m
}

func TestValues(t *testing.T) {
	base := `{"t":1772438400,"who":"bot","n":12,"b":true,"s":"x","list":["a",1],"o":{"k":{"z":1}},"big":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20]}`
	deep := "record.big.all(a, record.big.all(b, record.big.all(c, record.big.all(d, a + b + c + d > 0.0))))"
	tests := []struct {
		name   string
		fields map[string]string
		err    error
		check  func(neutral.Record) bool
	}{
		{"derived id, number as time", nil, nil, func(r neutral.Record) bool {
			return strings.HasPrefix(r.ID, "derived-") && r.Time.Year() == 2026 && r.Outcome == events.OutcomeSuccess
		}},
		{"number as text", map[string]string{"session": "record.n"}, nil, func(r neutral.Record) bool { return r.Session == "12" }},
		{"missing member", map[string]string{"session": "record.none", "owner": "record.o.none.x"}, nil, func(r neutral.Record) bool { return r.Session == "" && r.Owner == "" }},
		{"tool makes a tool call", map[string]string{"tool": "record.s"}, nil, func(r neutral.Record) bool { return r.Form == neutral.ToolCall }},
		{"list", map[string]string{"audience": "record.list"}, nil, func(r neutral.Record) bool { return len(r.Audience) == 2 && r.Audience[1] == "1" }},
		{"boolean", map[string]string{"interactive": "record.b"}, nil, func(r neutral.Record) bool { return r.Interactive }},
		{"hash", map[string]string{"credential": "hash(record.s)"}, nil, func(r neutral.Record) bool { return r.Credential == hash.Of("x") }},
		{"service for an address", map[string]string{"source_ip": `"lambda.example"`}, nil, func(r neutral.Record) bool { return r.SourceIP == "" && r.SourceService == "lambda.example" }},
		{"object as text", map[string]string{"session": "record.o"}, events.ErrSchema, nil},
		{"unknown outcome", map[string]string{"outcome": "record.s"}, events.ErrSchema, nil},
		{"missing identity", map[string]string{"identity": "record.none"}, events.ErrSchema, nil},
		{"missing time", map[string]string{"time": "record.none"}, events.ErrSchema, nil},
		{"text that is no time", map[string]string{"time": "record.s"}, events.ErrSchema, nil},
		{"year 1970", map[string]string{"time": "1"}, neutral.ErrTime, nil},
		{"error at run time", map[string]string{"count": "1 / int(record.n - 12.0)"}, events.ErrSchema, nil},
		{"too many steps", map[string]string{"interactive": deep}, events.ErrSchema, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, err := set(t, minimal(tt.fields)).Read([]byte(base), neutral.Context{Tenant: "acme"})
			if !errors.Is(err, tt.err) || (tt.err == nil) != (err == nil) {
				t.Fatalf("error is %v, want %v", err, tt.err)
			}
			if tt.check != nil && !tt.check(r) {
				t.Errorf("record is %+v", r)
			}
		})
	}
}

// TestFirstMatchCounts tries mappings in order.
func TestFirstMatchCounts(t *testing.T) {
	a, b := minimal(map[string]string{"action": `"first"`}), minimal(map[string]string{"action": `"second"`})
	a.Match, b.Match = `record.kind == "a"`, `"kind" in record`
	s := set(t, a, b)
	for body, want := range map[string]string{
		`{"t":"2026-03-02T08:00:00Z","who":"x","kind":"a"}`: "first",
		`{"t":"2026-03-02T08:00:00Z","who":"x","kind":"b"}`: "second",
		`{"t":"2026-03-02T08:00:00Z","who":"x"}`:            "",
	} {
		r, err := s.Read([]byte(body), neutral.Context{})
		if r.Action != want || (want == "") != errors.Is(err, ErrNoMatch) {
			t.Errorf("%s: action %q, error %v", body, r.Action, err)
		}
	}
}

// TestCompileRefuses says what is wrong with a mapping before any record arrives.
func TestCompileRefuses(t *testing.T) {
	noTime := minimal(nil)
	delete(noTime.Fields, "time")
	wrongMatch := minimal(nil)
	wrongMatch.Match = `"yes"`
	wrongForm := minimal(nil)
	wrongForm.Form = "guess"
	for name, tt := range map[string]struct {
		m    Mapping
		want []string
	}{
		"syntax":         {minimal(map[string]string{"owner": "record."}), []string{`mapping "m"`, "field owner", "Syntax error"}},
		"unknown name":   {minimal(map[string]string{"owner": "rekord.x"}), []string{"undeclared reference to 'rekord'"}},
		"type":           {minimal(map[string]string{"owner": "true"}), []string{"gives bool, want string"}},
		"type of a list": {minimal(map[string]string{"scopes": "1"}), []string{"gives int, want list"}},
		"unknown field":  {minimal(map[string]string{"ip": "record.x"}), []string{"no such field", "source_ip"}},
		"needed field":   {noTime, []string{"field time", "is missing"}},
		"match":          {wrongMatch, []string{"match", "gives string, want bool"}},
		"form":           {wrongForm, []string{"form", "tool_called"}},
		"long":           {minimal(map[string]string{"owner": `"` + strings.Repeat("x", maxSource) + `"`}), []string{"at most 4096"}},
	} {
		_, err := Compile([]Mapping{tt.m}, hash)
		if err == nil {
			t.Errorf("%s: compiled", name)
			continue
		}
		for _, w := range tt.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error %q lacks %q", name, err, w)
			}
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(response))
	f.Add([]byte(`{"type":"response","time":1,"auth":[],"request":{"operation":{},"data":"{}"}}`))
	s, err := Compile([]Mapping{vault()}, hash)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := s.Read(raw, neutral.Context{Tenant: "acme"})
		if err != nil {
			if events.Code(err) == "internal" && !errors.Is(err, ErrNoMatch) && !errors.Is(err, neutral.ErrTime) {
				t.Fatalf("error without a name: %v", err)
			}
			return
		}
		if _, err := r.Event("acme", r.Time); err != nil && events.Code(err) == "internal" {
			t.Fatalf("error without a name: %v", err)
		}
	})
}
