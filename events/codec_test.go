package events

import (
	"testing"
	"time"
)

func sample(t testing.TB) Event {
	t.Helper()
	e, err := New(Origin{Source: "/acme/shop", Tenant: "acme", Time: time.Date(2026, 11, 24, 10, 0, 0, 5000000, time.UTC)}, APICalled{Activity{
		Identity: "arn:aws:iam::111122223333:role/reporter", IdentityKind: KindServiceAccount, Credential: "ASIAEXAMPLE", Session: "s-1",
		SourceIP: "203.0.113.7", UserAgent: "aws-sdk-go", Destination: "s3@eu-west-1", Action: "s3:GetObject",
		ActionClass: ClassRead, Resource: "arn:aws:s3:::bucket/key", Outcome: OutcomeSuccess,
	}})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func BenchmarkEncode(b *testing.B) {
	e := sample(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Encode(e); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	raw, err := Encode(sample(b))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkValidate(b *testing.B) {
	e := sample(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := Validate(e); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkReceive(b *testing.B) {
	raw, err := Encode(sample(b))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Receive(raw, "acme"); err != nil {
			b.Fatal(err)
		}
	}
}
