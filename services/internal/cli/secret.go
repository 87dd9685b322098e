package cli

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/spf13/cobra"
)

// secretRecord is a managed secret as revocation answers it.
type secretRecord struct {
	Tenant string `json:"tenant"`
	events.SecretTracked
}

func secretCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use: "secret", Short: "Place, list and untrack long-lived credentials in other systems",
		Long: `A managed secret is a long-lived credential of an identity in another system, a
downstream: a database role, a cache user, a token at an OAuth server. Once it is placed,
a revocation of anything that it hangs from ends it there, proves that, and closes only
then. The secret itself is never told to Lanyard; downstreams are in the configuration
under revocation.downstreams.`,
		Example: `  lanyard secret place acme/orders-db --identity orders-agent --downstream pg-main --account acme_orders --owner ana@acme.example
  lanyard secret list --tenant acme
  lanyard secret untrack acme/orders-db --reason "role dropped by hand, CHG-4711"`,
	}
	c.AddCommand(secretPlace(o), secretList(o), secretUntrack(o))
	return c
}

func secretPlace(o *options) *cobra.Command {
	var p events.SecretPlaced
	var expires string
	c := &cobra.Command{
		Use: "place TENANT/SECRET", Short: "State that an identity has a credential in a downstream",
		Args: exactArgs(1, "TENANT/SECRET: the tenant and an id of your choice, unique in the tenant"),
		Long: `States that an identity has a credential in a downstream. With --credential, the id of
the token under which it was made, it dies with everything that token hangs from, such as
the task and each delegation above it; without, with the identity, its owner, feature and
tenant. One that is placed under something revoked is ended at once.`,
		Example: `  lanyard secret place acme/orders-db --identity orders-agent --downstream pg-main --account acme_orders --owner ana@acme.example
  lanyard secret place acme/export-key --identity exporter --credential 6a1f... --downstream saas --account key-17 --owner ana@acme.example`,
		RunE: func(c *cobra.Command, args []string) error {
			tenant, id, ok := strings.Cut(args[0], "/")
			if !ok || id == "" {
				return usage("name the secret as TENANT/SECRET, such as acme/orders-db")
			}
			if p.Secret = id; expires != "" {
				at, err := ahead(time.Now(), "--expires", expires)
				if err != nil {
					return err
				}
				p.ExpiresAt = &at
			}
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			var t events.SecretTracked
			if err := a.call(c.Context(), http.MethodPost, a.ends.Revocation, "/v1/secrets", url.Values{"tenant": {tenant}}, p, &t); err != nil {
				return fmt.Errorf("place secret %s: %w", args[0], err)
			}
			if o.json {
				return printJSON(c.OutOrStdout(), t)
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is tracked: %s in %s ends with any of %d things above it (handle %s)\n",
				clean(args[0]), clean(t.Account), clean(t.Downstream), len(t.Lineage), t.Handle)
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&p.Identity, "identity", "", "whose it is")
	f.StringVar(&p.Credential, "credential", "", "id (jti) of the token under which it was made")
	f.StringVar(&p.Downstream, "downstream", "", "name of the downstream in the configuration")
	f.StringVar(&p.Account, "account", "", "what the downstream calls it: role, user, key id; never a secret")
	f.StringVar(&p.Owner, "owner", "", "who answers for it")
	f.StringVar(&expires, "expires", "", "when it ends by itself: 30d, or a time")
	for _, name := range []string{"identity", "downstream", "account", "owner"} {
		_ = c.MarkFlagRequired(name) // the flag is there
	}
	return c
}

func secretUntrack(o *options) *cobra.Command {
	var reason string
	c := &cobra.Command{
		Use: "untrack TENANT/SECRET", Short: "Say that a downstream no longer has a credential",
		Args: exactArgs(1, "TENANT/SECRET: the tenant and the secret's id"),
		Long: `Says that a downstream no longer has a credential, as when its account was ended there by
hand. From then on nothing ends it and no revocation waits for it, so be sure: your word
and your reason stand on the log instead of a proof.`,
		Example: "  lanyard secret untrack acme/orders-db --reason \"role dropped by hand, CHG-4711\"",
		RunE: func(c *cobra.Command, args []string) error {
			tenant, id, ok := strings.Cut(args[0], "/")
			if !ok || id == "" {
				return usage("name the secret as TENANT/SECRET, such as acme/orders-db")
			}
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			var u events.SecretUntracked
			if err := a.call(c.Context(), http.MethodDelete, a.ends.Revocation, "/v1/secrets/"+url.PathEscape(id), url.Values{"tenant": {tenant}},
				map[string]string{"reason": reason}, &u); err != nil {
				return fmt.Errorf("untrack secret %s: %w", args[0], err)
			}
			if o.json {
				return printJSON(c.OutOrStdout(), u)
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is not tracked any more: nothing ends it in %s\n", clean(args[0]), clean(u.Downstream))
			return nil
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why it is known to be gone")
	_ = c.MarkFlagRequired("reason") // the flag is there
	return c
}

func secretList(o *options) *cobra.Command {
	var tenant, handle string
	c := &cobra.Command{
		Use: "list", Short: "List the managed secrets of a tenant, or under a handle", Args: exactArgs(0, "no arguments"),
		Long: `Lists managed secrets, at most 1000, and how many there are in each downstream with the
way in which they are ended there. With --handle those that hang from it, in every tenant
that you may see.`,
		Example: "  lanyard secret list --tenant acme\n  lanyard secret list --handle q2hYc0pQ7dXk1mZa --json",
		RunE: func(c *cobra.Command, _ []string) error {
			q := url.Values{}
			for name, v := range map[string]string{"tenant": tenant, "handle": handle} {
				if v != "" {
					q.Set(name, v)
				}
			}
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			var answer struct {
				Count   map[string]int64  `json:"count"`
				Ends    map[string]string `json:"ends"`
				Secrets []secretRecord    `json:"secrets"`
				Cut     bool              `json:"cut"`
			}
			if err := a.call(c.Context(), http.MethodGet, a.ends.Revocation, "/v1/secrets", q, nil, &answer); err != nil {
				return fmt.Errorf("list secrets: %w", err)
			}
			if o.json {
				return printJSON(c.OutOrStdout(), answer)
			}
			rows := make([][]string, 0, len(answer.Secrets))
			for _, s := range answer.Secrets {
				rows = append(rows, []string{s.Tenant + "/" + s.Secret, s.Identity, s.Downstream, s.Account, s.Owner, clock(s.TrackedAt)})
			}
			if err := table(c.OutOrStdout(), []string{"SECRET", "IDENTITY", "DOWNSTREAM", "ACCOUNT", "OWNER", "SINCE"}, rows); err != nil {
				return err
			}
			var names []string
			for name := range answer.Count {
				names = append(names, name)
			}
			slices.Sort(names)
			for _, name := range names {
				fmt.Fprintf(c.OutOrStdout(), "%d in %s: %s\n", answer.Count[name], clean(name), clean(answer.Ends[name]))
			}
			return nil
		},
	}
	c.Flags().StringVar(&tenant, "tenant", "", "only this tenant")
	c.Flags().StringVar(&handle, "handle", "", "only what hangs from this handle")
	return c
}
