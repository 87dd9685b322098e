package grant

import (
	"net/http"
	"strings"
)

// registerMetadata serves what a client needs to know: where RFC 8414 section 3.1 puts it
// (before the issuer's path), below the issuer too, and where OpenID Connect Discovery
// section 4 puts it, because that is where the clients that exist look.
func (s *Server) registerMetadata(mux *http.ServeMux, base string) {
	mux.HandleFunc("GET "+base+"/.well-known/oauth-authorization-server", s.metadata)
	mux.HandleFunc("GET "+base+"/.well-known/openid-configuration", s.metadata)
	if base != "" {
		mux.HandleFunc("GET /.well-known/oauth-authorization-server"+base, s.metadata)
	}
}

// metadata is one document for both readers (RFC 8414 section 2 takes its members from
// OpenID Connect Discovery). There are no ID tokens and no people to send somewhere: the
// members of OpenID say only how our tokens are signed and named.
func (s *Server) metadata(w http.ResponseWriter, _ *http.Request) {
	base := strings.TrimSuffix(s.Issuer.String(), "/")
	doc := map[string]any{
		"issuer":                 s.Issuer.String(),
		"token_endpoint":         base + "/oauth2/token",
		"introspection_endpoint": base + "/oauth2/introspect",
		"introspection_endpoint_auth_methods_supported": []string{"Bearer", "DPoP"},
		"revocation_endpoint":                           base + "/oauth2/revoke",
		"revocation_endpoint_auth_methods_supported":    []string{"none"},
		"jwks_uri":                 base + "/.well-known/jwks.json",
		"grant_types_supported":    []string{GrantJWTBearer, GrantExchange, GrantClient},
		"response_types_supported": []string{},
		// "none": the assertion of jwt-bearer and the actor_token prove the workload. The
		// last two are by draft-ietf-oauth-spiffe-client-auth.
		"token_endpoint_auth_methods_supported":            []string{"none", "private_key_jwt", "spiffe_jwt", "spiffe_x509"},
		"token_endpoint_auth_signing_alg_values_supported": []string{"ES256", "EdDSA", "RS256"},
		"dpop_signing_alg_values_supported":                []string{"ES256", "EdDSA"},
		"tls_client_certificate_bound_access_tokens":       s.Certificates,
		"subject_types_supported":                          []string{"public"},
		"id_token_signing_alg_values_supported":            []string{"ES256"},
	}
	if s.Chains { // draft-ietf-oauth-identity-chaining section 2.5
		doc["identity_chaining_requested_token_types_supported"] = []string{TypeJWT}
	}
	writeJSON(w, http.StatusOK, doc)
}
