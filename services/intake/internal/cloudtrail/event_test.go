package cloudtrail

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/google/go-cmp/cmp"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/neutral"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/records"
)

// Event is the neutral event of a raw record.
func Event(raw []byte, tenant string, seen time.Time) (events.Event, error) {
	r, err := Read(raw, neutral.Context{Tenant: tenant})
	if err != nil {
		return events.Event{}, err
	}
	return r.Event(tenant, seen)
}

// Split finds the raw records of a body.
func Split(b []byte, limit int) ([]jsontext.Value, error) { return records.Split(b, limit, Shape) }

// merge lays b's members over a's.
func merge(a, b map[string]any) map[string]any {
	out := map[string]any{}
	for _, m := range []map[string]any{a, b} {
		for k, v := range m {
			out[k] = v
		}
	}
	return out
}

type m = map[string]any

func user() m {
	return m{"type": "IAMUser", "arn": "arn:aws:iam::111122223333:user/ci", "accountId": "111122223333", "accessKeyId": "AKIA1"}
}

func role(session string) m {
	return m{"type": "AssumedRole", "arn": "arn:aws:sts::111122223333:assumed-role/deploy/" + session, "accountId": "111122223333", "accessKeyId": "ASIA1",
		"sessionContext": m{"sessionIssuer": m{"type": "Role", "arn": "arn:aws:iam::111122223333:role/path/deploy", "accountId": "111122223333"}}}
}

func base() m {
	return m{"eventID": "e1", "eventTime": "2026-01-02T03:04:05Z", "eventSource": "s3.amazonaws.com", "eventName": "GetObject", "awsRegion": "eu-west-1",
		"recipientAccountId": "111122223333", "sourceIPAddress": "203.0.113.7", "userAgent": "Boto3/1.26 md/x", "userIdentity": user(), "readOnly": true}
}

// read makes the neutral event of a record.
func read(t testing.TB, record m) (events.Event, events.Activity) {
	t.Helper()
	raw, err := json.Marshal(record)
	if err != nil {
		t.Fatal(err)
	}
	e, err := Event(raw, "acme", time.Date(2026, 1, 2, 3, 10, 0, 0, time.UTC))
	if err != nil {
		t.Fatal(err)
	}
	var a events.Activity
	if err := json.Unmarshal(e.Data(), &a); err != nil {
		t.Fatal(err)
	}
	return e, a
}

func TestWholeEvent(t *testing.T) {
	e, a := read(t, merge(base(), m{"resources": []any{m{"type": "AWS::S3::Object", "ARN": "arn:aws:s3:::b/k"}, m{"type": "AWS::S3::Bucket", "ARN": "arn:aws:s3:::b", "accountId": "444455556666"}},
		"additionalEventData": m{"bytesTransferredIn": 10, "bytesTransferredOut": 1000}, "vpcEndpointId": "vpce-1"}))
	seen := time.Date(2026, 1, 2, 3, 10, 0, 0, time.UTC)
	want := events.Activity{Identity: "arn:aws:iam::111122223333:user/ci", IdentityKind: events.KindServiceAccount, IdentityTenant: "111122223333",
		Credential: "AKIA1", SourceIP: "203.0.113.7", VPCEndpoint: "vpce-1", UserAgent: "Boto3", Destination: "s3@eu-west-1", Action: "s3:GetObject",
		ActionClass: events.ClassRead, Resource: "arn:aws:s3:::b/k", ResourceTenant: "444455556666", Outcome: events.OutcomeSuccess, Bytes: 1010, ObservedTime: &seen}
	if d := cmp.Diff(want, a); d != "" {
		t.Error(d)
	}
	if e.ID() != "e1" || e.Source() != "aws:cloudtrail:111122223333" || e.Type() != events.TypeAPICalled || events.Tenant(e) != "acme" ||
		!e.Time().Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) || e.Subject() != want.Identity {
		t.Errorf("event is %s", e)
	}
}

