package events

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/cloudevents/sdk-go/v2/event"
)

// base is a valid event that the tables below damage.
const base = `{"specversion":"1.0","id":"1","source":"/acme/shop","type":"dev.lanyard.owner.departed.v1",` +
	`"subject":"jane","time":"2026-11-24T10:00:00Z","tenant":"acme","partitionkey":"jane","data":{"owner":"jane"}}`

func with(old, replacement string) string { return strings.Replace(base, old, replacement, 1) }

// add appends members to the event.
func add(members string) string { return base[:len(base)-1] + "," + members + "}" }

func TestDecode(t *testing.T) {
	tests := []struct {
		name, raw, code string // code "": accepted
	}{
		{"valid", base, ""},
		{"white space", " \r\n\t" + base + "\n", ""},
		{"datacontenttype", add(`"datacontenttype":"application/json"`), ""},
		{"charset", add(`"datacontenttype":"application/json; charset=UTF-8"`), ""},
		{"null attribute is absent", add(`"causationid":null`), ""},
		{"boolean extension", add(`"sampled":true`), ""},
		{"integer extension", add(`"hops":-3`), ""},
		{"escaped name and value", with(`"id":"1"`, `"\u0069d":"\u0031"`), ""},
		{"data_base64 holds JSON", with(`"data":{"owner":"jane"}`, `"data_base64":"`+base64.StdEncoding.EncodeToString([]byte(`{"owner":"jane"}`))+`"`), ""},

		{"empty", "", "malformed_json"},
		{"not JSON", "hello", "malformed_json"},
		{"truncated", base[:len(base)-1], "malformed_json"},
		{"trailing value", base + base, "malformed_json"},
		{"trailing brace", base + "}", "malformed_json"},
		{"byte order mark", "\xef\xbb\xbf" + base, "malformed_json"},
		{"invalid UTF-8 in data", with(`{"owner":"jane"}`, "{\"owner\":\"ja\xffne\"}"), "malformed_json"},
		{"lone surrogate", with(`{"owner":"jane"}`, `{"owner":"\ud800"}`), "malformed_json"},
		{"comment", "/* */" + base, "malformed_json"},
		{"single quotes", strings.ReplaceAll(base, `"`, `'`), "malformed_json"},
		{"unescaped control character", with(`"id":"1"`, "\"id\":\"1\x01\""), "malformed_json"},
		{"NaN", with(`{"owner":"jane"}`, `{"owner":NaN}`), "malformed_json"},
		{"too deep", with(`{"owner":"jane"}`, strings.Repeat(`[`, 20000)+strings.Repeat(`]`, 20000)), "malformed_json"},

		{"array", "[" + base + "]", "invalid_envelope"},
		{"string", `"x"`, "invalid_envelope"},
		{"null", `null`, "invalid_envelope"},

		{"doubled id", add(`"id":"2"`), "duplicate_member"},
		{"doubled tenant", add(`"tenant":"globex"`), "duplicate_member"},
		{"doubled by escape", add(`"ten\u0061nt":"globex"`), "duplicate_member"},
		{"null then value", add(`"causationid":null,"causationid":"x"`), "duplicate_member"},
		{"case variant Tenant", add(`"Tenant":"globex"`), "duplicate_member"},
		{"case variant TenantId", add(`"TenantId":"globex"`), "duplicate_member"},
		{"case variant Data", add(`"Data":{}`), "duplicate_member"},
		{"doubled in data", with(`{"owner":"jane"}`, `{"owner":"jane","owner":"joe"}`), "duplicate_member"},
		{"doubled deep in data", with(`{"owner":"jane"}`, `{"owner":"jane","x":[{"a":1,"a":2}]}`), "duplicate_member"},
		{"doubled in data_base64", with(`"data":{"owner":"jane"}`, `"data_base64":"`+base64.StdEncoding.EncodeToString([]byte(`{"a":1,"a":2}`))+`"`), "duplicate_member"},

		{"specversion 0.3", with(`"1.0"`, `"0.3"`), "invalid_envelope"},
		{"specversion missing", with(`"specversion":"1.0",`, ``), "invalid_envelope"},
		{"specversion is a number", with(`"1.0"`, `1.0`), "invalid_envelope"},
		{"datacontentencoding", add(`"datacontentencoding":"base64"`), "invalid_envelope"},
		{"id missing", with(`"id":"1",`, ``), "invalid_envelope"},
		{"id empty", with(`"id":"1"`, `"id":""`), "invalid_envelope"},
		{"id blank", with(`"id":"1"`, `"id":" "`), "invalid_envelope"},
		{"id null", with(`"id":"1"`, `"id":null`), "invalid_envelope"},
		{"id is a number", with(`"id":"1"`, `"id":1`), "invalid_envelope"},
		{"id too long", with(`"id":"1"`, `"id":"`+strings.Repeat("x", 1025)+`"`), "invalid_envelope"},
		{"source missing", with(`"source":"/acme/shop",`, ``), "invalid_envelope"},
		{"source is no URI reference", with(`/acme/shop`, `http://[::1`), "invalid_envelope"},
		{"source not in normal form", with(`/acme/shop`, `HTTP://acme/shop`), "invalid_envelope"},
		{"source with a space", with(`/acme/shop`, `/acme/ shop`), "invalid_envelope"},
		{"subject missing", with(`"subject":"jane",`, ``), "invalid_envelope"},
		{"subject not ASCII", with(`"subject":"jane"`, `"subject":"jané"`), "invalid_envelope"},
		{"subject with a line break", with(`"subject":"jane"`, `"subject":"jane\nx"`), "invalid_envelope"},
		{"time missing", with(`"time":"2026-11-24T10:00:00Z",`, ``), "invalid_envelope"},
		{"time with a space", with(`24T10`, `24 10`), "invalid_envelope"},
		{"time with a comma", with(`10:00:00Z`, `10:00:00,5Z`), "invalid_envelope"},
		{"time zero", with(`2026-11-24T10:00:00Z`, `0001-01-01T00:00:00Z`), "invalid_envelope"},
		{"time before year 0 in UTC", with(`2026-11-24T10:00:00Z`, `0000-01-01T00:00:00+23:00`), "invalid_envelope"},
		{"tenant missing", with(`"tenant":"acme",`, ``), "invalid_envelope"},
		{"tenant is a number", with(`"tenant":"acme"`, `"tenant":7`), "invalid_envelope"},
		{"tenant malformed", with(`"tenant":"acme"`, `"tenant":"acme.globex"`), "invalid_tenant"},
		{"tenant wildcard", with(`"tenant":"acme"`, `"tenant":"*"`), "invalid_tenant"},
		{"extension name with a dash", add(`"trace-id":"1"`), "invalid_envelope"},
		{"extension name empty", add(`"":"1"`), "invalid_envelope"},
		{"extension name too long", add(`"` + strings.Repeat("a", 65) + `":"1"`), "invalid_envelope"},
		{"extension is an object", add(`"extra":{}`), "invalid_envelope"},
		{"extension is a fraction", add(`"extra":1.5`), "invalid_envelope"},
		{"extension beyond 32 bits", add(`"extra":2147483648`), "invalid_envelope"},
		{"too many extensions", add(manyExtensions(40)), "invalid_envelope"},
		{"dataschema is no URI", add(`"dataschema":"HTTPS://x"`), "invalid_envelope"},
		{"data missing", with(`,"data":{"owner":"jane"}`, ``), "invalid_envelope"},
		{"data null", with(`{"owner":"jane"}`, `null`), "invalid_envelope"},
		{"data is a string", with(`{"owner":"jane"}`, `"x"`), "invalid_envelope"},
		{"data twice", add(`"data_base64":"e30="`), "invalid_envelope"},
		{"data_base64 is not base64", with(`"data":{"owner":"jane"}`, `"data_base64":"e30"`), "invalid_envelope"},
		{"data_base64 not canonical", with(`"data":{"owner":"jane"}`, `"data_base64":"e31="`), "invalid_envelope"},
		{"data_base64 is not JSON", with(`"data":{"owner":"jane"}`, `"data_base64":"AAAA"`), "malformed_json"},

		{"content type", add(`"datacontenttype":"text/xml"`), "wrong_content_type"},
		{"charset Latin", add(`"datacontenttype":"application/json; charset=latin1"`), "wrong_content_type"},
		{"unknown type", with(`owner.departed.v1`, `owner.departed.v2`), "unknown_type"},
		{"foreign type", with(`dev.lanyard.owner.departed.v1`, `com.example.someevent`), "unknown_type"},
		{"too large", with(`"jane"}`, `"`+strings.Repeat("x", MaxSize)+`"}`), "too_large"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e, err := Decode([]byte(tt.raw))
			if tt.code == "" {
				if err != nil {
					t.Fatal(err)
				}
				if Tenant(e) != "acme" || e.ID() != "1" || string(e.Data()) != `{"owner":"jane"}` {
					t.Errorf("read %s", e)
				}
				return
			}
			if err == nil {
				t.Fatalf("accepted %s", tt.raw)
			}
			if got := Code(err); got != tt.code {
				t.Errorf("code is %s (%v), want %s", got, err, tt.code)
			}
			if len(err.Error()) > 400 {
				t.Errorf("the error has %d characters", len(err.Error()))
			}
		})
	}
}

