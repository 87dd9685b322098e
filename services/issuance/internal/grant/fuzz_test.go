package grant

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// FuzzReadRequest: whatever is posted, reading it does not panic, and what is well formed
// is within the bounds that the rest relies on.
func FuzzReadRequest(f *testing.F) {
	f.Add(url.Values{"grant_type": {GrantJWTBearer}, "assertion": {"a.b.c"}, "scope": {"read"}, "authorization_details": {`[{"type":"x"}]`}}.Encode(), "")
	f.Add(url.Values{"grant_type": {GrantClient}, "client_assertion_type": {AssertionJWT}, "client_assertion": {"a.b.c"}, "client_id": {"bot"}}.Encode(), "a.b.c")
	f.Add(url.Values{"grant_type": {GrantExchange}, "subject_token": {"s"}, "subject_token_type": {TypeTransaction}, "requested_token_type": {TypeTransaction},
		"actor_token": {"a"}, "actor_token_type": {TypeJWT}, "scope": {"a"}, "audience": {"d"}}.Encode(), "")
	f.Add("grant_type=%zz", "")
	f.Fuzz(func(t *testing.T, body, proof string) {
		r := httptest.NewRequest(http.MethodPost, "/oauth2/token", strings.NewReader(body))
		r.Header.Set("Content-Type", formType)
		if proof != "" {
			r.Header.Set("DPoP", proof)
		}
		q, e := ReadRequest(r)
		if e != nil {
			return
		}
		proven := q.Proof != "" || q.Client.Assertion != ""
		if !proven || q.DPoP != proof || len(q.Ask.Scope) > maxScopes || len(q.Ask.Audience) > maxTargets || len(q.Task) > maxTextSize {
			t.Fatalf("accepted %+v", q)
		}
		if q.Transaction != nil && (q.Grant != GrantExchange || len(q.Ask.Scope) == 0) {
			t.Fatalf("a transaction of %+v", q)
		}
	})
}
