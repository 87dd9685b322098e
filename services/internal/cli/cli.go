// Package cli is the lanyard command: the operator's tool and the all-in-one
// server. Only cmd/lanyard imports it.
//
// Exit codes: 0 what was asked is true; 1 it failed; 2 the command line is wrong;
// 3 it is not true yet (a revocation that is not closed, a token that is not
// honoured, a check that does not hold).
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes of the command.
const (
	exitOK      = 0
	exitFailed  = 1
	exitUsage   = 2
	exitNotTrue = 3
)

// exitError ends the command with a code; a nil err prints nothing more.
type exitError struct {
	code int
	err  error
}

func (e exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e exitError) Unwrap() error { return e.err }

// notTrue says that what was asked is not true (yet).
func notTrue(format string, args ...any) error {
	return exitError{exitNotTrue, fmt.Errorf(format, args...)}
}

// usage says that the command line is wrong.
func usage(format string, args ...any) error {
	return exitError{exitUsage, fmt.Errorf(format, args...)}
}

// options are the flags every command has.
type options struct {
	data   string
	config string
	json   bool
}

// Main runs the command with the process's arguments and returns its exit code.
func Main() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}

// Run runs the command with args and returns its exit code.
func Run(ctx context.Context, args []string, in io.Reader, out, errw io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errw)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	var e exitError
	code := exitFailed
	if errors.As(err, &e) {
		code = e.code
	}
	if err.Error() != "" {
		fmt.Fprintf(errw, "lanyard: %v\n", err)
	}
	return code
}

func newRoot() *cobra.Command {
	o := &options{}
	root := &cobra.Command{
		Use:   "lanyard",
		Short: "Lifecycle of non-human identities: issue, watch, rotate, revoke, and prove it",
		Long: `Lanyard issues short-lived credentials to service accounts, API keys, OAuth apps
and AI agents, watches what they do, and revokes them: one revoke reaches every
tenant and every downstream system, and proves that it did.

Exit codes: 0 what was asked is true, 1 it failed, 2 the command line is wrong,
3 it is not true yet (a revocation that is not closed, a token not honoured).`,
		Example: `  lanyard demo                                  # see it work, one minute
  lanyard up                                    # run everything on this machine
  lanyard identity list
  lanyard revoke identity:acme/orchestrator     # preview
  lanyard revoke identity:acme/orchestrator --reason "stolen" --confirm`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&o.data, "data", defaultData(), "data directory: keys, endpoints.json, operator.json (env LANYARD_DATA)")
	root.PersistentFlags().StringVar(&o.config, "config", os.Getenv("LANYARD_CONFIG"), "configuration file (env LANYARD_CONFIG)")
	root.PersistentFlags().BoolVar(&o.json, "json", false, "print JSON")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage("%w; see '%s --help'", err, c.CommandPath())
	})
	root.AddCommand(
		upCommand(o), demoCommand(o), eventCommand(o), identityCommand(o), tokenCommand(o), revokeCommand(o), liftCommand(o),
		alertsCommand(o), ruleCommand(o), receiptCommand(o), killCommandCommand(o), traceCommand(o), drillCommand(o), exceptionCommand(o), secretCommand(o), taskCommand(o), policyCommand(o), deadCommand(o), rebuildCommand(o), topologyCommand(o),
		configCommand(o), doctorCommand(o), initCommand(o), provisionCommand(o), localIssuerCommand(o), benchCommand(o), evaluateCommand(o), versionCommand(o),
	)
	return root
}

func defaultData() string {
	if d := os.Getenv("LANYARD_DATA"); d != "" {
		return d
	}
	return "lanyard-data"
}

// exactArgs is cobra.ExactArgs with our exit code and a hint.
func exactArgs(n int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return usage("%s needs %s; see '%s --help'", c.CommandPath(), what, c.CommandPath())
		}
		return nil
	}
}
