package cli

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/lanyard-nhi/lanyard/services/internal/bench"
	"github.com/spf13/cobra"
)

// suites are the benches in the order in which `all` runs them.
var suites = []struct {
	name  string
	suite bench.Suite
}{
	{"bus", bench.Bus},
	{"issue", bench.Issue},
	{"verify", bench.Verify},
	{"revoke", bench.Revoke},
	{"cascade", bench.Cascade},
}

func benchCommand(o *options) *cobra.Command {
	var rounds int
	var short bool
	names := make([]string, 0, len(suites)+1)
	for _, s := range suites {
		names = append(names, s.name)
	}
	names = append(names, "all")
	c := &cobra.Command{
		Use:   "bench " + strings.Join(names, "|"),
		Short: "Measure against the limit of what it stands on, in the same run",
		Long: `Runs ours and the limit alternately on this machine and prints the ratio of the
medians. A row that misses its target is printed as such; the exit code is 3 then.`,
		Example:   "  lanyard bench bus --json\n  lanyard bench all --short",
		Args:      exactArgs(1, "one of "+strings.Join(names, ", ")),
		ValidArgs: names,
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains(names, args[0]) {
				return usage("there is no bench %q; have %s", args[0], strings.Join(names, ", "))
			}
			report := bench.Describe()
			for _, s := range suites {
				if args[0] != "all" && args[0] != s.name {
					continue
				}
				dir, err := os.MkdirTemp("", "lanyard-bench-")
				if err != nil {
					return fmt.Errorf("make scratch directory: %w", err)
				}
				rows, err := s.suite(c.Context(), bench.Options{Rounds: rounds, Dir: dir, Short: short, Progress: func(f string, a ...any) {
					fmt.Fprintf(c.ErrOrStderr(), f+"\n", a...)
				}})
				os.RemoveAll(dir)
				if err != nil {
					return fmt.Errorf("bench %s: %w", s.name, err)
				}
				report.Rows = append(report.Rows, rows...)
			}
			return printBench(c, o, report)
		},
	}
	c.Flags().IntVar(&rounds, "rounds", 5, "rounds of ours and limit")
	c.Flags().BoolVar(&short, "short", false, "smaller loads; the exit code then does not depend on the targets")
	c.PreRun = func(*cobra.Command, []string) {
		if short {
			rounds = min(rounds, 2)
		}
	}
	return c
}

func printBench(c *cobra.Command, o *options, r bench.Report) error {
	short, _ := c.Flags().GetBool("short")
	missed := 0
	rows := make([][]string, 0, len(r.Rows))
	for _, x := range r.Rows {
		mark := "ok"
		if !x.OK {
			mark = "missed"
			missed++
		}
		limit, ratio := "-", "-"
		if x.LimitName != "" {
			limit, ratio = fmt.Sprintf("%.4g (%s)", x.Limit, x.LimitName), fmt.Sprintf("%.3f", x.Ratio)
		}
		cmp := ">="
		if x.Direction == "max" {
			cmp = "<="
		}
		rows = append(rows, []string{x.Metric, fmt.Sprintf("%.4g %s", x.Value, x.Unit), limit, ratio, fmt.Sprintf("%s %g", cmp, x.Target), mark})
	}
	var err error
	if o.json {
		err = printJSON(c.OutOrStdout(), r)
	} else {
		err = table(c.OutOrStdout(), []string{"METRIC", "OURS", "LIMIT", "RATIO", "TARGET", ""}, rows)
	}
	if err != nil {
		return err
	}
	if missed > 0 && !short {
		return notTrue("%d of %d targets missed", missed, len(r.Rows))
	}
	return nil
}
