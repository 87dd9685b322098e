package cli

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/spf13/cobra"
)

func revokeApprove(o *options) *cobra.Command {
	var reason string
	var wait time.Duration
	c := &cobra.Command{
		Use: "approve REVOCATION", Short: "Approve a broad revoke that somebody else proposed; carries it out", Args: exactArgs(1, "a revocation id"),
		Long: `A broad revoke needs the previewed number (--confirm=N) or a second person. Whoever asked
with --propose cannot approve it; it lapses after revocation.approval_window (15m).

Approve as yourself: with your own operator credential (--data), or with an access token
of the scope lanyard.revoke in a file that the environment variable LANYARD_TOKEN names.`,
		Example: "  lanyard revoke list --proposed\n  LANYARD_TOKEN=joe.jwt lanyard revoke approve 3f0c...",
		RunE: func(c *cobra.Command, args []string) error {
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			var s revocationState
			err = a.call(c.Context(), http.MethodPost, a.ends.Revocation, "/v1/revocations/"+url.PathEscape(args[0])+"/approve", nil, map[string]any{"reason": reason}, &s)
			if err != nil {
				return fmt.Errorf("approve: %w", err)
			}
			return a.followRevocation(c, o, s, wait)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why you approve it (default: the reason it was asked for)")
	c.Flags().DurationVar(&wait, "wait", 30*time.Second, "how long to wait for closure")
	return c
}

// proposed says that a request waits for a second person.
func proposed(w io.Writer, o *options, s revocationState) error {
	if o.json {
		if err := printJSON(w, s); err != nil {
			return err
		}
	}
	until := "soon"
	if s.ExpiresAt != nil {
		until = clock(*s.ExpiresAt)
	}
	return notTrue("%s is proposed and nothing was revoked yet: somebody else approves it until %s with 'lanyard revoke approve %s'", s.Revocation, until, s.Revocation)
}

func printProposals(w io.Writer, list []revocationState) error {
	rows := make([][]string, 0, len(list))
	for _, s := range list {
		until := "-"
		if s.ExpiresAt != nil {
			until = clock(*s.ExpiresAt)
		}
		rows = append(rows, []string{s.Revocation, s.By, nameOf(s), strconv.FormatInt(s.Descendants, 10), until, s.Reason})
	}
	return table(w, []string{"REVOCATION", "ASKED BY", "TARGET", "CREDENTIALS", "UNTIL", "REASON"}, rows)
}

// nameOf is a revocation's target as one writes it on the command line.
func nameOf(s revocationState) string {
	if s.Target == nil {
		return s.Handle
	}
	return targetText(*s.Target)
}

func targetText(t events.Target) string {
	switch {
	case t.Kind == "":
		return t.Handle
	case t.Kind == "tenant" || t.Tenant == "":
		return t.Kind + ":" + t.ID
	}
	return t.Kind + ":" + strings.TrimPrefix(t.Tenant+"/"+t.ID, "/")
}
