package intake

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/services/internal/config"
	commonv1 "go.opentelemetry.io/proto/otlp/common/v1"
	tracev1 "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
	grpccodes "google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// toolSpan is a tool call of an agent, the n-th.
func toolSpan(n byte, start time.Time, tool string) *tracev1.Span {
	text := func(k, v string) *commonv1.KeyValue {
		return &commonv1.KeyValue{Key: k, Value: &commonv1.AnyValue{Value: &commonv1.AnyValue_StringValue{StringValue: v}}}
	}
	return &tracev1.Span{TraceId: bytes.Repeat([]byte{7}, 16), SpanId: []byte{1, 2, 3, 4, 5, 6, 7, n}, Name: "execute_tool " + tool, StartTimeUnixNano: uint64(start.UnixNano()),
		Attributes: []*commonv1.KeyValue{text("gen_ai.operation.name", "execute_tool"), text("gen_ai.tool.name", tool), text("gen_ai.agent.id", "orders-agent"),
			text("lanyard.task", "refund"), text("gen_ai.tool.call.arguments", `{"to":"a@b.example","body":"hello"}`)}}
}

func traceOf(spans ...*tracev1.Span) *tracev1.TracesData {
	return &tracev1.TracesData{ResourceSpans: []*tracev1.ResourceSpans{{ScopeSpans: []*tracev1.ScopeSpans{{Spans: spans}}}}}
}

// TestTracesHTTP sends OTLP over HTTP in both encodings.
func TestTracesHTTP(t *testing.T) {
	w := newWorld(t)
	now := time.Now()
	good := traceOf(toolSpan(1, now, "send_mail"), toolSpan(2, now, "send_mail"))
	body, err := proto.Marshal(good)
	if err != nil {
		t.Fatal(err)
	}
	protobuf := map[string]string{"Content-Type": "application/x-protobuf"}
	for range 2 { // an exporter that lost the answer sends again
		if a := w.post("/v1/traces", w.acme(), protobuf, body); a.status != 200 || a.header.Get("Content-Type") != "application/x-protobuf" || len(a.body) != 0 {
			t.Fatalf("answer is %d %q", a.status, a.body)
		}
	}
	stored := w.stored()
	if len(stored) != 2 || stored[0].Type() != events.TypeToolCalled || stored[0].Subject() != "orders-agent" {
		t.Fatalf("stored %v", stored)
	}
	mixed, err := proto.Marshal(traceOf(toolSpan(3, now, "send_mail"), toolSpan(4, now.Add(time.Hour), "send_mail")))
	if err != nil {
		t.Fatal(err)
	}
	if a := w.post("/v1/traces", w.acme(), protobuf, mixed); a.status != 200 || !bytes.Contains(a.body, []byte("1 refused, the first: clock_skew")) {
		t.Errorf("partial success is %d %q", a.status, a.body)
	}
	if a := w.post("/v1/traces", w.acme(), protobuf, body[:len(body)-1]); a.status != 400 || !bytes.Contains(a.body, []byte("malformed_json")) {
		t.Errorf("answer to a cut-off request is %d %q", a.status, a.body)
	}
	example, err := os.ReadFile("adapter/testdata/traces.json")
	if err != nil {
		t.Fatal(err)
	}
	a := w.post("/v1/traces?traces=whole", w.acme(), plainJSON, example)
	if a.status != 200 || !strings.Contains(string(a.body), `"accepted":6`) || !strings.Contains(string(a.body), `"skipped":2`) {
		t.Errorf("answer is %d %s", a.status, a.body)
	}
	if got := w.post("/v1/traces", w.acme(), map[string]string{"Content-Type": "text/plain"}, example); got.status != 415 {
		t.Errorf("answer to text is %d %s", got.status, got.body)
	}
}

// grpcWorld is w behind a server that speaks HTTP/2 in the clear, and a client of it.
func grpcWorld(t *testing.T, w *world) *grpc.ClientConn {
	t.Helper()
	srv := httptest.NewUnstartedServer(w.handler)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(srv.Close)
	conn, err := grpc.NewClient(strings.TrimPrefix(srv.URL, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// TestTracesGRPC exports with a real gRPC client.
func TestTracesGRPC(t *testing.T) {
	w := newWorld(t, func(c *config.Config) { c.Intake.MaxBody = 200_000 })
	conn := grpcWorld(t, w)
	const method = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
	export := func(bearer string, req proto.Message, opts ...grpc.CallOption) (proto.Message, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		out := new(emptypb.Empty) // keeps what it does not know
		err := conn.Invoke(metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+bearer), method, req, out, opts...)
		return out, err
	}
	now := time.Now()
	for name, opts := range map[string][]grpc.CallOption{"plain": nil, "gzip": {grpc.UseCompressor(gzip.Name)}} {
		if out, err := export(w.acme(), traceOf(toolSpan(1, now, "send_mail")), opts...); err != nil || proto.Size(out) != 0 {
			t.Errorf("%s: answer %v, error %v", name, out, err)
		}
	}
	if n := len(w.stored()); n != 1 {
		t.Errorf("%d events are stored, want 1", n)
	}
	out, err := export(w.acme(), traceOf(toolSpan(2, now, "x"), toolSpan(3, time.Unix(1, 0), "x")))
	if err != nil || !bytes.Contains(out.ProtoReflect().GetUnknown(), []byte("implausible_time")) {
		t.Errorf("partial success is %v, error %v", out, err)
	}
	large := toolSpan(4, now, strings.Repeat("x", 300_000))
	for name, tt := range map[string]struct {
		bearer string
		req    proto.Message
		opts   []grpc.CallOption
		code   grpccodes.Code
	}{
		"nobody":        {"", traceOf(), nil, grpccodes.Unauthenticated},
		"other scope":   {w.token("acme", "shop", "other"), traceOf(), nil, grpccodes.PermissionDenied},
		"large":         {w.acme(), traceOf(large), nil, grpccodes.ResourceExhausted},
		"large, packed": {w.acme(), traceOf(large), []grpc.CallOption{grpc.UseCompressor(gzip.Name)}, grpccodes.ResourceExhausted},
	} {
		if _, err := export(tt.bearer, tt.req, tt.opts...); grpcstatus.Code(err) != tt.code {
			t.Errorf("%s: error is %v, want %s", name, err, tt.code)
		}
	}
}
