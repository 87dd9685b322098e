package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/lanyard-nhi/lanyard/services/intake/adapter"
	"github.com/spf13/cobra"
)

// sent is intake's answer.
type sent struct {
	Accepted int `json:"accepted"`
	Skipped  int `json:"skipped,omitempty"`
	Refused  []struct {
		Index  int    `json:"index"`
		ID     string `json:"id"`
		Code   string `json:"code"`
		Reason string `json:"reason"`
	} `json:"refused"`
}

func eventCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "event", Short: "Send events to intake"}
	var (
		tenant, as, instance string
		wholeTraces          bool
	)
	send := &cobra.Command{
		Use: "send FILE|-", Short: "Send CloudEvents, or audit records, for a tenant", Args: exactArgs(1, "FILE or '-'"),
		Long: `Sends one CloudEvent (structured JSON), a JSON array of them, or with --as NAME the raw
records of an audit log or agent runtime, gzip or not:

` + sources() + `
Prints what was accepted (durable) and what was refused, with the reason. Exits 3 when
anything was refused; refused items are dead letters.`,
		Example: "  lanyard event send declared.json --tenant acme\n  lanyard event send records.json.gz --as cloudtrail --tenant acme",
		RunE: func(c *cobra.Command, args []string) error {
			in := c.InOrStdin()
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return fmt.Errorf("read events: %w", err)
				}
				defer f.Close()
				in = f
			}
			b, err := io.ReadAll(io.LimitReader(in, 64<<20))
			if err != nil {
				return fmt.Errorf("read events: %w", err)
			}
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			path, contentType := "/v1/events", "application/cloudevents+json"
			switch as {
			case "events":
				if t := bytes.TrimSpace(b); len(t) > 0 && t[0] == '[' {
					contentType = "application/cloudevents-batch+json"
				}
			default:
				if _, ok := adapter.Find(adapter.Table(), as); !ok && as != adapter.MappedName {
					return usage("--as %s: want events or one of %s", as, strings.Join(sourceNames(), ", "))
				}
				path, contentType = "/v1/"+as, "application/json"
			}
			q := url.Values{}
			for name, value := range map[string]string{"tenant": tenant, "instance": instance} {
				if value != "" {
					q.Set(name, value)
				}
			}
			if wholeTraces {
				q.Set("traces", "whole")
			}
			return a.sendEvents(c, o, path, q, contentType, b)
		},
	}
	send.Flags().StringVar(&tenant, "tenant", "", "tenant the events belong to (operators; others send for their own)")
	send.Flags().StringVar(&as, "as", "events", "what the file holds: events, or the name of a source")
	send.Flags().StringVar(&instance, "instance", "", "cluster, account or installation the records are of, where they do not say it")
	send.Flags().BoolVar(&wholeTraces, "whole-traces", false, "with --as traces: every span of a trace is in the file")
	c.AddCommand(send)
	return c
}

// sources lists what --as knows, a line each.
func sources() string {
	var b strings.Builder
	for _, a := range adapter.Table() {
		fmt.Fprintf(&b, "  %-12s %s\n", a.Name, a.Title)
	}
	fmt.Fprintf(&b, "  %-12s %s\n", adapter.MappedName, "records of other sources, by intake.mappings of the configuration")
	return b.String()
}

func sourceNames() []string {
	var names []string
	for _, a := range adapter.Table() {
		names = append(names, a.Name)
	}
	return append(names, adapter.MappedName)
}

// sendEvents posts b to intake and shows what became of it.
func (a *api) sendEvents(c *cobra.Command, o *options, path string, q url.Values, contentType string, b []byte) error {
	resp, err := a.sendRaw(c.Context(), http.MethodPost, a.ends.Intake, path, q, contentType, b)
	if err != nil {
		return fmt.Errorf("send events: %w", err)
	}
	defer resp.Body.Close()
	var s sent
	if err := json.NewDecoder(io.LimitReader(resp.Body, 16<<20)).Decode(&s); err != nil {
		return fmt.Errorf("read answer of intake: %w", err)
	}
	if o.json {
		if err := printJSON(c.OutOrStdout(), s); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(c.OutOrStdout(), "%d accepted, %d refused", s.Accepted, len(s.Refused))
		if s.Skipped > 0 {
			fmt.Fprintf(c.OutOrStdout(), ", %d skipped (they state no act of an identity)", s.Skipped)
		}
		fmt.Fprintln(c.OutOrStdout())
		for _, r := range s.Refused {
			fmt.Fprintf(c.OutOrStdout(), "  item %d (id %s): %s: %s\n", r.Index, clean(or(r.ID, "-")), clean(r.Code), clean(r.Reason))
		}
	}
	if len(s.Refused) > 0 {
		return notTrue("%d of %d items refused; see 'lanyard dead list'", len(s.Refused), len(s.Refused)+s.Accepted)
	}
	return nil
}
