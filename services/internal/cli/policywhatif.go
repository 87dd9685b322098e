package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// accessChange is access that an identity would gain or lose.
type accessChange struct {
	Change   string    `json:"change"` // gain or lose
	Tenant   string    `json:"tenant"`
	Identity string    `json:"identity"`
	Scope    string    `json:"scope"`
	Audience string    `json:"audience"`
	Count    int       `json:"count"`
	First    time.Time `json:"first"`
	Last     time.Time `json:"last"`
	Policies []string  `json:"policies"`
}

// replayTotals is how a replay went.
type replayTotals struct {
	Version     string         `json:"version"`
	Since       time.Time      `json:"since"`
	Decisions   int            `json:"decisions"`
	Same        int            `json:"same"`
	Gaining     int            `json:"gaining"`
	Losing      int            `json:"losing"`
	Shorter     int            `json:"shorter"`
	Changes     int            `json:"changes"`
	Unlisted    int            `json:"unlisted"`
	NotReplayed map[string]int `json:"not_replayed"`
}

// replayed is the result of a replay.
type replayed struct {
	Changes []accessChange `json:"changes"`
	Totals  replayTotals   `json:"totals"`
}

func policyWhatIf(o *options) *cobra.Command {
	var since string
	c := &cobra.Command{
		Use: "what-if DIR", Short: "Replay past decisions against policies: who would gain or lose access",
		Long: `Decides the token requests of the past again by the policies in DIR, with the context
that the log recorded and the exceptions in force now, and shows what differs from what
was decided then. Nothing is put in force. A decision made before any policy was asked
(a bad proof, a revoked lineage) cannot be replayed; how many those are is shown.`,
		Args: exactArgs(1, "a directory of policies"),
		Example: `  lanyard policy what-if --since 7d policies
  lanyard policy what-if --since 24h --json policies | jq '.changes[] | select(.change == "lose")'`,
		RunE: func(c *cobra.Command, args []string) error {
			span, err := readSpan(since)
			if err != nil {
				return err
			}
			s, err := loadPolicies(args[0])
			if err != nil {
				return err
			}
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			q := url.Values{"since": {span.String()}}
			resp, err := a.send(c.Context(), http.MethodPost, a.ends.Issuer, "/v1/policies/what-if", q, policySet{Files: s.Files()}, "application/x-ndjson")
			if err != nil {
				return fmt.Errorf("replay decisions: %w", err)
			}
			defer resp.Body.Close()
			p := colours(c.ErrOrStderr())
			got, err := readReplay(resp.Body, func(t replayTotals) {
				if p.on {
					fmt.Fprintf(c.ErrOrStderr(), "\r%d decisions replayed", t.Decisions)
				}
			})
			if p.on {
				fmt.Fprint(c.ErrOrStderr(), "\r\x1b[K")
			}
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(c.OutOrStdout(), got)
			}
			return printReplay(c.OutOrStdout(), got)
		},
	}
	c.Flags().StringVar(&since, "since", "7d", "how far back: 7d, 36h")
	return c
}

// readSpan reads "7d" or a duration in Go's syntax.
func readSpan(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 9)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d <= 0 {
		return 0, usage("--since %q is no span of time: give 7d or 36h", text)
	}
	return d, nil
}

// readReplay reads the lines of a replay up to its totals.
func readReplay(r io.Reader, progress func(replayTotals)) (replayed, error) {
	out := replayed{Changes: []accessChange{}}
	for dec := json.NewDecoder(r); ; {
		var line struct {
			Progress *replayTotals `json:"progress"`
			Change   *accessChange `json:"change"`
			Totals   *replayTotals `json:"totals"`
			Error    string        `json:"error"`
		}
		if err := dec.Decode(&line); err != nil {
			return out, fmt.Errorf("replay decisions: the answer ended before its totals: %w", err)
		}
		switch {
		case line.Error != "":
			return out, fmt.Errorf("replay decisions: %s", clean(line.Error))
		case line.Progress != nil:
			progress(*line.Progress)
		case line.Change != nil:
			out.Changes = append(out.Changes, *line.Change)
		case line.Totals != nil:
			out.Totals = *line.Totals
			return out, nil
		}
	}
}

func printReplay(w io.Writer, got replayed) error {
	t := got.Totals
	if len(got.Changes) > 0 {
		rows := make([][]string, 0, len(got.Changes))
		for _, c := range got.Changes {
			by := strings.Join(c.Policies, " ")
			if by == "" {
				by = "nothing permits it"
			}
			rows = append(rows, []string{strings.ToUpper(c.Change), c.Tenant + "/" + c.Identity, c.Scope, c.Audience, strconv.Itoa(c.Count), c.Last.Format(time.RFC3339), by})
		}
		if err := table(w, []string{"CHANGE", "IDENTITY", "SCOPE", "AUDIENCE", "TIMES", "LAST", "BY"}, rows); err != nil {
			return err
		}
	}
	if t.Unlisted > 0 {
		fmt.Fprintf(w, "%d more occurrences are not listed\n", t.Unlisted)
	}
	fmt.Fprintf(w, "%s: of %d decisions since %s, %d stay the same, %d would gain, %d would lose", clean(t.Version), t.Decisions, t.Since.Format(time.RFC3339), t.Same, t.Gaining, t.Losing)
	if t.Shorter > 0 {
		fmt.Fprintf(w, "; %d tokens would live shorter", t.Shorter)
	}
	fmt.Fprintln(w)
	reasons := make([]string, 0, len(t.NotReplayed))
	for why := range t.NotReplayed {
		reasons = append(reasons, why)
	}
	slices.Sort(reasons)
	for _, why := range reasons {
		fmt.Fprintf(w, "not replayed: %d %s\n", t.NotReplayed[why], clean(why))
	}
	return nil
}