// TestFields changes one thing of a record and looks at the fields it decides.
func TestFields(t *testing.T) {
	saml := m{"type": "SAMLUser", "identityProvider": "idp", "userName": "jane", "principalId": "p"}
	tests := []struct {
		name   string
		record m
		want   map[string]any // by Go field name
	}{
		// Who.
		{"role, not session", m{"userIdentity": role("run-17")}, m{"Identity": "arn:aws:iam::111122223333:role/path/deploy", "Session": "run-17", "Credential": "ASIA1"}},
		{"role without issuer", m{"userIdentity": m{"type": "AssumedRole", "arn": "arn:aws:sts::1:assumed-role/deploy/s"}}, m{"Identity": "arn:aws:iam::1:role/deploy"}},
		{"federated user", m{"userIdentity": merge(role("x"), m{"type": "FederatedUser", "arn": "arn:aws:sts::1:federated-user/bob"})}, m{"Identity": "arn:aws:iam::111122223333:role/path/deploy", "Session": ""}},
		{"AWS service", m{"userIdentity": m{"type": "AWSService", "invokedBy": "events.amazonaws.com"}, "sourceIPAddress": "events.amazonaws.com"}, m{"Identity": "events.amazonaws.com", "IdentityKind": events.KindWorkload, "SourceService": "events.amazonaws.com", "SourceIP": ""}},
		{"web identity", m{"userIdentity": m{"type": "WebIdentityUser", "identityProvider": "oidc.example", "userName": "repo:x"}}, m{"Identity": "oidc.example/repo:x", "IdentityKind": events.KindWorkload}},
		{"SAML user", m{"userIdentity": saml}, m{"Identity": "idp/jane", "IdentityKind": events.IdentityKind("")}},
		{"identity center", m{"userIdentity": m{"type": "IdentityCenterUser", "accountId": "111122223333", "onBehalfOf": m{"userId": "u-1"}}}, m{"Identity": "u-1", "Delegation": []events.Party{{Tenant: "111122223333", Identity: "u-1"}}}},
		{"root", m{"userIdentity": m{"type": "Root", "arn": "arn:aws:iam::1:root"}}, m{"Identity": "arn:aws:iam::1:root", "IdentityKind": events.IdentityKind("")}},
		{"unknown type", m{"userIdentity": m{"type": "Unknown", "principalId": "p-1"}}, m{"Identity": "p-1"}},
		{"not ASCII", m{"userIdentity": m{"type": "IAMUser", "arn": "arn:aws:iam::1:user/jürgen"}}, m{"Identity": "arn:aws:iam::1:user/j%C3%BCrgen"}},
		{"source identity", m{"userIdentity": merge(role("s"), m{"sessionContext": m{"sourceIdentity": "jane", "sessionIssuer": m{"arn": "arn:aws:iam::1:role/x"}}})}, m{"Delegation": []events.Party{{Tenant: "111122223333", Identity: "jane"}}}},

		// The traps.
		{"forward access session", m{"sourceIPAddress": "AWS Internal", "userAgent": "AWS Internal", "userIdentity": merge(role("s"), m{"invokedBy": "AWS Internal"})}, m{"SourceService": "AWS Internal", "SourceIP": "", "Interactive": false, "UserAgent": "AWS Internal"}},
		{"service name as address", m{"sourceIPAddress": "lambda.amazonaws.com"}, m{"SourceService": "lambda.amazonaws.com", "SourceIP": ""}},
		{"console's agent behind a service", m{"sourceIPAddress": "cloudformation.amazonaws.com", "userAgent": "console.amazonaws.com"}, m{"Interactive": false}},
		{"brackets", m{"userAgent": "[S3Console/0.4, aws-internal/3 aws-sdk-java/1.11]"}, m{"UserAgent": "S3Console"}},
		{"time with a space", m{"eventTime": "2026-01-02 03:04:05.250"}, m{}},
		{"digits of a session name", m{"userIdentity": role("aws-go-sdk-1722375070115152000")}, m{"Workload": "session-name:aws-go-sdk-#", "Session": "aws-go-sdk-1722375070115152000"}},
		{"enrichment", m{"p_log_type": "AWS.CloudTrail", "p_any_ip_addresses": []any{"1.2.3.4"}}, m{"SourceIP": "203.0.113.7"}},
		{"minted credential", m{"eventSource": "sts.amazonaws.com", "eventName": "AssumeRole", "requestParameters": m{"roleArn": "arn:aws:iam::444455556666:role/x"}, "responseElements": m{"credentials": m{"accessKeyId": "ASIA9"}}}, m{"MintedID": "ASIA9", "Target": "arn:aws:iam::444455556666:role/x", "ActionClass": events.ClassIAM, "Credential": "AKIA1"}},

		// Where from and with what.
		{"instance", m{"userIdentity": role("i-0abc123")}, m{"Workload": "ec2-role"}},
		{"person behind a role", m{"userIdentity": role("jane@example.com")}, m{"Workload": "", "Session": "jane@example.com"}},
		{"IPv6", m{"sourceIPAddress": "2001:DB8::1"}, m{"SourceIP": "2001:db8::1"}},
		{"leading zeros", m{"sourceIPAddress": "08.1.250.016"}, m{"SourceIP": "8.1.250.16"}},
		{"mapped", m{"sourceIPAddress": "::ffff:203.0.113.9"}, m{"SourceIP": "203.0.113.9"}},
		{"agent with a run id", m{"userAgent": "stratus-red-team_5c59eb79-6dac-405c-a4c4-e19aec03c666"}, m{"UserAgent": "stratus-red-team"}},
		{"console login", m{"eventSource": "signin.amazonaws.com", "eventName": "ConsoleLogin", "eventType": "AwsConsoleSignIn", "responseElements": m{"ConsoleLogin": "Success"}}, m{"Interactive": true, "Outcome": events.OutcomeSuccess}},
		{"console session", m{"sessionCredentialFromConsole": "true"}, m{"Interactive": true}},
		{"browser", m{"userAgent": "Mozilla/5.0 (X11)"}, m{"Interactive": true}},

		// What.
		{"Lambda's date", m{"eventSource": "lambda.amazonaws.com", "eventName": "UpdateFunctionCode20150331v2", "readOnly": false, "requestParameters": m{"functionName": "f"}}, m{"Action": "lambda:UpdateFunctionCode", "Resource": "functionName=f", "ActionClass": events.ClassWrite}},
		{"secret", m{"eventSource": "secretsmanager.amazonaws.com", "eventName": "GetSecretValue", "requestParameters": m{"secretId": "s"}}, m{"ActionClass": events.ClassSecret, "Resource": "secretId=s"}},
		{"command", m{"eventSource": "ssm.amazonaws.com", "eventName": "SendCommand", "readOnly": false}, m{"ActionClass": events.ClassExec}},
		{"logging off", m{"eventSource": "cloudtrail.amazonaws.com", "eventName": "StopLogging", "readOnly": false, "requestParameters": m{"name": "t"}}, m{"ActionClass": events.ClassLog, "Resource": "name=t"}},
		{"iam read", m{"eventSource": "iam.amazonaws.com", "eventName": "ListUsers"}, m{"ActionClass": events.ClassRead}},
		{"read by name", m{"eventName": "ListBuckets", "readOnly": nil}, m{"ActionClass": events.ClassRead}},
		{"several resources", m{"resources": []any{m{"ARN": "arn:1"}, m{"ARN": "arn:2"}, m{"ARN": "arn:3"}}}, m{"Count": int64(3), "Resource": "arn:1"}},
		{"other account's record", m{"recipientAccountId": "999900001111"}, m{"ResourceTenant": "999900001111", "IdentityTenant": "111122223333"}},
		{"user made", m{"eventSource": "iam.amazonaws.com", "eventName": "CreateUser", "readOnly": false, "requestParameters": m{"userName": "eve"}, "responseElements": m{"user": m{"arn": "arn:aws:iam::1:user/x/eve"}}}, m{"Target": "arn:aws:iam::1:user/x/eve", "MintedID": "arn:aws:iam::1:user/x/eve", "ActionClass": events.ClassIAM}},
		{"key for another", m{"eventSource": "iam.amazonaws.com", "eventName": "CreateAccessKey", "readOnly": false, "requestParameters": m{"userName": "eve"}, "responseElements": m{"accessKey": m{"accessKeyId": "AKIA9"}}}, m{"Target": "arn:aws:iam::111122223333:user/eve", "MintedID": "AKIA9"}},
		{"key for oneself", m{"eventSource": "iam.amazonaws.com", "eventName": "CreateAccessKey", "readOnly": false}, m{"Target": "arn:aws:iam::111122223333:user/ci"}},
		{"image shared", m{"eventSource": "ec2.amazonaws.com", "eventName": "ModifyImageAttribute", "readOnly": false, "requestParameters": m{"imageId": "ami-1", "launchPermission": m{"add": m{"items": []any{m{"userId": "846424999548"}}}}}}, m{"Target": "846424999548", "Resource": "imageId=ami-1"}},

		// Outcome.
		{"denied", m{"errorCode": "AccessDenied", "errorMessage": "no"}, m{"Outcome": events.OutcomeDenied, "Error": "AccessDenied"}},
		{"unauthorized", m{"errorCode": "Client.UnauthorizedOperation"}, m{"Outcome": events.OutcomeDenied}},
		{"throttled", m{"errorCode": "ThrottlingException"}, m{"Outcome": events.OutcomeThrottled}},
		{"slow down", m{"errorCode": "SlowDown"}, m{"Outcome": events.OutcomeThrottled}},
		{"error", m{"errorCode": "NoSuchBucket"}, m{"Outcome": events.OutcomeError, "Error": "NoSuchBucket"}},
		{"failed login", m{"eventName": "ConsoleLogin", "errorMessage": "Failed authentication", "responseElements": m{"ConsoleLogin": "Failure"}}, m{"Outcome": events.OutcomeDenied, "Error": "Failed authentication"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, a := read(t, merge(base(), tt.record))
			for field, want := range tt.want {
				if got := reflect.ValueOf(a).FieldByName(field).Interface(); !reflect.DeepEqual(got, want) {
					t.Errorf("%s is %#v, want %#v", field, got, want)
				}
			}
		})
	}
}

