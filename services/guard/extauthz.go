package guard

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/lanyard-nhi/lanyard/events/guard"
	rpc "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// Context extensions of Envoy's ext_authz filter by which a route says what it needs
// (CheckSettings.context_extensions). Callers cannot set them.
const (
	extensionScope = "scope" // space delimited
	extensionClass = "class"
)

// extAuthz answers Envoy's ext_authz over gRPC (envoy.service.auth.v3.Authorization).
type extAuthz struct {
	authv3.UnimplementedAuthorizationServer
	*server
}

// overGRPC serves it on the port of the forward-auth server, over HTTP/2.
func (s *server) overGRPC(mux *http.ServeMux) {
	g := grpc.NewServer()
	authv3.RegisterAuthorizationServer(g, extAuthz{server: s})
	mux.Handle("POST "+authv3.Authorization_Check_FullMethodName, g)
}

// Check implements authv3.AuthorizationServer. Every decision is an answer; an error
// would leave it to the filter's failure_mode_allow.
func (a extAuthz) Check(ctx context.Context, in *authv3.CheckRequest) (*authv3.CheckResponse, error) {
	asked := in.GetAttributes().GetRequest().GetHttp()
	meant, ok := envoyRequest(asked)
	scopes := strings.Fields(in.GetAttributes().GetContextExtensions()[extensionScope])
	for _, sc := range scopes {
		ok = ok && scopeToken(sc)
	}
	if !ok {
		return refused(codes.InvalidArgument, http.StatusBadRequest, http.Header{}, ""), nil
	}
	decision, err := a.guard.Decide(ctx, guard.Request{Token: guard.Presented(meant), Scopes: scopes, HTTP: meant,
		Class: in.GetAttributes().GetContextExtensions()[extensionClass]})
	if d, denied := errors.AsType[*guard.Denial](err); denied {
		var out answer
		d.Respond(&out)
		code := codes.Unauthenticated
		switch d.Code {
		case guard.CodeScope:
			code = codes.PermissionDenied
		case guard.CodeStale:
			code = codes.Unavailable
		}
		return refused(code, d.Status(), out.Header(), out.body), nil
	}
	var headers []*core.HeaderValueOption
	for name, value := range a.allowed(decision) {
		headers = append(headers, header(name, value))
	}
	return &authv3.CheckResponse{Status: &rpc.Status{Code: int32(codes.OK)}, HttpResponse: &authv3.CheckResponse_OkResponse{
		OkResponse: &authv3.OkHttpResponse{Headers: headers, HeadersToRemove: []string{"authorization", "dpop"}}}}, nil
}

// answer takes what a denial would answer a caller itself.
type answer struct {
	header http.Header
	body   string
}

// Header implements http.ResponseWriter.
func (a *answer) Header() http.Header {
	if a.header == nil {
		a.header = http.Header{}
	}
	return a.header
}

// WriteHeader implements http.ResponseWriter; the status is the denial's.
func (a *answer) WriteHeader(int) {}

// Write implements http.ResponseWriter.
func (a *answer) Write(b []byte) (int, error) {
	a.body += string(b)
	return len(b), nil
}

// envoyRequest is the request that Envoy asks about. Its header names are in lower case;
// several of one name are joined by a comma, and then they name no token.
func envoyRequest(in *authv3.AttributeContext_HttpRequest) (*http.Request, bool) {
	u, err := url.ParseRequestURI(in.GetPath())
	if err != nil || in.GetMethod() == "" {
		return nil, false
	}
	u.Scheme, u.Host = in.GetScheme(), in.GetHost()
	h := http.Header{}
	for name, value := range in.GetHeaders() {
		h.Set(name, value)
	}
	for _, v := range in.GetHeaderMap().GetHeaders() { // with encode_raw_headers
		value := v.GetValue()
		if value == "" {
			value = string(v.GetRawValue())
		}
		h.Add(v.GetKey(), value)
	}
	return &http.Request{Method: in.GetMethod(), URL: u, Host: u.Host, Header: h}, true
}

func refused(code codes.Code, status int, from http.Header, body string) *authv3.CheckResponse {
	var headers []*core.HeaderValueOption
	for name, values := range from {
		for _, v := range values {
			headers = append(headers, header(name, v))
		}
	}
	return &authv3.CheckResponse{Status: &rpc.Status{Code: int32(code)}, HttpResponse: &authv3.CheckResponse_DeniedResponse{
		DeniedResponse: &authv3.DeniedHttpResponse{Status: &typev3.HttpStatus{Code: typev3.StatusCode(status)}, Headers: headers, Body: body}}}
}

// header replaces what the caller sent under that name.
func header(name, value string) *core.HeaderValueOption {
	return &core.HeaderValueOption{Header: &core.HeaderValue{Key: strings.ToLower(name), Value: value},
		AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD, KeepEmptyValue: true}
}
