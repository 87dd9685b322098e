package cli

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/killcommand"
	"github.com/lanyard-nhi/lanyard/services/internal/operator"
	"github.com/spf13/cobra"
)

func killCommandCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "kill-command", Short: "Revoke from a signed file, for the day when the API is down",
		Long: `A kill command is a revoke in a file, signed with the operator's key. Revocation takes it
from the directory revocation/inbox of its data directory, without HTTP and without a
token, and writes what became of it beside it: NAME.accepted, NAME.refused, or NAME.pending
while the bus cannot be reached; such a command is on disk and is carried out later. The
same command twice is one revoke; one whose time is over is refused.`}
	c.AddCommand(killCommandSign(o), killCommandSubmit(o))
	return c
}

func killCommandSign(o *options) *cobra.Command {
	var f revokeFlags
	var valid time.Duration
	var lift bool
	c := &cobra.Command{
		Use: "sign TARGET", Short: "Sign a kill command and print it; works offline", Args: exactArgs(1, "a target"),
		Long:    "Needs the operator's credential (DATA/operator.json) and nothing else.",
		Example: "  lanyard kill-command sign identity:acme/orchestrator --reason \"stolen laptop\" > cmd.jws\n  lanyard kill-command sign owner:acme/ana@acme.example --reason left --confirm=41 --valid 1h > cmd.jws",
		RunE: func(c *cobra.Command, args []string) error {
			mode := events.ModeRevoke
			switch {
			case f.freeze && lift:
				return usage("--freeze and --lift exclude each other")
			case f.freeze:
				mode = events.ModeFreeze
			case lift:
				mode = events.ModeLift
			}
			return signCommand(c.OutOrStdout(), o, f, mode, args[0], valid)
		},
	}
	c.Flags().StringVar(&f.reason, "reason", "", "why; travels into every denial log (required)")
	c.Flags().StringVar(&f.confirm, "confirm", "", "the number of credentials, needed for broad targets")
	c.Flags().BoolVar(&f.freeze, "freeze", false, "end it reversibly, for --ttl")
	c.Flags().BoolVar(&lift, "lift", false, "end a freeze")
	c.Flags().DurationVar(&f.ttl, "ttl", 0, "how long a freeze lasts (default: the configured one, 1h)")
	c.Flags().DurationVar(&valid, "valid", 15*time.Minute, "how long the command may be handed in, at most 1h")
	return c
}

// signCommand prints a kill command signed by the operator's key.
func signCommand(w io.Writer, o *options, f revokeFlags, mode events.Mode, arg string, valid time.Duration) error {
	target, err := parseTarget(arg)
	switch {
	case err != nil:
		return err
	case f.reason == "":
		return usage("say why with --reason; it travels into every denial log")
	case valid <= 0 || valid > killcommand.MaxLife:
		return usage("--valid=%s: want more than 0s and at most %s", valid, killcommand.MaxLife)
	}
	var confirm int64
	if f.confirm != "" && f.confirm != "yes" {
		if confirm, err = strconv.ParseInt(f.confirm, 10, 64); err != nil || confirm < 0 {
			return usage("--confirm=%s: want the number of credentials", f.confirm)
		}
	}
	cred, err := operator.Load(filepath.Join(o.data, "operator.json"))
	if err != nil {
		return err
	}
	signer, err := cred.Signer()
	if err != nil {
		return err
	}
	var id [16]byte
	_, _ = rand.Read(id[:])
	now := time.Now()
	raw, err := killcommand.Sign(signer, killcommand.Command{Issuer: cred.Issuer, Subject: cred.Subject, Audience: cred.Audience, ID: hex.EncodeToString(id[:]),
		IssuedAt: now.Unix(), Expires: now.Add(valid).Unix(), Mode: mode, Target: target, Reason: f.reason, TTLSeconds: int64(f.ttl.Seconds()), Confirm: confirm})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(w, raw)
	return err
}

