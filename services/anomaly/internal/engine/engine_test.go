package engine

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/lanyard-nhi/lanyard/events"
)

var t0 = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)

// item is one input of the engine, at its event time.
type item struct {
	m    Meta
	feed func(*Engine, Meta) []Output
}

func activity(id string, at time.Time, a events.Activity) item {
	return item{Meta{ID: id, Source: "t", Tenant: "acme", Time: at}, func(g *Engine, m Meta) []Output { return g.Activity(m, &a) }}
}

func accepted(id string, at time.Time, handle, kind, name string) item {
	p := events.RevocationAccepted{Revocation: id, Mode: events.ModeRevoke, Handle: handle, By: "ops", AcceptedAt: at,
		Target: events.Target{Kind: kind, Tenant: "acme", ID: name}}
	return item{Meta{ID: id, Source: "r", Tenant: "acme", Time: at}, func(g *Engine, m Meta) []Output { return g.RevocationAccepted(m, &p) }}
}

// workload mixes, over a day, what every detector looks at with a lot that none
// should. Times are a second or more apart.
func workload(seed uint64) []item {
	r := rand.New(rand.NewPCG(seed, 1))
	var out []item
	n := 0
	add := func(at time.Time, a events.Activity) {
		if a.Outcome == "" {
			a.Outcome = events.OutcomeSuccess
		}
		if a.Destination == "" {
			a.Destination = "svc"
		}
		out = append(out, activity(fmt.Sprintf("a%d", n), at, a))
		n++
	}
	reg := events.Registration{Identity: "triage-agent", Owner: "mail team", Feature: "triage", Purpose: "sorts mail", Kind: events.KindAgent,
		Aliases: []string{"arn:aws:iam::1:role/triage"}, Tools: map[string][]string{"triage": {"search_mail", "send_mail"}}}
	out = append(out, item{Meta{ID: "reg", Source: "i", Tenant: "acme", Time: t0.Add(-time.Hour)}, func(g *Engine, m Meta) []Output { g.Registered(m, reg); return nil }})
	for i := range 2000 {
		at := t0.Add(time.Duration(i) * 43 * time.Second)
		who := fmt.Sprintf("bot-%d", r.IntN(20))
		switch r.IntN(40) {
		case 0:
			add(at, events.Activity{Identity: who, Action: "iam:CreateAccessKey", Resource: "userName=x" + who})
		case 1:
			add(at, events.Activity{Identity: who, Action: "cloudtrail:StopLogging"})
		case 2:
			for k := range 6 {
				add(at.Add(time.Duration(k)*time.Second), events.Activity{Identity: who, Action: "s3:Get", Resource: fmt.Sprint("b", k), Outcome: events.OutcomeDenied})
			}
		case 3:
			for k := range 12 {
				add(at.Add(time.Duration(k)*time.Second), events.Activity{Identity: who, Action: "secretsmanager:GetSecretValue", Resource: fmt.Sprint("s", k)})
			}
		case 4:
			add(at, events.Activity{Identity: "triage-agent", Tool: "delete_file", Task: "triage", Action: "tool:delete_file", Session: "s1"})
		case 5:
			add(at, events.Activity{Identity: who, Action: "x:y", ResourceTenant: "2222", IdentityTenant: "1111"})
		case 6:
			h := fmt.Sprintf("HANDLE%010d", i)
			out = append(out, accepted(fmt.Sprintf("rev%d", i), at, h, "task", fmt.Sprint("task", i)))
			add(at.Add(-3*time.Second), events.Activity{Identity: who, Action: "x:y", Lineage: []string{h}})
			if r.IntN(2) == 0 {
				add(at.Add(20*time.Second), events.Activity{Identity: who, Action: "x:y", Lineage: []string{"ROOTROOTROOTROOT", h}})
			}
		case 7:
			add(at, events.Activity{Identity: who, Action: "signin:ConsoleLogin", Interactive: true})
		case 8:
			add(at, events.Activity{Identity: who, Action: "iam:CreateUser", Resource: "userName=e" + who})
			add(at.Add(time.Second), events.Activity{Identity: who, Action: "iam:AttachUserPolicy", Resource: "userName=e" + who})
		default:
			add(at, events.Activity{Identity: who, Action: "s3:GetObject", Resource: fmt.Sprint("o", r.IntN(4)), ActionClass: events.ClassRead})
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].m.Time.Before(out[j].m.Time) })
	return out
}