func manyExtensions(n int) string {
	var b strings.Builder
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(`"ext` + string(rune('a'+i%26)) + strings.Repeat("z", i/26) + `":"1"`)
	}
	return b.String()
}

func TestDecodeKeepsItsOwnCopy(t *testing.T) {
	raw := []byte(base)
	e, err := Decode(raw)
	if err != nil {
		t.Fatal(err)
	}
	clear(raw)
	if e.Subject() != "jane" || string(e.Data()) != `{"owner":"jane"}` || Tenant(e) != "acme" {
		t.Error("the event changed with the buffer it was read from")
	}
}

func TestEncodeIsCanonical(t *testing.T) {
	e, err := Decode([]byte(add(`"zeta":"1","alpha":"a\"b\\c","dataschema":"https://lanyard.dev/schemas/owner.departed.v1.json","sampled":true,"hops":3`)))
	if err != nil {
		t.Fatal(err)
	}
	e.DataEncoded = []byte(` { "owner" : "\u006aane" } `)
	const want = `{"specversion":"1.0","id":"1","source":"/acme/shop","type":"dev.lanyard.owner.departed.v1","subject":"jane",` +
		`"time":"2026-11-24T10:00:00Z","dataschema":"https://lanyard.dev/schemas/owner.departed.v1.json",` +
		`"alpha":"a\"b\\c","hops":3,"partitionkey":"jane","sampled":true,"tenant":"acme","zeta":"1","data":{"owner":"jane"}}`
	got, err := Encode(e)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestEncodeRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Event)
		code   string
	}{
		{"no tenant", func(e *Event) { e.SetExtension(ExtTenant, nil) }, "invalid_envelope"},
		{"bad tenant", func(e *Event) { e.SetExtension(ExtTenant, "a.b") }, "invalid_tenant"},
		{"not ASCII", func(e *Event) { e.SetExtension("note", "é") }, "invalid_envelope"},
		{"specversion 0.3", func(e *Event) { e.SetSpecVersion("0.3") }, "invalid_envelope"},
		{"a setter failed", func(e *Event) { e.SetSource("http://[::1") }, "invalid_envelope"},
		{"unknown type", func(e *Event) { e.SetType("com.example") }, "unknown_type"},
		{"no data", func(e *Event) { e.DataEncoded = nil }, "malformed_json"},
		{"data not an object", func(e *Event) { e.DataEncoded = []byte(`[]`) }, "invalid_envelope"},
		{"doubled member in data", func(e *Event) { e.DataEncoded = []byte(`{"a":1,"a":1}`) }, "duplicate_member"},
		{"too large", func(e *Event) { e.DataEncoded = []byte(`{"a":"` + strings.Repeat("x", MaxSize) + `"}`) }, "too_large"},
		{"zero event", func(e *Event) { *e = Event{} }, "invalid_envelope"},
		{"no context data", func(e *Event) { *e = event.New() }, "invalid_envelope"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := sample(t)
			tt.change(&e)
			if _, err := Encode(e); err == nil || Code(err) != tt.code {
				t.Errorf("error is %v, want code %s", err, tt.code)
			}
		})
	}
}

