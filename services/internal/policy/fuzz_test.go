package policy

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDeepNesting: text that nests without end is refused, and does not exhaust the stack.
func TestDeepNesting(t *testing.T) {
	for name, inner := range map[string]string{
		"parentheses": strings.Repeat("(", 600_000) + "true" + strings.Repeat(")", 600_000),
		"brackets":    strings.Repeat("[", 900_000),
		"records":     strings.Repeat("{a:", 600_000),
		"negations":   strings.Repeat("!", 1_500_000) + "true",
		"conditions":  strings.Repeat("if true then ", 150_000),
		"calls":       strings.Repeat("ip(", 600_000),
		"dots":        "context" + strings.Repeat(".a", 900_000),
		"ands":        "true" + strings.Repeat("&&true", 300_000),
		"sums":        "0 < 1" + strings.Repeat("+1", 900_000),
	} {
		_, err := Parse([]File{{"a.cedar", `@id("x") permit (principal, action, resource) when { ` + inner + ` };`}})
		require.ErrorContains(t, err, "longer than 16384 bytes", name)
		cut := inner[:min(len(inner), MaxPolicy-100)]
		_, err = Parse([]File{{"a.cedar", `@id("x") permit (principal, action, resource) when { ` + cut + ` };`}})
		require.NotContains(t, fmt.Sprint(err), "longer than", name)
	}
	for text, line := range map[string]int{
		"// " + strings.Repeat("x", 2*MaxPolicy) + "\n" + permitAll:                           0,
		strings.Repeat(permitAll+"\n", MaxPolicy):                                             0,
		"\n" + `@note("` + strings.Repeat(";", MaxPolicy) + `") ` + permitAll:                 2,
		"\n" + `@note("\"` + strings.Repeat(";//", MaxPolicy/2) + `") ` + permitAll:           2,
		`@note("` + strings.Repeat("x", MaxPolicy-100) + "\n" + `") ` + permitAll + permitAll: 0,
		`@note("` + strings.Repeat("\n", MaxPolicy+5) + `") ` + permitAll:                     MaxPolicy - 5,
	} {
		require.Equal(t, line, tooLong(text), "%.40q", text)
	}
}

// FuzzParse: no text makes the checks or a decision fail other than by an error.
func FuzzParse(f *testing.F) {
	for _, text := range []string{defaultText, Thousand()[:2000], permitAll, `@id("x") forbid (principal, action, resource) unless { context.time.toTime() > duration("1h") };`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse([]File{{"a.cedar", text}})
		if err != nil {
			return
		}
		again, err := Parse(s.Files())
		require.NoError(t, err)
		require.Equal(t, s.Ask(bot()).Decide("read", "x"), again.Ask(bot()).Decide("read", "x"))
	})
}
