package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/embedded/oidc"
	"github.com/spf13/cobra"
)

// identityRecord is an identity as the registry answers it.
type identityRecord struct {
	Tenant string `json:"tenant"`
	Status string `json:"status"`
	events.Registration
}

// declaration is an identity as it is declared.
type declaration struct {
	Tenant string `json:"tenant"`
	events.Registration
}

func identityCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "identity", Short: "List, show, declare and import identities"}
	c.AddCommand(identityList(o), identityShow(o), identityDeclare(o), identityImport(o))
	return c
}

func identityList(o *options) *cobra.Command {
	var tenant string
	c := &cobra.Command{
		Use: "list", Short: "List the registered identities", Args: exactArgs(0, "no arguments"),
		Example: "  lanyard identity list --tenant acme",
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			q := url.Values{}
			if tenant != "" {
				q.Set("tenant", tenant)
			}
			var answer struct {
				Identities []identityRecord `json:"identities"`
			}
			if err := a.call(c.Context(), http.MethodGet, a.ends.Issuer, "/v1/identities", q, nil, &answer); err != nil {
				return fmt.Errorf("list identities: %w", err)
			}
			ids := answer.Identities
			if o.json {
				return printJSON(c.OutOrStdout(), ids)
			}
			rows := make([][]string, 0, len(ids))
			for _, i := range ids {
				rows = append(rows, []string{i.Tenant, i.Identity, string(i.Kind), i.Status, i.Owner, i.Feature, i.Purpose})
			}
			return table(c.OutOrStdout(), []string{"TENANT", "IDENTITY", "KIND", "STATUS", "OWNER", "FEATURE", "PURPOSE"}, rows)
		},
	}
	c.Flags().StringVar(&tenant, "tenant", "", "only this tenant")
	return c
}

func identityShow(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "show TENANT/IDENTITY", Short: "Show one identity", Args: exactArgs(1, "TENANT/IDENTITY"),
		Example: "  lanyard identity show acme/orchestrator",
		RunE: func(c *cobra.Command, args []string) error {
			tenant, id, ok := strings.Cut(args[0], "/")
			if !ok {
				return usage("%q is not TENANT/IDENTITY", args[0])
			}
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			var i identityRecord
			if err := a.call(c.Context(), http.MethodGet, a.ends.Issuer, "/v1/identities/"+url.PathEscape(tenant)+"/"+url.PathEscape(id), nil, nil, &i); err != nil {
				return fmt.Errorf("show identity: %w", err)
			}
			if o.json {
				return printJSON(c.OutOrStdout(), i)
			}
			w := c.OutOrStdout()
			for _, l := range [][2]string{
				{"identity", i.Tenant + "/" + i.Identity}, {"kind", string(i.Kind)}, {"status", i.Status}, {"owner", i.Owner},
				{"feature", i.Feature}, {"purpose", i.Purpose}, {"kill switch", "lanyard revoke " + killSwitch(i)},
				{"scopes", strings.Join(i.Scopes, " ")}, {"audiences", strings.Join(i.Audiences, " ")}, {"aliases", strings.Join(i.Aliases, " ")},
			} {
				fmt.Fprintf(w, "%-12s %s\n", l[0], clean(l[1]))
			}
			for _, l := range known(i.Registration) {
				fmt.Fprintf(w, "%-12s %s\n", l[0], clean(l[1]))
			}
			for _, at := range i.Attestation {
				fmt.Fprintf(w, "%-12s %s as %s\n", "proves by", clean(at.Issuer), clean(at.Subject))
			}
			for _, by := range i.Launchers {
				fmt.Fprintf(w, "%-12s %s as %s\n", "launched by", clean(by.Issuer), clean(by.Subject))
			}
			return nil
		},
	}
}

// known is what only some registrations say.
func known(r events.Registration) [][2]string {
	var out [][2]string
	managed, beats := "", ""
	if r.VendorManaged {
		managed = "inside the vendor's service, where nobody here can see it"
	}
	if r.HeartbeatSeconds > 0 {
		beats = fmt.Sprintf("a task ends %s after its last sign of life", time.Duration(r.HeartbeatSeconds)*time.Second)
	}
	for _, l := range [][2]string{{"runs on", r.Backend}, {"vendor", r.Vendor}, {"it lives", managed}, {"was granted", strings.Join(r.GrantedScopes, " ")},
		{"consented by", r.ConsentedBy}, {"reaches", strings.Join(r.DataReached, "; ")}, {"not known", strings.Join(r.Unknowns, "; ")}, {"heartbeat", beats}} {
		if l[1] != "" {
			out = append(out, l)
		}
	}
	return out
}

// killSwitch is the target that stops the identity.
func killSwitch(i identityRecord) string {
	switch i.KillSwitch {
	case "feature":
		return "feature:" + i.Tenant + "/" + i.Feature
	case "owner":
		return "owner:" + i.Tenant + "/" + i.Owner
	}
	return "identity:" + i.Tenant + "/" + i.Identity
}

