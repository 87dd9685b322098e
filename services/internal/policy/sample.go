package policy

import (
	"fmt"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
)

// Thousand is the text of 1,000 policies as a large installation has them: for all, for
// tenants, for owners and features, for single identities and for audiences.
// Benchmarks decide by them.
func Thousand() string {
	var b strings.Builder
	n := 0
	add := func(format string, args ...any) {
		fmt.Fprintf(&b, `@id("p%d") `+format+"\n", append([]any{n}, args...)...)
		n++
	}
	add(`permit (principal, action, resource) when { context.depth <= 4 };`)
	add(`forbid (principal, action, resource) when { ["high", "critical"].contains(principal.risk) };`)
	add(`forbid (principal, action, resource) when { context.environment == "production" && context.data_sensitivity == "secret" };`)
	add(`@max_ttl("2m") permit (principal, action, resource) when { context.environment == "production" };`)
	for n < 1000 {
		i := n
		switch i % 5 {
		case 0:
			add(`forbid (principal in Lanyard::Tenant::"tenant-%d", action, resource) when { context.scope == "write" && context.from.tenant != "" };`, i)
		case 1:
			add(`permit (principal in Lanyard::Owner::"tenant-%d/owner-%d", action, resource) when { context.scope like "read*" };`, i%1000, i)
		case 2:
			add(`forbid (principal in Lanyard::Feature::"tenant-%d/feature-%d", action, resource) unless { principal.kind == "agent" };`, i%1000, i)
		case 3:
			add(`permit (principal == Lanyard::Identity::"tenant-%d/agent-%d", action, resource) when { context.time < datetime("2030-01-01") };`, i%1000, i)
		case 4:
			add(`forbid (principal, action, resource == Lanyard::Audience::"https://%d.example") when { context.attestation.issuer != "https://idp.example" };`, i)
		}
	}
	return b.String()
}

// MillionthIdentity is a first grant to the i-th of 1,000,000 identities in 1,000
// tenants, of which the policies of Thousand name some.
func MillionthIdentity(i int) Facts {
	tenant := fmt.Sprintf("tenant-%d", i%1000)
	return Facts{Tenant: tenant, Identity: fmt.Sprintf("agent-%d", i), Task: "task-1", Time: time.Unix(1_800_000_000, 0), Context: events.DecisionContext{
		Kind: events.KindAgent, Owner: fmt.Sprintf("owner-%d", i%1000), Feature: fmt.Sprintf("feature-%d", i%1000), IdentityPurpose: "reads reports",
		Grant: "jwt-bearer", Environment: "production", Attestation: events.Attestation{Issuer: "https://idp.example", Subject: "wl"}}}
}
