// Package grpcguard guards a gRPC server: every call needs a token that the guard
// allows, in the metadata key authorization as with HTTP, and what the call has open is
// ended when the token's lineage is revoked or frozen, the token expires or the guard
// can no longer know. Products import it:
//
//	i := grpcguard.New(grpcguard.Config{Guard: g, Method: func(method string) (scopes []string, ok bool) { ... }})
//	grpc.NewServer(grpc.UnaryInterceptor(i.Unary), grpc.StreamInterceptor(i.Stream))
package grpcguard

import (
	"context"
	"errors"
	"strings"

	"github.com/lanyard-nhi/lanyard/events/guard"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Domain of the google.rpc.ErrorInfo in refusals.
const Domain = "lanyard.dev"

// Config of an Interceptor. Guard is required.
type Config struct {
	Guard *guard.Guard
	// Method is the scopes that a full method name ("/orders.Orders/Read") needs; false:
	// it is open to everybody, as health checks are. Without it every method needs a
	// valid token and no scope.
	Method func(full string) (scopes []string, guarded bool)
	// Class is the data class of a method, see guard.Request. Optional.
	Class func(full string) string
}

// Interceptor is safe for concurrent use. Tokens that are bound to their sender (DPoP,
// mTLS) are refused: a proof of the first kind names an HTTP request. Handlers run in a goroutine of their
// own, so that a deaf one cannot keep a call open: an interceptor that recovers panics
// must stand behind this one.
type Interceptor struct{ cfg Config }

// New makes an interceptor.
func New(cfg Config) (*Interceptor, error) {
	if cfg.Guard == nil {
		return nil, errors.New("guard gRPC server: guard is required")
	}
	return &Interceptor{cfg}, nil
}

// Unary is a grpc.UnaryServerInterceptor. The handler finds the caller with
// guard.FromContext. Its context ends when the call is cut, and its answer is dropped
// then.
func (i *Interceptor) Unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
	d, guarded, err := i.decide(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	if !guarded {
		return next(ctx, req)
	}
	ctx, cancel := i.cfg.Guard.Watch(guard.WithDecision(ctx, d), d)
	defer cancel()
	type answer struct {
		res any
		err error
	}
	done := make(chan answer, 1)
	go func() {
		res, err := next(ctx, req)
		done <- answer{res, err}
	}()
	select {
	case <-ctx.Done():
	case a := <-done:
		if denial, is := cut(ctx); is {
			return nil, refusal(denial)
		}
		return a.res, a.err
	}
	if denial, is := cut(ctx); is {
		return nil, refusal(denial) // the handler may be deaf
	}
	a := <-done
	return a.res, a.err
}

// Stream is a grpc.StreamServerInterceptor. A cut ends the stream's context, sends and
// receives fail, and the client is told at once, whatever the handler waits for.
func (i *Interceptor) Stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) error {
	d, guarded, err := i.decide(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	if !guarded {
		return next(srv, ss)
	}
	ctx, cancel := i.cfg.Guard.Watch(guard.WithDecision(ss.Context(), d), d)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- next(srv, &stream{ss, ctx}) }()
	select {
	case <-ctx.Done():
	case err := <-done:
		if denial, is := cut(ctx); is {
			return refusal(denial)
		}
		return err
	}
	if denial, is := cut(ctx); is {
		return refusal(denial)
	}
	return <-done
}

// stream is what a handler may use until the cut.
type stream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s *stream) Context() context.Context { return s.ctx }

// SendMsg implements grpc.ServerStream.
func (s *stream) SendMsg(m any) error {
	if denial, is := cut(s.ctx); is {
		return refusal(denial)
	}
	return s.ServerStream.SendMsg(m)
}

// RecvMsg implements grpc.ServerStream. What arrived after the cut is dropped.
func (s *stream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if denial, is := cut(s.ctx); is {
		return refusal(denial)
	}
	return err
}

func cut(ctx context.Context) (*guard.Denial, bool) {
	if ctx.Err() == nil {
		return nil, false
	}
	return errors.AsType[*guard.Denial](context.Cause(ctx))
}

func (i *Interceptor) decide(ctx context.Context, method string) (d guard.Decision, guarded bool, err error) {
	r := guard.Request{}
	if i.cfg.Method != nil {
		if r.Scopes, guarded = i.cfg.Method(method); !guarded {
			return d, false, nil
		}
	}
	if i.cfg.Class != nil {
		r.Class = i.cfg.Class(method)
	}
	r.Token = presented(ctx)
	d, err = i.cfg.Guard.Decide(ctx, r)
	if denial, is := errors.AsType[*guard.Denial](err); is {
		return d, true, refusal(denial)
	}
	return d, true, err
}

// presented is the bearer token of a call, "" when there is none or more than one.
func presented(ctx context.Context) string {
	values := metadata.ValueFromIncomingContext(ctx, "authorization")
	if len(values) != 1 {
		return ""
	}
	scheme, raw, ok := strings.Cut(values[0], " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") {
		return ""
	}
	return raw
}

// refusal is the status of a denial: Unauthenticated, PermissionDenied for a missing
// scope, Unavailable for a guard that cannot know. Its reason says no more than RFC
// 6750 does.
func refusal(d *guard.Denial) error {
	code := codes.Unauthenticated
	switch d.Code {
	case guard.CodeScope:
		code = codes.PermissionDenied
	case guard.CodeStale:
		code = codes.Unavailable
	}
	st := status.New(code, d.Error())
	detailed, err := st.WithDetails(&errdetails.ErrorInfo{Reason: strings.ToUpper(d.Error()), Domain: Domain})
	if err != nil {
		return st.Err()
	}
	return detailed.Err()
}
