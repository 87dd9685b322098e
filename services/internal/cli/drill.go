package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"
)

func drillCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "drill", Short: "Prove that the kill switch works",
		Long: `A drill mints a canary credential in a tenant, revokes it by the door that everybody
uses, and sees that every enforcement point refuses it. What it showed is on the log.
On a schedule they run with revocation.drills in the configuration.`}
	c.AddCommand(drillRun(o), drillStatus(o))
	return c
}

// drillAnswer is one drill.
type drillAnswer struct {
	Tenant  string `json:"tenant"`
	Started struct {
		Drill     string    `json:"drill"`
		By        string    `json:"by"`
		Task      string    `json:"task"`
		StartedAt time.Time `json:"started_at"`
	} `json:"started"`
	Finished *drillResult `json:"finished"`
}

type drillResult struct {
	Drill      string    `json:"drill"`
	Outcome    string    `json:"outcome"`
	Reason     string    `json:"reason,omitempty"`
	Revocation string    `json:"revocation,omitempty"`
	Credential string    `json:"credential,omitempty"`
	StartedAt  time.Time `json:"started_at"`
	FinishedAt time.Time `json:"finished_at"`
	AcceptedMS float64   `json:"accepted_ms"`
	RefusedMS  float64   `json:"refused_ms"`
	ClosedMS   float64   `json:"closed_ms"`
	Expected   int       `json:"expected"`
	Points     []struct {
		Point     string  `json:"point"`
		Outcome   string  `json:"outcome,omitempty"`
		LatencyMS float64 `json:"latency_ms"`
	} `json:"points"`
}

func drillRun(o *options) *cobra.Command {
	var tenant string
	var wait time.Duration
	c := &cobra.Command{
		Use: "run", Short: "Run a drill now", Args: exactArgs(0, "no arguments"),
		Long: `Runs a drill and shows what each enforcement point did. The exit code is 3 when the
switch is not proven within --wait.`,
		Example: "  lanyard drill run\n  lanyard drill run --tenant acme --wait 0s --json",
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			var d drillAnswer
			if err := a.call(c.Context(), http.MethodPost, a.ends.Revocation, "/v1/drills", url.Values{"tenant": {tenant}}, nil, &d); err != nil {
				return fmt.Errorf("run drill: %w", err)
			}
			if wait > 0 {
				query := url.Values{"tenant": {tenant}, "wait": {wait.String()}}
				if err := a.call(c.Context(), http.MethodGet, a.ends.Revocation, "/v1/drills/"+url.PathEscape(d.Started.Drill), query, nil, &d); err != nil {
					return fmt.Errorf("wait for drill %s: %w", d.Started.Drill, err)
				}
			}
			if o.json {
				if err := printJSON(c.OutOrStdout(), d); err != nil {
					return err
				}
			} else {
				printDrill(c.OutOrStdout(), d)
			}
			switch {
			case wait > 0 && d.Finished == nil:
				return notTrue("drill %s is still running after %s; see 'lanyard drill status --tenant %s'", d.Started.Drill, wait, tenant)
			case d.Finished != nil && d.Finished.Outcome != "proven":
				return notTrue("the kill switch of %s is not proven: %s", tenant, clean(d.Finished.Reason))
			}
			return nil
		},
	}
	c.Flags().StringVar(&tenant, "tenant", "lanyard", "tenant of the canary")
	c.Flags().DurationVar(&wait, "wait", time.Minute, "how long to wait for the result, at most 60s; 0 does not wait")
	return c
}

func printDrill(w io.Writer, d drillAnswer) {
	col := colours(w)
	if d.Finished == nil {
		fmt.Fprintf(w, "drill %s of %s is running\n", clean(d.Started.Drill), clean(d.Tenant))
		return
	}
	f := *d.Finished
	outcome := col.good(f.Outcome)
	if f.Outcome != "proven" {
		outcome = col.bad(f.Outcome)
	}
	fmt.Fprintf(w, "drill %s of %s: %s\n", clean(f.Drill), clean(d.Tenant), outcome)
	if f.Reason != "" {
		fmt.Fprintf(w, "  %s\n", clean(f.Reason))
	}
	if f.Revocation == "" {
		return
	}
	fmt.Fprintf(w, "  revocation %s: accepted after %s, the canary refused after %s, closed after %s\n", clean(f.Revocation), ms(f.AcceptedMS), ms(f.RefusedMS), ms(f.ClosedMS))
	for _, p := range f.Points {
		fmt.Fprintf(w, "  %-32s %-14s %s\n", clean(p.Point), clean(or(p.Outcome, "no answer")), ms(p.LatencyMS))
	}
	if more := f.Expected - len(f.Points); more > 0 {
		fmt.Fprintf(w, "  and %d faster ones\n", more)
	}
}

