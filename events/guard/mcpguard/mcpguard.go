// Package mcpguard guards a server of the Model Context Protocol that is written with
// the official SDK (github.com/modelcontextprotocol/go-sdk) and served over streamable
// HTTP: every request needs a token that the guard allows, every tool may need scopes
// of its own, every call of a tool is stated as activity, and a session is closed in
// the middle of a call when the lineage of its token is revoked or frozen.
//
// Products import it:
//
//	s, err := mcpguard.New(mcpguard.Config{Guard: g, Tenant: "acme", Server: "https://mcp.acme.example/mcp",
//		Tool: mcpguard.Scopes(map[string][]string{"read_order": {"orders.read"}}), Emit: publisher.Publish})
//	server.AddReceivingMiddleware(s.Middleware())
//	mux.Handle("/mcp", s.Handler(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil)))
//	mux.Handle(g.ResourceMetadata()) // so that clients find the issuer (RFC 9728)
//	go s.Run(ctx)
package mcpguard

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/modelcontextprotocol/go-sdk/auth"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

// Codes of JSON-RPC errors, in the range that is left to servers (JSON-RPC 2.0 section
// 5.1), away from those that the SDK takes for a closed connection.
const (
	CodeScope = -32083 // the token lacks a scope that the tool needs
	CodeEnded = -32081 // the token's life ended during the call
)

// Config of a Server. Guard, Tenant and Server are required.
type Config struct {
	Guard  *guard.Guard
	Tenant string   // of the server, under which activity is stated
	Server string   // what activity names as destination: the server's URL
	Scopes []string // required of every request
	Class  string   // data class of every request, see guard.Request
	// Tool is the scopes that a tool needs beside Scopes; false: nobody may call it.
	// Without it Scopes are enough for every tool.
	Tool func(name string) (scopes []string, ok bool)
	// Emit delivers activity, such as publish.Publisher's Publish. It is called by Run
	// only. Without it nothing is stated.
	Emit func(ctx context.Context, es ...events.Event) error
	// Lost is told when activity could not be delivered or did not fit the queue.
	Lost func(n int, err error)
	Now  func() time.Time // default time.Now
}

// Scopes is a Config.Tool of a fixed table. Tools that are not in it may be called by
// nobody.
func Scopes(table map[string][]string) func(string) ([]string, bool) {
	return func(name string) ([]string, bool) {
		s, ok := table[name]
		return s, ok
	}
}

// Server is safe for concurrent use.
type Server struct {
	cfg   Config
	queue chan events.Event

	mu       sync.Mutex
	sessions map[*mcp.ServerSession]*session
}

// session is one whose end is tied to the newest token that was used in it.
type session struct {
	credential string
	untie      func()
}

// New checks the configuration.
func New(cfg Config) (*Server, error) {
	switch {
	case cfg.Guard == nil, cfg.Server == "":
		return nil, errors.New("guard MCP server: guard and server are required")
	case !events.ValidTenant(cfg.Tenant):
		return nil, fmt.Errorf("guard MCP server: %w: %q", events.ErrBadTenant, cfg.Tenant)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Lost == nil {
		cfg.Lost = func(int, error) {}
	}
	return &Server{cfg: cfg, queue: make(chan events.Event, queueLength), sessions: map[*mcp.ServerSession]*session{}}, nil
}

// decisionKey is where auth.TokenInfo.Extra holds the guard.Decision.
const decisionKey = "lanyard"

// Handler guards the SDK's HTTP handler. Sessions belong to the identity that began
// them; the SDK refuses others. The handler, and so every tool, sees who calls in
// auth.TokenInfo and never the token itself.
func (s *Server) Handler(h http.Handler) http.Handler {
	// The SDK's middleware is the only way to hand it a verified identity.
	known := auth.RequireBearerToken(func(ctx context.Context, _ string, _ *http.Request) (*auth.TokenInfo, error) {
		d, ok := guard.DecisionFrom(ctx)
		if !ok {
			return nil, auth.ErrInvalidToken
		}
		return &auth.TokenInfo{
			UserID: d.Claims.Tenant + "/" + d.Claims.Subject, Scopes: strings.Fields(d.Claims.Scope),
			Extra: map[string]any{decisionKey: d},
		}, nil
	}, &auth.RequireBearerTokenOptions{AllowMissingExpiration: true})(h) // the guard watches the expiry
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d, err := s.cfg.Guard.Decide(r.Context(), guard.Request{Token: guard.Presented(r), Scopes: s.cfg.Scopes, HTTP: r, Class: s.cfg.Class})
		if denial, denied := errors.AsType[*guard.Denial](err); denied {
			denial.Respond(w)
			return
		}
		blind := r.WithContext(r.Context())
		blind.Header = r.Header.Clone()
		blind.Header.Set("Authorization", "Bearer verified")
		blind.Header.Del("DPoP")
		s.cfg.Guard.Serve(w, blind, d, known)
	})
}

