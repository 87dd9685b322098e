package otel

import (
	"bytes"
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	json "github.com/go-json-experiment/json"
	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/intake/internal/neutral"
)

// Result is a span after it was decided on.
type Result struct {
	Record neutral.Record
	Raw    []byte
	Err    error
}

// Read reads an ExportTraceServiceRequest (OTLP 1.x) in its protobuf or JSON encoding,
// at most limit spans.
func Read(body []byte, limit int, c neutral.Context) ([]Result, error) {
	decode := protobuf
	if t := bytes.TrimLeft(body, " \t\r\n"); len(t) > 0 && t[0] == '{' {
		decode = fromJSON
	}
	spans, err := decode(body, limit)
	if err != nil {
		return nil, fmt.Errorf("read traces: %w", err)
	}
	b := batch{spans: map[string]*span{}, c: c}
	for i := range spans {
		b.spans[spans[i].trace+"/"+spans[i].id] = &spans[i]
	}
	out := make([]Result, 0, len(spans))
	for i := range spans {
		r, err := b.record(&spans[i])
		if err != nil {
			err = fmt.Errorf("read span %.64q: %w", spans[i].name, err)
		}
		out = append(out, Result{Record: r, Raw: spans[i].raw, Err: err})
	}
	return out, nil
}

type batch struct {
	spans map[string]*span
	c     neutral.Context
}

// Names under which instrumentations write one thing, the GenAI and MCP semantic
// conventions first, then OpenInference's and OpenLLMetry's. Read-only tables.
var (
	identityNames   = []string{"lanyard.identity"}
	agentNames      = []string{"gen_ai.agent.id", "gen_ai.agent.name", "agent.name"}
	taskNames       = []string{"lanyard.task", "gen_ai.workflow.name", "traceloop.workflow.name"}
	credentialNames = []string{"lanyard.jti"}
	toolNames       = []string{"gen_ai.tool.name", "mcp.tool.name", "tool.name"}
	argumentNames   = []string{"gen_ai.tool.call.arguments", "mcp.request.arguments", "input.value", "traceloop.entity.input"}
	modelNames      = []string{"gen_ai.request.model", "gen_ai.response.model"}
	providerNames   = []string{"gen_ai.provider.name", "gen_ai.system"}
	addressNames    = []string{"server.address", "network.peer.address"}
)

// operation is what a span tells.
func (s *span) operation() string {
	switch {
	case s.attrs.Text("gen_ai.operation.name") != "":
		return s.attrs.Text("gen_ai.operation.name")
	case s.attrs.Text("mcp.method.name") == "tools/call",
		s.attrs.Text("openinference.span.kind") == "TOOL", s.attrs.Text("traceloop.span.kind") == "tool":
		return "execute_tool"
	case s.attrs.Text("openinference.span.kind") == "AGENT", s.attrs.Text("traceloop.span.kind") == "agent":
		return "invoke_agent"
	}
	return ""
}

func (b batch) record(s *span) (neutral.Record, error) {
	r := neutral.Record{ID: s.trace + "/" + s.id}
	if s.err != nil {
		return r, s.err
	}
	op := s.operation()
	if op == "" {
		return r, neutral.Skip("the span tells of no agent, tool or model")
	}
	if !hexID.MatchString(s.trace) || !hexID.MatchString(s.id) {
		return r, fmt.Errorf("%w: trace id or span id is missing", events.ErrSchema)
	}
	if s.start == 0 {
		return r, fmt.Errorf("%w: start_time_unix_nano is missing", events.ErrSchema)
	}
	r.Time = time.Unix(0, s.start).UTC()
	if err := neutral.Plausible("start_time_unix_nano", r.Time); err != nil {
		return r, err
	}
	service := s.resource.Text("service.name")
	r.Source = neutral.Source("otel", cmp.Or(service, b.c.Instance))
	r.Activity = b.actor(s)
	r.Destination = s.destination(service)
	r.Outcome, r.Error = s.outcome()
	return b.act(r, s, op)
}

var hexID = regexp.MustCompile(`^[0-9a-f]{16,32}$`)

// act fills what was done.
func (b batch) act(r neutral.Record, s *span, op string) (neutral.Record, error) {
	switch op {
	case "execute_tool":
		tool := cmp.Or(s.attrs.Or(toolNames...), s.attrs.Text("traceloop.entity.name"), strings.TrimPrefix(strings.TrimPrefix(s.name, "execute_tool "), "tools/call "))
		r.Form, r.Tool, r.Action = neutral.ToolCall, tool, "tool:"+tool
		args := b.c.Hash.Reduce(s.arguments())
		r.ToolArgsDest, r.ArgsHash, r.Resource = args.Destinations, args.Hash, args.Object
		return r, nil
	case "invoke_agent", "create_agent":
		agent := s.attrs.Or(agentNames...)
		parent := b.around(s, agentNames...)
		if parent == "" || parent == agent && op == "invoke_agent" {
			return r, neutral.Skip("an agent at work: its calls are told one by one")
		}
		r.Identity, r.Action, r.Target = parent, "agent:"+strings.TrimSuffix(op, "_agent"), agent
		r.Credential, r.Owner = b.own(s, parent, credentialNames...), ""
		r.Delegation, r.DelegationDepth, r.ActionClass = nil, 0, events.ClassExec
		r.Destination = cmp.Or(r.Destination, "agents")
		if op == "create_agent" {
			r.MintedID = agent
		}
		return r, nil
	case "chat", "text_completion", "generate_content", "embeddings":
		r.Action, r.Resource, r.ActionClass = "model:"+op, s.attrs.Or(modelNames...), events.ClassRead
		r.Destination = cmp.Or(s.attrs.Or(addressNames...), s.attrs.Or(providerNames...), r.Destination)
		return r, nil
	}
	return r, neutral.Skip("of gen_ai.operation.name " + neutral.Clip(op, 64) + " nothing follows")
}