// drillState is what is known of a tenant's kill switch.
type drillState struct {
	Tenant       string       `json:"tenant"`
	Drills       int          `json:"drills"`
	LastProven   *time.Time   `json:"last_proven"`
	ProvenMS     float64      `json:"proven_ms"`
	Last         *drillAnswer `json:"last"`
	Refused      percentiles  `json:"refused"`
	Closed       percentiles  `json:"closed"`
	Points       []drillPoint `json:"points"`
	EverySeconds float64      `json:"every_seconds"`
	Overdue      bool         `json:"overdue"`
}

type percentiles struct {
	Count int     `json:"count"`
	P50   float64 `json:"p50_ms"`
	P95   float64 `json:"p95_ms"`
	P99   float64 `json:"p99_ms"`
}

type drillPoint struct {
	Point string `json:"point"`
	percentiles
	Missed int `json:"missed"`
}

func drillStatus(o *options) *cobra.Command {
	var tenant string
	c := &cobra.Command{
		Use: "status", Short: "When the kill switch was last proven, and how fast it is", Args: exactArgs(0, "no arguments"),
		Long: `Shows for each tenant when its kill switch was last proven, and for each enforcement
point how long it took from accept to refusal in the last 200 drills. The exit code is 3
when a switch is overdue or its last drill has not proven it.`,
		Example: "  lanyard drill status\n  lanyard drill status --tenant acme --json",
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			query := url.Values{}
			if tenant != "" {
				query.Set("tenant", tenant)
			}
			var all []drillState
			if err := a.call(c.Context(), http.MethodGet, a.ends.Revocation, "/v1/drills", query, nil, &all); err != nil {
				return fmt.Errorf("drill status: %w", err)
			}
			w := c.OutOrStdout()
			if o.json {
				err = printJSON(w, all)
			} else {
				err = printDrills(w, all, time.Now())
			}
			if err != nil {
				return err
			}
			for _, s := range all {
				last := s.Last
				if s.Overdue || last != nil && last.Finished != nil && last.Finished.Outcome != "proven" {
					return notTrue("the kill switch of %s is not proven; run 'lanyard drill run --tenant %s'", s.Tenant, s.Tenant)
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&tenant, "tenant", "", "of this tenant only")
	return c
}

func printDrills(w io.Writer, all []drillState, now time.Time) error {
	col := colours(w)
	if len(all) == 0 {
		fmt.Fprintln(w, "no drill was ever run; run one with 'lanyard drill run'")
	}
	for _, s := range all {
		proven := col.bad("never proven")
		if s.LastProven != nil {
			proven = col.good(fmt.Sprintf("last proven %s ago, %.2f s", ago(now.Sub(*s.LastProven)), s.ProvenMS/1000))
		}
		fmt.Fprintf(w, "%s: kill switch %s (%d drills%s)\n", col.head(clean(s.Tenant)), proven, s.Drills, schedule(s))
		if l := s.Last; l != nil && l.Finished != nil && l.Finished.Outcome != "proven" {
			fmt.Fprintf(w, "  the last drill, at %s, has not proven it: %s\n", clock(l.Finished.FinishedAt), clean(l.Finished.Reason))
		}
		if len(s.Points) == 0 {
			continue
		}
		rows := [][]string{row("canary refused here", s.Refused, 0), row("closed", s.Closed, 0)}
		for _, p := range s.Points {
			rows = append(rows, row(p.Point, p.percentiles, p.Missed))
		}
		if err := table(w, []string{"POINT", "DRILLS", "MISSED", "P50", "P95", "P99"}, rows); err != nil {
			return err
		}
	}
	return nil
}

func row(name string, p percentiles, missed int) []string {
	return []string{name, strconv.Itoa(p.Count), strconv.Itoa(missed), ms(p.P50), ms(p.P95), ms(p.P99)}
}

func schedule(s drillState) string {
	if s.EverySeconds == 0 {
		return ", no schedule"
	}
	text := ", every " + ago(time.Duration(s.EverySeconds*float64(time.Second)))
	if s.Overdue {
		text += ", overdue"
	}
	return text
}

// ago is a length of time for people.
func ago(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	}
	return fmt.Sprintf("%.0f d", d.Hours()/24)
}
