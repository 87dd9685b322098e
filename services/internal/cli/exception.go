package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/spf13/cobra"
)

// exceptionRecord is an exception to policy as issuance answers it.
type exceptionRecord struct {
	Tenant string `json:"tenant"`
	events.ExceptionGranted
	State string `json:"state"` // in_force, review_due or expired
}

// holdsFor is whom the exception holds for.
func (e exceptionRecord) holdsFor() string {
	switch {
	case e.Identity != "":
		return "identity:" + e.Tenant + "/" + e.Identity
	case e.Feature != "":
		return "feature:" + e.Tenant + "/" + e.Feature
	}
	return "tenant:" + e.Tenant
}

func exceptionCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use: "exception", Short: "Grant, list and end exceptions to policy",
		Long: `An exception lifts one policy for a while. It names whom it holds for, an owner who
answers for it, a reason, a date by which somebody looks at it again, and an end that is
at most 90 days away. At its end the policy forbids again, without anybody doing anything.
Every credential that was issued because of it names it.`,
		Example: `  lanyard exception grant identity:acme/orchestrator --policy no-production --owner ana@acme.example \
      --reason "migration CHG-4711" --expires 7d --review 3d
  lanyard exception list --due`,
	}
	c.AddCommand(exceptionGrant(o), exceptionList(o), exceptionEnd(o))
	return c
}

