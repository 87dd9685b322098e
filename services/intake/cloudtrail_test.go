package intake

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/sample"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
)

func record(id, more string) string {
	return fmt.Sprintf(`{"eventID":%q,"eventTime":"2026-01-02T03:04:05Z","eventSource":"s3.amazonaws.com","eventName":"GetObject","awsRegion":"eu-west-1",`+
		`"recipientAccountId":"111122223333","sourceIPAddress":"203.0.113.7","userIdentity":{"type":"IAMUser","accountId":"111122223333",`+
		`"arn":"arn:aws:iam::111122223333:user/ci","accessKeyId":"AKIAEXAMPLE"}%s}`, id, more)
}

func pack(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	if _, err := z.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

var plainJSON = map[string]string{"Content-Type": "application/json"}

// TestSample posts every file of the sample as it is, twice.
func TestSample(t *testing.T) {
	w := newWorld(t)
	files, err := fs.Glob(sample.FS, "*.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) != 35 {
		t.Errorf("the sample has %d files, want 35", len(files))
	}
	for round := range 2 {
		accepted := 0
		for _, name := range files {
			body, err := fs.ReadFile(sample.FS, name)
			if err != nil {
				t.Fatal(err)
			}
			r := w.post("/v1/cloudtrail?tenant=acme", w.operator(), plainJSON, body).result(t)
			for _, x := range r.Refused {
				t.Errorf("%s: %+v", name, x)
			}
			accepted += r.Accepted
		}
		if accepted != 310 {
			t.Errorf("round %d: accepted %d, want 310", round, accepted)
		}
	}
	stored := w.stored()
	if len(stored) != 310 {
		t.Errorf("%d events are stored, want 310", len(stored))
	}
	types := map[string]int{}
	for _, e := range stored {
		types[e.Type()]++
		if events.Tenant(e) != "acme" || !strings.HasPrefix(e.Source(), "aws:cloudtrail:") {
			t.Errorf("stored %s", e)
		}
	}
	if types[events.TypeTokenExchanged] != 13 || types[events.TypeAPICalled] != 297 {
		t.Errorf("types are %v", types)
	}
}

func TestShapesOfRecordFiles(t *testing.T) {
	w := newWorld(t)
	a, b := record("a", ""), record("b", "")
	tests := []struct {
		name   string
		header map[string]string
		body   []byte
	}{
		{"Records", plainJSON, []byte(`{"Records":[` + a + `,` + b + `]}`)},
		{"Records after other members", plainJSON, []byte(`{"x":{"Records":[]},"Records":[` + a + `,` + b + `]}`)},
		{"array", plainJSON, []byte("[" + a + "," + b + "]")},
		{"lines", map[string]string{"Content-Type": "application/x-ndjson"}, []byte(a + "\n" + b + "\n")},
		{"gzip by its first bytes", map[string]string{"Content-Type": "application/gzip"}, pack(t, []byte("["+a+","+b+"]"))},
		{"gzip by header", map[string]string{"Content-Type": "application/json", "Content-Encoding": "gzip"}, pack(t, []byte("["+a+","+b+"]"))},
		{"two packed files", plainJSON, append(pack(t, []byte("["+a+"]")), pack(t, []byte("["+b+"]"))...)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if r := w.post("/v1/cloudtrail", w.acme(), tt.header, tt.body).result(t); r.Accepted != 2 || len(r.Refused) != 0 {
				t.Errorf("result is %+v", r)
			}
		})
	}
	if n := len(w.stored()); n != 2 {
		t.Errorf("%d events are stored, want 2", n)
	}
}