func TestReceive(t *testing.T) {
	bare := `{"specversion":"1.0","id":"1","source":"/acme/shop","type":"dev.lanyard.owner.departed.v1","time":"2026-11-24T10:00:00Z","data":{"owner":"jane"}}`
	e, err := Receive([]byte(bare), "acme")
	if err != nil {
		t.Fatal(err)
	}
	if err := Validate(e); err != nil {
		t.Errorf("what is filled in is not valid: %v", err)
	}
	if Tenant(e) != "acme" || e.Subject() != "jane" || Extension(e, ExtPartitionKey) != "jane" || Extension(e, ExtCorrelation) != "1" {
		t.Errorf("read %s", e)
	}
	tests := []struct {
		name, raw, tenant, code string
	}{
		{"own tenant", base, "acme", ""},
		{"wrong tenant", base, "globex", "wrong_tenant"},
		{"empty tenant", bare, "", "invalid_tenant"},
		{"reserved source", with(`/acme/shop`, `/lanyard/revocation`), "acme", "invalid_envelope"},
		{"other subject", with(`"subject":"jane"`, `"subject":"joe"`), "acme", "invalid_envelope"},
		{"other partition key", with(`"partitionkey":"jane"`, `"partitionkey":"joe"`), "acme", "invalid_envelope"},
		{"other dataschema", add(`"dataschema":"https://lanyard.dev/schemas/x.json"`), "acme", "invalid_envelope"},
		{"schema violation", with(`{"owner":"jane"}`, `{"owner":"jane","x":1}`), "acme", "schema_violation"},
		{"case variant in data", with(`{"owner":"jane"}`, `{"owner":"jane","Owner":"joe"}`), "acme", "schema_violation"},
		{"no time", strings.Replace(bare, `"time":"2026-11-24T10:00:00Z",`, "", 1), "acme", "invalid_envelope"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Receive([]byte(tt.raw), tt.tenant)
			if got := Code(err); (tt.code == "") != (err == nil) || err != nil && got != tt.code {
				t.Errorf("error is %v, want code %q", err, tt.code)
			}
		})
	}
}
