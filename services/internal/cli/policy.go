package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/services/internal/policy"
	"github.com/spf13/cobra"
)

// activePolicies is the set in force as issuance answers it.
type activePolicies struct {
	Version     string           `json:"version"`
	Previous    string           `json:"previous,omitempty"`
	ActivatedAt time.Time        `json:"activated_at,omitzero"`
	By          string           `json:"by,omitempty"`
	Reason      string           `json:"reason,omitempty"`
	Policies    []policy.Summary `json:"policies"`
	Files       []policy.File    `json:"files"`
}

// policySet is a set as it is sent.
type policySet struct {
	Files    []policy.File `json:"files"`
	Reason   string        `json:"reason,omitempty"`
	Previous string        `json:"previous,omitempty"`
}

func policyCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use: "policy", Short: "Write, test, try and put in force the policies that decide",
		Long: `Policies are Cedar text in a directory: *.cedar files, and their tests in
tests/*.yaml. They decide, for each scope and audience of a token request, whether
the identity may hold it for this task; they never grant more than the identity's
registration. Every policy has an @id; @reason("...") explains a denial,
@max_ttl("2m") bounds the life of what a permit grants, and
@exceptions("never") on a forbid makes exceptions to it void.`,
		Example: `  lanyard policy init policies                  # a first set with tests
  lanyard policy check policies
  lanyard policy test policies
  lanyard policy what-if --since 7d policies    # who would gain or lose access
  lanyard policy apply policies --reason "CHG-4711"
  lanyard policy show`,
	}
	c.AddCommand(policyCheck(o), policyTest(o), policyShow(o), policyApply(o), policyInit(o), policySchema(o), policyWhatIf(o))
	return c
}

// loadPolicies reads and checks the set in dir.
func loadPolicies(dir string) (*policy.Set, error) {
	files, err := policy.LoadDir(dir)
	if err != nil {
		return nil, err
	}
	return policy.Parse(files)
}

func policyCheck(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "check DIR", Short: "Check policies against the schema", Args: exactArgs(1, "a directory of *.cedar files"),
		Example: "  lanyard policy check policies",
		RunE: func(c *cobra.Command, args []string) error {
			s, err := loadPolicies(args[0])
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(c.OutOrStdout(), struct {
					Version  string           `json:"version"`
					Policies []policy.Summary `json:"policies"`
				}{s.Version(), s.Policies()})
			}
			fmt.Fprintf(c.OutOrStdout(), "%d policies in %d files are valid: %s\n", len(s.Policies()), len(s.Files()), s.Version())
			return nil
		},
	}
}

func policyTest(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "test DIR", Short: "Run the tests of policies", Args: exactArgs(1, "a directory of policies"),
		Long: `Runs DIR/tests/*.yaml and DIR/*_test.yaml against the policies in DIR, and names the
policies that no test decided by. Exit code 1 when a case fails.`,
		Example: `  lanyard policy test policies
  cat policies/tests/reports.yaml
    cases:
      - name: reports by night only
        identity: {tenant: acme, name: report-bot}
        scope: reports.read
        audience: https://reports.acme.example
        context: {task: nightly, time: 2026-01-05T13:00:00Z}
        expect: {decision: deny, reasons: [reports-by-night]}`,
		RunE: func(c *cobra.Command, args []string) error {
			s, err := loadPolicies(args[0])
			if err != nil {
				return err
			}
			report, err := runPolicyTests(c.OutOrStdout(), o, s, args[0])
			if err != nil {
				return err
			}
			if len(report.Results) == 0 {
				return fmt.Errorf("%s has no tests: write some into %s/tests/*.yaml; 'lanyard policy test --help' shows one", args[0], args[0])
			}
			return nil
		},
	}
}

// runPolicyTests runs the tests in dir and prints how they went; an error when one fails.
func runPolicyTests(w io.Writer, o *options, s *policy.Set, dir string) (policy.Report, error) {
	cases, err := policy.LoadCases(dir)
	if err != nil {
		return policy.Report{}, err
	}
	report := s.Test(cases)
	if o.json {
		err = printJSON(w, report)
	} else {
		printPolicyReport(w, report)
	}
	if err == nil && report.Failed > 0 {
		err = fmt.Errorf("%d of %d cases failed", report.Failed, len(report.Results))
	}
	return report, err
}

func printPolicyReport(w io.Writer, report policy.Report) {
	p := colours(w)
	for _, r := range report.Results {
		if len(r.Faults) == 0 {
			fmt.Fprintf(w, "%s   %s:%d: %s\n", p.paint("32", "ok"), clean(r.File), r.Line, clean(r.Name))
			continue
		}
		fmt.Fprintf(w, "%s %s:%d: %s\n", p.paint("31", "FAIL"), clean(r.File), r.Line, clean(r.Name))
		for _, f := range r.Faults {
			fmt.Fprintf(w, "     %s\n", clean(f))
		}
	}
	if len(report.Results) == 0 {
		fmt.Fprintln(w, "there are no tests")
		return
	}
	fmt.Fprintf(w, "%d of %d cases hold\n", len(report.Results)-report.Failed, len(report.Results))
	if len(report.Uncovered) > 0 {
		fmt.Fprintf(w, "no case was decided by: %s\n", clean(strings.Join(report.Uncovered, ", ")))
	}
}

