package guard

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"

	"github.com/lanyard-nhi/lanyard/events/token"
)

func described(t *testing.T, audience string, r *Resource) (*Guard, error) {
	t.Helper()
	keys := newKeyring(t)
	return New(Config{Point: "orders", Tenant: "acme", Issuer: testIssuer, Audience: audience, Resource: r,
		Keys: token.NewKeySet(keys.issuer.Key()), FeedKey: keys.feedKey, Feed: &memFeed{}})
}

// TestResourceMetadata: a client that is refused follows the challenge to the document and
// from there to the issuer (RFC 9728 sections 3 and 5), whatever path the resource has.
func TestResourceMetadata(t *testing.T) {
	for audience, path := range map[string]string{
		"https://api.example":           "/.well-known/oauth-protected-resource",
		"https://api.example/":          "/.well-known/oauth-protected-resource",
		"https://api.example/orders/v2": "/.well-known/oauth-protected-resource/orders/v2",
		"http://127.0.0.1:8080/orders":  "/.well-known/oauth-protected-resource/orders",
	} {
		g, err := described(t, audience, &Resource{Scopes: []string{"read"}, Name: "Orders"})
		if err != nil {
			t.Fatal(err)
		}
		mux := http.NewServeMux()
		mux.Handle(g.ResourceMetadata())
		mux.Handle("/", g.Middleware("read")(http.NotFoundHandler()))
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", "/x", nil))
		found := regexp.MustCompile(`^Bearer resource_metadata="([^"]+)"$`).FindStringSubmatch(w.Header().Get("WWW-Authenticate"))
		if w.Code != 401 || found == nil {
			t.Fatalf("%s: %d %v", audience, w.Code, w.Header())
		}
		w = httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest("GET", found[1], nil))
		var doc struct {
			Resource string   `json:"resource"`
			Servers  []string `json:"authorization_servers"`
			Scopes   []string `json:"scopes_supported"`
			Methods  []string `json:"bearer_methods_supported"`
		}
		if err := json.Unmarshal(w.Body.Bytes(), &doc); err != nil {
			t.Fatalf("%s: %v: %s", audience, err, w.Body)
		}
		if doc.Resource != audience || len(doc.Servers) != 1 || doc.Servers[0] != testIssuer || len(doc.Scopes) != 1 || doc.Methods[0] != "header" {
			t.Errorf("%s: %+v", audience, doc)
		}
		if got := found[1]; got[len(got)-len(path):] != path {
			t.Errorf("%s: described at %s", audience, got)
		}
	}
}

func TestResourceThatIsNoURL(t *testing.T) {
	for _, audience := range []string{"orders", "http://api.example", "https://api.example/?a=b", "https://u@api.example", "https://api.example/#x", "ftp://api.example"} {
		if _, err := described(t, audience, &Resource{}); err == nil {
			t.Errorf("%s: described", audience)
		}
		if _, err := described(t, audience, nil); err != nil {
			t.Errorf("%s without description: %v", audience, err)
		}
	}
	g, err := described(t, "orders", nil)
	if err != nil {
		t.Fatal(err)
	}
	_, h := g.ResourceMetadata()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", wellKnownResource, nil))
	if w.Code != 404 {
		t.Errorf("a resource without description: %d", w.Code)
	}
}
