package mcpguard

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/guard/guardtest"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	"github.com/modelcontextprotocol/go-sdk/mcp"
)

type orderArgs struct {
	Callback string `json:"callback" jsonschema:"where to send it"`
	Secret   string `json:"secret,omitempty"`
}

// rig is an MCP server of the official SDK behind the guard, over real connections.
type rig struct {
	*guardtest.World
	srv     *httptest.Server
	slow    chan string // names the caller of a call that waits
	release chan struct{}

	mu     sync.Mutex
	stated []events.Event
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{World: guardtest.Start(t), slow: make(chan string, 8), release: make(chan struct{})}
	s, err := New(Config{Guard: r.Guard, Tenant: "acme", Server: "https://mcp.acme.example/mcp",
		Tool: Scopes(map[string][]string{"read": {"orders.read"}, "write": {"orders.write"}, "wait": nil}),
		Emit: func(_ context.Context, es ...events.Event) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.stated = append(r.stated, es...)
			return nil
		},
		Lost: func(n int, err error) { t.Errorf("%d lost: %v", n, err) }})
	if err != nil {
		t.Fatal(err)
	}
	server := mcp.NewServer(&mcp.Implementation{Name: "orders", Version: "1"}, nil)
	tool := func(name string, f func(ctx context.Context, req *mcp.CallToolRequest)) {
		mcp.AddTool(server, &mcp.Tool{Name: name, Description: name}, func(ctx context.Context, req *mcp.CallToolRequest, _ orderArgs) (*mcp.CallToolResult, any, error) {
			f(ctx, req)
			return &mcp.CallToolResult{Content: []mcp.Content{&mcp.TextContent{Text: "done"}}}, nil, nil
		})
	}
	tool("read", func(_ context.Context, req *mcp.CallToolRequest) {
		if h := req.Extra.Header.Get("Authorization"); h != "Bearer verified" {
			t.Errorf("the tool sees %q", h)
		}
	})
	tool("write", func(context.Context, *mcp.CallToolRequest) {})
	tool("unlisted", func(context.Context, *mcp.CallToolRequest) { t.Error("a tool that nobody may call was called") })
	tool("wait", func(ctx context.Context, req *mcp.CallToolRequest) {
		r.slow <- req.Extra.TokenInfo.Extra[decisionKey].(guard.Decision).Claims.ID
		select {
		case <-ctx.Done():
		case <-r.release:
		}
	})
	server.AddReceivingMiddleware(s.Middleware())
	r.srv = httptest.NewServer(s.Handler(mcp.NewStreamableHTTPHandler(func(*http.Request) *mcp.Server { return server }, nil)))
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); s.Run(ctx) }()
	t.Cleanup(func() { r.srv.Close(); stop(); <-done })
	return r
}

type bearer struct{ raw func() string }

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Set("Authorization", "Bearer "+b.raw())
	r.Header.Set("User-Agent", "orders-client/1.2 (linux)")
	return http.DefaultTransport.RoundTrip(r)
}

func (r *rig) connect(t *testing.T, raw func() string, retries ...int) *mcp.ClientSession {
	t.Helper()
	c := mcp.NewClient(&mcp.Implementation{Name: "client", Version: "1"}, nil)
	transport := &mcp.StreamableClientTransport{Endpoint: r.srv.URL, HTTPClient: &http.Client{Transport: bearer{raw}}, MaxRetries: -1}
	if len(retries) > 0 {
		transport.MaxRetries = retries[0]
	}
	cs, err := c.Connect(t.Context(), transport, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cs.Close() })
	return cs
}

func call(ctx context.Context, cs *mcp.ClientSession, tool string) error {
	res, err := cs.CallTool(ctx, &mcp.CallToolParams{Name: tool, Arguments: map[string]any{
		"callback": "https://Hooks.example/path?key=s3cret", "secret": "hunter2"}})
	if err == nil && res.IsError {
		return errors.New("the tool failed")
	}
	return err
}

// TestRevokeEndsTheSession: in the middle of a loop of tool calls.
func TestRevokeEndsTheSession(t *testing.T) {
	r := newRig(t)
	raw, other := r.Token(1, "orders.read"), r.Token(2, "orders.read")
	victim := r.connect(t, func() string { return raw })
	sibling := r.connect(t, func() string { return other })
	for range 3 {
		if err := errors.Join(call(t.Context(), victim, "read"), call(t.Context(), sibling, "read")); err != nil {
			t.Fatal(err)
		}
	}
	ended := make(chan error, 2)
	go func() { ended <- call(t.Context(), victim, "wait") }()
	<-r.slow
	waits := make(chan error, 1)
	go func() { waits <- call(t.Context(), sibling, "wait") }()
	<-r.slow
	r.Revoke(1)
	if err := <-ended; err == nil {
		t.Error("the call of the revoked ended well")
	}
	if err := call(t.Context(), victim, "read"); err == nil {
		t.Error("the loop goes on after the revoke")
	}
	closed := make(chan struct{})
	go func() { _ = victim.Wait(); close(closed) }()
	select {
	case <-closed:
	case <-time.After(30 * time.Second):
		t.Error("the client still has its session")
	}
	close(r.release)
	if err := errors.Join(<-waits, call(t.Context(), sibling, "read")); err != nil {
		t.Errorf("the sibling's session: %v", err)
	}
}

