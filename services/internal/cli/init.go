package cli

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/lanyard-nhi/lanyard/services/internal/allinone"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/deployment"
	"github.com/lanyard-nhi/lanyard/services/internal/embedded/oidc"
	"github.com/lanyard-nhi/lanyard/services/internal/keys"
	"github.com/lanyard-nhi/lanyard/services/internal/operator"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/lanyard-nhi/lanyard/events"
)

func initCommand(o *options) *cobra.Command {
	var out, layout string
	var port int
	var dev bool
	c := &cobra.Command{
		Use: "init", Short: "Lay out a deployment of separate processes: keys, NATS users, certificates, configurations", Args: exactArgs(0, "no arguments"),
		Long: `Writes DIR/<service>/ with the configuration and only the keys this service needs,
DIR/nats/nats.conf with one NATS user per service and product whose permissions are
derived from the handler tables, DIR/redis/redis.conf, and DIR/operator/ for the
command line. Running it again keeps keys and certificates.`,
		Example: "  lanyard init --out lanyard-deployment --layout local\n  lanyard init --out /deployment --layout compose",
		RunE: func(c *cobra.Command, _ []string) error {
			if out == "" {
				return usage("say where with --out DIR")
			}
			t, err := service.Describe(config.Default(out), allinone.Services()...)
			if err != nil {
				return err
			}
			e, err := deployment.Init(deployment.Options{Dir: out, Layout: layout, BasePort: port, Topology: t, Users: DemoUsers(), LocalOIDC: dev})
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(c.OutOrStdout(), e)
			}
			_, err = fmt.Fprintf(c.OutOrStdout(), "deployment laid out in %s\nuse it with: lanyard --data %s identity list\n", out, filepath.Join(out, "operator"))
			return err
		},
	}
	c.Flags().StringVar(&out, "out", "", "directory to write (required)")
	c.Flags().StringVar(&layout, "layout", deployment.Local, "local (all on loopback) or compose (one container each, TLS)")
	c.Flags().IntVar(&port, "base-port", 9080, "first port of the processes")
	c.Flags().BoolVar(&dev, "local-oidc", false, "trust the development issuer ('lanyard local-issuer'); never in production")
	return c
}

// provisionCommand makes the streams, once, before services start.
func provisionCommand(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "provision", Short: "Make or update the NATS streams and declare the first operator; idempotent", Args: exactArgs(0, "no arguments"),
		Example: "  lanyard provision --config lanyard-deployment/provision/lanyard.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := config.Load(o.config, os.Environ(), nil)
			if err != nil {
				return exitError{exitUsage, err}
			}
			ring, err := keys.Open(conf.Keys, false)
			if err != nil {
				return err
			}
			ctx, cancel := withDeadline(c, time.Minute)
			defer cancel()
			connect := func(user string) (*bus.Conn, error) {
				seed, err := ring.NkeySeed(user)
				if err != nil {
					return nil, err
				}
				return bus.Connect(ctx, bus.Config{URL: conf.NATS.URL, Name: user, NkeySeed: seed, CAFile: conf.NATS.CA, MonitorURL: conf.NATS.Monitor, Log: zap.NewNop(), Now: time.Now})
			}
			conn, err := connect(service.UserProvision)
			if err != nil {
				return err
			}
			if err := errors.Join(bus.Provision(ctx, conn, bus.Options{Replicas: conf.NATS.Replicas}), conn.Close()); err != nil {
				return fmt.Errorf("provision: %w", err)
			}
			if conn, err = connect("product-" + operator.Tenant); err != nil {
				return err
			}
			e, err := events.New(events.Origin{Source: "/lanyard/provision", Tenant: operator.Tenant, Time: time.Now()}, operator.Declaration(conf.Issuer.URL))
			if err == nil {
				err = conn.Publish(ctx, e)
			}
			if err := errors.Join(err, conn.Close()); err != nil {
				return fmt.Errorf("declare operator: %w", err)
			}
			if o.json {
				return printJSON(c.OutOrStdout(), map[string]bool{"provisioned": true})
			}
			_, err = fmt.Fprintln(c.OutOrStdout(), "streams are in place; the operator is declared")
			return err
		},
	}
}

// localIssuerCommand serves the development OIDC issuer on its own.
func localIssuerCommand(o *options) *cobra.Command {
	var listen string
	c := &cobra.Command{
		Use: "local-issuer", Short: "Serve the development OIDC issuer and SPIFFE CA on loopback, until Ctrl-C", Args: exactArgs(0, "no arguments"),
		Long: `Vouches to whoever knows DATA/keys/local-issuer.secret: for any subject with an OIDC
token (POST /token), and for any ID below spiffe://lanyard.local/ with a JWT-SVID (POST
/spiffe/svid; bundle at /spiffe/bundle). For development only.`,
		Example: "  lanyard local-issuer --data lanyard-deployment/operator --listen 127.0.0.1:9087",
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := (&net.ListenConfig{}).Listen(c.Context(), "tcp", listen)
			if err != nil {
				return fmt.Errorf("listen: %w", err)
			}
			h, err := oidc.New(oidc.Config{URL: "http://" + l.Addr().String(), SecretFile: filepath.Join(o.data, "keys", "local-issuer.secret"),
				KeyFile: filepath.Join(o.data, "keys", "local-issuer.jwk"), SVIDKeyFile: filepath.Join(o.data, "keys", "local-spiffe.jwk"), Now: time.Now})
			if err != nil {
				return errors.Join(err, l.Close())
			}
			s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 10 * time.Second}
			ctx, stop := signal.NotifyContext(c.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			go func() { <-ctx.Done(); _ = s.Close() }()
			fmt.Fprintf(c.OutOrStdout(), "development issuer at http://%s\n", l.Addr())
			if err := s.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve: %w", err)
			}
			return nil
		},
	}
	c.Flags().StringVar(&listen, "listen", "127.0.0.1:9087", "loopback address")
	return c
}