// run feeds items and returns the ids of the outputs, each once, sorted.
func run(g *Engine, items []item) []string {
	ids := map[string]bool{}
	for _, i := range items {
		for _, o := range i.feed(g, i.m) {
			ids[o.ID] = true
		}
	}
	return slices.Sorted(func(yield func(string) bool) {
		for id := range ids {
			if !yield(id) {
				return
			}
		}
	})
}

// late reorders items as if each arrived up to the given time after it happened.
func late(items []item, most time.Duration, seed uint64) []item {
	r := rand.New(rand.NewPCG(seed, 2))
	type arrival struct {
		at time.Time
		i  item
	}
	var as []arrival
	for _, i := range items {
		as = append(as, arrival{i.m.Time.Add(time.Duration(r.Int64N(int64(most)))), i})
	}
	sort.SliceStable(as, func(i, j int) bool { return as[i].at.Before(as[j].at) })
	var out []item
	for _, a := range as {
		out = append(out, a.i)
	}
	return out
}

func TestSameInputSameOutput(t *testing.T) {
	for seed := range uint64(5) {
		var first []string
		for range 3 {
			var got []string
			g := New(Options{AutoRevoke: true})
			for _, i := range workload(seed) {
				b, err := json.Marshal(i.feed(g, i.m))
				if err != nil {
					t.Fatal(err)
				}
				got = append(got, string(b))
			}
			if first == nil {
				first = got
			}
			if d := cmp.Diff(first, got); d != "" {
				t.Fatalf("the same input led to other outputs:\n%s", d)
			}
		}
	}
}

// TestDisorder delivers late, out of order and 21 % twice, as real audit logs are.
func TestDisorder(t *testing.T) {
	for seed := range uint64(8) {
		items := workload(seed)
		want := keys(items)
		if len(want) < 30 {
			t.Fatalf("only %d alerts: the workload is too tame", len(want))
		}
		shuffled := late(items, 10*time.Minute, seed)
		r := rand.New(rand.NewPCG(seed, 3))
		var twice []item
		for i, it := range shuffled {
			twice = append(twice, it)
			if r.IntN(100) < 21 {
				twice = append(twice, shuffled[r.IntN(i+1)])
			}
		}
		got := keys(twice)
		// What counts within an interval may move an alert over the edge of an hour;
		// everything else must be the same.
		// What is new, or how often, depends on what was seen before. A session with a
		// record of both kinds may speak for another dimension.
		counting := func(s string) bool {
			return slices.Contains([]string{"D10", "D11", "D12", "D13", "D14", "D17", "D20", "D21", "D22", "D23"}, s[:3])
		}
		if d := cmp.Diff(slices.DeleteFunc(slices.Clone(want), counting), slices.DeleteFunc(slices.Clone(got), counting)); d != "" {
			t.Errorf("seed %d: disorder changed the alerts:\n%s", seed, d)
		}
		if j := jaccard(want, got); j < 0.98 {
			t.Errorf("seed %d: the alert sets agree by %.3f only, want 0.98 (Jaccard)", seed, j)
		}
	}
}

func jaccard(a, b []string) float64 {
	both := 0
	for _, s := range a {
		if slices.Contains(b, s) {
			both++
		}
	}
	return float64(both) / float64(len(a)+len(b)-both)
}

