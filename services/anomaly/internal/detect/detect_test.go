package detect

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

var t0 = time.Date(2026, 3, 2, 10, 0, 0, 0, time.UTC)

// play runs one detector over activities, in order, as the engine does, and returns
// the findings.
func play(t *testing.T, id string, f *Facts, as ...act) []*Finding {
	t.Helper()
	if f == nil {
		f = NewFacts(DefaultConfig())
	}
	var s State
	var out []*Finding
	var judge func(*Input, *State) *Finding
	for _, d := range Activities() {
		if d.ID == id {
			judge = d.Judge
		}
	}
	if judge == nil {
		t.Fatalf("no detector %s", id)
	}
	for i, a := range as {
		in := Prepare(fmt.Sprintf("e%d", i), "acme", t0.Add(a.after), &a.Activity, f)
		found := judge(in, &s)
		s.Seen(in, found == nil)
		if found != nil {
			check(t, found)
			out = append(out, found)
		}
	}
	return out
}

// check holds every finding to what an alert promises.
func check(t *testing.T, f *Finding) {
	t.Helper()
	if f.Explanation == "" || f.Value == "" || f.Baseline == "" || f.Count < 1 || f.Threshold == 0 || f.Severity == "" || f.Response == "" {
		t.Errorf("incomplete finding: %+v", f)
	}
}

type act struct {
	after time.Duration
	events.Activity
}

func use(after time.Duration, action string, change ...func(*events.Activity)) act {
	a := act{after, events.Activity{Identity: "bot", Action: action, Destination: "svc", Outcome: events.OutcomeSuccess}}
	for _, c := range change {
		c(&a.Activity)
	}
	return a
}

func denied(a *events.Activity) { a.Outcome = events.OutcomeDenied }

func on(resource string) func(*events.Activity) {
	return func(a *events.Activity) { a.Resource = resource }
}

// many makes n uses a second apart, each changed with its number.
func many(n int, start time.Duration, action string, change func(int, *events.Activity)) []act {
	var out []act
	for i := range n {
		out = append(out, use(start+time.Duration(i)*time.Second, action, func(a *events.Activity) { change(i, a) }))
	}
	return out
}

func numbered(i int, a *events.Activity) { a.Resource = fmt.Sprintf("r%d", i) }

func numberedDenied(i int, a *events.Activity) { numbered(i, a); denied(a) }

func revoked() *Facts {
	f := NewFacts(DefaultConfig())
	f.End(HandleName("HANDLEHANDLE1234"), Interval{From: t0, By: "ops", What: "the task t", Revocation: "r1"})
	f.End(Name{"identity", "acme", "frozen"}, Interval{From: t0, Until: t0.Add(time.Hour), By: "ops", What: "the identity frozen", Revocation: "r2", Freeze: true})
	f.End(Name{"credential", "acme", "jti-1"}, Interval{From: t0, By: "ops", What: "the credential jti-1", Revocation: "r3"})
	return f
}

func TestUseAfterRevoke(t *testing.T) {
	handle := func(a *events.Activity) { a.Lineage = []string{"other", "HANDLEHANDLE1234"} }
	frozen := func(a *events.Activity) { a.Identity = "frozen" }
	jti := func(a *events.Activity) { a.Credential = "jti-1" }
	for _, c := range []struct {
		name string
		a    act
		want events.Severity
	}{
		{"success under a revoked handle", use(6*time.Second, "x", handle), events.SeverityCritical},
		{"denied under a revoked handle", use(6*time.Second, "x", handle, denied), events.SeverityMedium},
		{"within the skew", use(5*time.Second, "x", handle), ""},
		{"just beyond the skew", use(5*time.Second+time.Millisecond, "x", handle), events.SeverityCritical},
		{"used before, delivered later", use(-time.Minute, "x", handle), ""},
		{"another handle", use(time.Minute, "x", func(a *events.Activity) { a.Lineage = []string{"other"} }), ""},
		{"while frozen", use(time.Minute, "x", frozen), events.SeverityCritical},
		{"after the freeze", use(time.Hour, "x", frozen), ""},
		{"a named credential", use(time.Minute, "x", jti), events.SeverityCritical},
		{"no credential at all", use(time.Minute, "x"), ""},
	} {
		t.Run(c.name, func(t *testing.T) { wantOne(t, play(t, "D01", revoked(), c.a), c.want) })
	}
	f := revoked()
	f.Lift(Name{"identity", "acme", "frozen"}, "r2", t0.Add(10*time.Minute))
	wantOne(t, play(t, "D01", f, use(11*time.Minute, "x", frozen)), "")
	wantOne(t, play(t, "D01", f, use(9*time.Minute, "x", frozen)), events.SeverityCritical)
	f.Lift(HandleName("HANDLEHANDLE1234"), "r1", t0.Add(time.Minute))
	wantOne(t, play(t, "D01", f, use(time.Hour, "x", handle)), events.SeverityCritical) // a revoke is not lifted
}

