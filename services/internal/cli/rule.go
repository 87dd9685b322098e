package cli

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/lanyard-nhi/lanyard/services/anomaly"
	"github.com/spf13/cobra"
)

func ruleCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use: "rule", Short: "Check, test and list the SOC's own detection rules",
		Long: `Rules are conditions in CEL over the neutral event, in *.yaml files of a directory
(anomaly.rules in the configuration; changes are in force within seconds), or Sigma rules
in *.yml files. A rule raises alerts named RULE:<id> with your text; it never revokes.

  rules:
    - id: night-writes
      severity: high                     # low, medium, high, critical
      message: "{identity} wrote {count} times by night: {values}"
      references: [NHI5, T1078.004]
      respond: contain                   # what the alert proposes; alert or contain
      group_by: [identity]               # default
      when: action_class == "write" && time.getHours() < 6
      count: {at_least: 3, within: 10m}  # or none of these: one event is enough
      # distinct: {of: resource, at_least: 5, within: 1h}
      # sequence: {within: 15m, steps: [{when: ...}, {when: ...}]}   or any_order
  tests:
    - name: three writes at one o'clock
      events: [{at: 1h, action_class: write, repeat: 3, every: 1m}]
      raises: [night-writes]

Fields are those of the neutral event: identity, action, action_class, resource,
destination, outcome, source_ip, tool, task, time and more; what is absent is empty.
Functions are CEL's, its string functions, and in_cidr(source_ip, "10.0.0.0/8"). Tests of
Sigma rules stand beside them in <name>_test.yaml.`,
		Example: `  lanyard rule check rules
  lanyard rule test rules
  lanyard rule list          # what is in force`,
	}
	c.AddCommand(ruleCheck(o), ruleTest(o), ruleList(o))
	return c
}

// loadRules reads rules and prints what is wrong with them; an error when something is.
func loadRules(w io.Writer, o *options, path string) (anomaly.RuleLibrary, error) {
	lib, problems, err := anomaly.LoadRules(path)
	if err != nil {
		return lib, err
	}
	if len(problems) == 0 {
		return lib, nil
	}
	if o.json {
		if err := printJSON(w, map[string]any{"problems": problems}); err != nil {
			return lib, err
		}
	} else {
		for _, p := range problems {
			fmt.Fprintln(w, clean(p.Error()))
		}
	}
	return lib, fmt.Errorf("%d problems in %s", len(problems), path)
}

func ruleCheck(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "check FILE|DIR", Short: "Check rules: fields, types, limits", Args: exactArgs(1, "a file or directory of rules"),
		Example: "  lanyard rule check rules\n  lanyard rule check --json rules/iam.yml   # the CEL that a Sigma rule becomes",
		RunE: func(c *cobra.Command, args []string) error {
			lib, err := loadRules(c.OutOrStdout(), o, args[0])
			if err != nil {
				return err
			}
			if o.json {
				out := []anomaly.RuleShown{}
				for _, r := range lib.Rules {
					out = append(out, anomaly.ShowRule(r))
				}
				return printJSON(c.OutOrStdout(), map[string]any{"rules": out})
			}
			fmt.Fprintf(c.OutOrStdout(), "%d rules and %d tests in %d files are valid\n", len(lib.Rules), len(lib.Tests), lib.Files)
			return nil
		},
	}
}

func ruleTest(o *options) *cobra.Command {
	var verbose bool
	c := &cobra.Command{
		Use: "test FILE|DIR", Short: "Run the tests of rules", Args: exactArgs(1, "a file or directory of rules"),
		Long:    "Runs the tests in the files and names the rules that no test raises. Exit code 1 when one fails.",
		Example: "  lanyard rule test rules\n  lanyard rule test rules/night.yaml --verbose   # with the texts of the alerts",
		RunE: func(c *cobra.Command, args []string) error {
			lib, err := loadRules(c.OutOrStdout(), o, args[0])
			if err != nil {
				return err
			}
			report := lib.Run()
			if o.json {
				err = printJSON(c.OutOrStdout(), report)
			} else {
				printRuleReport(c.OutOrStdout(), report, verbose)
			}
			switch {
			case err != nil:
				return err
			case report.Failed > 0:
				return fmt.Errorf("%d of %d tests failed", report.Failed, len(report.Results))
			case len(report.Results) == 0:
				return fmt.Errorf("%s has no tests: write some under 'tests:'; 'lanyard rule --help' shows one", args[0])
			}
			return nil
		},
	}
	c.Flags().BoolVar(&verbose, "verbose", false, "print the texts of the alerts")
	return c
}

func printRuleReport(w io.Writer, report anomaly.RuleReport, verbose bool) {
	p := colours(w)
	for _, r := range report.Results {
		verdict := p.good("ok  ")
		if len(r.Faults) > 0 {
			verdict = p.bad("FAIL")
		}
		fmt.Fprintf(w, "%s %s:%d: %s\n", verdict, clean(r.File), r.Line, clean(r.Name))
		for _, f := range r.Faults {
			fmt.Fprintf(w, "     %s\n", clean(f))
		}
		if verbose {
			for _, s := range r.Said {
				fmt.Fprintf(w, "     %s\n", clean(s))
			}
		}
	}
	fmt.Fprintf(w, "%d of %d tests hold\n", len(report.Results)-report.Failed, len(report.Results))
	if len(report.Uncovered) > 0 {
		fmt.Fprintf(w, "no test raises: %s\n", clean(strings.Join(report.Uncovered, ", ")))
	}
}

func ruleList(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the rules in force", Args: exactArgs(0, "no arguments"),
		Example: "  lanyard rule list",
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			var got anomaly.RulesShown
			if err := a.call(c.Context(), http.MethodGet, a.ends.Alerts, "/v1/rules", nil, nil, &got); err != nil {
				return fmt.Errorf("list rules: %w", err)
			}
			w := c.OutOrStdout()
			if o.json {
				return printJSON(w, got)
			}
			fmt.Fprintf(w, "%s, %d rules\n", clean(got.Version), len(got.Rules))
			if got.Problem != "" {
				fmt.Fprintf(w, "what the directory holds now is not in force: %s\n", cleanLines(got.Problem))
			}
			if len(got.Rules) == 0 {
				return nil
			}
			rows := make([][]string, 0, len(got.Rules))
			for _, r := range got.Rules {
				rows = append(rows, []string{r.ID, r.Severity, r.Waits, r.Origin, fmt.Sprintf("%s:%d", r.File, r.Line), strconv.FormatInt(r.Errors, 10), strconv.FormatInt(r.HeldBack, 10)})
			}
			return table(w, []string{"RULE", "SEVERITY", "WAITS FOR", "FROM", "WHERE", "ERRORS", "HELD BACK"}, rows)
		},
	}
}
