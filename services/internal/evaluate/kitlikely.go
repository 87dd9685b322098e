package evaluate

import (
	"fmt"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/anomaly"
)

// contextDetectors answer what is new about where, by what and to what.
func contextDetectors() []string { return []string{"D10", "D11", "D12", "D13", "D14"} }

// likelyFamilies are the injections that statistics decide.
func likelyFamilies() []family {
	return []family{
		{"new_network", contextDetectors(), false, thief(func(a *events.Activity) { a.SourceIP, a.UserAgent, a.Action = "203.0.113.9", "curl/8", "git:list" }),
			thief(func(a *events.Activity) { a.SourceIP = a.SourceIP[:len(a.SourceIP)-1] + "9" })},
		{"new_workload", contextDetectors(), false, thief(func(a *events.Activity) { a.Workload, a.UserAgent, a.Action = "laptop", "curl/8", "git:list" }),
			thief(func(a *events.Activity) { a.UserAgent = "builder/3.2" })},
		{"new_destination", contextDetectors(), false, thief(func(a *events.Activity) { a.Destination, a.Resource, a.Action = "vault", "path=x", "vault:list" }), thief(func(*events.Activity) {})},
		{"new_action", []string{"D13"}, false, thief(func(a *events.Activity) { a.Action = "lambda:UpdateFunctionCode" }), declaredAction},
		{"concurrent", []string{"D14"}, false, twoPlaces, knownPair},
		{"shared_identity", []string{"D15"}, false, func(t *trial) { sides(t, true) }, func(t *trial) { sides(t, false) }},
		{"human_use", []string{"D16"}, false, thief(func(a *events.Activity) { a.Action, a.Interactive = "signin:ConsoleLogin", true }), thief(func(*events.Activity) {})},
		{"dormant", []string{"D17"}, false, wakes, yearly},
		{"denied_probe", []string{"D20"}, false, func(t *trial) { denials(t, true) }, func(t *trial) { denials(t, false) }},
		{"rate_burst", []string{"D21"}, false, func(t *trial) { bursts(t, 400) }, func(t *trial) { bursts(t, 25) }},
		{"retry_storm", []string{"D22"}, false, storm, backoff},
		{"mass_read", []string{"D23"}, false, func(t *trial) { reads(t, true) }, func(t *trial) { reads(t, false) }},
		{"privilege_chain", []string{"D24"}, false, func(t *trial) { chain(t, false) }, func(t *trial) { chain(t, true) }},
	}
}

// thief makes ten uses, a minute apart, that differ from the usual one.
func thief(change func(*events.Activity)) func(*trial) {
	return func(t *trial) {
		for i := range swapActs {
			t.use(time.Duration(i)*time.Minute, true, func(a *events.Activity) { success(a); change(a) })
		}
	}
}

func declaredAction(t *trial) {
	t.register(func(r *events.Registration) { r.Scopes = []string{"lambda:UpdateFunctionCode"} })
	t.use(0, true, func(a *events.Activity) { success(a); a.Action = "lambda:UpdateFunctionCode" })
}

func twoPlaces(t *trial) {
	t.use(0, false, func(a *events.Activity) { success(a); a.Session = "s-" + t.name })
	t.use(t.seconds(5, 240), true, func(a *events.Activity) { success(a); a.Session, a.SourceIP = "s-"+t.name, "203.0.113.9" })
}

// knownPair leaves by two addresses for days; the last pair is the one in question.
func knownPair(t *trial) {
	for d := range 6 {
		at := time.Duration(d) * 24 * time.Hour
		t.use(at, false, func(a *events.Activity) { success(a); a.Session = "s" })
		t.use(at+time.Minute, d == 5, func(a *events.Activity) { success(a); a.Session, a.SourceIP = "s", "203.0.113.9" })
	}
}

// sides lets two workloads use the identity side by side, or one after the other.
func sides(t *trial, together bool) {
	for i := range 400 {
		t.use(time.Duration(i)*time.Hour, true, func(a *events.Activity) {
			success(a)
			a.Workload = "green"
			if together && i%2 == 0 || !together && i < 200 {
				a.Workload = "blue"
			}
		})
	}
}

// wakes is silent for longer than ever, then used from elsewhere half the time and as
// always the other half.
func wakes(t *trial) {
	longest := 30 * 24 * time.Hour
	for i := 1; i < len(t.history); i++ {
		longest = max(longest, t.history[i].at.Sub(t.history[i-1].at))
	}
	t.use(time.Duration(4.2*float64(longest))+t.seconds(0, 86400), true, func(a *events.Activity) {
		success(a)
		if t.rnd.IntN(2) == 0 {
			a.SourceIP, a.UserAgent = "203.0.113.9", "curl/8"
		}
	})
}