// TestSessionOutlivesItsTokens: a new token takes the old one's place, also as what the
// session hangs from; another identity may not use the session.
func TestSessionOutlivesItsTokens(t *testing.T) {
	r := newRig(t)
	var mu sync.Mutex
	raw := r.Token(1, "orders.read")
	set := func(s string) { mu.Lock(); defer mu.Unlock(); raw = s }
	// The stream that the first token opened is cut with it; the client opens another.
	cs := r.connect(t, func() string { mu.Lock(); defer mu.Unlock(); return raw }, 5)
	set(r.Token(2, "orders.read"))
	if err := call(t.Context(), cs, "read"); err != nil {
		t.Fatal(err)
	}
	r.Revoke(1) // the first token's own handle
	if err := call(t.Context(), cs, "read"); err != nil {
		t.Errorf("after the first token died: %v", err)
	}
	set(r.Token(3, "orders.read", func(c *token.Claims) { c.Subject = "agent-2" }))
	if err := call(t.Context(), cs, "read"); err == nil {
		t.Error("another identity uses the session")
	}
}

func TestToolsNeedTheirScopes(t *testing.T) {
	r := newRig(t)
	raw := r.Token(1, "orders.read")
	cs := r.connect(t, func() string { return raw })
	list, err := cs.ListTools(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, tool := range list.Tools {
		names = append(names, tool.Name)
	}
	if !slices.Equal(names, []string{"read", "wait"}) {
		t.Errorf("lists %v", names)
	}
	for _, name := range []string{"write", "unlisted"} {
		var refused *jsonrpc.Error
		if err := call(t.Context(), cs, name); !errors.As(err, &refused) || refused.Code != CodeScope {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := call(t.Context(), cs, "read"); err != nil {
		t.Error(err)
	}
	var got []events.Event
	eventually(t, "three calls are stated", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		got = slices.Clone(r.stated)
		return len(got) == 3
	})
	outcomes := map[string]events.Outcome{}
	for _, e := range got {
		if err := events.Validate(e); err != nil {
			t.Error(err)
		}
		p, err := events.As[events.ToolCalled](e)
		if err != nil {
			t.Fatal(err)
		}
		outcomes[p.Tool] = p.Outcome
		text, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{"hunter2", "s3cret", "/path", cs.ID(), raw} {
			if strings.Contains(string(text), secret) {
				t.Errorf("the event holds %q", secret)
			}
		}
		if p.Identity != "agent-1" || p.Task != "task-1" || len(p.Lineage) != 2 || p.UserAgent != "orders-client" || p.Session == "" ||
			!slices.Equal(p.ToolArgsDest, []string{"https://hooks.example"}) {
			t.Errorf("activity %+v", p)
		}
	}
	if outcomes["write"] != events.OutcomeDenied || outcomes["unlisted"] != events.OutcomeDenied || outcomes["read"] != events.OutcomeSuccess {
		t.Errorf("outcomes %v", outcomes)
	}
}

func TestHandlerRefuses(t *testing.T) {
	r := newRig(t)
	res, err := http.Post(r.srv.URL, "application/json", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"ping"}`))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusUnauthorized || res.Header.Get("WWW-Authenticate") == "" {
		t.Errorf("without a token: %d", res.StatusCode)
	}
	for name, c := range map[string]Config{
		"no guard": {Tenant: "acme", Server: "x"}, "no server": {Guard: r.Guard, Tenant: "acme"}, "bad tenant": {Guard: r.Guard, Server: "x", Tenant: "A.b"},
	} {
		if _, err := New(c); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

// TestMiddlewareWithoutHandler: a transport that the guard has not seen is refused.
func TestMiddlewareWithoutHandler(t *testing.T) {
	r := newRig(t)
	s, err := New(Config{Guard: r.Guard, Tenant: "acme", Server: "x"})
	if err != nil {
		t.Fatal(err)
	}
	server := mcp.NewServer(&mcp.Implementation{Name: "orders", Version: "1"}, nil)
	server.AddReceivingMiddleware(s.Middleware())
	a, b := mcp.NewInMemoryTransports()
	if _, err := server.Connect(t.Context(), a, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := mcp.NewClient(&mcp.Implementation{Name: "client", Version: "1"}, nil).Connect(t.Context(), b, nil); err == nil {
		t.Error("it is served")
	}
}

// eventually polls until ok, at most thirty seconds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not in thirty seconds: %s", what)
		case <-tick.C:
		}
	}
}