func TestTimes(t *testing.T) {
	tests := []struct {
		text string
		want string // "": refused
	}{
		{"2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"},
		{"2026-01-02 03:04:05", "2026-01-02T03:04:05Z"},
		{"2026-01-02 03:04:05.250000000", "2026-01-02T03:04:05.25Z"},
		{"2026-01-02T03:04:05+02:00", "2026-01-02T01:04:05Z"},
		{"2026-01-02", ""}, {"03:04:05", ""}, {"1767323045", "2026-01-02T03:04:05Z"}, {"2026-01-02T03:04:05,5Z", ""},
		{"1999-01-01T00:00:00Z", ""}, {"2026-01-02 03:04:05 UTC", ""}, {"2026-02-30T00:00:00Z", ""},
	}
	for _, tt := range tests {
		got, err := neutral.Time("eventTime", tt.text)
		if tt.want == "" {
			if err == nil || events.Code(err) != "schema_violation" && !errors.Is(err, neutral.ErrTime) {
				t.Errorf("%q: read %s, error %v", tt.text, got, err)
			}
		} else if err != nil || got.Format(time.RFC3339Nano) != tt.want {
			t.Errorf("%q: read %s, error %v, want %s", tt.text, got.Format(time.RFC3339Nano), err, tt.want)
		}
	}
}