func identityDeclare(o *options) *cobra.Command {
	var file string
	var d declaration
	var attest, local, launch, launchLocal []string
	var heartbeat time.Duration
	c := &cobra.Command{
		Use: "declare [TENANT/IDENTITY]", Short: "Declare identities, one by flags or many from a file",
		Example: `  lanyard identity declare acme/report-bot --kind agent --owner ana@acme.example \
      --feature reports --purpose "nightly revenue report" \
      --scope reports.read --audience https://reports.acme.example \
      --attest https://token.actions.githubusercontent.com=repo:acme/reports:ref:refs/heads/main
  lanyard identity declare --file identities.json`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			d.HeartbeatSeconds = int64(heartbeat / time.Second)
			list, err := declarations(c.InOrStdin(), file, args, d, attest, launch)
			if err != nil {
				return err
			}
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			if len(local)+len(launchLocal) > 0 {
				if len(list) != 1 || a.ends.LocalOIDC == "" {
					return usage("--attest-local and --launcher-local need one identity and a Lanyard that runs the development issuer")
				}
				list[0].Attestation = append(list[0].Attestation, vouchedLocally(a.ends, local)...)
				list[0].Launchers = append(list[0].Launchers, vouchedLocally(a.ends, launchLocal)...)
			}
			for _, d := range list {
				var got identityRecord
				if err := a.call(c.Context(), http.MethodPost, a.ends.Issuer, "/v1/identities", nil, d, &got); err != nil {
					return fmt.Errorf("declare %s/%s: %w", d.Tenant, d.Identity, err)
				}
				if o.json {
					if err := printJSON(c.OutOrStdout(), got); err != nil {
						return err
					}
					continue
				}
				fmt.Fprintf(c.OutOrStdout(), "registered %s/%s\n", clean(d.Tenant), clean(d.Identity))
			}
			return nil
		},
	}
	f := c.Flags()
	f.StringVar(&file, "file", "", "JSON array of declarations; '-' reads standard input")
	f.StringVar((*string)(&d.Kind), "kind", string(events.KindServiceAccount), "agent, service_account, api_key, oauth_app or workload")
	f.StringVar(&d.Owner, "owner", "", "person or team that answers for it (required)")
	f.StringVar(&d.Feature, "feature", "", "product feature that created it (required)")
	f.StringVar(&d.Purpose, "purpose", "", "why it exists, in one line (required)")
	f.StringVar(&d.KillSwitch, "kill-switch", "identity", "what to revoke to stop it: identity, feature or owner")
	f.StringSliceVar(&d.Scopes, "scope", nil, "the most it may ever be granted (repeat)")
	f.StringSliceVar(&d.Audiences, "audience", nil, "where it may ever be granted it (repeat)")
	f.StringSliceVar(&d.Aliases, "alias", nil, "its name in another system's log, such as an ARN (repeat)")
	f.StringVar(&d.Backend, "backend", "", "shared identity in another system that it runs on, such as a role's ARN")
	f.DurationVar(&heartbeat, "heartbeat", 0, "a task of it ends when there is no sign of life for so long, 10s to 24h (default: never)")
	f.StringArrayVar(&local, "attest-local", nil, "SUBJECT for which the local development issuer vouches (repeat)")
	f.StringArrayVar(&attest, "attest", nil, "ISSUER=SUBJECT of tokens that prove it (repeat)")
	f.StringArrayVar(&launch, "launcher", nil, "ISSUER=SUBJECT of a person or service that may start its tasks; with none, it starts them itself (repeat)")
	f.StringArrayVar(&launchLocal, "launcher-local", nil, "the same, SUBJECT for which the local development issuer vouches (repeat)")
	return c
}

// vouched reads ISSUER=SUBJECT.
func vouched(flag string, values []string) ([]events.Attestation, error) {
	var out []events.Attestation
	for _, v := range values {
		iss, sub, ok := strings.Cut(v, "=")
		if !ok {
			return nil, usage("%s %q is not ISSUER=SUBJECT", flag, v)
		}
		out = append(out, events.Attestation{Issuer: iss, Subject: sub})
	}
	return out, nil
}

// vouchedLocally are subjects for which the development issuer vouches.
func vouchedLocally(ends endpoints, subjects []string) []events.Attestation {
	var out []events.Attestation
	for _, s := range subjects {
		by := ends.LocalOIDC
		if strings.HasPrefix(s, "spiffe://") {
			by = "spiffe://" + oidc.TrustDomain
		}
		out = append(out, events.Attestation{Issuer: by, Subject: s})
	}
	return out
}

// declarations are what the flags or the file declare.
func declarations(stdin io.Reader, file string, args []string, d declaration, attest, launch []string) ([]declaration, error) {
	if file != "" {
		if len(args) > 0 {
			return nil, usage("give either TENANT/IDENTITY or --file")
		}
		in := stdin
		if file != "-" {
			f, err := os.Open(file)
			if err != nil {
				return nil, fmt.Errorf("read declarations: %w", err)
			}
			defer f.Close()
			in = f
		}
		var list []declaration
		dec := json.NewDecoder(in)
		dec.DisallowUnknownFields()
		if err := dec.Decode(&list); err != nil {
			return nil, fmt.Errorf("read declarations: want a JSON array of objects with tenant, identity, kind, owner, feature, purpose: %w", err)
		}
		return list, nil
	}
	if len(args) != 1 {
		return nil, usage("name TENANT/IDENTITY or pass --file")
	}
	var ok bool
	if d.Tenant, d.Identity, ok = strings.Cut(args[0], "/"); !ok {
		return nil, usage("%q is not TENANT/IDENTITY", args[0])
	}
	var err error
	if d.Attestation, err = vouched("--attest", attest); err != nil {
		return nil, err
	}
	if d.Launchers, err = vouched("--launcher", launch); err != nil {
		return nil, err
	}
	return []declaration{d}, nil
}
