package cli

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/spf13/cobra"
)

func taskCommand(o *options) *cobra.Command {
	c := &cobra.Command{Use: "task", Short: "End tasks"}
	c.AddCommand(taskEnd(o))
	return c
}

func taskEnd(o *options) *cobra.Command {
	var reason string
	var wait time.Duration
	c := &cobra.Command{
		Use: "end TENANT/TASK", Short: "End a task, and every credential of it", Args: exactArgs(1, "TENANT/TASK"),
		Long: `Ends a task: nothing is issued for it any more, and the credentials that were are
revoked, those of agents that were delegated to as well. Its id may name another piece of
work a day later. Products do the same by sending the event task.ended to intake, agents by
POST /v1/tasks/TASK/end with the token of the task.`,
		Example: `  lanyard task end acme/ticket-4711 --reason "the customer took the order back"`,
		RunE: func(c *cobra.Command, args []string) error {
			tenant, task, ok := strings.Cut(args[0], "/")
			if !ok || tenant == "" || task == "" {
				return usage("%q is not TENANT/TASK", args[0])
			}
			if reason == "" {
				return usage("say why with --reason")
			}
			e, body, err := taskEnded(tenant, task, reason)
			if err != nil {
				return err
			}
			a, err := openAPI(o)
			if err != nil {
				return err
			}
			resp, err := a.sendRaw(c.Context(), http.MethodPost, a.ends.Intake, "/v1/events", url.Values{"tenant": {tenant}}, events.ContentType, body)
			if err != nil {
				return fmt.Errorf("end task: %w", err)
			}
			defer resp.Body.Close()
			var s sent
			if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&s); err != nil {
				return fmt.Errorf("read answer of intake: %w", err)
			}
			if s.Accepted != 1 {
				return fmt.Errorf("end task: intake did not accept it; see 'lanyard dead list'")
			}
			return a.followTask(c, o, e, tenant+"/"+task, wait)
		},
	}
	c.Flags().StringVar(&reason, "reason", "", "why it ends (required)")
	c.Flags().DurationVar(&wait, "wait", 30*time.Second, "how long to wait until its credentials are dead everywhere")
	return c
}

// taskEnded is the event that a task ended, and its text.
func taskEnded(tenant, task, reason string) (events.Event, []byte, error) {
	e, err := events.New(events.Origin{Source: "/operator/cli", Tenant: tenant, Time: time.Now(), Discriminator: rand.Text()},
		events.TaskEnded{Task: task, Reason: reason, By: "operator"})
	if err == nil {
		err = events.Validate(e)
	}
	if err != nil {
		return e, nil, fmt.Errorf("end task: %w", err)
	}
	text, err := events.Encode(e)
	return e, text, err
}

// followTask waits until the end of a task is in force: the revocation that it leads to
// is closed, or there was nothing to revoke.
func (a *api) followTask(c *cobra.Command, o *options, e events.Event, name string, wait time.Duration) error {
	p, err := events.As[events.TaskEnded](e)
	if err != nil {
		return err
	}
	request, err := events.EndOfTask(e, p, e.Time())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(c.Context(), wait)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	id := events.RevocationOf(request)
	var s revocationState
	for {
		s = revocationState{}
		err := a.call(ctx, http.MethodGet, a.ends.Revocation, "/v1/revocations/"+id, nil, nil, &s)
		if err == nil && s.Code != "confirm_required" {
			break
		}
		if err == nil { // issuance asks again, and confirms
			id = events.RevocationID(events.Tenant(e), events.ConfirmedRequest(events.Tenant(e), id))
			continue
		}
		if answer, ok := errors.AsType[*apiError](err); ctx.Err() == nil && (!ok || answer.Status != http.StatusNotFound) {
			return fmt.Errorf("task %s is ending, but how far it is cannot be read: %w", name, err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return notTrue("the end of task %s is durable but not in force within %s; see 'lanyard revoke list'", name, wait)
		}
	}
	if s.State != "refused" || s.Code != "unknown_target" {
		return a.followRevocation(c, o, s, wait)
	}
	if o.json {
		return printJSON(c.OutOrStdout(), s)
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "task %s has ended; nothing had been issued for it\n", clean(name))
	return err
}
