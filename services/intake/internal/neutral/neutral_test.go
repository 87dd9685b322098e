package neutral

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lanyard-nhi/lanyard/events"
)

var hash = NewHasher([]byte("key"))

// TestReduce keeps of arguments where they go, and nothing that is secret or long.
func TestReduce(t *testing.T) {
	h := hash.Of
	for args, want := range map[string]struct {
		dest   []string
		object string
	}{
		`{"recipients":["Jo@Example.com","b@x.example"],"subject":"hi","body":"see a@b.example"}`: {dest: []string{"jo@example.com", "b@x.example"}},
		`{"iban":"DE89370400440532013000","amount":5}`:                                            {dest: []string{"DE89370400440532013000"}},
		`{"url":"https://u:p@X.example/a/b?token=1#f"}`:                                           {dest: []string{"https://x.example/a/b"}},
		`{"note":"https://evil.example/x"}`:                                                       {dest: []string{"https://evil.example/x"}},
		`{"query":"SELECT 1","limit":10,"flag":true,"none":null}`:                                 {},
		`{"channel":"general","text":"hello"}`:                                                    {dest: []string{"general"}},
		`{"password":"a@b.example","api_key":"x","userToken":"y"}`:                                {},
		`{"path":"sk-abcdefghijklmnop"}`:                                                          {dest: []string{h("sk-abcdefghijklmnop")}},
		`{"user":"9f8a7b6c5d4e3f2a1b0c9d8e"}`:                                                     {dest: []string{h("9f8a7b6c5d4e3f2a1b0c9d8e")}},
		`{"to":"` + strings.Repeat("x ", 200) + `"}`:                                              {dest: []string{h(strings.TrimSpace(strings.Repeat("x ", 200)))}},
		`{"file_id":"13"}`:                         {object: "file_id=13"},
		`{"a":{"b":[{"host":"db.internal"}]}}`:     {dest: []string{"db.internal"}},
		`{"hostName":"h1","target_path":"/etc/x"}`: {dest: []string{"h1", "/etc/x"}},
		`{"to":"x","to":"y"}`:                      {}, // doubled: only a hash
		`not JSON`:                                 {},
		`"{\"to\":\"a@b.example\"}"`:               {dest: []string{"a@b.example"}},
		`{"to":["a","a","b"]}`:                     {dest: []string{"a", "b"}},
	} {
		got := hash.Reduce([]byte(args))
		if d := cmp.Diff(want.dest, got.Destinations); d != "" || got.Object != want.object {
			t.Errorf("%s: object %q, %s", args, got.Object, d)
		}
		if !strings.HasPrefix(got.Hash, "h:") {
			t.Errorf("%s: hash is %q", args, got.Hash)
		}
	}
	a, b := hash.Reduce([]byte(`{"a":1,"b":"x"}`)), hash.Reduce([]byte("{ \"b\":\"x\",\n\"a\":1.0}"))
	if a.Hash != b.Hash {
		t.Error("the same arguments in another order have another hash")
	}
	if NewHasher([]byte("other")).Reduce([]byte(`{"a":1,"b":"x"}`)).Hash == a.Hash {
		t.Error("the hash does not depend on the key")
	}
	if got := hash.Reduce(nil); got.Hash != "" {
		t.Errorf("no arguments have the hash %q", got.Hash)
	}
}

func TestTime(t *testing.T) {
	for text, want := range map[string]string{
		"2026-03-02T08:00:00Z": "2026-03-02T08:00:00Z", "2026-03-02 08:00:00.5": "2026-03-02T08:00:00.5Z",
		"1772438400": "2026-03-02T08:00:00Z", "1772438400123": "2026-03-02T08:00:00.123Z",
		"1772438400123456": "2026-03-02T08:00:00.123456Z", "1772438400000000000": "2026-03-02T08:00:00Z", " 2026-03-02T08:00:00+01:00 ": "2026-03-02T07:00:00Z",
	} {
		if got, err := Time("t", text); err != nil || got.Format(time.RFC3339Nano) != want {
			t.Errorf("%q: %s, %v", text, got.Format(time.RFC3339Nano), err)
		}
	}
	for text, want := range map[string]error{"": events.ErrSchema, "soon": events.ErrSchema, "1970-01-01T00:00:00Z": ErrTime, "0": events.ErrSchema, "12345": ErrTime,
		"0001-01-01T00:00:00Z": ErrTime, "NaN": events.ErrSchema, "1e300": ErrTime, "-5": events.ErrSchema} {
		if got, err := Time("t", text); !errors.Is(err, want) {
			t.Errorf("%q: %s, error %v, want %v", text, got, err, want)
		}
	}
	d := Doc{"a": map[string]any{"t": "2026-03-02T08:00:00Z"}, "n": 1772438400.0}
	if got, err := d.Time([]string{"none"}, []string{"a", "t"}); err != nil || got.Year() != 2026 {
		t.Errorf("second path: %s, %v", got, err)
	}
	if _, err := d.Time([]string{"none"}); !errors.Is(err, events.ErrSchema) || !strings.Contains(err.Error(), "none is missing") {
		t.Errorf("no path: %v", err)
	}
}