func policyShow(o *options) *cobra.Command {
	var text bool
	c := &cobra.Command{
		Use: "show", Short: "Show the policies in force", Args: exactArgs(0, "no arguments"),
		Example: `  lanyard policy show
  lanyard policy show --text`,
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			var got activePolicies
			if err := a.call(c.Context(), http.MethodGet, a.ends.Issuer, "/v1/policies", nil, nil, &got); err != nil {
				return fmt.Errorf("show policies: %w", err)
			}
			w := c.OutOrStdout()
			switch {
			case o.json:
				return printJSON(w, got)
			case text:
				for _, f := range got.Files {
					fmt.Fprintf(w, "// %s\n%s\n", clean(f.Name), cleanLines(f.Text))
				}
				return nil
			}
			return printPolicies(w, got)
		},
	}
	c.Flags().BoolVar(&text, "text", false, "print the Cedar text of all files")
	return c
}

// cleanLines is clean for text of several lines.
func cleanLines(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = strings.ReplaceAll(clean(strings.ReplaceAll(l, "\t", "  ")), "\r", "")
	}
	return strings.Join(lines, "\n")
}

func printPolicies(w io.Writer, got activePolicies) error {
	switch {
	case got.ActivatedAt.IsZero():
		fmt.Fprintf(w, "%s, built in\n", clean(got.Version))
	default:
		fmt.Fprintf(w, "%s in force since %s by %s", clean(got.Version), got.ActivatedAt.Format(time.RFC3339), clean(got.By))
		if got.Reason != "" {
			fmt.Fprintf(w, ": %s", clean(got.Reason))
		}
		fmt.Fprintln(w)
	}
	rows := make([][]string, 0, len(got.Policies))
	for _, p := range got.Policies {
		rows = append(rows, []string{p.ID, p.Effect, p.MaxTTL, fmt.Sprintf("%s:%d", p.File, p.Line), p.Reason})
	}
	return table(w, []string{"POLICY", "EFFECT", "MAX TTL", "WHERE", "REASON"}, rows)
}

func policyApply(o *options) *cobra.Command {
	var reason, previous string
	c := &cobra.Command{
		Use: "apply DIR", Short: "Check, test and put policies in force", Args: exactArgs(1, "a directory of policies"),
		Long: `Checks the policies in DIR, runs their tests, and puts them in force: they are
stored as events, and every issuance process swaps to them without dropping a request.
It refuses policies that would keep you from applying others.`,
		Example: `  lanyard policy apply policies --reason "CHG-4711: no writes by night"
  lanyard policy apply policies --previous cedar/0123456789abcdef   # only if that is in force`,
		RunE: func(c *cobra.Command, args []string) error {
			s, err := loadPolicies(args[0])
			if err != nil {
				return err
			}
			quiet := *o
			quiet.json = false
			if _, err := runPolicyTests(c.ErrOrStderr(), &quiet, s, args[0]); err != nil {
				return fmt.Errorf("nothing was put in force: %w", err)
			}
			got, err := applyPolicies(c.Context(), o, policySet{s.Files(), reason, previous})
			if err != nil {
				return fmt.Errorf("apply policies: %w", err)
			}
			if o.json {
				return printJSON(c.OutOrStdout(), got)
			}
			fmt.Fprintf(c.OutOrStdout(), "in force: %s, %d policies", clean(got.Version), len(got.Policies))
			if got.Previous != "" {
				fmt.Fprintf(c.OutOrStdout(), "; before: %s", clean(got.Previous))
			}
			fmt.Fprintln(c.OutOrStdout())
			return nil
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why, for the record")
	c.Flags().StringVar(&previous, "previous", "", "apply only if this version is in force")
	return c
}

func applyPolicies(ctx context.Context, o *options, set policySet) (activePolicies, error) {
	var got activePolicies
	a, err := openAPI(o)
	if err != nil {
		return got, err
	}
	return got, a.call(ctx, http.MethodPost, a.ends.Issuer, "/v1/policies", nil, set, &got)
}

func policyInit(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "init DIR", Short: "Write a first set of policies with its tests", Args: exactArgs(1, "a new directory"),
		Example: "  lanyard policy init policies && lanyard policy test policies",
		RunE: func(c *cobra.Command, args []string) error {
			written, err := policy.Init(args[0])
			if o.json && err == nil {
				return printJSON(c.OutOrStdout(), map[string][]string{"written": written})
			}
			for _, path := range written {
				fmt.Fprintf(c.OutOrStdout(), "wrote %s\n", path)
			}
			return err
		},
	}
}

func policySchema(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the Cedar schema that policies are checked against", Args: exactArgs(0, "no arguments"),
		Example: "  lanyard policy schema > lanyard.cedarschema   # for an editor's Cedar plug-in",
		RunE: func(c *cobra.Command, _ []string) error {
			if o.json {
				return printJSON(c.OutOrStdout(), map[string]string{"schema": policy.Schema()})
			}
			_, err := io.WriteString(c.OutOrStdout(), policy.Schema())
			return err
		},
	}
}
