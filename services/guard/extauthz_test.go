package guard

import (
	"net/http"
	"net/http/httptest"
	"testing"

	authv3 "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"github.com/lanyard-nhi/lanyard/events/lineage"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
)

// http2 serves a handler as processes do, HTTP/2 in the clear beside HTTP/1.
func http2(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.Config.Protocols = new(http.Protocols)
	srv.Config.Protocols.SetHTTP1(true)
	srv.Config.Protocols.SetUnencryptedHTTP2(true)
	srv.Start()
	t.Cleanup(srv.Close)
	return srv
}

func TestEnvoyOverGRPC(t *testing.T) {
	s := newSystem(t)
	s.beat()
	srv := http2(t, s.open().Config.Handler)
	conn, err := grpc.NewClient(host(srv), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	client := authv3.NewAuthorizationClient(conn)
	check := func(extensions map[string]string, headers map[string]string) *authv3.CheckResponse {
		res, err := client.Check(t.Context(), &authv3.CheckRequest{Attributes: &authv3.AttributeContext{
			ContextExtensions: extensions,
			Request: &authv3.AttributeContext_Request{Http: &authv3.AttributeContext_HttpRequest{
				Method: "GET", Path: "/orders/7?x=1", Host: "orders.acme.example", Scheme: "https", Headers: headers}},
		}})
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	with := func(raw string) map[string]string { return map[string]string{"authorization": "Bearer " + raw} }
	raw, sibling := s.token(lineage.Handle{1}), s.token(lineage.Handle{2})
	read := map[string]string{"scope": "orders.read"}
	eventually(t, "a good token is allowed", func() bool { return check(read, with(raw)).Status.Code == int32(codes.OK) })
	ok := check(read, with(raw)).GetOkResponse()
	got := map[string]string{}
	for _, h := range ok.GetHeaders() {
		got[h.Header.Key] = h.Header.Value
	}
	if got["x-lanyard-identity"] != "agent-1" || got["x-lanyard-tenant"] != "acme" || got["x-lanyard-task"] != "task-1" || len(ok.GetHeadersToRemove()) != 2 {
		t.Errorf("allowed with %v", ok)
	}
	for name, c := range map[string]struct {
		res    *authv3.CheckResponse
		code   codes.Code
		status int32
	}{
		"no token":   {check(read, nil), codes.Unauthenticated, 401},
		"two tokens": {check(read, with(raw+",Bearer "+raw)), codes.Unauthenticated, 401},
		"no scope":   {check(map[string]string{"scope": "orders.read orders.write"}, with(raw)), codes.PermissionDenied, 403},
		"bad scope":  {check(map[string]string{"scope": `a"b`}, with(raw)), codes.InvalidArgument, 400},
		"no class":   {check(map[string]string{"class": "none"}, with(raw)), codes.Unavailable, 503},
	} {
		d := c.res.GetDeniedResponse()
		if c.res.Status.Code != int32(c.code) || int32(d.GetStatus().GetCode()) != c.status {
			t.Errorf("%s: %v", name, c.res)
		}
		challenged := false
		for _, h := range d.GetHeaders() {
			challenged = challenged || h.Header.Key == "www-authenticate" && h.Header.Value != ""
		}
		if challenged != (c.status == 401 || c.status == 403) {
			t.Errorf("%s: headers %v", name, d.GetHeaders())
		}
	}
	s.revoke(lineage.Handle{1}, "rev-1")
	eventually(t, "the revoked is refused", func() bool { return check(read, with(raw)).GetDeniedResponse().GetStatus().GetCode() == 401 })
	if res := check(read, with(sibling)); res.Status.Code != int32(codes.OK) {
		t.Errorf("the sibling: %v", res)
	}
}

// TestEnvoyOverHTTP: the caller's method, path and query come after the prefix.
func TestEnvoyOverHTTP(t *testing.T) {
	s := newSystem(t)
	s.beat()
	srv := s.open()
	raw := s.token(lineage.Handle{1})
	ask := func(method, path, scope string) int {
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+"/v1/check"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+raw)
		if scope != "" {
			req.Header.Set(HeaderScope, scope)
		}
		res, err := srv.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		return res.StatusCode
	}
	eventually(t, "allowed", func() bool { return ask("DELETE", "/orders/7?scope=orders.write&class=none", "orders.read") == 200 })
	for name, c := range map[string][2]int{
		"scope":      {ask("GET", "/orders/7?scope=orders.read", "orders.write"), 403},
		"no scope":   {ask("PUT", "/", ""), 200},
		"bad scope":  {ask("PUT", "/", `a"b`), 400},
		"odd path":   {ask("GET", "/%2e%2e/x", "orders.read"), 200},
		"of its own": {ask("GET", "", "orders.write"), 200}, // not under the prefix: the query says what is required
	} {
		if c[0] != c[1] {
			t.Errorf("%s: %d, want %d", name, c[0], c[1])
		}
	}
}
