package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/spf13/cobra"
)

func alertsCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "alerts", Short: "List, watch and judge anomaly alerts"}
	c.AddCommand(alertsList(o), alertsWatch(o), alertsShow(o), alertsAck(o), alertsExpect(o), alertsExpectations(o))
	return c
}

// alertFilter is the flags of both commands.
type alertFilter struct{ tenant, severity, detector, since string }

func (f *alertFilter) register(c *cobra.Command) {
	c.Flags().StringVar(&f.tenant, "tenant", "", "only this tenant")
	c.Flags().StringVar(&f.severity, "severity", "", "only this severity: low, medium, high or critical")
	c.Flags().StringVar(&f.detector, "detector", "", "only this detector, such as D13")
	c.Flags().StringVar(&f.since, "since", "", "alerts stored since this time (RFC 3339); watch shows new ones only without it")
}

func (f *alertFilter) query() url.Values {
	q := url.Values{}
	for k, v := range map[string]string{"tenant": f.tenant, "severity": f.severity, "detector": f.detector, "since": f.since} {
		if v != "" {
			q.Set(k, v)
		}
	}
	return q
}

func alertsList(o *options) *cobra.Command {
	var f alertFilter
	var ocsf bool
	c := &cobra.Command{
		Use: "list", Short: "List alerts", Args: exactArgs(0, "no arguments"),
		Example: "  lanyard alerts list --severity high\n  lanyard alerts list --ocsf | jq '.[].finding_info.title'",
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			if ocsf {
				q := f.query()
				q.Set("format", "ocsf")
				return raw(c, a, http.MethodGet, "/v1/alerts", q)
			}
			var list []shownAlert
			if err := a.call(c.Context(), http.MethodGet, a.ends.Alerts, "/v1/alerts", f.query(), nil, &list); err != nil {
				return fmt.Errorf("list alerts: %w", err)
			}
			if o.json {
				return printJSON(c.OutOrStdout(), list)
			}
			for _, p := range list {
				printAlert(c.OutOrStdout(), p.AnomalyDetected)
				printAlertState(c.OutOrStdout(), p.State)
			}
			return nil
		},
	}
	f.register(c)
	c.Flags().BoolVar(&ocsf, "ocsf", false, "print OCSF 1.8 Detection Findings")
	return c
}

func printAlert(w io.Writer, p events.AnomalyDetected) {
	col := colours(w)
	fmt.Fprintf(w, "%s %-8s %-4s %s  %s\n", col.dim(clock(p.LastSeen)), col.severity(string(p.Severity)), clean(p.Detector), col.head(clean(p.Identity)), clean(p.Explanation))
	who := "owner unknown"
	if p.Owner != "" {
		who = "owner " + p.Owner + ", feature " + p.Feature
	}
	fmt.Fprintf(w, "    %s; %d events of evidence; alert %s; do: %s\n", clean(who), len(p.Evidence), clean(p.Alert), clean(p.Proposed.Command))
}

func alertsWatch(o *options) *cobra.Command {
	var f alertFilter
	var limit int
	var ocsf bool
	c := &cobra.Command{
		Use: "watch", Short: "Show alerts as they are raised, until Ctrl-C", Args: exactArgs(0, "no arguments"),
		Example: "  lanyard alerts watch --tenant acme\n  lanyard alerts watch --json | jq .explanation",
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			seen, q := 0, f.query()
			if ocsf {
				q.Set("format", "ocsf")
			}
			err = a.stream(c.Context(), a.ends.Alerts, "/v1/alerts", q, func(data []byte) error {
				if seen++; ocsf {
					_, err := fmt.Fprintln(c.OutOrStdout(), string(data))
					return lastOf(limit, seen, err)
				}
				e, err := events.Decode(data)
				if err != nil {
					return fmt.Errorf("read alert: %w", err)
				}
				p, err := events.As[events.AnomalyDetected](e)
				if err != nil {
					return fmt.Errorf("read alert: %w", err)
				}
				if o.json {
					if _, err := fmt.Fprintln(c.OutOrStdout(), string(data)); err != nil {
						return err
					}
				} else {
					printAlert(c.OutOrStdout(), p)
				}
				return lastOf(limit, seen, nil)
			})
			if errors.Is(err, io.EOF) && limit > 0 && seen >= limit || c.Context().Err() != nil {
				return nil
			}
			if err == nil {
				return errors.New("watch alerts: the service closed the stream")
			}
			return err
		},
	}
	f.register(c)
	c.Flags().BoolVar(&ocsf, "ocsf", false, "print OCSF 1.8 Detection Findings, one a line")
	c.Flags().IntVar(&limit, "limit", 0, "stop after so many alerts (0: never)")
	return c
}

// lastOf is io.EOF once limit (0: none) is reached, and err before.
func lastOf(limit, seen int, err error) error {
	if err == nil && limit > 0 && seen >= limit {
		return io.EOF
	}
	return err
}

// stream reads server-sent events and calls f with the data of each.
func (a *api) stream(ctx context.Context, base, path string, q url.Values, f func([]byte) error) error {
	resp, err := a.send(ctx, http.MethodGet, base, path, q, nil, "text/event-stream")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 1<<20)
	var data strings.Builder
	for sc.Scan() {
		line := sc.Text()
		if rest, ok := strings.CutPrefix(line, "data:"); ok {
			if data.Len() > 0 {
				data.WriteByte('\n')
			}
			data.WriteString(strings.TrimPrefix(rest, " "))
			continue
		}
		if line == "" && data.Len() > 0 {
			if err := f([]byte(data.String())); err != nil {
				return err
			}
			data.Reset()
		}
	}
	return sc.Err()
}
