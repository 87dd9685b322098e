package grpcguard

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/lanyard-nhi/lanyard/events/guard"
	"github.com/lanyard-nhi/lanyard/events/guard/guardtest"
	"github.com/lanyard-nhi/lanyard/events/token"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// service is the health service behind the guard: Check is unary, Watch is a stream.
type service struct {
	healthpb.UnimplementedHealthServer
	begun   chan struct{}
	release chan struct{}
}

func (s *service) Check(ctx context.Context, r *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	if r.Service == "wait" { // it never looks at its context
		s.begun <- struct{}{}
		<-s.release
	}
	c, ok := guard.FromContext(ctx)
	if !ok || c.Subject != "agent-1" {
		return nil, status.Error(codes.Internal, "no claims")
	}
	return &healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}, nil
}

func (s *service) Watch(_ *healthpb.HealthCheckRequest, ss grpc.ServerStreamingServer[healthpb.HealthCheckResponse]) error {
	if err := ss.Send(&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING}); err != nil {
		return err
	}
	select {
	case <-ss.Context().Done():
		return ss.Send(&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_NOT_SERVING})
	case <-s.release:
		return ss.Send(&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_NOT_SERVING})
	}
}

func dial(t *testing.T, w *guardtest.World, table map[string][]string) (healthpb.HealthClient, *service) {
	t.Helper()
	cfg := Config{Guard: w.Guard}
	if table != nil {
		cfg.Method = func(full string) ([]string, bool) { s, ok := table[full]; return s, ok }
	}
	i, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := &service{begun: make(chan struct{}, 4), release: make(chan struct{})}
	srv := grpc.NewServer(grpc.UnaryInterceptor(i.Unary), grpc.StreamInterceptor(i.Stream))
	healthpb.RegisterHealthServer(srv, s)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		srv.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return healthpb.NewHealthClient(conn), s
}

func with(ctx context.Context, raw string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+raw)
}

func TestUnary(t *testing.T) {
	w := guardtest.Start(t)
	client, _ := dial(t, w, map[string][]string{"/grpc.health.v1.Health/Check": {"health.read"}})
	good := w.Token(1, "health.read")
	for name, c := range map[string]struct {
		ctx    context.Context
		code   codes.Code
		reason string
	}{
		"good":      {with(t.Context(), good), codes.OK, ""},
		"no token":  {t.Context(), codes.Unauthenticated, "MISSING_TOKEN"},
		"two":       {with(with(t.Context(), good), good), codes.Unauthenticated, "MISSING_TOKEN"},
		"forged":    {with(t.Context(), good+"x"), codes.Unauthenticated, "INVALID_TOKEN"},
		"no scope":  {with(t.Context(), w.Token(1, "other")), codes.PermissionDenied, "INSUFFICIENT_SCOPE"},
		"bound":     {with(t.Context(), w.Token(1, "health.read", func(c *token.Claims) { c.Confirm = &token.Confirm{JKT: "x"} })), codes.Unauthenticated, "INVALID_TOKEN"},
		"not basic": {metadata.AppendToOutgoingContext(t.Context(), "authorization", "Basic "+good), codes.Unauthenticated, "MISSING_TOKEN"},
	} {
		_, err := client.Check(c.ctx, &healthpb.HealthCheckRequest{})
		if got := status.Convert(err); got.Code() != c.code || reason(got) != c.reason {
			t.Errorf("%s: %v %q", name, err, reason(got))
		}
	}
	w.Revoke(1)
	if _, err := client.Check(with(t.Context(), good), &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("revoked: %v", err)
	}
	// Watch is not in the table: everybody may call it.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	open, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = open.Recv()
	}
	if err != nil {
		t.Errorf("an open method: %v", err)
	}
}

func reason(st *status.Status) string {
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.Domain == Domain {
			return info.Reason
		}
	}
	return ""
}

func TestCut(t *testing.T) {
	w := guardtest.Start(t)
	client, s := dial(t, w, nil)
	raw, other := w.Token(1, ""), w.Token(2, "")
	victim, err := client.Watch(with(t.Context(), raw), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	sibling, err := client.Watch(with(t.Context(), other), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, open := range []grpc.ServerStreamingClient[healthpb.HealthCheckResponse]{victim, sibling} {
		if _, err := open.Recv(); err != nil {
			t.Fatal(err)
		}
	}
	unary := make(chan error, 1)
	go func() {
		_, err := client.Check(with(t.Context(), raw), &healthpb.HealthCheckRequest{Service: "wait"})
		unary <- err
	}()
	<-s.begun
	w.Revoke(1)
	if m, err := victim.Recv(); status.Code(err) != codes.Unauthenticated {
		t.Errorf("the revoked stream: %v, %v", m, err)
	}
	if err := <-unary; status.Code(err) != codes.Unauthenticated {
		t.Errorf("the revoked call: %v", err)
	}
	close(s.release)
	if m, err := sibling.Recv(); err != nil || m.Status != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("the sibling's stream: %v, %v", m, err)
	}
	if _, err := client.Check(with(t.Context(), other), &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("the sibling: %v", err)
	}
}

// TestStale: a guard that is cut off says so with Unavailable, and ends what is open.
func TestStale(t *testing.T) {
	w := guardtest.Start(t, func(c *guard.Config) { c.Lease = 1500e6 })
	client, _ := dial(t, w, nil)
	raw := w.Token(1, "")
	open, err := client.Watch(with(t.Context(), raw), &healthpb.HealthCheckRequest{})
	if err == nil {
		_, err = open.Recv()
	}
	if err != nil {
		t.Fatal(err)
	}
	w.Silence(true)
	if _, err := open.Recv(); status.Code(err) != codes.Unavailable {
		t.Errorf("the stream: %v", err)
	}
	if _, err := client.Check(with(t.Context(), raw), &healthpb.HealthCheckRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("a call: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Config{}); err == nil || errors.Unwrap(err) != nil {
		t.Errorf("without a guard: %v", err)
	}
}
