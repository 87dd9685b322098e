package mcpguard

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

const (
	queueLength = 1024
	batchLength = 100
	maxPlaces   = 16 // destinations named of one call
	maxDepth    = 8  // of arguments that are looked at
	flushTime   = 5 * time.Second
)

// errFull: activity came faster than it could be delivered.
var errFull = errors.New("the queue of activity is full")

// state queues the activity of one call. Arguments are reduced to the origins of the
// URLs in them: no value, path or query of theirs leaves the process.
func (s *Server) state(d guard.Decision, call *mcp.CallToolParamsRaw, req mcp.Request, outcome events.Outcome, what string) {
	if s.cfg.Emit == nil {
		return
	}
	c := d.Claims
	expires := time.Unix(c.Expires, 0).UTC()
	a := events.Activity{
		Identity: c.Subject, Credential: c.ID, CredentialExp: &expires, Scopes: strings.Fields(c.Scope), Task: c.Task,
		Delegation: actors(c.Actor), Tool: call.Name, ToolArgsDest: places(call.Arguments),
		Destination: s.cfg.Server, Action: call.Name, ActionClass: events.ClassExec, Outcome: outcome, Error: what,
	}
	a.DelegationDepth = len(a.Delegation)
	if c.Tenant != s.cfg.Tenant {
		a.IdentityTenant = c.Tenant
	}
	for _, h := range c.Lineage {
		a.Lineage = append(a.Lineage, h.String())
	}
	if id := req.GetSession().ID(); id != "" {
		sum := sha256.Sum256([]byte(id)) // who knows the id can speak in the session
		a.Session = hex.EncodeToString(sum[:8])
	}
	if extra := req.GetExtra(); extra != nil {
		a.UserAgent = name(extra.Header)
	}
	e, err := events.New(events.Origin{Source: "/lanyard/mcpguard/" + url.PathEscape(s.cfg.Server), Tenant: s.cfg.Tenant,
		Time: s.cfg.Now(), ID: rand.Text()}, events.ToolCalled{Activity: a})
	if err != nil {
		s.cfg.Lost(1, err)
		return
	}
	select {
	case s.queue <- e:
	default:
		s.cfg.Lost(1, errFull)
	}
}

func actors(a *token.Actor) (out []events.Party) {
	for ; a != nil; a = a.Actor {
		out = append(out, events.Party{Tenant: a.Tenant, Identity: a.Subject})
	}
	return out
}

// places is the origins (RFC 6454) of the URLs that stand in arguments as whole strings.
func places(arguments json.RawMessage) []string {
	var v any
	if json.Unmarshal(arguments, &v) != nil {
		return nil
	}
	var out []string
	var walk func(v any, depth int)
	walk = func(v any, depth int) {
		if depth > maxDepth || len(out) == maxPlaces {
			return
		}
		switch v := v.(type) {
		case string:
			u, err := url.Parse(v)
			if err != nil || u.Host == "" || u.Scheme == "" {
				return
			}
			if at := strings.ToLower(u.Scheme + "://" + u.Host); !slices.Contains(out, at) {
				out = append(out, at)
			}
		case []any:
			for _, e := range v {
				walk(e, depth+1)
			}
		case map[string]any:
			for _, e := range v {
				walk(e, depth+1)
			}
		}
	}
	walk(v, 0)
	slices.Sort(out)
	return out
}

// Run delivers activity until ctx ends, and then for at most five seconds what is queued.
func (s *Server) Run(ctx context.Context) {
	if s.cfg.Emit == nil {
		return
	}
	for {
		select {
		case <-ctx.Done():
			rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
			defer cancel()
			for len(s.queue) > 0 {
				s.deliver(rest, <-s.queue)
			}
			return
		case e := <-s.queue:
			s.deliver(ctx, e)
		}
	}
}

// deliver sends one event and what waits behind it.
func (s *Server) deliver(ctx context.Context, e events.Event) {
	batch := []events.Event{e}
	for len(batch) < batchLength && len(s.queue) > 0 {
		batch = append(batch, <-s.queue)
	}
	if err := s.cfg.Emit(ctx, batch...); err != nil {
		s.cfg.Lost(len(batch), err)
	}
}
