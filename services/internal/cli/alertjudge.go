package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/spf13/cobra"
)

// shownAlert is an alert as the service answers it.
type shownAlert struct {
	events.AnomalyDetected
	Tenant   string      `json:"tenant"`
	RaisedAt time.Time   `json:"raised_at,omitzero"`
	State    *alertState `json:"state,omitempty"`
}

type alertState struct {
	Acknowledged *events.AlertAcknowledged `json:"acknowledged,omitempty"`
	Expected     *events.AlertExpected     `json:"expected,omitempty"`
}

// expectation is a mark with what it suppressed.
type expectation struct {
	events.AlertExpected
	Tenant     string                   `json:"tenant"`
	InForce    bool                     `json:"in_force"`
	Suppressed []events.AlertSuppressed `json:"suppressed"`
	Count      int                      `json:"suppressed_count"`
}

// alertPath is the API's path of one alert.
func alertPath(id, verb string) string { return "/v1/alerts/" + url.PathEscape(id) + verb }

// tenantQuery names the tenant when it is given.
func tenantQuery(tenant string) url.Values {
	q := url.Values{}
	if tenant != "" {
		q.Set("tenant", tenant)
	}
	return q
}

func alertsShow(o *options) *cobra.Command {
	var tenant string
	var ocsf bool
	c := &cobra.Command{
		Use: "show ID", Short: "Show one alert: what happened, why it is unusual, what to do", Args: exactArgs(1, "the id of an alert"),
		Example: "  lanyard alerts show 4f0c9a6d1b2e3f40\n  lanyard alerts show 4f0c9a6d1b2e3f40 --ocsf",
		RunE: func(c *cobra.Command, args []string) error {
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			q := tenantQuery(tenant)
			if ocsf {
				q.Set("format", "ocsf")
				return raw(c, a, http.MethodGet, alertPath(args[0], ""), q)
			}
			var p shownAlert
			if err := a.call(c.Context(), http.MethodGet, a.ends.Alerts, alertPath(args[0], ""), q, nil, &p); err != nil {
				return fmt.Errorf("show alert: %w", err)
			}
			if o.json {
				return printJSON(c.OutOrStdout(), p)
			}
			printAlertWhole(c.OutOrStdout(), p)
			return nil
		},
	}
	c.Flags().StringVar(&tenant, "tenant", "", "only in this tenant")
	c.Flags().BoolVar(&ocsf, "ocsf", false, "print it as an OCSF 1.8 Detection Finding")
	return c
}

// raw prints the JSON of an answer, indented, as it is.
func raw(c *cobra.Command, a *api, method, path string, q url.Values) error {
	var v json.RawMessage
	if err := a.call(c.Context(), method, a.ends.Alerts, path, q, nil, &v); err != nil {
		return fmt.Errorf("read alerts: %w", err)
	}
	return printJSON(c.OutOrStdout(), v)
}

// printAlertWhole prints everything a person needs to judge an alert, one fact a line.
func printAlertWhole(w io.Writer, p shownAlert) {
	col := colours(w)
	fmt.Fprintf(w, "%s %s %s\n", col.severity(string(p.Severity)), clean(p.Detector+" "+p.Name), col.head(clean(p.Tenant+"/"+p.Identity)))
	fmt.Fprintf(w, "%s\n\n", clean(p.Explanation))
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "%-12s %s\n", name, clean(value))
		}
	}
	line("seen", p.Value)
	line("usual", p.Baseline)
	line("counted", strconv.FormatInt(p.Count, 10)+", compared with "+strconv.FormatFloat(p.Threshold, 'g', 6, 64))
	line("score", strconv.FormatFloat(p.Score, 'f', 1, 64)+" of 100")
	line("from", clock(p.FirstSeen)+" to "+clock(p.LastSeen))
	if !p.RaisedAt.IsZero() {
		line("raised", clock(p.RaisedAt))
	}
	if p.Owner == "" {
		line("owner", "unknown")
	} else {
		line("owner", p.Owner)
	}
	line("feature", p.Feature)
	line("purpose", p.Purpose)
	line("task", p.Task)
	line("session", p.Session)
	line("credential", p.Credential)
	for _, e := range p.Evidence {
		line("evidence", e)
	}
	for _, r := range p.References {
		line("reference", r)
	}
	line("alert", p.Alert)
	line("do", p.Proposed.Command)
	printAlertState(w, p.State)
}

func printAlertState(w io.Writer, s *alertState) {
	if s == nil {
		return
	}
	if k := s.Acknowledged; k != nil {
		note := ""
		if k.Note != "" {
			note = ": " + k.Note
		}
		fmt.Fprintf(w, "    looked after by %s since %s%s\n", clean(k.By), clock(k.AcknowledgedAt), clean(note))
	}
	if x := s.Expected; x != nil && x.Until.After(x.ExpectedAt) {
		fmt.Fprintf(w, "    expected until %s, says %s: %s\n", clock(x.Until), clean(x.By), clean(x.Reason))
	}
}

