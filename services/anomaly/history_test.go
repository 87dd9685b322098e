package anomaly

import (
	"fmt"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// habits makes the detectors speak that compare with what an identity did before.
func habits(t *testing.T) []events.Event {
	var es []events.Event
	n := 0
	use := func(who string, after time.Duration, change func(*events.Activity)) {
		a := events.Activity{Identity: who, Action: "s3:GetObject", Destination: "s3@eu", Resource: "bucket=a", SourceIP: "192.0.2.1", SourceCountry: "NL",
			Workload: "job", UserAgent: "sdk/1", Outcome: events.OutcomeSuccess}
		if change != nil {
			change(&a)
		}
		es = append(es, event(t, "acme", fmt.Sprint("h", n), t0.Add(after), events.APICalled{Activity: a}))
		n++
	}
	usual := func(who string) {
		for i := range 60 {
			use(who, time.Duration(i)*time.Minute, nil)
		}
	}
	for _, who := range []string{"d10", "d11", "d12"} {
		usual(who)
	}
	use("d10", 70*time.Minute, func(a *events.Activity) { a.SourceIP, a.SourceCountry, a.Destination = "198.51.100.1", "XX", "kms@eu" })
	use("d11", 70*time.Minute, func(a *events.Activity) { a.Workload, a.UserAgent, a.Destination = "laptop", "curl/8", "kms@eu" })
	use("d12", 70*time.Minute, func(a *events.Activity) { a.Action, a.Destination, a.Resource = "kms:Decrypt", "kms@eu", "key=1" })
	use("d14", 0, func(a *events.Activity) { a.Session, a.Credential = "s", "k" })
	use("d14", time.Minute, func(a *events.Activity) { a.Session, a.Credential, a.SourceIP = "s", "k", "198.51.100.1" })
	for i := range 60 {
		use("d15", time.Duration(i)*6*time.Hour, func(a *events.Activity) { a.Workload = []string{"red", "blue"}[i%2] })
	}
	for i := range 14 {
		use("d17", time.Duration(i)*24*time.Hour, nil)
	}
	use("d17", 200*24*time.Hour, func(a *events.Activity) { a.SourceIP = "198.51.100.1" })
	for i := range 30 {
		use("d21", time.Duration(i)*time.Hour, nil)
	}
	for i := range 60 {
		use("d21", 31*time.Hour+time.Duration(i)*time.Second, nil)
	}
	for i := range 10 {
		use("d22", time.Duration(i)*time.Second, func(a *events.Activity) { a.Outcome = events.OutcomeError })
	}
	es = append(es, event(t, "acme", "rot", t0, events.RotationActivated{Rotation: events.Rotation{Rotation: "r", Object: "key", KeyID: "k2", Previous: "k1", At: t0, Reason: "due"}}),
		event(t, "acme", "gone", t0, events.OwnerDeparted{Owner: "left"}),
		registered(t, "decoy", "o", "lanyard-decoy"), registered(t, "orphan", "left", "f"))
	use("d03", 30*time.Hour, func(a *events.Activity) { a.Credential = "k1" })
	use("d04", 0, func(a *events.Activity) { a.JTI = "j" })
	use("d04", time.Minute, func(a *events.Activity) { a.JTI, a.SourceIP, a.UserAgent = "j", "198.51.100.1", "curl/8" })
	use("decoy", 0, nil)
	use("orphan", 48*time.Hour, nil)
	return es
}

func registered(t *testing.T, id, owner, feature string) events.Event {
	return event(t, "acme", "reg-"+id, t0, events.IdentityRegistered{Registration: events.Registration{Identity: id, Kind: events.KindServiceAccount,
		Owner: owner, Feature: feature, Purpose: "p", KillSwitch: "identity"}})
}