func exceptionGrant(o *options) *cobra.Command {
	var ask struct {
		Tenant      string    `json:"tenant"`
		Policy      string    `json:"policy"`
		Identity    string    `json:"identity,omitempty"`
		Feature     string    `json:"feature,omitempty"`
		WholeTenant bool      `json:"whole_tenant,omitempty"`
		Scopes      []string  `json:"scopes,omitempty"`
		Audiences   []string  `json:"audiences,omitempty"`
		Owner       string    `json:"owner"`
		Reason      string    `json:"reason"`
		ReviewAt    time.Time `json:"review_at"`
		ExpiresAt   time.Time `json:"expires_at"`
	}
	var expires, review string
	c := &cobra.Command{
		Use: "grant TARGET", Short: "Lift one policy for an identity, a feature or a tenant, for a while",
		Args: exactArgs(1, "TARGET: identity:TENANT/ID, feature:TENANT/ID or tenant:TENANT"),
		Example: `  lanyard exception grant identity:acme/orchestrator --policy no-production --owner ana@acme.example \
      --reason "migration CHG-4711" --expires 7d --review 3d
  lanyard exception grant feature:acme/reports --policy office-hours --owner ana@acme.example \
      --reason "year end" --expires 2026-12-31T23:00:00Z --review 14d --scope reports.read`,
		RunE: func(c *cobra.Command, args []string) error {
			kind, rest, ok := strings.Cut(args[0], ":")
			if !ok {
				kind, rest = "identity", args[0]
			}
			tenant, id, named := strings.Cut(rest, "/")
			switch ask.Tenant = tenant; {
			case kind == "identity" && named && id != "":
				ask.Identity = id
			case kind == "feature" && named && id != "":
				ask.Feature = id
			case kind == "tenant" && !named:
				ask.WholeTenant = true
			default:
				return usage("%q is not identity:TENANT/ID, feature:TENANT/ID or tenant:TENANT", args[0])
			}
			now := time.Now()
			var err error
			if ask.ExpiresAt, err = ahead(now, "--expires", expires); err != nil {
				return err
			}
			if ask.ReviewAt, err = ahead(now, "--review", or(review, expires)); err != nil {
				return err
			}
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			var got exceptionRecord
			if err := a.call(c.Context(), http.MethodPost, a.ends.Issuer, "/v1/exceptions", nil, ask, &got); err != nil {
				return fmt.Errorf("grant exception: %w", err)
			}
			if o.json {
				return printJSON(c.OutOrStdout(), got)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s lifts policy %s for %s until %s; review it by %s\n",
				clean(got.Exception), clean(got.Policy), clean(got.holdsFor()), clock(got.ExpiresAt), clock(got.ReviewAt))
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&ask.Policy, "policy", "", "@id of the policy that it lifts (required)")
	f.StringVar(&ask.Owner, "owner", "", "person or team that answers for it (required)")
	f.StringVar(&ask.Reason, "reason", "", "why it is needed (required)")
	f.StringVar(&expires, "expires", "", "its end: in 7d or 36h, or an RFC 3339 time; at most 90d (required)")
	f.StringVar(&review, "review", "", "by when somebody looks at it again, like --expires (default: its end)")
	f.StringSliceVar(&ask.Scopes, "scope", nil, "it holds for this scope only (repeat)")
	f.StringSliceVar(&ask.Audiences, "audience", nil, "it holds for this audience only (repeat)")
	return c
}

func exceptionList(o *options) *cobra.Command {
	var tenant, within string
	var due bool
	c := &cobra.Command{
		Use: "list", Short: "List the exceptions that nobody has ended", Args: exactArgs(0, "no arguments"),
		Long: `Lists the exceptions that nobody has ended, the first that is due first. STATE is
in_force, review_due (in force, but the review date has passed) or expired (it lifts
nothing any more). With --due only those whose review or end is near or has passed.
An expired one stays listed until 'lanyard exception end' takes note of it.`,
		Example: "  lanyard exception list --tenant acme\n  lanyard exception list --due --within 30d",
		RunE: func(c *cobra.Command, _ []string) error {
			q := url.Values{}
			if tenant != "" {
				q.Set("tenant", tenant)
			}
			if c.Flags().Changed("within") && !due {
				return usage("--within goes with --due")
			}
			if due {
				at, err := ahead(time.Now(), "--within", within)
				if err != nil {
					return err
				}
				q.Set("due", at.Format(time.RFC3339))
			}
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			var answer struct {
				Exceptions []exceptionRecord `json:"exceptions"`
			}
			if err := a.call(c.Context(), http.MethodGet, a.ends.Issuer, "/v1/exceptions", q, nil, &answer); err != nil {
				return fmt.Errorf("list exceptions: %w", err)
			}
			if o.json {
				return printJSON(c.OutOrStdout(), answer.Exceptions)
			}
			rows := make([][]string, 0, len(answer.Exceptions))
			for _, e := range answer.Exceptions {
				rows = append(rows, []string{e.Exception, e.State, e.Policy, e.holdsFor(), e.Owner, clock(e.ReviewAt), clock(e.ExpiresAt), e.Reason})
			}
			return table(c.OutOrStdout(), []string{"EXCEPTION", "STATE", "POLICY", "FOR", "OWNER", "REVIEW", "EXPIRES", "REASON"}, rows)
		},
	}
	c.Flags().StringVar(&tenant, "tenant", "", "only this tenant")
	c.Flags().BoolVar(&due, "due", false, "only those whose review or end is near or has passed")
	c.Flags().StringVar(&within, "within", "14d", "what --due calls near: 14d, 36h")
	return c
}

func exceptionEnd(o *options) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: "end EXCEPTION", Short: "End an exception at once", Args: exactArgs(1, "EXCEPTION, its id"),
		Long: `Ends an exception: from the moment the command returns, the policy forbids again.
Credentials that were issued because of it stay valid until they expire, minutes later;
'lanyard revoke' ends them at once. Ending one that has ended changes nothing.`,
		Example: `  lanyard exception end exc-4f0c9a6d1b2e3f40 --reason "migration is done"`,
		RunE: func(c *cobra.Command, args []string) error {
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			var got struct {
				Tenant    string `json:"tenant,omitempty"`
				Exception string `json:"exception"`
				Ended     bool   `json:"ended"`
			}
			body := map[string]string{"reason": reason}
			if err := a.call(c.Context(), http.MethodPost, a.ends.Issuer, "/v1/exceptions/"+url.PathEscape(args[0])+"/end", nil, body, &got); err != nil {
				return fmt.Errorf("end exception: %w", err)
			}
			if o.json {
				return printJSON(c.OutOrStdout(), got)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s ended\n", clean(got.Exception))
			return err
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why it ends (required)")
	return c
}

// ahead reads a point in time ahead of now: "7d", "36h" or RFC 3339. Whole seconds.
func ahead(now time.Time, flag, text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, usage("%s is missing: give a span such as 7d or 36h, or an RFC 3339 time", flag)
	}
	if t, err := time.Parse(time.RFC3339, text); err == nil {
		return t.UTC(), nil
	}
	d, err := time.ParseDuration(text)
	if days, ok := strings.CutSuffix(text, "d"); ok {
		var n uint64
		n, err = strconv.ParseUint(days, 10, 16)
		d = time.Duration(n) * 24 * time.Hour
	}
	if err != nil || d < 0 {
		return time.Time{}, usage("%s %q is neither a span such as 7d or 36h nor an RFC 3339 time", flag, text)
	}
	return now.Add(d).UTC().Truncate(time.Second), nil
}
