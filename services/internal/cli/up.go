package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/lanyard-nhi/lanyard/services/internal/allinone"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/spf13/cobra"
	"go.uber.org/zap"
)

// serverFlags switch to real servers.
type serverFlags struct{ nats, monitor, redis, redisPassword, logLevel string }

func (f *serverFlags) register(c *cobra.Command) {
	c.Flags().StringVar(&f.nats, "nats", "", "URL of a real NATS server (default: embedded)")
	c.Flags().StringVar(&f.monitor, "nats-monitor", "", "URL of its HTTP monitoring (default: port 8222 of the same host)")
	c.Flags().StringVar(&f.redis, "redis", "", "URL of a real Redis server (default: embedded)")
	c.Flags().StringVar(&f.redisPassword, "redis-password-file", "", "file with its password")
	c.Flags().StringVar(&f.logLevel, "log-level", "warn", "debug, info, warn or error")
}

// load reads the configuration file, the environment and the flags.
func (f *serverFlags) load(o *options) (config.Config, error) {
	over := map[string]string{}
	for k, v := range map[string]string{"nats.url": f.nats, "nats.monitor": f.monitor, "redis.url": f.redis, "redis.password_file": f.redisPassword} {
		if v != "" {
			over[k] = strconv.Quote(v)
		}
	}
	if o.data != "" {
		over["data"] = strconv.Quote(o.data)
	}
	c, err := config.Load(o.config, os.Environ(), over)
	if err != nil {
		return c, exitError{exitUsage, err}
	}
	return c, nil
}

func upCommand(o *options) *cobra.Command {
	var f serverFlags
	c := &cobra.Command{
		Use: "up", Short: "Run every service on this machine, until Ctrl-C", Args: exactArgs(0, "no arguments"),
		Long: `Starts NATS with JetStream on disk and a Redis-compatible server in this process,
every service, and an OIDC issuer for development. Prints the endpoints and writes
them to DATA/endpoints.json; the operator's credential is DATA/operator.json. Data
survives a restart.`,
		Example: `  lanyard up
  lanyard up --data /var/lib/lanyard
  lanyard up --nats nats://127.0.0.1:4222 --redis redis://127.0.0.1:6379`,
		RunE: func(c *cobra.Command, _ []string) error {
			conf, err := f.load(o)
			if err != nil {
				return err
			}
			log, err := logger(c, f.logLevel)
			if err != nil {
				return err
			}
			w, col := c.OutOrStdout(), colours(c.OutOrStdout())
			start := time.Now()
			sys, err := allinone.Start(c.Context(), allinone.Options{Config: conf, Log: log, Say: func(format string, a ...any) {
				if !o.json {
					fmt.Fprintln(w, col.dim(fmt.Sprintf(format, a...)))
				}
			}})
			if err != nil {
				return err
			}
			if err := announce(w, o, sys, time.Since(start)); err != nil {
				return err
			}
			select {
			case <-c.Context().Done():
				if !o.json {
					fmt.Fprintln(w, "stopping; Ctrl-C again to abort")
				}
			case err = <-sys.Running.Failed():
			}
			if serr := sys.Stop(); err == nil {
				err = serr
			}
			return err
		},
	}
	f.register(c)
	return c
}

func announce(w io.Writer, o *options, sys *allinone.System, took time.Duration) error {
	e := sys.Endpoints
	if o.json {
		return printJSON(w, e)
	}
	col := colours(w)
	fmt.Fprintf(w, "%s in %.1f s, data in %s\n\n", col.good("Lanyard is up"), took.Seconds(), sys.Data)
	for _, l := range [][2]string{{"issuer", e.Issuer}, {"intake", e.Intake}, {"guard", e.Guard}, {"alerts", e.Alerts}, {"revocation", e.Revocation},
		{"rotation", e.Rotation}, {"debug", e.Debug}, {"nats", e.NATS}, {"redis", e.Redis}, {"local OIDC", e.LocalOIDC + "  (development only)"}, {"operator", e.Operator}} {
		fmt.Fprintf(w, "  %-11s %s\n", l[0], l[1])
	}
	data := ""
	if sys.Data != "lanyard-data" && sys.Data != "./lanyard-data" {
		data = " --data " + sys.Data
	}
	_, err := fmt.Fprintf(w, "\nNext, in another terminal: lanyard%s identity list, lanyard%s doctor. Ctrl-C stops.\n", data, data)
	return err
}

// logger writes to standard error.
func logger(c *cobra.Command, level string) (*zap.Logger, error) {
	out, ok := c.ErrOrStderr().(*os.File)
	if !ok {
		return zap.NewNop(), nil
	}
	log, err := service.NewLogger(out, level)
	if err != nil {
		return nil, exitError{exitUsage, err}
	}
	return log, nil
}

// withDeadline gives calls of a command an end of their own.
func withDeadline(c *cobra.Command, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(c.Context(), d)
}
