package policy

import (
	"fmt"
	"iter"
	"slices"
	"testing"
	"time"

	"github.com/cedar-policy/cedar-go"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/lanyard-nhi/lanyard/events"
)

// TestSliceDecidesAlike: what the index leaves out changes neither decision nor
// reasons, whatever the policies' scopes are.
func TestSliceDecidesAlike(t *testing.T) {
	name := rapid.SampledFrom([]string{"a", "b", "c"})
	principal := rapid.Custom(func(t *rapid.T) string {
		e := fmt.Sprintf(rapid.SampledFrom([]string{`Lanyard::Identity::"%[1]s/%[2]s"`, `Lanyard::Owner::"%[1]s/%[2]s"`, `Lanyard::Feature::"%[1]s/%[2]s"`, `Lanyard::Tenant::"%[1]s"`}).Draw(t, "entity"),
			name.Draw(t, "tenant"), name.Draw(t, "id"))
		return rapid.SampledFrom([]string{"principal", "principal is Lanyard::Identity", "principal in " + e, "principal is Lanyard::Identity in " + e}).Draw(t, "scope")
	})
	resource := rapid.Custom(func(t *rapid.T) string {
		e := `Lanyard::Audience::"` + name.Draw(t, "audience") + `"`
		return rapid.SampledFrom([]string{"resource", "resource is Lanyard::Audience", "resource == " + e, "resource in " + e}).Draw(t, "scope")
	})
	rapid.Check(t, func(t *rapid.T) {
		text := ""
		for i := range rapid.IntRange(1, 12).Draw(t, "policies") {
			text += fmt.Sprintf("@id(\"p%d\") %s (%s, action, %s) when { context.scope == %q || principal.risk == %q };\n", i,
				rapid.SampledFrom([]string{"permit", "permit", "forbid"}).Draw(t, "effect"), principal.Draw(t, "principal"), resource.Draw(t, "resource"),
				name.Draw(t, "scope"), rapid.SampledFrom([]string{"low", "high"}).Draw(t, "risk"))
		}
		s, err := Parse([]File{{"a.cedar", text}})
		require.NoError(t, err, text)
		owner := rapid.SampledFrom([]string{"", "a", "b"})
		q := s.Ask(Facts{Tenant: name.Draw(t, "tenant"), Identity: name.Draw(t, "identity"), Time: time.Unix(0, 0), Context: events.DecisionContext{
			Kind: events.KindAgent, Owner: owner.Draw(t, "owner"), Feature: owner.Draw(t, "feature"), Risk: rapid.SampledFrom([]string{"", "high"}).Draw(t, "risk")}})
		scope, audience := name.Draw(t, "asked scope"), name.Draw(t, "asked audience")
		got := q.Decide(scope, audience)
		decision, diag := cedar.Authorize(whole{s}, &q.entities, q.request(scope, audience))
		want := []string(nil)
		for _, r := range diag.Reasons {
			want = append(want, string(r.PolicyID))
		}
		slices.Sort(want)
		require.Empty(t, diag.Errors)
		require.Equal(t, bool(decision), got.Allowed)
		require.Equal(t, want, got.Reasons)
	})
}

// whole is every policy of a set.
type whole struct{ *Set }

func (w whole) All() iter.Seq2[cedar.PolicyID, *cedar.Policy] {
	return func(yield func(cedar.PolicyID, *cedar.Policy) bool) {
		for id, r := range w.rules {
			if !yield(id, r.policy) {
				return
			}
		}
	}
}

// BenchmarkDecide: one decision of 1,000 policies about one of 1,000,000 identities,
// with everything it takes to ask.
func BenchmarkDecide(b *testing.B) {
	s := parse(b, Thousand())
	var v Verdict
	i := 0
	for b.Loop() {
		i = (i*7919 + 1) % 1_000_000
		v = s.Ask(MillionthIdentity(i)).Decide("read", "https://a.example")
	}
	require.NotEmpty(b, v.Version)
}
