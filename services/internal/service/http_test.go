package service_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/lanyard-nhi/lanyard/events"
	"github.com/lanyard-nhi/lanyard/events/token"
	"github.com/lanyard-nhi/lanyard/services/internal/service"
)

func newListener(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

func TestTenantOf(t *testing.T) {
	operator := token.Claims{Tenant: "lanyard", Scope: "lanyard.operator"}
	almost := token.Claims{Tenant: "acme", Scope: "lanyard.operator"}
	user := token.Claims{Tenant: "acme", Scope: "lanyard.read"}
	for name, tc := range map[string]struct {
		query, one, filter, code string
		claims                   token.Claims
	}{
		"own":                      {"", "acme", "acme", "", user},
		"own, named":               {"?tenant=acme", "acme", "acme", "", user},
		"another's":                {"?tenant=globex", "", "", "wrong_tenant", user},
		"operator":                 {"", "lanyard", "", "", operator},
		"operator for a tenant":    {"?tenant=globex", "globex", "globex", "", operator},
		"operator, bad tenant":     {"?tenant=A.b", "", "", "invalid_tenant", operator},
		"operator scope elsewhere": {"?tenant=globex", "", "", "wrong_tenant", almost},
	} {
		r := httptest.NewRequest(http.MethodGet, "/x"+tc.query, nil)
		one, err1 := service.TenantOf(r, tc.claims)
		filter, err2 := service.TenantFilter(r, tc.claims)
		if one != tc.one || filter != tc.filter {
			t.Errorf("%s: %q and %q, want %q and %q", name, one, filter, tc.one, tc.filter)
		}
		for _, err := range []error{err1, err2} {
			if (err == nil) != (tc.code == "") || err != nil && events.Code(err) != tc.code {
				t.Errorf("%s: error %v, want code %q", name, err, tc.code)
			}
		}
	}
}

func TestAuthorizeWithoutAGuardAdmitsNobody(t *testing.T) {
	h := service.Env{}.Authorize("", http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("admitted") }))
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	if w.Code != http.StatusServiceUnavailable {
		t.Errorf("status %d", w.Code)
	}
	if _, ok := service.Caller(t.Context()); ok {
		t.Error("a caller out of nowhere")
	}
}
