package cli

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"github.com/spf13/cobra"
)

// parseTarget reads KIND:TENANT/ID, KIND:ID for things of no tenant, a handle, or a
// token's SHA-256.
func parseTarget(s string) (events.Target, error) {
	if len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" {
		return events.Target{Kind: string(lineage.KindCredential), ID: s}, nil
	}
	kind, rest, ok := strings.Cut(s, ":")
	if ok && slices.Contains(lineage.Kinds, lineage.Kind(kind)) {
		t := events.Target{Kind: kind}
		switch lineage.Kind(kind) {
		case lineage.KindDomain, lineage.KindKey:
			t.ID = rest
			return t, nil
		case lineage.KindTenant:
			t.Tenant, t.ID = rest, rest
			return t, nil
		}
		if t.Tenant, t.ID, ok = strings.Cut(rest, "/"); ok && t.ID != "" {
			return t, nil
		}
		return t, usage("%q: want %s:TENANT/ID", s, kind)
	}
	if _, err := lineage.Parse(s); err == nil {
		return events.Target{Handle: s}, nil
	}
	return events.Target{}, usage("%q is no target: want KIND:TENANT/ID (kinds: %s), a 16-character handle or a token's SHA-256", s, kindNames())
}

func kindNames() string {
	names := make([]string, len(lineage.Kinds))
	for i, k := range lineage.Kinds {
		names[i] = string(k)
	}
	return strings.Join(names, ", ")
}

// revocationState is a revocation as the API shows it.
type revocationState struct {
	Revocation  string         `json:"revocation"`
	State       string         `json:"state"` // pending, accepted, closed, refused, lifted
	Code        string         `json:"code,omitempty"`
	Reason      string         `json:"reason,omitempty"`
	Handle      string         `json:"handle"`
	By          string         `json:"by,omitempty"`
	ApprovedBy  string         `json:"approved_by,omitempty"`
	Target      *events.Target `json:"target,omitempty"`
	ExpiresAt   *time.Time     `json:"expires_at,omitempty"` // of a proposal
	AcceptedAt  *time.Time     `json:"accepted_at,omitempty"`
	ClosedAt    *time.Time     `json:"closed_at,omitempty"`
	Expected    int            `json:"expected"`
	Enforced    int            `json:"enforced"`
	Missing     []string       `json:"missing"`
	Outstanding []struct {
		Point string    `json:"point"`
		Until time.Time `json:"until"`
	} `json:"outstanding,omitempty"`
	Descendants int64    `json:"descendants"`
	Tenants     []string `json:"tenants"`
	MerkleRoot  string   `json:"merkle_root,omitempty"`
	Receipts    []struct {
		Point     string  `json:"point"`
		Outcome   string  `json:"outcome"`
		LatencyMS float64 `json:"latency_ms"`
	} `json:"receipts"`
}

// revokeFlags are the flags of revoke and lift.
type revokeFlags struct {
	reason, confirm string
	freeze, propose bool
	signOnly, dot   bool
	svg             string // file
	ttl, wait       time.Duration
}

func revokeCommand(o *options) *cobra.Command {
	var f revokeFlags
	c := &cobra.Command{
		Use:   "revoke TARGET",
		Short: "Preview a revoke; with --confirm carry it out and wait until it is proven",
		Long: `Without --confirm nothing happens: the preview shows what would die, as a tree of
tenants, identities, tasks in flight and live credentials, and the long-lived secrets
with how each is ended; --dot and --svg draw it. With --confirm the
revoke is accepted (durable) and the command waits for the receipts of every guard.

Exit code 0: closed, every enforcement point has answered or its lease ran out.
Exit code 3: accepted, but not closed within --wait; what is missing is listed and
the revocation goes on.

TARGET is KIND:TENANT/ID (kinds: ` + kindNames() + `),
a 16-character handle, or the SHA-256 of a token's text.`,
		Example: `  lanyard revoke identity:acme/orchestrator
  lanyard revoke identity:acme/orchestrator --svg orchestrator.svg
  lanyard revoke identity:acme/orchestrator --reason "stolen laptop" --confirm
  lanyard revoke owner:acme/ana@acme.example --reason "left" --confirm=41
  lanyard revoke owner:acme/ana@acme.example --reason "left" --propose
  lanyard revoke task:acme/process-orders --freeze --ttl 30m --reason "looks odd" --confirm
  lanyard revoke lift task:acme/process-orders --reason "explained" --confirm`,
		Args: exactArgs(1, "a target"),
		RunE: func(c *cobra.Command, args []string) error {
			mode := events.ModeRevoke
			if f.freeze {
				mode = events.ModeFreeze
			}
			if (f.dot || f.svg != "") && (f.signOnly || f.propose || f.confirm != "") {
				return usage("--dot and --svg show a preview: leave out --confirm, --propose and --sign-only")
			}
			if f.dot && o.json {
				return usage("--dot and --json exclude each other")
			}
			if f.signOnly {
				return signCommand(c.OutOrStdout(), o, f, mode, args[0], 15*time.Minute)
			}
			return doRevoke(c, o, f, mode, args[0])
		},
	}
	f.register(c)
	c.Flags().BoolVar(&f.freeze, "freeze", false, "end it reversibly, for --ttl")
	c.Flags().BoolVar(&f.signOnly, "sign-only", false, "print a signed kill command instead, see 'lanyard kill-command'")
	c.Flags().BoolVar(&f.propose, "propose", false, "instead of --confirm: let a second person approve it, see 'lanyard revoke approve'")
	c.Flags().BoolVar(&f.dot, "dot", false, "print the preview's tree in Graphviz' DOT language")
	c.Flags().StringVar(&f.svg, "svg", "", fmt.Sprintf("draw the preview's tree to this file as SVG, at most %d things", drawMost))
	c.Flags().DurationVar(&f.ttl, "ttl", 0, "how long a freeze lasts (default: the configured one, 1h)")
	lift := liftCommand(o)
	lift.Use = "lift TARGET"
	c.AddCommand(lift, revokeApprove(o), revokeShow(o), revokeList(o))
	return c
}