// actor fills who acted.
func (b batch) actor(s *span) events.Activity {
	agent := b.near(s, agentNames...)
	a := events.Activity{
		Identity:     cmp.Or(b.own(s, agent, identityNames...), agent, s.resource.Text("service.name"), neutral.Unidentified("otel")),
		IdentityKind: events.KindAgent,
		Task:         b.near(s, taskNames...),
		Credential:   b.own(s, agent, credentialNames...),
		Session:      cmp.Or(b.near(s, "lanyard.run"), b.near(s, "gen_ai.conversation.id"), b.near(s, "mcp.session.id", "session.id"), s.trace),
		UserAgent:    neutral.Family(cmp.Or(s.attrs.Text("user_agent.original"), s.resource.Text("telemetry.distro.name"))),
		Workload:     workload(s.resource),
		Owner:        b.own(s, agent, "lanyard.owner"),
	}
	a.SourceIP, a.SourceService = neutral.From(s.attrs.Text("client.address"))
	last := agent
	b.walk(s, func(p *span) bool {
		if by := p.attrs.Or(agentNames...); by != "" && by != last && p.operation() == "invoke_agent" {
			last = by
			a.Delegation = append(a.Delegation, events.Party{Tenant: b.c.Tenant, Identity: by})
		}
		return true
	})
	a.DelegationDepth = len(a.Delegation)
	return a
}

// workload is where the agent runs, without what changes with every start.
func workload(resource neutral.Doc) string {
	for _, n := range []string{"k8s.deployment.name", "k8s.statefulset.name", "container.name", "faas.name", "service.name"} {
		if v := resource.Text(n); v != "" {
			return n + "=" + v
		}
	}
	return ""
}

// near is the first of names on the span, on the spans around it or on the resource.
func (b batch) near(s *span, names ...string) string {
	return cmp.Or(s.attrs.Or(names...), b.around(s, names...), s.resource.Or(names...))
}

// around is the first of names on the spans around s, nearest first.
func (b batch) around(s *span, names ...string) string {
	found := ""
	b.walk(s, func(p *span) bool {
		found = p.attrs.Or(names...)
		return found == ""
	})
	return found
}

// own is like near, but stops where another agent than agent is at work.
func (b batch) own(s *span, agent string, names ...string) string {
	found := s.attrs.Or(names...)
	if found == "" {
		b.walk(s, func(p *span) bool {
			if by := p.attrs.Or(agentNames...); by != "" && by != agent {
				return false
			}
			found = p.attrs.Or(names...)
			return found == ""
		})
	}
	return cmp.Or(found, s.resource.Or(names...))
}

// walk calls f for the spans around s, nearest first, as long as f wants more. When
// traces may arrive in pieces it calls nothing: who acted must not depend on which
// spans happened to come together.
func (b batch) walk(s *span, f func(*span) bool) {
	if !b.c.WholeTraces {
		return
	}
	for range 64 { // parents may form a circle
		p := b.spans[s.trace+"/"+s.parent]
		if s.parent == "" || p == nil || p == s || !f(p) {
			return
		}
		s = p
	}
}

// arguments are a tool call's arguments as JSON, nil when the span has none.
func (s *span) arguments() []byte {
	for _, n := range argumentNames {
		switch x := s.attrs[n].(type) {
		case nil:
		case string:
			if x != "" {
				return []byte(x)
			}
		default:
			if raw, err := json.Marshal(x, json.Deterministic(true)); err == nil {
				return raw
			}
		}
	}
	return nil
}

// destination is the system that the span reached.
func (s *span) destination(service string) string {
	host := s.attrs.Or(addressNames...)
	if port := s.attrs.Number("server.port"); host != "" && port > 0 && port != 443 && port != 80 {
		host += ":" + strconv.FormatInt(port, 10)
	}
	return cmp.Or(host, s.attrs.Text("peer.service"), s.attrs.Text("mcp.server.name"), service, "tools")
}

// outcome reads the span's status and the conventions' error.type.
func (s *span) outcome() (events.Outcome, string) {
	kind := s.attrs.Text("error.type")
	if s.code != 2 && kind == "" {
		return events.OutcomeSuccess, ""
	}
	kind = cmp.Or(kind, "error")
	low := strings.ToLower(kind)
	switch {
	case neutral.Holds(low, "denied", "forbidden", "unauthor", "permission", "401", "403"):
		return events.OutcomeDenied, kind
	case neutral.Holds(low, "ratelimit", "rate_limit", "throttl", "toomany", "too_many", "429"):
		return events.OutcomeThrottled, kind
	}
	return events.OutcomeError, kind
}