func wantOne(t *testing.T, got []*Finding, want events.Severity) {
	t.Helper()
	switch {
	case want == "" && len(got) > 0:
		t.Errorf("unexpected finding: %s", got[0].Explanation)
	case want != "" && len(got) != 1:
		t.Errorf("%d findings, want one", len(got))
	case want != "" && got[0].Severity != want:
		t.Errorf("severity %s, want %s: %s", got[0].Severity, want, got[0].Explanation)
	}
}

func TestUseAfterExpiry(t *testing.T) {
	exp := func(a *events.Activity) { e := t0; a.CredentialExp = &e }
	for _, c := range []struct {
		a    act
		want events.Severity
	}{
		{use(61*time.Second, "x", exp), events.SeverityHigh},
		{use(60*time.Second, "x", exp), ""},
		{use(-120*time.Second, "x", exp), ""},
		{use(time.Hour, "x", exp, denied), ""},
		{use(time.Hour, "x"), ""},
	} {
		wantOne(t, play(t, "D02", nil, c.a), c.want)
	}
}

func TestCrossTenant(t *testing.T) {
	f := NewFacts(DefaultConfig())
	f.Register("acme", events.Registration{Identity: "bot"})
	f.Register("globex", events.Registration{Identity: "other"})
	f.DeclareTrust(Trust{ID: "acme->initech", From: "acme", To: "initech", Since: t0})
	f.EndTrust("acme->initech", t0.Add(time.Hour))
	to := func(tenant string) func(*events.Activity) {
		return func(a *events.Activity) { a.ResourceTenant = tenant }
	}
	from := func(tenant string) func(*events.Activity) {
		return func(a *events.Activity) { a.IdentityTenant = tenant }
	}
	for _, c := range []struct {
		name string
		a    act
		want events.Severity
		resp Response
	}{
		{"both ours", use(0, "x", to("globex")), events.SeverityHigh, RespondRevoke},
		{"denied", use(0, "x", to("globex"), denied), events.SeverityMedium, RespondAlert},
		{"own tenant", use(0, "x", to("acme")), "", ""},
		{"no resource tenant", use(0, "x"), "", ""},
		{"partner", use(time.Minute, "x", to("initech")), "", ""},
		{"before the trust", use(-time.Minute, "x", to("initech")), events.SeverityHigh, RespondRevoke},
		{"after the trust ended", use(2*time.Hour, "x", to("initech")), events.SeverityHigh, RespondRevoke},
		{"reported by the resource's tenant", use(0, "x", from("globex"), to("acme")), events.SeverityHigh, RespondRevoke},
		{"accounts of a cloud, one foreign", use(0, "x", from("111122223333"), to("444455556666")), events.SeverityHigh, RespondAlert},
		{"accounts of a cloud, the same", use(0, "x", from("111122223333"), to("111122223333")), "", ""},
		{"an account beside a tenant name", use(0, "x", to("111122223333")), "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := play(t, "D05", f, c.a)
			wantOne(t, got, c.want)
			if len(got) == 1 && got[0].Response != c.resp {
				t.Errorf("response %s, want %s", got[0].Response, c.resp)
			}
		})
	}
}

