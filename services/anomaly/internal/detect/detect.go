// Package detect holds the detectors: pure functions of one input, the bounded
// state of one identity and the facts of the log. They read no clock, hold no
// locks and do no input or output. Only the engine beside it and the anomaly
// service import it.
package detect

import (
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// Lateness is how long after its event time a record may arrive and still be judged
// as if it had come in time. Audit logs were seen to be up to 608 s late.
const Lateness = 10 * time.Minute

// Response is the most that a detector may ask for.
type Response string

// The responses, weakest first.
const (
	RespondAlert   Response = "alert"   // tell people
	RespondContain Response = "contain" // freeze, reversible
	RespondRevoke  Response = "revoke"  // end; only on deterministic evidence
)

// Info documents a detector.
type Info struct {
	ID          string          `json:"id"`          // such as "D01"
	Name        string          `json:"name"`        // such as "use_after_revoke"
	Catches     string          `json:"catches"`     // one sentence
	Fields      []string        `json:"fields"`      // what it reads of the neutral event or the log
	Method      string          `json:"method"`      // how it decides, with its thresholds
	StateBytes  int             `json:"state_bytes"` // per identity, at most
	Explanation string          `json:"explanation"` // template of what it says
	Severity    events.Severity `json:"severity"`    // the usual one
	References  []string        `json:"references"`  // OWASP NHI Top 10 2025, ATT&CK and ATLAS ids
	Response    Response        `json:"response"`
}

// Input is one record of use with what is known around it.
type Input struct {
	ID       string // event id
	Tenant   string // tenant of the event
	Time     time.Time
	Activity *events.Activity
	Facts    *Facts
	Reg      *events.Registration // of the identity; nil when it is not registered
	Tags     Tag                  // what the action table knows about the action
}

// Prepare fills what an Input derives from its activity.
func Prepare(id, tenant string, t time.Time, a *events.Activity, f *Facts) *Input {
	in := &Input{ID: id, Tenant: tenant, Time: t, Activity: a, Facts: f, Tags: TagsOf(a.Action)}
	if !in.Foreign() {
		in.Reg = f.Registration(tenant, a.Identity)
	}
	return in
}

// Foreign reports whether the identity belongs to another tenant of ours than the
// one that reported the use. Its registration is then not shown to the reporter.
func (in *Input) Foreign() bool {
	t := in.Activity.IdentityTenant
	return t != "" && t != in.Tenant && in.Facts.Known(t)
}

// IdentityTenant is the tenant the identity belongs to.
func (in *Input) IdentityTenant() string {
	if in.Activity.IdentityTenant != "" {
		return in.Activity.IdentityTenant
	}
	return in.Tenant
}

// Succeeded reports whether the action was carried out.
func (in *Input) Succeeded() bool { return in.Activity.Outcome == events.OutcomeSuccess }

// Finding is what a detector concludes.
type Finding struct {
	Detector    string // when it is not the row's own
	Incident    string // what tells incidents apart, when it is not the detector
	Severity    events.Severity
	Explanation string
	Value       string
	Baseline    string
	Count       int64
	Threshold   float64
	Response    Response
	Evidence    []string  // ids of earlier events that belong to it, oldest first
	Since       time.Time // event time of the oldest of them; zero: the input's
	Credential  string    // when not the activity's own
}

// Detector is one row of the table of detectors that look at activities.
type Detector struct {
	Info
	// Judge looks at one activity. It may change only its own part of the state.
	Judge func(in *Input, s *State) *Finding
}

// Activities lists the detectors that look at activities, in a fixed order. Those
// that look at the log only are in Catalog as well.
func Activities() []Detector {
	return []Detector{
		{useAfterRevokeInfo, useAfterRevoke},
		{useAfterExpiryInfo, useAfterExpiry},
		{replayInfo, tokenReplay},
		{crossTenantInfo, crossTenant},
		{delegationInfo, delegatedUse},
		{canaryInfo, canaryUsed},
		{orphanInfo, orphanActive},
		{newNetworkInfo, unfamiliar},
		{supersededInfo, supersededUse}, // behind D10, which knows what is new
		{secretExposedInfo, exposedUse},
		{newActionInfo, newAction},
		{concurrentInfo, concurrent},
		{sharedInfo, sharedIdentity},
		{humanUseInfo, humanUse},
		{dormantInfo, dormantWakeup},
		{deniedProbeInfo, deniedProbe},
		{rateInfo, rateBurst},
		{retryInfo, retryStorm},
		{massReadInfo, massRead},
		{privescInfo, privescChain},
		{evasionInfo, defenceEvasion},
		{trustAddedInfo, trustAdded},
	}
}

// Catalog documents every detector, in the order of their ids.
func Catalog() []Info {
	return []Info{useAfterRevokeInfo, useAfterExpiryInfo, supersededInfo, replayInfo, crossTenantInfo, delegationInfo, canaryInfo,
		secretExposedInfo, orphanInfo, newNetworkInfo, newWorkloadInfo, newDestinationInfo, newActionInfo, concurrentInfo, sharedInfo,
		humanUseInfo, dormantInfo, deniedProbeInfo, rateInfo, retryInfo, massReadInfo, privescInfo, evasionInfo, trustAddedInfo, fanOutInfo}
}

// InfoOf finds a detector's documentation by id.
func InfoOf(id string) (Info, bool) {
	for _, i := range Catalog() {
		if i.ID == id {
			return i, true
		}
	}
	return Info{}, false
}

// Clip shortens a text that comes from outside to at most n bytes, whole runes.
func Clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xC0 == 0x80 {
		n--
	}
	return s[:n] + "..."
}

// clip is Clip at the length that explanations use.
func clip(s string) string { return Clip(s, 160) }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// network says where a use came from, as well as the record tells.
func network(a *events.Activity) string {
	switch {
	case a.SourceIP != "":
		return clip(a.SourceIP)
	case a.SourceService != "":
		return clip(a.SourceService)
	case a.VPCEndpoint != "":
		return clip(a.VPCEndpoint)
	}
	return "an unrecorded network"
}

// declared reports whether the registration names the action among its scopes,
// whole or with the prefix pattern "service:*".
func declared(in *Input) bool {
	if in.Reg == nil {
		return false
	}
	for _, s := range in.Reg.Scopes {
		if strings.EqualFold(s, in.Activity.Action) {
			return true
		}
		if p, ok := strings.CutSuffix(s, ":*"); ok && len(in.Activity.Action) > len(p) &&
			strings.EqualFold(in.Activity.Action[:len(p)+1], p+":") {
			return true
		}
	}
	return false
}

// object is what an action was about, for counting distinct ones.
func object(a *events.Activity) string {
	if a.Resource != "" {
		return a.Resource
	}
	if a.Target != "" {
		return a.Target
	}
	return a.Destination
}

// principal is the last part of a name such as an ARN or "userName=x".
func principal(s string) string {
	if i := strings.LastIndexAny(s, "/="); i >= 0 && i+1 < len(s) {
		return s[i+1:]
	}
	return s
}

// platform reports whether the identity is a controller of the platform itself, such as
// Kubernetes' controller manager; service accounts and anonymous callers are not.
func platform(a *events.Activity) bool {
	name, ok := strings.CutPrefix(a.Identity, "system:")
	return ok && !strings.HasPrefix(name, "serviceaccount:") && name != "anonymous" && name != "unauthenticated"
}
