package service

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/lanyard-nhi/lanyard/services/internal/config"
	"go.uber.org/zap"
)

// Exit codes of Main.
const (
	exitOK    = 0
	exitError = 1 // it could not start, or could not go on
	exitUsage = 2 // wrong flags or configuration
)

// Main is the main function of the process of one service. It reads the flags, the
// configuration and the environment, runs until SIGINT or SIGTERM, and returns the
// exit code. A second signal ends the process at once.
func Main(name string, build Constructor) int {
	return mainWith(context.Background(), name, build, os.Args[1:], os.Environ(), os.Stderr)
}

func mainWith(ctx context.Context, name string, build Constructor, args, env []string, out *os.File) int {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(out)
	path := flags.String("config", "", "configuration `file`; see deploy/lanyard.example.yaml")
	data := flags.String("data", "", "data `directory`, overrides the file")
	level := flags.String("log-level", "info", "debug, info, warn or error")
	flags.Usage = func() {
		fmt.Fprintf(out, "usage: %s [flags]\n\nRuns the service %s of Lanyard. Flags override LANYARD_ variables,\nwhich override the file.\n\n", name, name)
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return exitOK
		}
		return exitUsage
	}
	overrides := map[string]string{}
	if *data != "" {
		overrides["data"] = *data
	}
	c, err := config.Load(*path, env, overrides)
	if err != nil {
		fmt.Fprintf(out, "%s: %v\n", name, err)
		return exitUsage
	}
	log, err := NewLogger(out, *level)
	if err != nil {
		fmt.Fprintf(out, "%s: %v\n", name, err)
		return exitUsage
	}
	log = log.With(zap.String("process", name))
	defer func() { _ = log.Sync() }() // fails on terminals
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // from here on a signal kills
	if err := Run(ctx, RunOptions{Name: name, Config: c, Log: log}, build); err != nil {
		log.Error("ended", zap.Error(err))
		return exitError
	}
	return exitOK
}