func TestDelegatedUse(t *testing.T) {
	chain := func(ids ...string) func(*events.Activity) {
		return func(a *events.Activity) {
			for _, id := range ids {
				a.Delegation = append(a.Delegation, events.Party{Tenant: "acme", Identity: id})
			}
		}
	}
	scopes := func(child, parent string) func(*events.Activity) {
		return func(a *events.Activity) { a.Scopes, a.ParentScopes = strings.Fields(child), strings.Fields(parent) }
	}
	for _, c := range []struct {
		name string
		a    act
		want events.Severity
	}{
		{"at the limit", use(0, "x", chain("a", "b", "c", "d")), ""},
		{"too deep", use(0, "x", chain("a", "b", "c", "d", "e")), events.SeverityHigh},
		{"narrower", use(0, "x", chain("a"), scopes("r", "r w")), ""},
		{"wider", use(0, "x", chain("a"), scopes("r w", "r")), events.SeverityHigh},
		{"parent's scopes not recorded", use(0, "x", chain("a"), scopes("r w", "")), ""},
		{"back to itself", use(0, "x", chain("a", "bot")), events.SeverityHigh},
		{"names itself first", use(0, "x", chain("bot", "a")), ""},
		{"not delegated", use(0, "x", scopes("r w", "r")), ""},
	} {
		t.Run(c.name, func(t *testing.T) { wantOne(t, play(t, "D06", nil, c.a), c.want) })
	}
}

func TestDelegated(t *testing.T) {
	f := NewFacts(DefaultConfig())
	f.DeclareTrust(Trust{ID: "globex->acme", From: "globex", To: "acme", Scopes: []string{"read", "write"}, MaxDepth: 2, Since: t0})
	ok := events.DelegationCreated{Identity: "bot", From: events.Party{Tenant: "acme", Identity: "boss"}, Depth: 1, Credential: "jti",
		Scope: []string{"read"}, Parents: []string{"read", "write"}, ExpiresAt: t0.Add(time.Minute), ParentExp: t0.Add(time.Minute)}
	for _, c := range []struct {
		name   string
		change func(*events.DelegationCreated)
		wrong  string
	}{
		{"in order", func(*events.DelegationCreated) {}, ""},
		{"across a trust", func(p *events.DelegationCreated) { p.From.Tenant = "globex" }, ""},
		{"across a trust, too deep for it", func(p *events.DelegationCreated) { p.From.Tenant = "globex"; p.Depth = 3 }, "depth 3 (limit 2)"},
		{"across a trust, more than it allows", func(p *events.DelegationCreated) {
			p.From.Tenant = "globex"
			p.Scope, p.Parents = []string{"admin"}, []string{"admin"}
		}, "more than the trust"},
		{"no trust", func(p *events.DelegationCreated) { p.From.Tenant = "initech" }, "no trust record"},
		{"too deep", func(p *events.DelegationCreated) { p.Depth = 5 }, "depth 5 (limit 4)"},
		{"wider", func(p *events.DelegationCreated) { p.Scope = []string{"read", "admin"} }, "scope admin"},
		{"longer lived", func(p *events.DelegationCreated) { p.ExpiresAt = t0.Add(time.Hour) }, "after its parent"},
		{"to itself", func(p *events.DelegationCreated) { p.From.Identity = "bot" }, "itself"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := ok
			c.change(&p)
			got := Delegated(f, "acme", t0.Add(time.Minute), &p)
			if (got == nil) != (c.wrong == "") || got != nil && !strings.Contains(got.Explanation, c.wrong) {
				t.Errorf("got %+v, want %q", got, c.wrong)
			}
			if got != nil {
				check(t, got)
			}
		})
	}
}

func TestSecretExposed(t *testing.T) {
	p := &events.SecretExposed{Fingerprint: "f", Identity: "bot", Credential: "k", Where: "repo", Public: true, Scanner: "s", FoundAt: t0}
	if got := Exposed(p); got.Severity != events.SeverityCritical {
		t.Errorf("public and known: %s", got.Severity)
	}
	p.Public = false
	if got := Exposed(p); got.Severity != events.SeverityHigh {
		t.Errorf("not public: %s", got.Severity)
	}
}