// yearly runs four days in a row once a year.
func yearly(t *trial) {
	t.history = nil
	for y := range 5 {
		for d := range 4 {
			t.use(time.Duration(y*365+d)*24*time.Hour, y == 4, success)
		}
	}
}

func denials(t *trial, different bool) {
	for i := range 30 {
		t.use(time.Duration(i)*5*time.Second, true, func(a *events.Activity) {
			a.Outcome, a.Resource = events.OutcomeDenied, "thing"
			if different {
				a.Resource = fmt.Sprint("thing=", i)
				a.Action = fmt.Sprint("x:try", i)
			}
		})
	}
}

func bursts(t *trial, n int) {
	start := t.at.Truncate(time.Hour).Add(time.Hour).Sub(t.at)
	for i := range n {
		t.use(start+time.Duration(i)*8*time.Second, true, success)
	}
}

// storm retries what fails: at a constant pace, with doubling pauses up to two minutes,
// or with jitter.
func storm(t *trial) {
	kind, at, pause := t.rnd.IntN(3), time.Duration(0), time.Second
	for range 25 {
		t.use(at, true, func(a *events.Activity) { a.Outcome, a.Error = events.OutcomeError, "500" })
		switch kind {
		case 0:
			at += 2 * time.Second
		case 1:
			at += pause
			pause = min(2*pause, 2*time.Minute)
		default:
			at += time.Duration(500+t.rnd.IntN(4000)) * time.Millisecond
		}
	}
}

// backoff fails a few times and then succeeds.
func backoff(t *trial) {
	at := time.Duration(0)
	for i := range 7 {
		t.use(at, true, func(a *events.Activity) {
			a.Outcome, a.Error = events.OutcomeError, "503"
			if i == 6 {
				a.Outcome, a.Error = events.OutcomeSuccess, ""
			}
		})
		at += time.Second << i
	}
}

func reads(t *trial, different bool) {
	for i := range 15 {
		t.use(time.Duration(i)*30*time.Second, true, func(a *events.Activity) {
			success(a)
			a.Action, a.ActionClass, a.Resource = "secretsmanager:GetSecretValue", events.ClassSecret, "secret"
			if different {
				a.Resource = fmt.Sprint("secret-", i)
			}
		})
	}
}

func chain(t *trial, declared bool) {
	if declared {
		t.register(func(r *events.Registration) { r.Scopes = []string{"iam:*"} })
	}
	for i, action := range []string{"iam:CreateUser", "iam:AttachUserPolicy", "iam:CreateAccessKey"} {
		t.use(time.Duration(i)*time.Minute, true, func(a *events.Activity) { success(a); a.Action, a.Resource = action, "userName=kit" })
	}
}

// drift is what must stay quiet: one new value a week for months, and a roll-out that
// changes what all identities of one owner run on.
func drift(r *run, known []botStream) []Row {
	loud := 0
	for i := range kitTrials {
		t := newTrial(known, "drift", i)
		for w := range 20 {
			at := time.Duration(w) * 7 * 24 * time.Hour
			for k := range 5 {
				t.use(at+time.Duration(k)*time.Hour, true, func(a *events.Activity) { success(a); a.Resource = fmt.Sprintf("part-%c", 'a'+w) })
			}
		}
		if t.found(r.engine(), []string{"D10", "D11", "D12", "D13", "D17", "D21"}) {
			loud++
		}
	}
	return []Row{
		share("injected.slow_drift_alerts", loud, kitTrials).gated(atMost, 0.05),
		rollOut(r),
	}
}

// rollOut gives thirty identities of one owner a new workload, client and network on
// one day.
func rollOut(r *run) Row {
	g := r.engine()
	at := time.Date(2025, 3, 1, 0, 0, 0, 0, time.UTC)
	const fleet = 30
	alerted := map[string]bool{}
	for h := range 400 {
		for i := range fleet {
			a := &events.Activity{Identity: fmt.Sprint("svc-", i), Owner: "team", Action: "s3:GetObject", Destination: "s3@eu", Workload: "old", UserAgent: "sdk/1",
				SourceIP: "10.0.0.1", Outcome: events.OutcomeSuccess}
			if h >= 380 {
				a.Workload, a.UserAgent, a.SourceIP, a.Destination = "new", "sdk2/1", "10.9.0.1", "s3@us"
			}
			m := anomaly.Meta{ID: fmt.Sprint("roll-", h, "-", i), Source: "kit", Tenant: "public", Time: at.Add(time.Duration(h)*time.Hour + time.Duration(i)*time.Second)}
			for _, x := range alerts(g.Activity(m, a)) {
				alerted[x.Identity] = true
			}
		}
	}
	return number("injected.roll_out_identities_alerted", float64(len(alerted)), fleet).gated(atMost, 3).
		because("identities of 30 with an alert when a roll-out changes workload, client, network and region of all")
}
