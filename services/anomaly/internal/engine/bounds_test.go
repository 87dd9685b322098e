package engine

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly/internal/detect"
)

// TestOneIdentityIsBounded throws many different values at one identity, in
// every part of its state.
func TestOneIdentityIsBounded(t *testing.T) {
	g := New(Options{})
	n := 200_000
	if testing.Short() {
		n = 50_000
	}
	outcomes := []events.Outcome{events.OutcomeSuccess, events.OutcomeDenied}
	actions := []string{"secretsmanager:GetSecretValue", "secretsmanager:BatchGetSecretValue", "iam:CreateUser", "iam:AttachUserPolicy", "cloudtrail:StopLogging", "x:"}
	for i := range n {
		v := fmt.Sprint(i)
		a := events.Activity{Identity: "bot", Action: actions[i%len(actions)], Destination: v, Resource: v, Session: v, Outcome: outcomes[i%2]}
		switch i % 4 {
		case 0:
			a.Action += v
		case 1:
			a.Tool, a.Task, a.ToolArgsDest = "send_"+v, fmt.Sprint(i%40), []string{v + "@a.example", v + "@b.example"}
		case 2:
			a.ActionClass, a.Action = events.ClassRead, "s3:GetObject"
		}
		g.Activity(Meta{ID: "event-" + v, Source: "s", Tenant: "acme", Time: t0.Add(time.Duration(i) * time.Second)}, &a)
		if i%97 == 0 {
			g.DelegationCreated(Meta{ID: "d" + v, Source: "l", Tenant: "acme", Time: t0.Add(time.Duration(i) * time.Second)},
				&events.DelegationCreated{Identity: "child" + v, From: events.Party{Tenant: "acme", Identity: "bot"}, Depth: 1})
		}
	}
	if got := g.Largest(); got > detect.MaxBytes {
		t.Errorf("the largest identity has %d bytes, the cap is %d", got, detect.MaxBytes)
	} else {
		t.Logf("the identity has %d bytes after %d values", got, n)
	}
}

// TestManyIdentities measures the memory of many ordinary identities on the heap.
func TestManyIdentities(t *testing.T) {
	n := 60_000
	if testing.Short() {
		n = 20_000
	}
	g := New(Options{})
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	fill(g, n)
	base := g.Stats()
	runtime.GC()
	runtime.ReadMemStats(&after)
	per := float64(after.HeapAlloc-before.HeapAlloc) / float64(n)
	t.Logf("%d identities, %.0f bytes each on the heap, de-duplication and recent uses included (%d event ids)", base.Identities, per, base.Remembered)
	if per > 1500 {
		t.Errorf("%.0f bytes per identity, at most 1,500", per)
	}
	runtime.KeepAlive(g)
}

// fill gives each of n identities eight ordinary uses; every twentieth is denied
// something, every fiftieth reads secrets and every hundredth is an agent.
func fill(g *Engine, n int) {
	for i := range n {
		id := fmt.Sprintf("arn:aws:iam::111122223333:role/service-%07d", i)
		for k := range 8 {
			a := events.Activity{Identity: id, Action: "s3:" + [4]string{"GetObject", "PutObject", "ListBucket", "HeadObject"}[k%4], Destination: "s3@eu-west-1", Outcome: events.OutcomeSuccess}
			switch {
			case i%20 == 0 && k == 3:
				a.Outcome = events.OutcomeDenied
			case i%50 == 0 && k > 4:
				a.Action, a.Resource = "secretsmanager:GetSecretValue", fmt.Sprint("secret", k)
			case i%100 == 1:
				a.Tool, a.Task, a.ToolArgsDest = "send_mail", "triage", []string{"team@acme.example"}
			}
			g.Activity(Meta{ID: fmt.Sprintf("%08d-%04d-4ac2-a5ef-41febc9a9fa8", i, k), Source: "s", Tenant: "acme", Time: t0.Add(time.Duration(i*8+k) * time.Millisecond)}, &a)
		}
	}
}

func TestIdentitiesAreBounded(t *testing.T) {
	g := New(Options{MaxIdentities: 100})
	for i := range 1000 {
		a := events.Activity{Identity: fmt.Sprint("bot", i), Action: "x", Destination: "d", Outcome: events.OutcomeSuccess}
		g.Activity(Meta{ID: fmt.Sprint(i), Source: "s", Tenant: "acme", Time: t0}, &a)
	}
	if n := g.Stats().Identities; n != 100 {
		t.Errorf("%d identities, want 100", n)
	}
}

// TestStrangeTimes puts records of 1970, 2100 and worse between ordinary ones: they
// must not hide what follows.
func TestStrangeTimes(t *testing.T) {
	g := New(Options{})
	for i, at := range []time.Time{{}, time.Unix(0, 0), time.Unix(-1<<40, 0), time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC)} {
		for _, o := range []events.Outcome{events.OutcomeDenied, events.OutcomeSuccess} {
			a := events.Activity{Identity: "bot", Action: "secretsmanager:GetSecretValue", Destination: "d", Resource: fmt.Sprint(i), Outcome: o, Tool: "t", Task: "k"}
			g.Activity(Meta{ID: fmt.Sprint("strange", i, o), Source: "s", Tenant: "acme", Time: at}, &a)
		}
	}
	var got []events.AnomalyDetected
	for i := range 5 {
		a := events.Activity{Identity: "bot", Action: "x", Destination: "d", Resource: fmt.Sprint(i), Outcome: events.OutcomeDenied}
		got = append(got, alerts(g.Activity(Meta{ID: fmt.Sprint("now", i), Source: "s", Tenant: "acme", Time: t0}, &a))...)
	}
	if len(got) != 1 || got[0].Detector != "D20" {
		t.Errorf("a strange time hid a probe: %+v", got)
	}
}