func TestHumanUse(t *testing.T) {
	inter := func(a *events.Activity) { a.Interactive = true }
	wantOne(t, play(t, "D16", nil, use(0, "x", inter)), events.SeverityMedium)
	wantOne(t, play(t, "D16", nil, use(0, "signin:ConsoleLogin")), events.SeverityMedium)
	wantOne(t, play(t, "D16", nil, use(0, "signin:ConsoleLogin", denied)), "")
	wantOne(t, play(t, "D16", nil, use(0, "s3:GetObject")), "")
}

func TestDeniedProbe(t *testing.T) {
	for _, c := range []struct {
		name string
		as   []act
		want int // findings
	}{
		{"five different", many(5, 0, "x", numberedDenied), 1},
		{"four different", many(4, 0, "x", numberedDenied), 0},
		{"one a hundred times", many(100, 0, "x", func(_ int, a *events.Activity) { denied(a) }), 0},
		{"five that succeeded", many(5, 0, "x", numbered), 0},
		{"five by a cloud service", many(5, 0, "x", func(i int, a *events.Activity) { numberedDenied(i, a); a.SourceService = "s" }), 0},
		{"five over an hour", func() []act {
			var out []act
			for i := range 5 {
				out = append(out, use(time.Duration(i)*15*time.Minute, "x", func(a *events.Activity) { numberedDenied(i, a) }))
			}
			return out
		}(), 0},
		{"across a slot's boundary", append(many(3, 4*time.Minute+50*time.Second, "x", numberedDenied), many(3, 5*time.Minute+10*time.Second, "y", numberedDenied)...), 2},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := play(t, "D20", nil, c.as...); len(got) != c.want {
				t.Errorf("%d findings, want %d", len(got), c.want)
			}
		})
	}
	// Two different denials in 5 minutes are this identity's habit: the threshold is 8.
	var as []act
	for i := range 30 {
		as = append(as, many(2, time.Duration(i)*time.Hour, "x", numberedDenied)...)
	}
	if got := play(t, "D20", nil, append(slices.Clone(as), many(7, 40*time.Hour, "y", numberedDenied)...)...); len(got) != 0 {
		t.Errorf("7 with a habit of 2: %s", got[0].Explanation)
	}
	got := play(t, "D20", nil, append(as, many(8, 40*time.Hour, "y", numberedDenied)...)...)
	if len(got) != 1 || got[0].Threshold != 8 || got[0].Count != 8 || len(got[0].Evidence) == 0 {
		t.Errorf("8 with a habit of 2: %+v", got)
	}
}