func TestDoc(t *testing.T) {
	d, err := Parse([]byte(`{"Outer":{"lower":{"x":[{"y":7}]}},"actor":"null","n":1.5,"b":true,"s":" a ","list":[{"k":1},2]}`))
	if err != nil {
		t.Fatal(err)
	}
	for want, got := range map[string]string{"7": d.Text("Outer", "Lower", "x", "0", "y"), "": d.Text("actor"), "1.5": d.Text("n"), "true": d.Text("b"), "a": d.Text("s")} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if d.Text("Outer", "x", "0") != "" || d.Text("s", "deeper") != "" || len(d.Objects("list")) != 1 || d.Number("n") != 0 || d.Object("none").Text("x") != "" {
		t.Error("a path that leads nowhere gave something")
	}
	for body, want := range map[string]error{`[]`: events.ErrSchema, `null`: events.ErrSchema, `{"a":1,"a":2}`: events.ErrDuplicateMember, `{`: events.ErrMalformed,
		`{"x":"` + strings.Repeat("x", MaxRecord) + `"}`: events.ErrTooLarge} {
		if _, err := Parse([]byte(body)); !errors.Is(err, want) {
			t.Errorf("%.20s: error %v, want %v", body, err, want)
		}
	}
}

// TestTrim gives a record whose every text is too long or odd: the event must be valid.
func TestTrim(t *testing.T) {
	long, odd := strings.Repeat("ä", 2000), "\xff\x00 x"
	for _, s := range []string{long, odd, "\n"} {
		r := Record{ID: "1", Time: time.Unix(1_790_000_000, 0), Source: Source("x", s), Activity: events.Activity{Identity: "who" + s, IdentityTenant: s, Owner: s, Credential: s,
			CredentialVersion: s, JTI: s, Confirmation: s, Audience: []string{s, "", "a"}, Session: s, Delegation: []events.Party{{Tenant: "acme", Identity: s}, {Tenant: s, Identity: "x"}},
			DelegationDepth: 1 << 20, Scopes: []string{s, "a", "a", "b c"}, SourceASN: s, SourceCountry: s, SourceService: s, VPCEndpoint: s, UserAgent: s, TLSFingerprint: s,
			Workload: s, Tool: s, ToolArgsDest: make([]string, 100), ArgsHash: s, Task: s, Destination: "d" + s, Action: "a" + s, Resource: s, ResourceTenant: s, Target: s,
			MintedID: s, Outcome: events.OutcomeSuccess, Error: s, Bytes: -1, Count: 1 << 60, RawRef: s}}
		if _, err := r.Event("acme", time.Unix(1_790_000_001, 0)); err != nil {
			t.Errorf("%.5q: %v", s, err)
		}
	}
}

func TestFrom(t *testing.T) {
	for s, want := range map[string][2]string{"203.0.113.7": {"203.0.113.7", ""}, "203.0.113.7:443": {"203.0.113.7", ""}, "[2001:db8::1]:443": {"2001:db8::1", ""},
		"08.1.250.016": {"8.1.250.16", ""}, "lambda.amazonaws.com": {"", "lambda.amazonaws.com"}, "": {"", ""}, "fe80::1%eth0": {"fe80::1", ""}} {
		if a, svc := From(s); a != want[0] || svc != want[1] {
			t.Errorf("%q: %q, %q", s, a, svc)
		}
	}
}

func TestFamily(t *testing.T) {
	for agent, want := range map[string]string{"kubectl/v1.31.0 (linux)": "kubectl", "[S3Console/0.4, aws]": "S3Console", "AWS Internal": "AWS Internal", "": "", "/x": "/x"} {
		if got := Family(agent); got != want {
			t.Errorf("%q: %q", agent, got)
		}
	}
}
