package engine

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	json "github.com/go-json-experiment/json"
	"github.com/lanyard-nhi/lanyard/events"
)

// payloads are ordinary activities of n identities, encoded as they travel.
func payloads(b *testing.B, n int) ([][]byte, []Meta) {
	var data [][]byte
	var metas []Meta
	for i := range n {
		a := events.APICalled{Activity: events.Activity{
			Identity: fmt.Sprintf("arn:aws:iam::111122223333:role/service-%05d", i%5000), IdentityKind: events.KindServiceAccount, IdentityTenant: "acme",
			Credential: fmt.Sprintf("AKIA%016d", i%5000), Session: fmt.Sprintf("session-%d", i%5000), SourceIP: "192.0.2.17", UserAgent: "aws-sdk-go-v2",
			Workload: "ec2-role", Destination: "s3@eu-west-1", Action: "s3:GetObject", ActionClass: events.ClassRead, Resource: fmt.Sprintf("arn:aws:s3:::bucket/key-%d", i%7),
			ResourceTenant: "acme", Outcome: events.OutcomeSuccess,
			Lineage: []string{"AAAAAAAAAAAAAAAA", "BBBBBBBBBBBBBBBB", "CCCCCCCCCCCCCCCC", "DDDDDDDDDDDDDDDD", "EEEEEEEEEEEEEEEE", "FFFFFFFFFFFFFFFF", "GGGGGGGGGGGGGGGG", "HHHHHHHHHHHHHHHH"},
		}}
		if i%100 == 0 {
			a.Outcome = events.OutcomeDenied
		}
		if i%10 == 1 {
			a.Tool, a.Task, a.ToolArgsDest = "send_mail", "triage", []string{"team@acme.example"}
		}
		d, err := json.Marshal(a)
		if err != nil {
			b.Fatal(err)
		}
		data = append(data, d)
		metas = append(metas, Meta{ID: fmt.Sprintf("%08d-aaaa-4ac2-a5ef-41febc9a9fa8", i), Source: "bench", Tenant: "acme", Time: t0.Add(time.Duration(i) * time.Millisecond)})
	}
	return data, metas
}

// withRevocations gives the engine some revocations to compare every lineage with.
func withRevocations(b *testing.B) *Engine {
	g := New(Options{})
	for i := range 10_000 {
		r := accepted(fmt.Sprint("rev", i), t0.Add(-time.Hour), fmt.Sprintf("Z%015d", i), "task", fmt.Sprint("task", i))
		r.feed(g, r.m)
	}
	return g
}

// BenchmarkDecode is the limit: the payload's JSON alone.
func BenchmarkDecode(b *testing.B) {
	data, _ := payloads(b, 20_000)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		var a events.APICalled
		if err := json.Unmarshal(data[i%len(data)], &a); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkDetect is all detectors on decoded activities, with de-duplication.
func BenchmarkDetect(b *testing.B) {
	data, metas := payloads(b, 20_000)
	as := make([]events.APICalled, len(data))
	for i := range data {
		if err := json.Unmarshal(data[i], &as[i]); err != nil {
			b.Fatal(err)
		}
	}
	g := withRevocations(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		m := metas[i%len(metas)]
		m.Source = fmt.Sprint(i / len(metas)) // a new event each time
		m.Time = m.Time.Add(time.Duration(i/len(metas)) * time.Minute)
		g.Activity(m, &as[i%len(as)].Activity)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkDecodeAndDetect is both, one after the other on one core.
func BenchmarkDecodeAndDetect(b *testing.B) {
	data, metas := payloads(b, 20_000)
	g := withRevocations(b)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		var a events.APICalled
		if err := json.Unmarshal(data[i%len(data)], &a); err != nil {
			b.Fatal(err)
		}
		m := metas[i%len(metas)]
		m.Source = fmt.Sprint(i / len(metas))
		m.Time = m.Time.Add(time.Duration(i/len(metas)) * time.Minute)
		g.Activity(m, &a.Activity)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkMillionIdentities reports the memory of a million identities.
func BenchmarkMillionIdentities(b *testing.B) {
	for b.Loop() {
		g := New(Options{})
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		fill(g, 1_000_000)
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/1_000_000, "B/identity")
		b.ReportMetric(float64(g.Largest()), "B/largest")
		runtime.KeepAlive(g)
	}
}