func alertsAck(o *options) *cobra.Command {
	var tenant, note string
	c := &cobra.Command{
		Use: "ack ID", Short: "Say that you look after an alert", Args: exactArgs(1, "the id of an alert"),
		Example: `  lanyard alerts ack 4f0c9a6d1b2e3f40 --note "asked team-orders"`,
		RunE: func(c *cobra.Command, args []string) error {
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			var p events.AlertAcknowledged
			if err := a.call(c.Context(), http.MethodPost, a.ends.Alerts, alertPath(args[0], "/acknowledge"), tenantQuery(tenant), map[string]string{"note": note}, &p); err != nil {
				return fmt.Errorf("acknowledge alert: %w", err)
			}
			if o.json {
				return printJSON(c.OutOrStdout(), p)
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is looked after by %s\n", clean(p.Alert), clean(p.By))
			return nil
		},
	}
	c.Flags().StringVar(&tenant, "tenant", "", "only in this tenant")
	c.Flags().StringVar(&note, "note", "", "what you know so far, for the record")
	return c
}

func alertsExpect(o *options) *cobra.Command {
	var tenant, span, reason string
	var anyValue, end bool
	c := &cobra.Command{
		Use: "expect ID", Short: "Say that what an alert is about is expected for a while", Args: exactArgs(1, "the id of an alert"),
		Long: `Until it ends, the same detector raises no alert about the same identity with the
same value, unless it is more severe than this one. It is recorded who said so, why and
until when, and what was not raised because of it: see 'lanyard alerts expectations'.
Whom an alert is about cannot mark it.`,
		Example: `  lanyard alerts expect 4f0c9a6d1b2e3f40 --for 30d --reason "CHG-4711: refunds begin"
  lanyard alerts expect 4f0c9a6d1b2e3f40 --for 12h --any-value --reason "restore drill"
  lanyard alerts expect 4f0c9a6d1b2e3f40 --end --reason "the drill is over"`,
		RunE: func(c *cobra.Command, args []string) error {
			if reason == "" {
				return usage("--reason is missing: say why, for the record")
			}
			var seconds int64
			if !end {
				d, err := spanOf("--for", span)
				if err != nil {
					return err
				}
				seconds = int64(d / time.Second)
			} else if span != "" {
				return usage("--end and --for exclude each other")
			}
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			body := map[string]any{"for_seconds": seconds, "reason": reason, "any_value": anyValue}
			var p events.AlertExpected
			if err := a.call(c.Context(), http.MethodPost, a.ends.Alerts, alertPath(args[0], "/expect"), tenantQuery(tenant), body, &p); err != nil {
				return fmt.Errorf("mark alert: %w", err)
			}
			if o.json {
				return printJSON(c.OutOrStdout(), p)
			}
			if end {
				fmt.Fprintf(c.OutOrStdout(), "%s is not expected any more\n", clean(p.Alert))
				return nil
			}
			printExpected(c.OutOrStdout(), p)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&tenant, "tenant", "", "only in this tenant")
	f.StringVar(&span, "for", "", "how long: 30d or 12h, at most 90d (required unless --end)")
	f.StringVar(&reason, "reason", "", "why, for the record (required)")
	f.BoolVar(&anyValue, "any-value", false, "whatever the value that is seen")
	f.BoolVar(&end, "end", false, "end an expectation")
	return c
}

func printExpected(w io.Writer, p events.AlertExpected) {
	value := "the value " + strconv.Quote(clean(p.Value))
	if p.AnyValue {
		value = "any value"
	}
	fmt.Fprintf(w, "until %s, %s about %s with %s raises no alert up to severity %s\n", clock(p.Until), clean(p.Detector), clean(p.Identity), value, clean(string(p.Severity)))
}

// spanOf reads "30d" or a duration in Go's syntax of at least a second.
func spanOf(flag, text string) (time.Duration, error) {
	if text == "" {
		return 0, usage("%s is missing: give a span such as 30d or 12h", flag)
	}
	d, err := readSpan(text)
	if err != nil || d < time.Second {
		return 0, usage("%s %q is no span of time: give 30d or 12h", flag, text)
	}
	return d, nil
}

func alertsExpectations(o *options) *cobra.Command {
	var tenant string
	c := &cobra.Command{
		Use: "expectations", Short: "List what is expected, and what was not raised because of it", Args: exactArgs(0, "no arguments"),
		Example: "  lanyard alerts expectations --tenant acme",
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			var got struct {
				Expectations []expectation `json:"expectations"`
			}
			if err := a.call(c.Context(), http.MethodGet, a.ends.Alerts, "/v1/expectations", tenantQuery(tenant), nil, &got); err != nil {
				return fmt.Errorf("list expectations: %w", err)
			}
			if o.json {
				return printJSON(c.OutOrStdout(), got)
			}
			rows := make([][]string, 0, len(got.Expectations))
			for _, x := range got.Expectations {
				state, value := "in force", x.Value
				if !x.InForce {
					state = "ended"
				}
				if x.AnyValue {
					value = "(any)"
				}
				rows = append(rows, []string{x.Alert, state, x.Tenant + "/" + x.Identity, x.Detector, value, clock(x.Until), strconv.Itoa(x.Count), x.By, x.Reason})
			}
			return table(c.OutOrStdout(), []string{"ALERT", "STATE", "IDENTITY", "DETECTOR", "VALUE", "UNTIL", "SUPPRESSED", "BY", "REASON"}, rows)
		},
	}
	c.Flags().StringVar(&tenant, "tenant", "", "only of this tenant")
	return c
}
