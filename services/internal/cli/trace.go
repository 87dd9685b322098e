package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/spf13/cobra"
)

func hashOf(raw string) string { return token.HashText(raw) }

// printTrace shows a trace as a tree and a timeline.
func printTrace(w io.Writer, t traceAnswer) {
	col := colours(w)
	fmt.Fprintln(w, col.head("subject"))
	for _, k := range slices.Sorted(maps.Keys(t.Subject)) {
		if s, ok := t.Subject[k].(string); ok && s != "" {
			fmt.Fprintf(w, "  %-14s %s\n", clean(k), clean(s))
		}
	}
	fmt.Fprintln(w, col.head("lineage, root first"))
	for i, n := range t.Lineage {
		name := "of another tenant"
		if n.ID != "" {
			name = strings.TrimPrefix(n.Tenant+"/"+n.ID, "/")
		}
		fmt.Fprintf(w, "  %s%s %s %s\n", strings.Repeat(" ", min(i, 12)), clean(or(n.Kind, "handle")), clean(name), col.dim(n.Handle))
	}
	fmt.Fprintln(w, col.head("timeline"))
	for _, e := range t.Timeline {
		fmt.Fprintf(w, "  %s  %-24s %s\n", e.Time.UTC().Format("2006-01-02T15:04:05.000Z"), clean(strings.TrimSuffix(strings.TrimPrefix(e.Type, "dev.lanyard."), ".v1")), clean(e.Summary))
	}
	if len(t.Descendants) > 0 {
		fmt.Fprintf(w, "%s: %d derived credentials\n", col.head("descendants"), len(t.Descendants))
	}
}

// traceAnswer is the answer to a trace.
type traceAnswer struct {
	Subject     map[string]any   `json:"subject"`
	Lineage     []traceNode      `json:"lineage"`
	Timeline    []traceEvent     `json:"timeline"`
	Descendants []map[string]any `json:"descendants"`
}

type traceNode struct {
	Kind   string `json:"kind"`
	Tenant string `json:"tenant"`
	ID     string `json:"id"`
	Handle string `json:"handle"`
}

type traceEvent struct {
	Time    time.Time `json:"time"`
	Type    string    `json:"type"`
	Tenant  string    `json:"tenant"`
	Summary string    `json:"summary"`
	Event   string    `json:"event"`
}

func traceCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "trace ID|SHA256|FILE", Short: "Whose credential is it, and what did it do", Args: exactArgs(1, "an id, a token's SHA-256 or a file with the token"),
		Long: `Shows the lineage of a credential up to the person who answers for it, and every
call, exchange, derived credential, denial and revocation, from the log. The
credential is named by its id (jti), by the SHA-256 of the token's text, or by a
file that holds the token; the token itself is never sent.`,
		Example: "  lanyard trace 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n  lanyard trace token.jwt",
		RunE: func(c *cobra.Command, args []string) error {
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			id := args[0]
			if raw, err := argToken(c, id); err == nil && strings.Count(raw, ".") == 2 {
				id = hashOf(raw)
			}
			var t traceAnswer
			if err := a.call(c.Context(), http.MethodGet, a.ends.Revocation, "/v1/trace/"+url.PathEscape(id), nil, nil, &t); err != nil {
				var e *apiError
				if errors.As(err, &e) && e.Status == http.StatusNotFound {
					return notTrue("trace: nothing in the log is called %q", args[0])
				}
				return fmt.Errorf("trace: %w", err)
			}
			if o.json {
				return printJSON(c.OutOrStdout(), t)
			}
			printTrace(c.OutOrStdout(), t)
			return nil
		},
	}
}