func TestBadRecordFiles(t *testing.T) {
	const limit = 300_000
	w := newWorld(t, func(c *config.Config) { c.Intake.MaxBody = limit })
	good := pack(t, []byte("["+record("1", "")+"]"))
	flipped := bytes.Clone(good)
	flipped[len(flipped)-6] ^= 0xff // in the checksum
	tests := []struct {
		name   string
		header map[string]string
		body   []byte
		status int
		code   string
	}{
		{"gzip bomb", plainJSON, pack(t, make([]byte, 200*limit)), 413, "too_large"},
		{"gzip bomb of records", plainJSON, pack(t, []byte("["+strings.Repeat(record("1", "")+",", 2000)+"{}]")), 413, "too_large"},
		{"large body", plainJSON, []byte(`[` + record("1", `,"requestParameters":{"x":"`+strings.Repeat("x", limit)+`"}`) + `]`), 413, "too_large"},
		{"corrupt checksum", plainJSON, flipped, 400, "bad_encoding"},
		{"corrupt data", plainJSON, append(bytes.Clone(good[:20]), bytes.Repeat([]byte{0xaa}, 40)...), 400, "bad_encoding"},
		{"cut-off gzip", plainJSON, good[:len(good)-12], 400, "bad_encoding"},
		{"gzip header only", plainJSON, good[:5], 400, "bad_encoding"},
		{"garbage after gzip", plainJSON, append(bytes.Clone(good), "garbage"...), 400, "bad_encoding"},
		{"gzip in gzip", plainJSON, pack(t, good), 400, "malformed_json"},
		{"cut-off JSON", plainJSON, []byte(`{"Records":[` + record("1", "") + `,`), 400, "malformed_json"},
		{"cut-off record", plainJSON, []byte(record("1", "")[:100]), 400, "malformed_json"},
		{"empty", plainJSON, nil, 400, "malformed_json"},
		{"number", plainJSON, []byte("7"), 400, "malformed_json"},
		{"Records is an object", plainJSON, []byte(`{"Records":{}}`), 400, "malformed_json"},
		{"garbage after records", plainJSON, []byte("[" + record("1", "") + "] x"), 400, "malformed_json"},
		{"too many", plainJSON, []byte("[" + strings.Repeat("0,", maxItems) + "0]"), 413, "too_many"},
		{"content type", map[string]string{"Content-Type": "text/csv"}, []byte("[]"), 415, "wrong_content_type"},
		{"no content type", nil, []byte("[]"), 415, "wrong_content_type"},
		{"two content types", map[string]string{"Content-Type": "application/json\ntext/csv"}, []byte("[]"), 400, "doubled_header"},
		{"two encodings", map[string]string{"Content-Type": "application/json", "Content-Encoding": "gzip\nidentity"}, good, 400, "doubled_header"},
	}
	for i, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := w.post("/v1/cloudtrail", w.acme(), tt.header, tt.body)
			if got := a.code(t); got != tt.code || a.status != tt.status {
				t.Errorf("answer is %d %s (%s), want %d %s", a.status, got, a.body, tt.status, tt.code)
			}
			if dead := w.dead(); len(dead) != i+1 || dead[i].Code != tt.code {
				t.Errorf("dead letters are %d, want %d with code %s", len(dead), i+1, tt.code)
			}
		})
	}
	if n := len(w.stored()); n != 0 {
		t.Errorf("%d events are stored", n)
	}
}

func TestBadRecords(t *testing.T) {
	w := newWorld(t)
	future := time.Now().Add(time.Hour).UTC().Format(time.RFC3339)
	change := func(old, replacement string) string { return strings.Replace(record("1", ""), old, replacement, 1) }
	records := []struct{ raw, code string }{
		{record("good", ""), ""},
		{change(`"eventID":"1",`, ``), "schema_violation"},
		{change(`"eventID":"1"`, `"eventID":""`), "schema_violation"},
		{change(`"eventID":"1"`, `"eventID":7`), "schema_violation"},
		{change(`"eventID":"1"`, `"eventID":"ü"`), "invalid_envelope"},
		{change(`2026-01-02T03:04:05Z`, `yesterday`), "schema_violation"},
		{change(`2026-01-02T03:04:05Z`, `2026-13-02T03:04:05Z`), "schema_violation"},
		{change(`2026-01-02T03:04:05Z`, `0001-01-01T00:00:00Z`), "implausible_time"},
		{change(`2026-01-02T03:04:05Z`, `1970-01-01T00:00:00Z`), "implausible_time"},
		{change(`2026-01-02T03:04:05Z`, `2100-01-01T00:00:00Z`), "clock_skew"},
		{change(`2026-01-02T03:04:05Z`, future), "clock_skew"},
		{change(`"eventName":"GetObject",`, ``), "schema_violation"},
		{change(`"eventSource":"s3.amazonaws.com",`, ``), "schema_violation"},
		{change(`"arn":"arn:aws:iam::111122223333:user/ci"`, `"x":1`), "schema_violation"},
		{change(`"userIdentity":{`, `"userIdentity":7,"x":{`), "schema_violation"},
		{change(`"awsRegion"`, `"eventID":"2","awsRegion"`), "duplicate_member"},
		{record("1", `,"requestParameters":{"a":1,"a":2}`), "duplicate_member"},
		{change(`us`, "\xff"), "malformed_json"},
		{`7`, "schema_violation"},
		{`null`, "schema_violation"},
		{record("1", `,"requestParameters":{"x":"`+strings.Repeat("x", 1<<20)+`"}`), "too_large"},
		{record("late", ""), ""},
	}
	var raw []string
	for _, r := range records {
		raw = append(raw, r.raw)
	}
	r := w.post("/v1/cloudtrail", w.acme(), plainJSON, []byte("["+strings.Join(raw, ",")+"]")).result(t)
	got := map[int]Refusal{}
	for _, x := range r.Refused {
		got[x.Index] = x
	}
	for i, want := range records {
		if x := got[i]; x.Code != want.code {
			t.Errorf("record %d: refusal is %+v, want %q", i, x, want.code)
		}
		if len(got[i].Reason) > 600 {
			t.Errorf("record %d: the reason has %d characters", i, len(got[i].Reason))
		}
	}
	if r.Accepted != 2 || len(w.stored()) != 2 || len(w.dead()) != len(records)-2 {
		t.Errorf("accepted %d, stored %d, dead %d of %d", r.Accepted, len(w.stored()), len(w.dead()), len(records))
	}
}