// keys lists the alerts raised by a fresh engine by id, each once.
func keys(items []item) []string {
	g := New(Options{})
	ids := map[string]bool{}
	for _, i := range items {
		for _, a := range alerts(i.feed(g, i.m)) {
			ids[a.Detector+" "+a.Identity+" "+a.Alert] = true
		}
	}
	var out []string
	for id := range ids {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}

// TestRestart stops at random points: what was acknowledged is read again with
// emission off, log first, and the rest is delivered.
func TestRestart(t *testing.T) {
	items := workload(7)
	want := run(New(Options{}), items)
	r := rand.New(rand.NewPCG(1, 4))
	for range 20 {
		cut := r.IntN(len(items))
		g := New(Options{})
		got := run(g, items[:cut])
		again := New(Options{})
		for _, fromLog := range []bool{true, false} {
			for _, i := range items[:cut] {
				if (i.m.Source != "t") == fromLog {
					i.feed(again, i.m)
				}
			}
		}
		redelivered := max(0, cut-r.IntN(50))
		got = append(got, run(again, items[redelivered:])...)
		slices.Sort(got)
		if d := cmp.Diff(want, slices.Compact(got)); d != "" {
			t.Fatalf("restart at %d of %d:\n%s", cut, len(items), d)
		}
	}
}

func TestRedeliveryAnswersTheSame(t *testing.T) {
	g := New(Options{})
	i := activity("e1", t0, events.Activity{Identity: "bot", Action: "cloudtrail:StopLogging", Destination: "d", Outcome: events.OutcomeSuccess})
	first, second := i.feed(g, i.m), i.feed(g, i.m)
	if len(first) != 2 {
		t.Fatalf("%d outputs, want an alert and a risk level", len(first))
	}
	if d := cmp.Diff(first, second); d != "" {
		t.Error(d)
	}
}

func TestOneIncident(t *testing.T) {
	g := New(Options{})
	var got []events.AnomalyDetected
	feed := func(n int, at time.Time, o events.Outcome) {
		a := activity(fmt.Sprint("e", n), at, events.Activity{Identity: "bot", Action: fmt.Sprintf("cloudtrail:%s", []string{"StopLogging", "DeleteTrail"}[n%2]), Destination: "d", Outcome: o})
		got = append(got, alerts(a.feed(g, a.m))...)
	}
	feed(0, t0, events.OutcomeDenied)
	feed(1, t0.Add(time.Minute), events.OutcomeDenied) // the same severity: silent
	if len(got) != 1 {
		t.Fatalf("%d alerts for one incident", len(got))
	}
	feed(2, t0.Add(2*time.Minute), events.OutcomeSuccess) // worse: told again, the same alert
	if len(got) != 2 || got[0].Alert != got[1].Alert || got[1].Severity != events.SeverityHigh {
		t.Fatalf("got %+v", got)
	}
	if d := cmp.Diff([]string{"e0", "e1", "e2"}, got[1].Evidence); d != "" {
		t.Errorf("evidence: %s", d)
	}
	if !got[1].FirstSeen.Equal(t0) || !got[1].LastSeen.Equal(t0.Add(2*time.Minute)) {
		t.Errorf("first %s, last %s", got[1].FirstSeen, got[1].LastSeen)
	}
	feed(3, t0.Add(70*time.Minute), events.OutcomeSuccess) // another hour
	if len(got) != 3 || got[2].Alert == got[0].Alert {
		t.Errorf("the next hour is the same incident")
	}
}

func TestContext(t *testing.T) {
	g := New(Options{})
	g.Registered(Meta{ID: "r", Source: "i", Tenant: "acme", Time: t0}, events.Registration{Identity: "deploy-bot", Owner: "platform", Feature: "deploys",
		Purpose: "ships releases", Kind: events.KindServiceAccount, Aliases: []string{"arn:aws:iam::1:role/deploy"}})
	one := func(tenant, identity string) events.AnomalyDetected {
		a := events.Activity{Identity: identity, Action: "cloudtrail:StopLogging", Destination: "d", Outcome: events.OutcomeSuccess}
		got := alerts(g.Activity(Meta{ID: tenant + identity, Source: "s", Tenant: tenant, Time: t0}, &a))
		if len(got) != 1 {
			t.Fatalf("%d alerts for %s", len(got), identity)
		}
		return got[0]
	}
	a := one("acme", "arn:aws:iam::1:role/deploy")
	if a.Identity != "deploy-bot" || a.Owner != "platform" || a.Feature != "deploys" || a.Purpose != "ships releases" || !strings.Contains(a.Explanation, "alias of deploy-bot") {
		t.Errorf("alias not resolved: %+v", a)
	}
	want := "lanyard revoke identity:acme/deploy-bot --freeze --reason 'D26 defence_evasion " + a.Alert + "' --confirm"
	if a.Proposed.Command != want || a.Proposed.Response != "contain" {
		t.Errorf("proposed %+v, want %s", a.Proposed, want)
	}
	if u := one("acme", "it's new"); !strings.Contains(u.Explanation, "not registered") || !strings.Contains(u.Proposed.Command, `'identity:acme/it'\''s new'`) {
		t.Errorf("unknown identity: %+v", u)
	}
	if o := one("globex", "arn:aws:iam::1:role/deploy"); o.Owner != "" || o.Identity == "deploy-bot" {
		t.Errorf("another tenant is shown the owner: %+v", o)
	}
}

func TestForeignIdentity(t *testing.T) {
	g := New(Options{AutoRevoke: true})
	g.Registered(Meta{ID: "r1", Source: "i", Tenant: "acme", Time: t0}, events.Registration{Identity: "bot", Owner: "secret owner"})
	g.Registered(Meta{ID: "r2", Source: "i", Tenant: "globex", Time: t0}, events.Registration{Identity: "bot", Owner: "globex owner"})
	a := events.Activity{Identity: "bot", IdentityTenant: "acme", ResourceTenant: "globex", Action: "x", Destination: "d", Outcome: events.OutcomeSuccess, Lineage: []string{"h"}, Credential: "jti"}
	out := g.Activity(Meta{ID: "e", Source: "s", Tenant: "globex", Time: t0.Add(time.Hour)}, &a)
	got := alerts(out)
	if len(got) != 1 || got[0].Detector != "D05" {
		t.Fatalf("got %+v", got)
	}
	if got[0].Owner != "" || !strings.Contains(got[0].Explanation, "belongs to tenant acme") || !strings.Contains(got[0].Proposed.Command, "credential:acme/jti") {
		t.Errorf("foreign identity: %+v", got[0])
	}
	for _, o := range out {
		if o.Tenant != "globex" {
			t.Errorf("an output for tenant %s", o.Tenant)
		}
		if _, ok := o.Payload.(events.RevocationRequested); ok {
			t.Error("one tenant's report revoked another tenant's credential")
		}
	}
}

func TestRevokeArrivesAfterUse(t *testing.T) {
	g := New(Options{})
	u := activity("u", t0.Add(time.Minute), events.Activity{Identity: "bot", Action: "x", Destination: "d", Outcome: events.OutcomeSuccess, Lineage: []string{"H"}})
	before := activity("b", t0.Add(-time.Minute), events.Activity{Identity: "bot", Action: "x", Destination: "d", Outcome: events.OutcomeSuccess, Lineage: []string{"H"}})
	if n := len(u.feed(g, u.m)) + len(before.feed(g, before.m)); n != 0 {
		t.Fatalf("%d outputs before the revoke is known", n)
	}
	r := accepted("rev", t0, "H", "task", "t1")
	got := alerts(r.feed(g, r.m))
	if len(got) != 1 || got[0].Detector != "D01" || !slices.Equal(got[0].Evidence, []string{"u"}) {
		t.Fatalf("got %+v", got)
	}
	other := New(Options{})
	r.feed(other, r.m)
	if same := alerts(u.feed(other, u.m)); len(same) != 1 || same[0].Alert != got[0].Alert {
		t.Errorf("the order of arrival changed the alert: %+v", same)
	}
	again := accepted("rev2", t0, "H", "task", "t1")
	if n := len(again.feed(g, again.m)); n != 0 {
		t.Errorf("%d outputs for evidence already told", n)
	}
}

func TestFreezeAndLift(t *testing.T) {
	g := New(Options{})
	until := t0.Add(time.Hour)
	m := func(id string, at time.Time) Meta { return Meta{ID: id, Source: "l", Tenant: "acme", Time: at} }
	g.RevocationAccepted(m("f", t0), &events.RevocationAccepted{Revocation: "rv", Mode: events.ModeFreeze, Handle: "H", AcceptedAt: t0, Until: &until,
		Target: events.Target{Kind: "identity", Tenant: "acme", ID: "bot"}})
	g.IdentityEnded(m("g", t0), events.IdentityChange{Identity: "bot", Revocation: "rv", Until: &until}, true)
	g.RevocationLifted(m("l", t0.Add(10*time.Minute)), &events.RevocationLifted{Revocation: "rv", Handle: "H", LiftedAt: t0.Add(10 * time.Minute)})
	g.IdentityReinstated(m("k", t0.Add(10*time.Minute)), events.IdentityChange{Identity: "bot"})
	for _, c := range []struct {
		after time.Duration
		want  int
	}{{time.Minute, 1}, {11 * time.Minute, 0}, {2 * time.Hour, 0}} {
		u := activity(c.after.String(), t0.Add(c.after), events.Activity{Identity: "bot", Action: "x", Destination: "d", Outcome: events.OutcomeSuccess, Lineage: []string{"H"}})
		if got := alerts(u.feed(g, u.m)); len(got) != c.want {
			t.Errorf("%s after the freeze: %d alerts, want %d", c.after, len(got), c.want)
		}
	}
}

func TestAutomatic(t *testing.T) {
	requests := func(o Options, n int, registered bool) []events.RevocationRequested {
		g := New(o)
		var out []events.RevocationRequested
		for i := range n {
			id := fmt.Sprint("bot-", i)
			if registered {
				g.Registered(Meta{ID: "r" + id, Source: "i", Tenant: "acme", Time: t0}, events.Registration{Identity: id})
			}
			r := accepted(fmt.Sprint("rev", i), t0, fmt.Sprint("H", i), "task", id)
			r.feed(g, r.m)
			u := activity(fmt.Sprint("u", i), t0.Add(time.Minute), events.Activity{Identity: id, Action: "x", Destination: "d", Outcome: events.OutcomeSuccess, Lineage: []string{fmt.Sprint("H", i)}, Credential: fmt.Sprint("jti", i)})
			for _, o := range u.feed(g, u.m) {
				if p, ok := o.Payload.(events.RevocationRequested); ok {
					out = append(out, p)
				}
			}
		}
		return out
	}
	if got := requests(Options{}, 3, true); len(got) != 0 {
		t.Errorf("not allowed, yet %d requests", len(got))
	}
	got := requests(Options{AutoRevoke: true}, 12, true)
	if len(got) != autoMax {
		t.Fatalf("%d automatic revocations within a minute, want %d", len(got), autoMax)
	}
	want := events.Target{Kind: "credential", Tenant: "acme", ID: "jti0"}
	if got[0].Target != want || !got[0].Automatic || got[0].Mode != events.ModeRevoke || len(got[0].Evidence) == 0 || got[0].RequestedBy != "anomaly/D01" {
		t.Errorf("request %+v", got[0])
	}
	if got := requests(Options{AutoRevoke: true, Disabled: []string{"D01"}}, 3, true); len(got) != 0 {
		t.Errorf("D01 is off, yet %d requests", len(got))
	}
}
