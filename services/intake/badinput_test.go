package intake

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/services/intake/adapter"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
)

// minimal is the smallest record of each source: its id, its time, and further members.
var minimal = map[string]func(id string, at time.Time, more string) string{
	"cloudtrail": func(id string, at time.Time, more string) string {
		return strings.Replace(record(id, more), "2026-01-02T03:04:05Z", stamp(at), 1)
	},
	"kubernetes": func(id string, at time.Time, more string) string {
		return fmt.Sprintf(`{"auditID":%q,"requestReceivedTimestamp":%q,"verb":"get","user":{"username":"u"},"objectRef":{"resource":"pods"}%s}`, id, stamp(at), more)
	},
	"gcp": func(id string, at time.Time, more string) string {
		return fmt.Sprintf(`{"insertId":%q,"timestamp":%q,"protoPayload":{"serviceName":"s","methodName":"m","authenticationInfo":{"principalEmail":"u@x.example"}}%s}`, id, stamp(at), more)
	},
	"azure": func(id string, at time.Time, more string) string {
		return fmt.Sprintf(`{"eventDataId":%q,"time":%q,"operationName":"Microsoft.Storage/x/read","caller":"u","resultType":"Success"%s}`, id, stamp(at), more)
	},
	"github": func(id string, at time.Time, more string) string {
		return fmt.Sprintf(`{"_document_id":%q,"@timestamp":%d,"action":"git.clone","actor":"u"%s}`, id, at.UnixMilli(), more)
	},
	"okta": func(id string, at time.Time, more string) string {
		return fmt.Sprintf(`{"uuid":%q,"published":%q,"eventType":"x.y","actor":{"id":"u"}%s}`, id, stamp(at), more)
	},
	"openai": func(id string, at time.Time, more string) string {
		return fmt.Sprintf(`{"id":%q,"effective_at":%d,"type":"x.y","actor":{"api_key":{"id":"k"}}%s}`, id, at.Unix(), more)
	},
	"anthropic": func(id string, at time.Time, more string) string {
		return fmt.Sprintf(`{"id":%q,"created_at":%q,"type":"x_y","actor":{"api_key_id":"k"}%s}`, id, stamp(at), more)
	},
	"mapped": func(id string, at time.Time, more string) string {
		return fmt.Sprintf(`{"id":%q,"t":%q,"who":"u"%s}`, id, stamp(at), more)
	},
}

func stamp(at time.Time) string { return at.UTC().Format(time.RFC3339) }

func withMapping(c *config.Config) {
	c.Intake.Mappings = []config.Mapping{{Name: "any", Match: `"id" in record`, Fields: map[string]string{"id": "record.id", "time": "record.t", "identity": "record.who",
		"action": `"a"`, "destination": `"d"`}}}
}

// TestBadInput sends each adapter what breaks readers, and looks at the answer, at the
// counter and at what is stored.
func TestBadInput(t *testing.T) {
	const limit = 24 << 20
	w := newWorld(t, withMapping, func(c *config.Config) { c.Intake.MaxBody = limit })
	now := time.Now().Add(-time.Minute)
	names := []string{adapter.MappedName}
	for _, a := range adapter.Table() {
		if a.Name != "traces" { // has its own shapes and tests
			names = append(names, a.Name)
		}
	}
	bomb := pack(t, bytes.Repeat([]byte(" "), limit+1))
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			create, ok := minimal[name]
			if !ok {
				t.Fatal("there is no minimal record of this source")
			}
			path, before := "/v1/"+name, len(w.stored())
			records := []struct{ raw, code string }{
				{create("good", now, ""), ""},
				{create("good", now, ""), ""}, // a second copy
				{create("old", time.Unix(1000, 0), ""), "implausible_time"},
				{create("far", time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), ""), "clock_skew"},
				{create("twice", now, `,"x":1,"x":2`), "duplicate_member"},
				{create("large", now, `,"x":"`+strings.Repeat("x", 10<<20)+`"`), "too_large"},
				{`7`, "schema_violation"},
				{create("last", now, ""), ""},
			}
			var raw []string
			for _, r := range records {
				raw = append(raw, r.raw)
			}
			res := w.post(path, w.acme(), plainJSON, []byte("["+strings.Join(raw, ",")+"]")).result(t)
			got := map[int]Refusal{}
			for _, x := range res.Refused {
				got[x.Index] = x
				if len(x.Reason) < 10 || len(x.Reason) > 600 {
					t.Errorf("the reason of record %d has %d characters", x.Index, len(x.Reason))
				}
			}
			for i, r := range records {
				if got[i].Code != r.code {
					t.Errorf("record %d: refusal is %+v, want code %q", i, got[i], r.code)
				}
				if n := w.counted(name, r.code); r.code != "" && n != 1 {
					t.Errorf("%s was counted %d times", r.code, n)
				}
			}
			if n := len(w.stored()) - before; n != 2 || res.Accepted != 3 {
				t.Errorf("accepted %d, stored %d, want 3 and 2: one came twice", res.Accepted, n)
			}
			missing := `{"some":"record"}`
			if res := w.post(path, w.acme(), plainJSON, []byte(missing)).result(t); res.Accepted != 0 || len(res.Refused)+res.Skipped != 1 {
				t.Errorf("a record without anything: %+v", res)
			}
			file := pack(t, []byte(records[0].raw))
			for _, tt := range []struct {
				name string
				body []byte
				code string
			}{
				{"corrupt gz", append(bytes.Clone(file[:12]), bytes.Repeat([]byte{0xaa}, 40)...), "bad_encoding"},
				{"cut-off gz", file[:len(file)-9], "bad_encoding"},
				{"gzip bomb", bomb, "too_large"},
				{"truncated JSON", []byte(records[0].raw[:30]), "malformed_json"},
				{"truncated list", []byte("[" + records[0].raw + ","), "malformed_json"},
				{"empty", nil, "malformed_json"},
			} {
				was := w.counted(name, tt.code)
				if a := w.post(path, w.acme(), plainJSON, tt.body); a.code(t) != tt.code {
					t.Errorf("%s: answer is %d %s, want %s", tt.name, a.status, a.body, tt.code)
				}
				if n := w.counted(name, tt.code) - was; n != 1 {
					t.Errorf("%s was counted %d times", tt.name, n)
				}
			}
		})
	}
}

