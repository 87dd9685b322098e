package policy

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestExampleHolds: what init writes is valid, passes its tests, and each of its
// policies is tested.
func TestExampleHolds(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "policies")
	written, err := Init(dir)
	require.NoError(t, err)
	require.Len(t, written, 3)
	files, err := LoadDir(dir)
	require.NoError(t, err)
	s, err := Parse(files)
	require.NoError(t, err)
	cases, err := LoadCases(dir)
	require.NoError(t, err)
	report := s.Test(cases)
	for _, r := range report.Results {
		require.Empty(t, r.Faults, r.Name)
	}
	require.Len(t, report.Results, 5)
	require.Empty(t, report.Uncovered)
	_, err = Init(dir)
	require.ErrorContains(t, err, "exists already")
}

func TestFailuresSayWhatDiffers(t *testing.T) {
	s := parse(t, permitAll, `@id("f") @reason("not here") forbid (principal, action, resource) when { context.scope == "write" };`,
		`@id("short") @max_ttl("1m") permit (principal, action, resource) when { context.environment == "production" };`)
	cases, err := ParseCases("tests/a.yaml", []byte(`
cases:
  - {name: a, identity: {tenant: acme, name: bot}, scope: write, audience: x, expect: {decision: allow}}
  - name: b
    identity: {tenant: acme, name: bot}
    scope: read
    audience: x
    exceptions: [f]
    expect: {decision: deny, reasons: [f, all], max_ttl: 2m, leans_on: [f]}
  - {name: c, identity: {tenant: acme, name: bot}, scope: read, audience: x, expect: {decision: allow, reasons: [], leans_on: []}}
`))
	require.NoError(t, err)
	report := s.Test(cases)
	require.Equal(t, 3, report.Failed)
	require.Equal(t, []string{"short"}, report.Uncovered)
	require.Equal(t, []string{"decision: want allow, got deny: not here (policy f)"}, report.Results[0].Faults)
	require.Equal(t, []string{"decision: want deny, got allow: permitted by all", "reasons: want [all, f], got [all]", "leans_on: want [f], got []", "max_ttl: want 2m0s, got none"}, report.Results[1].Faults)
	require.Equal(t, []string{"reasons: want [], got [all]"}, report.Results[2].Faults)
	require.Equal(t, []int{3, 4, 10}, []int{cases[0].Line, cases[1].Line, cases[2].Line})
}

func TestCasesAreStrict(t *testing.T) {
	for text, want := range map[string]string{
		``:                               "no cases",
		`cases: []`:                      "no cases",
		"tests: []":                      "field tests not found",
		"cases:\n  - name: a":            `a.yaml:2: case "a": give identity.tenant`,
		"cases:\n  - {nam: a}":           "a.yaml:2: ",
		"cases:\n  - {name: a, name: b}": "a.yaml",
		"cases:\n  - {name: a, identity: {tenant: t, name: n}, scope: s, audience: x, expect: {decision: maybe}}":                         "allow or deny",
		"cases:\n  - {name: a, identity: {tenant: t, name: n}, scope: s, audience: x, expect: {decision: allow, max_ttl: 2x}}":            "max_ttl must be",
		"cases:\n  - {name: a, identity: {tenant: t, name: n}, scope: s, audience: x, context: {environs: p}, expect: {decision: allow}}": "environs not found",
	} {
		_, err := ParseCases("a.yaml", []byte(text))
		require.ErrorContains(t, err, want, text)
	}
}

func TestLoadDir(t *testing.T) {
	dir := t.TempDir()
	_, err := LoadDir(filepath.Join(dir, "missing"))
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = LoadDir(dir)
	require.ErrorContains(t, err, "holds no *.cedar file")
	for _, name := range []string{"b.cedar", "a.cedar", "notes.txt"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600))
	}
	files, err := LoadDir(dir)
	require.NoError(t, err)
	require.Equal(t, []File{{"a.cedar", "a.cedar"}, {"b.cedar", "b.cedar"}}, files)
	cases, err := LoadCases(dir)
	require.NoError(t, err)
	require.Empty(t, cases)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "x_test.yaml"), []byte("cases: 1"), 0o600))
	_, err = LoadCases(dir)
	require.ErrorContains(t, err, "x_test.yaml")
}