// Middleware is for mcp.Server.AddReceivingMiddleware. It authorises calls of tools,
// hides from a list those that the caller may not call, states them as activity and
// ends the context of whatever runs when the token's life ends. What did not come
// through Handler is refused.
func (s *Server) Middleware() mcp.Middleware {
	return func(next mcp.MethodHandler) mcp.MethodHandler {
		return func(ctx context.Context, method string, req mcp.Request) (mcp.Result, error) {
			d, ok := decisionOf(req)
			if !ok {
				return nil, &jsonrpc.Error{Code: CodeEnded, Message: "the request did not come through the guard"}
			}
			// The session's context carries what its first request carried; only this is current.
			ctx, cancel := s.cfg.Guard.Watch(guard.WithDecision(ctx, d), d)
			defer cancel()
			s.tie(req, d)
			if call, is := req.GetParams().(*mcp.CallToolParamsRaw); is && method == "tools/call" {
				return s.call(ctx, d, call, req, func() (mcp.Result, error) { return next(ctx, method, req) })
			}
			res, err := next(ctx, method, req)
			if list, is := res.(*mcp.ListToolsResult); is && err == nil {
				return s.visible(d, list), nil
			}
			return res, err
		}
	}
}

func decisionOf(req mcp.Request) (guard.Decision, bool) {
	extra := req.GetExtra()
	if extra == nil || extra.TokenInfo == nil {
		return guard.Decision{}, false
	}
	d, ok := extra.TokenInfo.Extra[decisionKey].(guard.Decision)
	return d, ok
}

// lacks is what keeps d from calling a tool, "" when nothing does.
func (s *Server) lacks(d guard.Decision, tool string) string {
	if s.cfg.Tool == nil {
		return ""
	}
	need, ok := s.cfg.Tool(tool)
	if !ok {
		return "no token may call the tool"
	}
	if missing := guard.Lacks(d.Claims.Scope, need); missing != "" {
		return "the tool needs the scope " + missing
	}
	// An answer said on the word of a stale guard is for reading only.
	if d.Stale && !s.cfg.Guard.MayServeStale(s.cfg.Class, need) {
		return "the guard cannot know now whether the token is revoked, which the tool needs"
	}
	return ""
}

func (s *Server) visible(d guard.Decision, list *mcp.ListToolsResult) *mcp.ListToolsResult {
	out := *list
	out.Tools = nil
	for _, t := range list.Tools {
		if s.lacks(d, t.Name) == "" {
			out.Tools = append(out.Tools, t)
		}
	}
	if out.Tools == nil {
		out.Tools = []*mcp.Tool{} // null is no list
	}
	return &out
}

func (s *Server) call(ctx context.Context, d guard.Decision, call *mcp.CallToolParamsRaw, req mcp.Request, run func() (mcp.Result, error)) (mcp.Result, error) {
	if why := s.lacks(d, call.Name); why != "" {
		s.state(d, call, req, events.OutcomeDenied, guard.CodeScope)
		return nil, &jsonrpc.Error{Code: CodeScope, Message: why}
	}
	res, err := run()
	if denial, cut := errors.AsType[*guard.Denial](context.Cause(ctx)); cut {
		s.state(d, call, req, events.OutcomeDenied, denial.Code)
		return nil, &jsonrpc.Error{Code: CodeEnded, Message: denial.Error()}
	}
	outcome, what := events.OutcomeSuccess, ""
	if result, ok := res.(*mcp.CallToolResult); err != nil || ok && result.IsError {
		outcome, what = events.OutcomeError, "tool_error" // its text may hold anything
	}
	s.state(d, call, req, outcome, what)
	return res, err
}

// tie closes a session when the lineage of the newest token used in it is revoked or
// frozen. An expired token closes streams only: the next one goes on.
func (s *Server) tie(req mcp.Request, d guard.Decision) {
	ss, ok := req.GetSession().(*mcp.ServerSession)
	if !ok || ss.ID() == "" {
		return // it ends with its request
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	old, known := s.sessions[ss]
	if known && old.credential == d.Claims.ID {
		return
	}
	ctx, cancel := s.cfg.Guard.Watch(context.Background(), d)
	stop := context.AfterFunc(ctx, func() {
		denial, is := errors.AsType[*guard.Denial](context.Cause(ctx))
		if is && (denial.Code == guard.CodeRevoked || denial.Code == guard.CodeFrozen) {
			_ = ss.Close() // it waits for calls, whose contexts have ended too
		}
	})
	s.sessions[ss] = &session{credential: d.Claims.ID, untie: func() { stop(); cancel() }}
	if known {
		old.untie()
		return
	}
	go func() {
		_ = ss.Wait() // however it ended
		s.mu.Lock()
		defer s.mu.Unlock()
		s.sessions[ss].untie()
		delete(s.sessions, ss)
	}()
}

// name is the text of a header's first product, without its version.
func name(header http.Header) string {
	product, _, _ := strings.Cut(header.Get("User-Agent"), " ")
	product, _, _ = strings.Cut(product, "/")
	return cmp.Or(product[:min(len(product), 64)], "")
}