// TestObjectNotFetched sends what only names a file of records.
func TestObjectNotFetched(t *testing.T) {
	w := newWorld(t)
	s3 := `{"Records":[{"eventVersion":"2.1","eventSource":"aws:s3","eventName":"ObjectCreated:Put","s3":{"bucket":{"name":"trail"},"object":{"key":"AWSLogs/1/x.json.gz"}}}]}`
	for name, body := range map[string]string{
		"S3 event":                s3,
		"S3 event in SNS":         fmt.Sprintf(`{"Type":"Notification","TopicArn":"arn:x","Message":%q}`, s3),
		"S3 event in SNS in SQS":  fmt.Sprintf(`{"Records":[{"eventSource":"aws:sqs","body":%q}]}`, fmt.Sprintf(`{"Type":"Notification","Message":%q}`, s3)),
		"CloudTrail notification": `{"s3Bucket":"trail","s3ObjectKey":["AWSLogs/1/x.json.gz"]}`,
		"EventBridge of S3":       `{"source":"aws.s3","detail-type":"Object Created","detail":{"bucket":{"name":"trail"},"object":{"key":"AWSLogs/1/x.json.gz"}}}`,
	} {
		r := w.post("/v1/cloudtrail", w.acme(), plainJSON, []byte(body)).result(t)
		if len(r.Refused) != 1 || r.Refused[0].Code != "object_not_fetched" || !strings.Contains(r.Refused[0].Reason, "AWSLogs/1/x.json.gz") {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if n := w.counted("cloudtrail", "object_not_fetched"); n != 5 {
		t.Errorf("counted %d, want 5", n)
	}
}

// TestWrappedRecords sends records in the wrappers of delivery services.
func TestWrappedRecords(t *testing.T) {
	w := newWorld(t)
	file := fmt.Sprintf(`{"Records":[%s]}`, record("a", ""))
	for name, body := range map[string]string{
		"SNS":             fmt.Sprintf(`{"Type":"Notification","TopicArn":"arn:x","Message":%q}`, file),
		"Lambda's SNS":    fmt.Sprintf(`{"Records":[{"EventSource":"aws:sns","Sns":{"Type":"Notification","Message":%q}}]}`, file),
		"SQS":             fmt.Sprintf(`{"Records":[{"eventSource":"aws:sqs","body":%q}]}`, file),
		"EventBridge":     fmt.Sprintf(`{"id":"x","detail-type":"AWS API Call via CloudTrail","detail":%s}`, record("a", "")),
		"CloudWatch Logs": fmt.Sprintf(`{"messageType":"DATA_MESSAGE","logEvents":[{"id":"1","message":%q}]}`, record("a", "")),
	} {
		if r := w.post("/v1/cloudtrail", w.acme(), plainJSON, []byte(body)).result(t); r.Accepted != 1 || len(r.Refused) != 0 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if n := len(w.stored()); n != 1 {
		t.Errorf("%d events are stored, want 1", n)
	}
	pod := minimal["kubernetes"]("k", time.Now(), "")
	if r := w.post("/v1/kubernetes", w.acme(), plainJSON, fmt.Appendf(nil, `{"messageType":"DATA_MESSAGE","logEvents":[{"id":"1","message":%q},{"id":"2","message":%q}]}`, pod, pod)).result(t); r.Accepted != 2 {
		t.Errorf("EKS in CloudWatch Logs: %+v", r)
	}
	for name, body := range map[string]string{
		"Pub/Sub without data": `{"message":{"data":"%%"},"subscription":"s"}`,
		"Pub/Sub of no JSON":   `{"message":{"data":"eA=="},"subscription":"s"}`,
	} {
		if a := w.post("/v1/gcp", w.acme(), plainJSON, []byte(body)); a.code(t) != "malformed_json" {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}

// TestInstance names the cluster that records do not name.
func TestInstance(t *testing.T) {
	w := newWorld(t)
	body := []byte(minimal["kubernetes"]("a", time.Now(), ""))
	for _, c := range []string{"prod", "stage"} { // the same id in two clusters is two events
		if r := w.post("/v1/kubernetes?instance="+c, w.acme(), plainJSON, body).result(t); r.Accepted != 1 {
			t.Errorf("%s: %+v", c, r)
		}
	}
	stored := w.stored()
	if len(stored) != 2 || stored[0].Source() != "k8s:audit:prod" || stored[1].Source() != "k8s:audit:stage" {
		t.Errorf("stored %v", stored)
	}
	if a := w.post("/v1/kubernetes?instance="+strings.Repeat("x", 200), w.acme(), plainJSON, body); a.code(t) != "invalid_envelope" {
		t.Errorf("a long instance: %d %s", a.status, a.body)
	}
}
