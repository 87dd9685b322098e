package detect

import (
	"fmt"

	"github.com/lanyard-nhi/lanyard/events"
)

// DecoyFeature is the feature of identities that are registered as decoys: nothing
// runs on them, so every use is somebody who found the credential.
const DecoyFeature = "lanyard-decoy"

// canaryInfo documents D07.
var canaryInfo = Info{
	ID: "D07", Name: "canary_used",
	Catches:     "a decoy that is touched: an identity of the feature " + DecoyFeature + ", a credential or a resource on the list of decoys",
	Fields:      []string{"identity", "credential", "resource", "destination", "identity.registered feature"},
	Method:      "equality; a denied try counts as well",
	Explanation: "the decoy {x} was used from {net}",
	Severity:    events.SeverityCritical,
	References:  []string{"NHI2", "T1552"},
	Response:    RespondRevoke,
}

// Decoy notes that name, a credential or a resource of the tenant, is a decoy.
func (f *Facts) Decoy(tenant, name string) { f.decoys[pair{tenant, name}] = true }

// canaryUsed is D07.
func canaryUsed(in *Input, _ *State) *Finding {
	a := in.Activity
	what := ""
	if in.Reg != nil && in.Reg.Feature == DecoyFeature {
		what = in.Reg.Identity
	}
	if what == "" && len(in.Facts.decoys) > 0 {
		for _, name := range [...]string{a.Credential, a.JTI, a.Resource, a.Destination} {
			if name != "" && in.Facts.decoys[pair{in.Tenant, name}] {
				what = name
				break
			}
		}
	}
	if what == "" {
		return nil
	}
	return &Finding{
		Severity: events.SeverityCritical,
		Explanation: fmt.Sprintf("the decoy %s was touched by %s with %s on %s (%s) at %s from %s; nothing has a reason to",
			clip(what), clip(a.Identity), clip(a.Action), clip(object(a)), clip(string(a.Outcome)), stamp(in.Time), network(a)),
		Value:     "use of the decoy " + clip(what),
		Baseline:  "no use, ever",
		Count:     1,
		Threshold: 1,
		Response:  RespondRevoke,
	}
}
