package cli

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/services/intake/adapter"
	"github.com/lanyard-nhi/lanyard/services/internal/allinone"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/keys"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/internal/state"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
)

// connectBus connects as the NATS user "operator".
func connectBus(c *cobra.Command, o *options) (*bus.Conn, error) {
	ends, err := readEndpoints(o.data)
	if err != nil {
		return nil, err
	}
	ring, err := keys.Open(filepath.Join(o.data, "keys"), false)
	if err != nil {
		return nil, err
	}
	seed, err := ring.NkeySeed(service.UserOperator)
	if err != nil {
		return nil, err
	}
	ctx, cancel := withDeadline(c, 10*time.Second)
	defer cancel()
	conn, err := bus.Connect(ctx, bus.Config{URL: ends.NATS, Name: service.UserOperator, NkeySeed: seed, CAFile: caFile(o.data), Log: zap.NewNop(), Now: time.Now})
	if err != nil {
		return nil, fmt.Errorf("reach NATS at %s: %w; is Lanyard running?", ends.NATS, err)
	}
	return conn, nil
}

// caFile is the deployment's own authority, "" when there is none.
func caFile(data string) string {
	p := filepath.Join(data, "tls", "ca.pem")
	if _, err := os.Stat(p); err != nil {
		return ""
	}
	return p
}

// openState opens Redis as the operator.
func openState(c *cobra.Command, o *options) (*state.Store, error) {
	ends, err := readEndpoints(o.data)
	if err != nil {
		return nil, err
	}
	u := ends.Redis
	if b, err := os.ReadFile(filepath.Join(o.data, "redis.password")); err == nil {
		scheme, rest, _ := strings.Cut(u, "://")
		u = scheme + "://:" + strings.TrimSpace(string(b)) + "@" + rest
	}
	ctx, cancel := withDeadline(c, 10*time.Second)
	defer cancel()
	s, err := state.Open(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("reach Redis at %s: %w", ends.Redis, err)
	}
	return s, nil
}

func rebuildCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "rebuild", Short: "Drop every projection in Redis; the services fold the log again", Args: exactArgs(0, "no arguments"),
		Long: `Redis holds projections only, so nothing is lost. Decisions go on meanwhile: they
rest on the log. Use it after a Redis was restored from somewhere.`,
		Example: "  lanyard rebuild",
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := openState(c, o)
			if err != nil {
				return err
			}
			defer func() { _ = s.Close() }() // the command ends
			if err := s.Rebuild(c.Context()); err != nil {
				return fmt.Errorf("rebuild: %w", err)
			}
			if o.json {
				return printJSON(c.OutOrStdout(), map[string]bool{"rebuilding": true})
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), "projections dropped; the services fold the log again")
			return err
		},
	}
}

func topologyCommand(o *options) *cobra.Command {
	var mermaid, permissions bool
	c := &cobra.Command{
		Use: "topology", Short: "Who consumes and produces which events, from the handler tables", Args: exactArgs(0, "no arguments"),
		Example: "  lanyard topology\n  lanyard topology --mermaid\n  lanyard topology --permissions --json",
		RunE: func(c *cobra.Command, _ []string) error {
			conf := config.Default("")
			t, err := service.Describe(conf, allinone.Services()...)
			if err != nil {
				return err
			}
			w := c.OutOrStdout()
			switch {
			case permissions:
				users := service.Permissions(t, nil)
				if o.json {
					return printJSON(w, users)
				}
				for _, u := range users {
					fmt.Fprintf(w, "%s\n  publish   %s\n", u.Name, strings.Join(u.Publish, "\n            "))
					if len(u.Deny) > 0 {
						fmt.Fprintf(w, "  never     %s\n", strings.Join(u.Deny, "\n            "))
					}
					fmt.Fprintf(w, "  subscribe %s\n", strings.Join(u.Subscribe, "\n            "))
				}
				return nil
			case mermaid:
				_, err = fmt.Fprint(w, t.Mermaid())
			case o.json:
				var b []byte
				if b, err = t.JSON(); err == nil {
					_, err = fmt.Fprintln(w, string(b))
				}
			default:
				_, err = fmt.Fprint(w, t.Text())
			}
			return err
		},
	}
	c.Flags().BoolVar(&mermaid, "mermaid", false, "print a Mermaid diagram")
	c.Flags().BoolVar(&permissions, "permissions", false, "print what each NATS user may do")
	return c
}

func configCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Check and show the configuration"}
	c.AddCommand(&cobra.Command{
		Use: "check [FILE]", Short: "Check a configuration file", Args: cobra.MaximumNArgs(1),
		Example: "  lanyard config check lanyard.yaml",
		RunE: func(c *cobra.Command, args []string) error {
			path := o.config
			if len(args) == 1 {
				path = args[0]
			}
			conf, err := config.Load(path, os.Environ(), nil)
			if err == nil {
				_, err = adapter.Mapped(conf.Intake.Mappings, nil) // compiles the expressions
			}
			if o.json {
				answer := map[string]any{"file": path, "ok": err == nil}
				if err != nil {
					answer["problem"] = err.Error()
				}
				if perr := printJSON(c.OutOrStdout(), answer); perr != nil {
					return perr
				}
				if err != nil {
					return exitError{exitFailed, nil}
				}
				return nil
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "%s is fine\n", or(path, "the default configuration"))
			return err
		},
	}, &cobra.Command{
		Use: "example", Short: "Print an annotated configuration file with the defaults", Args: exactArgs(0, "no arguments"),
		Example: "  lanyard config example > lanyard.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			b, err := config.Example()
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(c.OutOrStdout(), b)
			return err
		},
	})
	return c
}