// TestAbsenceIsNotNovelty sends records that hold the required members only.
func TestAbsenceIsNotNovelty(t *testing.T) {
	g := New(Options{})
	for i := range 200 {
		a := events.Activity{Identity: "bot", Action: "x", Destination: "d", Outcome: events.OutcomeSuccess}
		if i%2 == 0 {
			a.Tool, a.Task, a.Session, a.SourceIP, a.Credential = "send_mail", "triage", "s", "192.0.2.1", "k"
			a.ToolArgsDest = []string{"team@acme.example"}
		}
		if out := g.Activity(Meta{ID: fmt.Sprint(i), Source: "s", Tenant: "acme", Time: t0.Add(time.Duration(i) * time.Hour)}, &a); len(out) > 0 {
			t.Fatalf("alert on record %d: %+v", i, out)
		}
	}
	if out := g.Activity(Meta{}, &events.Activity{}); len(out) > 0 {
		t.Errorf("an empty record led to %+v", out)
	}
}

// TestLongTexts sends texts as long as an event may hold: alerts stay small.
func TestLongTexts(t *testing.T) {
	g := New(Options{})
	long := strings.Repeat("ü", 10_000)
	a := events.Activity{Identity: "bot", Action: "cloudtrail:StopLogging", Destination: long, Resource: long, Session: long, Task: long, Outcome: events.OutcomeSuccess}
	for _, o := range g.Activity(Meta{ID: long, Source: "s", Tenant: "acme", Time: t0}, &a) {
		b, err := json.Marshal(o.Payload)
		if err != nil || len(b) > 32<<10 {
			t.Errorf("output of %d bytes, %v", len(b), err)
		}
	}
	if got := g.Largest(); got > detect.MaxBytes {
		t.Errorf("%d bytes", got)
	}
}

// FuzzEngine feeds random activities and asks that nothing breaks, that state stays
// within its cap, that every alert is complete and that a copy says the same.
func FuzzEngine(f *testing.F) {
	f.Add(uint64(1), "iam:CreateUser", "send_mail", "r", int64(0))
	f.Add(uint64(2), "secretsmanager:GetSecretValue", "", "a/b=c", int64(-1))
	f.Fuzz(func(t *testing.T, seed uint64, action, tool, resource string, sec int64) {
		feed := func() (out []string, g *Engine) {
			g = New(Options{AutoRevoke: true, MaxIdentities: 10})
			r := rand.New(rand.NewPCG(seed, 5))
			pick := func(s ...string) string { return s[r.IntN(len(s))] }
			for i := range 200 {
				at := time.Unix(sec+int64(r.IntN(7200)), 0)
				a := events.Activity{Identity: pick("a", "b", resource), Action: pick(action, "iam:AttachUserPolicy", "sts:AssumeRole", "ssm:GetParameters"), Tool: pick("", tool),
					Task: pick("", "k"), Resource: pick("", resource, fmt.Sprint(i)), Destination: "d", Outcome: events.Outcome(pick("success", "denied", "error", "")),
					Lineage: []string{pick("h1", "h2")}, Credential: pick("", "c1"), MintedID: pick("", "c1"), SourceIP: pick("", "x"), ResourceTenant: pick("", "u"),
					Session: fmt.Sprint(r.IntN(9)), ToolArgsDest: []string{pick("", "d1", resource)}, Interactive: r.IntN(2) == 0, DelegationDepth: r.IntN(7)}
				m := Meta{ID: fmt.Sprint(r.IntN(150)), Source: "s", Tenant: pick("t", "u"), Time: at}
				var o []Output
				if r.IntN(9) == 0 {
					o = g.RevocationAccepted(m, &events.RevocationAccepted{Revocation: m.ID, Handle: pick("h1", "h2"), AcceptedAt: at, Mode: events.Mode(pick("revoke", "freeze"))})
				} else {
					o = g.Activity(m, &a)
				}
				b, err := json.Marshal(o)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, string(b))
				for _, al := range alerts(o) {
					if al.Explanation == "" || len(al.Evidence) == 0 || al.Proposed.Command == "" || al.Score < 20 || al.Score > 100 || al.Alert == "" {
						t.Errorf("incomplete alert %+v", al)
					}
				}
			}
			return out, g
		}
		one, g := feed()
		two, _ := feed()
		for i := range one {
			if one[i] != two[i] {
				t.Fatalf("input %d led to different outputs:\n%s\n%s", i, one[i], two[i])
			}
		}
		if n := g.Largest(); n > detect.MaxBytes+3*len(resource) {
			t.Errorf("%d bytes in one identity", n)
		}
	})
}
