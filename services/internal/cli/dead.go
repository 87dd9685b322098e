package cli

import (
	"errors"
	"fmt"
	"io"
	"strconv"
	"unicode/utf8"

	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/spf13/cobra"
)

func deadCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "dead", Short: "List, show and replay dead letters: what was refused or could not be handled"}
	c.AddCommand(deadList(o), deadShow(o), deadReplay(o))
	return c
}

func deadList(o *options) *cobra.Command {
	var from uint64
	c := &cobra.Command{
		Use: "list", Short: "List dead letters", Args: exactArgs(0, "no arguments"),
		Example: "  lanyard dead list",
		RunE: func(c *cobra.Command, _ []string) error {
			conn, err := connectBus(c, o)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }() // the command ends
			list := []bus.Dead{}
			for d, err := range conn.DeadLetters(c.Context(), from) {
				if err != nil {
					return fmt.Errorf("list dead letters: %w", err)
				}
				list = append(list, d)
			}
			if o.json {
				return printJSON(c.OutOrStdout(), list)
			}
			rows := make([][]string, 0, len(list))
			for _, d := range list {
				state := ""
				if d.Replayed {
					state = "replayed"
				}
				rows = append(rows, []string{strconv.FormatUint(d.Sequence, 10), clock(d.At), d.Service, d.Stream, d.Code, state, d.Reason})
			}
			return table(c.OutOrStdout(), []string{"SEQ", "AT", "SERVICE", "STREAM", "CODE", "STATE", "REASON"}, rows)
		},
	}
	c.Flags().Uint64Var(&from, "from", 0, "from this sequence on")
	return c
}

// deadAt finds the dead letter with the sequence in arg.
func deadAt(c *cobra.Command, conn *bus.Conn, arg string) (bus.Dead, error) {
	seq, err := strconv.ParseUint(arg, 10, 64)
	if err != nil {
		return bus.Dead{}, usage("%q is not a sequence number; see 'lanyard dead list'", arg)
	}
	for d, err := range conn.DeadLetters(c.Context(), seq) {
		if err != nil {
			return bus.Dead{}, fmt.Errorf("find dead letter: %w", err)
		}
		if d.Sequence == seq {
			return d, nil
		}
		break
	}
	return bus.Dead{}, fmt.Errorf("find dead letter: there is none with sequence %d; see 'lanyard dead list'", seq)
}

func deadShow(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "show SEQUENCE", Short: "Show one dead letter with its bytes", Args: exactArgs(1, "a sequence number"),
		Example: "  lanyard dead show 3",
		RunE: func(c *cobra.Command, args []string) error {
			conn, err := connectBus(c, o)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }() // the command ends
			d, err := deadAt(c, conn, args[0])
			if err != nil {
				return err
			}
			if o.json {
				return printJSON(c.OutOrStdout(), d)
			}
			w := c.OutOrStdout()
			fmt.Fprintf(w, "sequence  %d\nat        %s\nservice   %s\nfrom      %s %s (sequence %d)\ncode      %s\nreason    %s\nattempts  %d\nreplayed  %v\n\n",
				d.Sequence, clock(d.At), clean(d.Service), clean(d.Stream), clean(d.Subject), d.Original, clean(d.Code), clean(d.Reason), d.Attempts, d.Replayed)
			if utf8.Valid(d.Data) {
				fmt.Fprintln(w, clean(string(d.Data)))
			} else {
				fmt.Fprintf(w, "%q\n", d.Data)
			}
			return nil
		},
	}
}

func deadReplay(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "replay SEQUENCE...", Short: "Put dead letters back where they came from", Args: cobra.MinimumNArgs(1),
		Example: "  lanyard dead replay 3 4",
		RunE: func(c *cobra.Command, args []string) error {
			conn, err := connectBus(c, o)
			if err != nil {
				return err
			}
			defer func() { _ = conn.Close() }() // the command ends
			replayed, before := []string{}, []string{}
			w := c.OutOrStdout()
			if o.json {
				w = io.Discard
			}
			for _, arg := range args {
				d, err := deadAt(c, conn, arg)
				if err != nil {
					return err
				}
				switch err := conn.Replay(c.Context(), d.Sequence); {
				case errors.Is(err, bus.ErrReplayed):
					before = append(before, arg)
					fmt.Fprintf(w, "%d was replayed before; if that was in vain, there is a newer letter: lanyard dead list\n", d.Sequence)
				case err != nil:
					return fmt.Errorf("replay dead letter %d: %w", d.Sequence, err)
				default:
					replayed = append(replayed, arg)
					fmt.Fprintf(w, "replayed %d to %s\n", d.Sequence, clean(d.Subject))
				}
			}
			if o.json {
				return printJSON(c.OutOrStdout(), map[string]any{"replayed": replayed, "replayed_before": before})
			}
			return nil
		},
	}
}