// TestLongFields proves that no field of a record can make an event that is too
// large or not valid.
func TestLongFields(t *testing.T) {
	long := strings.Repeat("ä", 5000)
	arn := "arn:aws:iam::1:user/" + strings.Repeat("x", 3000)
	_, a := read(t, merge(base(), m{"userAgent": long, "awsRegion": long, "eventName": long, "errorCode": long, "vpcEndpointId": long, "sourceIPAddress": long,
		"requestParameters": m{"instanceId": long}, "userIdentity": m{"type": "IAMUser", "arn": arn, "accountId": long, "accessKeyId": long}}))
	if len(a.Identity) != 256 || !strings.HasPrefix(arn, a.Identity[:200]) {
		t.Errorf("identity is %q", a.Identity)
	}
	_, b := read(t, merge(base(), m{"userIdentity": m{"type": "IAMUser", "arn": arn + "y"}}))
	if a.Identity == b.Identity {
		t.Error("two long names are one identity")
	}
}

func FuzzSplit(f *testing.F) {
	one := `{"eventID":"1"}`
	for _, s := range []string{"", "[]", "[" + one + "]", one + "\n" + one, `{"Records":[` + one + `]}`, `{"Records":7}`, `[`, `{"a":{"Records":[]}}`, "7", "[[]]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		list, err := Split(raw, 100)
		if err != nil {
			if events.Code(err) != "malformed_json" && !strings.Contains(err.Error(), records.ErrTooMany.Error()) {
				t.Fatalf("error without a name: %v", err)
			}
			return
		}
		total := 0
		for _, r := range list {
			total += len(r)
		}
		if len(list) > 100 || total > len(raw) {
			t.Fatalf("%d records of %d bytes from %d bytes", len(list), total, len(raw))
		}
	})
}

func FuzzEvent(f *testing.F) {
	sampleRecords(f, func(_ string, raw []byte) { f.Add(raw) })
	for _, r := range []m{base(), merge(base(), m{"userIdentity": role("s")}), {"eventID": 7}, {}} {
		raw, err := json.Marshal(r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw)
	}
	seen := time.Date(2026, 1, 2, 3, 10, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := Event(raw, "acme", seen)
		if err != nil {
			if events.Code(err) == "internal" && !errors.Is(err, neutral.ErrTime) && !errors.Is(err, neutral.ErrNotStored) {
				t.Fatalf("error without a name: %v", err)
			}
			return
		}
		if err := events.Validate(e); err != nil {
			t.Fatalf("made what is not valid: %v", err)
		}
		if _, err := events.Encode(e); err != nil {
			t.Fatalf("made what cannot be encoded: %v", err)
		}
		again, err := Event(raw, "acme", seen)
		if err != nil || fmt.Sprint(again) != fmt.Sprint(e) {
			t.Fatalf("the same record made another event: %v", err)
		}
	})
}

func BenchmarkEvent(b *testing.B) {
	var all [][]byte
	size := 0
	sampleRecords(b, func(_ string, raw []byte) { all, size = append(all, raw), size+len(raw) })
	seen := time.Date(2026, 1, 2, 3, 10, 0, 0, time.UTC)
	b.SetBytes(int64(size / len(all)))
	i := 0
	for b.Loop() {
		if _, err := Event(all[i%len(all)], "acme", seen); err != nil {
			b.Fatal(err)
		}
		i++
	}
}
