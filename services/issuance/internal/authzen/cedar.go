package authzen

import (
	"slices"
	"time"

	json "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/policy"
)

// ReasonContext denies a question whose context is not what policies read.
const ReasonContext = "context_not_text"

// Cedar decides questions by the policies that decide tokens: an identity may use a
// scope (the action) at an audience (the resource) when its registration has both and
// the policies permit it. Of the question's context it reads the texts task, purpose,
// environment and data_sensitivity; an enforcement point knows them better than the
// workload. It answers for a first grant: depth 0, nobody delegates.
type Cedar struct {
	Set *policy.Set
	// Exceptions are those in force for an identity of a feature.
	Exceptions func(now time.Time, tenant, identity, feature string) []events.ExceptionGranted
}

// Version implements Policy.
func (c Cedar) Version() string { return c.Set.Version() }

// Decide implements Policy.
func (c Cedar) Decide(q Question) (Verdict, error) {
	e, reg := q.Evaluation, q.Registration
	if e.Resource.Type != TypeAudience || !slices.Contains(reg.Scopes, e.Action.Name) || !slices.Contains(reg.Audiences, e.Resource.ID) {
		return Verdict{}, nil
	}
	task, okay := said(e.Context)
	if !okay {
		return Verdict{Reasons: []string{ReasonContext}}, nil
	}
	f := policy.Facts{Tenant: q.Tenant, Identity: reg.Identity, Task: task.Task, Time: q.Now, Context: events.DecisionContext{
		Kind: reg.Kind, Owner: reg.Owner, Feature: reg.Feature, IdentityPurpose: reg.Purpose, Backend: reg.Backend, Vendor: reg.Vendor,
		VendorManaged: reg.VendorManaged, Risk: q.Risk, Purpose: task.Purpose, Environment: task.Environment, Sensitivity: task.Sensitivity}}
	if len(reg.Attestation) == 1 {
		f.Context.Attestation = reg.Attestation[0]
	}
	for _, x := range c.Exceptions(q.Now, q.Tenant, reg.Identity, reg.Feature) {
		f.Exceptions = append(f.Exceptions, policy.Exception{ID: x.Exception, Policy: x.Policy, Scopes: x.Scopes, Audiences: x.Audiences})
	}
	v := c.Set.Ask(f).Decide(e.Action.Name, e.Resource.ID)
	return Verdict{v.Allowed, v.Reasons, v.Exceptions}, nil
}

// task is what a question's context says of the task.
type task struct {
	Task        string `json:"task"`
	Purpose     string `json:"purpose"`
	Environment string `json:"environment"`
	Sensitivity string `json:"data_sensitivity"`
}

// said reads context; ok is false when a member that policies see is not text. Other
// members are whatever they are.
func said(context jsontext.Value) (t task, ok bool) {
	if len(context) == 0 {
		return t, true
	}
	err := json.Unmarshal(context, &t)
	return t, err == nil
}
