package revocation

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/bus"
	"github.com/lanyard-nhi/lanyard/services/internal/killcommand"
	"github.com/lanyard-nhi/lanyard/services/internal/operator"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/accept"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/inbox"
	"github.com/lanyard-nhi/lanyard/services/revocation/internal/ledger"
	"go.uber.org/zap"
)

const (
	commandPatience = 10 * time.Second       // for one command while the bus answers
	readyPatience   = 500 * time.Millisecond // for the bus, before commands are called pending
)

// commands carries out signed kill commands from files. They need neither HTTP nor,
// to be promised, the bus.
type commands struct {
	r   *revoker
	box *inbox.Inbox
}

// openCommands prepares the inbox DATA/revocation/inbox. The operators' public keys
// are read at every look, so a missing file is mended while the process runs.
func openCommands(r *revoker, env service.Env) (*commands, error) {
	dir := filepath.Join(env.Config.Data, "revocation")
	keys := filepath.Join(env.Config.Data, "keys", "operator.jwks.json")
	open := func(raw string) (killcommand.Command, error) {
		b, err := os.ReadFile(keys)
		if err != nil {
			return killcommand.Command{}, fmt.Errorf("operators' public keys cannot be read: %w", err)
		}
		set, err := token.ParseJWKS(b)
		if err != nil {
			return killcommand.Command{}, fmt.Errorf("operators' public keys cannot be read: %w", err)
		}
		return killcommand.Open(raw, set, operator.Issuer, env.Config.Issuer.URL, env.Now())
	}
	box, err := inbox.Open(filepath.Join(dir, "inbox"), filepath.Join(dir, "commands"), open, env.Now)
	return &commands{r, box}, err
}

// look takes what is new and carries out what waits.
func (c *commands) look(ctx context.Context) error {
	took := c.box.Take()
	waiting, err := c.box.Waiting()
	if err != nil || len(waiting) == 0 {
		return errors.Join(took, err)
	}
	soon, cancel := context.WithTimeout(ctx, readyPatience)
	down := c.r.ready(soon)
	cancel()
	for _, w := range waiting {
		if ctx.Err() != nil {
			return took
		}
		if down == nil {
			var res killcommand.Result
			if res, down = c.carryOut(ctx, w); down == nil {
				took = errors.Join(took, c.box.Tell(w, res))
				continue
			}
			c.r.log.Warn("kill command waits", zap.String("command", w.Name), zap.Error(down))
		}
		took = errors.Join(took, c.box.Tell(w, killcommand.Result{State: killcommand.Pending,
			Reason: "it is on the disk of this process and is carried out as soon as the bus answers: " + down.Error()}))
	}
	return took
}

// carryOut hands a command to accept. An error means that it can be tried again.
func (c *commands) carryOut(ctx context.Context, w inbox.Command) (killcommand.Result, error) {
	ctx, cancel := context.WithTimeout(ctx, commandPatience)
	defer cancel()
	refused := func(code string, err error) (killcommand.Result, error) {
		return killcommand.Result{State: killcommand.Refused, Code: code, Reason: err.Error()}, nil
	}
	id, p := w.Request()
	req := accept.Request{Revocation: ID(operator.Tenant, id), Tenant: operator.Tenant, RevocationRequested: p}
	if err := check(req); err != nil {
		return refused("invalid_request", err)
	}
	e, err := events.New(events.Origin{Source: "/lanyard/kill-command", Tenant: operator.Tenant, Time: w.At, ID: id}, p)
	if err == nil {
		err = events.Validate(e)
	}
	if err != nil {
		return refused("invalid_request", err)
	}
	if err := c.r.bus.Publish(ctx, e); err != nil && !errors.Is(err, bus.ErrUnknownOutcome) {
		return killcommand.Result{}, err
	}
	res, err := c.r.accept(ctx, e, req)
	switch {
	case errors.Is(err, errBadRequest), errors.Is(err, errMismatch):
		return refused("invalid_request", err)
	case err != nil:
		return killcommand.Result{}, err
	case res.Pending:
		return killcommand.Result{}, bus.ErrUnknownOutcome
	case res.Status == ledger.StatusRefused && res.Code != accept.CodeAlreadyRevoked:
		return killcommand.Result{State: killcommand.Refused, Code: res.Code, Reason: res.Reason}, nil
	}
	c.r.log.Info("kill command carried out", zap.String("command", w.Name), zap.String("by", w.Subject), zap.String("revocation", res.ID))
	return killcommand.Result{State: killcommand.Accepted, Revocation: res.ID, Code: res.Code, Reason: res.Reason}, nil
}