func (f *revokeFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.reason, "reason", "", "why; travels into every denial log (required with --confirm)")
	c.Flags().StringVar(&f.confirm, "confirm", "", "carry it out; --confirm=N states the previewed number of credentials, needed for broad targets")
	c.Flags().Lookup("confirm").NoOptDefVal = "yes"
	c.Flags().DurationVar(&f.wait, "wait", 30*time.Second, "how long to wait for closure")
}

func liftCommand(o *options) *cobra.Command {
	var f revokeFlags
	c := &cobra.Command{
		Use: "lift TARGET", Short: "End a freeze; what was revoked for good stays dead", Args: exactArgs(1, "a target"),
		Example: `  lanyard lift identity:acme/report-bot --reason "explained" --confirm`,
		RunE: func(c *cobra.Command, args []string) error {
			return doRevoke(c, o, f, events.ModeLift, args[0])
		},
	}
	f.register(c)
	return c
}

func doRevoke(c *cobra.Command, o *options, f revokeFlags, mode events.Mode, arg string) error {
	target, err := parseTarget(arg)
	if err != nil {
		return err
	}
	if f.propose && f.confirm != "" {
		return usage("--confirm and --propose exclude each other")
	}
	if (f.confirm != "" || f.propose) && f.reason == "" {
		return usage("say why with --reason; it travels into every denial log")
	}
	a, err := openAPI(o)
	if err != nil {
		return err
	}
	body := map[string]any{"mode": mode, "target": target, "reason": f.reason}
	if f.ttl > 0 {
		body["ttl_seconds"] = int64(f.ttl.Seconds())
	}
	if f.confirm == "" && !f.propose {
		return a.preview(c, o, f, mode, arg, body)
	}
	if f.propose {
		body["approval"] = true
	} else if f.confirm != "yes" {
		n, err := strconv.ParseInt(f.confirm, 10, 64)
		if err != nil || n < 0 {
			return usage("--confirm=%s: want the previewed number of credentials", f.confirm)
		}
		body["confirm"] = n
	}
	var s revocationState
	if err := a.call(c.Context(), http.MethodPost, a.ends.Revocation, "/v1/revocations", nil, body, &s); err != nil {
		return fmt.Errorf("%s: %w", mode, err)
	}
	return a.followRevocation(c, o, s, f.wait)
}

// followRevocation shows receipts as they come in, until closure or the wait is over.
func (a *api) followRevocation(c *cobra.Command, o *options, s revocationState, wait time.Duration) error {
	w, col := c.OutOrStdout(), colours(c.OutOrStdout())
	switch {
	case s.State == "proposed":
		return proposed(w, o, s)
	case o.json:
	case s.Code == "already_revoked":
		fmt.Fprintf(w, "%s by %s\n", col.good("already revoked"), s.Revocation)
	default:
		fmt.Fprintf(w, "%s %s: durable, it is never lost from here\n", col.good("accepted"), s.Revocation)
	}
	ctx, cancel := context.WithTimeout(c.Context(), wait)
	defer cancel()
	shown := -1
	for !final(s.State) {
		if !o.json && s.Enforced != shown && s.Expected > 0 {
			shown = s.Enforced
			fmt.Fprintf(w, "  %d of %d enforced\n", s.Enforced, s.Expected)
			printOutstanding(w, s)
		}
		var got revocationState
		err := a.call(ctx, http.MethodGet, a.ends.Revocation, "/v1/revocations/"+url.PathEscape(s.Revocation), url.Values{"wait": {"2s"}}, nil, &got)
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("accepted as %s, but its state cannot be read: %w", s.Revocation, err)
		}
		if err == nil {
			s = got
		}
		if ctx.Err() != nil {
			break
		}
	}
	return finish(w, o, s, wait)
}