func killCommandSubmit(o *options) *cobra.Command {
	var inbox string
	var wait time.Duration
	c := &cobra.Command{
		Use: "submit FILE", Short: "Hand a kill command in and say what became of it", Args: exactArgs(1, "a file with a kill command, or - for stdin"),
		Long: `Puts the command into the inbox of revocation on this machine and waits for the result.

Exit code 0: accepted, durable. Exit code 1: refused, with the reason. Exit code 3: nobody
took it yet, or the bus is down and it is carried out later.`,
		Example: "  lanyard kill-command submit cmd.jws\n  lanyard kill-command sign task:acme/t1 --reason odd | lanyard kill-command submit - --inbox /var/lib/lanyard/revocation/inbox",
		RunE: func(c *cobra.Command, args []string) error {
			raw, err := commandText(c, args[0])
			if err != nil {
				return err
			}
			dir := or(inbox, filepath.Join(o.data, "revocation", "inbox"))
			if _, err := os.Stat(dir); err != nil {
				return fmt.Errorf("find revocation's inbox: %w; pass --inbox DIR, it is revocation/inbox of the data directory of the process", err)
			}
			name := token.HashText(raw)[:32]
			if err := handIn(dir, name, raw); err != nil {
				return err
			}
			r, err := awaitResult(c.Context(), dir, name, wait)
			if err != nil {
				return err
			}
			return tellResult(c.OutOrStdout(), o, dir, r)
		},
	}
	c.Flags().StringVar(&inbox, "inbox", "", "directory that revocation takes commands from (default: DATA/revocation/inbox)")
	c.Flags().DurationVar(&wait, "wait", 15*time.Second, "how long to wait for the result")
	return c
}

func commandText(c *cobra.Command, arg string) (string, error) {
	in := c.InOrStdin()
	if arg != "-" {
		f, err := os.Open(arg)
		if err != nil {
			return "", fmt.Errorf("read kill command: %w", err)
		}
		defer f.Close()
		in = f
	}
	b, err := io.ReadAll(io.LimitReader(in, token.MaxSize+2))
	if err != nil {
		return "", fmt.Errorf("read kill command: %w", err)
	}
	raw := strings.TrimSpace(string(b))
	if strings.Count(raw, ".") != 2 {
		return "", usage("%s holds no kill command; make one with 'lanyard kill-command sign'", arg)
	}
	return raw, nil
}

// handIn writes the command's file so that it is never seen in part. What an earlier
// submission was told is removed.
func handIn(dir, name, raw string) error {
	for _, s := range []string{killcommand.Accepted, killcommand.Refused, killcommand.Pending} {
		if err := os.Remove(filepath.Join(dir, name+"."+s)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("hand in kill command: %w", err)
		}
	}
	f, err := os.CreateTemp(dir, ".tmp-*")
	if err != nil {
		return fmt.Errorf("hand in kill command: %w", err)
	}
	defer os.Remove(f.Name())
	_, err = f.WriteString(raw + "\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name+killcommand.Suffix))
	}
	if err != nil {
		return fmt.Errorf("hand in kill command: %w", err)
	}
	return nil
}

// awaitResult polls for the result's file. Without any it says so.
func awaitResult(ctx context.Context, dir, name string, wait time.Duration) (killcommand.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last killcommand.Result
	for {
		for _, s := range []string{killcommand.Accepted, killcommand.Refused, killcommand.Pending} {
			b, err := os.ReadFile(filepath.Join(dir, name+"."+s))
			if err == nil && json.Unmarshal(b, &last) == nil && last.State != killcommand.Pending {
				return last, nil
			}
		}
		select {
		case <-ctx.Done():
			if last.State != "" {
				return last, nil
			}
			return last, notTrue("nobody took the command from %s within %s; is the revocation process running? It lies there as %s%s and is taken when it runs", dir, wait, name, killcommand.Suffix)
		case <-tick.C:
		}
	}
}

func tellResult(w io.Writer, o *options, dir string, r killcommand.Result) error {
	col := colours(w)
	if o.json {
		if err := printJSON(w, r); err != nil {
			return err
		}
	}
	switch r.State {
	case killcommand.Accepted:
		if !o.json {
			fmt.Fprintf(w, "%s %s: durable, it is never lost from here; see 'lanyard revoke show %s'\n", col.good(or(strings.ReplaceAll(r.Code, "_", " "), "accepted")), r.Revocation, r.Revocation)
		}
		return nil
	case killcommand.Refused:
		return fmt.Errorf("refused: %s (%s)", r.Reason, r.Code)
	}
	return notTrue("journaled, not carried out yet: %s; the result comes into %s", r.Reason, dir)
}