func TestMassRead(t *testing.T) {
	const get, batch, share = "secretsmanager:GetSecretValue", "secretsmanager:BatchGetSecretValue", "ec2:ModifySnapshotAttribute"
	for _, c := range []struct {
		name string
		as   []act
		want int
	}{
		{"ten secrets", many(10, 0, get, numbered), 1},
		{"nine secrets", many(9, 0, get, numbered), 0},
		{"one secret a hundred times", many(100, 0, get, func(int, *events.Activity) {}), 0},
		{"ten secrets denied", many(10, 0, get, numberedDenied), 0},
		{"three batches", many(3, 0, batch, func(int, *events.Activity) {}), 1},
		{"two batches and one secret", append(many(2, 0, batch, func(int, *events.Activity) {}), many(1, 0, get, numbered)...), 0},
		{"one batch of ten", many(1, 0, batch, func(_ int, a *events.Activity) { a.Count = 10 }), 1},
		{"the same batch again", many(9, 0, batch, func(_ int, a *events.Activity) { a.Resource = "p" }), 0},
		{"ten objects without a history", many(60, 0, "s3:GetObject", func(i int, a *events.Activity) { numbered(i, a); a.ActionClass = events.ClassRead }), 0},
		{"share a snapshot", []act{use(0, share, on("snap-1"))}, 1},
		{"share with itself", []act{use(0, share, func(a *events.Activity) { a.Target = "acme" })}, 0},
		{"share every day", []act{use(0, share), use(25*time.Hour, share), use(50*time.Hour, share)}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := play(t, "D23", nil, c.as...); len(got) != c.want {
				t.Errorf("%d findings, want %d", len(got), c.want)
			}
		})
	}
	// An hourly synchronisation of 40 secrets is alerted about once a day at first,
	// and is a habit from the second day on.
	var as []act
	for i := range 24 * 4 {
		as = append(as, many(40, time.Duration(i)*time.Hour, get, numbered)...)
	}
	days := map[int]int{}
	f := NewFacts(DefaultConfig())
	var s State
	for i, a := range as {
		in := Prepare(fmt.Sprintf("e%d", i), "acme", t0.Add(a.after), &a.Activity, f)
		if massRead(in, &s) != nil {
			days[int(a.after/(24*time.Hour))]++
		}
	}
	if days[0] == 0 || days[2] > 0 || days[3] > 0 {
		t.Errorf("findings per day: %v", days)
	}
	// A history of few objects makes many of them stand out.
	as = nil
	for i := range 120 {
		as = append(as, use(time.Duration(i)*time.Hour, "s3:GetObject", on(fmt.Sprint("o", i)), func(a *events.Activity) { a.ActionClass = events.ClassRead }))
	}
	as = append(as, many(60, 200*time.Hour, "s3:GetObject", func(i int, a *events.Activity) { numbered(i, a); a.ActionClass = events.ClassRead })...)
	if got := play(t, "D23", nil, as...); len(got) == 0 || got[0].Severity != events.SeverityMedium {
		t.Errorf("60 objects with a habit of 1: %+v", got)
	}
}

func TestPrivescChain(t *testing.T) {
	user := on("userName=eve")
	f := NewFacts(DefaultConfig())
	f.Register("acme", events.Registration{Identity: "bot", Scopes: []string{"iam:*"}})
	steps := []act{use(0, "iam:CreateUser", user), use(time.Minute, "iam:AttachUserPolicy", user), use(2*time.Minute, "iam:CreateAccessKey", user)}
	for _, c := range []struct {
		name string
		f    *Facts
		as   []act
		want int
	}{
		{"create and grant, then a key", nil, steps, 2},
		{"any order of arrival", nil, []act{steps[2], steps[0], steps[1]}, 1},
		{"create only", nil, steps[:1], 0},
		{"grant only", nil, steps[1:2], 0},
		{"two different users", nil, []act{steps[0], use(time.Minute, "iam:AttachUserPolicy", on("userName=bob"))}, 0},
		{"two hours apart", nil, []act{steps[0], use(2*time.Hour, "iam:AttachUserPolicy", user)}, 0},
		{"declared", f, steps, 0},
		{"to itself", nil, []act{use(0, "iam:PutUserPolicy", on("userName=bot"))}, 1},
		{"denied", nil, []act{use(0, "iam:PutUserPolicy", on("userName=bot"), denied)}, 0},
		{"grant and take", nil, []act{use(0, "iam:AttachRolePolicy", on("roleName=r")), use(time.Minute, "sts:AssumeRole", on("arn:aws:iam::1:role/r"))}, 1},
		{"every day", nil, append(slices.Clone(steps[:2]), use(30*time.Hour, "iam:CreateUser", user), use(30*time.Hour, "iam:AttachUserPolicy", user)), 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := play(t, "D24", c.f, c.as...); len(got) != c.want {
				t.Errorf("%d findings, want %d", len(got), c.want)
			}
		})
	}
	key := func(net string) func(*events.Activity) {
		return func(a *events.Activity) { a.Identity, a.Credential, a.SourceIP = "eve", "AKIA1", net }
	}
	minted := use(0, "iam:CreateAccessKey", user, func(a *events.Activity) { a.MintedID, a.SourceIP = "AKIA1", "192.0.2.1" })
	wantOne(t, play(t, "D24", nil, minted, use(time.Minute, "s3:List", key("192.0.2.1"))), events.SeverityHigh)
	wantOne(t, play(t, "D24", nil, minted, use(time.Minute, "s3:List", key("198.51.100.1"))), "")
	wantOne(t, play(t, "D24", nil, minted, use(2*time.Hour, "s3:List", key("192.0.2.1"))), "")
}