// outstandingShown is how many points that have not answered are shown at a time.
const outstandingShown = 5

// printOutstanding says who may still say yes, and until when at the latest.
func printOutstanding(w io.Writer, s revocationState) {
	for i, p := range s.Outstanding {
		if i == outstandingShown {
			fmt.Fprintf(w, "    ... %d more\n", len(s.Outstanding)-i)
			return
		}
		fmt.Fprintf(w, "    %-28s refuses by itself from %s at the latest\n", clean(p.Point), exact(p.Until))
	}
}

func final(state string) bool { return state == "closed" || state == "refused" || state == "lifted" }

// finish prints where the revocation stands and returns what that means for the exit code.
func finish(w io.Writer, o *options, s revocationState, wait time.Duration) error {
	col := colours(w)
	if o.json {
		if err := printJSON(w, s); err != nil {
			return err
		}
	} else if s.State == "closed" {
		for _, r := range s.Receipts {
			fmt.Fprintf(w, "  %-28s %-14s %s after accept\n", clean(r.Point), clean(r.Outcome), ms(r.LatencyMS))
		}
		took := ""
		if s.AcceptedAt != nil && s.ClosedAt != nil {
			took = " after " + ms(float64(s.ClosedAt.Sub(*s.AcceptedAt).Microseconds())/1000)
		}
		fmt.Fprintf(w, "%s%s: %d of %d receipts, %d credentials in %s, Merkle root %s\n", col.good("closed"), took, s.Enforced, s.Expected, s.Descendants, strings.Join(s.Tenants, ", "), s.MerkleRoot)
	}
	switch s.State {
	case "closed", "lifted":
		return nil
	case "refused":
		return fmt.Errorf("refused: %s (%s)", s.Reason, s.Code)
	}
	return notTrue("%s is accepted but not closed within %s: %d of %d enforced, missing %s; it goes on, see 'lanyard revoke show %s'",
		s.Revocation, wait, s.Enforced, s.Expected, or(strings.Join(s.Missing, ", "), "nothing known yet"), s.Revocation)
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func revokeShow(o *options) *cobra.Command {
	var wait time.Duration
	c := &cobra.Command{
		Use: "show REVOCATION", Short: "Show where a revocation stands; exits 3 while it is not closed", Args: exactArgs(1, "a revocation id"),
		Example: "  lanyard revoke show 3f0c... --wait 1m",
		RunE: func(c *cobra.Command, args []string) error {
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			var s revocationState
			if err := a.call(c.Context(), http.MethodGet, a.ends.Revocation, "/v1/revocations/"+url.PathEscape(args[0]), nil, nil, &s); err != nil {
				return fmt.Errorf("show revocation: %w", err)
			}
			if wait > 0 && !final(s.State) {
				return a.followRevocation(c, o, s, wait)
			}
			return finish(c.OutOrStdout(), o, s, wait)
		},
	}
	c.Flags().DurationVar(&wait, "wait", 0, "how long to wait for closure")
	return c
}

func revokeList(o *options) *cobra.Command {
	var waiting bool
	c := &cobra.Command{
		Use: "list", Short: "List revocations", Args: exactArgs(0, "no arguments"),
		Example: "  lanyard revoke list\n  lanyard revoke list --proposed",
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			var list []revocationState
			query := url.Values{}
			if waiting {
				query.Set("status", "proposed")
			}
			if err := a.call(c.Context(), http.MethodGet, a.ends.Revocation, "/v1/revocations", query, nil, &list); err != nil {
				return fmt.Errorf("list revocations: %w", err)
			}
			if o.json {
				return printJSON(c.OutOrStdout(), list)
			}
			if waiting {
				return printProposals(c.OutOrStdout(), list)
			}
			rows := make([][]string, 0, len(list))
			for _, s := range list {
				at := "-"
				if s.AcceptedAt != nil {
					at = clock(*s.AcceptedAt)
				}
				rows = append(rows, []string{s.Revocation, at, s.State, fmt.Sprintf("%d/%d", s.Enforced, s.Expected), strconv.FormatInt(s.Descendants, 10), s.Reason})
			}
			return table(c.OutOrStdout(), []string{"REVOCATION", "ACCEPTED", "STATE", "RECEIPTS", "CREDENTIALS", "REASON"}, rows)
		},
	}
	c.Flags().BoolVar(&waiting, "proposed", false, "those that wait for a second person's approval")
	return c
}
