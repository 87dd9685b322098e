package guard

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/lanyard-nhi/lanyard/events/token"
)

// Resource is what a resource server says of itself, so that a client that was refused
// finds out alone where to get a token and for what (RFC 9728). Its identifier is the
// guard's Audience, which must then be an https URL, or http on loopback, without query
// and fragment.
type Resource struct {
	Scopes        []string // scopes_supported; what Middleware may ask for
	Name          string   // resource_name, for people; optional
	Documentation string   // resource_documentation, a URL; optional
	Details       []string // authorization_details_types_supported (RFC 9396); optional
}

const wellKnownResource = "/.well-known/oauth-protected-resource"

// describe makes the metadata URL and document of a resource (RFC 9728 section 3.1: the
// well-known part stands between host and path).
func (r Resource) describe(issuer, audience string) (at *url.URL, document []byte, err error) {
	u, err := url.Parse(audience)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, nil, errors.New("a described resource needs an Audience that is a URL without user, query and fragment")
	case u.Scheme == "https", u.Scheme == "http" && isLoopback(u.Hostname()):
	default:
		return nil, nil, errors.New("a described resource needs an Audience that is an https URL, or http on loopback")
	}
	document, err = json.Marshal(struct {
		Resource      string   `json:"resource"`
		Servers       []string `json:"authorization_servers"`
		Methods       []string `json:"bearer_methods_supported"`
		Scopes        []string `json:"scopes_supported,omitempty"`
		DPoP          []string `json:"dpop_signing_alg_values_supported"`
		MTLS          bool     `json:"tls_client_certificate_bound_access_tokens"`
		Details       []string `json:"authorization_details_types_supported,omitempty"`
		Name          string   `json:"resource_name,omitempty"`
		Documentation string   `json:"resource_documentation,omitempty"`
	}{audience, []string{issuer}, []string{"header"}, r.Scopes, []string{token.ES256, token.EdDSA}, true, r.Details, r.Name, r.Documentation})
	if err != nil {
		return nil, nil, fmt.Errorf("describe resource: %w", err)
	}
	at = &url.URL{Scheme: u.Scheme, Host: u.Host, Path: wellKnownResource + strings.TrimSuffix(u.Path, "/")}
	return at, document, nil
}

func isLoopback(host string) bool {
	return host == "localhost" || host == "127.0.0.1" || host == "::1"
}

// ResourceMetadata serves the document that challenges name. The pattern is for
// http.ServeMux and must stay outside Middleware: who asks has no token yet. Without
// Config.Resource it answers 404.
func (g *Guard) ResourceMetadata() (pattern string, h http.Handler) {
	if g.metadata == nil {
		return "GET " + wellKnownResource, http.NotFoundHandler()
	}
	return "GET " + g.metadata.Path, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "public, max-age=300")
		_, _ = w.Write(g.document) // a caller that went away needs no answer
	})
}
