package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/services/internal/evaluate"
	"github.com/spf13/cobra"
)

func evaluateCommand(o *options) *cobra.Command {
	var dir, only, out string
	var ablate bool
	c := &cobra.Command{
		Use:   "evaluate --data DIR",
		Short: "Measure detection on recorded and injected activity against its gates",
		Long: `Runs every detector over the evaluation data in DIR and prints one row per metric,
with its gate and its Wilson interval at 95 %. A row that cannot be computed says
why. The exit code is 3 when a gate is missed.`,
		Example: `  lanyard evaluate --data ../shared/data
  lanyard evaluate --data ../shared/data --only agents --json
  lanyard evaluate --data ../shared/data --only bots --ablate`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(c *cobra.Command, _ []string) error {
			if dir == "" {
				return usage("--data DIR is needed: the directory of the evaluation data")
			}
			rep, err := evaluate.Run(c.Context(), evaluate.Options{Dir: dir, Only: only, Ablate: ablate, Now: time.Now, Progress: func(f string, a ...any) {
				fmt.Fprintf(c.ErrOrStderr(), f+"\n", a...)
			}})
			if err != nil {
				return err
			}
			if out != "" {
				b, err := json.MarshalIndent(rep, "", "  ")
				if err != nil {
					return fmt.Errorf("encode rows: %w", err)
				}
				if err := os.WriteFile(out, append(b, '\n'), 0o644); err != nil {
					return fmt.Errorf("write rows: %w", err)
				}
			}
			return printEvaluation(c, o, rep)
		},
	}
	c.Flags().StringVar(&dir, "data", "", "directory of the evaluation data")
	c.Flags().BoolVar(&ablate, "ablate", false, "also with every detector off and every threshold 25 % down and up (minutes)")
	c.Flags().StringVar(&out, "out", "", "also store the rows in this file, as JSON")
	c.Flags().StringVar(&only, "only", "", "one metric or group: "+strings.Join(evaluate.Names(), ", "))
	return c
}

func printEvaluation(c *cobra.Command, o *options, rep evaluate.Report) error {
	missed := 0
	var rows [][]string
	for _, r := range rep.Rows {
		value, gate, interval, mark := "-", "-", "-", "ok"
		if r.Value != nil {
			value = fmt.Sprintf("%.4g", *r.Value)
		}
		if r.Gate != nil {
			gate = map[string]string{"min": ">= ", "max": "<= "}[r.Direction] + fmt.Sprintf("%g", *r.Gate)
		}
		if r.WilsonLow != nil {
			interval = fmt.Sprintf("%.4f-%.4f", *r.WilsonLow, *r.WilsonHigh)
		}
		switch {
		case r.Value == nil:
			mark = "not computed"
		case !r.OK:
			mark = "missed"
		case r.Gate == nil:
			mark = ""
		}
		if !r.OK {
			missed++
		}
		rows = append(rows, []string{r.Metric, value, gate, fmt.Sprint(r.N), interval, mark, r.Why})
	}
	var err error
	if o.json {
		err = printJSON(c.OutOrStdout(), rep)
	} else {
		err = table(c.OutOrStdout(), []string{"METRIC", "VALUE", "GATE", "N", "WILSON 95 %", "", ""}, rows)
	}
	if err != nil {
		return err
	}
	if len(rep.Ablation) > 0 && !o.json {
		var rows [][]string
		for _, a := range rep.Ablation {
			mark := ""
			if a.Breaks {
				mark = "gate missed"
			}
			rows = append(rows, []string{a.Without, a.Metric, fmt.Sprintf("%.4g", a.From), fmt.Sprintf("%.4g", a.To), mark})
		}
		fmt.Fprintln(c.OutOrStdout())
		if err := table(c.OutOrStdout(), []string{"WITHOUT", "METRIC", "FROM", "TO", ""}, rows); err != nil {
			return err
		}
	}
	if missed > 0 {
		return notTrue("%d of %d rows missed", missed, len(rep.Rows))
	}
	return nil
}