func TestListedActions(t *testing.T) {
	f := NewFacts(DefaultConfig())
	f.Register("acme", events.Registration{Identity: "bot", Scopes: []string{"cloudtrail:StopLogging", "lambda:UpdateFunctionCode", "iam:CreateAccessKey"}})
	for _, c := range []struct {
		name, detector string
		f              *Facts
		as             []act
		want           events.Severity
	}{
		{"stop logging", "D26", nil, []act{use(0, "cloudtrail:StopLogging")}, events.SeverityHigh},
		{"other spelling", "D26", nil, []act{use(0, "CloudTrail:stoplogging")}, events.SeverityHigh},
		{"denied", "D26", nil, []act{use(0, "cloudtrail:StopLogging", denied)}, events.SeverityMedium},
		{"failed", "D26", nil, []act{use(0, "cloudtrail:StopLogging", func(a *events.Activity) { a.Outcome = events.OutcomeError })}, ""},
		{"declared", "D26", f, []act{use(0, "cloudtrail:StopLogging")}, ""},
		{"reading", "D26", nil, []act{use(0, "cloudtrail:DescribeTrails")}, ""},
		{"a day later it is usual", "D26", nil, []act{use(0, "cloudtrail:StopLogging"), use(25*time.Hour, "cloudtrail:StopLogging")}, events.SeverityHigh},
		{"a key for another", "D27", nil, []act{use(0, "iam:CreateAccessKey", on("userName=eve"))}, events.SeverityMedium},
		{"a key for itself", "D27", nil, []act{use(0, "iam:CreateAccessKey", on("userName=bot"))}, ""},
		{"a key, declared", "D27", f, []act{use(0, "iam:CreateAccessKey", on("userName=eve"))}, ""},
		{"a trust policy", "D27", nil, []act{use(0, "iam:UpdateAssumeRolePolicy", on("roleName=r"))}, events.SeverityHigh},
		{"a trust policy, denied", "D27", nil, []act{use(0, "iam:UpdateAssumeRolePolicy", denied)}, ""},
		{"sensitive", "D13", nil, []act{use(0, "ssm:SendCommand")}, events.SeverityMedium},
		{"sensitive, dated name", "D13", nil, []act{use(0, "lambda:UpdateFunctionCode20150331v2")}, events.SeverityMedium},
		{"sensitive, declared", "D13", f, []act{use(0, "lambda:UpdateFunctionCode")}, ""},
		{"sensitive, by a cloud service", "D13", nil, []act{use(0, "ssm:SendCommand", func(a *events.Activity) { a.SourceService = "events" })}, ""},
		{"not sensitive", "D13", nil, []act{use(0, "ec2:DescribeInstances")}, ""},
	} {
		t.Run(c.name, func(t *testing.T) { wantOne(t, play(t, c.detector, c.f, c.as...), c.want) })
	}
}

// TestExplanationsAreTrue recomputes what an explanation says of the past.
func TestExplanationsAreTrue(t *testing.T) {
	stop := "cloudtrail:StopLogging"
	got := play(t, "D26", nil, use(0, "a:b"), use(time.Minute, "c:d"), use(2*time.Minute, stop), use(2*time.Hour, stop))
	if len(got) != 2 {
		t.Fatalf("%d findings, want 2", len(got))
	}
	if !strings.Contains(got[0].Explanation, "not among the 2 actions remembered of it (2 earlier uses)") {
		t.Error(got[0].Explanation)
	}
	if !strings.Contains(got[1].Explanation, "its 1 earlier uses of it began at 2026-03-02T10:02:00Z") {
		t.Error(got[1].Explanation)
	}
}
